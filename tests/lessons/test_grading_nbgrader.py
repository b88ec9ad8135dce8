"""nbgrader itself, by its own commands: the assignment, five submissions, the points, and the hints in the feedback."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from explorer.lessons import bundle
from tests.lessons.submissions import ANSWERS, POINTS, SAID, grader_environment, hand_in

pytest.importorskip("nbgrader", reason="nbgrader is not installed: pip install nbgrader")
pytestmark = pytest.mark.slow


class Course:
    """A course in the folder that `class build` makes."""

    def __init__(self, folder: Path) -> None:
        bundle.build(folder / "class")
        self.folder = folder / "class/instructor/nbgrader"
        self.environment = grader_environment(folder)

    def nbgrader(self, *arguments: str) -> str:
        """What the command says; it must succeed."""
        command = [sys.executable, "-m", "nbgrader", *arguments]
        done = subprocess.run(command, cwd=self.folder, env=self.environment, capture_output=True, text=True)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout + done.stderr

    def points(self) -> dict[str, dict[str, float]]:
        """Student -> function -> points."""
        from nbgrader.api import Gradebook

        with Gradebook(f"sqlite:///{self.folder}/gradebook.db") as book:
            return {
                one.student.id: {
                    grade.cell.name.removesuffix("-test"): grade.auto_score
                    for notebook in one.notebooks
                    for grade in notebook.grades
                }
                for one in book.assignment_submissions("lesson2")
            }

    def feedback(self, name: str) -> str:
        return (self.folder / f"feedback/{name}/lesson2/lesson2.html").read_text()


@pytest.fixture(scope="module")
def course(tmp_path_factory):
    course = Course(tmp_path_factory.mktemp("nbgrader"))
    course.nbgrader("generate_assignment", "lesson2")
    released = json.loads((course.folder / "release/lesson2/lesson2.ipynb").read_text())
    for name in ANSWERS:
        hand_in(released, name, course.folder / f"submitted/{name}/lesson2/lesson2.ipynb")
    course.nbgrader("autograde", "lesson2")
    course.nbgrader("generate_feedback", "lesson2")
    return course


def test_students_get_the_starters_and_neither_solution_nor_test(course):
    text = (course.folder / "release/lesson2/lesson2.ipynb").read_text()
    assert "weights, index = ..." in text and "explorer.check" in text
    for secret in ("SOLUTION", "HIDDEN", "require(", "topk(k", "best[:, k - 1] - best"):
        assert secret not in text


@pytest.mark.parametrize("name", ANSWERS)
def test_each_submission_gets_the_points_it_deserves(course, name):
    assert course.points()[name] == POINTS[name]


@pytest.mark.parametrize("name", SAID)
def test_the_hint_stands_in_the_feedback_and_nothing_of_our_stack(course, name):
    words = SAID[name][1]
    feedback = course.feedback(name)
    assert words.replace("'", "&#39;") in feedback or words in feedback
    assert "NotYet" not in feedback and "explorer/lessons" not in feedback


def test_grading_again_gives_the_same(course):
    before = course.points()["wrong"]
    course.nbgrader("autograde", "lesson2", "--student", "wrong", "--force")
    assert course.points()["wrong"] == before


def test_what_only_shows_is_not_executed(course):
    cells = json.loads((course.folder / "autograded/right/lesson2/lesson2.ipynb").read_text())["cells"]
    shown = [one for one in cells if one["cell_type"] == "code" and "run(" in "".join(one["source"])]
    assert shown and all(one["execution_count"] is None for one in shown)


def test_the_course_is_no_longer_overwritten_once_it_holds_grades(course):
    with pytest.raises(bundle.CannotBuild, match="would be lost"):
        bundle.build(course.folder.parents[1])
    assert os.path.exists(course.folder / "gradebook.db")
