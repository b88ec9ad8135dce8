"""How much of its routing a checkpoint shares with another, layer by layer."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from widgets.figures.layers import UNTRACED, layer_axis, layer_labels, told
from widgets.figures.layout import empty, layout
from widgets.figures.notes import nothing
from widgets.figures.palette import GREY
from widgets.figures.picture import Picture, Plain
from widgets.figures.series import numbers
from widgets.figures.text import plain


@Picture
def saturation_by_layer(
    layers: Sequence[str], saturation: Any, chance: Any, agreement: Any = None, title: str = "Choices that both make"
) -> Plain:
    """One number for each layer, 0..1. saturation: the share of A's choices that B makes too, experts as numbered.

    agreement: the same with B's experts renumbered so that most choices meet; chance: what loads like these give without
    any likeness. NaN (not the same tokens) is left out.
    """
    lines = [
        ("experts as numbered", numbers(saturation).reshape(-1), {"dash": "solid"}, "circle", 0),
        (
            "experts matched",
            numbers([] if agreement is None else agreement).reshape(-1),
            {"dash": "dash"},
            "diamond",
            1,
        ),
        ("by chance", numbers(chance).reshape(-1), {"dash": "dot", "color": GREY}, "circle-open", None),
    ]
    if not len(layers):
        return empty(title, UNTRACED)
    labels, word = layer_labels(list(layers))
    known = [one for one in lines if len(one[1]) == len(labels) and np.isfinite(one[1]).any()]
    if not known or known[0][0] == "by chance":
        return nothing(title, "The two were not given the same tokens: their choices cannot be compared one by one.")
    data = []
    for name, values, stroke, symbol, colour in known:
        trace: Plain = {"type": "scatter", "mode": "lines+markers", "x": labels, "y": np.round(values, 4), "name": name}
        trace |= {"line": {"width": 2, **stroke}, "hovertemplate": "%{y:.1%}"}
        trace["marker"] = {"symbol": symbol, "size": 8 if len(labels) <= 24 else 5}
        data.append({**trace, "meta": {"colour": colour}} if colour is not None else trace)
    axes: Plain = {
        "xaxis": layer_axis(labels, word),
        "yaxis": {"range": [0, 1.03], "tickformat": ".0%", "title": {"text": "share of the choices"}},
    }
    shape = layout(plain(title), summary(labels, word, known), **axes)
    return {"data": data, "layout": {**shape, "height": 340}}


def summary(labels: list[str], word: str, lines: Sequence[tuple[str, np.ndarray, Any, str, Any]]) -> str:
    """One sentence: where the two are least alike, and the mean of every line."""
    values = lines[0][1]
    least = int(np.nanargmin(values))
    means = ", ".join(f"{np.nanmean(one[1]):.0%} {one[0]}" for one in lines)
    return (
        f"The two agree least in {told(labels[least], word)}, on {values[least]:.0%} of the choices ({lines[0][0]}); the mean "
        f"over the layers is {means}."
    )
