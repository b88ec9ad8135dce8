"""Two runs beside each other: a curve of each with their difference below, and the difference of their loads."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from widgets.figures.layout import bar, cells, empty, joined, key, layout, line, row_names
from widgets.figures.loss import running_mean
from widgets.figures.palette import DIVERGING
from widgets.figures.picture import Picture, Plain
from widgets.figures.series import ahead, counts, numbers, stride, thin, thin_steps
from widgets.figures.text import clean, plain

MOST_CELLS_WITH_TEXT = 4096
MOST_CELLS_WITH_NUMBERS = 16


@Picture
def two_losses(
    steps_a: Any,
    loss_a: Any,
    steps_b: Any,
    loss_b: Any,
    name_a: str = "A",
    name_b: str = "B",
    unit: str = "nats/token",
    forked_at: int | None = None,
    title: str = "Loss of both runs",
) -> Plain:
    """steps_S, loss_S of each run: the mean over about a sixteenth of the run, and below it B - A where both have steps.

    forked_at: the step at which B was copied from A; before it they are one run.
    """
    return _two_curves((steps_a, loss_a), (steps_b, loss_b), (name_a, name_b), "loss", unit, forked_at, title)


@Picture
def two_curves(
    steps_a: Any,
    values_a: Any,
    steps_b: Any,
    values_b: Any,
    name_a: str = "A",
    name_b: str = "B",
    what: str = "imbalance",
    unit: str = "(max − ideal) / ideal",
    forked_at: int | None = None,
    title: str = "Imbalance of both runs",
) -> Plain:
    """steps_S, values_S of each run, any measure `what` in `unit`: as `two_losses` draws the loss."""
    picture = _two_curves((steps_a, values_a), (steps_b, values_b), (name_a, name_b), what, "", forked_at, title)
    if picture["data"]:
        picture["layout"]["yaxis"]["title"] = {"text": plain(unit)}
    return picture


def _two_curves(
    a: tuple[Any, Any],
    b: tuple[Any, Any],
    names: tuple[str, str],
    what: str,
    unit: str,
    forked_at: int | None,
    title: str,
) -> Plain:
    runs = [(counts(steps), numbers(values)) for steps, values in (a, b)]
    if not any(len(steps_S) for steps_S, _ in runs):
        return empty(title)
    thinned = [_thinned(*run) for run in runs]
    labels = [letter if name == letter else f"{letter}: {name}" for letter, name in zip("AB", names, strict=True)]
    data = [
        line(x, running_mean(y, _window(y)), plain(label, 32), "%{y:.4f}", line={"width": 2.5, "dash": dash})
        for (x, y), label, dash in zip(thinned, labels, ("solid", "dash"), strict=True)
    ]
    x, difference = apart(*thinned)
    below = line(x, running_mean(difference, _window(difference)), "B − A", "%{y:+.4f}", line={"dash": "dot"})
    data.append({**below, "xaxis": "x2", "yaxis": "y2"})
    end = ahead(max(float(steps_S[-1]) for steps_S, _ in runs if len(steps_S)))
    axes: Plain = {
        "xaxis": {"range": end, "title": {"text": ""}, "showticklabels": False, "anchor": "y"},
        "xaxis2": {"range": end, "title": {"text": "step"}, "anchor": "y2", "matches": "x"},
        "yaxis": {"domain": [0.4, 1], "title": {"text": plain(unit)}},
        "yaxis2": {"domain": [0, 0.3], "title": {"text": "B − A"}, "nticks": 4, "anchor": "x2"},
    }
    text = summary(x, difference, runs, labels, what, unit, forked_at)
    shape = layout(plain(title), text, **axes, **_marks(forked_at))
    return {"data": data, "layout": {**shape, "height": 420}}


def _thinned(steps_S: np.ndarray, values_S: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    every = stride(len(steps_S))
    return thin_steps(steps_S, every), thin(values_S, every)


def _window(values_S: np.ndarray) -> int:
    return 1 << max(0, int(np.log2(max(len(values_S), 1) / 16)))


def apart(a: tuple[np.ndarray, np.ndarray], b: tuple[np.ndarray, np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    """B - A at the steps of A that B has reached too; between B's steps, by linear interpolation."""
    (x_a, y_a), (x_b, y_b) = a, b
    if not len(x_a) or not len(x_b):
        return np.zeros(0, np.int32), np.zeros(0, np.float32)
    both = (x_a >= x_b[0]) & (x_a <= x_b[-1])
    return x_a[both], (np.interp(x_a[both], x_b, y_b) - y_a[both]).astype(np.float32)


def _marks(forked_at: int | None) -> Plain:
    """The level 0 of the difference, and where B was copied from A."""
    zero = {"type": "line", "xref": "paper", "x0": 0, "x1": 1, "yref": "y2", "y0": 0, "y1": 0, "line": {"width": 1}}
    if forked_at is None:
        return {"shapes": [zero]}
    at = float(forked_at)
    fork = {"type": "line", "xref": "x2", "x0": at, "x1": at, "yref": "paper", "y0": 0, "y1": 1}
    return {
        "shapes": [zero, {**fork, "line": {"dash": "dash", "width": 1.5}}],
        "annotations": [key(f"dashed: B forked from A at step {int(forked_at)}")],
    }


