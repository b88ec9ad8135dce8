"""Multiplicative gates and attention sinks over a run: how open the gates are, how much the first token receives."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from widgets.figures.balance import layer_lines
from widgets.figures.layout import bar, empty, layout, line, row_names, steps_axis
from widgets.figures.load import MOST_LINES, heat_over_steps
from widgets.figures.picture import Picture, Plain
from widgets.figures.series import counts, named, numbers, stride, thin, thin_steps
from widgets.figures.text import clean, plain


@Picture
def gate_summary(steps: Any, mean: Mapping[str, Any], frac_low: Mapping[str, Any], title: str = "Gates") -> Plain:
    """steps_S; {layer name: mean gate value_S} and {layer name: share of values below 0.1_S}, both in 0..1 for sigmoid gates.

    Solid: the mean (1 = open, 0 = shut). Dotted, in the same colour: the share that is practically shut.
    """
    steps_S = counts(steps)
    if not len(steps_S) or not mean:
        return empty(title)
    every = stride(len(steps_S))
    x = thin_steps(steps_S, every)
    data = layer_lines(steps_S, mean, "mean %{y:.3f}")
    for i, (name, values) in enumerate(frac_low.items()):
        look = {"line": {"dash": "dot"}, "meta": {"colour": i}, "showlegend": False}
        data.append(line(x, thin(numbers(values), every), f"{plain(name, 32)}, below 0.1", "%{y:.1%}", **look))
    text = summary_gates(steps_S, mean, frac_low)
    subtitle = "solid: mean value; dotted: share below 0.1" if frac_low else ""
    return {
        "data": data,
        "layout": layout(plain(title), text, subtitle, xaxis=steps_axis(steps_S), yaxis={"rangemode": "tozero"}),
    }


@Picture
def head_share(steps: Any, share: Any, title: str = "Attention to the first token") -> Plain:
    """steps_S; share_SLH: attention mass on the first token, averaged over queries, of each layer and head; 0..1.

    Also {name: share_S}. Up to ten heads as lines, more as a heat map of heads x steps.
    """
    steps_S = counts(steps)
    rows = _heads(share)
    if not len(steps_S) or not rows:
        return empty(title)
    text = summary_heads(steps_S, rows)
    if len(rows) <= MOST_LINES:
        y_axis = {"range": [0, 1.03], "tickformat": ".0%", "title": {"text": "share of attention"}}
        return {
            "data": layer_lines(steps_S, rows, "%{y:.1%}"),
            "layout": layout(plain(title), text, xaxis=steps_axis(steps_S), yaxis=y_axis),
        }
    every = stride(len(steps_S), most=120)
    z_RS = np.stack([thin(numbers(values), every) for values in rows.values()])
    names = row_names(rows)
    picture = heat_over_steps(thin_steps(steps_S, every), z_RS, names, plain(title), text, fair=1 / 3, row="head")
    picture["data"][0] |= {"zmax": 1, "colorbar": bar([0, 0.5, 1], ["0%", "50%", "100%"])}
    picture["layout"]["height"] = min(720, 180 + 14 * len(rows))
    return picture


def _heads(share: Any) -> dict[str, Any]:
    """{name: share_S} of every layer and head of share_SLH; a mapping passes."""
    if isinstance(share, Mapping):
        return dict(share)
    share_SLH = numbers(share)
    if share_SLH.ndim != 3:
        return named(share_SLH.T if share_SLH.ndim == 2 else share_SLH[None], "head") if share_SLH.size else {}
    _, L, H = share_SLH.shape
    return {f"layer {i} head {h}": share_SLH[:, i, h] for i in range(L) for h in range(H)}


def summary_gates(steps_S: np.ndarray, mean: Mapping[str, Any], frac_low: Mapping[str, Any]) -> str:
    """One sentence: the lowest and highest mean of the layers at the last step, and the largest shut share."""
    means = {name: float(numbers(values)[-1]) for name, values in mean.items()}
    low, high = min(means, key=means.__getitem__), max(means, key=means.__getitem__)
    shut = max((float(numbers(values)[-1]) for values in frac_low.values()), default=0.0)
    return (
        f"At step {steps_S[-1]} the mean gate runs from {means[low]:.2f} ({clean(low, 32)}) to {means[high]:.2f} "
        f"({clean(high, 32)}); at most {shut:.0%} of a layer's values are below 0.1."
    )


def summary_heads(steps_S: np.ndarray, rows: Mapping[str, Any]) -> str:
    """One sentence: the head with the strongest sink at the last step, and the mean over heads."""
    last = {name: float(numbers(values)[-1]) for name, values in rows.items()}
    top = max(last, key=lambda name: np.nan_to_num(last[name]))
    mean = float(np.nanmean(list(last.values())))
    most = f"most in {clean(top, 32)}: {last[top]:.0%}"
    return f"At step {steps_S[-1]} the first token receives {mean:.0%} of the attention on average, {most}."
