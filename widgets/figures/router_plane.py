"""The plane in which a router's rows differ most: its rows as arrows, and the tokens that each expert wins."""

from typing import Any

import numpy as np

from widgets.figures.layout import empty, joined, layout
from widgets.figures.notes import titled
from widgets.figures.palette import GREY
from widgets.figures.picture import Picture, Plain
from widgets.figures.series import counts, numbers
from widgets.figures.text import plain

MOST_TOKENS = 1500
MOST_COLOURS = 10
SYMBOLS = ("circle", "square", "triangle-up", "star")  # the repeats of a colour


@Picture
def router_plane(
    rows_E2: Any,
    tokens_N2: Any,
    winner_N: Any,
    explained: float,
    layer: str = "",
    title: str = "Router rows and tokens",
) -> Plain:
    """rows_E2, tokens_N2: router rows and tokens in one plane (`explorer.metrics.plane`); winner_N: each token's strongest
    expert, -1 = none; explained: the share of the rows' variance that the plane shows, 0..1.

    Rows are arrows from the origin that end in the expert's number, all lengthened by one factor so that they reach as
    far as the tokens, and have the colour of the tokens they win; of more than ten experts, the ten that win most have
    colours and numbers, and grey is the rest.
    """
    rows_E2, tokens_N2, winner_N = numbers(rows_E2), numbers(tokens_N2), counts(winner_N).reshape(-1)
    title = titled(title, layer)
    if rows_E2.ndim != 2 or not rows_E2.size:
        return empty(title)
    tokens_N2 = tokens_N2.reshape(-1, 2)
    E = len(rows_E2)
    won_E = np.bincount(winner_N[winner_N >= 0], minlength=E)[:E]
    shown = sorted(np.argsort(-won_E, kind="stable")[:MOST_COLOURS].tolist())
    every = -(-len(tokens_N2) // MOST_TOKENS) or 1
    tokens_N2, winner_N = tokens_N2[::every], winner_N[::every]
    reach, length = farthest(tokens_N2), farthest(rows_E2)
    factor = reach / length if reach > 0 and length > 0 else 1.0
    tips_E2 = rows_E2 * np.float32(factor)
    data = [_tokens(tokens_N2[winner_N == e], str(e), e) for e in shown]
    if (rest := ~np.isin(winner_N, [*shown, -1])).any():
        data.append(_grey(tokens_N2[rest], "other experts", "circle"))
    if (lost := winner_N == -1).any():
        data.append(_grey(tokens_N2[lost], "no expert", "x"))
    data += [_stems(tips_E2), *(_tip(tips_E2[e], e) for e in shown), _numbers(tips_E2, shown)]
    known = np.isfinite(explained)
    subtitle = f"arrows: rows × {factor:.3g}" + (f"; {explained:.0%} of their variance is shown" if known else "")
    x_axis = {"title": {"text": "first direction (units of the input)"}, "zeroline": True}
    y_axis = {"title": {"text": "second direction"}, "scaleanchor": "x", "zeroline": True}
    legend = {"itemsizing": "constant"}
    text = summary(won_E, len(winner_N), float(explained))
    shape = layout(plain(title), text, subtitle, xaxis=x_axis, yaxis=y_axis, legend=legend, hovermode="closest")
    return {"data": data, "layout": {**shape, "height": 440}}


def farthest(points_N2: np.ndarray) -> float:
    """The largest distance from the origin, tokens far from all others (the last 2 %) aside; 0 without any."""
    size = np.hypot(points_N2[:, 0], points_N2[:, 1])
    size = size[np.isfinite(size)]
    return float(np.quantile(size, 0.98) if len(size) > 50 else size.max(initial=0))


def _tokens(points_N2: np.ndarray, name: str, number: int) -> Plain:
    look = {"size": 5, "opacity": 0.5, "symbol": SYMBOLS[number // 10 % len(SYMBOLS)]}
    return {**_points(points_N2, name, look), "meta": {"colour": number}, "showlegend": False}


def _grey(points_N2: np.ndarray, name: str, symbol: str) -> Plain:
    return _points(points_N2, name, {"size": 5, "opacity": 0.5, "symbol": symbol, "color": GREY})


def _points(points_N2: np.ndarray, name: str, marker: Plain) -> Plain:
    x, y = np.ascontiguousarray(points_N2[:, 0]), np.ascontiguousarray(points_N2[:, 1])
    where = f"a token of {'expert ' if name.isdigit() else ''}{name}<extra></extra>"
    return {
        "type": "scatter",
        "mode": "markers",
        "x": x,
        "y": y,
        "name": name,
        "marker": marker,
        "hovertemplate": where,
    }


def _stems(tips_E2: np.ndarray) -> Plain:
    """All arrows as one broken line: origin, tip, gap, origin, …"""
    path = np.full((len(tips_E2), 3, 2), np.nan, np.float32)
    path[:, 0], path[:, 1] = 0, tips_E2
    line: Plain = {"type": "scatter", "mode": "lines", "line": {"width": 1.5, "color": GREY}, "name": "rows"}
    line |= {"x": path[..., 0].reshape(-1), "y": path[..., 1].reshape(-1)}
    return {**line, "showlegend": False, "hoverinfo": "skip"}


def _tip(tip_2: np.ndarray, number: int) -> Plain:
    look = {"size": 11, "symbol": SYMBOLS[number // 10 % len(SYMBOLS)], "line": {"width": 1.5, "color": GREY}}
    trace = {"type": "scatter", "mode": "markers", "x": tip_2[:1], "y": tip_2[1:], "name": str(number), "marker": look}
    where = f"row of expert {number}<extra></extra>"
    return {**trace, "meta": {"colour": number}, "legendgroup": "rows", "showlegend": False, "hovertemplate": where}


def _numbers(tips_E2: np.ndarray, shown: list[int]) -> Plain:
    """The experts' numbers beyond the tips, on the side that points outwards."""
    tips_E2 = tips_E2[shown]
    up, right = tips_E2[:, 1] >= 0, tips_E2[:, 0] >= 0
    sides = [f"{'top' if u else 'bottom'} {'right' if r else 'left'}" for u, r in zip(up, right, strict=True)]
    trace: Plain = {"type": "scatter", "mode": "text", "x": np.ascontiguousarray(tips_E2[:, 0]), "name": "rows"}
    trace |= {"y": np.ascontiguousarray(tips_E2[:, 1]), "text": [str(e) for e in shown], "textposition": sides}
    trace["textfont"] = {"size": 15, "weight": 700, "shadow": "auto"}  # the shadow parts the number from the tokens
    return {**trace, "showlegend": False, "hoverinfo": "skip", "cliponaxis": False}


def summary(won_E: np.ndarray, tokens: int, explained: float) -> str:
    """One sentence: how much the plane shows, and who wins most of the tokens."""
    total = int(won_E.sum())
    order = [e for e in np.argsort(-won_E, kind="stable")[:3] if won_E[e]]
    most = joined([f"expert {e} ({won_E[e] / total:.0%})" for e in order])
    drawn = f" ({tokens} are drawn)" if tokens < total else ""
    won = f"most of the {total} tokens{drawn} are won by {most}" if order else "no token is won by an expert"
    part = f"shows {explained:.0%} of the variance of" if np.isfinite(explained) else "cannot tell apart"
    return f"The plane {part} the {len(won_E)} router rows; {won}."
