"""The sections of a trace's page: one or two sentences of what to look at, then the pictures and tables."""

from collections.abc import Iterator
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np

from explorer.errors import ExplorerError
from widgets import figures
from widgets.export.standalone import Part, Prose, RawHtml
from widgets.export.trace_words import columns, table
from widgets.figures.text import clean
from widgets.views.chart import Chart

if TYPE_CHECKING:
    import pandas as pd

    from explorer.recording import Recording

NEAR = 0.05  # a margin below which another choice is near, at most
ENOUGH = 20  # choices for each expert; with fewer, chance leaves some idle
UTILISATION = {
    "layer": "layer", "experts": "experts", "min": "idlest", "median": "median", "max": "busiest", "dead": "dead",
    "effective": "effective experts", "token_entropy": "token entropy", "margin": "margin",
}  # fmt: skip


class Subject:
    """A recording, and the layer whose details are shown."""

    def __init__(self, rec: "Recording") -> None:
        self.rec = rec

    @cached_property
    def specialised(self) -> "pd.DataFrame":
        """`domains.specialisation`, which several sections look at."""
        from explorer.analyses import domains

        return domains.specialisation(self.rec)

    @cached_property
    def layer(self) -> str:
        """The one that is farthest above its floor, by domain if there are any; where that is unknown, the middle one."""
        layers = self.rec.layers()
        try:
            found = self.specialised
        except ExplorerError:
            return layers[len(layers) // 2] if layers else ""
        for kind in ("domain", "vocabulary"):
            above = (found[f"{kind}_nmi"] - found[f"{kind}_floor"]).to_numpy(float)
            if np.isfinite(above).any():
                return str(found["layer"][int(np.nanargmax(above))])
        return layers[len(layers) // 2] if layers else ""


def loads(rec: "Recording") -> Iterator[Part]:
    """The map, its percentiles, and the numbers of every layer."""
    from explorer.analyses import routes

    layers, load_LE = routes.load_map(rec)
    if not layers:
        return
    used = routes.utilisation(rec)
    yield Prose(
        "Each row is a layer, each column an expert. Pale is the fair share; brown experts get more, blue ones less, and a "
        "cross marks a dead one. Look for rows with strong colours, where few experts do most of the work." + _few(rec)
    )
    yield _chart(figures.expert_load_map.as_dict(load_LE, layers), "Load of every expert")
    yield Prose(
        "The same layer by layer: the bars hold the middle 80 % of the experts. The nearer they lie to 1, the more evenly the "
        "layer uses its experts."
    )
    values = columns(used, "min", "p10", "median", "p90", "max", "dead")
    yield _chart(figures.utilisation_spread.as_dict(used["layer"].tolist(), *values), "Spread of the load")
    yield RawHtml(table(UTILISATION, used.to_dict("records"), "The numbers of every layer", folded=True))


def _few(rec: "Recording") -> str:
    """What chance would leave idle, where the tokens are few."""
    layer = rec.layers()[0]
    counts = rec.counts(layer)[1].sum(0)
    each = float(counts.sum()) / len(counts)
    if not 0 < each < ENOUGH:
        return ""
    return (
        f"\n\nThe text is short: an expert has {each:.1f} choices on average, and with a choice by lot about "
        f"{np.exp(-each):.1%} of the experts would get none. Dead experts here may come to life with more text."
    )


def sureness(rec: "Recording", layer: str) -> Iterator[Part]:
    """Entropy and margin of every layer, and the margins of one."""
    from explorer.analyses import routes

    used = routes.utilisation(rec)
    if used.empty or used[["token_entropy", "margin"]].isna().all(axis=None):
        return
    yield Prose(
        "Token entropy is 0 where a router puts everything on one expert, and 1 where it weighs all alike. The margin is the "
        "probability of the last chosen expert minus that of the best one left out: near 0, a small change of the weights or "
        "of the numbers' precision sends the token elsewhere."
    )
    values = columns(used, "layer", "token_entropy", "margin")
    yield _chart(figures.sureness_by_layer.as_dict(*values), "How sure the routers are")
    try:
        margins = routes.margins(rec, layer)
    except ExplorerError:  # the scores of single tokens were not kept, as the first paragraph says
        return
    near = float(
        f"{min(NEAR, 0.25 / rec.counts(layer)[1].shape[1]):.1g}"
    )  # a quarter of an even share of the probability
    yield _chart(figures.margin_histogram.as_dict(margins, clean(layer, 40), near), "Margins")


def specialisation(seen: Subject) -> Iterator[Part]:
    """By domain and vocabulary, layer by layer, with floors; the loads of the domains in one layer."""
    from explorer.analyses import domains

    rec, layer, found = seen.rec, seen.layer, seen.specialised
    if found.drop(columns="layer").isna().all(axis=None):
        return
    names = domains.names(rec)
    yield Prose(
        "Domain: how well the domain of a text can be told from the expert that took a token. Vocabulary: how far the token "
        "itself decides its expert, whatever stands around it. Both run from 0 to 1. The dotted lines are what chance gives "
        "with as many tokens: only what lies above them is specialisation." + _floor(found, names)
    )
    values = columns(found, "layer", "domain_nmi", "domain_floor", "vocabulary_nmi", "vocabulary_floor")
    yield _chart(figures.specialisation_by_layer.as_dict(*values), "Specialisation")
    if len(names) > 1:
        yield Prose(
            f"The loads of each domain in {clean(layer)}, where specialisation is strongest. Rows that look alike mean that "
            "the domain does not matter; an expert that is brown in one row and blue in the others belongs to that domain."
        )
        yield _chart(
            figures.domain_loads.as_dict(domains.loads(rec, layer), names, clean(layer, 40)), "Loads by domain"
        )


def _floor(found: Any, names: list[str]) -> str:
    runs = str(found.attrs.get("domain_floor", ""))
    if len(names) < 2 or not runs.startswith("runs"):
        return ""
    return f" As a domain has a single window, chance deals out {runs}, which leaves too low a floor: give more texts."


def company(rec: "Recording", layer: str) -> Iterator[Part]:
    """The strongest pairs of all layers, and all pairs of one."""
    from explorer.analyses import routes

    if all(_slots(rec, one) < 2 for one in rec.layers()):
        return
    found = routes.pairs(rec, most=20)
    yield Prose(
        "Pairs of experts that serve the same tokens more often than their loads alone would bring about (1 = chance). "
        "Strong pairs belong on the same device; pairs that never meet do the same work for different tokens."
        + _lot(rec, layer)
    )
    if found.empty:
        yield Prose(
            "No pair met so often that chance can be ruled out: the text is too short, or the experts are independent."
        )
    else:
        values = columns(found, "layer", "a", "b", "lift", "together")
        yield _chart(figures.strongest_pairs.as_dict(*values), "Pairs that keep company")
    yield _chart(figures.company_map.as_dict(routes.company(rec, layer), clean(layer, 40)), "Company of experts")


def _lot(rec: "Recording", layer: str) -> str:
    """What a choice by lot would give, where it lies well below 1: a token never has one expert twice."""
    K, E = _slots(rec, layer), rec.counts(layer)[1].shape[1]
    lift = (K - 1) * E / (K * max(1, E - 1))
    if lift > 0.9:
        return ""
    return f" A token never has one expert twice: {K} of {E} chosen by lot would give {lift:.2f} for every pair."


def _slots(rec: "Recording", layer: str) -> int:
    """How many experts a token can have; 2 where it is unknown, so that the question is asked."""
    return int(rec.last(f"{layer}/index").shape[-1]) if f"{layer}/index" in rec.header["axes"] and rec.steps() else 2


def sinks(rec: "Recording") -> Iterator[Part]:
    """Both kinds, each in its own panel."""
    if not rec.series["attention"]:
        return
    from explorer.analyses import sinks as analysis

    found = analysis.sinks(rec)
    yield Prose(
        "Attention that finds nothing goes somewhere. Emergent sinks grow on the first token without being asked for; learned "
        "sinks are built into the model and stand for no token. They are shown apart, since one replaces the other."
    )
    values = columns(found, "layer", "head", "emergent", "learned")
    yield _chart(figures.sinks_by_layer.as_dict(*values), "Attention sinks")


def _chart(picture: Any, label: str) -> Chart:
    return Chart(picture, label=label)
