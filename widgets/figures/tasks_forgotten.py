"""Tasks learnt one after the other, and what is left of each when the next has been learnt."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from widgets.figures.layout import bar, empty, layout, row_names
from widgets.figures.picture import Picture, Plain
from widgets.figures.series import numbers
from widgets.figures.text import clean, plain

MOST_CELLS_WITH_NUMBERS = 8


@Picture
def tasks_forgotten(accuracy_SC: Any, tasks: Sequence[str] = (), title: str = "Tasks learnt and forgotten") -> Plain:
    """accuracy_SC: accuracy, 0..1, on task C after stage S; NaN where a task has not been learnt yet.

    Down a column one sees a task being forgotten. The average is that of the last row; forgetting is how much a task has
    fallen from its best earlier accuracy, averaged over all tasks but the newest.
    """
    accuracy_SC = numbers(accuracy_SC)
    if accuracy_SC.ndim != 2 or not np.isfinite(accuracy_SC).any():
        return empty(title)
    S, C = accuracy_SC.shape
    given = [*tasks[:C], *(f"task {c}" for c in range(len(tasks), C))]
    names, stages = row_names(given, 12), [f"after {one}" for one in row_names(given[:S], 12)]
    stages += [f"after stage {s}" for s in range(len(stages), S)]
    heat: Plain = {"type": "heatmap", "z": accuracy_SC, "x": names, "y": stages, "zmin": 0, "zmax": 1}
    heat |= {"colorbar": bar([0, 0.5, 1], ["0%", "50%", "100%"]), "hoverongaps": False}
    heat["hovertemplate"] = "%{y}: %{z:.1%} right on %{x}<extra></extra>"
    if C <= MOST_CELLS_WITH_NUMBERS:
        heat |= {"texttemplate": "%{z:.0%}", "textfont": {"size": 12 if C <= 5 else 10}}
    average, forgetting = measures(accuracy_SC)
    told = [f"average {average:.0%}"] if np.isfinite(average) else []
    told += [f"forgetting {forgetting * 100:.0f} points"] if np.isfinite(forgetting) else []
    few = C <= MOST_CELLS_WITH_NUMBERS
    x_axis = {"type": "category", "title": {"text": "tested on"}, "nticks": 8 if few else 4}
    y_axis = {"type": "category", "autorange": "reversed", "title": {"text": ""}}
    text = summary(accuracy_SC, [clean(task) for task in tasks], average, forgetting)
    shape = layout(
        plain(title), text, ", ".join(told), xaxis=x_axis, yaxis=y_axis, showlegend=False, hovermode="closest"
    )
    return {"data": [heat], "layout": {**shape, "height": min(640, 190 + 30 * max(S, 3))}}


def measures(accuracy_SC: np.ndarray) -> tuple[float, float]:
    """(mean accuracy after the last stage, mean fall from each earlier task's best before it), 0..1; NaN if unknown."""
    last = accuracy_SC[-1]
    average = float(last[np.isfinite(last)].mean()) if np.isfinite(last).any() else np.nan
    best = np.where(np.isfinite(accuracy_SC[:-1]), accuracy_SC[:-1], -np.inf).max(0, initial=-np.inf)
    falls = (best - last)[np.isfinite(best) & np.isfinite(last)]
    return average, float(falls.mean()) if len(falls) else np.nan


def summary(accuracy_SC: np.ndarray, tasks: Sequence[str], average: float, forgetting: float) -> str:
    """One sentence: the average after the last stage, what was forgotten, and the first task's course."""
    S = len(accuracy_SC)
    if not np.isfinite(average):
        return f"After stage {S - 1} no task has been tested."
    text = f"After {S} stage{'s' if S > 1 else ''} {average:.0%} is right on average over the tasks"
    if np.isfinite(forgetting):
        text += f"; earlier tasks have fallen by {forgetting * 100:.0f} points from their best"
    first = accuracy_SC[:, 0]
    first = first[np.isfinite(first)]
    if len(first) > 1:
        text += f"; {tasks[0] if tasks else 'the first task'} went from {first[0]:.0%} to {first[-1]:.0%}"
    return text + "."
