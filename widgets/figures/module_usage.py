"""Which module every token of a text takes at every step: rows are steps or layers, columns are tokens."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from widgets.figures.layout import bar, empty, joined, layout, row_names
from widgets.figures.palette import LIGHT
from widgets.figures.picture import Picture, Plain
from widgets.figures.series import counts
from widgets.figures.text import clean, plain, visible

MOST_TOKENS = 96
MOST_NUMBERS = 640
MOST_COLOURS = len(LIGHT)
LONGEST_NAME = 20


@Picture
def module_usage(
    index_LT: Any,
    tokens: Sequence[str] = (),
    layer_names: Sequence[str] = (),
    n_experts: int = 0,
    title: str = "Module of every token at every step",
) -> Plain:
    """index_LT: the first module of each token at each step (L) of the assembly, -1 = none; of a text its first 96 tokens.

    A cell has its module's colour and, where there is room, its number; beyond ten modules colours repeat and the
    numbers tell them apart. Columns alike: all tokens build the same network. Rows alike: every step is the same layer.
    """
    index_LT = counts(index_LT)
    if index_LT.ndim != 2 or not index_LT.size:
        return empty(title)
    index_LT = index_LT[:, :MOST_TOKENS]
    L, T = index_LT.shape
    E = max(int(n_experts), int(index_LT.max()) + 1, 1)
    names = row_names([*layer_names][:L] + [f"step {i}" for i in range(len(layer_names), L)], LONGEST_NAME)
    words = [f"{t} {plain(visible(word), 8)}" for t, word in enumerate(tokens[:T])]
    words += [str(t) for t in range(len(words), T)]
    shown = np.where(index_LT < 0, np.nan, index_LT % MOST_COLOURS).astype(np.float32)
    used = min(E, MOST_COLOURS)
    heat: Plain = {"type": "heatmap", "z": shown, "x": words, "y": names, "zmin": -0.5, "zmax": used - 0.5}
    heat |= {"colorscale": steps_of_colour(used), "xgap": 1, "ygap": 1, "customdata": index_LT}
    heat |= (
        {"colorbar": bar(list(range(used)), [str(e) for e in range(used)])}
        if E <= MOST_COLOURS
        else {"showscale": False}
    )
    heat["hovertemplate"] = "%{y}, token %{x}: module %{customdata}<extra></extra>"
    if L * T <= MOST_NUMBERS:
        heat |= {"text": np.where(index_LT < 0, "", index_LT.astype(str)), "texttemplate": "%{text}"}
    y_axis = {"type": "category", "autorange": "reversed", "title": {"text": ""}}
    x_axis = {"type": "category", "title": {"text": "token"}, "nticks": 7, "tickangle": 0}
    text = summary(index_LT, names)
    shape = layout(plain(title), text, xaxis=x_axis, yaxis=y_axis, showlegend=False, hovermode="closest")
    return {"data": [heat], "layout": {**shape, "height": min(720, 170 + 26 * max(L, 3))}}


def steps_of_colour(number: int) -> list[list[Any]]:
    """A colour scale with one flat step for each of the first `number` colours."""
    stops: list[list[Any]] = []
    for i in range(number):
        stops += [[i / number, LIGHT[i]], [(i + 1) / number, LIGHT[i]]]
    return stops


def summary(index_LT: np.ndarray, names: Sequence[str]) -> str:
    """One sentence: how many different ways through the modules there are, and each step's favourite."""
    ways = len({tuple(column) for column in index_LT.T.tolist()})
    favourites = []
    for name, row in zip(names[:6], index_LT[:6], strict=False):
        taken = row[row >= 0]
        if len(taken):
            load = np.bincount(taken)
            favourites.append(f"module {int(load.argmax())} at {clean(name)} ({load.max() / len(row):.0%})")
    most = f"; taken most: {joined(favourites)}" if favourites else ""
    return f"The {index_LT.shape[1]} tokens take {ways} different ways through {len(index_LT)} steps{most}."
