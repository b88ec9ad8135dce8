"""A lesson's trained model: what its files say, and its early self beside it, traced once the prediction is stored."""

from typing import TYPE_CHECKING, Any, cast

import ipywidgets as W
import traitlets as t

from explorer.errors import unknown
from widgets.labs.controls import button
from widgets.labs.frame import HEADLESS, error_card, explain, guarded, text
from widgets.lessons.desk import Desk, desk, lesson_of
from widgets.lessons.outcomes import OUTCOMES, came, shown
from widgets.lessons.parts import later

if TYPE_CHECKING:
    from widgets.states.checkpoint_compare import Comparison
    from widgets.states.checkpoint_trace import Job

WAITING = "Predict first, then the texts may be sent."
READY = "Press Trace."
NOT_YET = "Here stands what the trained model does, once the texts have been traced."
OUTCOME = "kept"
BESIDE = ("saturation", "difference", "sides")
VOCABULARY = "vocabulary"


class _State(t.HasTraits):
    error = t.Dict(allow_none=True, default_value=None)


class TracePanel:
    """See `trace`. `comparison` is the early model (A) beside the trained one (B), once both were traced."""

    def __init__(self, item: str, at: Desk) -> None:
        from widgets.labs.checkpoint_tracing import Progress
        from widgets.labs.checkpoint_work import Work

        lesson_of(item)
        self.item, self.desk, self.state = item, at, _State()
        self.comparison: Comparison | None = None
        self._job: Job | None = None
        self.work, self.progress = Work(self._look), Progress()
        safe = guarded(self.state)
        self.button = button("Trace", "send the texts through both models", button_style="primary")
        self.button.on_click(safe(lambda _: self.start()))
        row = W.HBox([self.button]).add_class("ge-row")
        self.widget = W.VBox([error_card(self.state), row, self.progress.widget])
        self.widget.add_class("ge-page").add_class("ge-lesson")
        at.observe(lambda _: self.follow(), names=["predictions"])
        self.follow()

    def start(self) -> None:
        """Trace both, on a thread: the page stays free."""
        if self.item not in self.desk.predictions or self.work.running or self.comparison is not None:
            return
        self.trace()

    def trace(self) -> None:
        """The same without a prediction."""
        self.state.error = None
        self.progress.said.value = ""
        self.progress.bar.value = '<p role="status">Getting ready: a few seconds.</p>'
        self.button.disabled = True
        self.work.start(self._trace, self._done, self._failed)

    def follow(self) -> None:
        """Button and words in line with what there is."""
        allowed = self.item in self.desk.predictions
        self.button.disabled = not allowed or self.work.running or self.comparison is not None
        if self.comparison is None and not self.work.running:
            self.progress.say(READY if allowed else WAITING)

    def _trace(self) -> "Comparison":
        """On the thread."""
        from widgets.states import checkpoint_sources as sources
        from widgets.states.checkpoint_compare import Comparison
        from widgets.states.checkpoint_trace import Job, Request
        from widgets.states.checkpoint_view import Seen

        request = Request(sources.samples(), attention=True)
        seen = []
        for opened, name in ((sources.open_early(), "the early model"), (sources.open_given(""), "the trained model")):
            assert opened.checkpoint is not None, "the demo is a checkpoint"
            self._job = Job(opened.checkpoint, request, name, opened.as_bytes)
            seen.append(Seen(self._job.run(), name))
        seen[1].prepared()
        return Comparison(*seen).prepared()

    def _done(self, found: "Comparison") -> None:
        self.comparison = found
        value = came(OUTCOME, cast(Any, [found]))
        self.progress.say(f"Done: {OUTCOMES[OUTCOME].words} {shown(OUTCOME, value)}. {found.words()}")
        self.desk.traces = {**self.desk.traces, self.item: found}
        self.desk.outcomes = {**self.desk.outcomes, self.item: (OUTCOME, value)}
        self.follow()

    def _failed(self, error: Exception) -> None:
        self.state.error = explain(error)
        self.follow()

    def _look(self) -> None:
        if self._job is not None:
            self.progress.show(self._job)


def trace(item: str, at: Desk | None = None) -> W.Widget:
    """Send the demo's texts through its early and its trained model; waits for predict(item, ...)."""
    panel = TracePanel(item, at or desk)
    if HEADLESS:  # no browser will press Trace
        panel.trace()
    return panel.widget


def look(item: str, *pictures: str, layer: int = 0, at: Desk | None = None) -> W.Widget:
    """Pictures of the checkpoint lab, by name, of what trace(item) finds: of the trained model, or of both."""
    from widgets.labs.checkpoint_figures import PANELS
    from widgets.labs.checkpoint_pictures import BESIDE as COMPARED
    from widgets.labs.checkpoint_report import Figure
    from widgets.states.checkpoint_words import CAPTIONS

    known = [*PANELS, *COMPARED, VOCABULARY]
    for name in pictures:
        if name not in known:
            raise unknown("picture", name, known)
    place, waiting = at or desk, text(NOT_YET)
    panels = {**PANELS, **COMPARED}
    figures = {name: Figure(panels[name].label, CAPTIONS[name]) for name in pictures if name != VOCABULARY}
    words = W.HTML()
    below = [words, text(CAPTIONS[VOCABULARY])] if VOCABULARY in pictures else []
    inside = W.VBox([W.VBox([*figures.values()]).add_class("ge-charts"), *below])
    inside.layout.display = "none"

    def draw() -> None:
        if item not in place.traces:
            return
        found = place.traces[item]
        waiting.layout.display, inside.layout.display = "none", ""
        for name, figure in figures.items():
            figure.draw(panels[name].draw(found if name in COMPARED else _scene(found, layer)))
        if VOCABULARY in pictures:
            words.value = _vocabulary(found, layer)

    place.observe(lambda _: draw(), names=["traces"])
    draw()
    box = W.VBox([_style(), waiting, inside])
    return box.add_class("ge-page").add_class("ge-lesson")


def files(at: Desk | None = None) -> W.Widget:
    """What the files of the demo's trained model say, as the checkpoint lab reports it."""
    from widgets.labs.checkpoint_report import ReportPart

    waiting, part = W.HTML('<p role="status">Its files are on their way.</p>'), ReportPart(cast(Any, None))
    part.widget.layout.display = "none"

    def fill() -> None:
        from widgets.states import checkpoint_sources as sources

        part.show(sources.open_given("").report)
        part.widget.layout.display, waiting.layout.display = "", "none"

    later(waiting, fill, at or desk)
    return W.VBox([_style(), waiting, part.widget]).add_class("ge-page").add_class("ge-lesson")


def _style() -> W.HTML:
    from widgets.labs.checkpoint import LOOKS

    return W.HTML(f"<style>{LOOKS}</style>")


def _scene(found: "Comparison", layer: int) -> Any:
    from widgets.states.checkpoint_view import Scene

    return Scene(found.b, range(len(found.b.layers))[layer])


def _vocabulary(found: "Comparison", layer: int) -> str:
    from widgets.labs.checkpoint_tables import vocabulary

    scene = _scene(found, layer)
    return vocabulary(found.b.words(scene.i).to_dict("records"), found.b.experts(scene.i), scene.layer)
