"""What the pictures share: arrays of numbers, thinning of long runs, one layout, and the picture of "no data yet"."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from widgets.figures.text import clean, plain

MOST_POINTS = 400
HEIGHT = 320


def numbers(values: Any) -> np.ndarray:
    """Any tensor, array or sequence as float32: enough for a picture and half the bytes of float64."""
    if hasattr(values, "detach"):
        values = values.detach().cpu().float().numpy()
    return np.asarray(values, dtype=np.float32)


def counts(values: Any) -> np.ndarray:
    """Step numbers as int32 (int64 has no typed array that plotly.js can draw)."""
    if hasattr(values, "detach"):
        values = values.detach().cpu().numpy()
    return np.asarray(values, dtype=np.int32)


def stride(length: int, most: int = MOST_POINTS) -> int:
    """The power of two by which a run of `length` points is thinned: at most `most` points remain.

    A power of two, counted from the start: the points already drawn stay where they are while the run grows.
    """
    return 1 << max(0, int(np.ceil(np.log2(max(length, 1) / most))))


def thin(values_SX: np.ndarray, every: int) -> np.ndarray:
    """Means over groups of `every` rows (the last group may be shorter); NaN counts as missing."""
    if every == 1 or not len(values_SX):
        return values_SX
    starts = np.arange(0, len(values_SX), every)
    known = np.isfinite(values_SX)
    total = np.add.reduceat(np.where(known, values_SX, 0), starts, axis=0)
    number = np.add.reduceat(known.astype(np.float32), starts, axis=0)
    with np.errstate(invalid="ignore", divide="ignore"):
        return (total / number).astype(np.float32)


def thin_steps(steps_S: np.ndarray, every: int) -> np.ndarray:
    """The last step of each group, to go with `thin`: a mean is known when its last step is."""
    if every == 1 or not len(steps_S):
        return steps_S
    return np.append(steps_S[every - 1 :: every], steps_S[-1:]) if len(steps_S) % every else steps_S[every - 1 :: every]


def layout(title: str, summary: str, subtitle: str = "", x: str = "step", y: str = "", **more: Any) -> dict[str, Any]:
    """The layout of a line picture; `title`, `subtitle`, `x`, `y` are plotly text (escape foreign names with `plain`)."""
    base: dict[str, Any] = {
        "title": heading(title, subtitle),
        "meta": {"summary": summary},
        "height": HEIGHT,
        "margin": {"l": 52, "r": 16, "t": 62 if subtitle else 46, "b": 44},
        "xaxis": {"title": {"text": x}},
        "yaxis": {"title": {"text": y}},
        "hovermode": "x unified",
        "showlegend": True,
        "legend": {"orientation": "h", "traceorder": "normal", **below(0.02)},
        "uirevision": "kept",
    }
    for name, value in more.items():
        base[name] = {**base[name], **value} if isinstance(base.get(name), dict) else value
    return base


def heading(title: str, subtitle: str = "") -> dict[str, Any]:
    """A title at the top left, with a smaller line below it.

    Anchored by the baseline of its first line, 24 px below the edge: anchored by its top, plotly places a title of
    several lines otherwise than one of a single line, and clips it.
    """
    place = {"x": 0, "xref": "container", "xanchor": "left", "y": 1, "yref": "container", "yanchor": "bottom"}
    # plotly's own subtitle leaves a gap of a line; chart.js knows this form and breaks its lines to the width of the page
    text = f'{title}<br><span style="font-size:12px">{subtitle}</span>' if subtitle else title
    return {"text": text, "pad": {"l": 8, "b": -24}, **place}


def line(x: np.ndarray, y: np.ndarray, name: str, hover: str = "%{y:.3g}", **more: Any) -> dict[str, Any]:
    """One line; its colour is the next of the theme's unless `line` says otherwise."""
    trace = {"type": "scatter", "mode": "lines", "x": x, "y": y, "name": name, "hovertemplate": hover, **more}
    trace["line"] = {"width": 2, **more.get("line", {})}
    return trace


def reference(y: float, label: str) -> dict[str, Any]:
    """A dashed level across the picture, explained above it: {"shapes": [...], "annotations": [...]}."""
    stroke = {"dash": "dash", "width": 1.5}
    shape = {"type": "line", "xref": "paper", "x0": 0, "x1": 1, "yref": "y", "y0": y, "y1": y, "line": stroke}
    return {"shapes": [shape], "annotations": [key(f"dashed: {label}")]}


def key(text: str) -> dict[str, Any]:
    """What a reference line or band means, at the upper right outside the axes, where no data can cover it."""
    return {"text": text, "xref": "paper", "x": 1, "xanchor": "right", "yref": "paper", "y": 1, "yanchor": "bottom"}


def below(x: float) -> dict[str, Any]:
    """At the lower edge, where plotly reserves room for it however high the picture is."""
    return {"x": x, "xref": "container", "xanchor": "left", "y": 0.01, "yref": "container", "yanchor": "bottom"}


def bar(values: Sequence[float], labels: Sequence[str]) -> dict[str, Any]:
    """A colour bar lying below a heat map: its width belongs to the cells."""
    scale = {"tickvals": list(values), "ticktext": list(labels), "len": 0.8, "thickness": 10, "ypad": 4}
    return {"orientation": "h", **scale, **below(0.5), "xref": "paper", "xanchor": "center"}


def cells(n_experts: int, most: int = 12) -> dict[str, Any]:
    """How an axis of experts is numbered so that its labels stand upright and apart."""
    every = 1 << max(0, int(np.ceil(np.log2(max(n_experts, 1) / most))))
    return {"title": {"text": "expert"}, "dtick": every, "tickangle": 0}


def empty(title: str, sentence: str = "Nothing to show yet: press Train or Step.") -> dict[str, Any]:
    """The picture before there is data: its title (any text) and one grey sentence, no axes."""
    hidden = {"visible": False}
    note = {"text": plain(sentence, 200), "xref": "paper", "yref": "paper", "x": 0.5, "y": 0.5, "font": {"size": 13}}
    shape = layout(
        plain(title), f"{clean(title)}: {sentence}", xaxis=hidden, yaxis=hidden, showlegend=False, hovermode=False
    )
    # Another revision than the full picture's, so that the hidden axes' ranges are not kept for it.
    return {"data": [], "layout": {**shape, "annotations": [note], "uirevision": "empty"}}


def named(values: Mapping[str, Any] | Any, word: str = "layer") -> dict[str, Any]:
    """A mapping as it is; a two-dimensional array (names x steps) as {"layer 0": row, ...}."""
    if isinstance(values, Mapping):
        return dict(values)
    return {f"{word} {i}": row for i, row in enumerate(numbers(values))}


def joined(words: Sequence[str]) -> str:
    """ "a", "a and b", "a, b and c"."""
    return ", ".join(words[:-1]) + " and " + words[-1] if len(words) > 1 else "".join(words)
