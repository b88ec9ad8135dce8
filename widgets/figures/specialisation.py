"""Which expert serves which domain: a heat map of shares, with the normalised mutual information in its subtitle."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from widgets.figures.layout import bar, cells, empty, joined, layout, row_names
from widgets.figures.picture import Picture, Plain
from widgets.figures.series import numbers
from widgets.figures.text import clean, plain

MOST_CELLS_WITH_NUMBERS = 12


@Picture
def specialisation(
    share_CE: Any,
    label_names: Sequence[str],
    n_experts: int | None = None,
    nmi: float | None = None,
    title: str = "Specialisation by domain",
    layer: str = "",
) -> Plain:
    """share_CE: of the assignments of domain c, the share that expert e took; rows sum to 1, fair is 1/E.

    nmi: normalised mutual information of expert and domain; 0 = the domain says nothing about the expert, 1 = it
    decides it. The colour bar marks the fair share; shares of three times the fair one and more look alike.
    """
    share_CE = numbers(share_CE)
    title = f"{title}, {layer}" if layer else title
    if share_CE.ndim != 2 or not share_CE.size:
        return empty(title)
    C, E = share_CE.shape
    names = row_names(label_names or [f"domain {c}" for c in range(C)])
    fair = 1 / (n_experts or E)
    top = min(1.0, max(3 * fair, fair + 0.05))
    digits = 0 if fair >= 0.02 else 1
    scale = bar([0, fair, top], ["0", f"fair {fair:.{digits}%}", f"≥{top:.{digits}%}"])
    heat: Plain = {
        "type": "heatmap",
        "z": share_CE,
        "x": list(range(E)),
        "y": names,
        "zmin": 0,
        "zmax": top,
        "colorbar": scale,
    }
    heat["hovertemplate"] = "%{y}: %{z:.1%} of its assignments go to expert %{x}<extra></extra>"
    if E <= MOST_CELLS_WITH_NUMBERS:
        heat |= {"texttemplate": "%{z:.0%}", "textfont": {"size": 11 if E <= 8 else 9}}
    subtitle = f"NMI {nmi:.3f}: 0 = experts ignore the domain, 1 = the domain decides" if nmi is not None else ""
    y_axis = {"type": "category", "autorange": "reversed", "title": {"text": ""}}
    text = summary(share_CE, [clean(name) for name in label_names] or names, nmi)
    shape = layout(plain(title), text, subtitle, yaxis=y_axis, xaxis=cells(E), showlegend=False, hovermode="closest")
    return {"data": [heat], "layout": {**shape, "height": min(720, 170 + 32 * max(C, 3))}}


def summary(share_CE: np.ndarray, names: Sequence[str], nmi: float | None) -> str:
    """One sentence: each domain's favourite expert."""
    best = np.nan_to_num(share_CE).argmax(1)
    favourites = joined([f"{names[c]} to expert {e} ({share_CE[c, e]:.0%})" for c, e in enumerate(best[:8])])
    measured = f"; normalised mutual information {nmi:.3f}" if nmi is not None else ""
    return f"The largest share of each domain goes: {favourites}{measured}."
