"""The checkpoint lab's pictures: what each is called, where it stands, and how it is drawn from a scene."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from widgets import figures as f
from widgets.states import checkpoint_tokens as tokens
from widgets.states.checkpoint_compare import Comparison
from widgets.states.checkpoint_view import Scene


@dataclass(frozen=True)
class Panel:
    """One picture of a section; its text stands in CAPTIONS under its name."""

    label: str
    section: str
    draw: Callable[[Any], Any]
    fits: Callable[[Any], bool] = lambda _: True


def _map(s: Scene) -> Any:
    return f.expert_load_map.as_dict(s.seen.load(s.domain), s.seen.names, _titled("Load of every expert", s))


def _spread(s: Scene) -> Any:
    t = s.seen.utilisation
    columns = (t[name].to_numpy() for name in ("min", "p10", "median", "p90", "max", "dead"))
    return f.utilisation_spread.as_dict(s.seen.names, *columns)


def _specialisation(s: Scene) -> Any:
    t = s.seen.specialisation
    columns = ("domain_nmi", "domain_floor", "vocabulary_nmi", "vocabulary_floor")
    return f.specialisation_by_layer.as_dict(s.seen.names, *(t[name].to_numpy() for name in columns))


def _tells(s: Scene) -> bool:
    """Whether there is anything to specialise in."""
    if not s.seen.has_tokens:
        return False
    return bool(np.isfinite(s.seen.specialisation[["domain_nmi", "vocabulary_nmi"]].to_numpy(float)).any())


def _domains(s: Scene) -> Any:
    return f.domain_loads.as_dict(s.seen.domain_loads(s.i), s.seen.domains, s.layer)


def _company(s: Scene) -> Any:
    return f.company_map.as_dict(s.seen.together(s.i), s.layer)


def _pairs(s: Scene) -> Any:
    t = s.seen.pairs
    names = dict(zip(s.seen.layers, s.seen.names, strict=True))
    layers = [names.get(one, one) for one in t["layer"]]
    return f.strongest_pairs.as_dict(
        layers, t["a"].tolist(), t["b"].tolist(), t["lift"].to_numpy(), t["together"].tolist()
    )


def _has_pairs(s: Scene) -> bool:
    return s.seen.has_tokens and s.seen.chosen > 1


def _margins(s: Scene) -> Any:
    margins = s.seen.margins(s.i)
    if s.domain in s.seen.domains:
        margins = margins[np.asarray(s.seen.token_domains) == s.seen.domains.index(s.domain)]
    title = _titled("Margins: how near to switching", s)
    return f.margin_histogram.as_dict(margins.reshape(-1), s.layer, title=title)


def _has_margins(s: Scene) -> bool:
    return s.seen.has_tokens and bool(np.isfinite(s.seen.margins(s.i)).any())


def _path(s: Scene) -> Any:
    if s.place is None:
        return None
    index, weights = tokens.way(s.seen, s.place)
    token = s.seen.text(s.place[0], s.place[1] + 1)[-1]
    token = token.rstrip() or token
    experts = max(s.seen.experts(i) for i in range(len(s.seen.layers)))
    return f.token_path.as_dict(index, weights, s.seen.names, experts, token, tokens.probabilities(s.seen, s.place))


def _sinks(s: Scene) -> Any:
    t = s.seen.sinks
    return f.sinks_by_layer.as_dict(
        t["layer"].tolist(), t["head"].tolist(), t["emergent"].to_numpy(), t["learned"].to_numpy()
    )


def _titled(title: str, s: Scene) -> str:
    return f"{title}, {s.domain} alone" if s.domain in s.seen.domains else title


PANELS = {
    "map": Panel("Load of every expert in every layer", "load", _map),
    "spread": Panel("Spread of the load in every layer", "load", _spread),
    "path": Panel("Path of one token through the layers", "tokens", _path, lambda s: s.place is not None),
    "specialisation": Panel("What the expert tells about domain and token", "domains", _specialisation, _tells),
    "domains": Panel("Which domain goes to which expert", "domains", _domains, lambda s: len(s.seen.domains) > 1),
    "company": Panel("Company of experts", "together", _company, _has_pairs),
    "pairs": Panel("Pairs that keep company", "together", _pairs, _has_pairs),
    "margins": Panel("How near the tokens are to switching", "together", _margins, _has_margins),
    "sinks": Panel("Attention sinks of every head", "sinks", _sinks, lambda s: s.seen.has_sinks),
}


# -- of two recordings -------------------------------------------------------------------------------------------------
def _saturation(c: Comparison) -> Any:
    t = c.table
    assert t is not None
    return f.saturation_by_layer.as_dict(
        c.a.names, *(t[one].to_numpy() for one in ("saturation", "chance", "agreement"))
    )


def _difference(c: Comparison) -> Any:
    return f.load_difference.as_dict(*c.loads, c.a.names, c.partners, c.a.name, c.name_b)


def _side_by_side(c: Comparison) -> Any:
    t = c.sides
    columns = ("effective_share", "token_entropy", "margin", "domain_nmi", "domain_floor", "first_token_share")
    return f.side_by_side.as_dict(t["name"].tolist(), *(t[one].to_numpy() for one in columns))


BESIDE = {
    "saturation": Panel("Choices that A and B both make", "compare", _saturation, lambda c: c.same_tokens),
    "difference": Panel("Load of B less that of A", "compare", _difference, lambda c: c.table is not None),
    "sides": Panel("A and B in numbers", "compare", _side_by_side),
}
