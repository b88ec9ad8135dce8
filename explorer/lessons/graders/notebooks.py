"""A lesson's notebook as graders want it: nbgrader's source notebook, and otter's raw assignment.

Both have the tasks as text, every exercise in a cell of its own with its solution marked, and a test that fails with the
exercise's hint. What only shows (runs, predictions, quizzes) stays, and is marked so that neither grader executes it.
"""

import ast
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from explorer.errors import BadValue
from explorer.lessons.exercise import Exercise, of_lesson

Cell = dict[str, Any]
Notebook = dict[str, Any]
CHECK = re.compile(r"^explorer\.check\(\s*[\"'](\d+\.\d+)[\"'].*\)[ \t]*$", re.MULTILINE)
TASK = re.compile(r"^exercise\(\s*[\"'](\d+\.\d+)[\"']\s*\)\s*$")
SHOWN = ["skip-execution", "otter_ignore"]  # tags: nbclient, which nbgrader runs on, skips the one, otter the other
SETUP = "import torch\nimport torch.nn.functional as F\n\nimport explorer"
NOTE = "# Graded here, by the same checks: explorer.check above tells you what is not right yet."
POINTS = 1  # of an exercise


@dataclass(frozen=True)
class Part:
    """A cell of a lesson. exercise: whose code it is, or whose task it shows; code: without imports and check."""

    cell: Cell
    exercise: Exercise | None = None
    code: str | None = None


def source(cell: Cell) -> str:
    """A cell's text, which a file may hold as one string or as lines."""
    held = cell["source"]
    return held if isinstance(held, str) else "".join(held)


def parts(notebook: Notebook, lesson: int) -> list[Part]:
    """What a lesson consists of; every exercise must be there, with a cell for its code."""
    known, found = of_lesson(lesson), list[Part]()
    for cell in notebook["cells"]:
        text = source(cell)
        check, task = CHECK.search(text), TASK.match(text)
        if cell["cell_type"] == "code" and check:
            found.append(Part(cell, known.get(check[1]), _begun(text)))
        else:
            found.append(Part(cell, known.get(task[1]) if task else None))
    missing = set(known) - {one.exercise.id for one in found if one.exercise and one.code is not None}
    if missing:
        raise BadValue(f"lesson {lesson} has no cell for exercise {min(missing)}: it must end with explorer.check(...)")
    return found


def _begun(text: str) -> str:
    """The code to begin with, without what stands in the first cell and the check."""
    lines = CHECK.sub("", text).splitlines()
    for node in ast.parse("\n".join(lines)).body:
        if isinstance(node, ast.Import | ast.ImportFrom):
            for number in range(node.lineno - 1, node.end_lineno or node.lineno):
                lines[number] = ""
    return "\n".join(lines).strip()


def solution_of(module: str, exercise: Exercise) -> str:
    """The function that solves the exercise, out of the text of its lesson's module, with the imports it needs."""
    tree = ast.parse(module)
    functions = {node.name: node for node in tree.body if isinstance(node, ast.FunctionDef)}
    if exercise.name not in functions:
        raise BadValue(f"the solutions of lesson {exercise.lesson} have no function {exercise.name!r}")
    code = ast.get_source_segment(module, functions[exercise.name]) or ""
    imports = [ast.unparse(node) for node in tree.body if isinstance(node, ast.Import | ast.ImportFrom)]
    needed = [line for line in imports if line not in SETUP and re.search(rf"\b{line.split()[-1]}\b", code)]
    return "\n".join([*needed, *([""] * 2 if needed else []), code])


def nbgrader(notebook: Notebook, lesson: int, solutions: str) -> Notebook:
    """The source notebook of nbgrader's assignment."""

    def cells() -> Iterator[Cell]:
        for part in _with_setup(parts(notebook, lesson)):
            exercise = part.exercise
            if part.cell is SETUP_CELL:
                yield _code(SETUP, _nbgrader("setup", locked=True))
            elif exercise is None or part.code is None:
                yield _shown(part)
            else:
                answer = solution_of(solutions, exercise)
                begun = f"{part.code}\n### BEGIN SOLUTION\n\n\n{answer}\n### END SOLUTION"
                yield _code(begun, _nbgrader(f"{exercise.name}", solution=True))
                yield _code(f'explorer.check("{exercise.id}", {exercise.name})', {"tags": SHOWN})
                test = ["### BEGIN HIDDEN TESTS", *_test(exercise, "globals()"), "### END HIDDEN TESTS"]
                graded = _nbgrader(f"{exercise.name}-test", grade=True, locked=True, points=POINTS)
                yield _code("\n".join([NOTE, *test]), graded)

    return _notebook(cells())


