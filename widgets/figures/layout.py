"""What the pictures share: one layout, its references, bars and axes, and the picture of "no data yet"."""

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from widgets.figures.series import ahead
from widgets.figures.text import clean, plain

HEIGHT = 320


def steps_axis(steps_S: np.ndarray) -> dict[str, Any]:
    """The axis of a run that goes on."""
    return {"range": ahead(float(steps_S[-1]))}


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
    """A colour bar lying below a heat map: its width belongs to the cells.

    An end without room for its label beside that of the middle goes without: plotly would turn them, or print one on the other.
    """
    names = list(labels)
    if len(values) == 3:
        low, middle, high = values
        near = 0.18 * (high - low)
        names = [names[0] if middle - low > near else "", names[1], names[2] if high - middle > near else ""]
    scale = {"tickvals": list(values), "ticktext": names, "tickangle": 0, "len": 0.8, "thickness": 10, "ypad": 4}
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


def row_names(names: Iterable[object], longest: int = 18) -> list[str]:
    """Short, harmless and distinct: plotly draws two rows of the same name as one."""
    rows: list[str] = []
    for name in names:
        short = plain(name, longest)
        rows.append(short if short not in rows else f"{short} ({len(rows)})")
    return rows


def joined(words: Sequence[str]) -> str:
    """ "a", "a and b", "a, b and c"."""
    return ", ".join(words[:-1]) + " and " + words[-1] if len(words) > 1 else "".join(words)