def summary(
    x: np.ndarray,
    difference: np.ndarray,
    runs: Sequence[tuple[np.ndarray, np.ndarray]],
    labels: Sequence[str],
    what: str,
    unit: str,
    forked_at: int | None,
) -> str:
    """One sentence: which is higher by how much lately, over the steps that both have."""
    fork = f"; B was copied from A at step {int(forked_at)}" if forked_at is not None else ""
    said = f" {clean(unit)}" if unit else ""
    names = [clean(label, 32) for label in labels]
    known = np.flatnonzero(np.isfinite(difference))
    if not len(known):
        there = [
            f"{name} has a {clean(what)} of {values[measured][-1]:.3g}{said} at step {steps[measured][-1]}"
            for name, (steps, values) in zip(names, runs, strict=True)
            if (measured := np.isfinite(values)).any()
        ]
        return f"{joined(there) or 'Nothing is known of either run'}: there is no step yet that both have{fork}."
    recent = known[-_window(difference) :]
    step, mean = int(x[known[-1]]), float(difference[recent].mean())
    steps_a, values_a = runs[0]
    base = float(np.nanmean(values_a[(steps_a >= x[recent[0]]) & (steps_a <= step)]))
    more = "higher" if mean > 0 else "lower"
    return (
        f"Up to step {step} the {clean(what)} of {names[1]} is {abs(mean):.2g}{said} {more} than that of {names[0]}, "
        f"which is {base:.3g}{fork}."
    )


@Picture
def utilisation_difference(
    used_a_LE: Any,
    used_b_LE: Any,
    permutation_L: Sequence[Sequence[int]] = (),
    layer_names: Sequence[str] = (),
    agreement_L: Sequence[float] = (),
    title: str = "Difference of utilisation, B − A",
) -> Plain:
    """used_*_LE: load / ideal load of each expert of both runs, in A's numbering; 1 = fair.

    permutation_L: for each layer, B's own number of the expert that stands for A's e, -1 where there is none;
    agreement_L: the share of assignments that meet under it (`explorer.metrics.match_experts`). Pale at 0, brown where B
    uses the expert more, blue where less; differences beyond 1 look alike.
    """
    used_a_LE, used_b_LE = numbers(used_a_LE), numbers(used_b_LE)
    if used_a_LE.ndim != 2 or not used_a_LE.size or used_a_LE.shape != used_b_LE.shape:
        return empty(title)
    L, E = used_a_LE.shape
    difference_LE = used_b_LE - used_a_LE
    given = [clean(name) for name in layer_names] or [f"layer {i}" for i in range(L)]
    scale = bar([-1, 0, 1], ["≤−1 less in B", "0", "≥1 more in B"])
    heat: Plain = {
        "type": "heatmap",
        "z": difference_LE,
        "x": list(range(E)),
        "y": row_names(given),
        "zmin": -1,
        "zmax": 1,
    }
    heat |= {"colorscale": [list(stop) for stop in DIVERGING], "colorbar": scale, "hoverongaps": False}
    heat["hovertemplate"] = "%{y}, expert %{x}: %{z:+.2f}<extra></extra>"
    if L * E <= MOST_CELLS_WITH_TEXT:
        heat["customdata"] = _both(used_a_LE, used_b_LE, permutation_L)
        heat["hovertemplate"] = "%{y}, expert %{x} of A: %{z:+.2f}; %{customdata}<extra></extra>"
    if E <= MOST_CELLS_WITH_NUMBERS:
        heat |= {"texttemplate": "%{z:.1f}", "textfont": {"size": 11 if E <= 10 else 9}}
    subtitle = f"matched experts share {_range(agreement_L)} of the assignments" if len(agreement_L) else ""
    y_axis = {"type": "category", "autorange": "reversed", "title": {"text": ""}}
    x_axis = cells(E) | {"title": {"text": "expert (numbered as in A)"}}
    text = summary_difference(difference_LE, given, agreement_L)
    shape = layout(plain(title), text, subtitle, yaxis=y_axis, xaxis=x_axis, showlegend=False, hovermode="closest")
    return {"data": [heat], "layout": {**shape, "height": min(720, 185 + 30 * max(L, 3))}}


def _both(a_LE: np.ndarray, b_LE: np.ndarray, permutation_L: Sequence[Sequence[int]]) -> list[list[str]]:
    """What a cell tells under the pointer: both values, and B's own number of the expert."""
    rows = []
    for layer, (row_a, row_b) in enumerate(zip(a_LE.tolist(), b_LE.tolist(), strict=True)):
        own = [int(e) for e in permutation_L[layer]] if layer < len(permutation_L) else range(len(row_a))
        own = [*own, *([-1] * (len(row_a) - len(own)))]
        rows.append(
            [
                f"A {a:.2f}, B {b:.2f} (its expert {e})" if e >= 0 else ""
                for a, b, e in zip(row_a, row_b, own, strict=False)
            ]
        )
    return rows


def _range(agreement_L: Sequence[float]) -> str:
    known = [float(value) for value in agreement_L if np.isfinite(float(value))]
    if not known:
        return "none"
    low, high = f"{min(known):.0%}", f"{max(known):.0%}"
    return low if low == high else f"{low} to {high}"


def summary_difference(difference_LE: np.ndarray, names: Sequence[str], agreement_L: Sequence[float]) -> str:
    """One sentence: where the two runs differ most, how much on average, and how well the experts match."""
    agree = f"; the matched experts share {_range(agreement_L)} of the assignments" if len(agreement_L) else ""
    if not np.isfinite(difference_LE).any():
        return f"No expert of A has a counterpart in B to compare it with{agree}."
    layer, expert = divmod(int(np.nanargmax(np.abs(difference_LE))), difference_LE.shape[1])
    most, mean = float(difference_LE[layer, expert]), float(np.nanmean(np.abs(difference_LE)))
    if most == 0:
        return f"Both runs use their experts alike{agree}."
    more = "more" if most > 0 else "less"
    return (
        f"B differs most from A at expert {expert} of {names[layer]}, with {abs(most):.2f} of the ideal load {more}; the mean "
        f"difference is {mean:.2f}{agree}."
    )
