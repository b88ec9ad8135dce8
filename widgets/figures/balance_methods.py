"""The balance benchmark: every method beside the same router without it, in six measures of what it does and costs."""

import textwrap
from collections.abc import Mapping, Sequence
from statistics import fmean
from typing import Any

import numpy as np

from widgets.figures.layout import empty, joined, layout
from widgets.figures.palette import GREY
from widgets.figures.picture import Picture, Plain
from widgets.figures.text import clean, plain

# column, heading, number format, the column with what dice reach
PANELS = (
    ("batch_violation", "MaxVio, batch", ".2f", "batch_floor"),
    ("held_out_violation", "MaxVio, new text", ".2f", "held_out_floor"),
    ("dead_experts", "starved experts", ".0%", None),
    ("drops", "drops", ".0%", None),
    ("held_out_loss", "loss", ".3f", None),
    ("rare_loss", "loss, rarest", ".3f", None),
)
WITH = {"name": "with the method", "sign": "circle", "meta": {"colour": 0}, "up": -0.17}
WITHOUT = {"name": "same router without it", "sign": "diamond-open", "meta": {"colour": 1}, "up": 0.17}
SMALL, LARGE = 5, 11
ROW, GAP = 34, 56  # px: a method's row; between panels, where the numbers of one and the heading of the next stand
ABOVE, BELOW = 62, 74
LETTERS = 12  # of a method's name in a line: what a phone has room for


