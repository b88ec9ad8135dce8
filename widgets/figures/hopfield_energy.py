"""Modern Hopfield networks: the energy in a plane with the way a state takes, and what becomes of it as beta grows."""

from typing import Any

import numpy as np

from widgets.figures.layout import empty, layout, line
from widgets.figures.massive_activations import log_ticks
from widgets.figures.palette import SEQUENTIAL
from widgets.figures.picture import Picture, Plain
from widgets.figures.series import numbers
from widgets.figures.text import plain

MOST_CELLS = 160
MOST_POINTS = 256
DARK, PALE = "#1F2328", "#FFFFFF"  # a seam between them is seen on every colour of the field


@Picture
def hopfield_energy(
    energy_YX: Any,
    x_X: Any,
    y_Y: Any,
    patterns_N2: Any,
    path_P2: Any = None,
    beta: float = float("nan"),
    title: str = "Energy, and the way of one state",
) -> Plain:
    """energy_YX: the energy at the points (x_X, y_Y) of a plane through the patterns; dark = low, where states come to rest.

    patterns_N2: the stored patterns in that plane (stars, at most 256 of them); path_P2: the state before and after each
    update, start (disc) to end (diamond). beta: the inverse temperature, > 0.
    """
    energy_YX, x_X, y_Y = numbers(energy_YX), numbers(x_X).reshape(-1), numbers(y_Y).reshape(-1)
    if energy_YX.ndim != 2 or energy_YX.shape != (len(y_Y), len(x_X)) or not np.isfinite(energy_YX).any():
        return empty(title)
    patterns_N2, path_P2 = (_points(one) for one in (patterns_N2, path_P2))
    coarse = tuple(-(-n // MOST_CELLS) for n in energy_YX.shape)
    field: Plain = {
        "type": "contour",
        "z": np.ascontiguousarray(energy_YX[:: coarse[0], :: coarse[1]]),
        "x": x_X[:: coarse[1]],
    }
    field |= {
        "y": y_Y[:: coarse[0]],
        "colorscale": SEQUENTIAL,
        "ncontours": 14,
        "line": {"width": 0.6},
        "name": "energy",
    }
    field["colorbar"] = {"orientation": "h", "x": 0.5, "xanchor": "center", "y": -0.16, "yanchor": "top", "len": 0.8}
    field["colorbar"] |= {
        "thickness": 10,
        "nticks": 4,
        "tickfont": {"size": 11},
        "title": {"text": "energy", "side": "right", "font": {"size": 12}},
    }
    field["hovertemplate"] = "(%{x:.2f}, %{y:.2f}): energy %{z:.3g}<extra></extra>"
    data = [field, _stars(_some(patterns_N2)), *_way(_some(path_P2))]
    told = [f"β = {beta:.3g}"] if np.isfinite(beta) else []
    told += [f"{MOST_POINTS} of {len(patterns_N2)} patterns"] if len(patterns_N2) > MOST_POINTS else []
    x_axis = {"range": [float(x_X[0]), float(x_X[-1])], "title": {"text": "first direction"}, "constrain": "domain"}
    y_axis = {"range": [float(y_Y[0]), float(y_Y[-1])], "title": {"text": "second direction"}, "scaleanchor": "x"}
    y_axis["constrain"] = "domain"
    legend = {"orientation": "h", "x": 0, "xref": "container", "y": 0.01, "yref": "container", "yanchor": "bottom"}
    text = summary(energy_YX, patterns_N2, path_P2, beta)
    shape = layout(plain(title), text, "; ".join(told), xaxis=x_axis, yaxis=y_axis, hovermode="closest", legend=legend)
    return {"data": data, "layout": {**shape, "height": 470}}


def _points(points: Any) -> np.ndarray:
    """As rows (x, y), those that are known; none for None."""
    rows = np.zeros((0, 2), np.float32) if points is None else numbers(points).reshape(-1, 2)
    return rows[np.isfinite(rows).all(1)]


def _some(points_N2: np.ndarray) -> np.ndarray:
    """At most 256 of them, evenly, with the first and the last."""
    if len(points_N2) <= MOST_POINTS:
        return points_N2
    return points_N2[np.linspace(0, len(points_N2) - 1, MOST_POINTS).round().astype(int)]


def _stars(points_N2: np.ndarray) -> Plain:
    marker = {
        "symbol": "star",
        "size": 12 if len(points_N2) <= 40 else 7,
        "color": PALE,
        "line": {"width": 1, "color": DARK},
    }
    trace = {"type": "scatter", "mode": "markers", "name": "stored patterns", "marker": marker}
    trace |= {"x": np.ascontiguousarray(points_N2[:, 0]), "y": np.ascontiguousarray(points_N2[:, 1])}
    return {**trace, "hovertemplate": "a stored pattern at (%{x:.2f}, %{y:.2f})<extra></extra>"}


def _way(path_P2: np.ndarray) -> list[Plain]:
    """The path as a pale line in a dark seam, and its two ends."""
    if not len(path_P2):
        return []
    x, y = np.ascontiguousarray(path_P2[:, 0]), np.ascontiguousarray(path_P2[:, 1])
    seam = line(x, y, "way", line={"width": 5, "color": DARK}, showlegend=False, hoverinfo="skip")
    seam["hovertemplate"] = None
    ends = [0] if len(x) == 1 else [0, len(x) - 1]
    core = line(
        x,
        y,
        "way",
        "the state at (%{x:.2f}, %{y:.2f})<extra></extra>",
        line={"width": 2.5, "color": PALE},
        showlegend=False,
    )
    core |= {"mode": "lines+markers", "marker": {"size": 5, "color": PALE}}
    signs = [("circle", "start"), ("diamond", "end")]
    marks = [
        {"type": "scatter", "mode": "markers", "x": x[[at]], "y": y[[at]], "name": name,
         "marker": {"symbol": sign, "size": 12, "color": "#E0994F", "line": {"width": 2, "color": DARK}},
         "hovertemplate": f"{name} of the state: (%{{x:.2f}}, %{{y:.2f}})<extra></extra>"}
        for at, (sign, name) in zip(ends, signs, strict=False)
    ]  # fmt: skip
    return [seam, core, *marks]


def summary(energy_YX: np.ndarray, patterns_N2: np.ndarray, path_P2: np.ndarray, beta: float) -> str:
    """One sentence: where the state starts and ends, and how near the nearest stored pattern is."""
    low, high = float(np.nanmin(energy_YX)), float(np.nanmax(energy_YX))
    text = f"The energy runs from {low:.3g} to {high:.3g} around {len(patterns_N2)} stored patterns"
    text += f" at beta {beta:.3g}" if np.isfinite(beta) else ""
    if len(path_P2) and len(patterns_N2):
        away = np.hypot(*(patterns_N2 - path_P2[-1]).T)
        text += (
            f"; after {len(path_P2) - 1} updates the state is {away.min():.2g} from the nearest of them in this plane"
        )
    return text + "."


@Picture
def hopfield_regimes(
    beta_N: Any, size_N: Any, fixed_points_N: Any, title: str = "From one average to single patterns"
) -> Plain:
    """beta_N: inverse temperatures, > 0; size_N: how many patterns a resting state mixes (the fewest whose weights sum to
    0.9); fixed_points_N: how many different resting states there are. Both axes are logarithmic.

    Left: one average of everything; middle: metastable states, averages of a cluster; right: single patterns.
    """
    beta_N, size_N, points_N = (numbers(one).reshape(-1) for one in (beta_N, size_N, fixed_points_N))
    if not len(beta_N) or not len(beta_N) == len(size_N) == len(points_N):
        return empty(title)
    order = np.argsort(beta_N, kind="stable")
    order = order[:: -(-len(order) // MOST_POINTS)]
    beta_N, size_N, points_N = (
        np.where(one[order] > 0, one[order], np.nan).astype(np.float32) for one in (beta_N, size_N, points_N)
    )
    if not (np.isfinite(beta_N) & (np.isfinite(size_N) | np.isfinite(points_N))).any():
        return empty(title)
    marks = {"mode": "lines+markers"}
    data = [
        line(beta_N, points_N, "resting states", "β %{x:.3g}: %{y:.0f} different resting states<extra></extra>",
             **marks, marker={"symbol": "square", "size": 7}),
        line(beta_N, size_N, "patterns in one of them", "β %{x:.3g}: a resting state mixes %{y:.3g} patterns<extra></extra>",
             **marks, line={"dash": "dash"}, marker={"symbol": "circle", "size": 7}),
    ]  # fmt: skip
    top = float(np.nanmax(np.concatenate([size_N, points_N])))
    x_axis = {"type": "log", "title": {"text": "β, inverse temperature (log)"}, **log_ticks(beta_N)}
    y_axis = {"type": "log", "title": {"text": "number (log)"}, **_powers(top)}
    text = (
        f"As beta grows from {np.nanmin(beta_N):.3g} to {np.nanmax(beta_N):.3g}, the resting states go from "
        f"{_end(points_N, 0)} to {_end(points_N, -1)}, and the patterns mixed in one from {_end(size_N, 0)} to "
        f"{_end(size_N, -1)}."
    )
    shape = layout(plain(title), text, xaxis=x_axis, yaxis=y_axis, hovermode="closest")
    return {"data": data, "layout": {**shape, "height": 340}}


def _end(values_N: np.ndarray, at: int) -> str:
    known = values_N[np.isfinite(values_N)]
    return f"{known[at]:.3g}" if len(known) else "an unknown number"


def _powers(top: float) -> Plain:
    """Labels at powers of two, or of ten where those would crowd."""
    base = 2.0 if top <= 256 else 10.0
    last = max(1, int(np.ceil(np.log(max(top, 2.0)) / np.log(base) - 1e-6)))
    values = [base**i for i in range(last + 1)]
    return {
        "tickvals": values,
        "ticktext": [f"{v:g}" for v in values],
        "range": [-0.06, float(np.log10(values[-1])) + 0.06],
    }
