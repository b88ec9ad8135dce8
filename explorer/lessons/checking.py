"""explorer.check("2.1", route): run an exercise's checks on a student's function, and say in a sentence what is not right.

Grading without a screen is the same: `explorer.lessons.graders.require("2.1", globals())` fails with the hint.
"""

import html
import inspect
import linecache
import random
import re
import sys
import sysconfig
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from types import CodeType, TracebackType
from typing import Any

from explorer.errors import ExplorerError
from explorer.lessons.exercise import Exercise, Wrong, find
from explorer.lessons.limit import TimeUp, limited

OURS = str(Path(__file__).resolve().parents[1])
LIBRARIES = tuple({sysconfig.get_path(name) for name in ("stdlib", "platstdlib", "purelib", "platlib")})
LONGEST = 200  # characters of a foreign error's message
COLOURS = {True: ("#1b7f4d", "✓"), False: ("#b35900", "✗")}


@dataclass(frozen=True)
class Result:
    """What became of a check; as a truth value it is `passed`.

    hint: what to think about next, "" when passed. seconds: how long the checks took. note: what the person should know
    besides, such as that the result could not be stored.
    """

    id: str
    passed: bool
    hint: str
    seconds: float
    note: str = ""

    def __bool__(self) -> bool:
        return self.passed

    def __repr__(self) -> str:
        said = f"{self.id} passed ({self.seconds:.2f} s)" if self.passed else f"{self.id} not yet: {self.hint}"
        return f"{said}\n{self.note}" if self.note else said

    def _repr_html_(self) -> str:
        colour, sign = COLOURS[self.passed]
        said = f"{sign} {self.id} {'passed' if self.passed else 'not yet'}"
        parts = [f"<b>{html.escape(said)}</b>", *(_paragraph(one) for one in (self.hint, self.note) if one)]
        style = f"border-left:4px solid {colour};padding:4px 12px;margin:4px 0;max-width:46em"
        return f'<div role="status" class="ge-result" style="{style}">{"".join(parts)}</div>'


def check(exercise: str | Exercise, function: Any) -> Result:
    """Judge a student's function by the exercise's checks, in their order; the first that fails gives the hint.

    exercise: its id, "2.1", or an Exercise of one's own. Nothing of the run outlasts it: random state, default dtype and
    gradient mode are as before. The result is kept for the class where a student's name is known.
    """
    asked = exercise if isinstance(exercise, Exercise) else find(exercise)
    result = judge(asked, function)
    return result if asked.is_starter(function) else replace(result, note=_keep(asked, result.hint))


def judge(asked: Exercise, function: Any, seconds: float | None = None) -> Result:
    """The same verdict, which nobody keeps: what a grader asks for. seconds: in place of the exercise's own limit."""
    if asked.is_starter(function):
        return Result(asked.id, False, "This is still the code to begin with: go on where its `...` stands.", 0.0)
    began = time.perf_counter()
    hint = _unusable(asked, function) or _judged(asked, function, asked.seconds if seconds is None else seconds)
    return Result(asked.id, not hint, hint, time.perf_counter() - began)


def _unusable(asked: Exercise, function: Any) -> str:
    """Why this cannot be checked at all; "" if it can."""
    if inspect.isclass(function) or not callable(function):
        kind = "a class" if inspect.isclass(function) else f"a value of type {type(function).__name__}"
        return f'Hand over the function itself, as in check("{asked.id}", {asked.name}): this is {kind}.'
    if asked.parameters is None:
        return ""
    try:
        signature = inspect.signature(function)
    except (TypeError, ValueError):  # some built-in functions do not tell
        return ""
    try:
        signature.bind(*asked.parameters)
    except TypeError:
        return f"Asked for is {asked.asked}, and yours is {asked.name}{_plain(signature)}."
    return ""


