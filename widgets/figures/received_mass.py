"""What every token receives: the mean attention that each key gets from the queries that may see it."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from widgets.figures.layout import bar, empty, layout, row_names
from widgets.figures.margins import round_above
from widgets.figures.picture import Picture, Plain
from widgets.figures.positions import Stretches, first_word, percent, stretches, telling, token_axis
from widgets.figures.series import numbers
from widgets.figures.text import clean, plain, visible

FEW_ROWS = 16


@Picture
def received_mass(
    received_HS: Any, tokens: Sequence[str] = (), names: Sequence[str] = (), title: str = "Attention received"
) -> Plain:
    """received_HS: mean weight, 0..1, that key S gets from the queries that may see it (`metrics.received_mass`).

    A bright column is a token that all look at: a sink, wherever it stands. The last keys are seen by few queries, so
    theirs are means of few. Of more than 128 tokens a cell is the largest of several; of more than 64 heads, those
    in which one key receives most.
    """
    received_HS = numbers(received_HS)
    if received_HS.ndim != 2 or not np.isfinite(received_HS).any():
        return empty(title)
    H, S = received_HS.shape
    kept, cells = telling(np.nan_to_num(received_HS, nan=-1).max(1)), stretches(S)
    top = min(1.0, round_above(max(float(np.nanmax(received_HS)), 1e-3)))
    heat, axes, height = heads_by_tokens(cells.peaks(received_HS[kept]), cells, tokens, names, kept)
    look: Plain = {
        "zmin": 0,
        "zmax": top,
        "colorbar": bar([0, top], ["0%", f"{top:.1%}" if top < 0.1 else f"{top:.0%}"]),
    }
    look["hovertemplate"] = "%{y}, key %{x}: gets %{z:.1%} of the attention of those that see it<extra></extra>"
    notes = [f"{len(kept)} of {H} heads"] if len(kept) < H else []
    notes += [f"each cell: the largest of up to {cells.every} tokens"] if cells.every > 1 else []
    shape = layout(plain(title), summary(received_HS, tokens, names), "; ".join(notes), **axes)
    return {"data": [{**heat, **look}], "layout": {**shape, "height": height}}


def heads_by_tokens(
    cells_HC: np.ndarray, cells: Stretches, tokens: Sequence[str], names: Sequence[str], kept: np.ndarray
) -> tuple[Plain, Plain, int]:
    """A heat map of the kept heads over the cells of a text, the rest of its layout, and its height in pixels."""
    rows = row_names([names[h] if h < len(names) else f"head {h}" for h in kept.tolist()], 16)
    heat: Plain = {"type": "heatmap", "z": cells_HC, "x": cells.names([str(token) for token in tokens]), "y": rows}
    y_axis: Plain = {"type": "category", "autorange": "reversed", "title": {"text": ""}}
    y_axis |= {"nticks": FEW_ROWS} if len(rows) > FEW_ROWS else {}
    axes: Plain = {
        "xaxis": token_axis("token", heat["x"], room=200),
        "yaxis": y_axis,
        "showlegend": False,
        "hovermode": "closest",
    }
    return (
        {**heat, "hoverongaps": False},
        axes,
        min(760, 180 + (24 if len(rows) <= FEW_ROWS else 9) * max(len(rows), 4)),
    )


def summary(received_HS: np.ndarray, tokens: Sequence[str], names: Sequence[str]) -> str:
    """One sentence: the key that receives most, and the mean of the first token over the heads."""
    head, at = np.unravel_index(np.nan_to_num(received_HS, nan=-1).argmax(), received_HS.shape)
    who = f"position {at}" + (f" “{clean(visible(tokens[at]), 8)}”" if at < len(tokens) else "")
    name = clean(names[head]) if head < len(names) else f"head {head}"
    first = received_HS[:, 0][np.isfinite(received_HS[:, 0])]
    mean = float(first.mean()) if len(first) else np.nan
    return (
        f"Most goes to {who} in {name}, {percent(float(received_HS[head, at]))} of the attention of those that see it; "
        f"{first_word(tokens)} gets {percent(mean)} on average over the heads."
    )
