"""Several models on the same text: how many experts they use, how sure they are, and what their experts specialise in."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from widgets.figures.layers import UNTRACED
from widgets.figures.layout import empty, joined, layout, row_names
from widgets.figures.picture import Picture, Plain
from widgets.figures.series import numbers
from widgets.figures.text import clean, plain

MOST_MODELS = 8
PATTERNS = ("", "/", ".", "x", "-", "\\", "+", "|")
MEASURES = {
    "effective_share": "effective experts",
    "token_entropy": "token entropy",
    "margin": "margin",
    "domain_nmi": "domain NMI",
    "domain_floor": "… by chance",
    "first_token_share": "first-token share",
}


@Picture
def side_by_side(
    names: Sequence[str],
    effective_share: Any = (),
    token_entropy: Any = (),
    margin: Any = (),
    domain_nmi: Any = (),
    domain_floor: Any = (),
    first_token_share: Any = (),
    title: str = "Models side by side",
) -> Plain:
    """One number for each of up to eight models, each 0..1 and averaged over its layers; NaN or nothing is left out.

    effective_share: effective number of experts / experts; token_entropy: 0 sure, 1 even; margin: probability of the last
    chosen expert minus that of the first left out; domain_nmi with its floor; first_token_share: of the attention.
    """
    given = (effective_share, token_entropy, margin, domain_nmi, domain_floor, first_token_share)
    columns = {label: numbers(list(values)) for label, values in zip(MEASURES.values(), given, strict=True)}
    columns = {label: values for label, values in columns.items() if np.isfinite(values).any()}
    if not len(names) or not columns:
        return empty(title, UNTRACED)
    shown = row_names(list(names)[:MOST_MODELS], 28)
    rows = list(columns)
    data = [_bars(name, rows, [float(columns[row][m]) for row in rows], m) for m, name in enumerate(shown)]
    top = max(float(np.nanmax(values)) for values in columns.values())
    axes: Plain = {
        "xaxis": {"range": [0, max(1.0, top) * 1.12], "title": {"text": "0 to 1, mean over the layers"}, "nticks": 6},
        "yaxis": {"type": "category", "autorange": "reversed", "title": {"text": ""}},
    }
    shape = layout(
        plain(title), summary([clean(name) for name in names], columns), hovermode="closest", barmode="group",
        bargap=0.25, **axes,
    )  # fmt: skip
    height = 150 + len(rows) * (22 + 18 * len(shown)) + 10 * len(shown)
    return {"data": data, "layout": {**shape, "height": min(1100, height)}}


def _bars(name: str, rows: list[str], values: list[float], number: int) -> Plain:
    bars: Plain = {"type": "bar", "orientation": "h", "name": name, "y": rows, "x": np.round(numbers(values), 4)}
    bars |= {"marker": {"pattern": {"shape": PATTERNS[number % len(PATTERNS)], "size": 6}}}
    bars |= {"texttemplate": "%{x:.2f}", "textposition": "outside", "cliponaxis": False}
    return {**bars, "hovertemplate": f"{name}: %{{y}} %{{x:.3f}}<extra></extra>"}


def summary(names: Sequence[str], columns: dict[str, np.ndarray]) -> str:
    """One sentence: which model uses most of its experts, or the first measure there is."""
    label, values = next(iter(columns.items()))
    order = np.argsort(-np.nan_to_num(values, nan=-1))[:4]
    told = [f"{names[i]} {values[i]:.2f}" for i in order.tolist() if np.isfinite(values[i])]
    return f"{label.capitalize()}: {joined(told)}; shown are {joined(list(columns))}."
