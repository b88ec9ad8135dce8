"""What a student hands in, a notebook or a plain .py file: read it, and run what of it is theirs.

Nothing is imported from a notebook's own environment: magics, and what only shows a lesson, are left out.
"""

import ast
import json
import linecache
import re
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from explorer.errors import BadValue
from explorer.lessons.checking import LONGEST
from explorer.lessons.exercise import Exercise, of_lesson
from explorer.lessons.graders.clock import CELL_SECONDS
from explorer.lessons.limit import TimeUp, limited

ID = re.compile(r"\b(?:check|exercise|require)\(\s*[\"'](\d+\.\d+)[\"']")
DEFINED = re.compile(r"^def (\w+)\(", re.MULTILINE)
MAGIC = re.compile(r"^[ \t]*[%!?].*$", re.MULTILINE)
LARGEST = 20_000_000  # bytes; a notebook with pictures has a few hundred thousand


@dataclass(frozen=True)
class Piece:
    """Code that stands or falls together. label: "cell 7", or "the file"."""

    label: str
    code: str


def read(path: Path) -> list[Piece]:
    """The code cells of a notebook, or a .py file as a whole."""
    try:
        if path.stat().st_size > LARGEST:
            raise BadValue("it is larger than any notebook should be")
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        raise BadValue(f"it cannot be read: {error.strerror or error}") from None
    except UnicodeDecodeError:
        raise BadValue("it is not text") from None
    if path.suffix == ".py":
        return [Piece("the file", text)]
    if path.suffix != ".ipynb":
        raise BadValue("its name must end in .ipynb or .py")
    try:
        cells = json.loads(text)["cells"]
        code = [(i + 1, "".join(one["source"])) for i, one in enumerate(cells) if one["cell_type"] == "code"]
    except (ValueError, TypeError, KeyError, RecursionError):
        raise BadValue("it is not a notebook: is the file damaged, or was it saved as something else?") from None
    return [Piece(f"cell {number}", source) for number, source in code]


def asked_in(pieces: list[Piece]) -> dict[str, Exercise]:
    """The exercises of the lessons that it is about: those it names by id, else those whose functions it defines."""
    text = "\n".join(one.code for one in pieces)
    lessons = {int(one.split(".")[0]) for one in ID.findall(text)}
    known = of_lesson()
    if not lessons:
        defined = set(DEFINED.findall(text))
        found = Counter(one.lesson for one in known.values() if one.name in defined)
        lessons = {number for number, times in found.items() if times == max(found.values())}
    asked = {number: one for number, one in known.items() if one.lesson in lessons}
    if not asked:
        raise BadValue("no exercise of any lesson is in it")
    return asked


def run(pieces: list[Piece], note: Callable[[str], None]) -> dict[str, Any]:
    """The names that the code leaves; a piece that stops leaves what it had until then, and the next one is run.

    note: hears in a sentence what stopped on the way.
    """
    import torch
    import torch.nn.functional as F

    import explorer

    names: dict[str, Any] = {"__name__": "__main__", "torch": torch, "F": F, "explorer": explorer}
    shown: set[str] = set()
    for piece in pieces:
        said = _run(piece, names, shown)
        if said:
            note(said)
    return names


def _run(piece: Piece, names: dict[str, Any], shown: set[str]) -> str:
    """What to say if it stopped; "" if it did not."""
    where = f"<{piece.label}>"
    try:
        tree = _own(ast.parse(MAGIC.sub("pass", piece.code) if _has_magic(piece.code) else piece.code), shown)
        code = compile(tree, where, "exec")
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        line = f" in line {error.lineno}" if isinstance(error, SyntaxError) and error.lineno else ""
        return f"{piece.label} is not Python{line}: {getattr(error, 'msg', '') or error}"
    linecache.cache[where] = (len(piece.code), None, piece.code.splitlines(keepends=True), where)
    try:
        limited(lambda: exec(code, names), CELL_SECONDS)  # noqa: S102  (running it is what this is for)
    except TimeUp:
        return f"{piece.label} did not end within {CELL_SECONDS:g} seconds: is there a loop that never stops?"
    except SystemExit:
        return f"{piece.label} ends the whole program (exit); what follows it is not read"
    except BaseException as error:  # noqa: BLE001  whatever a student's code raises
        return _stopped(piece, error, where)
    return ""


def _stopped(piece: Piece, error: BaseException, where: str) -> str:
    """The line of theirs where it stopped, and why."""
    line, trace = 0, error.__traceback__
    while trace is not None:
        if trace.tb_frame.f_code.co_filename == where:
            line = trace.tb_lineno
        trace = trace.tb_next
    said = (str(error).strip().splitlines() or [""])[0][:LONGEST]
    code = linecache.getline(where, line).strip()[:LONGEST]
    kind = type(error).__name__
    return f"{piece.label} stopped in line {line}, `{code}`: {kind}{f': {said}' if said else ''}"


def _has_magic(code: str) -> bool:
    try:
        ast.parse(code)
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return True
    return False


def _own(tree: ast.Module, shown: set[str]) -> ast.Module:
    """Without what only shows: imports from `widgets` and what uses them, and the checks, which are made here."""
    kept = []
    for node in tree.body:
        if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] in ("widgets", "otter"):
            shown |= {one.asname or one.name for one in node.names}
        elif isinstance(node, ast.Import) and {one.name.split(".")[0] for one in node.names} & {"widgets", "otter"}:
            shown |= {(one.asname or one.name).split(".")[0] for one in node.names}
        elif _is_check(node) or (shown and not _defines(node) and _names(node) & shown):
            shown |= _assigned(node)
        else:
            kept.append(node)
    tree.body = kept
    return tree


def _is_check(node: ast.stmt) -> bool:
    """explorer.check("2.1", route), or check(...)."""
    if not isinstance(node, ast.Expr) or not isinstance(node.value, ast.Call):
        return False
    called = node.value.func
    return (called.attr if isinstance(called, ast.Attribute) else getattr(called, "id", "")) in ("check", "require")


def _defines(node: ast.stmt) -> bool:
    return isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef)


def _names(node: ast.stmt) -> set[str]:
    return {one.id for one in ast.walk(node) if isinstance(one, ast.Name)}


def _assigned(node: ast.stmt) -> set[str]:
    """grader = otter.Notebook(...) makes `grader` something that shows, too."""
    targets = node.targets if isinstance(node, ast.Assign) else []
    return {one.id for one in targets if isinstance(one, ast.Name)}
