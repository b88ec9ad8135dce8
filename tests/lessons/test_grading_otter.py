"""otter itself, without containers: assign, five submissions, the points, and the hints in what it reports."""

import csv
import io
import json
import subprocess
import sys
from pathlib import Path

import pytest

from explorer.lessons import bundle
from tests.lessons.submissions import ANSWERS, POINTS, SAID, grader_environment, hand_in

pytest.importorskip("otter", reason="otter is not installed: pip install otter-grader")
pytestmark = pytest.mark.slow


class Room:
    """The otter folder of a class, with lesson 2 assigned and handed in."""

    def __init__(self, folder: Path) -> None:
        bundle.build(folder / "class")
        self.folder = folder / "class/instructor/otter/lesson2"
        self.environment = grader_environment(folder)
        self.run(sys.executable, "-m", "otter", "assign", "lesson2.ipynb", "dist")
        self.autograder = str(next((self.folder / "dist/autograder").glob("*.zip")))
        student = json.loads((self.folder / "dist/student/lesson2.ipynb").read_text())
        self.files = {name: hand_in(student, name, self.folder / f"handed-in/{name}.ipynb") for name in ANSWERS}
        self.rows = self.grade(*ANSWERS)

    def run(self, *command: str) -> str:
        """What the command prints; it must succeed."""
        done = subprocess.run(command, cwd=self.folder, env=self.environment, capture_output=True, text=True)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    def grade(self, *names: str) -> dict[str, dict[str, str]]:
        """Name -> the row of the bundle's own program."""
        table = self.run(sys.executable, "../grade_all.py", self.autograder, *(str(self.files[name]) for name in names))
        return {Path(row["file"]).stem: row for row in csv.DictReader(io.StringIO(table))}


@pytest.fixture(scope="module")
def room(tmp_path_factory):
    return Room(tmp_path_factory.mktemp("otter"))


def test_otters_own_cells_have_nothing_left_to_import():
    """They stand under the watch too: an import that a busy machine makes slow would be ended, and all points be lost."""
    from explorer.lessons.graders.otter_plugin import STARTUP  # it imports otter

    cells = "from otter import Notebook, logging, test_files\nfrom otter.execute import Checker"
    code = f"{STARTUP}\nimport sys\nhad = set(sys.modules)\n{cells}\nprint(sorted(set(sys.modules) - had))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_students_get_the_starters_and_no_solution(room):
    text = (room.folder / "dist/student/lesson2.ipynb").read_text()
    assert "weights, index = ..." in text and 'grader.check(\\"route\\")' in text
    for secret in ("SOLUTION", "topk(k", "best[:, k - 1] - best"):
        assert secret not in text


@pytest.mark.parametrize("name", ANSWERS)
def test_each_submission_gets_the_points_it_deserves(room, name):
    row = room.rows[name]
    assert (float(row["points"]), float(row["of"])) == (sum(POINTS[name].values()), 3)


@pytest.mark.parametrize("name", SAID)
def test_the_hint_stands_in_the_feedback_and_nothing_of_our_stack(room, name):
    feedback = room.rows[name]["feedback"]
    assert SAID[name][1] in feedback
    assert "Traceback" not in feedback and "explorer/lessons" not in feedback


def test_otter_s_own_command_says_the_same_again(room):
    room.run(sys.executable, "-m", "otter", "run", "-a", room.autograder, "-o", ".", str(room.files["wrong"]))
    tests = json.loads((room.folder / "results.json").read_text())["tests"]
    assert {one["name"]: one["score"] for one in tests if "score" in one} == POINTS["wrong"]
    assert SAID["wrong"][1] in next(one["output"] for one in tests if one["name"] == "route")
