"""Two kinds of sink beside each other, head by head: attention on the first token, and attention that goes nowhere."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from widgets.figures.layout import empty, key, layout, row_names
from widgets.figures.picture import Picture, Plain
from widgets.figures.positions import percent, telling
from widgets.figures.series import numbers
from widgets.figures.text import clean, plain

MOST_BARS = 40


@Picture
def head_shares(
    names: Sequence[str],
    first_H: Any,
    elsewhere_H: Any = None,
    even: float | None = None,
    title: str = "Where each head's attention rests",
) -> Plain:
    """first_H: share of its attention that each head gives the first token (a sink that grew), 0..1; elsewhere_H: share
    that goes to no token (1 - the row's sum: a learned sink takes it, or weights need not sum to 1). They are different
    things and never added. even: the share of the first token if attention were even. Of more than 40 heads, those with the
    largest of either share.
    """
    first_H = numbers(first_H).reshape(-1)
    if not np.isfinite(first_H).any() and (elsewhere_H is None or not np.isfinite(numbers(elsewhere_H)).any()):
        return empty(title)
    H = len(first_H)
    elsewhere = None if elsewhere_H is None else numbers(elsewhere_H).reshape(-1)
    given = [clean(name) for name in names[:H]] + [f"head {h}" for h in range(len(names), H)]
    kept = telling(first_H if elsewhere is None else np.fmax(first_H, elsewhere), MOST_BARS)
    labels = row_names([given[h] for h in kept], 20)
    data = [_bars(labels, first_H[kept], "first token (grown sink)", "")]
    if elsewhere is not None:
        data.append(_bars(labels, elsewhere[kept], "nowhere: to no token", "/"))
    y_axis = {"type": "category", "autorange": "reversed", "title": {"text": ""}}
    x_axis = {"range": [0, 1], "tickformat": ".0%", "title": {"text": "share of attention"}, "nticks": 5}
    subtitle = f"the {len(kept)} of {H} heads with the largest shares" if len(kept) < H else ""
    rows = len(kept) * len(data)
    shape = layout(
        plain(title), summary(given, first_H, elsewhere, even), subtitle, xaxis=x_axis, yaxis=y_axis, hovermode="closest",
        bargap=0.25, **_even(even),
    )  # fmt: skip
    return {"data": data, "layout": {**shape, "height": min(860, 170 + max(18 * len(kept), 12 * rows, 90))}}


def _bars(labels: Sequence[str], share_H: np.ndarray, name: str, pattern: str) -> Plain:
    trace: Plain = {"type": "bar", "orientation": "h", "x": share_H, "y": list(labels), "name": name}
    trace |= {"marker": {"pattern": {"shape": pattern, "size": 6, "solidity": 0.45}}}
    return {**trace, "hovertemplate": f"%{{y}}: %{{x:.1%}} of its attention goes to {_where(name)}<extra></extra>"}


def _where(name: str) -> str:
    return "the first token" if name.startswith("first") else "no token at all"


def _even(even: float | None) -> Plain:
    if even is None or not np.isfinite(even):
        return {}
    line = {"type": "line", "xref": "x", "x0": even, "x1": even, "yref": "paper", "y0": 0, "y1": 1}
    return {
        "shapes": [{**line, "line": {"dash": "dash", "width": 1.5}}],
        "annotations": [key(f"dashed: even attention {percent(even)}")],
    }


def summary(names: Sequence[str], first_H: np.ndarray, elsewhere_H: np.ndarray | None, even: float | None) -> str:
    """One sentence: the head with the most of each kind."""
    top = int(np.nan_to_num(first_H, nan=-1).argmax())
    text = f"The first token receives most in {names[top]}, {percent(float(first_H[top]))} of its attention"
    if even is not None and np.isfinite(even):
        text += f" (even attention: {percent(even)})"
    if elsewhere_H is not None:
        other = int(np.nan_to_num(elsewhere_H, nan=-1).argmax())
        text += f"; most goes nowhere in {names[other]}, {percent(float(elsewhere_H[other]))}"
    return text + "."
