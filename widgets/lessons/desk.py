"""What the parts of a lesson's page share: who is here, what was predicted, and what came."""

import asyncio
import contextlib
import os
from typing import Any

import traitlets as t

from explorer.errors import BadValue, ExplorerError
from explorer.lessons import progress

SWITCH = "GATING_EXPLORER_LESSON_STEPS"  # the one place: at most so many steps a run, for tests
PATIENCE = 15.0  # seconds that a page may take to say that it is seen


class Desk(t.HasTraits):
    """One student's lesson.

    predictions: item -> what was predicted; outcomes: item -> what the run then gave; traces: item -> two models that were
    traced, beside each other; here: whether the page says that it is seen.
    """

    student = t.Unicode()
    predictions = t.Dict()
    outcomes = t.Dict()
    traces = t.Dict()
    here = t.Bool(False)

    def __init__(self) -> None:
        super().__init__(student=progress.student())

    @property
    def named_by_server(self) -> bool:
        """Whether the class's server says who is here, so that the page need not ask."""
        return bool(os.environ.get("GATING_EXPLORER_STUDENT") or os.environ.get("JUPYTERHUB_USER"))

    def introduce(self, name: str) -> str:
        """Take the name typed on the page; returns what to say."""
        if self.named_by_server:
            return f"This server knows you as {self.student}."
        self.student = progress.introduce(name)
        return f"Hello {self.student}. What you do is kept under this name." if self.student else NOBODY

    def keep(self, lesson: int, kind: str, item: str, value: Any, correct: bool | None = None) -> str:
        """Note it for the class if a name is known; returns what to add to what the page says."""
        try:
            known = progress.note_if_known(lesson, kind, item, value, correct)
        except ExplorerError as error:
            # where the file lies is the teacher's business
            said = str(error).replace(str(progress.default_path().parent) + os.sep, "")
            return f"It could not be stored and is kept on this page only: {said}."
        return "" if known else "It is kept on this page only, as no name is given."

    def predict(self, item: str, value: Any) -> str:
        """Store a prediction, and only then let the run that waits for it begin."""
        said = self.keep(lesson_of(item), "prediction", item, value)
        self.predictions = {**self.predictions, item: value}
        return said

    async def seen(self) -> None:
        """Until the page is seen: what needs torch would hold up the cells that come before."""
        if self.here:
            return
        said = asyncio.Event()
        self.observe(lambda _: said.set(), names=["here"])
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(said.wait(), PATIENCE)

    def before(self, item: str) -> Any:
        """What this student predicted earlier, on another day; None if nothing, or if it cannot be read."""
        if not self.student:
            return None
        try:
            rows = progress.Progress().rows(student=self.student, lesson=lesson_of(item))
        except ExplorerError:
            return None
        return next((one.value for one in reversed(rows) if (one.kind, one.item) == ("prediction", item)), None)


NOBODY = "Without a name, nothing is kept beyond this page."
desk = Desk()


def lesson_of(item: str) -> int:
    """The lesson that an item such as "2.load" belongs to."""
    number = item.partition(".")[0]
    if not number.isdigit():
        raise BadValue(f"{item!r}: an item begins with the number of its lesson, as in '2.load'")
    return int(number)


def shortened(steps: int) -> int:
    """How many steps a run takes: as many as the lesson says, or at most what the switch says."""
    given = os.environ.get(SWITCH, "").strip()
    if not given:
        return steps
    if not given.isdigit() or int(given) < 1:
        raise BadValue(f"{SWITCH}={given!r}: it must be a whole number of steps, 1 or more")
    return min(steps, int(given))
