"""How evenly each layer of a trained model uses its experts: percentiles of the load, and the dead experts below."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from widgets.figures.layers import UNTRACED, layer_axis, layer_labels, told
from widgets.figures.layout import empty, layout, reference
from widgets.figures.palette import GREY
from widgets.figures.picture import Picture, Plain
from widgets.figures.series import numbers
from widgets.figures.text import plain

FEW = 24


@Picture
def utilisation_spread(
    layers: Sequence[str],
    low: Any,
    p10: Any,
    median: Any,
    p90: Any,
    high: Any,
    dead: Any = None,
    title: str = "Spread of the load, layer by layer",
) -> Plain:
    """One number for each layer: the idlest expert's load, the percentiles 10, 50 and 90, and the busiest's; 1 = fair.

    The bars are the middle 80 % of the experts; lines run along the idlest, the median and the busiest. dead: how many
    experts of the layer are dead, a bar each in a panel of its own.
    """
    spread_QL = [numbers(values).reshape(-1) for values in (low, p10, median, p90, high)]
    if not len(layers) or not np.isfinite(spread_QL[2]).any():
        return empty(title, UNTRACED)
    labels, word = layer_labels(list(layers))
    lowest, tenth, middle, ninetieth, highest = (np.round(values, 3) for values in spread_QL)
    marks = "lines+markers" if len(labels) <= FEW else "lines"
    hover = "%{y:.2f} of the fair share"
    data: list[Plain] = [
        {"type": "bar", "x": labels, "base": tenth, "y": ninetieth - tenth, "name": "middle 80 %", "opacity": 0.6,
         "marker": {"line": {"width": 0}}, "customdata": ninetieth,
         "hovertemplate": "%{base:.2f} to %{customdata:.2f} of the fair share"},
        _line(labels, highest, "busiest", marks, hover, "dash", "triangle-up"),
        _line(labels, middle, "median", marks, hover, "solid", "diamond"),
        _line(labels, lowest, "idlest", marks, hover, "dot", "triangle-down"),
    ]  # fmt: skip
    axes: Plain = {
        "xaxis": layer_axis(labels, word),
        "yaxis": {"rangemode": "tozero", "title": {"text": "load / fair share"}},
    }
    dead_L = np.zeros(0) if dead is None else numbers(dead).reshape(-1)
    if dead_L.size and np.nansum(dead_L) > 0:
        _with_dead(data, axes, labels, dead_L)
    shape = layout(
        plain(title), summary(labels, word, spread_QL, dead_L), bargap=0.35 if len(labels) <= FEW else 0, **axes,
        **reference(1, "1 = fair share"),
    )  # fmt: skip
    return {"data": data, "layout": {**shape, "height": 420 if "yaxis2" in axes else 330}}


def _line(labels: list[str], y: np.ndarray, name: str, mode: str, hover: str, dash: str, symbol: str) -> Plain:
    trace: Plain = {"type": "scatter", "mode": mode, "x": labels, "y": y, "name": name, "hovertemplate": hover}
    return {**trace, "line": {"width": 2, "dash": dash}, "marker": {"symbol": symbol, "size": 7}}


def _with_dead(data: list[Plain], axes: Plain, labels: list[str], dead_L: np.ndarray) -> None:
    """The panel of dead experts, below the other, over the same layers."""
    data.append(
        {"type": "bar", "x": labels, "y": dead_L, "name": "dead experts", "yaxis": "y2", "marker": {"color": GREY},
         "hovertemplate": "%{y:.0f} dead"}
    )  # fmt: skip
    axes["yaxis"]["domain"] = [0.36, 1]
    axes["yaxis2"] = {"domain": [0, 0.24], "title": {"text": "dead"}, "rangemode": "tozero", "nticks": 4}
    axes["xaxis"]["anchor"] = "y2"


def summary(labels: list[str], word: str, spread_QL: Sequence[np.ndarray], dead_L: np.ndarray) -> str:
    """One sentence: the layer with the busiest expert, the usual spread, and the dead."""
    low, tenth, _, ninetieth, high = spread_QL
    worst = int(np.nanargmax(high))
    gone = int(np.nansum(dead_L))
    dead = f"; {gone} expert{' is' if gone == 1 else 's are'} dead" if gone else ""
    return (
        f"The widest spread is in {told(labels[worst], word)}, from {low[worst]:.2f} to {high[worst]:.2f} of the fair share; "
        f"over the layers the middle 80 % of the experts have {np.nanmean(tenth):.2f} to {np.nanmean(ninetieth):.2f}{dead}."
    )
