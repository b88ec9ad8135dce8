"""Attention sinks of every head: those that grew on the first token, and those that were built in, each in its own panel."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from widgets.figures.layers import UNTRACED, layer_labels, told
from widgets.figures.layout import bar, cells, empty, layout
from widgets.figures.picture import Picture, Plain
from widgets.figures.series import numbers
from widgets.figures.text import plain

GAP, HEADING = 56, 22  # pixels between the two panels, and above the upper one
MOST_CELLS_WITH_NUMBERS = 128
NOTHING = 1e-4  # a share that is none
KINDS = ("emergent: on the first token", "learned: on no token")


@Picture
def sinks_by_layer(
    layers: Sequence[str], heads: Any, emergent: Any, learned: Any, title: str = "Attention sinks of every head"
) -> Plain:
    """One entry for each head: its layer, its number, and the shares of its attention, 0..1.

    emergent: what the first token got; learned: what went to the model's own sink, which is no token (0 for plain
    softmax, NaN where it was not recorded). The two are never added: the first grows by itself, the second is built in.
    """
    emergent, learned = numbers(emergent).reshape(-1), numbers(learned).reshape(-1)
    if not len(layers) or not (np.isfinite(emergent).any() or np.isfinite(learned).any()):
        return empty(title, UNTRACED)
    unique = list(dict.fromkeys(map(str, layers)))
    labels, word = layer_labels(unique)
    row = [unique.index(str(one)) for one in layers]
    head = np.asarray(list(heads), dtype=int)
    maps = [_map(row, head, values, len(unique)) for values in (emergent, learned)]
    data = [
        _panel(z, labels, word, kind, axis, shows_bar=not axis)
        for axis, (z, kind) in enumerate(zip(maps, ("first token", "sink of its own"), strict=True))
    ]
    panel = float(np.clip(12 * len(labels), 70, 270))
    learns = bool(np.isfinite(learned).any() and np.nanmax(learned) > NOTHING)
    low = panel if learns else 34.0  # a panel of nothing is a strip
    room = panel + low + GAP + HEADING
    below = {"autorange": "reversed", "type": "category", "nticks": 14, "title": {"text": word}}
    bare = {**below, "showticklabels": False, "title": {"text": ""}}
    across = cells(maps[0].shape[1])
    axes: Plain = {
        "xaxis": {**across, "title": {"text": ""}, "anchor": "y"},
        "xaxis2": {**across, "title": {"text": "head"}, "anchor": "y2"},
        "yaxis": {**below, "domain": [(low + GAP) / room, (low + GAP + panel) / room]},
        "yaxis2": {**(below if learns else bare), "domain": [0, low / room], "anchor": "x2"},
        "annotations": [_heading(KINDS[0], (low + GAP + panel) / room), _heading(_second(learned), low / room)],
    }
    shape = layout(plain(title), summary(labels, word, row, head, emergent, learned), showlegend=False, **axes)
    return {"data": data, "layout": {**shape, "height": int(room) + 150, "hovermode": "closest"}}


def _map(row: Sequence[int], head: np.ndarray, values: np.ndarray, layers: int) -> np.ndarray:
    z = np.full((layers, int(head.max()) + 1), np.nan, np.float32)
    z[row, head] = np.round(values, 4)
    return z


def _panel(z: np.ndarray, labels: list[str], word: str, what: str, number: int, shows_bar: bool) -> Plain:
    axis = str(number + 1) if number else ""
    heat: Plain = {"type": "heatmap", "z": z, "x": list(range(z.shape[1])), "y": labels, "zmin": 0, "zmax": 1}
    heat |= {"xaxis": f"x{axis}", "yaxis": f"y{axis}", "hoverongaps": False, "showscale": shows_bar}
    if shows_bar:
        heat["colorbar"] = bar([0, 0.5, 1], ["0", "half of its attention", "all"])
    heat["hovertemplate"] = f"{word} %{{y}}, head %{{x}}: %{{z:.1%}} on the {what}<extra></extra>".lstrip()
    if z.size <= MOST_CELLS_WITH_NUMBERS and z.shape[1] <= 12 and np.nanmax(z, initial=0) > NOTHING:
        heat |= {"texttemplate": "%{z:.0%}", "textfont": {"size": 11 if z.shape[1] <= 8 else 9}}
    return heat


def _second(learned: np.ndarray) -> str:
    if not np.isfinite(learned).any():
        return f"{KINDS[1]} (not recorded)"
    return KINDS[1] if np.nanmax(learned) > NOTHING else f"{KINDS[1]} (this model has none)"


def _heading(text: str, y: float) -> Plain:
    place = {"xref": "paper", "x": 0, "xanchor": "left", "yref": "paper", "y": y, "yanchor": "bottom"}
    return {"text": text, **place, "font": {"size": 12}}


def summary(
    labels: list[str], word: str, row: Sequence[int], head: np.ndarray, emergent: np.ndarray, learned: np.ndarray
) -> str:
    """One sentence, each kind by itself: the mean over the heads, and the strongest head."""
    parts = []
    for what, values in (("the first token", emergent), ("a learned sink", learned)):
        if not np.isfinite(values).any():
            parts.append(f"of {what} nothing was recorded")
        elif np.nanmax(values) <= NOTHING:
            parts.append(f"{what} gets nothing")
        else:
            most = int(np.nanargmax(values))
            where = f"head {head[most]} of {told(labels[row[most]], word)}"
            parts.append(f"{what} gets {np.nanmean(values):.0%} on average and most from {where}, {values[most]:.0%}")
    return f"Of the heads' attention, {'; '.join(parts)}."
