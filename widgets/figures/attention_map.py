"""One head's attention: who looks at whom, and what goes nowhere."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from widgets.figures.layout import bar, empty, layout
from widgets.figures.margins import round_above
from widgets.figures.picture import Picture, Plain
from widgets.figures.positions import first_word, percent, stretches, token_axis
from widgets.figures.series import numbers
from widgets.figures.text import clean, plain, visible


@Picture
def attention_map(
    map_TS: Any, tokens: Sequence[str] = (), name: str = "", elsewhere_T: Any = None, title: str = "Attention map"
) -> Plain:
    """map_TS: the weight, 0..1, with which query T looks at key S; fewer queries than keys are the last positions.

    elsewhere_T: what each query gives to no token (to a learned sink, say), 1 - its row's sum, drawn as a column of its own.
    Cells that a causal head may not see are empty. Up to 128 positions singly; of longer texts each cell is the largest
    weight of a block, and the first token stays by itself.
    """
    map_TS = numbers(map_TS)
    title = f"{title}, {name}" if name else title
    if map_TS.ndim != 2 or not np.isfinite(map_TS).any():
        return empty(title)
    T, S = map_TS.shape
    words = [str(token) for token in tokens[:S]]
    shown_TS = without_future(map_TS)
    rows, columns = stretches(T), stretches(S)
    top = _top(map_TS)
    hover = "query %{y} gives %{z:.1%} of its attention to key %{x}<extra></extra>"
    heat: Plain = {"type": "heatmap", "z": rows.peaks(columns.peaks(shown_TS), 0), "x": columns.names(words)}
    heat |= {"y": rows.names(words[S - T :] if len(words) == S else ()), "zmin": 0, "zmax": top, "hoverongaps": False}
    heat |= {"hovertemplate": hover, "colorbar": bar([0, top], ["0%", ("≥" if top < 1 else "") + percent(top)])}
    y_axis: Plain = {"type": "category", "title": {"text": "query"}, "nticks": 12, "autorange": "reversed"}
    data = [heat]
    axes: Plain = {"xaxis": token_axis("key (looked at)", heat["x"]), "yaxis": y_axis}
    nowhere_T = None if elsewhere_T is None else numbers(elsewhere_T)
    if nowhere_T is not None:
        data.append(_nowhere(heat, rows.peaks(nowhere_T)))
        axes["xaxis"]["domain"] = [0, 0.87]
        axes["xaxis2"] = {"type": "category", "domain": [0.9, 1], "tickangle": 0, "side": "top", "title": {"text": ""}}
    every = max(rows.every, columns.every)
    subtitle = f"each cell: the largest weight of up to {rows.every} × {columns.every}" if every > 1 else ""
    text = summary(map_TS, words, nowhere_T)
    shape = layout(plain(title), text, subtitle, showlegend=False, hovermode="closest", **axes)
    return {"data": data, "layout": {**shape, "height": 440}}


def without_future(map_TS: np.ndarray) -> np.ndarray:
    """The map with NaN where no query looks ahead, if none does: what may not be seen is no small weight."""
    T, S = map_TS.shape
    if T > S or (np.triu(map_TS, S - T + 1) > 0).any():
        return map_TS
    return np.where(np.tri(T, S, S - T, dtype=bool), map_TS, np.nan)


def _top(map_TS: np.ndarray) -> float:
    """The weight at which colours end: the largest of the later queries; the first few look at few keys, by force."""
    later = map_TS[len(map_TS) // 8 :]
    largest = float(np.nanmax(later if np.isfinite(later).any() else map_TS))
    return min(1.0, round_above(max(largest, 1e-3)))


def _nowhere(heat: Plain, elsewhere_T: np.ndarray) -> Plain:
    hover = "query %{y} gives %{z:.1%} of its attention to no token at all<extra></extra>"
    column = {"x": ["nowhere"], "z": elsewhere_T[:, None], "xaxis": "x2", "hovertemplate": hover, "zmin": 0, "zmax": 1}
    return {**heat, **column, "zmax": heat["zmax"], "showscale": False}


def summary(map_TS: np.ndarray, tokens: Sequence[str], elsewhere_T: np.ndarray | None) -> str:
    """One sentence: the mean share of the first token, the largest weight beside it, and what goes nowhere."""
    T, S = map_TS.shape
    later = map_TS[1:, 0] if T == S and T > 1 else map_TS[:, 0]
    later = later[np.isfinite(later)]
    share = float(later.mean()) if len(later) else np.nan
    text = f"Queries give {percent(share)} of their attention to {first_word(tokens)}, on average"
    rest = np.nan_to_num(map_TS[:, 1:], nan=-1)
    if rest.size and rest.max() > 0:
        t, s = np.unravel_index(rest.argmax(), rest.shape)
        query, key = (_position(at, tokens) for at in (int(t) + S - T, int(s) + 1))
        text += f"; the largest weight beside it is {percent(float(rest[t, s]))}, of {query} on {key}"
    if elsewhere_T is not None and np.isfinite(elsewhere_T).any():
        text += f"; {percent(float(np.nanmean(elsewhere_T)))} goes nowhere"
    return text + "."


def _position(at: int, tokens: Sequence[str]) -> str:
    return f"position {at}" + (f" “{clean(visible(tokens[at]), 8)}”" if at < len(tokens) else "")
