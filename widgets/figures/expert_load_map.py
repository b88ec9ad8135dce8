"""The load of every expert in every layer of a trained model, as one map that 60 layers of 256 experts fit into."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from widgets.figures.layers import UNTRACED, layer_labels, layer_rows, told
from widgets.figures.layout import bar, cells, empty, layout
from widgets.figures.palette import DIVERGING
from widgets.figures.picture import Picture, Plain
from widgets.figures.series import numbers
from widgets.figures.text import plain

MOST_CELLS_WITH_NUMBERS = 256
MOST_MARKS = 1500
DEAD = 0.01  # of the fair share, as in explorer.analyses.routes.utilisation
ON_BLUE = "#F4F1EA"  # 8:1 on the blue of a dead expert


@Picture
def expert_load_map(
    load_LE: Any, layer_names: Sequence[str] = (), title: str = "Load of every expert", dead_below: float = DEAD
) -> Plain:
    """load_LE: each expert's share of its layer's assignments, 0..1; rows sum to 1, NaN behind a layer's last expert.

    Pale at the fair share 1/E, blue below, brown above (twice and more look alike). A cross marks an expert that got
    less than `dead_below` of the fair share.
    """
    load_LE = numbers(load_LE)
    if load_LE.ndim != 2 or not np.isfinite(load_LE).any():
        return empty(title, UNTRACED)
    L, E = load_LE.shape
    labels, word = layer_labels(list(layer_names) or [f"layer {i}" for i in range(L)])
    fair_L = fair_shares(load_LE)
    used_LE = load_LE / fair_L[:, None]
    dead_LE = used_LE < dead_below
    heat, few = _heat(load_LE, used_LE, fair_L, labels, word), load_LE.size <= MOST_CELLS_WITH_NUMBERS and E <= 12
    data = [heat | _numbers(load_LE, dead_LE)] if few else [heat, *_crosses(dead_LE, labels)]
    subtitle = (
        f"× less than {dead_below:.0%} of the fair share: {dead_LE.sum()} of {np.isfinite(used_LE).sum():,} experts"
    )
    # the crosses would make room for themselves around the map
    down = {**layer_rows(word), "range": [L - 0.5, -0.5], "autorange": False}
    across = {**cells(E), "range": [-0.5, E - 0.5]}
    shape = layout(
        plain(title), summary(used_LE, dead_LE, labels, word), subtitle if dead_LE.any() else "", yaxis=down, xaxis=across,
        showlegend=False, hovermode="closest",
    )  # fmt: skip
    return {"data": data, "layout": {**shape, "height": map_height(L)}}


def fair_shares(load_LE: np.ndarray) -> np.ndarray:
    """1 / E of each layer, by the experts that have a number; NaN for a layer without any."""
    known_L = np.isfinite(load_LE).sum(1)
    return np.where(known_L > 0, 1 / np.maximum(known_L, 1), np.nan).astype(np.float32)


def map_height(layers: int) -> int:
    """Pixels: rows of 30 px, of 9 px where there are many, and never more than a screen."""
    return int(min(760, 180 + max(90, layers * np.clip(480 / layers, 9, 30))))


def _heat(load_LE: np.ndarray, used_LE: np.ndarray, fair_L: np.ndarray, labels: list[str], word: str) -> Plain:
    """The share where all layers have one fair share, else its multiple: no second number has to travel for each cell."""
    where = f"{word} %{{y}}, expert %{{x}}".strip()
    fair = np.unique(fair_L[np.isfinite(fair_L)])
    if len(fair) == 1:
        one = float(fair[0])
        z, ends = np.round(load_LE, 6), [0.0, one, 2 * one]
        hover = f"{where}: %{{z:.2%}} of the assignments; fair is {one:.2%}"
    else:
        z, ends = np.round(used_LE, 3), [0.0, 1.0, 2.0]
        hover = f"{where}: %{{z:.2f}} of its fair share"
    heat: Plain = {"type": "heatmap", "z": z, "x": list(range(z.shape[1])), "y": labels, "hoverongaps": False}
    heat |= {"zmin": ends[0], "zmax": ends[2], "colorscale": [list(stop) for stop in DIVERGING]}
    heat |= {"colorbar": bar(ends, ["0", "1 = fair", "≥2"]), "hovertemplate": f"{hover}<extra></extra>"}
    return heat


def _numbers(load_LE: np.ndarray, dead_LE: np.ndarray) -> Plain:
    """The share in each cell, with the cross of a dead expert before it."""
    cells = zip(load_LE.tolist(), dead_LE.tolist(), strict=True)
    text = [[f"{'× ' * dead}{x:.0%}" if x == x else "" for x, dead in zip(*row, strict=True)] for row in cells]
    return {"text": text, "texttemplate": "%{text}", "textfont": {"size": 11 if load_LE.shape[1] <= 8 else 9}}


def _crosses(dead_LE: np.ndarray, labels: list[str]) -> list[Plain]:
    layer, expert = np.nonzero(dead_LE)
    if not len(layer) or len(layer) > MOST_MARKS:
        return []
    size = 8 if dead_LE.shape[1] <= 32 else 5 if dead_LE.shape[1] <= 128 else 4.5
    marker = {"symbol": "x-thin", "size": size, "line": {"width": 1.2, "color": ON_BLUE}, "color": ON_BLUE}
    marks: Plain = {
        "type": "scatter",
        "mode": "markers",
        "x": expert.astype(np.int16),
        "name": "dead",
        "marker": marker,
    }
    return [{**marks, "y": [labels[i] for i in layer.tolist()], "hoverinfo": "skip"}]


def summary(used_LE: np.ndarray, dead_LE: np.ndarray, labels: list[str], word: str) -> str:
    """One sentence: the busiest expert, and how many are dead in how many layers."""
    layer, expert = divmod(int(np.nanargmax(used_LE)), used_LE.shape[1])
    dead, places = int(dead_LE.sum()), np.flatnonzero(dead_LE.any(1))
    gone = "no expert is dead"
    if dead:
        verb = "expert is" if dead == 1 else "experts are"
        gone = (
            f"{dead} {verb} dead, in {told(labels[places[0]], word) if len(places) == 1 else f'{len(places)} layers'}"
        )
    return (
        f"The busiest expert is {expert} of {told(labels[layer], word)} with {used_LE[layer, expert]:.1f} times the fair "
        f"share; {gone}."
    )
