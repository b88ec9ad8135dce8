"""Pairs of experts: which share tokens, and which router rows point the same way."""

from typing import Any

import numpy as np

from widgets.figures.layout import bar, cells, empty, layout
from widgets.figures.notes import nothing, titled
from widgets.figures.palette import DIVERGING
from widgets.figures.picture import Picture, Plain
from widgets.figures.series import numbers
from widgets.figures.text import plain

MOST_ROWS = 64  # more experts are drawn in blocks: 64 x 64 cells are what a screen can show and a page should be sent
MOST_CELLS_WITH_NUMBERS = 10


@Picture
def coactivation_map(share_EE: Any, layer: str = "", title: str = "Co-activation of experts") -> Plain:
    """share_EE: of the tokens of expert e (row), the share that also go to expert f (column); 0..1, not symmetric.

    The diagonal is left out. An expert without tokens (a row of NaN, or one whose diagonal is 0) is an empty row. The
    colour reaches to three times the mean share, which is about what chance gives every pair.
    """
    share_EE, title = numbers(share_EE), titled(title, layer)
    if share_EE.ndim != 2 or not share_EE.size:
        return empty(title)
    share_EE = np.where(np.diag(share_EE)[:, None] > 0, share_EE, np.nan)
    pairs_EE = without_diagonal(share_EE)
    if not np.nansum(pairs_EE) > 0:
        return nothing(title, "No token goes to two experts here: there are no pairs to show.")
    mean = float(np.nanmean(pairs_EE))
    blocks = strongest(pairs_EE, block(len(pairs_EE)))
    level = float(np.nanmean(blocks))
    top = min(1.0, float(np.nanmax(blocks)), max(3 * level, level + 0.05))
    scale = bar([0, level, top], ["0", f"mean {level:.0%}", f"≥{top:.0%}"])
    hover = "of the tokens of %{y}, %{z:.1%} also go to %{x}<extra></extra>"
    e, f = np.unravel_index(np.nanargmax(pairs_EE), pairs_EE.shape)
    never = int((pairs_EE == 0).sum())
    text = (
        f"Of the tokens of expert {e}, {pairs_EE[e, f]:.0%} also go to expert {f}, more than in any other pair; the mean is "
        f"{mean:.0%}, and {never} of {int(np.isfinite(pairs_EE).sum())} ordered pairs never meet."
    )
    look = {"zmin": 0, "zmax": top, "colorbar": scale, "hovertemplate": hover, "texttemplate": "%{z:.0%}"}
    return square(pairs_EE, look, plain(title), text, "also goes to expert")


@Picture
def router_cosine(cosine_EE: Any, layer: str = "", title: str = "Likeness of the router's rows") -> Plain:
    """cosine_EE: cosine of every two rows of a linear router, -1..1; 1 = they want the same tokens, 0 = unrelated.

    Pale at 0, brown above, blue below; the colour reaches to the largest value beside the diagonal, which is left out.
    """
    cosine_EE, title = numbers(cosine_EE), titled(title, layer)
    if cosine_EE.ndim != 2 or not cosine_EE.size:
        return empty(title)
    pairs_EE = without_diagonal(cosine_EE)
    if not np.isfinite(pairs_EE).any():
        return nothing(title, "There are no two experts with a row of their own to compare.")
    top = max(0.1, float(np.nanmax(np.abs(pairs_EE))))
    scale = bar([-top, 0, top], [f"−{top:.2f}", "0 unrelated", f"{top:.2f} alike"])
    hover = "rows of %{y} and %{x}: cosine %{z:.3f}<extra></extra>"
    a, b = np.unravel_index(np.nanargmax(pairs_EE), pairs_EE.shape)
    c, d = np.unravel_index(np.nanargmin(pairs_EE), pairs_EE.shape)
    text = (
        f"The rows of experts {a} and {b} are most alike (cosine {pairs_EE[a, b]:.2f}), those of {c} and {d} least "
        f"({pairs_EE[c, d]:.2f}); the mean over pairs is {round(float(np.nanmean(pairs_EE)), 2) + 0:.2f}."
    )
    look = {"zmin": -top, "zmax": top, "colorbar": scale, "hovertemplate": hover, "texttemplate": "%{z:.2f}"}
    look["colorscale"] = [list(stop) for stop in DIVERGING]
    return square(pairs_EE, look, plain(title), text, "expert")


def without_diagonal(values_EE: np.ndarray) -> np.ndarray:
    """The pairs of different experts: the diagonal, which is 1 by definition, would take the colours for itself."""
    return np.where(np.eye(len(values_EE), dtype=bool), np.nan, values_EE).astype(np.float32)


def square(pairs_EE: np.ndarray, look: Plain, title: str, text: str, across: str) -> Plain:
    """Experts x experts as a heat map; beyond 64 experts each cell is the strongest pair of a block."""
    E = len(pairs_EE)
    every = block(E)
    heat = {"type": "heatmap", "z": strongest(pairs_EE, every), "hoverongaps": False, **look}
    if E > MOST_CELLS_WITH_NUMBERS:
        heat.pop("texttemplate")
    else:
        heat["textfont"] = {"size": 11 if E <= 8 else 9}
    if every > 1:
        labels = [f"{e}–{min(e + every, E) - 1}" for e in range(0, E, every)]
        heat |= {"x": labels, "y": labels}
        axes = {"type": "category", "tickangle": 0, "nticks": 4}
    else:
        heat |= {"x": list(range(E)), "y": list(range(E))}
        axes = cells(E)
    heat["hovertemplate"] = heat["hovertemplate"].replace("%{x}", "expert %{x}").replace("%{y}", "expert %{y}")
    subtitle = f"each cell: the strongest of {every} × {every} pairs" if every > 1 else ""
    y_axis = {**axes, "autorange": "reversed", "title": {"text": "expert"}}
    x_axis = {**axes, "title": {"text": across}}
    shape = layout(title, text, subtitle, xaxis=x_axis, yaxis=y_axis, showlegend=False, hovermode="closest")
    return {"data": [heat], "layout": {**shape, "height": 360 if E <= 16 else 440}}


def block(n_experts: int) -> int:
    """How many experts share a row, a power of two: 1 up to 64 experts."""
    return 1 << max(0, int(np.ceil(np.log2(n_experts / MOST_ROWS))))


def strongest(pairs_EE: np.ndarray, every: int) -> np.ndarray:
    """Of each block of every x every cells the value farthest from 0; NaN where a block has none."""
    if every == 1:
        return pairs_EE
    E = len(pairs_EE)
    n = -(-E // every)
    padded = np.full((n * every, n * every), np.nan, np.float32)
    padded[:E, :E] = pairs_EE
    blocks = padded.reshape(n, every, n, every).swapaxes(1, 2).reshape(n, n, -1)
    size = np.where(np.isfinite(blocks), np.abs(blocks), -1)
    return np.take_along_axis(blocks, size.argmax(-1)[..., None], -1)[..., 0]
