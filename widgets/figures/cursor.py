"""The step that a page looks back at, as an upright line through every picture over the steps."""

from widgets.figures.picture import Plain

NAME = "cursor"
# dark in a pale seam: seen on light and dark pages and on every colour of a heat map
LOOK = ({"width": 5, "color": "rgba(255,255,255,0.8)"}, {"width": 2, "color": "#1F2328"})


def with_cursor(plain: Plain, step: float | None) -> Plain:
    """The same plain picture with an upright line at `step`, in place of the line it may carry already.

    A picture whose horizontal axis is not the step, or that has no data yet, comes back as it is; so does any for None.
    What is given is not changed: only the dict, its layout and the list of shapes are new.
    """
    layout = plain.get("layout", {})
    axis = next((name for name in layout if name.startswith("xaxis") and _is_step(layout[name])), None)
    if step is None or axis is None or not plain.get("data"):
        return plain
    at = float(step)
    line = {"type": "line", "xref": axis.replace("axis", ""), "x0": at, "x1": at, "yref": "paper", "y0": 0, "y1": 1}
    others = [shape for shape in layout.get("shapes", ()) if shape.get("name") != NAME]
    return {
        **plain,
        "layout": {**layout, "shapes": [*others, *({**line, "name": NAME, "line": look} for look in LOOK)]},
    }


def _is_step(axis: object) -> bool:
    return (
        isinstance(axis, dict) and axis.get("visible") is not False and (axis.get("title") or {}).get("text") == "step"
    )
