"""Heads that start local: the gate between looking by place and by content, and how far they look, over the steps."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from widgets.figures.layout import empty, key, layout, line, row_names, steps_axis
from widgets.figures.load import MOST_LINES
from widgets.figures.palette import dash
from widgets.figures.picture import Picture, Plain
from widgets.figures.series import counts, numbers, stride, thin, thin_steps
from widgets.figures.text import clean, plain

MOST_ROWS = 96
START = 0.731  # sigma(1), where the gates of arXiv 2103.10697 start


@Picture
def locality(
    steps_S: Any,
    gate_SR: Any,
    rows: Sequence[str] = (),
    nonlocality_SR: Any = None,
    title: str = "Heads that start local, and escape",
) -> Plain:
    """gate_SR: sigma(lambda) of each head or layer R at step S: 1 = attends by place only, 0 = by content only.

    nonlocality_SR: mean distance between a query and what it looks at, in patches; drawn below. Dashed: where the gates
    start. Up to ten rows as lines, more as heat maps; of more than 96 rows a row is the lowest gate (and the farthest
    look) of several.
    """
    steps_S, gate_SR = counts(steps_S), numbers(gate_SR)
    if gate_SR.ndim != 2 or not gate_SR.size or len(gate_SR) != len(steps_S):
        return empty(title)
    R = gate_SR.shape[1]
    given = [clean(row) for row in rows[:R]] + [f"head {r}" for r in range(len(rows), R)]
    far_SR = None if nonlocality_SR is None else numbers(nonlocality_SR)
    if far_SR is not None and far_SR.shape != gate_SR.shape:
        far_SR = None
    both = [gate_SR] if far_SR is None else [gate_SR, far_SR]
    every = -(-R // MOST_ROWS)
    draw = _lines if R <= MOST_LINES else _heats
    pause = stride(len(steps_S), 400 if R <= MOST_LINES else 120)
    data = draw(thin_steps(steps_S, pause), [thin(one, pause) for one in both], given, every)
    told = ["gate of each head: 1 looks by place, 0 by content"] + (
        ["below: how far, in patches"] if far_SR is not None else []
    )
    subtitle = "" if R <= MOST_LINES else "; ".join(told)
    subtitle += f"; each row: the extreme of {every} heads" if every > 1 else ""
    text = summary(steps_S, gate_SR, far_SR, given)
    shape = layout(plain(title), text, subtitle, **_axes(steps_S, far_SR is not None, R), showlegend=R <= MOST_LINES)
    shape["hovermode"] = "closest"
    return {"data": data, "layout": {**shape, "height": 320 if far_SR is None else 480}}


def _lines(x: np.ndarray, both: list[np.ndarray], names: Sequence[str], _: int) -> list[Plain]:
    """Each row a colour and a dash, the same in both panels; its name stands in the legend once."""
    labels, data = row_names(names, 20), []
    for panel, values_SR in enumerate(both):
        unit = "gate %{y:.3f}" if not panel else "looks %{y:.2f} patches far"
        for r, label in enumerate(labels):
            look: Plain = {"line": {"dash": dash(10 * r)}, "meta": {"colour": r}, "legendgroup": str(r)}
            look |= {"mode": "lines+markers"} if len(x) < 3 else {}
            look |= {"xaxis": "x", "yaxis": f"y{panel + 1}" if panel else "y", "showlegend": not panel}
            hover = f"step %{{x}}, {label}: {unit}<extra></extra>"
            data.append(line(x, np.ascontiguousarray(values_SR[:, r]), label, hover, **look))
    return data


def _heats(x: np.ndarray, both: list[np.ndarray], names: Sequence[str], every: int) -> list[Plain]:
    starts, data = np.arange(0, len(names), every), []
    labels = row_names([names[r] for r in starts.tolist()], 20)
    for panel, values_SR in enumerate(both):
        extreme = (np.fmax if panel else np.fmin).reduceat(values_SR, starts, axis=1)
        top = max(float(np.nan_to_num(extreme).max()), 1e-6) if panel else 1.0
        unit = "looks %{z:.2f} patches far" if panel else "gate %{z:.3f}"
        heat: Plain = {
            "type": "heatmap",
            "x": x,
            "y": labels,
            "z": np.ascontiguousarray(extreme.T),
            "zmin": 0,
            "zmax": top,
        }
        heat |= {"hovertemplate": f"step %{{x}}, %{{y}}: {unit}<extra></extra>", "hoverongaps": False}
        heat["colorbar"] = _upright(panel, len(both), top)
        data.append({**heat, "yaxis": "y2"} if panel else heat)
    return data


def _upright(panel: int, panels: int, top: float) -> Plain:
    """A colour bar at the right of its own panel."""
    place = {
        "y": 0.22 if panel else 1 - 0.22 if panels > 1 else 0.5,
        "len": 0.46 if panels > 1 else 1.0,
        "thickness": 10,
    }
    values = [0, top] if panel else [0, 1]
    words = ["0", f"{top:.2g}"] if panel else ["0", "1"]
    return {**place, "yanchor": "middle", "tickvals": values, "ticktext": words, "x": 1.01, "xpad": 2}


def _axes(steps_S: np.ndarray, two: bool, R: int) -> Plain:
    lines = R <= MOST_LINES
    rows: Plain = {"type": "category", "autorange": "reversed", "title": {"text": ""}, "nticks": 8}
    above: Plain = {"title": {"text": "gate σ(λ)"}, "range": [0, 1.03], "nticks": 5} if lines else dict(rows)
    below: Plain = (
        {"title": {"text": "distance (patches)"}, "rangemode": "tozero", "nticks": 5} if lines else dict(rows)
    )
    first, last = int(steps_S[0]), int(steps_S[-1])
    x_axis = dict(steps_axis(steps_S)) if last > first else {"range": [first - 1, first + 1], "tickvals": [first]}
    axes: Plain = {"xaxis": x_axis, "yaxis": above}
    if two:
        axes["yaxis"]["domain"] = [0.56, 1]
        axes["xaxis"]["anchor"] = "y2"
        axes["yaxis2"] = {**below, "domain": [0, 0.44]}
    if lines:
        stroke = {"dash": "dash", "width": 1.5}
        level = {"type": "line", "xref": "paper", "x0": 0, "x1": 1, "yref": "y", "y0": START, "y1": START}
        axes |= {"shapes": [{**level, "line": stroke}], "annotations": [key("dashed: where gates start, 0.73")]}
    return axes


def summary(steps_S: np.ndarray, gate_SR: np.ndarray, far_SR: np.ndarray | None, names: Sequence[str]) -> str:
    """One sentence: the most and the least local row at the last step, and how the distance changed."""
    last = gate_SR[-1]
    if not np.isfinite(last).any():
        return f"The gates of {len(names)} rows are unknown at step {steps_S[-1]}."
    low, high = int(np.nanargmin(last)), int(np.nanargmax(last))
    text = (
        f"At step {steps_S[-1]} the gates run from {last[low]:.2f} ({names[low]}, the least local) to {last[high]:.2f} "
        f"({names[high]})"
    )
    if far_SR is not None and np.isfinite(far_SR[[0, -1]]).any(1).all():
        text += f"; the mean distance looked at went from {np.nanmean(far_SR[0]):.2f} to {np.nanmean(far_SR[-1]):.2f} patches"
    return text + "."
