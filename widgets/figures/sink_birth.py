"""A sink being born: how much of its attention every head spends on the first token, over the steps of a run."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from widgets.figures.layout import bar, empty, layout, row_names, steps_axis
from widgets.figures.palette import GREY
from widgets.figures.picture import Picture, Plain
from widgets.figures.positions import percent
from widgets.figures.series import counts, numbers, stride, thin, thin_steps
from widgets.figures.text import clean, plain

MOST_ROWS = 192
MOST_STEPS = 160
FEW_ROWS = 16  # each has room for its name


@Picture
def sink_birth(
    steps_S: Any,
    share_SR: Any,
    rows: Sequence[str] = (),
    what: str = "first token",
    even: float | None = None,
    title: str = "Attention sinks over training",
) -> Plain:
    """share_SR: the share of its attention, 0..1, that head R spends on the first token at step S; 1 = a pure sink.

    rows: the heads in order, the layer before the last dot ("0.3", "blocks.0.3") or before " · " ("layer 0 · head 3"); a line
    parts the layers. even: the share if attention were even, marked on the colour bar. `what`: the token, where it is
    another. Beyond 192 heads a row is the strongest of several.
    """
    steps_S, share_SR = counts(steps_S), numbers(share_SR)
    if share_SR.ndim != 2 or not share_SR.size or len(steps_S) != len(share_SR):
        return empty(title)
    R = share_SR.shape[1]
    given = [clean(row) for row in rows[:R]] + [f"head {r}" for r in range(len(rows), R)]
    every = -(-R // MOST_ROWS)
    starts = np.arange(0, R, every)
    pause = stride(len(steps_S), MOST_STEPS)
    drawn_RS = np.ascontiguousarray(np.fmax.reduceat(thin(share_SR, pause), starts, axis=1).T)
    x = thin_steps(steps_S, pause)
    names = row_names([_group(given, r, every) for r in starts.tolist()], 24)
    layers = [_layer(given[r]) for r in starts.tolist()]
    heat: Plain = {"type": "heatmap", "x": x, "y": names, "z": drawn_RS, "zmin": 0, "zmax": 1, "hoverongaps": False}
    heat["colorbar"] = _scale(even)
    heat["hovertemplate"] = (
        f"step %{{x}}, %{{y}}: %{{z:.1%}} of its attention is on the {plain(what, 20)}<extra></extra>"
    )
    few = len(names) <= FEW_ROWS
    y_axis: Plain = {"type": "category", "autorange": "reversed", "title": {"text": ""}}
    y_axis |= {} if few else _ticks(names, layers)
    subtitle = f"share on the {plain(what, 20)}" + (f"; each row: the strongest of {every} heads" if every > 1 else "")
    text = summary(steps_S, share_SR, given, what, even)
    steps = steps_axis(x) if len(x) > 1 else {"range": [int(x[0]) - 0.5, int(x[0]) + 0.5], "tickvals": [int(x[0])]}
    shape = layout(plain(title), text, subtitle, xaxis=steps, yaxis=y_axis, showlegend=False, hovermode="closest")
    height = min(760, 180 + (18 if few else 12) * max(len(names), 6))
    return {"data": [heat], "layout": {**shape, "shapes": _partings(layers), "height": height}}


def _layer(name: str) -> str:
    return name.rpartition(" · " if " · " in name else ".")[0]


def _group(names: Sequence[str], start: int, every: int) -> str:
    last = names[min(start + every, len(names)) - 1]
    return names[start] if every == 1 or last == names[start] else f"{names[start]}–{last}"


def _scale(even: float | None) -> Plain:
    if even is None or not 0 < even < 1:
        return bar([0, 0.5, 1], ["0%", "50%", "100%"])
    return bar([0, even, 1], ["0%", f"even {percent(even)}", "100%"])


def _ticks(names: Sequence[str], layers: Sequence[str]) -> Plain:
    """One label a layer, at its first head; of many layers every so many."""
    firsts = [i for i, layer in enumerate(layers) if i == 0 or layer != layers[i - 1]]
    if len(firsts) < 2:
        return {"nticks": FEW_ROWS}
    firsts = firsts[:: -(-len(firsts) // FEW_ROWS)]
    return {
        "tickvals": [names[i] for i in firsts],
        "ticktext": [plain(layers[i], 20) for i in firsts],
        "title": {"text": "layer"},
    }


def _partings(layers: Sequence[str]) -> list[Plain]:
    line = {"type": "line", "xref": "paper", "x0": 0, "x1": 1, "yref": "y", "line": {"width": 1, "color": GREY}}
    return [
        {**line, "y0": i - 0.5, "y1": i - 0.5} for i in range(1, len(layers)) if layers[i] != layers[i - 1]
    ]  # fmt: skip


def summary(steps_S: np.ndarray, share_SR: np.ndarray, names: Sequence[str], what: str, even: float | None) -> str:
    """One sentence: the strongest head at the first and the last step, and how many heads exceed 30 %."""
    first, last = share_SR[0], np.nan_to_num(share_SR[-1], nan=-1)
    top = int(last.argmax())
    level = f"; even attention would be {percent(even)}" if even is not None else ""
    before = f", against {percent(float(first[top]))} at step {steps_S[0]}" if len(steps_S) > 1 else ""
    return (
        f"At step {steps_S[-1]} head {names[top]} spends most on the {clean(what, 20)}, {percent(float(share_SR[-1, top]))} of "
        f"its attention{before}; {int((last > 0.3).sum())} of {len(names)} heads spend more than 30%{level}."
    )
