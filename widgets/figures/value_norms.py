"""How long each token's value vector is: a sink's is short, so that looking at it adds almost nothing."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from widgets.figures.layout import bar, empty, key, layout
from widgets.figures.palette import DIVERGING
from widgets.figures.picture import Picture, Plain
from widgets.figures.positions import first_word, stretches, telling
from widgets.figures.received_mass import heads_by_tokens
from widgets.figures.series import numbers
from widgets.figures.text import plain


@Picture
def value_norms(
    norm_HS: Any, tokens: Sequence[str] = (), names: Sequence[str] = (), title: str = "Length of the value vectors"
) -> Plain:
    """norm_HS: length (> 0, any unit) of the value vector of key S in each head; drawn relative to the head's mean.

    1 (pale) = like the others, 0 (blue) = empty, 2 and more (brown) = long. The first token, where a sink forms, has
    a mark above it; of more than 128 tokens a cell is the mean of several. Of more than 64 heads, those
    with the shortest first vector.
    """
    norm_HS = numbers(norm_HS)
    if norm_HS.ndim != 2 or not np.isfinite(norm_HS).any():
        return empty(title)
    H, S = norm_HS.shape
    known = np.isfinite(norm_HS)
    mean_H1 = np.where(known, norm_HS, 0).sum(1, keepdims=True) / np.maximum(known.sum(1, keepdims=True), 1)
    ratio_HS = (norm_HS / np.where(mean_H1 > 0, mean_H1, np.nan)).astype(np.float32)
    kept = telling(-ratio_HS[:, 0])
    cells = stretches(S)
    look: Plain = {"zmin": 0, "zmax": 2, "colorscale": [list(stop) for stop in DIVERGING]}
    look["colorbar"] = bar([0, 1, 2], ["0 empty", "1 mean", "≥2"])
    mean = "" if cells.every == 1 else " on average"
    look["hovertemplate"] = f"%{{y}}, token %{{x}}: %{{z:.2f}} of the head's mean length{mean}<extra></extra>"
    heat, axes, height = heads_by_tokens(cells.means(ratio_HS[kept]), cells, tokens, names, kept)
    notes = ["1 = the mean of the head"] + ([f"{len(kept)} of {H} heads"] if len(kept) < H else [])
    notes += [f"each cell: the mean of up to {cells.every} tokens"] if cells.every > 1 else []
    mark = {**key("▼ first token"), "xref": "x", "x": 0, "xanchor": "left", "xshift": -5}
    shape = layout(plain(title), summary(ratio_HS, tokens), "; ".join(notes), **axes)
    return {"data": [{**heat, **look}], "layout": {**shape, "annotations": [mark], "height": height}}


def summary(ratio_HS: np.ndarray, tokens: Sequence[str]) -> str:
    """One sentence: how long the first token's value vectors are, over the heads."""
    first = ratio_HS[:, 0][np.isfinite(ratio_HS[:, 0])]
    if not len(first):
        return f"The length of the value vector of {first_word(tokens)} is unknown."
    span = f"{first.min():.2f}" if len(first) == 1 else f"{first.min():.2f} to {first.max():.2f}"
    short = int((first < 0.5).sum())
    return (
        f"The value vector of {first_word(tokens)} has {span} times the mean length of its head; it is shorter than half "
        f"the mean in {short} of {len(first)} heads."
    )
