"""A Knob as a control: the kind of widget follows from the knob's type and range."""

from typing import Any

import ipywidgets as W

from explorer.catalogue import Knob

DECADES = (0.0, 1e-4, 3e-4, 1e-3, 3e-3, 1e-2, 3e-2, 0.1, 0.3, 1.0, 3.0, 10.0)
LABELS = {"n_experts": "experts", "k": "k (per token)", "aux_loss": "auxiliary loss", "z_loss": "z-loss"}
STYLE = {"description_width": "124px"}


def control(name: str, knob: Knob, value: Any) -> W.ValueWidget:
    """A labelled control that holds `value`; its tooltip is the knob's one line of meaning."""
    common = {"description": LABELS.get(name, name.replace("_", " ")), "tooltip": knob.meaning, "style": STYLE}
    if knob.choices is not None:
        return W.Dropdown(options=list(knob.choices), value=value, **common)
    if isinstance(knob.default, bool):
        return W.Checkbox(value=value, indent=False, **common)
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


def dropdown(label: str, options: list[tuple[str, Any]], value: Any) -> W.Dropdown:
    """A menu of (what is shown, value)."""
    return W.Dropdown(options=options, value=value, description=label, style=STYLE)


def whole_number(label: str, value: int, low: int, high: int) -> W.BoundedIntText:
    """A field for a whole number."""
    return W.BoundedIntText(value=value, min=low, max=high, description=label, style=STYLE)
