"""The checkpoint lab's part that compares: with another model, the demo's own early checkpoint, or other texts."""

from typing import TYPE_CHECKING

import ipywidgets as W

from explorer.errors import BadValue
from widgets.labs.checkpoint_pictures import BESIDE
from widgets.labs.checkpoint_report import Figure
from widgets.labs.checkpoint_tables import table
from widgets.labs.checkpoint_texts import TextsPart
from widgets.labs.checkpoint_tracing import Progress
from widgets.labs.controls import STYLE, Folded, button
from widgets.labs.frame import text
from widgets.states.checkpoint import EARLY, TEXTS
from widgets.states.checkpoint_compare import Comparison
from widgets.states.checkpoint_words import CAPTIONS
from widgets.views import Chart

if TYPE_CHECKING:
    from widgets.labs.checkpoint import CheckpointLab

OTHER = "other"
HELP = (
    "What you traced above is A. B is another checkpoint of the same run, another model, or the same model with other texts. "
    "Expert numbers mean nothing by themselves: where both saw the same tokens, B's experts are first matched with A's."
)
NAMES = {
    EARLY: "the same demo, early in its training",
    OTHER: "another model, or a recording",
    TEXTS: "the same model, with other texts",
}
COLUMNS = {
    "layer": "layer", "saturation": "choices kept", "chance": "by chance", "agreement": "kept, experts matched",
    "moved": "load moved", "largest": "largest change at expert",
}  # fmt: skip


class BesidePart:
    """A menu, what it needs, Compare, and the pictures of both; what was found is `comparison`."""

    def __init__(self, lab: "CheckpointLab") -> None:
        self.lab = lab
        self.comparison: Comparison | None = None
        self.kind = W.Dropdown(
            options=[("-", "")], description="B is", style=STYLE, layout={"width": "min(420px, 100%)"}
        )
        self.field = W.Text(description="where", style=STYLE, placeholder="a folder, a file, a hub id, or a recording",
                            continuous_update=False)  # fmt: skip
        self.texts = TextsPart(lab, self._changed)
        self.texts.again.layout.display = "none"
        self.go = button("Compare", "trace B and set it beside A", button_style="primary")
        self.stop = button("Stop", "end it", disabled=True)
        self.progress = Progress()
        self.figures = {name: Figure(one.label, CAPTIONS[name]) for name, one in BESIDE.items()}
        self.table = W.HTML()
        self.charts = W.VBox(list(self.figures.values())).add_class("ge-charts")
        self.kind.observe(lab.safe(lambda _: self._turned()), names=["value"])
        self.go.on_click(lab.safe(lambda _: self.compare()))
        self.stop.on_click(lab.safe(lambda _: lab.runs.stop()))
        buttons = W.HBox([self.go, self.stop]).add_class("ge-row")
        parts = [
            text(HELP),
            self.kind,
            self.field,
            self.texts.widget,
            buttons,
            self.progress.widget,
            self.charts,
            self.table,
        ]
        self.folded = Folded("Compare with another model, or with other texts", *parts, unfolded=bool(lab.state.beside))
        self.widget = self.folded
        self.forget()

    @property
    def given(self) -> str:
        """EARLY, TEXTS, a name, or "" for nothing."""
        return self.field.value.strip() if self.kind.value == OTHER else self.kind.value

    def offer(self) -> None:
        """What can be compared with what is open."""
        opened = self.lab.opened
        kinds = [OTHER] if opened is None or opened.checkpoint is None else [OTHER, TEXTS]
        kinds = [EARLY, *kinds] if opened is not None and opened.is_demo else kinds
        wanted = self.lab.state.beside
        kind = wanted if wanted in (EARLY, TEXTS) else OTHER if wanted else kinds[0]
        self.kind.options = [(NAMES[one], one) for one in kinds]
        self.kind.value = kind if kind in kinds else kinds[0]
        if kind == OTHER and wanted:
            self.field.value = wanted
        self.forget()

    def forget(self) -> None:
        """What was found is not of what is open now."""
        self.comparison = None
        self.progress.say("")
        self.charts.layout.display = self.table.layout.display = "none"
        self._turned()

    def compare(self) -> None:
        """Trace B; the lab shows it when it is there."""
        if self.lab.seen is None:
            raise BadValue("there is no A to compare with: press Trace first")
        if not self.given:
            raise BadValue("say what B is: a folder, a file, a hub id, or a recording")
        self.lab.runs.compare(self.given, self.texts.texts)

    def show(self, comparison: Comparison) -> None:
        """Pictures, table, and what was found in words."""
        self.comparison = comparison
        self.progress.say(comparison.words())
        for name, panel in BESIDE.items():
            self.figures[name].draw(panel.draw(comparison) if panel.fits(comparison) else None)
        rows = comparison.rows()
        self.table.value = table(rows, COLUMNS, "A and B, layer by layer") if rows else ""
        self.charts.layout.display = self.table.layout.display = ""

    def views(self) -> dict[str, Chart]:
        """Charts that are on the page."""
        there = self.charts.layout.display != "none"
        return {name: one.chart for name, one in self.figures.items() if there and one.layout.display != "none"}

    def follow(self) -> None:
        """Buttons in line with what goes on."""
        busy = self.lab.runs.running
        for one, disabled in ((self.go, busy), (self.stop, not busy)):
            if one.disabled != disabled:
                one.disabled = disabled

    def _turned(self) -> None:
        kind = self.kind.value
        self.field.layout.display = "" if kind == OTHER else "none"
        self.texts.widget.layout.display = "" if kind == TEXTS else "none"
        if kind == TEXTS and not self.texts.rows:
            self.texts.fill((("text 1", ""),))

    def _changed(self, texts: object) -> None:
        self.lab.state.others = texts
