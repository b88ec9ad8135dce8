"""require and `class check`: the verdicts that both graders build on, and files of every kind, each in a process of its own."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from explorer.lessons.graders import judging, require, room
from explorer.lessons.graders.judging import NotYet
from explorer.lessons.graders.submission import asked_in, read
from tests.lessons.submissions import ANSWERS, POINTS, RIGHT, ROOT, SAID, hand_in

LESSON = ROOT / "notebooks/lessons/2_top_k_routing.ipynb"


def names_of(**answers: str) -> dict:
    """The names that answers leave."""
    import torch

    names: dict = {"torch": torch}
    for code in (RIGHT | answers).values():
        exec(code, names)
    return names


@pytest.fixture(scope="module")
def graded(tmp_path_factory):
    """Name -> what became of it, for all submissions and files of this module."""
    folder = tmp_path_factory.mktemp("handed-in")
    student = split(json.loads(LESSON.read_text()))
    files = {name: hand_in(student, name, folder / f"{name}.ipynb") for name in ANSWERS}
    for name, text in FILES.items():
        files[name] = folder / name
        files[name].write_text(text)
    return dict(zip(files, room.grade_all(files.values(), seconds=600), strict=True))


WHOLE = "import torch\n\n" + "\n\n\n".join(RIGHT.values()) + "\n"
FILES = {
    "whole.py": WHOLE,
    "crash.py": f"{WHOLE}\nraise RuntimeError('at import')\n",
    "endless.py": f"{WHOLE}\nwhile True:\n    pass\n",
    "exit.py": f"{WHOLE}\nimport os\nos._exit(0)\n",
    "quits.py": f"{WHOLE}\nraise SystemExit(3)\n",
    "half.py": f"import torch\n\n{RIGHT['route']}\n",
    "no-python.py": "def route(logits, k:\n",
    "other.py": "print('hello')\n",
    "broken.ipynb": "{not json",
    "list.ipynb": "[1, 2]",
    "latin.py": "",
    "magic.ipynb": json.dumps({"cells": [{"cell_type": "code", "source": f"%matplotlib inline\n!ls\n{WHOLE}"}]}),
    "picture.png": "",
}


def split(notebook: dict) -> dict:
    """A lesson whose exercises and checks stand in cells of their own, as hand_in fills them."""
    cells = []
    for cell in notebook["cells"]:
        text = "".join(cell["source"])
        start, check = text.find("def "), text.find("explorer.check")
        if cell["cell_type"] == "code" and 0 <= start < check:
            cells += [{**cell, "source": one} for one in (text[:start], text[start:check].strip(), text[check:])]
        else:
            cells.append(cell)
    return {**notebook, "cells": cells}


# -- one exercise ------------------------------------------------------------------------------------------------------
def test_a_right_answer_passes_in_silence():
    assert [require(f"2.{i}", names_of()) for i in (1, 2, 3)] == [None] * 3


def test_a_wrong_answer_fails_with_its_hint_alone():
    with pytest.raises(NotYet, match=r"^2\.1 not yet: A token's weights sum to less than one") as caught:
        require("2.1", names_of(route=ANSWERS["wrong"]["route"]))
    assert caught.value._render_traceback_() == [str(caught.value)]
    assert caught.value.__suppress_context__


def test_a_missing_answer_is_said_to_be_missing():
    with pytest.raises(NotYet, match="There is no function `route`"):
        require("2.1", {})


def test_an_endless_answer_has_less_time_than_when_it_is_written(monkeypatch):
    monkeypatch.setattr(judging, "SHARE", 0.02)
    with pytest.raises(NotYet, match=r"did not end within 0\.1 seconds"):
        require("2.3", names_of(margin=ANSWERS["endless"]["margin"]))


def test_nothing_is_noted_for_whoever_grades(monkeypatch, tmp_path):
    monkeypatch.setenv("GATING_EXPLORER_PROGRESS", str(tmp_path / "class.sqlite"))
    monkeypatch.setenv("JUPYTERHUB_USER", "teacher")
    require("2.1", names_of())
    assert not (tmp_path / "class.sqlite").exists()


# -- many files --------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("name", ANSWERS)
def test_a_notebook_is_judged_exercise_by_exercise(graded, name):
    got = {function: int(result.passed) for function, result in graded[name].results.values()}
    assert got == POINTS[name]
    assert graded[name].passed is (name == "right")


@pytest.mark.parametrize("name", SAID)
def test_the_hint_is_the_same_as_everywhere(graded, name):
    function, words = SAID[name]
    hints = [f"{number} not yet: {one[1].hint}" for number, one in graded[name].results.items() if one[0] == function]
    assert words in hints[0]


@pytest.mark.parametrize(
    "name, note",
    [
        ("crash.py", "the file stopped in line 20, `raise RuntimeError('at import')`: RuntimeError: at import"),
        ("endless.py", "the file did not end within 4 seconds: is there a loop that never stops?"),
        ("quits.py", "the file ends the whole program (exit)"),
        ("exit.py", "its code ended the whole program"),
        ("no-python.py", "the file is not Python in line 1"),
        ("other.py", "no exercise of any lesson is in it"),
        ("latin.py", "no exercise of any lesson is in it"),
        ("broken.ipynb", "it is not a notebook"),
        ("list.ipynb", "it is not a notebook"),
        ("picture.png", "its name must end in .ipynb or .py"),
    ],
)
def test_what_goes_wrong_on_the_way_is_one_sentence(graded, name, note):
    assert len(graded[name].notes) == 1 and graded[name].notes[0].startswith(note)


def test_what_stood_before_a_crash_counts(graded):
    for name in ("whole.py", "crash.py", "endless.py", "quits.py", "magic.ipynb"):
        assert graded[name].passed, name


def test_of_a_half_done_lesson_the_rest_is_missing(graded):
    passed = [result.passed for _, result in graded["half.py"].results.values()]
    assert passed == [True, False, False]


def test_a_process_that_ends_has_passed_nothing(graded):
    assert [result.hint for _, result in graded["exit.py"].results.values()] == ["It was not judged."] * 3
    assert not graded["exit.py"].passed and not graded["other.py"].passed


def test_what_resists_everything_is_ended_and_the_next_is_graded(tmp_path, monkeypatch):
    resisting = tmp_path / "resisting.py"
    # no signal gets through: only the end of the process helps
    resisting.write_text(
        "import signal\nsignal.pthread_sigmask(signal.SIG_BLOCK, {14})\nwhile True:\n    pass\n" + WHOLE
    )
    fine = tmp_path / "fine.py"
    fine.write_text(WHOLE)
    (first,) = room.grade_all([resisting], seconds=10)
    assert first.notes == ["it did not end within 10 seconds, and was ended"] and not first.passed
    (second,) = room.grade_all([fine], seconds=600)
    assert second.passed


def test_what_a_submission_prints_and_writes_stays_inside(tmp_path):
    noisy = tmp_path / "noisy.py"
    noisy.write_text(f"print('noise')\nopen('left.txt', 'w').write('here')\n{WHOLE}")
    code = "from pathlib import Path; from explorer.lessons.graders.room import grade_all\n" + (
        f"if __name__ == '__main__': print([one.passed for one in grade_all([Path({str(noisy)!r})], 600)])"
    )
    program = tmp_path / "program.py"
    program.write_text(code)
    done = subprocess.run(
        [sys.executable, str(program)], cwd=tmp_path, capture_output=True, text=True, env={"PYTHONPATH": str(ROOT)}
    )
    assert done.stdout == "[True]\n", done.stderr
    assert not list(tmp_path.glob("left.txt"))


def test_a_lesson_is_known_by_its_checks_or_by_its_functions(tmp_path):
    path = tmp_path / "mine.py"
    for text, lesson in (('explorer.check("3.1", load)', "3"), ("def keep(a, b, c):\n    pass", "4")):
        path.write_text(text)
        assert list(asked_in(read(path))) == [f"{lesson}.{i}" for i in (1, 2, 3)]


def test_every_lesson_as_it_is_handed_out_is_read(tmp_path):
    for path in sorted(LESSON.parent.glob("*.ipynb")):
        assert list(asked_in(read(path))) == [f"{path.name[0]}.{i}" for i in (1, 2, 3)]


def test_an_unreadable_file_is_a_sentence(tmp_path):
    (one,) = room.grade_all([Path(tmp_path / "nowhere.ipynb")])
    assert one.notes == ["it cannot be read: No such file or directory"]
