"""The page's part that explains: the mechanism, its equation with the knobs' values in place, its pitfalls, its file."""

from typing import TYPE_CHECKING

import ipywidgets as W

import explorer
from explorer.catalogue import Spec
from widgets.labs.code import show_the_code
from widgets.labs.controls import Folded
from widgets.labs.formula import lines, mathml
from widgets.labs.frame import escape

if TYPE_CHECKING:
    from widgets.labs.lab import Lab


class ExplainPart:
    """A's mechanism, and B's where it is another."""

    def __init__(self, lab: "Lab") -> None:
        self.lab = lab
        self.about, self.pitfalls, self.code = W.HTML().add_class("ge-about"), W.HTML(), W.VBox()
        self.folded = Folded("What re-implementations get wrong", self.pitfalls)
        self.widget = W.VBox([self.about, self.folded, self.code])
        self._shown: tuple[str, ...] = ()

    def show(self) -> None:
        """For the mechanisms that run now."""
        state = self.lab.state
        names = tuple(dict.fromkeys([state.a.mechanism, *([state.b.mechanism] if state.b else [])]))
        self.follow()
        if names == self._shown:
            return
        self._shown = names
        specs = [explorer.spec(name) for name in names]
        heads = len(specs) > 1
        self.pitfalls.value = "".join(_pitfalls(spec, heads) for spec in specs)
        self.code.children = tuple(show_the_code(spec, state.theme) for spec in specs)

    def follow(self) -> None:
        """The equations with the knobs as they stand."""
        state = self.lab.state
        sides = [("a", state.a), *([("b", state.b)] if state.b else [])]
        said = "".join(
            _card(explorer.spec(one.mechanism), dict(one.values), side if state.b else "") for side, one in sides
        )
        if self.about.value != said:
            self.about.value = said


def _card(spec: Spec, values: dict[str, object], side: str) -> str:
    plain, filled = spec.formula(), spec.formula(values)
    paper = f"{spec.paper.authors} ({spec.paper.year}), {spec.paper.title}, "
    arxiv = escape(spec.paper.arxiv)
    link = f'<a href="https://arxiv.org/abs/{arxiv}" target="_blank" rel="noopener">arXiv {arxiv}</a>'
    head = f"{side.upper()}: {spec.title}" if side else spec.title
    parts = [f"<h2>{escape(head)}</h2><p>{escape(spec.summary)}</p>", _equation(plain)]
    if filled != plain:
        parts.append(f"<p>With the knobs as they stand:</p>{_equation(filled)}")
    return "".join([*parts, f"<p><small>{escape(paper)}{link}</small></p>"])


def _equation(latex: str) -> str:
    return "".join(f'<div class="ge-equation">{mathml(part)}</div>' for part in lines(latex))


def _pitfalls(spec: Spec, head: bool) -> str:
    items = "".join(f"<li>{escape(one)}</li>" for one in spec.pitfalls)
    return (f"<h3>{escape(spec.title)}</h3>" if head else "") + f"<ul>{items}</ul>"
