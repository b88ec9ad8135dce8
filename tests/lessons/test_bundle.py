"""class build: nothing that students must not see, everything that teachers need, whole or not at all."""

import ast
import itertools
import json
import re
import stat

import pytest

from explorer.errors import BadValue
from explorer.lessons import bundle
from explorer.lessons.exercise import of_lesson
from explorer.lessons.graders import notebooks
from tests.lessons.submissions import ROOT

SOLUTIONS = {n: (ROOT / f"instructor/solutions/lesson{n}.py").read_text() for n in range(1, 9)}


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    folder = tmp_path_factory.mktemp("bundle") / "my class"
    assert bundle.build(folder)[:3] == (folder, 8, True)
    return folder


def telling_lines(number: int) -> list[str]:
    """Lines of a lesson's solutions that are more than what everybody would write."""
    lines = [line.strip() for line in SOLUTIONS[number].splitlines()]
    starters = "\n".join(one.starter for one in of_lesson(number).values())
    return [line for line in lines if len(line) > 30 and line not in starters and not line.startswith(("def", '"""'))]


# -- students ----------------------------------------------------------------------------------------------------------
def test_students_get_eight_lessons_with_three_starters_each(built):
    lessons = sorted((built / "student/lessons").glob("*.ipynb"))
    assert [path.name[0] for path in lessons] == list("12345678")
    for path in lessons:
        text = json.loads(path.read_text())
        code = "\n\n".join("".join(one["source"]) for one in text["cells"] if one["cell_type"] == "code")
        for exercise in of_lesson(int(path.name[0])).values():
            assert "".join(exercise.starter.split()) in "".join(code.split())
            assert f'explorer.check("{exercise.id}", {exercise.name})' in code
        assert not any(one.get("outputs") for one in text["cells"])


def test_students_get_no_solution_and_no_key(built):
    files = [path for path in (built / "student").rglob("*") if path.is_file()]
    assert {path.suffix for path in files} == {".ipynb", ".md"}
    everything = "\n".join("\n".join(_texts(path)) for path in files)
    for number in SOLUTIONS:
        told = telling_lines(number)
        assert len(told) >= 2
        assert [line for line in told if line in everything] == []
    assert "SOLUTION" not in everything and '"correct"' not in everything


def _texts(path):
    if path.suffix == ".md":
        return [path.read_text()]
    return ["".join(cell["source"]) for cell in json.loads(path.read_text())["cells"]]


def test_links_of_the_students_pages_lead_somewhere(built):
    for path in (built / "student").rglob("*"):
        if path.suffix in (".ipynb", ".md"):
            for text in _texts(path):
                for link in re.findall(r"\]\((?!https?:)([^)#?\s]+)", text):
                    assert (path.parent / link).exists(), f"{path.name}: {link}"


# -- whoever teaches -----------------------------------------------------------------------------------------------------
def test_the_instructor_s_folder_is_complete(built):
    folder = built / "instructor"
    for n in range(1, 9):
        for name in (f"notes/lesson{n}.md", f"solutions/lesson{n}.py", f"nbgrader/source/lesson{n}/lesson{n}.ipynb",
                     f"otter/lesson{n}/lesson{n}.ipynb"):  # fmt: skip
            assert (folder / name).is_file()
    for name in ("README.md", "misconceptions.py", "nbgrader/nbgrader_config.py", "otter/grade_all.py"):
        assert (folder / name).is_file()
    for name in ("nbgrader/nbgrader_config.py", "otter/grade_all.py"):
        compile((folder / name).read_text(), name, "exec")
    assert not list(folder.rglob("__pycache__"))


