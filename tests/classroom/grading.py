"""How long each grader takes for each kind of submission of lesson 2: points, seconds of the clock and of the processor.

What a grader needs to start, whatever it grades, is a line of its own; a class needs it once.
"""

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from explorer.lessons import bundle
from tests.lessons.submissions import ANSWERS, POINTS, grader_environment, hand_in

MOST = 10.0  # seconds for a submission, beside the start


class Bench:
    """The three graders over the same answers; `rows` are (grader, submission, points, wanted, seconds)."""

    def __init__(self, folder: Path) -> None:
        bundle.build(folder / "class")
        self.folder = folder / "class/instructor"
        self.environment = grader_environment(folder)
        self.rows: list[tuple[str, str, float, float, float]] = []
        self.started: dict[str, float] = {}

    def run(self, folder: Path, *command: str) -> tuple[str, tuple[float, float]]:
        """What Python printed, and the seconds of the clock and of the processor."""
        before, began = resource.getrusage(resource.RUSAGE_CHILDREN), time.monotonic()
        done = subprocess.run(
            [sys.executable, *command], cwd=folder, env=self.environment, capture_output=True, text=True
        )
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        spent = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
        return done.stdout, (time.monotonic() - began, spent)

    def start(self, grader: str, spent: Sequence[float]) -> None:
        self.started[grader] = spent[0]
        print(f"{grader:12} {'(its start)':13} {'':19} {spent[0]:7.1f} s {spent[1]:7.1f} s", flush=True)

    def add(self, grader: str, name: str, points: float, spent: Sequence[float]) -> None:
        wanted = float(sum(POINTS[name].values()))
        self.rows.append((grader, name, points, wanted, spent[0]))
        said = f"{points:g} of 3 (wanted {wanted:g})"
        print(f"{grader:12} {name:13} {said:19} {spent[0]:7.1f} s {spent[1]:7.1f} s", flush=True)

    def nbgrader(self) -> None:
        """One command for each submission, though one does for a class."""
        folder = self.folder / "nbgrader"
        self.run(folder, "-m", "nbgrader", "generate_assignment", "lesson2")
        released = json.loads((folder / "release/lesson2/lesson2.ipynb").read_text())
        for name in ANSWERS:
            hand_in(released, name, folder / f"submitted/{name}/lesson2/lesson2.ipynb")
        self.start("nbgrader", self.run(folder, "-m", "nbgrader", "autograde", "--help")[1])
        for name in ANSWERS:
            _, spent = self.run(folder, "-m", "nbgrader", "autograde", "lesson2", "--student", name)
            self.add("nbgrader", name, self._points(folder / "gradebook.db", name), spent)

    def _points(self, book: Path, name: str) -> float:
        from nbgrader.api import Gradebook

        with Gradebook(f"sqlite:///{book}") as held:
            return float(held.find_submission("lesson2", name).score)

    def otter(self) -> None:
        """The bundle's program for each submission, though one call does for a class, and otter's own command."""
        folder = self.folder / "otter/lesson2"
        self.run(folder, "-m", "otter", "assign", "lesson2.ipynb", "dist")
        autograder = str(next((folder / "dist/autograder").glob("*.zip")))
        student = json.loads((folder / "dist/student/lesson2.ipynb").read_text())
        self.start("otter", self.run(folder, "../grade_all.py", autograder)[1])
        for name in ANSWERS:
            path = str(hand_in(student, name, folder / f"handed-in/{name}.ipynb"))
            said, spent = self.run(folder, "../grade_all.py", autograder, path)
            self.add("otter", name, float(said.splitlines()[-1].split(",")[1]), spent)
        self.start("otter run", self.run(folder, "-m", "otter", "--version")[1])
        _, spent = self.run(folder, "-m", "otter", "run", "-a", autograder, "-o", ".", "handed-in/right.ipynb")
        points = sum(one.get("score", 0) for one in json.loads((folder / "results.json").read_text())["tests"])
        self.add("otter run", "right", points, spent)

    def check(self) -> None:
        """Ours, all in one command."""
        folder = self.folder / "otter/lesson2/handed-in"
        self.start("class check", self.run(folder, "-m", "explorer", "class", "check", "nowhere.py")[1])
        for name in ANSWERS:
            said, spent = self.run(folder, "-m", "explorer", "class", "check", f"{name}.ipynb")
            passed = [line for line in said.splitlines() if ": 2." in line and line.endswith(": passed")]
            self.add("class check", name, len(passed), spent)


def main(arguments: list[str]) -> int:
    """Print the table; 1 if a submission got other points than it deserves, or took longer than 10 seconds."""
    argparse.ArgumentParser(prog="python -m tests.classroom grading", description=__doc__).parse_args(arguments)
    os.environ["OMP_NUM_THREADS"] = "1"
    print(f"{'grader':12} {'submission':13} {'points':19} {'clock':>9} {'processor':>9}")
    with tempfile.TemporaryDirectory() as folder:
        bench = Bench(Path(folder))
        bench.nbgrader()
        bench.otter()
        bench.check()
    wrong = [row[:2] for row in bench.rows if row[2] != row[3]]
    slow = [row[:2] for row in bench.rows if row[4] - bench.started.get(row[0], 0.0) > MOST]
    print(f"points other than deserved: {wrong or 'none'}\nlonger than {MOST:g} s beside the start: {slow or 'none'}")
    return int(bool(wrong or slow))
