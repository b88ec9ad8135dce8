"""require("2.1", globals()): the line in a grader's test that fails with the hint, and with nothing of our stack."""

from collections.abc import Mapping
from typing import Any

from explorer.errors import ExplorerError
from explorer.lessons.checking import Result, judge
from explorer.lessons.exercise import Exercise, find
from explorer.lessons.graders import clock

SHARE = 0.6  # of an exercise's seconds: 3 of 5, where the slowest solution takes 1.3 and the others less than 0.2


class NotYet(ExplorerError):
    """An exercise that has not passed; its message is the hint."""

    def _render_traceback_(self) -> list[str]:
        """What IPython shows of it: the sentence, which is all that its reader needs."""
        return [str(self)]


def require(exercise: str, names: Mapping[str, Any]) -> None:
    """Pass if the exercise's function among `names`, globals() say, does; else raise NotYet with the hint.

    Seeded: the same answer gets the same verdict. Nothing is noted in the class's progress.
    """
    result = verdict(find(exercise), names)
    if not result.passed:
        raise NotYet(f"{result.id} not yet: {result.hint}") from None


def verdict(asked: Exercise, names: Mapping[str, Any]) -> Result:
    """Judge the exercise's function among `names`; that there is none is a verdict too."""
    if asked.name not in names:
        missing = f"There is no function `{asked.name}`: is it missing, or did its cell end with an error?"
        return Result(asked.id, False, missing, 0.0)
    with clock.stopped():
        return judge(asked, names[asked.name], SHARE * asked.seconds)
