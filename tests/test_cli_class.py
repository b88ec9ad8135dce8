"""gating-explorer class: build, check and progress, as one types them."""

import csv
import json
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from explorer import cli
from explorer.cli import classroom
from explorer.lessons.progress import Progress
from tests.lessons.submissions import RIGHT, ROOT
from tests.test_cli import understands_its_examples

Run = Callable[..., tuple[int, str, str]]
RIGHT_FILE = "import torch\n\n" + "\n\n\n".join(RIGHT.values())


@pytest.fixture
def run(capsys, monkeypatch, tmp_path) -> Run:
    """The command line, in this process: (exit code, stdout, stderr)."""
    monkeypatch.setenv("GATING_EXPLORER_PROGRESS", str(tmp_path / "class.sqlite"))
    monkeypatch.chdir(tmp_path)

    def invoke(*arguments: str | Path) -> tuple[int, str, str]:
        code = cli.main(["class", *map(str, arguments)])
        return code, *capsys.readouterr()

    return invoke


@pytest.mark.parametrize("name", ["build", "check", "progress"])
def test_every_command_has_an_example_that_it_understands(name, monkeypatch):
    understands_its_examples(monkeypatch, classroom.app, ["class"], name)


def test_help_answers_without_torch():
    code = (
        "import sys; from explorer.cli import main; main(['class', '--help']); raise SystemExit('torch' in sys.modules)"
    )
    shown = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert shown.returncode == 0 and all(one in shown.stdout for one in ("build", "check", "progress"))


# -- build -------------------------------------------------------------------------------------------------------------
def test_build_says_in_a_sentence_what_it_wrote(run, tmp_path):
    code, said, errors = run("build", "mine")
    assert (code, errors) == (0, "") and len(said.splitlines()) == 1
    assert said.startswith("wrote 8 lessons for students to mine/student, and notes, solutions, nbgrader's and otter's")
    assert (tmp_path / "mine/instructor/README.md").is_file()


def test_build_without_solutions_says_what_is_needed(run, tmp_path, monkeypatch):
    from explorer.lessons import bundle

    monkeypatch.setattr(bundle, "ROOT", tmp_path / "site-packages")
    code, said, _ = run("build", "mine")
    assert code == 0 and len(said.splitlines()) == 1 and "--solutions" in said
    assert not (tmp_path / "mine/instructor").exists()
    assert "and notes, solutions" in run("build", "all", "--solutions", ROOT / "instructor")[1]


def test_build_refuses_in_a_sentence(run, tmp_path):
    (tmp_path / "thesis").mkdir()
    (tmp_path / "thesis/chapter.tex").write_text("mine")
    code, said, errors = run("build", "thesis")
    assert (code, said) == (1, "")
    assert errors == "error: 'thesis' is a folder of something else; name one that does not exist yet\n"


# -- check -------------------------------------------------------------------------------------------------------------
def test_check_prints_a_line_for_each_exercise(run, tmp_path):
    (tmp_path / "right.py").write_text(RIGHT_FILE)
    (tmp_path / "wrong.py").write_text(f"{RIGHT_FILE}\n\nmargin = route\nmargin.left\n")
    code, said, _ = run("check", "right.py")
    assert (code, said) == (0, "".join(f"right.py: 2.{i} {name}: passed\n" for i, name in enumerate(RIGHT, 1)))
    code, said, _ = run("check", "wrong.py", "right.py", "nowhere.ipynb")
    lines = said.splitlines()
    assert code == 1 and len(lines) == 8
    assert lines[0].startswith("wrong.py: the file stopped in line 21, `margin.left`: AttributeError")
    assert lines[3].startswith("wrong.py: 2.3 margin: not yet: ")
    assert lines[7] == "nowhere.ipynb: it cannot be read: No such file or directory"


def test_a_file_cannot_move_the_cursor(run, tmp_path):
    (tmp_path / "evil.py").write_text(f"{RIGHT_FILE}\n\nraise ValueError('\\x1b[2J\\x07')\n")
    said = run("check", "evil.py")[1]
    assert "\x1b" not in said and "\x07" not in said and "ValueError" in said


# -- progress ------------------------------------------------------------------------------------------------------------
def test_progress_of_nobody_is_a_sentence_and_makes_no_file(run, tmp_path):
    code, said, _ = run("progress")
    assert code == 0 and said.startswith("nobody has done anything yet") and str(tmp_path / "class.sqlite") in said
    assert not (tmp_path / "class.sqlite").exists()


def test_progress_counts_by_student_and_says_which_file(run, tmp_path):
    kept = Progress()
    kept.note("bob", 2, "exercise", "2.1", "no", False)
    kept.note("Ada", 2, "prediction", "2.k", "B")
    kept.note("Ada", 2, "prediction", "2.k", "A")
    kept.note("Ada", 2, "exercise", "2.1", "no", False)
    kept.note("Ada", 2, "exercise", "2.1", "passed", True)
    kept.note("Ada", 2, "exercise", "2.2", "no", False)
    kept.note("Ada", 2, "exercise", "2.1", "no", False)
    kept.note("Ada", 2, "quiz", "2.q1", ["x"], True)
    code, said, _ = run("progress")
    rows = [re.split(r"\s{2,}", line.strip()) for line in said.splitlines() if re.match(r" *(Ada|bob) ", line)]
    assert code == 0
    assert rows[0][:4] == ["Ada", "1", "1 of 2 tried", "1 of 1 tried"]
    assert rows[1][:4] == ["bob", "0", "0 of 1 tried", "none tried"]
    assert re.fullmatch(r"\d{4}-\d\d-\d\d \d\d:\d\d", rows[0][4])
    assert f"kept in {tmp_path / 'class.sqlite'}" in said


def test_progress_as_a_table_for_a_spreadsheet(run, tmp_path):
    Progress().note("=cmd()", 2, "quiz", "2.q1", "x", True)
    code, _, errors = run("progress", "--csv", "class.csv")
    with (tmp_path / "class.csv").open(encoding="utf-8-sig", newline="") as file:
        rows = list(csv.DictReader(file))
    assert code == 0 and [row["student"] for row in rows] == ["'=cmd()"]
    assert errors == "saved in class.csv: 1 note\n"
    assert run("progress", "--csv", "no/such/class.csv")[::2][0] == 1


def test_a_file_of_something_else_is_said_to_be_one(run, tmp_path):
    (tmp_path / "class.sqlite").write_text(json.dumps({"not": "a database"}))
    code, said, errors = run("progress")
    assert (code, said) == (1, "") and "no SQLite database" in errors and len(errors.splitlines()) == 1
