"""Families of motion in the phase plane, one panel each: pieces of their courses, coloured by the expert that takes them."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from widgets.figures.layout import empty, joined, layout
from widgets.figures.palette import GREY, dash
from widgets.figures.picture import Picture, Plain
from widgets.figures.series import counts, numbers
from widgets.figures.text import clean, plain

MOST_PIECES = 30  # of a family: more would hide each other
MOST_STATES = 16  # of a piece: the picture moves while the model learns
MOST_PANELS = 4


@Picture
def recovered_families(
    pieces_NWP: Any,
    family: Any,
    expert: Any,
    names: Sequence[str],
    nmi: float,
    title: str = "Families of motion, and who takes them",
) -> Plain:
    """pieces_NWP: W successive states (u, v) of each of N pieces; family, expert (N,): its law of motion, and the expert
    that takes it, -1 = none; nmi: what the expert tells of the family, 0 nothing, 1 all.

    A family has recovered its expert where its panel has one colour, and no other panel has it.
    """
    pieces_NWP, family_N, expert_N = numbers(pieces_NWP), counts(family), counts(expert)
    if pieces_NWP.ndim != 3 or not len(pieces_NWP) or not names:
        return empty(title)
    pieces_NWP = pieces_NWP[:, :: -(-pieces_NWP.shape[1] // MOST_STATES)]
    shown = min(len(names), MOST_PANELS)
    some = [np.flatnonzero(family_N == c)[:MOST_PIECES] for c in range(shown)]
    data: list[Plain] = []
    for e in np.unique(expert_N[np.concatenate(some)]).tolist():
        places = [(c, own[expert_N[own] == e]) for c, own in enumerate(some) if (expert_N[own] == e).any()]
        data += [_courses(pieces_NWP[own], e, c, first=c == places[0][0]) for c, own in places]
    favourites = [_favourite(expert_N[family_N == c]) for c in range(shown)]
    subtitle = f"NMI {nmi:.2f}: 0 = the expert tells nothing of the family, 1 = it tells which"
    legend = {"title": {"text": "expert "}, "traceorder": "normal"}
    text = summary([clean(name) for name in names[:shown]], favourites, nmi)
    shape = layout(plain(title), text, subtitle, legend=legend, hovermode="closest", **_axes(names[:shown], favourites))
    return {"data": data, "layout": {**shape, "height": 360}}


def _courses(pieces_NWP: np.ndarray, expert: int, panel: int, first: bool) -> Plain:
    """All pieces as one broken line: piece, gap, piece, …"""
    N, W, _ = pieces_NWP.shape
    path = np.full((N, W + 1, 2), np.nan, np.float32)
    path[:, :W] = pieces_NWP
    end = str(panel + 1) if panel else ""
    name = str(expert) if expert >= 0 else "none"
    trace: Plain = {"type": "scatter", "mode": "lines", "x": path[..., 0].reshape(-1), "y": path[..., 1].reshape(-1)}
    trace |= {"name": name, "legendgroup": name, "showlegend": first, "xaxis": f"x{end}", "yaxis": f"y{end}"}
    trace["hovertemplate"] = f"expert {name}<extra></extra>"
    if expert < 0:
        return {**trace, "line": {"width": 1.5, "color": GREY}}
    return {**trace, "line": {"width": 1.5, "dash": dash(expert)}, "meta": {"colour": expert}}


def _axes(names: Sequence[str], favourites: Sequence[tuple[int, float]]) -> dict[str, Plain]:
    """Panels side by side on one scale; below each its family and the expert that takes most of it."""
    found: dict[str, Plain] = {}
    step = 1 / len(names)
    for c, (name, (expert, share)) in enumerate(zip(names, favourites, strict=True)):
        end = str(c + 1) if c else ""
        label = f"{plain(name, 20)}<br>expert {expert}: {share:.0%}"
        found[f"xaxis{end}"] = {"domain": [c * step, (c + 0.92) * step], "title": {"text": label}, "nticks": 4}
        found[f"yaxis{end}"] = {"title": {"text": ""}, "nticks": 5}
        if c:
            found[f"xaxis{end}"]["matches"] = "x"
            found[f"yaxis{end}"] |= {"anchor": f"x{end}", "matches": "y", "showticklabels": False}
    return found


def _favourite(expert_N: np.ndarray) -> tuple[int, float]:
    """(the expert that takes most of these pieces, the share that it takes); -1 where none takes any."""
    taken = expert_N[expert_N >= 0]
    if not len(taken):
        return -1, 0.0
    load = np.bincount(taken)
    return int(load.argmax()), float(load.max() / len(expert_N))


def summary(names: Sequence[str], favourites: Sequence[tuple[int, float]], nmi: float) -> str:
    """One sentence: who takes most of each family."""
    most = joined([f"{name} to expert {e} ({share:.0%})" for name, (e, share) in zip(names, favourites, strict=True)])
    return f"The largest share of each family goes: {most}; normalised mutual information {nmi:.2f}."