def otter(notebook: Notebook, lesson: int, solutions: str) -> Notebook:
    """The notebook that `otter assign` makes the students' and the autograder's versions of."""

    def cells() -> Iterator[Cell]:
        yield _raw(OTTER.format(lesson=lesson))
        tasks: dict[str, Cell] = {}
        for part in _with_setup(parts(notebook, lesson)):
            exercise = part.exercise
            if part.cell is SETUP_CELL:
                yield _code(SETUP)
            elif exercise is not None and part.code is None:
                tasks[exercise.id] = _shown(part)
            elif exercise is None or part.code is None:
                yield _shown(part)
            else:
                answer = solution_of(solutions, exercise)
                yield _raw(f"# BEGIN QUESTION\nname: {exercise.name}\npoints: {POINTS}")
                yield tasks.get(exercise.id) or _markdown(_task(exercise))
                yield _raw("# BEGIN SOLUTION")
                yield _code(f"{part.code}\n# BEGIN SOLUTION NO PROMPT\n\n\n{answer}\n# END SOLUTION")
                yield _raw("# END SOLUTION")
                yield _raw("# BEGIN TESTS")
                body = "\n".join(f"    {line}".rstrip() for line in _test(exercise, "env"))
                yield _code(f"def test_{exercise.name}(env):\n{body}")
                yield _raw("# END TESTS")
                yield _raw("# END QUESTION")

    return _notebook(cells())


OTTER = """# ASSIGNMENT CONFIG
name: lesson{lesson}
init_cell: true
check_all_cell: false
export_cell: false
requirements:
    - gating-explorer
tests:
    ok_format: false
plugins:
    - explorer.lessons.graders.otter_plugin.Limits"""
SETUP_CELL: Cell = {"cell_type": "code", "source": SETUP}


def _with_setup(found: list[Part]) -> Iterator[Part]:
    """The imports in a cell before the first exercise: an answer that crashes must not take the others' imports along."""
    first = next(i for i, part in enumerate(found) if part.exercise is not None)
    yield from found[:first]
    yield Part(SETUP_CELL)
    yield from found[first:]


def _test(exercise: Exercise, names: str) -> list[str]:
    return ["from explorer.lessons.graders import require", "", f'require("{exercise.id}", {names})']


def _task(exercise: Exercise) -> str:
    return f"### Exercise {exercise.id}: {exercise.title}\n\n{exercise.task}"


def _shown(part: Part) -> Cell:
    """Text as it is, the task of an exercise as text, and what only shows marked as such."""
    if part.exercise is not None:
        return _markdown(_task(part.exercise))
    text = source(part.cell)
    return _markdown(text) if part.cell["cell_type"] == "markdown" else _code(text, {"tags": SHOWN})


def _nbgrader(
    name: str, *, grade: bool = False, solution: bool = False, locked: bool = False, points: int | None = None
) -> dict[str, Any]:
    held = {
        "grade": grade,
        "grade_id": name,
        "locked": locked,
        "schema_version": 3,
        "solution": solution,
        "task": False,
    }
    return {"nbgrader": held | ({"points": points} if points is not None else {})}


def _code(text: str, metadata: dict[str, Any] | None = None) -> Cell:
    return {
        "cell_type": "code", "source": text, "metadata": dict(metadata or {}), "outputs": [], "execution_count": None,
    }  # fmt: skip


def _markdown(text: str) -> Cell:
    return {"cell_type": "markdown", "source": text, "metadata": {}}


def _raw(text: str) -> Cell:
    return {"cell_type": "raw", "source": text, "metadata": {}}


def _notebook(cells: Iterator[Cell]) -> Notebook:
    kernel = {"display_name": "Python 3 (ipykernel)", "language": "python", "name": "python3"}
    numbered = [{"id": str(number), **cell} for number, cell in enumerate(cells)]
    return {"cells": numbered, "metadata": {"kernelspec": kernel}, "nbformat": 4, "nbformat_minor": 5}
