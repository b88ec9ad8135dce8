"""A gate that chooses blocks of a text: where the attention truly is, what the gate predicts, and what it keeps."""

from typing import Any

import numpy as np

from widgets.figures.layout import empty, layout
from widgets.figures.picture import Picture, Plain
from widgets.figures.positions import percent
from widgets.figures.series import numbers
from widgets.figures.text import plain

MOST_BLOCKS = 96
NAMES = ("true", "predicted", "kept")
SHADES = [[0.0, "#12457A"], [0.5, "#12457A"], [0.5, "#FDE725"], [1.0, "#FDE725"]]


@Picture
def block_masks(
    truth_MM: Any,
    score_MM: Any,
    kept_MM: Any,
    recall: float = float("nan"),
    density: float = float("nan"),
    title: str = "Blocks worth attending to",
) -> Plain:
    """truth_MM: the attention map, its largest weight (or mass) in each block; score_MM: what the gate predicts; kept_MM:
    whether the block is computed. Rows are blocks of queries, columns blocks of keys; each map is coloured up to its own
    largest value.

    recall: share of the true attention inside the kept blocks, 0..1; density: share of the visible blocks that are kept,
    0..1; NaN = not told. Of more than 96 blocks a cell is the largest of several, or the share of them that is kept.
    """
    maps = [numbers(one) for one in (truth_MM, score_MM, kept_MM)]
    if maps[0].ndim != 2 or not np.isfinite(maps[0]).any() or len({one.shape for one in maps}) > 1:
        return empty(title)
    M = len(maps[0])
    every = -(-max(maps[0].shape) // MOST_BLOCKS)
    hidden = _ahead(maps)
    truth, score, kept = (np.where(hidden, np.nan, one) for one in maps)
    shown = [_peaks(truth, every), _peaks(score, every), _means(kept, every)]
    data = [_panel(n, one, every) for n, one in enumerate(shown)]
    told = [f"keeps {percent(density)} of the blocks"] if np.isfinite(density) else []
    told += [f"{percent(recall)} of the attention lies in them (recall)"] if np.isfinite(recall) else []
    cut = [f"each cell: the largest (kept: the mean) of {every} × {every} blocks"] if every > 1 else []
    subtitle = "; ".join([*told, *cut, "bright = much"])
    text = f"In a map of {M} × {M} blocks the gate {' and '.join(told) or 'keeps ' + str(int((maps[2] > 0).sum()))}."
    shape = layout(plain(title), text, subtitle, showlegend=False, hovermode="closest", **_axes())
    return {"data": data, "layout": {**shape, "height": 320}}


def _ahead(maps: list[np.ndarray]) -> np.ndarray:
    """The blocks of the future, if no map has anything there: they may not be seen, which is not the same as little."""
    ahead = np.triu(np.ones(maps[0].shape, dtype=bool), 1)
    nothing = not any(np.nan_to_num(one, neginf=0)[ahead].any() for one in (maps[0], maps[2]))
    return ahead if nothing else np.zeros_like(ahead)


def _peaks(map_MM: np.ndarray, every: int) -> np.ndarray:
    if every == 1:
        return map_MM
    rows = np.fmax.reduceat(map_MM, np.arange(0, map_MM.shape[0], every), axis=0)
    return np.fmax.reduceat(rows, np.arange(0, map_MM.shape[1], every), axis=1)


def _means(kept_MM: np.ndarray, every: int) -> np.ndarray:
    """The share of each cell's visible blocks that is kept; NaN where none is visible."""
    seen = np.isfinite(kept_MM)
    total, number = (
        np.add.reduceat(
            np.add.reduceat(one, np.arange(0, one.shape[0], every), 0), np.arange(0, one.shape[1], every), 1
        )
        for one in (np.where(seen, kept_MM > 0, 0).astype(np.float32), seen.astype(np.float32))
    )
    return np.where(number > 0, total / np.maximum(number, 1), np.nan)


def _panel(number: int, map_MM: np.ndarray, every: int) -> Plain:
    end = str(number + 1) if number else ""
    finite = map_MM[np.isfinite(map_MM)]
    low, high = (0.0, 1.0) if number == 2 or not len(finite) else (min(0.0, float(finite.min())), float(finite.max()))
    places = (every * np.arange(len(map_MM))).astype(np.int32)
    heat: Plain = {"type": "heatmap", "x": (every * np.arange(map_MM.shape[1])).astype(np.int32), "y": places}
    heat |= {
        "z": np.where(np.isfinite(map_MM), map_MM, np.nan).astype(np.float32),
        "zmin": low,
        "zmax": max(high, low + 1e-6),
        "showscale": False,
    }
    heat |= {"xaxis": f"x{end}", "yaxis": f"y{end}", "hoverongaps": False}
    if number == 2 and every == 1:
        heat |= {"colorscale": SHADES, "customdata": np.where(map_MM > 0, "kept", "left out")}
    value = f"{NAMES[number]} %{{z:.3g}}" if number < 2 else "%{customdata}" if every == 1 else "%{z:.0%} kept"
    heat["hovertemplate"] = f"queries of block %{{y}}, keys of block %{{x}}: {value}<extra></extra>"
    return heat


def _axes() -> Plain:
    """Three maps side by side that zoom together."""
    found: Plain = {}
    for n, name in enumerate(NAMES):
        end = str(n + 1) if n else ""
        label = f"{name}<br>(block of keys)" if n == 1 else name
        found[f"xaxis{end}"] = {"domain": [0.345 * n, 0.345 * n + 0.31], "nticks": 3}
        found[f"xaxis{end}"] |= {"title": {"text": label}, "tickangle": 0}
        found[f"yaxis{end}"] = {"autorange": "reversed", "nticks": 4}
        found[f"yaxis{end}"]["title"] = {"text": "" if n else "block of queries"}
        if n:
            found[f"xaxis{end}"]["matches"] = "x"
            found[f"yaxis{end}"] |= {"anchor": f"x{end}", "matches": "y", "showticklabels": False}
    return found
