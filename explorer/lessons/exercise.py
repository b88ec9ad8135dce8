"""An exercise: a plain function that a student writes, and the checks that say what is not right yet."""

import ast
import importlib
import pkgutil
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from types import CodeType
from typing import Any

from explorer.errors import ExplorerError, UnknownName, unknown

PACKAGE = "explorer.lessons.exercises"
SAME = ("co_name", "co_varnames", "co_code", "co_names", "co_consts")  # what makes two functions the same code


class Wrong(ExplorerError):
    """What a check raises: the hint, a sentence or two that point at the misconception and not at the solution."""


@dataclass(frozen=True)
class Exercise:
    """What is asked for, and how it is judged.

    id: "2.1", the lesson and the place in it. name: of the function asked for. title: a few words. task: markdown, what to
    write, with shapes. starter: code with `...` where the student goes on. checks: called one after another with the
    student's function; the first that raises gives the hint, so they stand in the order in which one learns. seconds: how
    long all of them together may take.
    """

    id: str
    name: str
    title: str
    task: str
    starter: str
    checks: tuple[Callable[[Callable[..., Any]], None], ...]
    seconds: float = 5.0

    @property
    def lesson(self) -> int:
        """The number of its lesson."""
        return int(self.id.split(".")[0])

    def is_starter(self, function: Any) -> bool:
        """Whether it is the starter's function, untouched: that is no attempt."""
        given = getattr(function, "__code__", None)
        if not isinstance(given, CodeType):
            return False
        try:
            begun = compile(self.starter, "starter", "exec")
        except SyntaxError:
            return False
        own = next((one for one in begun.co_consts if isinstance(one, CodeType) and one.co_name == self.name), None)
        return own is not None and all(getattr(given, name) == getattr(own, name) for name in SAME)

    @cached_property
    def parameters(self) -> tuple[str, ...] | None:
        """The names that the function is called with, in their order, as the starter has them; None if it does not say."""
        try:
            tree = ast.parse(self.starter)
        except SyntaxError:
            return None
        for node in tree.body:
            if isinstance(node, ast.FunctionDef) and node.name == self.name:
                named = [*node.args.posonlyargs, *node.args.args]
                return tuple(one.arg for one in named[: len(named) - len(node.args.defaults)])
        return None

    @property
    def asked(self) -> str:
        """The function as one would call it: `route(logits, k)`."""
        return f"{self.name}({', '.join(self.parameters or ('...',))})"


def of_lesson(lesson: int | None = None) -> dict[str, Exercise]:
    """Id -> exercise, of one lesson or of all, in their order."""
    found: list[Exercise] = []
    for number in _lessons():
        if lesson is None or number == lesson:
            found += importlib.import_module(f"{PACKAGE}.lesson{number}").EXERCISES
    return {one.id: one for one in found}


def find(id: str) -> Exercise:  # noqa: A002  (it is called an id)
    """The exercise of that id; an unknown one is an error that names the nearest."""
    wanted = str(id).strip()
    number = wanted.split(".")[0]
    if number.isdigit() and int(number) in _lessons():
        found = of_lesson(int(number))
        if wanted in found:
            return found[wanted]
    known = of_lesson()
    for one in known.values():
        if wanted == one.name:
            raise UnknownName(f"no exercise {wanted!r}; did you mean {one.id!r}, where {one.name} is asked for?")
    raise unknown("exercise", wanted, known)


def _lessons() -> list[int]:
    """The numbers of the lessons that have exercises."""
    try:
        package = importlib.import_module(PACKAGE)
    except ModuleNotFoundError as error:
        if error.name != PACKAGE:
            raise
        return []
    names = [one.name for one in pkgutil.iter_modules(package.__path__)]
    numbers = [name.removeprefix("lesson") for name in names if name.startswith("lesson")]
    return sorted(int(one) for one in numbers if one.isdigit())
