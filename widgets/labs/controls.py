"""A Knob as a control: the kind of widget follows from the knob's type and range."""

from typing import Any

import ipywidgets as W

from explorer.catalogue import Knob

DECADES = (0.0, 1e-4, 3e-4, 1e-3, 3e-3, 1e-2, 3e-2, 0.1, 0.3, 1.0, 3.0, 10.0)
LABELS = {"n_experts": "experts", "k": "experts a token, k", "aux_loss": "auxiliary loss", "z_loss": "z-loss"}


def control(name: str, knob: Knob, value: Any) -> W.ValueWidget:
    """A labelled control that holds `value`; its tooltip is the knob's one line of meaning."""
    label = LABELS.get(name, name.replace("_", " "))
    common = {"description": label, "tooltip": knob.meaning, "style": {"description_width": "118px"}}
    if knob.choices is not None:
        return W.Dropdown(options=list(knob.choices), value=value, **common)
    if isinstance(knob.default, bool):
        return W.Checkbox(value=value, indent=False, **common)
    if isinstance(knob.default, int):
        low, high = int(knob.low or 0), int(knob.high if knob.high is not None else 1024)
        if high <= 64:
            return W.IntSlider(value=value, min=low, max=high, continuous_update=False, **common)
        return W.BoundedIntText(value=value, min=low, max=high, **common)
    low, high = float(knob.low or 0.0), float(knob.high if knob.high is not None else 10.0)
    if low > 0 or 1 < high <= 8:
        return W.FloatSlider(value=value, min=low, max=high, step=0.05, continuous_update=False, **common)
    steps = sorted({one for one in DECADES if low <= one <= high} | {float(value), float(knob.default)})
    return W.SelectionSlider(options=[(f"{one:g}", one) for one in steps], value=float(value), continuous_update=False, **common)
