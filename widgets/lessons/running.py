"""A lesson's live run: it waits for the prediction, trains in front of the reader, and says what came."""

import asyncio
import time
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import ipywidgets as W
import traitlets as t

from explorer.budget import pace
from explorer.errors import unknown
from widgets.labs.controls import button
from widgets.labs.frame import HEADLESS, error_card, escape, explain, guarded
from widgets.lessons.desk import Desk, desk, lesson_of, shortened
from widgets.lessons.outcomes import OUTCOMES, came, shown
from widgets.lessons.pictures import PICTURES
from widgets.lessons.presence import Presence
from widgets.views import Chart

if TYPE_CHECKING:
    from explorer.experiment import Experiment, Step
    from explorer.training.live import LiveTrainer

FRAME_SECONDS = 0.118  # as in the labs
HEADLESS_STEPS = 3
WAITING = "Predict first, then the run may begin."
READY = "Press Run."
LEFT = "waiting: nobody has looked at this page for a while. It goes on when you are back"


class _State(t.HasTraits):
    error = t.Dict(allow_none=True, default_value=None)


class _Together:
    """Runs that are advanced together, a step each, as one for the trainer."""

    def __init__(self, runs: list["Experiment"]) -> None:
        self.runs = runs

    def advance(self) -> "Step":
        steps = [one.advance() for one in self.runs]
        return steps[0]


class RunPanel:
    """One run or two beside each other; see `run`. `runs` are the experiments, once they are made."""

    def __init__(
        self,
        item: str,
        recipes: Mapping[str, Mapping[str, Any]],
        steps: int,
        pictures: Sequence[str],
        outcome: str,
        waits: bool,
        at: Desk,
    ) -> None:
        for name in pictures:
            if name not in PICTURES:
                raise unknown("picture", name, PICTURES)
        if outcome and outcome not in OUTCOMES:
            raise unknown("outcome", outcome, OUTCOMES)
        lesson_of(item)
        self.item, self.recipes, self.steps, self.outcome, self.desk = (
            item,
            dict(recipes),
            shortened(steps),
            outcome,
            at,
        )
        self.state, self.runs = _State(), list["Experiment"]()
        self.trainer: LiveTrainer | None = None
        self.waits, self.told, self._beginning = waits, False, False
        self._due: dict[str, float] = {}  # picture -> when it may be drawn again
        safe = guarded(self.state)
        self.buttons = {
            "Run": button("Run", "train in front of you", button_style="primary"),
            "Pause": button("Pause", "stop after the step under way"),
            "Start anew": button("Start anew", "go back to step 0 with the same seed"),
        }
        for name, act in (("Run", self.start), ("Pause", self.pause), ("Start anew", self.anew)):
            self.buttons[name].on_click(safe(lambda _, act=act: act()))
        self.status = W.HTML().add_class("ge-status")
        self.charts = {(label, name): self._chart(label, name) for name in pictures for label in self.recipes}
        self.presence = Presence(self.charts.values(), self.start)
        grid = W.VBox(list(self.charts.values())).add_class("ge-charts")
        row = W.HBox(list(self.buttons.values())).add_class("ge-row")
        self.widget = W.VBox([error_card(self.state), row, self.status, grid])
        self.widget.add_class("ge-page").add_class("ge-lesson")
        at.observe(lambda _: self.follow(), names=["predictions"])
        self.follow()

    # -- the run -------------------------------------------------------------------------------------------------------
    @property
    def allowed(self) -> bool:
        """Whether the prediction that it waits for has been stored."""
        return not self.waits or self.item in self.desk.predictions

    @property
    def step(self) -> int:
        return self.runs[0].step if self.runs else 0

    @property
    def running(self) -> bool:
        return self._beginning or (self.trainer is not None and self.trainer.running)

    def start(self) -> None:
        """Begin, or go on after a pause."""
        if self.running or not self.allowed or self.step >= self.steps:
            return
        self.presence.begin()
        self._beginning, self.state.error = True, None
        self.follow()
        self._task = asyncio.get_event_loop().create_task(self._begin())

    def pause(self) -> None:
        """Stop after the step under way."""
        self.presence.forget()
        self._beginning = False
        if self.trainer is not None:
            self.trainer.pause()
        self.follow()

    def anew(self) -> None:
        """Back to step 0."""
        self.pause()
        for one in self.runs:
            one.close()
        self.runs, self.trainer, self.told = [], None, False
        self.follow()

    def make(self) -> None:
        """The experiments, at step 0; here torch is needed for the first time."""
        from explorer.experiment import Experiment
        from explorer.training import calibrate_threads
        from explorer.training.live import LiveTrainer

        if self.runs:
            return
        calibrate_threads()
        self.runs = [Experiment(**recipe) for recipe in self.recipes.values()]
        together: Any = _Together(self.runs)
        self.trainer = LiveTrainer(together, self.draw, self._failed, self._ready, FRAME_SECONDS)

    async def _begin(self) -> None:
        """torch is imported on a thread, so that the page answers meanwhile."""
        try:
            await asyncio.get_running_loop().run_in_executor(None, _import)
            if not self._beginning:
                return
            self.make()
        except Exception as error:  # noqa: BLE001  shown on the page
            self._beginning = False
            self._failed(error)
            return
        self._beginning = False
        assert self.trainer is not None
        self.trainer.start(self.steps - self.step)
        self.follow()

    def _failed(self, error: Exception) -> None:
        self.state.error = explain(error)
        self.follow()

    def _ready(self) -> bool:
        if self.presence.alone():
            self.pause()
            self.presence.wait()
            self.follow()
            return False
        return any(one.ready for one in self.charts.values())

    # -- drawing -------------------------------------------------------------------------------------------------------
    def draw(self) -> None:
        """Draw what has changed: the charts that are ready, or all when the run stands still."""
        still, now = not self.running, time.monotonic()
        due = {name for name in PICTURES if still or now >= self._due.get(name, 0.0)}
        for (label, name), chart in self.charts.items():
            if (still or chart.ready) and name in due:
                self._due[name] = now + PICTURES[name].every
                chart.show(self._titled(PICTURES[name].draw(self.runs[list(self.recipes).index(label)]), label))
        self.follow()
        if still and self.step >= self.steps and not self.told:
            self._tell()

    def _tell(self) -> None:
        """The run is over: what came, for the prediction to stand beside it."""
        self.told = True
        if self.outcome:
            value = came(self.outcome, self.runs)
            self.desk.outcomes = {**self.desk.outcomes, self.item: (self.outcome, value)}
            said, more = OUTCOMES[self.outcome].words, OUTCOMES[self.outcome].more(self.runs)
            self._say(f"Done after {self.step} steps: {said} {shown(self.outcome, value)}. {more}".rstrip())

    def follow(self) -> None:
        """Bring buttons and status in line with the run."""
        running, done = self.running, self.step >= self.steps
        for name, off in (
            ("Run", running or not self.allowed or done), ("Pause", not running), ("Start anew", running or not self.runs)
        ):  # fmt: skip
            self.buttons[name].disabled = off
        if not self.allowed:
            self._say(WAITING)
        elif not self.runs:
            self._say("Getting ready: a few seconds." if running else READY)
        elif not (done and self.told):
            how = "" if running or done else f", {LEFT}" if self.presence.waiting else ", paused"
            shared = pace().said() if running else ""
            self._say(
                f"Step {self.step} of {self.steps}{how}.{f' This server trains {shared}.' if shared else ''}",
                live=not running,
            )

    def _say(self, sentence: str, live: bool = True) -> None:
        role = ' role="status"' if live else ""
        said = f"<p{role}>{escape(sentence)}</p>"
        if self.status.value != said:
            self.status.value = said

    def _chart(self, label: str, name: str) -> Chart:
        return Chart(label=f"{PICTURES[name].label}{f', {label}' if label and len(self.recipes) > 1 else ''}")

    def _titled(self, plain: dict[str, Any], label: str) -> dict[str, Any]:
        """The same picture, whose title says of which of two runs it is."""
        title = plain["layout"].get("title")
        if len(self.recipes) < 2 or not isinstance(title, dict):
            return plain
        return {**plain, "layout": {**plain["layout"], "title": {**title, "text": f"{escape(label)}: {title['text']}"}}}


