"""The paper's figure and ours beside each other, with the range of our seeds."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from widgets.figures.layout import empty, layout, row_names
from widgets.figures.palette import GREY
from widgets.figures.picture import Picture, Plain
from widgets.figures.series import numbers
from widgets.figures.text import clean, plain

MOST_ROWS = 40


@Picture
def paper_beside(
    names: Sequence[str],
    paper_N: Any,
    here_N: Any,
    low_N: Any = None,
    high_N: Any = None,
    what: str = "",
    title: str = "The paper, and here",
) -> Plain:
    """Of each method the paper's value (open diamond) and ours (disc), in the unit that `what` names; the bar runs from
    the lowest to the highest of our seeds. NaN = not given, or not measured: the sign is left out.

    The paper's models are a thousand times larger: compare the order of the methods, not the numbers.
    """
    paper_N, here_N = (numbers(one).reshape(-1)[:MOST_ROWS] for one in (paper_N, here_N))
    N = len(names[:MOST_ROWS])
    if not N or not len(paper_N) == len(here_N) == N or not (np.isfinite(paper_N) | np.isfinite(here_N)).any():
        return empty(title)
    low_N, high_N = (here_N if one is None else numbers(one).reshape(-1)[:MOST_ROWS] for one in (low_N, high_N))
    labels, places = row_names(names[:MOST_ROWS], 20), np.arange(N, dtype=np.float32)
    below = here_N - np.where(np.isfinite(low_N), low_N, here_N)
    above = np.where(np.isfinite(high_N), high_N, here_N) - here_N
    common = {"type": "scatter", "mode": "markers", "text": labels}
    span = {"type": "data", "symmetric": False, "array": above, "arrayminus": below, "thickness": 2, "width": 5}
    data: list[Plain] = [
        {**common, "x": here_N, "y": places + np.float32(0.14), "name": "here (bar: seeds)", "error_x": span,
         "marker": {"symbol": "circle", "size": 10}, "customdata": np.stack([here_N - below, here_N + above], 1),
         "hovertemplate": "%{text}, here: %{x:.3g} (seeds %{customdata[0]:.3g} to %{customdata[1]:.3g})<extra></extra>"},
        {**common, "x": paper_N, "y": places - np.float32(0.14), "name": "paper",
         "marker": {"symbol": "diamond-open", "size": 11, "line": {"width": 2}},
         "hovertemplate": "%{text}, paper: %{x:.3g}<extra></extra>"},
    ]  # fmt: skip
    everything = np.concatenate([paper_N, here_N - below, here_N + above])
    first, last = float(np.nanmin(everything)), float(np.nanmax(everything))
    start = 0.0 if 0 <= first <= 0.5 * last else first
    room = 0.06 * ((last - start) or abs(last) or 1.0)
    x_axis = {"range": [start - room, last + room], "title": {"text": plain(what)}, "nticks": 5}
    y_axis = {
        "range": [N - 0.5, -0.5],
        "tickvals": list(range(N)),
        "ticktext": labels,
        "showgrid": False,
        "title": {"text": ""},
    }
    cut = f"the first {N} of {len(names)}" if len(names) > N else ""
    missing = int((~np.isfinite(paper_N)).sum())
    subtitle = "; ".join(
        part for part in (cut, f"the paper gives no value for {missing} of {N}" if missing else "") if part
    )
    text = summary([clean(name) for name in names[:N]], paper_N, here_N, what)
    shape = layout(plain(title), text, subtitle, xaxis=x_axis, yaxis=y_axis, hovermode="closest", shapes=_rules(N))
    return {"data": data, "layout": {**shape, "height": 150 + 38 * max(N, 3)}}


def _rules(rows: int) -> list[Plain]:
    """Thin lines between the methods, so that a sign is read with its name."""
    line = {"type": "line", "xref": "paper", "x0": 0, "x1": 1, "yref": "y", "line": {"width": 0.5, "color": GREY}}
    return [{**line, "y0": i + 0.5, "y1": i + 0.5, "layer": "below"} for i in range(rows - 1)]


def summary(names: Sequence[str], paper_N: np.ndarray, here_N: np.ndarray, what: str) -> str:
    """One sentence: the values of each method, paper and here; of many only how many there are."""
    of = f" of {clean(what)}" if what else ""
    if len(names) > 8:
        given = [int(np.isfinite(one).sum()) for one in (paper_N, here_N)]
        return f"{len(names)} values{of}: {given[0]} from the paper, {given[1]} here."
    parts = [
        f"{name} {_told(p)} in the paper, {_told(h)} here" for name, p, h in zip(names, paper_N, here_N, strict=True)
    ]
    return f"Values{of}: {'; '.join(parts)}."


def _told(value: float) -> str:
    return f"{value:.3g}" if np.isfinite(value) else "not given"
