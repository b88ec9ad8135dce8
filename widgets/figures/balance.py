"""How evenly a router works: the largest violation of each layer, and two entropies that must not be confused."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from widgets.figures.layout import empty, key, layout, line, steps_axis
from widgets.figures.palette import dash
from widgets.figures.picture import Picture, Plain
from widgets.figures.series import counts, named, numbers, stride, thin, thin_steps
from widgets.figures.text import clean, plain


@Picture
def balance(
    steps: Any,
    max_violation_by_layer: Mapping[str, Any],
    floor: tuple[float, float] | None = None,
    title: str = "Imbalance (MaxVio)",
) -> Plain:
    """steps_S; {layer name: maxvio_S}: (largest load - ideal) / ideal; 0 = even, E/k - 1 = all tokens to the same k.

    floor: (mean, 95 % quantile) of what a uniformly random router of the same batch would show: below the band there
    is nothing left to balance.
    """
    steps_S = counts(steps)
    if not len(steps_S) or not max_violation_by_layer:
        return empty(title)
    data = layer_lines(steps_S, named(max_violation_by_layer), "%{y:.2f}")
    y_axis = {"rangemode": "tozero", "title": {"text": "(max − ideal) / ideal"}}
    text = summary_balance(steps_S, max_violation_by_layer, floor)
    return {
        "data": data,
        "layout": layout(
            plain(title), text, xaxis=steps_axis(steps_S), yaxis=y_axis, **(chance(*floor) if floor else {})
        ),
    }


def chance(mean: float, q95: float) -> Plain:
    """The band of chance as a grey strip with its label inside the picture."""
    band = {"type": "rect", "xref": "paper", "x0": 0, "x1": 1, "yref": "y", "y0": mean, "y1": q95, "layer": "below"}
    band |= {"fillcolor": "rgba(139,148,158,0.30)", "line": {"width": 0}}
    return {"shapes": [band], "annotations": [key("grey: a uniformly random router, mean to 95 %")]}


@Picture
def entropy(
    steps: Any, load_entropy: Any, token_entropy: Any, title: str = "Entropy of the load and of a token's choice"
) -> Plain:
    """steps_S; both normalised by log E to 0..1: load_entropy_S of the experts' shares (1 = balanced, 0 = one expert
    takes all), token_entropy_S of one token's distribution, averaged (1 = undecided, 0 = certain).

    Healthy specialisation is a high load entropy with a falling token entropy; both falling is collapse.
    """
    steps_S = counts(steps)
    if not len(steps_S) or load_entropy is None or token_entropy is None:
        return empty(title)
    series = {"load: 1 = balanced": load_entropy, "token: 0 = decided": token_entropy}
    data = layer_lines(steps_S, series, "%{y:.3f}")
    data[1]["line"]["dash"] = "dash"
    load, token = (float(numbers(values)[-1]) for values in (load_entropy, token_entropy))
    now = f"the load entropy is {load:.2f} (1 is balanced) and the token entropy {token:.2f} (0 is decided)"
    text = f"At step {steps_S[-1]} {now}."
    y_axis = {"range": [0, 1.03], "title": {"text": "entropy / log E"}}
    return {"data": data, "layout": layout(plain(title), text, xaxis=steps_axis(steps_S), yaxis=y_axis)}


def layer_lines(steps_S: np.ndarray, series: Mapping[str, Any], hover: str) -> list[Plain]:
    """One line a name, thinned together so that they share their steps; beyond ten names dashes tell repeats apart."""
    every = stride(len(steps_S))
    x = thin_steps(steps_S, every)
    return [
        line(x, thin(numbers(values), every), plain(name, 32), hover, line={"dash": dash(i)})
        for i, (name, values) in enumerate(series.items())
    ]


def summary_balance(steps_S: np.ndarray, by_layer: Mapping[str, Any], floor: tuple[float, float] | None) -> str:
    """One sentence: the worst layer at the last step, and what chance would give."""
    last = {name: float(numbers(values)[-1]) for name, values in by_layer.items()}
    worst = max(last, key=lambda name: np.nan_to_num(last[name]))
    than = f"; a uniformly random router shows {floor[0]:.2f} to {floor[1]:.2f}" if floor else ""
    return f"At step {steps_S[-1]} the largest violation is {last[worst]:.2f}, in {clean(worst, 32)} (0 is even){than}."
