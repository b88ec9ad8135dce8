"""One number for each expert, or head, of every layer of a trained model: lengths of router rows, biases, learned sinks."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from widgets.figures.layout import bar, cells, empty, layout, row_names
from widgets.figures.palette import DIVERGING, SEQUENTIAL
from widgets.figures.picture import Picture, Plain
from widgets.figures.series import numbers
from widgets.figures.text import clean, plain

MOST_LAYERS = 128


@Picture
def by_layer(
    values: Sequence[Any],
    names: Sequence[str],
    title: str,
    of: str = "expert",
    signed: bool = False,
    ratio: bool = False,
) -> Plain:
    """values: for each layer its numbers, one for each `of` ("expert" or "head"); layers may have different numbers of them.

    signed: the colour is pale at 0, brown above, blue below. ratio: each number as a multiple of its layer's median, so
    that layers can be compared. Of more than 128 layers every second, fourth, ...
    """
    rows = [numbers([np.nan if x is None else x for x in row]).reshape(-1) for row in values]
    known = [row[np.isfinite(row)] for row in rows]
    if not any(map(len, known)):
        return empty(title, "There are no such numbers in this checkpoint.")
    if ratio:
        rows = [
            row / np.median(some) if len(some) and np.median(some) else row
            for row, some in zip(rows, known, strict=True)
        ]
    table = np.full((len(rows), max(map(len, rows))), np.nan, np.float32)
    for line, row in zip(table, rows, strict=True):
        line[: len(row)] = row
    every = 1 << max(0, int(np.ceil(np.log2(len(table) / MOST_LAYERS))))
    shown, labels = table[::every], row_names(list(names)[::every], 24)
    heat: Plain = {"type": "heatmap", "z": shown, "x": list(range(shown.shape[1])), "y": labels, "hoverongaps": False}
    heat |= _colours(shown[np.isfinite(shown)], signed, ratio)
    what = "%{z:.2f} of the layer's median" if ratio else "%{z:.4g}"
    heat["hovertemplate"] = f"%{{y}}, {of} %{{x}}: {what}<extra></extra>"
    y_axis = {"type": "category", "autorange": "reversed", "title": {"text": ""}, "nticks": 24}
    x_axis = {**cells(shown.shape[1]), "title": {"text": of}}
    subtitle = f"every {every}th layer" if every > 1 else "1 = the median of the layer" if ratio else ""
    shape = layout(
        plain(title), summary(table, [clean(name) for name in names], of), subtitle, yaxis=y_axis, xaxis=x_axis,
        showlegend=False, hovermode="closest",
    )  # fmt: skip
    height = min(760, 170 + max(90, min(24, 600 // len(shown) + 2) * len(shown)))
    return {"data": [heat], "layout": {**shape, "height": height}}


def _colours(known: np.ndarray, signed: bool, ratio: bool) -> Plain:
    low, high = float(known.min()), float(known.max())
    if signed:
        top = max(abs(low), abs(high)) or 1.0
        ends = {"zmin": -top, "zmax": top, "colorbar": bar([-top, 0, top], [f"−{top:.3g}", "0", f"{top:.3g}"])}
        return {**ends, "colorscale": [list(stop) for stop in DIVERGING]}
    if ratio:
        far = max(0.1, min(1.0, max(high - 1, 1 - low)))
        ends = {"zmin": 1 - far, "zmax": 1 + far}
        ends["colorbar"] = bar([1 - far, 1, 1 + far], [f"≤{1 - far:.2g}", "1", f"≥{1 + far:.2g}"])
        return {**ends, "colorscale": [list(stop) for stop in DIVERGING]}
    return {"colorscale": SEQUENTIAL, "colorbar": bar([low, high], [f"{low:.3g}", f"{high:.3g}"])}


def summary(table: np.ndarray, names: Sequence[str], of: str) -> str:
    """One sentence: the smallest and the largest number, and where they are."""
    low, high = (np.unravel_index(one(table), table.shape) for one in (np.nanargmin, np.nanargmax))
    return (
        f"The smallest is {table[low]:.3g}, of {of} {low[1]} in {names[low[0]]}; the largest {table[high]:.3g}, of {of} "
        f"{high[1]} in {names[high[0]]}."
    )
