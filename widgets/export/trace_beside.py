"""Two recordings on one page: the measures of both, the choices that both make, and what happens to the loads."""

from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np

from explorer.errors import ExplorerError
from widgets import figures
from widgets.export.standalone import Part, Prose, RawHtml
from widgets.export.trace_words import columns, harmless, table
from widgets.views.chart import Chart

if TYPE_CHECKING:
    import pandas as pd

    from explorer.recording import Recording

DIFFERENCE = {
    "layer_a": "layer of A", "layer_b": "layer of B", "saturation": "saturation", "chance": "by chance",
    "agreement": "experts matched", "moved": "load moved", "largest": "changed most",
}  # fmt: skip
SIDE = ("effective_share", "token_entropy", "margin", "domain_nmi", "domain_floor", "first_token_share")


def difference(a: "Recording", b: "Recording", name_a: str, name_b: str) -> Iterator[Part]:
    """Means over the layers, then layer by layer where both have as many."""
    from explorer.analyses import differences

    both = differences.side_by_side({name_a: a, name_b: b})
    yield Prose(f"A is {name_a}, B is {name_b}. First the means over the layers of both.")
    yield Chart(figures.side_by_side.as_dict(*columns(both, "name", *SIDE)), label="Side by side")
    try:
        found = differences.difference(a, b)
    except ExplorerError as error:
        yield Prose(f"Layer by layer they cannot be compared: {harmless(str(error))}.")
        return
    if bool(found["same_tokens"].all()):
        yield from _choices(found)
        yield from _loads(a, b, found, partners(a, b, found), name_a, name_b)
    else:
        yield Prose("They were not given the same tokens, so that their choices cannot be compared one by one.")
        yield from _loads(a, b, found, None, name_a, name_b)


def _choices(found: "pd.DataFrame") -> Iterator[Part]:
    yield Prose(
        "Saturation is the share of A's choices that B makes too, for the same tokens. The dashed line renumbers B's experts "
        "so that most choices meet, as experts of two runs have no common numbers. Dotted is what chance gives."
    )
    values = columns(found, "layer_a", "saturation", "chance", "agreement")
    yield Chart(figures.saturation_by_layer.as_dict(*values), label="Choices that both make")


def _loads(
    a: "Recording", b: "Recording", found: "pd.DataFrame", partner_LE: np.ndarray | None, name_a: str, name_b: str
) -> Iterator[Part]:
    from explorer.analyses import routes

    (layers, load_a), (_, load_b) = routes.load_map(a), routes.load_map(b)
    how = "as they are numbered, since the tokens differ" if partner_LE is None else "matched by the tokens both saw"
    yield Prose(f"What changes in the loads, the experts {how}: brown experts get more tokens in B, blue ones fewer.")
    picture = figures.load_difference.as_dict(load_a, load_b, layers, partner_LE, name_a, name_b)
    yield Chart(picture, label="Difference of the loads")
    yield RawHtml(table(DIFFERENCE, found.to_dict("records"), "The numbers of every pair of layers", folded=True))


def partners(a: "Recording", b: "Recording", found: "pd.DataFrame") -> np.ndarray:
    """(L, E) the expert of B that stands for each expert of A, -1 for none."""
    from explorer.analyses import differences

    pairs = list(zip(found["layer_a"], found["layer_b"], strict=True))
    rows = [differences.matching(a, b, *pair).permutation.numpy() for pair in pairs]
    partner_LE = np.full((len(rows), max(map(len, rows), default=0)), -1)
    for one, row in zip(partner_LE, rows, strict=True):
        one[: len(row)] = row
    return partner_LE
