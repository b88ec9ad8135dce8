"""The way of one token through the model: which experts each layer sends it to, and with what weight."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from widgets.figures.layout import cells, empty, joined, layout, row_names
from widgets.figures.palette import GREY
from widgets.figures.picture import Picture, Plain
from widgets.figures.series import counts, numbers
from widgets.figures.text import clean, plain, visible

MOST_CELLS = 4096
MOST_LABELS = 12
SHADES = [[0.0, "rgba(139,148,158,0)"], [1.0, "rgba(139,148,158,0.8)"]]


@Picture
def token_path(
    index_LK: Any,
    weights_LK: Any,
    layer_names: Sequence[str] = (),
    n_experts: int = 0,
    token: str = "",
    probs_LE: Any = None,
    title: str = "Path of one token",
    probabilities: bool = True,
) -> Plain:
    """index_LK: the experts of one token in each layer, -1 = empty slot; weights_LK: their weights, 0..1.

    The line goes through the strongest expert of each layer; the circles are its other slots, larger for more weight. A
    layer that dropped the token is a gap, marked in the row "none". probs_LE, the router's scores, are grey cells behind it
    (up to 4096 of them); `probabilities` if they sum to 1 over the experts.
    """
    index_LK, weights_LK = counts(index_LK), numbers(weights_LK)
    title = f"{title}: “{visible(token)}”" if token else title
    if index_LK.ndim != 2 or not index_LK.size:
        return empty(title)
    L, E = len(index_LK), max(int(n_experts), int(index_LK.max()) + 1, 1)
    given = [clean(name) for name in layer_names][:L]
    given += [f"layer {i}" for i in range(len(given), L)]
    names, word = tick_names(given)
    weights_LK = np.where(index_LK >= 0, np.nan_to_num(weights_LK), -1).astype(np.float32)
    best_L = weights_LK.argmax(1)
    taken_L = index_LK[np.arange(L), best_L] >= 0
    way = Way(names, f"{word} %{{x}}".strip(), index_LK, weights_LK, best_L, taken_L)
    floor = -max(1.0, 0.06 * E)  # the row of the layers without an expert
    data = [_strongest(way), *_others(way), *_dropped(way, floor)]
    subtitle = ""
    if probs_LE is not None and numbers(probs_LE).size <= MOST_CELLS:
        probs_EL = np.ascontiguousarray(numbers(probs_LE).T)
        top = float(np.nanmax(probs_EL, initial=1e-6))
        data.insert(0, _grey(way, probs_EL, top, probabilities))
        subtitle = "grey: the router's " + (
            f"probability, up to {top:.0%}" if probabilities else f"score, up to {top:.2g}"
        )
    every = cells(E)["dtick"]
    low: list[float] = [] if taken_L.all() else [floor]
    ticks: Plain = {
        "tickvals": [*low, *range(0, E, every)],
        "ticktext": ["none"] * len(low) + [str(e) for e in range(0, E, every)],
    }
    room = max(0.6, 0.05 * E) if L <= MOST_LABELS else max(0.6, 0.03 * E)
    y_axis = {"range": [(low[0] if low else 0) - room, E - 1 + room], "title": {"text": "expert"}, **ticks}
    x_axis: Plain = {"type": "category", "categoryorder": "array", "categoryarray": names, "title": {"text": word}}
    x_axis["range"] = [-0.5, L - 0.5]
    text = summary(way, given, token)
    shape = layout(plain(title), text, subtitle, xaxis=x_axis, yaxis=y_axis, hovermode="closest")
    return {"data": data, "layout": {**shape, "height": 380}}


@dataclass(frozen=True)
class Way:
    """One token's way: the layers' names on the axis and in a hover text, its slots, the strongest slot, whether it has one."""

    names: list[str]
    where: str
    index: np.ndarray  # L K
    weights: np.ndarray  # L K
    best: np.ndarray  # L
    taken: np.ndarray  # L


def tick_names(names: Sequence[str]) -> tuple[list[str], str]:
    """Short distinct names for an axis of layers and its title: "layer 0", "layer 1", … is numbered under the title "layer"."""
    if all(name == f"layer {i}" for i, name in enumerate(names)):
        return [str(i) for i in range(len(names))], "layer"
    return row_names(names, 14), ""


def _size(weights: np.ndarray, layers: int) -> np.ndarray:
    """Diameters in pixels, the area by the weight, at most what a narrow picture of so many layers has room for."""
    return (3 + float(np.clip(220 / layers, 3, 18)) * np.sqrt(np.clip(weights, 0, 1))).astype(np.float32)


def _strongest(way: Way) -> Plain:
    layers = np.arange(len(way.names))
    expert_L = np.where(way.taken, way.index[layers, way.best], np.nan).astype(np.float32)
    weight_L = np.where(way.taken, way.weights[layers, way.best], 0)
    trace: Plain = {
        "type": "scatter",
        "mode": "lines+markers",
        "x": way.names,
        "y": expert_L,
        "name": "strongest expert",
    }
    trace |= {"line": {"width": 2}, "meta": {"colour": 0}, "customdata": weight_L}
    trace["marker"] = {"size": _size(weight_L, len(layers)), "opacity": 1}
    trace["hovertemplate"] = f"{way.where}: expert %{{y}}, weight %{{customdata:.3f}}<extra></extra>"
    if len(layers) <= MOST_LABELS:
        labels = [f"{e:.0f}" if np.isfinite(e) else "" for e in expert_L]
        trace |= {"mode": "lines+markers+text", "text": labels, "textposition": "top center", "cliponaxis": False}
        trace["textfont"] = {"size": 13, "weight": 700, "shadow": "auto"}
    return trace


def _others(way: Way) -> list[Plain]:
    """Open circles for the slots beside the strongest; nothing where each token has one expert."""
    rest_LK = way.index >= 0
    rest_LK[np.arange(len(rest_LK)), way.best] = False
    layer, slot = np.nonzero(rest_LK)
    if not len(layer):
        return []
    few = len(way.names) <= 2 * MOST_LABELS
    weight = way.weights[layer, slot]
    marker = {"symbol": "circle-open", "size": _size(weight, len(way.names)), "line": {"width": 2 if few else 1}}
    trace: Plain = {
        "type": "scatter",
        "mode": "markers",
        "x": [way.names[i] for i in layer],
        "y": way.index[layer, slot],
    }
    trace |= {"name": "other slots", "meta": {"colour": 1}, "marker": marker, "customdata": weight}
    trace["opacity"] = 0.9 if few else 0.75
    trace["hovertemplate"] = f"{way.where}: expert %{{y}}, weight %{{customdata:.3f}}<extra></extra>"
    return [trace]


def _dropped(way: Way, floor: float) -> list[Plain]:
    layers = [name for name, taken in zip(way.names, way.taken, strict=True) if not taken]
    if not layers:
        return []
    trace: Plain = {"type": "scatter", "mode": "markers", "x": layers, "y": [floor] * len(layers), "name": "no expert"}
    trace |= {"marker": {"symbol": "x", "size": 9 if len(way.names) <= 30 else 6, "color": GREY}}
    trace["hovertemplate"] = f"{way.where}: dropped, no expert took it<extra></extra>"
    if len(way.names) <= MOST_LABELS // 2:
        trace |= {"mode": "markers+text", "text": ["dropped"] * len(layers), "textposition": "top center"}
    return [trace]


def _grey(way: Way, probs_EL: np.ndarray, top: float, probabilities: bool) -> Plain:
    heat: Plain = {"type": "heatmap", "x": way.names, "z": probs_EL, "zmin": 0, "zmax": top, "showscale": False}
    what, number = ("probability", "z:.1%") if probabilities else ("score", "z:.3g")
    hover = f"{way.where}: {what} of expert %{{y}} is %{{{number}}}<extra></extra>"
    return {**heat, "colorscale": SHADES, "hovertemplate": hover}


def summary(way: Way, names: Sequence[str], token: str) -> str:
    """One sentence: the strongest expert of each layer (of many layers: how many different ones), and where it was dropped."""
    layers = np.flatnonzero(way.taken)
    expert = way.index[layers, way.best[layers]]
    weight = way.weights[layers, way.best[layers]]
    who = f"The token “{clean(visible(token))}”" if token else "The token"
    if not len(layers):
        return f"{who} is dropped in every layer: no expert takes it."
    gone = [names[i] for i in np.flatnonzero(~way.taken).tolist()]
    gone = gone if len(gone) <= 6 else [*gone[:5], f"{len(gone) - 5} more layers"]
    dropped = f"; no expert takes it in {joined(gone)}" if gone else ""
    if len(layers) <= 6:
        steps = [
            f"expert {e} in {names[i]} (weight {w:.2f})"
            for e, i, w in zip(expert, layers.tolist(), weight, strict=True)
        ]
        return f"{who} goes most strongly to {joined(steps)}{dropped}."
    return (
        f"{who} has {len(set(expert.tolist()))} different strongest experts in {len(layers)} layers, with a mean weight of "
        f"{weight.mean():.2f}{dropped}."
    )