@pytest.mark.parametrize("kind", ["nbgrader", "otter"])
def test_a_grader_s_notebook_is_valid_and_its_solutions_pass(built, kind):
    import nbformat

    where = {"nbgrader": "nbgrader/source/lesson{0}/lesson{0}.ipynb", "otter": "otter/lesson{0}/lesson{0}.ipynb"}[kind]
    for n in range(1, 9):
        notebook = nbformat.read(built / "instructor" / where.format(n), as_version=4)
        nbformat.validate(notebook)
        code = [one.source for one in notebook.cells if one.cell_type == "code" and not one.metadata.get("tags")]
        names: dict = {"__name__": "graded"}
        for source in code:
            exec(compile(source, "cell", "exec"), names)
            if kind == "otter" and source.startswith("def test_"):
                names[source.split("(")[0].removeprefix("def ")](names)
        tests = [source for source in code if "require(" in source]
        assert len(tests) == 3


def test_in_nbgrader_every_exercise_is_worth_a_point_in_a_locked_cell(built):
    for n in range(1, 9):
        path = built / f"instructor/nbgrader/source/lesson{n}/lesson{n}.ipynb"
        marks = [
            one["metadata"]["nbgrader"]
            for one in json.loads(path.read_text())["cells"]
            if "nbgrader" in one["metadata"]
        ]
        ids = [one["grade_id"] for one in marks]
        assert len(set(ids)) == len(ids) == 7
        graded = [one for one in marks if one["grade"]]
        assert [one["points"] for one in graded] == [1, 1, 1] and all(one["locked"] for one in graded)
        assert sum(one["solution"] for one in marks) == 3


def test_graders_execute_nothing_that_only_shows(built):
    for path in (built / "instructor").rglob("lesson*.ipynb"):
        for cell in json.loads(path.read_text())["cells"]:
            if cell["cell_type"] == "code" and re.search(
                r"^(begin|predict|run|trace|quiz|look)\(", cell["source"], re.M
            ):
                assert cell["metadata"]["tags"] == notebooks.SHOWN


def test_links_in_graded_notebooks_lead_to_the_class_s_pages(tmp_path):
    folder = bundle.build(tmp_path / "class", pages="http://teacher:8866").folder
    text = (folder / "instructor/otter/lesson2/lesson2.ipynb").read_text()
    assert "](http://teacher:8866/voila/render/labs/routing.ipynb?" in text
    assert "](http://teacher:8866/voila/render/lessons/3_" in text and "](../" not in text


def test_without_a_mark_for_the_code_a_lesson_is_refused():
    notebook = {"cells": [{"cell_type": "code", "source": "exercise('2.1')", "metadata": {}}]}
    with pytest.raises(BadValue, match=r"lesson 2 has no cell for exercise 2\.1"):
        notebooks.nbgrader(notebook, 2, SOLUTIONS[2])


def test_a_solution_takes_along_the_imports_it_needs():
    for n, module in SOLUTIONS.items():
        for exercise in of_lesson(n).values():
            names: dict = {}
            code = notebooks.solution_of(module, exercise)
            exec(f"{notebooks.SETUP}\n{code}", names)
            used = {node.id for node in ast.walk(ast.parse(code)) if isinstance(node, ast.Name)}
            assert {"re", "math"} & used <= set(names)
    with pytest.raises(BadValue, match="have no function 'route'"):
        notebooks.solution_of("x = 1", of_lesson(2)["2.1"])


@pytest.mark.parametrize("number", range(1, 9))
def test_the_notes_have_every_part(number):
    text = (ROOT / f"instructor/notes/lesson{number}.md").read_text()
    parts = re.findall(r"^\*\*([A-Z][a-z ]+)[.*]", text, re.M)
    assert parts == ["Goals", "Needs", "On the screen", "Misconceptions", "Discussion", "Pictures and solutions"]
    times = [(int(a), int(b)) for a, b in re.findall(r"^\| (\d+)-(\d+) \|", text, re.M)]
    assert times[0][0] == 0 and 30 <= times[-1][1] <= 45
    assert all(before[1] == after[0] for before, after in itertools.pairwise(times))
    wrong = text[text.index("**Misconceptions") : text.index("**Discussion")]
    assert wrong.count("\n- ") >= 4
    assert all(f"{number}.{i}" in wrong for i in (1, 2, 3)) and text.count("?") >= 3


