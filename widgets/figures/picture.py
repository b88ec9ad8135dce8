"""A picture: a pure function of arrays, in two forms.

    load_over_steps(steps, load_SE)           a plotly Figure, validated: to show, change and export anywhere
    load_over_steps.as_dict(steps, load_SE)   the same as plain dicts: what a live chart sends many times a second

Building a Figure costs 6 to 15 ms for a few lines because plotly validates every property; the dict costs one or two
tenths of a millisecond, so a dashboard hands dicts to `Chart.show`. A test holds that both describe the same picture.
The text for screen readers is `figure.layout.meta["summary"]` in both.
"""

import functools
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Generic, ParamSpec

from widgets.figures.theme import dress

if TYPE_CHECKING:
    import plotly.graph_objects as go

P = ParamSpec("P")
Plain = dict[str, Any]


class Picture(Generic[P]):
    """A function that draws with plain dicts, callable as the function that returns a plotly Figure."""

    def __init__(self, draw: Callable[P, Plain]) -> None:
        functools.update_wrapper(self, draw)
        self._draw = draw

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> "go.Figure":
        import plotly.graph_objects as go

        plain = self._draw(*args, **kwargs)
        return dress(go.Figure(data=plain["data"], layout={**plain["layout"], "template": {}}))

    def as_dict(self, *args: P.args, **kwargs: P.kwargs) -> Plain:
        """{"data": [trace, ...], "layout": {...}} as plain dicts, arrays left as numpy arrays."""
        return self._draw(*args, **kwargs)

    def __repr__(self) -> str:
        return f"<picture {self.__name__}>"  # type: ignore[attr-defined]


def summary_of(figure: "go.Figure | Plain") -> str:
    """The one sentence that tells a screen reader what the picture shows; "" if it carries none."""
    layout = figure.get("layout", {}) if isinstance(figure, dict) else figure.layout
    meta = layout.get("meta") if isinstance(layout, dict) else layout.meta
    return str(meta.get("summary", "")) if isinstance(meta, dict) else ""
