"""What a balanced router pays or does: the tokens without an expert, and the biases that hold the load even."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from widgets.figures.balance import layer_lines
from widgets.figures.layout import bar, empty, layout, reference, row_names, steps_axis
from widgets.figures.load import MOST_LINES, heat_over_steps
from widgets.figures.notes import nothing, titled
from widgets.figures.palette import DIVERGING
from widgets.figures.picture import Picture, Plain
from widgets.figures.series import counts, named, numbers, stride, thin, thin_steps
from widgets.figures.text import clean, plain

MOST_CELLS = 4096
IMPOSSIBLE = "None can be dropped by this router: it has no capacity limit."


@Picture
def drops(
    steps: Any,
    dropped: Mapping[str, Any],
    capacity: float | None = None,
    possible: bool = True,
    of: str = "tokens",
    title: str = "Dropped tokens",
) -> Plain:
    """steps_S; {layer name: share_S}: the share of the tokens (or slots: say it in `of`) without an expert, 0..1.

    capacity: the capacity factor, how many times its fair share an expert may take at most. possible: False for routers
    that never drop, which is then said instead. Up to ten layers as lines, more as a heat map.
    """
    steps_S = counts(steps)
    if not possible:
        return nothing(title, IMPOSSIBLE)
    if not len(steps_S) or not len(dropped):
        return empty(title)
    rows = {name: numbers(values) for name, values in named(dropped).items()}
    last = {name: float(np.nan_to_num(values[-1])) for name, values in rows.items()}
    worst = max(last, key=last.__getitem__)
    top = max(float(np.nanmax(values, initial=0)) for values in rows.values())
    ever = f"; the most so far is {top:.1%}" if top > 0 else "; none was dropped so far"
    limit = f" at a capacity of {capacity:g} times the fair share" if capacity is not None else ""
    text = (
        f"At step {steps_S[-1]} {last[worst]:.1%} of the {clean(of)} of {clean(worst, 32)} have no expert{limit}{ever}."
    )
    subtitle = f"capacity {capacity:g} × the fair share" if capacity is not None else ""
    if len(rows) > MOST_LINES:
        picture = rows_over_steps(steps_S, rows, plain(title), text, subtitle, "layer")
        top = max(top, 0.01)
        ends = bar([0, top], ["0%", f"{top:.1%}"])
        picture["data"][0] |= {"zmin": 0, "zmax": top, "colorbar": ends}
        return picture
    y_axis: Plain = {"tickformat": ".0%", "rangemode": "tozero", "title": {"text": f"share of {plain(of)}"}}
    if top == 0:
        y_axis["range"] = [0, 0.1]
    shape = layout(plain(title), text, subtitle, xaxis=steps_axis(steps_S), yaxis=y_axis)
    return {"data": layer_lines(steps_S, rows, "%{y:.1%}"), "layout": shape}


@Picture
def bias_trajectory(steps: Any, bias_SE: Any, layer: str = "", title: str = "Bias of each expert") -> Plain:
    """steps_S; bias_SE: what a bias-balanced router adds to each expert's score before it chooses, in units of the score.

    It rises for experts with too little load and falls for those with too much; the weights do not see it. Up to ten
    experts as lines, more as a heat map: pale at 0, brown above, blue below.
    """
    steps_S, bias_SE, title = counts(steps), numbers(bias_SE), titled(title, layer)
    if not len(steps_S) or bias_SE.ndim != 2 or not bias_SE.size:
        return empty(title)
    E = bias_SE.shape[1]
    last_E = np.nan_to_num(bias_SE[-1])
    high, low = int(last_E.argmax()), int(last_E.argmin())
    text = (
        f"At step {steps_S[-1]} the bias lifts expert {high} most ({last_E[high]:+.3g}) and expert {low} least "
        f"({last_E[low]:+.3g}); they lie {last_E[high] - last_E[low]:.3g} apart."
    )
    rows = {str(e): np.ascontiguousarray(bias_SE[:, e]) for e in range(E)}
    if E > MOST_LINES:
        picture = rows_over_steps(steps_S, rows, plain(title), text, "", "expert")
        top = max(float(np.nanmax(np.abs(bias_SE), initial=0)), 1e-6)
        scale = bar([-top, 0, top], [f"−{top:.2g}", "0", f"{top:.2g}"])
        picture["data"][0] |= {"zmin": -top, "zmax": top, "colorbar": scale}
        picture["data"][0] |= {"colorscale": [list(stop) for stop in DIVERGING]}
        picture["data"][0]["hovertemplate"] = "step %{x}, expert %{y}: bias %{z:.3g}<extra></extra>"
        return picture
    y_axis = {"title": {"text": "bias (units of the score)"}}
    legend = {"title": {"text": "expert "}}
    level = reference(0, "no bias")
    shape = layout(plain(title), text, xaxis=steps_axis(steps_S), yaxis=y_axis, legend=legend, **level)
    return {"data": layer_lines(steps_S, rows, "%{y:.3g}"), "layout": shape}


def rows_over_steps(
    steps_S: np.ndarray, rows: Mapping[str, np.ndarray], title: str, text: str, subtitle: str, row: str
) -> Plain:
    """{name: values_S} as a heat map of names x steps with about four thousand cells at most."""
    every = stride(len(steps_S), most=int(np.clip(MOST_CELLS // len(rows) / 1.5, 12, 120)))
    z_RS = thin(np.stack(list(rows.values()), axis=1), every).T
    picture = heat_over_steps(thin_steps(steps_S, every), z_RS, row_names(rows), title, text, fair=1 / 3, row=row)
    if subtitle:
        picture["layout"] |= layout(
            title, text, subtitle, **{name: picture["layout"][name] for name in ("yaxis", "showlegend", "hovermode")}
        )
    return picture