@Picture
def balance_methods(
    rows: Sequence[Mapping[str, Any]], title: str = "What evens out the load, and what it costs"
) -> Plain:
    """rows: those of `explorer.balancing.balance`, a mapping each (`frame.to_dict("records")`); one a method and seed.

    A small mark is a seed, a large one the mean. A method and its control share a row, the control's marks below; the
    grey tick is the MaxVio that a router throwing dice stays below in 95 of 100 cases: left of it there is nothing to gain.
    """
    if not rows:
        return empty(title)
    names = shown(rows)
    data, axes, headings = [], {}, []
    height = ROW * len(names)
    inside = 3 * height + 2 * GAP
    for i, (column, heading, form, floor) in enumerate(PANELS):
        number = str(i + 1) if i else ""
        top = 1 - (i // 2) * (height + GAP) / inside
        place = {"xaxis": f"x{number}", "yaxis": f"y{number}"}
        data += [
            {**trace, **place, "showlegend": not i and trace["marker"]["size"] > SMALL}
            for trace in panel(rows, names, column, form, floor)
        ]
        axes[f"xaxis{number}"] = across(column, form, i % 2, number)
        axes[f"yaxis{number}"] = down(names, [max(0.0, round(top - height / inside, 9)), top], i % 2, number)
        headings.append(
            {"text": f"<b>{heading}</b>", "xref": f"x{number} domain", "x": 0, "xanchor": "left",
             "yref": "paper", "y": 1 if i < 2 else top, "yanchor": "bottom"}
        )  # fmt: skip
    shape = layout(
        plain(title),
        summary(rows, names),
        "large: mean; small: each seed; loss in nats a byte",
        hovermode="closest",
        **axes,
    )
    return {"data": data, "layout": {**shape, "annotations": headings, "height": inside + ABOVE + BELOW + 14}}


def shown(rows: Sequence[Mapping[str, Any]]) -> dict[str, str | None]:
    """{method: its control, if that was run}: the rows of the picture; a control whose methods are there has none."""
    controls = {str(row["method"]): row["control"] for row in rows}
    used = {control for control in controls.values() if control}
    return {
        name: control if control in controls else None for name, control in controls.items() if name not in used
    }  # fmt: skip


def panel(
    rows: Sequence[Mapping[str, Any]], names: Mapping[str, str | None], column: str, form: str, floor: str | None
) -> list[Plain]:
    """The traces of one measure: seeds and means of the controls and of the methods, and what dice reach."""
    traces = []
    for look, chosen in ((WITHOUT, list(names.values())), (WITH, list(names))):
        values = [of(rows, name, column) for name in chosen]
        seeds = [(value, i) for i, several in enumerate(values) for value in several]
        means = [(fmean(several), i) for i, several in enumerate(values) if several]
        traces += [marks(seeds, look, SMALL, form, chosen), marks(means, look, LARGE, form, chosen)]
    ticks = [(value, i) for i, name in enumerate(names) for value in of(rows, name, floor)[:1]] if floor else []
    grey: Plain = {
        "type": "scatter",
        "mode": "markers",
        "name": "a random router stays left of it",
        "legendgroup": "dice",
    }
    grey |= {"x": [x for x, _ in ticks], "y": [y for _, y in ticks], "hovertemplate": "%{x:.2f}<extra></extra>"}
    return [*traces, grey | {"marker": {"symbol": "line-ns-open", "size": 24, "line": {"width": 2}, "color": GREY}}]


def of(rows: Sequence[Mapping[str, Any]], name: str | None, column: str) -> list[float]:
    """The values of a method, a seed each; what is no finite number is left out."""
    found = [row.get(column) for row in rows if row["method"] == name]
    return [float(one) for one in found if isinstance(one, int | float) and np.isfinite(one)]


def marks(
    points: Sequence[tuple[float, int]], look: Mapping[str, Any], size: int, form: str, chosen: Sequence[Any]
) -> Plain:
    """Points (value, row) of one kind; the legend shows the large ones."""
    x = np.array([value for value, _ in points], np.float32)
    y = np.array([row + look["up"] for _, row in points], np.float32)
    of_what = "mean" if size == LARGE else "one seed"
    return {
        "type": "scatter", "mode": "markers", "x": x, "y": y, "name": look["name"], "meta": look["meta"],
        "marker": {"symbol": look["sign"], "size": size}, "text": [plain(chosen[row], 40) for _, row in points],
        "cliponaxis": False,  # an even load lies on the axis
        "hovertemplate": f"%{{text}}: %{{x:{form}}} ({of_what})<extra></extra>", "legendgroup": look["name"],
    }  # fmt: skip


def across(column: str, form: str, right: int, number: str) -> Plain:
    """The axis of the values; those that have a 0 begin there."""
    axis: Plain = {"title": {"text": ""}, "domain": [0.56, 1] if right else [0, 0.44], "anchor": f"y{number}"}
    axis |= {"nticks": 4, "tickangle": 0, "tickformat": form if form.endswith("%") else ""}
    return axis if column.endswith("loss") else {**axis, "rangemode": "tozero"}


def down(names: Mapping[str, str | None], domain: list[float], right: int, number: str) -> Plain:
    """The axis of the methods; the panel at the right repeats the rows of the left one without their names."""
    words = ["<br>".join(map(plain, textwrap.wrap(clean(name), LETTERS))) for name in names]
    axis: Plain = {"domain": domain, "anchor": f"x{number}", "range": [len(names) - 0.5, -0.5], "title": {"text": ""}}
    axis |= {"tickvals": list(range(len(names))), "ticktext": words, "showticklabels": not right}
    return axis


def summary(rows: Sequence[Mapping[str, Any]], names: Mapping[str, str | None]) -> str:
    """One sentence: what each method makes of the overload and of the loss on the rarest domain."""
    parts = []
    for name, control in names.items():
        now, before = (
            {column: of(rows, one, column) for column in ("batch_violation", "rare_loss")} for one in (name, control)
        )
        if not now["batch_violation"] or not now["rare_loss"]:
            continue
        words = f"{clean(name)} {fmean(now['batch_violation']):.2f}"
        if before["batch_violation"] and before["rare_loss"]:
            cost = fmean(now["rare_loss"]) - fmean(before["rare_loss"])
            words += f" instead of {fmean(before['batch_violation']):.2f} (loss on the rarest domain {cost:+.3f})"
        parts.append(words)
    return f"MaxVio of a training batch: {joined(parts)}." if parts else "No method has any number to show."
