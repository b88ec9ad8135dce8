"""What another checkpoint, or another text, does to the load of every expert in every layer."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from widgets.figures.expert_load_map import MOST_CELLS_WITH_NUMBERS, fair_shares, map_height
from widgets.figures.layers import UNTRACED, layer_labels, layer_rows, told
from widgets.figures.layout import bar, cells, empty, layout
from widgets.figures.notes import nothing
from widgets.figures.palette import DIVERGING
from widgets.figures.picture import Picture, Plain
from widgets.figures.series import numbers
from widgets.figures.text import clean, plain


@Picture
def load_difference(
    load_a_LE: Any,
    load_b_LE: Any,
    layer_names: Sequence[str] = (),
    partner_LE: Any = None,
    name_a: str = "A",
    name_b: str = "B",
    title: str = "Difference of the loads, B − A",
) -> Plain:
    """load_*_LE: each expert's share of its layer's assignments in both, 0..1; NaN behind a layer's last expert.

    partner_LE: the expert of B that stands for expert e of A in each layer, -1 = none (an empty cell); None: the same
    number. The difference is in fair shares: pale at 0, brown where B gives more, blue where it gives less.
    """
    load_a_LE, load_b_LE = numbers(load_a_LE), numbers(load_b_LE)
    if load_a_LE.ndim != 2 or load_b_LE.ndim != 2 or not load_a_LE.size or len(load_a_LE) != len(load_b_LE):
        return empty(title, UNTRACED)
    partner_LE = None if partner_LE is None else np.asarray(partner_LE, dtype=np.int16)
    used_a_LE = load_a_LE / fair_shares(load_a_LE)[:, None]
    used_b_LE = in_numbers_of_a(load_b_LE / fair_shares(load_b_LE)[:, None], partner_LE, used_a_LE.shape[1])
    z = np.round(used_b_LE - used_a_LE, 3)
    if not np.isfinite(z).any():
        return nothing(title, "No expert of A has a counterpart in B to compare it with.")
    L, E = z.shape
    labels, word = layer_labels(list(layer_names) or [f"layer {i}" for i in range(L)])
    heat: Plain = {"type": "heatmap", "z": z, "x": list(range(E)), "y": labels, "zmin": -1, "zmax": 1}
    heat |= {"colorscale": [list(stop) for stop in DIVERGING], "hoverongaps": False}
    heat["colorbar"] = bar([-1, 0, 1], ["≤−1 less in B", "0", "≥1 more in B"])
    where = f"{word} %{{y}}, expert %{{x}}".strip()
    heat["hovertemplate"] = f"{where}: %{{z:+.2f}} fair shares in B<extra></extra>"
    if partner_LE is not None and (partner_LE != np.arange(partner_LE.shape[1])).any():
        heat["customdata"] = partner_LE
        heat["hovertemplate"] = f"{where}: %{{z:+.2f}} fair shares in B (its expert %{{customdata}})<extra></extra>"
    if z.size <= MOST_CELLS_WITH_NUMBERS and E <= 8:
        heat |= {"texttemplate": "%{z:+.1f}", "textfont": {"size": 10}}
    names = f"A: {plain(name_a, 32)}, B: {plain(name_b, 32)}" if (name_a, name_b) != ("A", "B") else ""
    shape = layout(
        plain(title), summary(z, labels, word, clean(name_b, 32)), names, yaxis=layer_rows(word),
        xaxis={**cells(E), "title": {"text": "expert, as A numbers them"}}, showlegend=False, hovermode="closest",
    )  # fmt: skip
    return {"data": [heat], "layout": {**shape, "height": map_height(L)}}


def in_numbers_of_a(used_b_LE: np.ndarray, partner_LE: np.ndarray | None, n_a: int) -> np.ndarray:
    """B's numbers in the columns of A's experts; NaN where A's expert has no partner."""
    L, n_b = used_b_LE.shape
    if partner_LE is None:
        partner_LE = np.tile(np.where(np.arange(n_a) < n_b, np.arange(n_a), -1), (L, 1))
    taken = np.take_along_axis(used_b_LE, np.clip(partner_LE, 0, n_b - 1).astype(int), 1)
    placed = np.full((L, n_a), np.nan, np.float32)
    width = min(n_a, partner_LE.shape[1])
    placed[:, :width] = np.where(partner_LE >= 0, taken, np.nan)[:, :width]
    return placed


def summary(z: np.ndarray, labels: list[str], word: str, name_b: str) -> str:
    """One sentence: the expert that changed most, and the mean change."""
    layer, expert = divmod(int(np.nanargmax(np.abs(z))), z.shape[1])
    most = float(z[layer, expert])
    if most == 0:
        return "Both use their experts alike."
    return (
        f"{name_b} differs most at expert {expert} of {told(labels[layer], word)}, by {abs(most):.2f} fair shares "
        f"{'more' if most > 0 else 'less'}; the mean difference is {np.nanmean(np.abs(z)):.2f}."
    )
