"""A field on the plane and its partition: the picture as the experts paint it, and beside it who paints where."""

from typing import Any

import numpy as np

from widgets.figures.layout import empty, joined, layout
from widgets.figures.module_usage import MOST_COLOURS, steps_of_colour
from widgets.figures.palette import ink
from widgets.figures.picture import Picture, Plain
from widgets.figures.series import counts, numbers
from widgets.figures.text import plain

Bounds = tuple[float, float, float, float]
SMALLEST = 0.02  # of the plane: a smaller region gets no number


@Picture
def field_partition(
    painted_HW: Any,
    expert_HW: Any,
    bounds: Bounds = (-1.0, 1.0, -1.0, 1.0),
    n_experts: int = 0,
    title: str = "The field and its partition",
) -> Plain:
    """painted_HW: one channel of the model's picture; expert_HW: the expert of each pixel, -1 = none; the first row is the
    top. bounds: (x low, x high, y low, y high) of the outer edges. Each region carries its expert's number in the middle.
    """
    painted_HW, expert_HW = numbers(painted_HW), counts(expert_HW)
    if painted_HW.ndim != 2 or not painted_HW.size or expert_HW.shape != painted_HW.shape:
        return empty(title)
    H, W = painted_HW.shape
    x_low, x_high, y_low, y_high = bounds
    x = (x_low + (np.arange(W) + 0.5) * (x_high - x_low) / W).astype(np.float32)
    y = (y_high - (np.arange(H) + 0.5) * (y_high - y_low) / H).astype(np.float32)
    E = max(int(n_experts), int(expert_HW.max()) + 1, 1)
    used = min(E, MOST_COLOURS)
    picture: Plain = {"type": "heatmap", "z": painted_HW, "x": x, "y": y, "colorscale": "Cividis", "showscale": False}
    picture["hovertemplate"] = "(%{x:.2f}, %{y:.2f}): %{z:.2f}<extra></extra>"
    shown = np.where(expert_HW < 0, np.nan, expert_HW % MOST_COLOURS).astype(np.float32)
    parts: Plain = {"type": "heatmap", "z": shown, "x": x, "y": y, "xaxis": "x2", "yaxis": "y2", "showscale": False}
    parts |= {"zmin": -0.5, "zmax": used - 0.5, "colorscale": steps_of_colour(used), "customdata": expert_HW}
    parts["hovertemplate"] = "(%{x:.2f}, %{y:.2f}): expert %{customdata}<extra></extra>"
    axes: Plain = {
        "xaxis": {"domain": [0, 0.47], "title": {"text": "the picture"}, "constrain": "domain"},
        "xaxis2": {"domain": [0.53, 1], "title": {"text": "its experts"}, "matches": "x", "constrain": "domain"},
        "yaxis": {"scaleanchor": "x", "title": {"text": ""}},
        "yaxis2": {"scaleanchor": "x2", "anchor": "x2", "matches": "y", "showticklabels": False},
    }
    shape = layout(plain(title), summary(expert_HW, E), showlegend=False, hovermode="closest", **axes)
    marks = [mark(e, x, y, expert_HW) for e in range(E) if (expert_HW == e).mean() >= SMALLEST]
    return {"data": [picture, parts], "layout": {**shape, "annotations": marks}}


def mark(expert: int, x: np.ndarray, y: np.ndarray, expert_HW: np.ndarray) -> Plain:
    """The expert's number on that pixel of its region which lies nearest to the region's middle."""
    rows, columns = np.nonzero(expert_HW == expert)
    nearest = ((rows - rows.mean()) ** 2 + (columns - columns.mean()) ** 2).argmin()
    colour = steps_of_colour(MOST_COLOURS)[2 * (expert % MOST_COLOURS)][1]
    place = {"x": float(x[columns[nearest]]), "y": float(y[rows[nearest]]), "xref": "x2", "yref": "y2"}
    return {"text": str(expert), "showarrow": False, "font": {"size": 14, "color": ink(colour)}, **place}


def summary(expert_HW: np.ndarray, E: int) -> str:
    """One sentence: the share of the plane that each expert paints, largest first."""
    share_E = np.bincount(expert_HW[expert_HW >= 0], minlength=E) / expert_HW.size
    order = [e for e in np.argsort(-share_E, kind="stable")[:8] if share_E[e] > 0]
    idle = E - int((share_E > 0).sum())
    parts = joined([f"expert {e} {share_E[e]:.0%}" for e in order]) or "no expert any"
    return f"Of the plane {parts}" + (f"; {idle} of {E} experts paint nothing." if idle else ".")
