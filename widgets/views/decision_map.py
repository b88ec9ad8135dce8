"""A gate's decision map in the plane: the ground is the expert that a point there would go to, the marks are the data."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import traitlets

from explorer.errors import BadValue
from widgets.figures.layout import joined
from widgets.figures.text import clean
from widgets.views.framed import Framed, as_bytes, inks, script, styles

if TYPE_CHECKING:
    import pandas as pd

NOBODY = 255  # the byte for a place that no expert takes


class DecisionMap(Framed):
    """view.show(grid_expert, grid_margin, points_xy, labels, bounds) as often as you like, best when `view.ready`.

    frame = {"number", "shape": [H, W], "experts": uint8 bytes (255 = nobody), "margins": uint8 bytes (255 = the largest
    margin), "takers": uint8 bytes, "bounds", "summary"}; the points travel apart, and only when they change.
    """

    _esm = script("save", "decision_map")
    _css = styles("decision_map", "save")
    pictured = ("points", "label_names", "n_experts")
    inks = traitlets.Dict(inks()).tag(sync=True)
    points = traitlets.Dict({"count": 0}, help="count, xy: float32 bytes, labels: uint8 bytes").tag(sync=True)
    label_names = traitlets.List(traitlets.Unicode(), help="names of the clusters").tag(sync=True)
    n_experts = traitlets.Int(0, min=0).tag(sync=True)

    def __init__(self, label: str = "Decision map", **traits: Any) -> None:
        traits.setdefault("saves", ["png", "csv"])
        super().__init__(label=label, **traits)

    def show(
        self,
        grid_expert: Any,
        grid_margin: Any,
        points_xy: Any,
        labels: Any,
        bounds: tuple[float, float, float, float],
        points_expert: Any = None,
        label_names: Sequence[str] | None = None,
        n_experts: int | None = None,
    ) -> None:
        """grid_expert, grid_margin: (H, W), the first row is the top (largest y); -1 = nobody takes the place.

        points_xy: (N, 2); labels: (N,) cluster of each point, which chooses its mark; points_expert: (N,) expert that
        took it, which colours the mark (left out: its cluster does).  bounds: (x low, x high, y low, y high) of the
        grid's outer edges.  Margins of one map are comparable: paler = nearer to the border of two experts.
        """
        experts, margins = _array(grid_expert), _array(grid_margin).astype(np.float32)
        if experts.ndim != 2 or experts.shape != margins.shape:
            raise BadValue(f"expert grid {experts.shape} and margin grid {margins.shape} should both be rows x columns")
        self._set_points(points_xy, labels, label_names)
        n = n_experts if n_experts is not None else max(self.n_experts, int(experts.max(initial=-1)) + 1)
        if n != self.n_experts:
            self.n_experts = n
        taken = np.where((experts < 0) | (experts >= NOBODY), NOBODY, experts)
        top = float(margins.max(initial=0.0, where=np.isfinite(margins)))
        scaled = np.nan_to_num(margins / max(top, 1e-9), posinf=1).clip(0, 1) * 255
        self.offer(
            shape=list(experts.shape),
            experts=as_bytes(taken, "uint8"),
            margins=as_bytes(np.rint(scaled), "uint8"),
            takers=b"" if points_expert is None else as_bytes(_bytes_of(points_expert), "uint8"),
            bounds=[float(edge) for edge in bounds],
            summary=summary(taken, self.points["count"]),
        )

    def table(self) -> "pd.DataFrame":
        """One row a place of the grid, then one a point; see widgets/export/tables.py."""
        from widgets.export.tables import plane

        return plane(self.frame, self.points, self.label_names)

    @property
    def summary(self) -> str:
        """What the map shows, in one sentence: the text that a screen reader gets."""
        return str(self.frame.get("summary", ""))

    def _set_points(self, points_xy: Any, labels: Any, label_names: Sequence[str] | None) -> None:
        xy, labels = _array(points_xy), _array(labels)
        if xy.ndim != 2 or xy.shape[1:] != (2,) or labels.shape != xy.shape[:1]:
            raise BadValue(f"points {xy.shape} and labels {labels.shape} should be N x 2 and N")
        points: dict[str, Any] = {
            "count": len(xy),
            "xy": as_bytes(xy, "float32"),
            "labels": as_bytes(_bytes_of(labels), "uint8"),
        }
        if points != self.points:
            self.points = points
        if label_names is not None and (names := [clean(name) for name in label_names]) != self.label_names:
            self.label_names = names


def summary(experts: np.ndarray, n_points: int) -> str:
    """One sentence: the share of the plane that each of the largest experts takes."""
    numbers, counts = np.unique(experts, return_counts=True)
    order = counts.argsort(kind="stable")[::-1]
    named = [(f"expert {numbers[i]}" if numbers[i] != NOBODY else "nobody", counts[i] / experts.size) for i in order]
    parts = joined([f"{name} {share:.0%}" for name, share in named[:6]])
    more = f" and {len(named) - 6} others the rest" if len(named) > 6 else ""
    return f"Share of the plane taken: {parts}{more}; {n_points} points are drawn on it."


def _bytes_of(numbers: Any) -> np.ndarray:
    """Whole numbers as 0..254, anything outside as NOBODY."""
    numbers = _array(numbers)
    return np.where((numbers < 0) | (numbers >= NOBODY), NOBODY, numbers)


def _array(values: Any) -> np.ndarray:
    return np.asarray(values.detach().cpu() if hasattr(values, "detach") else values)
