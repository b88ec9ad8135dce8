"""Light and dark: a picture carries no colours of its own for text, grid and lines, a template supplies them.

So the page can change its theme without asking Python for the picture again: `Chart` lays the template of the page's
theme under the picture it already has. A picture that leaves the page is dressed with `dress(figure, "dark")`.
"""

from typing import TYPE_CHECKING, Any

from widgets.figures.palette import COLOURS, SEQUENTIAL, colour

if TYPE_CHECKING:
    import plotly.graph_objects as go

FONT = 'system-ui, -apple-system, "Segoe UI", Roboto, "Noto Sans", "Liberation Sans", sans-serif'
INK = {"light": "#1F2328", "dark": "#E6EDF3"}
QUIET = {"light": "#59636E", "dark": "#9DA7B3"}
GRID = {"light": "#DFE3E8", "dark": "#343A41"}
RAISED = {"light": "#FFFFFF", "dark": "#22272E"}


def template(theme: str) -> dict[str, Any]:
    """The plotly template of "light" or "dark": transparent paper, so the page's own background shows."""
    axis = {
        "gridcolor": GRID[theme],
        "linecolor": QUIET[theme],
        "tickcolor": QUIET[theme],
        "ticks": "outside",
        "ticklen": 4,
        "showline": True,
        "zeroline": False,
        "automargin": True,
        "tickfont": {"size": 12, "color": QUIET[theme]},
        "title": {"font": {"size": 12, "color": QUIET[theme]}, "standoff": 6},
    }
    bar = {"outlinewidth": 0, "tickfont": {"size": 11, "color": QUIET[theme]}}
    return {
        "layout": {
            "paper_bgcolor": "rgba(0,0,0,0)",
            "plot_bgcolor": "rgba(0,0,0,0)",
            "font": {"family": FONT, "size": 13, "color": INK[theme]},
            "colorway": list(COLOURS[theme]),
            "title": {"font": {"size": 15}},
            "xaxis": axis,
            "yaxis": axis,
            "legend": {"font": {"size": 12}, "title": {"font": {"size": 12}}, "bgcolor": "rgba(0,0,0,0)"},
            "annotationdefaults": {"font": {"size": 12, "color": QUIET[theme]}, "showarrow": False},
            "shapedefaults": {"line": {"color": QUIET[theme], "width": 1}},
            "hoverlabel": {
                "bgcolor": RAISED[theme],
                "bordercolor": QUIET[theme],
                "font": {"family": FONT, "size": 12, "color": INK[theme]},
                "align": "left",
                "namelength": -1,
            },
        },
        "data": {"heatmap": [{"colorscale": SEQUENTIAL, "colorbar": bar}]},
    }


TEMPLATES = {theme: template(theme) for theme in ("light", "dark")}


def painted(meta: Any, theme: str) -> dict[str, Any]:
    """What a trace adds that asks for colour number n of the theme (`meta={"colour": n}`) instead of the next one."""
    return {"line": {"color": colour(meta["colour"], theme)}} if isinstance(meta, dict) and "colour" in meta else {}


def dress(figure: "go.Figure", theme: str = "light", background: str | None = None) -> "go.Figure":
    """The same figure in `theme`, for a file of its own; `background` (a colour) replaces the transparent paper."""
    figure.layout.template = TEMPLATES[theme]  # update_layout would merge it into the old one, twenty times slower
    for trace in figure.data:
        trace.update(painted(trace.meta, theme))
    if background:
        figure.layout.paper_bgcolor = background
    return figure
