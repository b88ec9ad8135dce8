"""Who gets the tokens: each expert's share over the steps, and the map of utilisation over layers and experts."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from widgets.figures.layout import bar, cells, empty, joined, layout, line, reference, row_names, steps_axis
from widgets.figures.palette import DIVERGING
from widgets.figures.picture import Picture, Plain
from widgets.figures.series import ahead, counts, numbers, stride, thin, thin_steps
from widgets.figures.text import clean, plain

MOST_LINES = 10
MOST_CELLS_WITH_NUMBERS = 16
DEAD = 0.05


@Picture
def load_over_steps(steps: Any, load_SE: Any, title: str = "Load of each expert") -> Plain:
    """steps_S; load_SE: each expert's share of the assignments of a step, rows sum to 1 (fair: 1/E each).

    Up to ten experts as lines, more as a heat map of experts x steps.
    """
    steps_S, load_SE = counts(steps), numbers(load_SE)
    if not len(steps_S) or load_SE.ndim != 2:
        return empty(title)
    E = load_SE.shape[1]
    every = stride(len(steps_S), most=400 if E <= MOST_LINES else 120)
    x, share_SE = thin_steps(steps_S, every), thin(load_SE, every)
    text = summary_over_steps(steps_S, load_SE, title)
    if E > MOST_LINES:
        return heat_over_steps(x, share_SE.T, [str(e) for e in range(E)], plain(title), text, fair=1 / E, row="expert")
    data = [line(x, np.ascontiguousarray(share_SE[:, e]), str(e), "%{y:.1%}") for e in range(E)]
    y_axis = {"tickformat": ".0%", "rangemode": "tozero", "title": {"text": "share of assignments"}}
    legend = {"title": {"text": "expert "}}
    shape = layout(
        plain(title),
        text,
        xaxis=steps_axis(steps_S),
        yaxis=y_axis,
        legend=legend,
        **reference(1 / E, f"fair share 1/{E}"),
    )
    return {"data": data, "layout": shape}


def heat_over_steps(
    x: np.ndarray, z_RS: np.ndarray, rows: Sequence[str], title: str, text: str, fair: float, row: str
) -> Plain:
    """Rows x steps as a heat map from 0 to three times the fair share, for more rows than lines can show.

    Columns that the run has not reached yet are empty: the picture keeps its shape for many frames.
    """
    every = float(x[0]) + 1 if len(x) < 2 else float(x[1] - x[0])
    columns = max(len(x), int(ahead(float(x[-1]))[1] / every))
    z = np.full((len(z_RS), columns), np.nan, np.float32)
    z[:, : len(x)] = z_RS
    x = (float(x[0]) + every * np.arange(columns)).astype(np.int32)
    top = 3 * fair
    scale = bar([0, fair, top], ["0", f"fair {fair:.1%}", f"≥{top:.0%}"])
    hover = f"step %{{x}}, {row} %{{y}}: %{{z:.2%}}<extra></extra>"
    heat = {"type": "heatmap", "x": x, "y": list(rows), "z": z, "zmin": 0, "zmax": top, "colorbar": scale}
    y_axis = {"type": "category", "autorange": "reversed", "title": {"text": row}}
    shape = layout(title, text, yaxis=y_axis, showlegend=False, hovermode="closest")
    return {"data": [{**heat, "hovertemplate": hover}], "layout": shape}


@Picture
def load_map(
    utilisation_LE: Any,
    layer_names: Sequence[str] = (),
    title: str = "Utilisation of every expert",
    step: int | None = None,
) -> Plain:
    """utilisation_LE: load / ideal load of each expert in each layer; 1 = fair, 0 = dead, E = takes everything.

    Colour: pale at 1, blue below, brown above (2 and more look alike); the numbers stand in the cells up to 16 experts.
    """
    used_LE = numbers(utilisation_LE)
    if used_LE.ndim != 2 or not used_LE.size:
        return empty(title)
    L, E = used_LE.shape
    names = row_names(layer_names or [f"layer {i}" for i in range(L)])
    scale = bar([0, 1, 2], ["0 dead", "1 fair", "≥2"])
    heat: Plain = {"type": "heatmap", "z": used_LE, "x": list(range(E)), "y": names, "zmin": 0, "zmax": 2}
    heat |= {"colorscale": [list(stop) for stop in DIVERGING], "colorbar": scale}
    heat["hovertemplate"] = "%{y}, expert %{x}: %{z:.2f} of its ideal load<extra></extra>"
    if E <= MOST_CELLS_WITH_NUMBERS:
        heat |= {"texttemplate": "%{z:.1f}", "textfont": {"size": 11 if E <= 10 else 9}}
    subtitle = f"step {int(step)}" if step is not None else ""
    y_axis = {"type": "category", "autorange": "reversed", "title": {"text": ""}}
    shape = layout(
        plain(title),
        summary_map(used_LE, [clean(name) for name in layer_names] or names),
        subtitle,
        yaxis=y_axis,
        xaxis=cells(E),
        showlegend=False,
    )
    return {"data": [heat], "layout": {**shape, "hovermode": "closest", "height": min(720, 170 + 30 * max(L, 3))}}


def summary_over_steps(steps_S: np.ndarray, load_SE: np.ndarray, title: str) -> str:
    """One sentence: the busiest and the idlest expert at the last step."""
    last_E = np.nan_to_num(load_SE[-1])
    high, low = int(last_E.argmax()), int(last_E.argmin())
    return (
        f"{clean(title)}: at step {steps_S[-1]} expert {high} has the largest share, {last_E[high]:.0%}, and expert {low} "
        f"the smallest, {last_E[low]:.0%}; fair would be {1 / len(last_E):.1%}."
    )


def summary_map(used_LE: np.ndarray, names: Sequence[str]) -> str:
    """One sentence: the range of utilisation, and how many experts are dead (below 0.05 of their ideal load)."""
    dead = [f"{int(n)} in {names[i]}" for i, n in enumerate((used_LE < DEAD).sum(1)) if n]
    low, high = float(np.nanmin(used_LE)), float(np.nanmax(used_LE))
    return f"Utilisation runs from {low:.2f} to {high:.2f} of the ideal load; dead experts: {joined(dead) or 'none'}."