def _judged(asked: Exercise, function: Callable[..., Any], seconds: float) -> str:
    """The hint of the first check that fails; "" if none does."""

    def work() -> None:
        for one in asked.checks:
            _seed()
            one(function)

    try:
        with _untouched():
            limited(work, seconds)
    except Wrong as wrong:
        return str(wrong)
    except TimeUp:
        return f"It did not end within {seconds:g} seconds: is there a loop that never stops?"
    except SystemExit:
        return f"{asked.name} ends the whole program (exit); let it return its result instead."
    except Exception as error:  # noqa: BLE001  whatever a student's code raises
        return _crash(asked, error)
    return ""


def _crash(asked: Exercise, error: Exception) -> str:
    """A crash in the student's own words: the line of theirs where it happened; nothing of our stack."""
    said = _first_line(error)
    line = _own_line(error.__traceback__, {getattr(one, "__code__", None) for one in asked.checks})
    if line is not None:
        place, source = line
        return f"It stopped in {place}{f', `{source}`' if source else ''}: {said}"
    if "NoneType" in str(error):
        return f"{asked.name} gave back nothing where a result was expected: does it end with `return`? ({said})"
    return f"What {asked.asked} gives back does not have the form that the task asks for ({said})"


def _own_line(trace: TracebackType | None, checks: set[CodeType | None]) -> tuple[str, str] | None:
    """(where, source) of the innermost line that is no check's, not ours and no library's; None if there is none."""
    found = None
    while trace is not None:
        code = trace.tb_frame.f_code
        name = code.co_filename
        if code not in checks and not name.startswith((OURS, "<frozen", *LIBRARIES)):
            of = "" if code.co_name.startswith("<") else f" of `{code.co_name}`"
            found = (f"line {trace.tb_lineno}{of}", linecache.getline(name, trace.tb_lineno).strip()[:LONGEST])
        trace = trace.tb_next
    return found


def _first_line(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    said = lines[0] if lines else ""
    said = said if len(said) <= LONGEST else said[: LONGEST - 1] + "…"
    return f"{type(error).__name__}: {said}" if said else type(error).__name__


def _plain(signature: inspect.Signature) -> str:
    """Its parameters without their annotations and defaults' values."""
    return f"({', '.join(('*' if one.kind is one.VAR_POSITIONAL else '') + one.name for one in signature.parameters.values())})"


def _paragraph(text: str) -> str:
    """Plain text as HTML; what stands between backticks as code."""
    safe = html.escape(text).replace("$", "&#36;")
    coded = re.sub("`([^`]+)`", r"<code>\1</code>", safe)
    return f'<p style="margin:4px 0;white-space:pre-line">{coded}</p>'


def _keep(asked: Exercise, hint: str) -> str:
    """Note the result for the class; what to say if that was not possible."""
    from explorer.lessons import progress

    try:
        progress.note_if_known(asked.lesson, "exercise", asked.id, hint or "passed", not hint)
    except ExplorerError as error:
        return f"This result could not be stored: {error}"
    return ""


def _seed() -> None:
    """The same numbers for every student, even where a check or a candidate draws without a seed."""
    random.seed(0)
    for name, seed in (("numpy", lambda one: one.random.seed(0)), ("torch", lambda one: one.manual_seed(0))):
        if name in sys.modules:
            seed(sys.modules[name])


@contextmanager
def _untouched() -> Iterator[None]:
    """Random numbers, default dtype and gradient mode of whoever called are theirs again afterwards."""
    torch, numpy = sys.modules.get("torch"), sys.modules.get("numpy")
    plain = random.getstate()
    of_numpy = numpy.random.get_state() if numpy else None
    of_torch = (torch.get_rng_state(), torch.get_default_dtype(), torch.is_grad_enabled()) if torch else None
    try:
        yield
    finally:
        random.setstate(plain)
        if numpy:
            numpy.random.set_state(of_numpy)
        if torch and of_torch:
            torch.set_rng_state(of_torch[0])
            torch.set_default_dtype(of_torch[1])
            torch.set_grad_enabled(of_torch[2])
