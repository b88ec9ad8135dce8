"""Two maps that work together: full attention inside each block, linear attention over everything, and their sum."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from widgets.figures.layout import bar, empty, layout
from widgets.figures.palette import DIVERGING, SEQUENTIAL
from widgets.figures.picture import Picture, Plain
from widgets.figures.positions import Stretches, percent, stretches
from widgets.figures.series import numbers
from widgets.figures.text import plain

MOST_CELLS = 96
NAMES = ("in blocks", "everywhere", "sum")


@Picture
def joint_attention(
    quadratic_TT: Any, linear_TT: Any, tokens: Sequence[str] = (), title: str = "Local and global attention"
) -> Plain:
    """quadratic_TT: weights of the attention inside blocks, 0 outside them; linear_TT: weights of the linear attention over
    all positions, of any sign; rows are queries. Their sum is what acts. All three have one colour scale.

    Of more than 96 tokens each cell is the weight farthest from 0 of a block.
    """
    local_TT, global_TT = numbers(quadratic_TT), numbers(linear_TT)
    if local_TT.ndim != 2 or not local_TT.size or local_TT.shape != global_TT.shape:
        return empty(title)
    maps = [local_TT, global_TT, local_TT + global_TT]
    if not np.isfinite(maps[2]).any():
        return empty(title)
    rows, columns = (stretches(length, MOST_CELLS) for length in local_TT.shape)
    shown = [_farthest(one, rows, columns) for one in maps]
    top = max(1e-9, *(float(np.nan_to_num(np.abs(one)).max()) for one in shown))
    signed = any(float(np.nan_to_num(one).min()) < 0 for one in shown)
    low = -top if signed else 0.0
    look: Plain = {"zmin": low, "zmax": top, "colorscale": [list(stop) for stop in DIVERGING] if signed else SEQUENTIAL}
    ends = [f"{low:.2g}".replace("-", "−"), "0", f"{top:.2g}"] if signed else ["0", f"{top:.2g}"]
    scale = bar([low, 0, top] if signed else [0, top], ends)
    words = [str(token) for token in tokens]
    data = []
    for n, one in enumerate(shown):
        end = str(n + 1) if n else ""
        heat: Plain = {"type": "heatmap", "z": one, "x": columns.names(words), "y": rows.names(words), **look}
        heat |= {"xaxis": f"x{end}", "yaxis": f"y{end}", "showscale": n == 1, "colorbar": scale, "hoverongaps": False}
        heat["hovertemplate"] = f"query %{{y}}, key %{{x}}: weight {NAMES[n]} %{{z:.3g}}<extra></extra>"
        data.append(heat)
    size = [float(np.nansum(np.abs(one))) for one in maps[:2]]
    share = size[0] / sum(size) if sum(size) > 0 else np.nan
    every = rows.every
    subtitle = f"{percent(share)} of all weight (without sign) is inside blocks" if np.isfinite(share) else ""
    subtitle += f"; each cell: the strongest of up to {every} × {every}" if every > 1 else ""
    text = (
        f"Attention inside blocks holds {percent(share)} of the weight of {len(local_TT)} queries, linear attention over "
        f"everything the rest; the strongest weight of the sum is {float(np.nanmax(np.abs(maps[2]))):.2g}."
    )
    shape = layout(plain(title), text, subtitle, showlegend=False, hovermode="closest", **_axes())
    return {"data": data, "layout": {**shape, "height": 320}}


def _farthest(map_TT: np.ndarray, rows: Stretches, columns: Stretches) -> np.ndarray:
    """Of each block the value farthest from 0."""
    high, low = rows.peaks(columns.peaks(map_TT), 0), -rows.peaks(columns.peaks(-map_TT), 0)
    return np.where(np.abs(low) > np.abs(high), low, high).astype(np.float32)


def _axes() -> Plain:
    """Three maps side by side that zoom together."""
    found: Plain = {}
    for n, name in enumerate(NAMES):
        end = str(n + 1) if n else ""
        label = f"{name}<br>(key)" if n == 1 else name
        found[f"xaxis{end}"] = {"type": "category", "domain": [0.345 * n, 0.345 * n + 0.31], "title": {"text": label}}
        found[f"xaxis{end}"] |= {"showticklabels": False, "ticks": ""}
        found[f"yaxis{end}"] = {"type": "category", "autorange": "reversed", "title": {"text": "" if n else "query"}}
        found[f"yaxis{end}"] |= {"nticks": 6}
        if n:
            found[f"xaxis{end}"]["matches"] = "x"
            found[f"yaxis{end}"] |= {"anchor": f"x{end}", "matches": "y", "showticklabels": False, "ticks": ""}
    return found