def run(
    item: str,
    mechanism: str,
    *,
    steps: int = 200,
    pictures: Sequence[str] = ("load", "loss"),
    outcome: str = "",
    beside: Mapping[str, Any] | None = None,
    names: tuple[str, str] = ("A", "B"),
    waits: bool = True,
    at: Desk | None = None,
    **recipe: Any,
) -> W.Widget:
    """A run that waits for predict(item, ...), with live pictures.

    recipe: whatever explorer.Experiment takes: task, seed, knobs. beside: what is different in a second run, shown beside
    the first; names: what the two are called. outcome: a name of OUTCOMES, which the prediction is then compared with.
    pictures: names of PICTURES. waits: False for a run without a prediction.
    """
    first = {"mechanism": mechanism, **recipe}
    recipes = {names[0]: first} | ({names[1]: {**first, **beside}} if beside is not None else {})
    panel = RunPanel(item, recipes, steps, pictures, outcome, waits, at or desk)
    if HEADLESS:  # no browser will press Run: a few steps show that it works
        panel.steps = min(panel.steps, HEADLESS_STEPS) if shortened(steps) == steps else panel.steps
        panel.make()
        for _ in range(panel.steps):
            assert panel.trainer is not None
            panel.trainer.experiment.advance()
        panel.draw()
    return panel.widget


def _import() -> None:
    """What a run needs and a page without one does not."""
    import explorer.experiment  # noqa: F401
    import widgets.states.routing_view  # noqa: F401
