"""The values of a multiplicative gate: how they are spread, and whether they tell kinds of tokens apart."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from widgets.figures.layout import empty, joined, key, layout, row_names
from widgets.figures.notes import titled
from widgets.figures.percentiles import quantiles
from widgets.figures.picture import Picture, Plain
from widgets.figures.positions import percent, telling
from widgets.figures.series import counts, numbers
from widgets.figures.text import clean, plain

BINS = 40
SHUT = 0.1
MOST_HEADS = 24
MOST_KINDS = 6
SYMBOLS = ("circle", "diamond", "square", "triangle-up", "x", "star")


@Picture
def gate_histogram(values_N: Any, name: str = "", title: str = "Gate values") -> Plain:
    """values_N: values of a gate over tokens (and channels), 0 = shut, 1 = open; NaN is left out.

    The axis is 0 to 1 unless values lie outside (SiLU, tanh). The subtitle tells how much is practically shut.
    """
    values_N, title = numbers(values_N).reshape(-1), titled(title, name)
    values_N = values_N[np.isfinite(values_N)]
    if not len(values_N):
        return empty(title)
    low, high = min(0.0, float(values_N.min())), max(1.0, float(values_N.max()))
    number, edges = np.histogram(values_N, bins=BINS, range=(low, high))
    middle = ((edges[1:] + edges[:-1]) / 2).astype(np.float32)
    mean, shut = float(values_N.mean()), float((values_N < SHUT).mean())
    bars: Plain = {"type": "bar", "x": middle, "y": (number / len(values_N)).astype(np.float32), "name": "values"}
    bars |= {"width": float(edges[1] - edges[0]) * 0.92, "showlegend": False}
    bars["hovertemplate"] = "gate about %{x:.2f}: %{y:.1%} of the values<extra></extra>"
    line = {"type": "line", "xref": "x", "x0": mean, "x1": mean, "yref": "paper", "y0": 0, "y1": 1}
    marks: Plain = {
        "shapes": [{**line, "line": {"dash": "dash", "width": 1.5}}],
        "annotations": [key(f"dashed: mean {mean:.2f}")],
    }
    text = (
        f"The mean of {len(values_N)} gate values is {mean:.2f}; {percent(shut)} are below {SHUT} (shut) and "
        f"{percent(float((values_N > 1 - SHUT).mean()))} above {1 - SHUT} (open)."
    )
    x_axis = {"range": [low, high], "title": {"text": "gate value (0 shut, 1 open)"}}
    y_axis = {"tickformat": ".0%", "rangemode": "tozero", "title": {"text": "share of the values"}}
    subtitle = f"{percent(shut)} are below {SHUT}: shut"
    shape = layout(plain(title), text, subtitle, xaxis=x_axis, yaxis=y_axis, hovermode="closest", **marks)
    return {"data": [bars], "layout": shape}


@Picture
def gate_by_kind(
    gate_HN: Any, kind_N: Any, kinds: Sequence[str], auc_H: Any = None, title: str = "Gate value by kind of token"
) -> Plain:
    """gate_HN: each head's gate at token N; kind_N: its kind, a place in `kinds`, -1 = none of them.

    A sign stands at the median of each kind, its bar spans the middle 80 % of the tokens. auc_H: each head's rank AUC as
    a detector (`metrics.gate_auc`): 1 or 0 = the gate tells the kind, 0.5 = it does not know. Of more than 24 heads, those
    whose AUC is farthest from 0.5 (without an AUC the first); of more than 6 kinds, the first.
    """
    gate_HN, kind_N = numbers(gate_HN), counts(kind_N).reshape(-1)
    if gate_HN.ndim != 2 or not np.isfinite(gate_HN).any() or not kinds or gate_HN.shape[1] != len(kind_N):
        return empty(title)
    H = len(gate_HN)
    auc = np.full(H, np.nan, np.float32) if auc_H is None else numbers(auc_H).reshape(-1)
    kept = telling(np.abs(auc - 0.5), MOST_HEADS)
    rows = [str(h) + (f": AUC {auc[h]:.2f}" if np.isfinite(auc[h]) else "") for h in kept]
    shown = row_names(kinds[:MOST_KINDS], 16)
    data = [
        _strip(name, i, len(shown), kept, quantiles(gate_HN[kept][:, kind_N == i], (0.1, 0.5, 0.9)))
        for i, name in enumerate(shown)
        if (kind_N == i).any()
    ]
    best = int(np.nan_to_num(np.abs(auc - 0.5), nan=-1).argmax())
    asked = [f"is the gate a detector? best AUC {auc[best]:.2f} (0.5 = no)"] if np.isfinite(auc[best]) else []
    cut = [f"{len(kept)} of {H} heads"] if len(kept) < H else []
    cut += [f"the first {MOST_KINDS} of {len(kinds)} kinds"] if len(kinds) > MOST_KINDS else []
    places = list(range(len(kept)))
    y_axis = {"range": [len(kept) - 0.5, -0.5], "tickvals": places, "ticktext": rows, "title": {"text": "head"}}
    low, high = min(0.0, float(np.nanmin(gate_HN))), max(1.0, float(np.nanmax(gate_HN)))
    x_axis = {"range": [low - 0.03, high + 0.03], "title": {"text": "gate value (0 shut, 1 open)"}, "nticks": 6}
    text = summary(gate_HN, kind_N, [clean(kind) for kind in kinds[:MOST_KINDS]], auc)
    subtitle = "; ".join([*asked, *cut])
    shape = layout(plain(title), text, subtitle, xaxis=x_axis, yaxis=y_axis, hovermode="closest")
    return {"data": data, "layout": {**shape, "height": min(900, 170 + max(34, 16 * len(shown)) * max(len(kept), 2))}}


def _strip(name: str, number: int, kinds: int, kept: np.ndarray, spread_HQ: np.ndarray) -> Plain:
    """One kind's medians over the heads with bars from the tenth to the ninetieth of a hundred tokens."""
    low, middle, high = np.ascontiguousarray(spread_HQ.T)
    y = (np.arange(len(kept)) + 0.7 * ((number + 0.5) / kinds - 0.5)).astype(np.float32)
    trace: Plain = {"type": "scatter", "mode": "markers", "x": middle, "y": y, "name": name, "meta": {"colour": number}}
    trace["marker"] = {"symbol": SYMBOLS[number], "size": 9}
    span = {"type": "data", "symmetric": False, "array": high - middle, "arrayminus": middle - low, "thickness": 2}
    trace |= {"error_x": {**span, "width": 3}, "customdata": np.stack([kept, low, high], 1)}
    trace["hovertemplate"] = (
        f"head %{{customdata[0]:.0f}}, {name}: median %{{x:.3f}}, middle 80 % of the tokens "
        "%{customdata[1]:.3f} to %{customdata[2]:.3f}<extra></extra>"
    )
    return trace


def summary(gate_HN: np.ndarray, kind_N: np.ndarray, kinds: Sequence[str], auc_H: np.ndarray) -> str:
    """One sentence: the mean gate of each kind over all heads, and the best detector."""
    parts = []
    for i, name in enumerate(kinds):
        own = gate_HN[:, kind_N == i]
        own = own[np.isfinite(own)]
        parts += [f"{own.mean():.2f} at {name}"] if len(own) else []
    text = f"The mean gate is {joined(parts) or 'known at none of the kinds'}"
    away = np.nan_to_num(np.abs(auc_H - 0.5), nan=-1)
    best = int(away.argmax())
    return f"{text}; head {best} is the best detector, AUC {auc_H[best]:.2f}." if away[best] >= 0 else f"{text}."
