"""Controls: a Knob as a widget whose kind follows from its type and range, menus, fields, and parts that fold away."""

import re
from collections.abc import Sequence
from typing import Any

import ipywidgets as W

from explorer.catalogue import Knob

DECADES = (0.0, 1e-4, 3e-4, 1e-3, 3e-3, 1e-2, 3e-2, 0.1, 0.3, 1.0, 3.0, 10.0)
LABELS = {"n_experts": "experts", "k": "k (per token)", "aux_loss": "auxiliary loss", "z_loss": "z-loss"}


def label(name: str) -> str:
    """What the control of a knob is called on the page."""
    return LABELS.get(name, name.replace("_", " "))


def as_labelled(sentence: str) -> str:
    """A sentence about knobs, each called as its control is."""
    return re.sub(r"\b[a-z]+(?:_[a-z]+)+\b", lambda found: f"“{label(found[0])}”", sentence)


STYLE = {"description_width": "124px"}
FIXED = " (fixed while a run is under way: press Reset first)"


def control(name: str, knob: Knob, value: Any, prefix: str = "") -> W.ValueWidget:
    """A labelled control that holds `value`; its tooltip is the knob's one line of meaning."""
    common = {"description": prefix + label(name), "tooltip": knob.meaning, "style": STYLE}
    if knob.choices is not None:
        return W.Dropdown(options=list(knob.choices), value=value, **common)
    if isinstance(knob.default, bool):
        return W.Checkbox(value=value, indent=False, **common)
    if isinstance(knob.default, str):
        return W.Text(value=value, continuous_update=False, **common)
    low = 0 if knob.low is None else knob.low
    if isinstance(knob.default, int):
        high = 1024 if knob.high is None else int(knob.high)
        kind = W.IntSlider if high <= 16 else W.BoundedIntText
        return kind(value=value, min=int(low), max=high, continuous_update=False, **common)
    high = 10.0 if knob.high is None else knob.high
    common["continuous_update"] = False
    if 1 < high <= 8:  # a factor; anything else spans orders of magnitude
        return W.FloatSlider(value=value, min=low, max=high, step=0.05, **common)
    stops = sorted({one for one in DECADES if low <= one <= high} | {float(value), float(knob.default)})
    return W.SelectionSlider(options=[(f"{one:g}", one) for one in stops], value=float(value), **common)


def fix(one: W.ValueWidget, knob: Knob, fixed: bool) -> None:
    """Disable a control with its reason, or give it free."""
    if one.disabled != fixed:
        one.disabled, one.tooltip = fixed, knob.meaning + (FIXED if fixed else "")


def dropdown(label: str, options: Sequence[tuple[str, Any]], value: Any, tooltip: str = "") -> W.Dropdown:
    """A menu of (what is shown, value)."""
    return W.Dropdown(options=options, value=value, description=label, tooltip=tooltip, style=STYLE)


def whole_number(label: str, value: int, low: int, high: int) -> W.BoundedIntText:
    """A field for a whole number."""
    return W.BoundedIntText(value=value, min=low, max=high, description=label, style=STYLE)


def button(label: str, tooltip: str, **more: Any) -> W.Button:
    """A button with its one line of meaning."""
    return W.Button(description=label, tooltip=tooltip, **more)


class Folded(W.VBox):
    """A part of the page behind a button that names it."""

    def __init__(self, title: str, *parts: W.Widget, unfolded: bool = False) -> None:
        self.title = title
        self.toggle = W.ToggleButton(value=unfolded, tooltip=f"show or hide: {title}").add_class("ge-fold")
        self.body = W.VBox(list(parts)).add_class("ge-folded")
        super().__init__([self.toggle, self.body])
        self.toggle.observe(self._fold, names=["value"])
        self._fold()

    def _fold(self, _: Any = None) -> None:
        self.toggle.description = ("▾ " if self.toggle.value else "▸ ") + self.title
        self.body.layout.display = "" if self.toggle.value else "none"
