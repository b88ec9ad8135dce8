"""Massive activations: the largest number of the residual stream beside its median, layer by layer."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from widgets.figures.layout import empty, layout, line
from widgets.figures.palette import GREY
from widgets.figures.picture import Picture, Plain
from widgets.figures.series import numbers
from widgets.figures.text import clean, plain
from widgets.figures.token_path import tick_names

FACTOR = 1000.0  # massive: beyond 100 and about 1000 times the median, arXiv 2402.17762
NEAR = 100.0


@Picture
def massive_activations(
    max_L: Any, median_L: Any, names: Sequence[str] = (), title: str = "Largest activations of the residual stream"
) -> Plain:
    """max_L, median_L: largest and median |h| over tokens and channels after each layer (units of the activations, > 0).

    The axis is logarithmic: the gap between the lines is the ratio. Where a ratio comes within a factor of ten of
    1000, at which arXiv 2402.17762 speaks of massive activations (beyond a size of 100), that level is drawn as well.
    """
    max_L, median_L = (_positive(values) for values in (max_L, median_L))
    L = len(max_L)
    if len(median_L) != L or not np.isfinite(max_L).any():
        return empty(title)
    given = [clean(name) for name in names[:L]] + [f"layer {i}" for i in range(len(names), L)]
    labels, word = tick_names(given)
    ticks = np.array(labels)
    ratio_L = (max_L / median_L).astype(np.float32)
    sign = {"mode": "lines+markers", "customdata": ratio_L}
    where = f"{word} %{{x}}".strip()
    data = [
        line(ticks, max_L, "largest |h|", f"{where}: largest %{{y:.3g}}, %{{customdata:,.0f}} times the median<extra></extra>",
             **sign, marker={"symbol": "diamond", "size": 8}),
        line(ticks, median_L, "median |h|", f"{where}: median %{{y:.3g}}<extra></extra>",
             **sign, line={"dash": "dot"}, marker={"symbol": "circle", "size": 7}),
    ]  # fmt: skip
    if np.nanmax(np.nan_to_num(ratio_L)) >= NEAR:
        look: Plain = {"line": {"dash": "dash", "width": 1.5, "color": GREY}, "hoverinfo": "skip"}
        data.append({**line(ticks, FACTOR * median_L, f"{FACTOR:.0f} × median", **look), "hovertemplate": None})
    x_axis = {"type": "category", "title": {"text": word or "layer"}, "range": [-0.5, L - 0.5], "nticks": 8}
    y_axis = {
        "type": "log",
        "title": {"text": "|h| (activation units, log)"},
        **log_ticks(np.concatenate([max_L, median_L])),
    }
    shape = layout(plain(title), summary(max_L, ratio_L, given), xaxis=x_axis, yaxis=y_axis, hovermode="closest")
    return {"data": data, "layout": {**shape, "height": 340}}


def _positive(values: Any) -> np.ndarray:
    """As a row; what a logarithm cannot show is missing."""
    values_L = numbers(values).reshape(-1)
    return np.where(np.isfinite(values_L) & (values_L > 0), values_L, np.nan).astype(np.float32)


def log_ticks(values_N: np.ndarray) -> Plain:
    """A logarithmic axis with labels at 1, 2 and 5 of each power of ten, of a long range at the powers only.

    values_N: what is drawn, > 0 or NaN, at least one of them known.
    """
    low, high = np.log10(np.nanmin(values_N)), np.log10(np.nanmax(values_N))
    steps, every = ((1, 2, 5) if high - low <= 2.3 else (1,)), 1 + int((high - low) // 8)
    values = [m * 10.0**p for p in range(int(np.floor(low)), int(np.ceil(high)) + 1, every) for m in steps]
    room = 0.06 * max(high - low, 0.5)
    inside = [v for v in values if low - room <= np.log10(v) <= high + room]
    ends = [float(low - room), float(high + room)]
    return {"tickvals": inside, "ticktext": [f"{v:,.5g}" for v in inside], "range": ends}


def summary(max_L: np.ndarray, ratio_L: np.ndarray, names: Sequence[str]) -> str:
    """One sentence: the largest activation, its ratio to the median, and whether that is massive."""
    top = int(np.nan_to_num(max_L).argmax())
    if not np.isfinite(ratio_L[top]):
        return f"The largest activation is {max_L[top]:.3g}, after {names[top]}; its layer's median is unknown."
    massive = (max_L > 100) & (ratio_L >= FACTOR)
    verdict = (
        f"massive in {int(massive.sum())} of {len(names)} layers" if massive.any() else "no layer has massive ones"
    )
    return (
        f"The largest activation is {max_L[top]:.3g}, after {names[top]}, {ratio_L[top]:,.0f} times the median there; "
        f"{verdict} (above 100 and 1000 times the median)."
    )
