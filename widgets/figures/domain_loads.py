"""Which experts of a layer a domain's tokens go to, and how much domain and vocabulary say about them in each layer."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from widgets.figures.layers import UNTRACED, layer_axis, layer_labels, told
from widgets.figures.layout import bar, cells, empty, joined, layout, row_names
from widgets.figures.notes import titled
from widgets.figures.palette import DIVERGING
from widgets.figures.picture import Picture, Plain
from widgets.figures.series import numbers
from widgets.figures.text import clean, plain

MOST_CELLS_WITH_NUMBERS = 12
MOST_TOLD = 6


@Picture
def domain_loads(share_EC: Any, domains: Sequence[str], layer: str = "", title: str = "Loads by domain") -> Plain:
    """share_EC: of the assignments of domain c, the share that expert e took; columns sum to 1, fair is 1/E.

    The scale is that of the load map: pale at the fair share, blue below, brown above (twice and more look alike).
    """
    share_EC, title = numbers(share_EC), titled(title, layer)
    if share_EC.ndim != 2 or not np.isfinite(share_EC).any():
        return empty(title, UNTRACED)
    E, C = share_EC.shape
    names = row_names(list(domains)[:C] or [f"domain {c}" for c in range(C)])
    fair = 1 / E
    z = np.round(np.ascontiguousarray(share_EC.T), 6)
    heat: Plain = {"type": "heatmap", "z": z, "x": list(range(E)), "y": names, "zmin": 0, "zmax": 2 * fair}
    heat |= {"colorscale": [list(stop) for stop in DIVERGING], "hoverongaps": False}
    heat["colorbar"] = bar([0, fair, 2 * fair], ["0", "1 = fair", "≥2"])
    heat["hovertemplate"] = (
        f"%{{y}}: %{{z:.2%}} of its assignments go to expert %{{x}}, fair is {fair:.2%}<extra></extra>"
    )
    if E <= MOST_CELLS_WITH_NUMBERS:
        heat |= {"texttemplate": "%{z:.0%}", "textfont": {"size": 11 if E <= 8 else 9}}
    best = np.nan_to_num(share_EC).argmax(0)[:MOST_TOLD]
    told_of = [f"{clean(domains[c] if len(domains) > c else names[c])} to {e} ({share_EC[e, c] * E:.1f} times the fair share)"
               for c, e in enumerate(best) if np.isfinite(share_EC[e, c])]  # fmt: skip
    text = f"The expert that takes most of each domain: {joined(told_of)}."
    y_axis = {"type": "category", "autorange": "reversed", "title": {"text": ""}}
    shape = layout(plain(title), text, yaxis=y_axis, xaxis=cells(E), showlegend=False, hovermode="closest")
    return {"data": [heat], "layout": {**shape, "height": min(720, 170 + 32 * max(C, 3))}}


@Picture
def specialisation_by_layer(
    layers: Sequence[str],
    domain: Any,
    domain_floor: Any,
    vocabulary: Any,
    vocabulary_floor: Any,
    title: str = "Specialisation, layer by layer",
) -> Plain:
    """One number for each layer, 0..1: how much domain and first expert tell of each other, and token id and first expert.

    0 = nothing, 1 = one decides the other. The floors are what shuffled labels give, where there is nothing to find:
    only what lies above its floor counts. NaN is left out.
    """
    measures = {
        "domain": (numbers(domain).reshape(-1), numbers(domain_floor).reshape(-1), 0, "circle"),
        "vocabulary": (numbers(vocabulary).reshape(-1), numbers(vocabulary_floor).reshape(-1), 1, "square"),
    }
    measures = {name: one for name, one in measures.items() if np.isfinite(one[0]).any()}
    if not len(layers) or not measures:
        return empty(title, UNTRACED)
    labels, word = layer_labels(list(layers))
    data: list[Plain] = []
    for name, (values, floor, number, symbol) in measures.items():
        data.append(_line(labels, values, name, "solid", number, symbol))
        if np.isfinite(floor).any():
            data.append(_line(labels, floor, f"{name}, by chance", "dot", number, f"{symbol}-open"))
    text = "; ".join(_told(name, one, labels, word) for name, one in measures.items())
    y_axis = {"rangemode": "tozero", "title": {"text": "information, 0 to 1"}}
    shape = layout(plain(title), f"{text[0].upper()}{text[1:]}.", xaxis=layer_axis(labels, word), yaxis=y_axis)
    return {"data": data, "layout": {**shape, "height": 340}}


def _line(labels: list[str], y: np.ndarray, name: str, dash: str, colour: int, symbol: str) -> Plain:
    trace: Plain = {"type": "scatter", "x": labels, "y": np.round(y, 4), "name": name, "meta": {"colour": colour}}
    trace |= {"mode": "lines+markers", "line": {"width": 2, "dash": dash}, "hovertemplate": "%{y:.3f}"}
    return {**trace, "marker": {"symbol": symbol, "size": 7 if len(labels) <= 24 else 4}}


def _told(name: str, measure: tuple[np.ndarray, np.ndarray, int, str], labels: list[str], word: str) -> str:
    values, floor = measure[:2]
    most = int(np.nanargmax(values))
    chance = f", where chance gives {floor[most]:.2f}" if np.isfinite(floor[most]) else ""
    return f"by {name}, specialisation is highest in {told(labels[most], word)}, {values[most]:.2f}{chance}"
