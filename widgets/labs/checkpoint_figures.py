"""The checkpoint lab's part with what a recording shows: pictures by section, the token strip, the experts' vocabulary."""

from typing import TYPE_CHECKING, Any

import ipywidgets as W

from widgets.labs.checkpoint_pictures import PANELS
from widgets.labs.checkpoint_report import Figure
from widgets.labs.checkpoint_tables import vocabulary
from widgets.labs.controls import STYLE
from widgets.labs.frame import escape, text
from widgets.states import checkpoint_tokens as tokens
from widgets.states.checkpoint_view import Place, Scene
from widgets.states.checkpoint_words import CAPTIONS, SECTIONS
from widgets.views import TokenStrip

if TYPE_CHECKING:
    from widgets.labs.checkpoint import CheckpointLab

EACH = -1  # of the menu of windows: the beginning of each domain


class FiguresPart:
    """Drawn from `lab.scene()`; the token that was clicked is `place`."""

    def __init__(self, lab: "CheckpointLab") -> None:
        self.lab, self._quiet = lab, False
        self.place: Place | None = None
        self._shown: list[int] = []  # the sequences of the strip
        self.figures = {name: Figure(one.label, CAPTIONS[name]) for name, one in PANELS.items()}
        self.strip = TokenStrip(label="Tokens coloured by expert")
        self.strip.observe(lab.safe(lambda event: self.clicked(event["new"])), names=["selected"])
        self.window = W.Dropdown(
            options=[("the beginning of each domain", EACH)], description="text shown", style=STYLE
        )
        self.window.observe(lab.safe(lambda _: self._other_window()), names=["value"])
        self.said = W.HTML().add_class("ge-text")
        self.words = W.HTML()
        strip = W.VBox([self.window, self.strip, text(CAPTIONS["strip"]), self.said]).add_class("ge-figure")
        words = W.VBox([self.words, text(CAPTIONS["vocabulary"])]).add_class("ge-figure")
        self.special = {"strip": strip.add_class("ge-wide"), "vocabulary": words.add_class("ge-wide")}
        self.figures["path"].add_class("ge-wide")
        self.sections = {name: self._section(name, heading) for name, heading in SECTIONS.items()}
        self.widget = W.VBox(list(self.sections.values())).add_class("ge-main")

    def _section(self, name: str, heading: str) -> W.VBox:
        inside: list[W.Widget] = [self.figures[one] for one, panel in PANELS.items() if panel.section == name]
        inside = [self.special["strip"], *inside] if name == "tokens" else inside
        inside = [*inside, self.special["vocabulary"]] if name == "domains" else inside
        return W.VBox([text(heading, "h2"), W.VBox(inside).add_class("ge-charts")])

    def begin(self) -> None:
        """Another recording: a token of the last one means nothing here; the first that can be is looked at."""
        seen = self.lab.seen
        self.place = None
        if seen is not None and seen.has_tokens and seen.windows:
            first = seen.windows[0]
            self.place = (first.sequence, min(8, first.length - 1))
        self._quiet = True
        try:
            windows = [] if seen is None else [(one.label, one.sequence) for one in seen.windows]
            self.window.options = [("the beginning of each domain", EACH), *windows[:400]]
            self.window.value = EACH
        finally:
            self._quiet = False

    def show(self) -> None:
        """Everything of the scene."""
        scene = self.lab.scene()
        self.widget.layout.display = "none" if scene is None else ""
        if scene is None:
            return
        for name, panel in PANELS.items():
            self.figures[name].draw(panel.draw(scene) if panel.fits(scene) else None)
        self._show_strip(scene)
        self._show_words(scene)
        for section in self.sections.values():
            there = any(one.layout.display != "none" for one in section.children[1].children)
            section.layout.display = "" if there else "none"

    def views(self) -> dict[str, Any]:
        """Charts and strip that are on the page, by name."""
        there = {name: one.chart for name, one in self.figures.items() if one.layout.display != "none"}
        return {**there, "strip": self.strip} if self.special["strip"].layout.display != "none" else there

    def clicked(self, selected: dict[str, int]) -> None:
        """A token of the strip: its path."""
        seen = self.lab.seen
        if not selected or seen is None or not 0 <= selected["sequence"] < len(self._shown):
            return
        sequence, position = self._shown[selected["sequence"]], selected["position"]
        if 0 <= position < seen.lengths[sequence]:
            self.place = (sequence, position)
            self.show_path()

    def show_path(self) -> None:
        """The way of the token that is chosen, and what it is."""
        scene = self.lab.scene()
        if scene is None:
            return
        self.figures["path"].draw(PANELS["path"].draw(scene) if scene.place is not None else None)
        self.said.value = "" if scene.place is None else f'<p role="status">{escape(_told(scene))}</p>'

    def _other_window(self) -> None:
        if not self._quiet:
            scene = self.lab.scene()
            if scene is not None:
                self._show_strip(scene)

    def _show_strip(self, scene: Scene) -> None:
        seen = scene.seen
        there = seen.has_tokens and bool(seen.windows)
        self.special["strip"].layout.display = "" if there else "none"
        if not there:
            return
        strip = tokens.strip(seen, scene.i, self.window.value, scene.domain)
        self._shown = strip.sequences
        self.strip.selected = {}
        self.strip.show(
            strip.texts, strip.experts, strip.weights, strip.margins, names=[scene.layer], sequence_names=strip.names,
            n_experts=seen.experts(scene.i),
        )  # fmt: skip
        self.show_path()

    def _show_words(self, scene: Scene) -> None:
        rows = scene.seen.words(scene.i).to_dict("records") if scene.seen.has_vocabulary else []
        self.special["vocabulary"].layout.display = "" if rows else "none"
        self.words.value = vocabulary(rows, scene.seen.experts(scene.i), scene.layer) if rows else ""


def _told(scene: Scene) -> str:
    """The chosen token in words, for who does not see the picture."""
    seen, place = scene.seen, scene.place
    assert place is not None
    index, weights = tokens.way(seen, place)
    known = seen.held(f"{seen.layers[scene.i]}/weights") is not None
    pairs = [(int(e), w) for e, w in zip(index[scene.i], weights[scene.i], strict=True) if e >= 0]
    chosen = [f"{e} ({w:.0%})" if known else str(e) for e, w in pairs]
    margin = float(seen.margins(scene.i)[place])
    sure = (f", margin {margin:.3f}" if margin == margin else "") + ("" if known else "; weights were not recorded")
    return f"“{seen.words_at(place)}” in {scene.layer}: expert {', '.join(chosen) or 'none'}{sure}."