def test_the_guide_names_the_lessons_and_commands_that_there_are():
    from typer.main import get_command

    from explorer import cli

    text = (ROOT / "docs/teaching.md").read_text()
    rows = re.findall(r"^\| (\d) [^|]+ \| \d+ \| (.+) \|$", text, re.M)
    assert [number for number, _ in rows] == list("12345678")
    for number, row in rows:
        assert re.findall(r"`(\w+)`", row) == [one.name for one in of_lesson(int(number)).values()]
    commands = get_command(cli.app).commands  # type: ignore[attr-defined]
    for name, rest in re.findall(r"gating-explorer (serve|lab|class)\b ?([a-z]*)", text):
        assert name in commands and (name != "class" or rest in commands["class"].commands)
    for link in re.findall(r"\]\((?!http)([^)#]+)\)", text):
        assert (ROOT / "docs" / link).exists()


# -- whole or not at all -------------------------------------------------------------------------------------------------
def test_it_is_written_anew_over_what_it_wrote(built):
    before = (built / bundle.MARK).read_text()
    assert bundle.build(built).lessons == 8
    assert (built / bundle.MARK).read_text() == before
    assert [one.name for one in built.parent.iterdir()] == [built.name], "nothing half-written stays"


def test_what_somebody_changed_or_added_is_never_lost(tmp_path):
    folder = bundle.build(tmp_path / "class").folder
    note = folder / "instructor/notes/lesson1.md"
    note.write_text("mine")
    with pytest.raises(bundle.CannotBuild, match=r"'instructor/notes/lesson1.md' .* would be lost"):
        bundle.build(folder)
    assert note.read_text() == "mine"


def test_other_folders_and_files_are_refused(tmp_path):
    (tmp_path / "thesis").mkdir()
    (tmp_path / "thesis/chapter.tex").write_text("mine")
    (tmp_path / "file").write_text("mine")
    with pytest.raises(bundle.CannotBuild, match="a folder of something else"):
        bundle.build(tmp_path / "thesis")
    with pytest.raises(bundle.CannotBuild, match="is a file"):
        bundle.build(tmp_path / "file")
    assert sorted(one.name for one in tmp_path.iterdir()) == ["file", "thesis"]
    (tmp_path / "empty").mkdir()
    assert bundle.build(tmp_path / "empty").lessons == 8


def test_an_error_on_the_way_leaves_what_was_there(built, monkeypatch):
    before = (built / bundle.MARK).read_text()
    monkeypatch.setattr(bundle, "_mark", lambda folder: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        bundle.build(built)
    assert (built / bundle.MARK).read_text() == before and [one.name for one in built.parent.iterdir()] == [built.name]


def test_from_an_installed_package_students_get_theirs(tmp_path, monkeypatch):
    monkeypatch.setattr(bundle, "ROOT", tmp_path / "site-packages")
    made = bundle.build(tmp_path / "class")
    assert not made.instructor and made.lessons == 8
    assert sorted(one.name for one in made.folder.iterdir()) == [bundle.MARK, "student"]
    assert bundle.build(tmp_path / "both", ROOT / "instructor").instructor
    with pytest.raises(BadValue, match=r"has no solutions/lesson1\.py"):
        bundle.build(tmp_path / "none", tmp_path)
    assert not (tmp_path / "none").exists()


def test_screens_come_along_if_they_were_made(tmp_path):
    import shutil

    source = tmp_path / "instructor"
    shutil.copytree(ROOT / "instructor", source, ignore=shutil.ignore_patterns("screens"))
    (source / "screens").mkdir()
    (source / "screens/lesson1.png").write_bytes(b"picture")
    made = bundle.build(tmp_path / "class", source)
    assert made.screens == 1 and (made.folder / "instructor/screens/lesson1.png").read_bytes() == b"picture"
    assert "`screens/`: what each lesson looks like" in (made.folder / "instructor/README.md").read_text()


def test_the_folder_can_be_read_by_others_as_any_new_folder(tmp_path):
    (tmp_path / "plain").mkdir()
    folder = bundle.build(tmp_path / "class").folder
    assert stat.S_IMODE(folder.stat().st_mode) == stat.S_IMODE((tmp_path / "plain").stat().st_mode)
