"""How near the tokens are to another choice: a histogram of the routers' margins."""

from typing import Any

import numpy as np

from widgets.figures.layout import empty, key, layout
from widgets.figures.notes import nothing, titled
from widgets.figures.palette import GREY
from widgets.figures.picture import Picture, Plain
from widgets.figures.series import numbers
from widgets.figures.text import plain

BINS = 40
NEAR = 0.05


@Picture
def margin_histogram(
    margins_N: Any,
    layer: str = "",
    threshold: float | None = None,
    title: str = "Margins: how near to switching",
    of: str = "probabilities",
) -> Plain:
    """margins_N: score of a token's last chosen expert minus that of the first not chosen (`metrics.margin`).

    of: what the scores are; of probabilities, margins lie between 0 and 1.

    Coloured below the threshold (0.05 unless given): a small change of the router sends these tokens elsewhere; grey
    above. NaN is left out; so is infinity, the margin of a router that keeps every expert.
    """
    title, near = titled(title, layer), NEAR if threshold is None else float(threshold)
    margins_N = numbers(margins_N).reshape(-1)
    if len(margins_N) and np.isposinf(margins_N).all():
        return nothing(title, "No token can switch: every expert is chosen.")
    margins_N = margins_N[np.isfinite(margins_N)]
    if not len(margins_N):
        return empty(title)
    top = round_above(max(float(margins_N.max()), near * 1.2, 1e-6))
    number, edges = np.histogram(margins_N, bins=BINS, range=(min(0.0, float(margins_N.min())), top))
    middle = ((edges[1:] + edges[:-1]) / 2).astype(np.float32)
    share = (number / len(margins_N)).astype(np.float32)
    low = middle < near
    data = [
        _bars(middle[low], share[low], f"below {near:g}"),
        _bars(middle[~low], share[~low], f"{near:g} and above", GREY),
    ]
    level = {"type": "line", "xref": "x", "x0": near, "x1": near, "yref": "paper", "y0": 0, "y1": 1}
    marks: Plain = {
        "shapes": [{**level, "line": {"dash": "dash", "width": 1.5}}],
        "annotations": [key(f"dashed: {near:g}")],
    }
    below, middle_one = float((margins_N < near).mean()), float(np.median(margins_N))
    text = (
        f"{below:.0%} of {len(margins_N)} tokens have a margin below {near:g} and are near to switching; the median margin is "
        f"{middle_one:.2g}."
    )
    x_axis = {"range": [float(edges[0]), top], "title": {"text": f"margin (difference of {plain(of)})"}}
    y_axis = {"tickformat": ".0%", "rangemode": "tozero", "title": {"text": "share of tokens"}}
    shape = layout(plain(title), text, xaxis=x_axis, yaxis=y_axis, bargap=0.08, barmode="overlay", **marks)
    return {"data": data, "layout": {**shape, "hovermode": "closest"}}


def round_above(value: float) -> float:
    """The next of 1, 0.5, 0.2, 0.1, 0.05, …: an axis that keeps its end while a run goes on."""
    power = 10.0 ** np.floor(np.log10(value))
    return float(next(m * power for m in (1, 2, 5, 10) if m * power >= value * (1 - 1e-6)))


def _bars(x: np.ndarray, y: np.ndarray, name: str, colour: str = "") -> Plain:
    trace: Plain = {"type": "bar", "x": x, "y": y, "name": name}
    trace["hovertemplate"] = "margin about %{x:.2g}: %{y:.1%} of the tokens<extra></extra>"
    return {**trace, "marker": {"color": colour}} if colour else trace
