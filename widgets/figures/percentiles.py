"""How the load spreads over the experts of each layer, from the idlest to the busiest."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from widgets.figures.layout import empty, layout, reference
from widgets.figures.palette import GREY
from widgets.figures.picture import Picture, Plain
from widgets.figures.series import numbers
from widgets.figures.text import clean, plain
from widgets.figures.token_path import tick_names

SHARES = (0.0, 0.1, 0.5, 0.9, 1.0)


@Picture
def utilisation_percentiles(
    utilisation_LE: Any, layer_names: Sequence[str] = (), title: str = "Spread of the load over the experts"
) -> Plain:
    """utilisation_LE: load / ideal load of each expert in each layer; 1 = fair, 0 = dead, E/k = takes everything.

    Each layer is one upright bar: from the idlest to the busiest expert (thin), the middle 80 % of the experts (thick),
    and their median (diamond). NaN (a layer with fewer experts) is left out.
    """
    used_LE = numbers(utilisation_LE)
    if used_LE.ndim != 2 or not np.isfinite(used_LE).any():
        return empty(title)
    L = len(used_LE)
    given = [clean(name) for name in layer_names] or [f"layer {i}" for i in range(L)]
    names, word = tick_names(given)
    spread_LQ = quantiles(used_LE)
    low, tenth, median, ninetieth, high = np.ascontiguousarray(spread_LQ.T)
    data = [
        _bar(names, tenth, ninetieth, 0.55, "10–90 %", {"opacity": 0.75}),
        _bar(names, low, high, 0.1 if L <= 12 else 0.25, "idlest–busiest", {"color": GREY}),
        _medians(names, spread_LQ),
    ]
    worst = int(np.nanargmax(high))
    text = (
        f"The widest spread is in {given[worst]}: from {low[worst]:.2f} to {high[worst]:.2f} of the ideal load, median "
        f"{median[worst]:.2f}; over {L} layers the busiest expert has {np.nanmin(high):.2f} to {np.nanmax(high):.2f}."
    )
    x_axis = {"type": "category", "title": {"text": word}, "range": [-0.5, L - 0.5]}
    y_axis = {"rangemode": "tozero", "title": {"text": "load / ideal load"}}
    shape = layout(plain(title), text, xaxis=x_axis, yaxis=y_axis, barmode="overlay", **reference(1, "1 = fair share"))
    return {"data": data, "layout": shape}


def quantiles(used_LE: np.ndarray, shares: Sequence[float] = SHARES) -> np.ndarray:
    """The same as numpy's nanquantile along the rows, (L, Q), without its loop in Python."""
    ordered = np.sort(used_LE, axis=1)  # NaN comes last
    known = np.isfinite(used_LE).sum(1)
    at = np.maximum(known - 1, 0)[:, None] * np.asarray(shares)
    below = np.floor(at).astype(int)
    above = np.minimum(below + 1, np.maximum(known - 1, 0)[:, None])
    low, high = np.take_along_axis(ordered, below, 1), np.take_along_axis(ordered, above, 1)
    return (low + (at - below) * (high - low)).astype(np.float32)


def _bar(names: list[str], low: np.ndarray, high: np.ndarray, width: float, name: str, marker: Plain) -> Plain:
    trace: Plain = {"type": "bar", "x": names, "base": low, "y": high - low, "width": width, "name": name}
    return {**trace, "marker": {**marker, "line": {"width": 0}}, "hoverinfo": "skip"}


def _medians(names: list[str], spread_LQ: np.ndarray) -> Plain:
    L = len(names)
    marker = {
        "symbol": "diamond",
        "size": 10 if L <= 24 else 5,
        "color": "#FFFFFF",
        "line": {"width": 1.5, "color": "#1F2328"},
    }
    trace: Plain = {"type": "scatter", "mode": "markers", "x": names, "y": np.ascontiguousarray(spread_LQ[:, 2])}
    trace |= {"name": "median", "marker": marker, "customdata": spread_LQ}
    trace["hovertemplate"] = (
        "idlest %{customdata[0]:.2f}, 10 % %{customdata[1]:.2f}, median %{y:.2f}, 90 % %{customdata[3]:.2f}, "
        "busiest %{customdata[4]:.2f}<extra></extra>"
    )
    return trace
