"""Routers beside each other: what quality costs, and one measure at a time; each seed a small mark, the mean a large one."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from widgets.figures.layout import empty, layout, row_names
from widgets.figures.notes import nothing
from widgets.figures.palette import GREY
from widgets.figures.picture import Picture, Plain
from widgets.figures.series import numbers
from widgets.figures.text import clean, plain

LONGEST = 20  # characters of a router's name
LETTER = 6.6  # pixels that one of them is wide
LINE = 17  # pixels that a name is high
SEEDS = {"symbol": "circle-open", "size": 7, "line": {"width": 1.5}}
MEANS = {"symbol": "diamond", "size": 12}


@Picture
def quality_by_flops(
    names: Sequence[str],
    flops: Sequence[float],
    losses: Sequence[Any],
    unit: str = "nats/token",
    title: str = "Held-out loss against active FLOPs",
) -> Plain:
    """Of each router its name, its active FLOPs a token, and the held-out loss of each seed (as many as are done).

    Lower left is better: less loss for less work. The names stand at the right edge, each with a line to its mean.
    """
    done = [i for i, values in enumerate(losses) if np.isfinite(numbers(values)).any()]
    if not done:
        return empty(title)
    labels = row_names([names[i] for i in done], LONGEST)
    x_R, means_R = numbers([flops[i] for i in done]), numbers([np.nanmean(numbers(losses[i])) for i in done])
    seeds = [(x, y) for x, i in zip(x_R, done, strict=True) for y in numbers(losses[i])]
    everything = numbers([y for _, y in seeds])
    places_of_seeds = numbers([x for x, _ in seeds])
    data = _marks((places_of_seeds, everything), (x_R, means_R), labels, "%{x:,.0f} FLOPs: %{y:.4f}")
    height, (low, high) = _height(len(done)), _range(everything)
    start, end = _range(x_R, share=0.12)
    places = _apart(means_R, LINE * (high - low) / (height - 110), low, high)
    axes: Plain = {
        "xaxis": {"range": [start, end], "title": {"text": "active FLOPs a token"}, "nticks": 4},
        "yaxis": {"range": [low, high], "title": {"text": plain(unit)}},
        "annotations": [
            _label(name, x, y, end, at) for name, x, y, at in zip(labels, x_R, means_R, places, strict=True)
        ],
    }
    shape = layout(plain(title), _summary_quality(labels, x_R, means_R, unit), hovermode="closest", **axes)
    margin = {**shape["margin"], "r": int(14 + LETTER * max(map(len, labels)))}
    return {"data": data, "layout": {**shape, "height": height, "margin": margin}}


@Picture
def measure_by_router(
    names: Sequence[str],
    values: Sequence[Any],
    title: str = "Imbalance (MaxVio)",
    meaning: str = "",
    better: str = "lower",
    form: str = ".2f",
) -> Plain:
    """Of each router its name and one measure for each seed that is done; the first router on top.

    better: "lower" or "higher", said at the axis; form: how a value is written. A router without the measure has no row.
    """
    done = [i for i, one in enumerate(values) if np.isfinite(numbers(one)).any()]
    if not done:
        return nothing(title, "None of these routers has it.") if len(values) else empty(title)
    labels = row_names([names[i] for i in done], LONGEST)
    means_R = numbers([np.nanmean(numbers(values[i])) for i in done])
    seeds = [(float(y), name) for name, i in zip(labels, done, strict=True) for y in numbers(values[i])]
    all_of_them = numbers([y for y, _ in seeds])
    data = _marks((all_of_them, [name for _, name in seeds]), (means_R, labels), labels, f"%{{x:{form}}}")
    low, high = min(0.0, float(np.nanmin(all_of_them))), float(np.nanmax(all_of_them))
    room = 0.06 * ((high - low) or 1.0)
    axes: Plain = {
        "xaxis": {
            "range": [low - room, high + room],
            "title": {"text": f"{better} is better"},
            "tickformat": ".0%" if form.endswith("%") else "",
            "nticks": 5,
        },
        "yaxis": {"type": "category", "autorange": "reversed", "title": {"text": ""}, "categoryarray": labels},
    }
    best = int(means_R.argmin() if better == "lower" else means_R.argmax())
    worst = int(means_R.argmax() if better == "lower" else means_R.argmin())
    text = f"{clean(title)}: {clean(names[done[best]])} has the {better.removesuffix('er')}est mean, {means_R[best]:{form}}"
    text += f"; {clean(names[done[worst]])} the other end, {means_R[worst]:{form}}." if len(done) > 1 else "."
    shape = layout(plain(title), text, plain(meaning, 120), hovermode="closest", **axes)
    return {"data": data, "layout": {**shape, "height": _height(len(done), least=220)}}


def _marks(seeds: tuple[Any, Any], means: tuple[Any, Any], labels: Sequence[str], hover: str) -> list[Plain]:
    """(x, y) of every seed, a small ring each, and of the means, a diamond each."""
    common = {"type": "scatter", "mode": "markers", "hovertemplate": f"{hover}<extra></extra>"}
    named = {**common, "text": list(labels), "hovertemplate": f"%{{text}}, mean: {hover}<extra></extra>"}
    return [
        {**common, "x": seeds[0], "y": seeds[1], "name": "each seed", "marker": SEEDS},
        {**named, "x": means[0], "y": means[1], "name": "mean", "marker": MEANS},
    ]


def _height(rows: int, least: int = 320) -> int:
    return max(least, 130 + (LINE + 4) * rows)


def _range(values: np.ndarray, share: float = 0.08) -> tuple[float, float]:
    """From the least to the greatest, with room at both ends."""
    low, high = float(np.nanmin(values)), float(np.nanmax(values))
    room = share * (high - low) or share * abs(high) or 1.0
    return low - room, high + room


def _apart(wanted_R: np.ndarray, gap: float, low: float, high: float) -> np.ndarray:
    """Places near the wanted ones and in their order, at least `gap` from each other, inside the axis if there is room."""
    order = np.argsort(wanted_R, kind="stable")
    steps = gap * np.arange(len(wanted_R))
    # without the gaps it is a line that must not fall: each block of those that would is put at its mean
    blocks: list[list[float]] = []
    for value in wanted_R[order].astype(float) - steps:
        blocks.append([value])
        while len(blocks) > 1 and np.mean(blocks[-2]) > np.mean(blocks[-1]):
            last = blocks.pop()
            blocks[-1] += last
    flat = np.concatenate([np.full(len(one), np.mean(one)) for one in blocks])
    most = high - gap / 2 - steps[-1]
    places = np.empty(len(wanted_R))
    places[order] = np.clip(flat, min(low + gap / 2, most), most) + steps
    return places


def _label(name: str, x: float, y: float, end: float, at: float) -> Plain:
    """The name at the right edge, and a thin line from it to the mean."""
    line = {"showarrow": True, "arrowhead": 0, "arrowwidth": 1, "arrowcolor": GREY, "standoff": 7}
    place = {"x": float(x), "y": float(y), "ax": float(end), "ay": float(at), "axref": "x", "ayref": "y"}
    return {"text": name, "xanchor": "left", "yanchor": "middle", **place, **line}


def _summary_quality(labels: Sequence[str], x_R: np.ndarray, means_R: np.ndarray, unit: str) -> str:
    best, cheapest = int(means_R.argmin()), int(x_R.argmin())
    lowest = f"{means_R[best]:.3f} {clean(unit)}, for {x_R[best]:,.0f} FLOPs a token"
    text = f"{labels[best]} has the lowest mean held-out loss, {lowest}"
    if cheapest != best:
        text += f"; {labels[cheapest]} works least, {x_R[cheapest]:,.0f}, and has {means_R[cheapest]:.3f}"
    return text + "."
