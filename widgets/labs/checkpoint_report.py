"""The checkpoint lab's part with what the files of a model say: facts, the rule, its routers, and what is not known."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import ipywidgets as W

from widgets import figures as f
from widgets.labs.checkpoint_tables import table
from widgets.labs.controls import Folded
from widgets.labs.frame import escape, text
from widgets.states.checkpoint_view import short_names
from widgets.states.checkpoint_words import CAPTIONS, facts
from widgets.views import Chart

if TYPE_CHECKING:
    from widgets.labs.checkpoint import CheckpointLab

CHARTS = {
    "norms": "Length of each router row",
    "biases": "Bias of each expert",
    "cosine": "Likeness of the router's rows",
    "similarity": "Likeness of the experts' matrices",
    "sinks_learned": "Logit of each head's learned sink",
}
ROUTERS = {
    "layer": "layer", "path": "path", "experts": "experts", "width": "width", "norm_mean": "mean length of a row",
    "norm_min": "shortest", "norm_max": "longest", "bias": "bias", "shared": "shared experts",
    "experts_are": "experts are kept",    "stored_as": "stored as",
}  # fmt: skip
SHARED = {"layer": "layer", "path": "path", "norm": "length of the vector"}
GATES = {"layer": "layer", "path": "path", "where": "where", "numbers": "numbers for a token", "function": "function"}
NO_FILES = (
    "This is a recording of which experts got which tokens. The model is not here, so nothing is known of its files."
)


class Figure(W.VBox):
    """A chart with a text under it that says what to look at."""

    def __init__(self, label: str, caption: str) -> None:
        self.chart = Chart(label=label)
        self.caption = text(caption)
        super().__init__([self.chart, self.caption])
        self.add_class("ge-figure")

    def draw(self, plain: Mapping[str, Any] | None) -> None:
        """A picture, or none: then the figure is not there."""
        self.layout.display = "none" if plain is None else ""
        if plain is not None:
            self.chart.show(plain)


class ReportPart:
    """What is shown is `lab.opened.report`; the maps of pairs are of one layer."""

    def __init__(self, lab: "CheckpointLab") -> None:
        self.lab = lab
        self.facts = W.HTML().add_class("ge-status")
        self.figures = {name: Figure(label, CAPTIONS[name]) for name, label in CHARTS.items()}
        self.unknown, self.tables = W.HTML().add_class("ge-text"), W.HTML()
        self.folded = Folded("All routers as a table", self.tables)
        charts = W.VBox(list(self.figures.values())).add_class("ge-charts")
        self.widget = W.VBox([self.facts, charts, self.unknown, self.folded])

    @property
    def charts(self) -> dict[str, Chart]:
        """Those that are on the page."""
        return {name: one.chart for name, one in self.figures.items() if one.layout.display != "none"}

    def show(self, report: Mapping[str, Any] | None) -> None:
        """Everything of a checkpoint; None: it is a recording."""
        if report is None:
            self.facts.value = f"<p>{escape(NO_FILES)}</p>"
            for one in (*self.figures.values(), self.folded, self.unknown):
                one.layout.display = "none"
            return
        self.facts.value = _facts(report)
        names = {row["path"]: name for row, name in zip(report["routers"], _names(report["routers"]), strict=True)}
        lengths = list(zip(report["norms"], names.values(), strict=True))
        self.figures["norms"].draw(_rows(lengths, CHARTS["norms"], ratio=True) if lengths else None)
        biases = [(row["values"], names.get(row["path"], row["path"])) for row in report["biases"]]
        self.figures["biases"].draw(_rows(biases, CHARTS["biases"], signed=True) if biases else None)
        self.figures["biases"].caption.value = f"<p>{escape(_about_biases(report['routers']))}</p>"
        sinks = [row["values"] for row in report["sinks"]]
        labels = _names(report["sinks"])
        drawn = (
            _rows(list(zip(sinks, labels, strict=True)), CHARTS["sinks_learned"], "head", signed=True)
            if sinks
            else None
        )
        self.figures["sinks_learned"].draw(drawn)
        self.show_pairs(report)
        self._show_words(report)

    def show_pairs(self, report: Mapping[str, Any]) -> None:
        """The maps of one layer's experts."""
        pairs = report["pairs"]
        name = "" if pairs is None else dict(
            zip([row["path"] for row in report["routers"]], _names(report["routers"]), strict=True)
        ).get(pairs["path"], pairs["path"])  # fmt: skip
        for key in ("cosine", "similarity"):
            values = None if pairs is None else pairs[key]
            title = "Likeness of the router's rows" if key == "cosine" else "Likeness of the experts' matrices"
            drawn = None if values is None else f.router_cosine.as_dict(_numbers(values), name, title)
            self.figures[key].draw(drawn)
        if pairs is not None and pairs["similarity"] is not None:
            said = f"{CAPTIONS['similarity']} Compared: {pairs['sample']}."
            self.figures["similarity"].caption.value = f"<p>{escape(said)}</p>"

    def _show_words(self, report: Mapping[str, Any]) -> None:
        left = [*report["damaged"], *report["unknown"]]
        if report["pairs"] is not None and report["pairs"]["without"]:
            left.append(report["pairs"]["without"])
        items = "".join(f"<li>{escape(one)}</li>" for one in left)
        said = f"<h3>What is not known</h3><ul>{items}</ul>" if items else "<p>Its files leave nothing open.</p>"
        self.unknown.value, self.unknown.layout.display = said, ""
        made = [table(report["routers"], ROUTERS, "Routers")] if report["routers"] else []
        if report["shared_gates"]:
            made.append(
                table(report["shared_gates"], SHARED, "Gates of the shared expert: a sigmoid says how much of it")
            )
        if report["output_gates"]:
            made.append(
                table(report["output_gates"], GATES, "Output gates of attention: what it found is multiplied by one")
            )
        self.tables.value = "".join(made)
        self.folded.layout.display = "" if made else "none"


def _names(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    return short_names([str(row["path"]) for row in rows])


def _facts(report: Mapping[str, Any]) -> str:
    items = "".join(f"<li>{escape(k)} <b>{escape(v)}</b></li>" for k, v in facts(report))
    rule = f"<p>How it chooses: <b>{escape(report['rule'])}</b>.</p>" if report["routers"] else ""
    return f"<ul>{items}</ul>{rule}"


def _about_biases(routers: Sequence[Mapping[str, Any]]) -> str:
    if any(row["bias"] == "scores" for row in routers):
        return "This model adds a number to each expert's score; it counts for the choice and for the weights."
    return CAPTIONS["biases"]


def _rows(
    rows: Sequence[tuple[Sequence[float | None], str]], title: str, of: str = "expert", signed: bool = False,
    ratio: bool = False,
) -> Any:  # fmt: skip
    return f.by_layer.as_dict([values for values, _ in rows], [name for _, name in rows], title, of, signed, ratio)


def _numbers(rows: Sequence[Sequence[float | None]]) -> list[list[float]]:
    return [[float("nan") if x is None else x for x in row] for row in rows]
