"""A field on the plane and its partition: the picture as it is, as the experts paint it, and who paints where."""

from typing import Any

import numpy as np

from widgets.figures.layout import empty, joined, layout
from widgets.figures.module_usage import MOST_COLOURS, steps_of_colour
from widgets.figures.palette import SEQUENTIAL, ink
from widgets.figures.picture import Picture, Plain
from widgets.figures.series import counts, numbers
from widgets.figures.text import plain

Bounds = tuple[float, float, float, float]
SMALLEST = 0.02  # of the plane: a smaller region gets no number


@Picture
def field_partition(
    target_HW: Any,
    painted_HW: Any,
    expert_HW: Any,
    bounds: Bounds = (-1.0, 1.0, -1.0, 1.0),
    n_experts: int = 0,
    title: str = "The field, and who paints which part of it",
) -> Plain:
    """target_HW, painted_HW: a channel of the field as it is and as the model paints it, drawn in the same colours;
    expert_HW: the expert of each pixel, -1 = none. The first row is the top; bounds: (x low, x high, y low, y high) of the
    outer edges. Each region carries its expert's number.
    """
    target_HW, painted_HW, expert_HW = numbers(target_HW), numbers(painted_HW), counts(expert_HW)
    if painted_HW.ndim != 2 or not painted_HW.size or not target_HW.shape == painted_HW.shape == expert_HW.shape:
        return empty(title)
    H, W = painted_HW.shape
    x_low, x_high, y_low, y_high = bounds
    x = (x_low + (np.arange(W) + 0.5) * (x_high - x_low) / W).astype(np.float32)
    y = (y_high - (np.arange(H) + 0.5) * (y_high - y_low) / H).astype(np.float32)
    E = max(int(n_experts), int(expert_HW.max()) + 1, 1)
    used = min(E, MOST_COLOURS)
    ends = {"zmin": float(np.nanmin(target_HW)), "zmax": float(np.nanmax(target_HW)), "colorscale": SEQUENTIAL}
    value = "(%{x:.2f}, %{y:.2f}): %{z:.2f}<extra></extra>"
    pictures = [
        {**_panel(n, x, y), "z": one, **ends, "hovertemplate": value} for n, one in enumerate((target_HW, painted_HW))
    ]
    parts = {**_panel(2, x, y), "z": np.where(expert_HW < 0, np.nan, expert_HW % MOST_COLOURS).astype(np.float32)}
    parts |= {"zmin": -0.5, "zmax": used - 0.5, "colorscale": steps_of_colour(used), "customdata": expert_HW}
    parts["hovertemplate"] = "(%{x:.2f}, %{y:.2f}): expert %{customdata}<extra></extra>"
    text = summary(target_HW, painted_HW, expert_HW, E)
    shape = layout(plain(title), text, showlegend=False, hovermode="closest", **_axes())
    marks = [mark(e, x, y, expert_HW) for e in range(E) if (expert_HW == e).mean() >= SMALLEST]
    return {"data": [*pictures, parts], "layout": {**shape, "annotations": marks}}


def _panel(number: int, x: np.ndarray, y: np.ndarray) -> Plain:
    end = str(number + 1) if number else ""
    return {"type": "heatmap", "x": x, "y": y, "xaxis": f"x{end}", "yaxis": f"y{end}", "showscale": False}


def _axes() -> dict[str, Plain]:
    """Three squares side by side that zoom together."""
    found: dict[str, Plain] = {}
    for n, name in enumerate(("the picture", "painted", "by expert")):
        end = str(n + 1) if n else ""
        place = {"domain": [0.345 * n, 0.345 * n + 0.31], "constrain": "domain", "nticks": 3}
        found[f"xaxis{end}"] = {**place, "title": {"text": name}}
        found[f"yaxis{end}"] = {"scaleanchor": f"x{end}", "title": {"text": ""}, "constrain": "domain", "nticks": 3}
        if n:
            found[f"xaxis{end}"] |= {"matches": "x", "showticklabels": False}
            found[f"yaxis{end}"] |= {"anchor": f"x{end}", "matches": "y", "showticklabels": False}
    return found


def mark(expert: int, x: np.ndarray, y: np.ndarray, expert_HW: np.ndarray) -> Plain:
    """The expert's number where its region is thickest: what is left of it before it is eaten up from its edges."""
    left = np.pad(expert_HW == expert, 1)
    while True:
        row, column = np.argwhere(left)[0] - 1
        left[1:-1, 1:-1] &= left[:-2, 1:-1] & left[2:, 1:-1] & left[1:-1, :-2] & left[1:-1, 2:]
        if not left.any():
            break
    colour = steps_of_colour(MOST_COLOURS)[2 * (expert % MOST_COLOURS)][1]
    place = {"x": float(x[column]), "y": float(y[row]), "xref": "x3", "yref": "y3"}
    return {"text": str(expert), "showarrow": False, "font": {"size": 14, "color": ink(colour)}, **place}


def summary(target_HW: np.ndarray, painted_HW: np.ndarray, expert_HW: np.ndarray, E: int) -> str:
    """One sentence: how near the painting is, and the share of the plane that each expert paints, largest first."""
    wrong = float(np.square(painted_HW - target_HW).mean() / max(float(target_HW.var()), 1e-12))
    share_E = np.bincount(expert_HW[expert_HW >= 0], minlength=E) / expert_HW.size
    order = [e for e in np.argsort(-share_E, kind="stable")[:8] if share_E[e] > 0]
    idle = E - int((share_E > 0).sum())
    parts = joined([f"expert {e} {share_E[e]:.0%}" for e in order]) or "no expert any"
    rest = f"; {idle} of {E} experts paint nothing" if idle else ""
    return f"Of the plane {parts}{rest}; the error is {wrong:.0%} of the picture's variance."
