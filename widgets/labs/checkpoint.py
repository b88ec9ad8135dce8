"""The checkpoint lab: open a trained mixture of experts, read what its files say, and send texts of one's own through it."""

from pathlib import Path

import ipywidgets as W

from widgets.labs.checkpoint_beside import BesidePart
from widgets.labs.checkpoint_choose import SourcePart
from widgets.labs.checkpoint_figures import FiguresPart
from widgets.labs.checkpoint_report import ReportPart
from widgets.labs.checkpoint_runs import Runs
from widgets.labs.checkpoint_sharing import SharingPart
from widgets.labs.checkpoint_tracing import TracingPart
from widgets.labs.checkpoint_work import Work
from widgets.labs.controls import STYLE
from widgets.labs.frame import error_card, escape, explain, guarded, notices, page, text
from widgets.states import checkpoint_sources as sources
from widgets.states.checkpoint import CheckpointState, Text
from widgets.states.checkpoint_sources import Opened
from widgets.states.checkpoint_trace import sample_ids
from widgets.states.checkpoint_view import Scene, Seen, short_names
from widgets.states.checkpoint_words import INTRODUCTION, advice

TITLE = "Checkpoint lab"
LOOKS = (Path(__file__).parent / "checkpoint.css").read_text(encoding="utf-8")
LARGE = 1.35  # how much larger the large type is
ALL = "all domains"


