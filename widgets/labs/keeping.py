"""The page's part that keeps its runs on disk while they train, and goes on with what was kept (widgets/states/kept.py)."""

import html
import time
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import ipywidgets as W

from widgets.labs.frame import escape
from widgets.states import kept
from widgets.states.kept import CannotKeep, Kept

if TYPE_CHECKING:
    from widgets.labs.lab import Lab

SECONDS = 5.0  # between two times that a run is kept while it trains
TIDY_SECONDS = 600.0
AGAIN = (
    "This run was kept at step {step}. It is determined by its settings and its seed, so it is trained again, exactly, up to "
    "there; then Train goes on from it."
)
THERE = "This is the run that was kept, at step {step}, trained again exactly; Train goes on from here."
LOST = "What the link asks for is not kept here any more; the page opened fresh."


class KeepingPart:
    """Follows the lab and writes down what changed. What the page shows of it: a line after it was reopened, or a problem."""

    def __init__(self, lab: "Lab") -> None:
        self.lab, self.name = lab, type(lab).__module__.rpartition(".")[2]
        self.shelf, self.key, self.writer = kept.shelf(), "", kept.new_key()
        self.goal: Kept | None = None  # what a reopened page is on its way to
        self.last: Kept | None = None  # what is on the disk
        self.due = self.tidied = 0.0
        self.problem = ""
        self.said, self.mark = W.HTML().add_class("ge-text"), W.HTML()
        self.widget = W.VBox([self.said, self.mark])
        self.opened_with: Kept | None = None

    def begin(self, key: str = "", goal: Kept | None = None) -> None:
        """The page is there; with a goal it goes on with what was kept under that key."""
        self.opened_with = kept.of(self.lab.state, self.name)
        if goal is None:
            return
        self.key, self.goal, self.last = key, goal, goal
        self._claim(goal)
        self._mark()
        if goal.step and self.lab.trainer is not None:
            self.lab.trainer.step_seconds = 0.0  # however slowly it was watched
            self._say(AGAIN.format(step=goal.step))

    def follow(self) -> None:
        """Keep what there is now, if it is time; called often."""
        if self.shelf is None or self.opened_with is None:
            return
        now = time.monotonic()
        running = self.lab.state.running and self.lab.trainer is not None and self.lab.trainer.running
        if running and now < self.due:
            return
        self.due = now + SECONDS
        state = self._now()
        if self.goal is not None:
            if state.is_before(self.goal):
                return
            self._arrived(state)
        if not state.same_as(self.last or self.opened_with):
            self._keep(state)

    def _now(self) -> Kept:
        lab = self.lab
        if not lab.state.step:  # a first run that has begun: its link is about what it started with
            lab.state.step = lab.runs.step
        return replace(kept.of(lab.state, self.name, self.writer), step=lab.runs.step)

    def _arrived(self, state: Kept) -> None:
        assert self.goal is not None
        self._say(THERE.format(step=self.goal.step) if state.step >= self.goal.step > 0 else "")
        self.goal = None
        self.lab.set_speed(self.lab.state.speed)

    def _keep(self, state: Kept) -> None:
        assert self.shelf is not None
        try:
            if not self.key or self._is_anothers():
                self.key = kept.new_key()
            self.shelf.put(self.key, state)
        except CannotKeep as error:
            self._complain(str(error))
            return
        self.last = state
        self._complain("")
        self._mark()
        if time.monotonic() - self.tidied > TIDY_SECONDS or not self.tidied:
            self.tidied = time.monotonic()
            self.shelf.tidy()

    def _claim(self, goal: Kept) -> None:
        """From now on it is this page's; another that still runs and was opened from the same key takes a new one."""
        assert self.shelf is not None
        try:
            self.shelf.put(self.key, replace(goal, writer=self.writer))
        except CannotKeep as error:
            self._complain(str(error))

    def _is_anothers(self) -> bool:
        assert self.shelf is not None
        found = self.shelf.get(self.key)
        return found is not None and found.writer != self.writer

    def _complain(self, sentence: str) -> None:
        if sentence != self.problem:
            self.problem = sentence
            self._say(f"{sentence}. The page works; copy its link to keep the run yourself." if sentence else "")

    def _say(self, sentence: str) -> None:
        self.said.value = f'<div role="status">{escape(sentence)}</div>' if sentence else ""

    def _mark(self) -> None:
        """For the page's own script (lost.js), which tells the key to nobody but this server."""
        self.mark.value = f'<span hidden data-ge-kept="{html.escape(self.key)}"></span>'


class Opening:
    """How a lab's page is to open: as its query says, or as it was kept under the key in it."""

    def __init__(self, name: str, query: str) -> None:
        self.key, self.query = kept.split(query)
        self.goal: Kept | None = None
        self.notice = ""
        if self.key:
            self.goal, self.notice = self._find(name)

    def _find(self, name: str) -> tuple[Kept | None, str]:
        shelf = kept.shelf()
        try:
            found = shelf.get(self.key) if shelf is not None else None
        except CannotKeep as error:
            return None, f"{error}; the page opened fresh"
        if found is None or found.lab != name:
            return None, LOST
        self.query = found.query
        return found, ""

    def restore(self, state: Any) -> None:
        """The state that was made of the query goes on with what was kept."""
        if self.notice:
            state.notices = [*state.notices, self.notice]
        if self.goal is not None:
            kept.restore(state, self.goal)

    def go_on(self, lab: Any) -> None:
        """The lab that was made of the state keeps what it does, under the same key."""
        if (keeping := getattr(lab, "keeping", None)) is not None:  # the checkpoint lab has no run to keep
            keeping.begin(self.key, self.goal)
