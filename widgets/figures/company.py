"""Experts that work together: the pairs that share most tokens for their loads, and all pairs of one layer."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from widgets.figures.layers import UNTRACED, layer_labels, told
from widgets.figures.layout import bar, empty, layout
from widgets.figures.notes import nothing, titled
from widgets.figures.pairs import block, square, strongest, without_diagonal
from widgets.figures.palette import DIVERGING
from widgets.figures.picture import Picture, Plain
from widgets.figures.series import numbers
from widgets.figures.text import plain

MOST_PAIRS = 20
BLUE, PALE_BLUE, PALE, PALE_BROWN, BROWN = (colour for _, colour in DIVERGING)


@Picture
def strongest_pairs(
    layers: Sequence[str], a: Any, b: Any, lift: Any, together: Any = None, title: str = "Pairs that keep company"
) -> Plain:
    """One entry for each pair of experts a and b of a layer, the first shown on top, at most 20.

    lift: how often the two share a token, over what their loads alone would give; 1 = chance. together: how many tokens.
    """
    n = min(MOST_PAIRS, len(layers))
    lift_P = np.round(numbers(lift).reshape(-1)[:n], 2)
    if not n or not np.isfinite(lift_P).any():
        return (
            empty(title, UNTRACED) if not len(layers) else nothing(title, "No pair shares enough tokens to be shown.")
        )
    a_P, b_P = (np.asarray(list(values)[:n], dtype=int) for values in (a, b))
    unique = list(dict.fromkeys(map(str, layers)))
    labels, word = layer_labels(unique)
    short = dict(zip(unique, labels, strict=True))
    names = [f"{told(short[str(one)], word)}: {x} + {y}" for one, x, y in zip(layers, a_P, b_P, strict=False)]
    bars: Plain = {"type": "bar", "orientation": "h", "x": lift_P, "y": names, "name": "lift"}
    bars |= {"texttemplate": "%{x:.1f}", "textposition": "inside", "insidetextanchor": "end", "textangle": 0}
    bars["hovertemplate"] = "%{y}: %{x:.2f} times as often as by chance<extra></extra>"
    if together is not None:
        bars["customdata"] = np.asarray(numbers(together).reshape(-1)[:n])
        bars["hovertemplate"] = "%{y}: %{customdata:,.0f} tokens, %{x:.2f} times as many as by chance<extra></extra>"
    line = {"type": "line", "xref": "x", "x0": 1, "x1": 1, "yref": "paper", "y0": 0, "y1": 1}
    axes: Plain = {
        "xaxis": {"rangemode": "tozero", "title": {"text": "× chance (dashed: 1)"}},
        "yaxis": {"type": "category", "autorange": "reversed", "title": {"text": ""}},
        "shapes": [{**line, "line": {"dash": "dash", "width": 1.5}}],
    }
    text = (
        f"The strongest pair is {a_P[0]} and {b_P[0]} of {told(short[str(layers[0])], word)}, which share "
        f"{lift_P[0]:.1f} times as many tokens as their loads would give."
    )
    shape = layout(plain(title), text, showlegend=False, hovermode="closest", **axes)
    return {"data": [bars], "layout": {**shape, "height": 120 + 22 * max(n, 4)}}


@Picture
def company_map(lift_EE: Any, layer: str = "", title: str = "Company of experts") -> Plain:
    """lift_EE: how often two experts of a layer share a token, over what their loads alone would give; 1 = chance.

    Pale at 1, blue below, brown above. The diagonal is left out; beyond 64 experts a cell is the strongest of a block.
    """
    lift_EE, title = numbers(lift_EE), titled(title, layer)
    if lift_EE.ndim != 2 or not lift_EE.size:
        return empty(title, UNTRACED)
    pairs_EE = np.round(without_diagonal(lift_EE), 3)
    if not np.nansum(pairs_EE) > 0:
        return nothing(title, "No token goes to two experts here: there are no pairs to show.")
    a, b = np.unravel_index(np.nanargmax(pairs_EE), pairs_EE.shape)
    top = float(np.clip(np.nanmax(strongest(pairs_EE, block(len(pairs_EE)))), 2, 8))
    scale = bar([0, 1, top], ["0 never" if top <= 4 else "0", "1 = chance", f"≥{top:.2g}"])
    stops = [[0, BLUE], [0.5 / top, PALE_BLUE], [1 / top, PALE], [(1 + top) / 2 / top, PALE_BROWN], [1, BROWN]]
    look = {"zmin": 0, "zmax": top, "colorbar": scale, "colorscale": stops, "texttemplate": "%{z:.1f}"}
    look["hovertemplate"] = "%{y} and %{x}: %{z:.2f} times as often as by chance<extra></extra>"
    text = (
        f"Experts {min(a, b)} and {max(a, b)} keep company most, {pairs_EE[a, b]:.1f} times as often as by chance; "
        f"{np.nanmean(pairs_EE < 0.5) if len(pairs_EE) > 1 else 0:.0%} of the pairs meet less than half as often."
    )
    return square(pairs_EE, look, plain(title), text, "expert")