class CheckpointLab:
    """Wires state, work and parts: what is `opened`, what was `seen` of its trace, and what stands beside it."""

    STATE = CheckpointState
    TITLE, INTRODUCTION = TITLE, INTRODUCTION

    def __init__(self, state: CheckpointState) -> None:
        self.state, self.safe = state, guarded(state)
        self.opened: Opened | None = None
        self.seen: Seen | None = None
        self._quiet = False
        self.opening, self.looking, self.runs = Work(lambda: None), Work(lambda: None), Runs(self)
        self.source = SourcePart(self, "open", state.given, self.choose)
        self.report, self.tracer, self.figures = ReportPart(self), TracingPart(self), FiguresPart(self)
        self.beside, self.sharing = BesidePart(self), SharingPart(self)
        self.widget = self._lay_out()
        self.set_large(state.large)
        self.figures.show()
        self._begin()

    def one_step(self) -> None:
        """What a run without a person does: trace what is open, once."""
        if self.seen is None:
            self.runs.trace()

    # -- what is open ------------------------------------------------------------------------------------------------
    def _begin(self) -> None:
        """What the link names; an address is not fetched before a person agrees."""
        given = self.state.given
        if "://" in given:
            self.state.given = ""
            self._note(f"checkpoint={given[:200]}: press Open to fetch it from there")
            given = ""
        self.open(given, first=True)

    def choose(self, given: str, demo: bool) -> None:
        """A person chose what to open."""
        self.state.error = None
        if given or demo:
            self.open(given)
        else:
            self._say("Write where the model is, then press Open.")

    def open(self, given: str, first: bool = False) -> None:
        """Read a checkpoint's headers and routers, or a recording; what was open stays until that is done."""
        self._say(f"Reading {sources.name_of(given)} …")
        self.source.go.disabled = True

        def work() -> tuple[Opened, Seen | None]:
            opened = sources.open_given(given, self.state.layer if first else -1)
            seen = None if opened.recording is None else Seen(opened.recording, opened.name).prepared()
            return opened, seen

        self.opening.start(
            work, lambda found: self._opened(*found, first), lambda error: self._not_opened(error, first)
        )

    def _opened(self, opened: Opened, seen: Seen | None, first: bool) -> None:
        self.runs.forget()
        self.looking.forget()
        self.opened, self.state.given, self.seen = opened, opened.given, seen
        if not first:
            self.state.layer, self.state.domain, self.state.beside, self.state.traced = -1, "", "", False
        self.source.go.disabled = False
        self.source.set(opened.given)
        self._say("")
        self.report.show(opened.report)
        for part in (self.tracer.widget, self.tracer.controls):
            part.layout.display = "" if opened.report is not None and opened.report["routers"] else "none"
        self.tracer.progress.say("" if seen is None else "This recording was made elsewhere; it is shown below.")
        if not self.state.own or self.state.ids == opened.tokenizer:
            self.fill_texts(own=False)
        self.beside.offer()
        self.recorded(seen)
        if first and self.state.traced and opened.checkpoint is not None and sources.is_here(opened.given):
            self.safe(self.runs.trace)()

    def _not_opened(self, error: Exception, first: bool) -> None:
        self.source.go.disabled = False
        self.fail(error)
        self._say("It was not opened: the reason stands at the top of the page." if self.opened else "")
        if first and self.state.given:
            self.state.given, self.state.beside, self.state.traced = "", "", False
            self.open("", first=True)

    def fill_texts(self, own: bool) -> None:
        """The texts that came along, or token ids for a model that reads no text."""
        opened, self.state.own = self.opened, own
        if opened is None or opened.checkpoint is None:
            return
        texts: tuple[Text, ...] = (
            sources.samples() if opened.tokenizer else sample_ids(sources.vocabulary(opened.checkpoint))
        )
        self.state.texts, self.state.ids = texts, not opened.tokenizer
        self.tracer.fill(texts, not opened.tokenizer)

    # -- what is looked at -------------------------------------------------------------------------------------------
    @property
    def layers(self) -> list[str]:
        """Paths of the layers that can be chosen."""
        if self.seen is not None:
            return self.seen.layers
        return self.opened.report["layers"] if self.opened is not None and self.opened.report is not None else []

    def scene(self) -> Scene | None:
        """What the pictures show; None before there is a recording."""
        if self.seen is None:
            return None
        domain = self.state.domain if self.state.domain in self.seen.domains else ""
        return Scene(self.seen, self.state.shown(len(self.seen.layers)), domain, self.figures.place)

    def choose_layer(self, layer: int | None) -> None:
        """Pictures of one layer follow; so do the maps of its experts."""
        if layer is None or self._quiet or layer == self.state.shown(len(self.layers)):
            return
        self.state.layer = layer
        self.figures.show()
        self.sharing.follow()
        opened = self.opened
        if opened is not None and opened.checkpoint is not None and layer < len(opened.checkpoint.layers):
            from explorer.checkpoints.report import report

            checkpoint, path = opened.checkpoint, opened.checkpoint.layers[layer]
            self.looking.start(lambda: report(checkpoint, path), self.report.show_pairs, self.fail)

    def choose_domain(self, domain: str | None) -> None:
        """Tokens of one domain alone, or of all."""
        if domain is not None and not self._quiet and domain != self.state.domain:
            self.state.domain = domain
            self.figures.show()

    def set_large(self, large: bool) -> None:
        """Type for a projector."""
        self.state.large = large
        (self.widget.add_class if large else self.widget.remove_class)("ge-large")
        figures = [*self.report.figures.values(), *self.figures.figures.values(), *self.beside.figures.values()]
        for view in [*(one.chart for one in figures), self.figures.strip]:
            view.scale = LARGE if large else 1.0

    # -- what leaves the page ----------------------------------------------------------------------------------------
    def stamp(self) -> str:
        """What everything that leaves the page says about itself."""
        import explorer

        opened, trace = self.opened, {} if self.seen is None else self.seen.trace
        name = "" if opened is None else opened.name
        parts = [name, str(trace.get("architecture", "")), str(trace.get("method", ""))]
        parts += [f"{trace['tokens']} tokens"] if trace else []
        return " · ".join(filter(None, [*parts, f"explorer {explorer.__version__}"]))

    def as_html(self) -> str:
        """The page as one file: a trace, or the report of the files alone."""
        from widgets.export import checkpoint_page

        if self.seen is None:
            assert self.opened is not None and self.opened.report is not None
            return checkpoint_page.page(self.opened.report)
        from widgets.export import trace_page

        other = self.beside.comparison
        recordings = (self.seen.recording, None if other is None else other.b.recording)
        return trace_page.page(*recordings, self.seen.name, "" if other is None else other.name_b)

    # -- following ---------------------------------------------------------------------------------------------------
    def recorded(self, seen: Seen | None) -> None:
        """Another recording, or none: selectors, pictures, advice."""
        self.seen = seen
        self._fill_selectors()
        self.figures.begin()
        self.figures.show()
        self.follow()

    def _fill_selectors(self) -> None:
        layers, names = self.layers, self.seen.names if self.seen is not None else short_names(self.layers)
        domains = self.seen.domains if self.seen is not None else []
        self._quiet = True
        try:
            self.layer.options = [(name, i) for i, name in enumerate(names)]
            self.layer.value = self.state.shown(len(layers)) if layers else None
            self.domain.options = [(ALL, ""), *((name, name) for name in domains)]
            self.domain.value = self.state.domain if self.state.domain in domains else ""
        finally:
            self._quiet = False
        self.layer.layout.display = "" if layers else "none"
        self.domain.layout.display = "" if len(domains) > 1 else "none"

    def follow(self) -> None:
        """Buttons, advice and stamps in line with what there is."""
        self.tracer.follow()
        self.beside.follow()
        self.beside.widget.layout.display = "none" if self.seen is None else ""
        self.sharing.follow()
        said = advice(self.seen, self.opened, self.scene())
        self.advice_text.value = f"<p><strong>What to look at.</strong> {escape(said)}</p>"
        stamp = self.stamp()
        for view in [*self.report.charts.values(), *self.figures.views().values(), *self.beside.views().values()]:
            view.stamp = stamp

    def fail(self, error: Exception) -> None:
        """Work on a thread ended with an error."""
        self.state.error = explain(error)

    def _note(self, sentence: str) -> None:
        self.state.notices = [*self.state.notices, sentence]

    def _say(self, sentence: str) -> None:
        self.status.value = f'<p role="status">{escape(sentence)}</p>' if sentence else ""

    # -- laying out --------------------------------------------------------------------------------------------------
    def _lay_out(self) -> W.Widget:
        self.status, self.advice_text = W.HTML().add_class("ge-status"), W.HTML().add_class("ge-advice")
        self.layer = W.Dropdown(options=[], description="layer shown", style=STYLE)
        self.domain = W.Dropdown(options=[(ALL, "")], description="domain shown", style=STYLE)
        self.layer.observe(self.safe(lambda event: self.choose_layer(event["new"])), names=["value"])
        self.domain.observe(self.safe(lambda event: self.choose_domain(event["new"])), names=["value"])
        large = W.Checkbox(value=self.state.large, description="large type", indent=False)
        large.observe(self.safe(lambda event: self.set_large(event["new"])), names=["value"])
        look = W.HBox([self.layer, self.domain]).add_class("ge-row").add_class("ge-look")
        files = W.VBox([text("What its files say", "h2"), self.report.widget])
        right = [
            self.advice_text, look, files, self.tracer.widget, self.figures.widget, self.beside.widget,
            self.sharing.widget, self.sharing.code,
        ]  # fmt: skip
        left = [text("Which model", "h2"), self.source.widget, self.status, self.tracer.controls, large]
        columns = W.HBox([W.VBox(left).add_class("ge-controls"), W.VBox(right).add_class("ge-main")])
        columns.add_class("ge-columns")
        style = W.HTML(f"<style>{LOOKS}</style>")
        made = page(TITLE, INTRODUCTION, style, notices(self.state), error_card(self.state), columns)
        return made.add_class("ge-checkpoint")


LAB = CheckpointLab
