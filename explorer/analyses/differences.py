"""Two recordings, or several, side by side: checkpoints of a run, two texts, the same text through different models."""

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor

from explorer import metrics
from explorer.analyses import domains, routes
from explorer.analyses.held import Tokens, experts
from explorer.errors import RecordingError
from explorer.metrics.matching import Matching, co_assignment, match_counts
from explorer.metrics.specialisation import saturation_by_chance
from explorer.recording import Recording

if TYPE_CHECKING:
    import pandas as pd

COLUMNS = ["layer_a", "layer_b", "same_tokens", "saturation", "chance", "agreement", "moved", "largest"]
SIDE = [
    "name", "layers", "experts", "chosen", "tokens", "effective_share", "token_entropy", "margin",
    "domain_nmi", "domain_floor", "first_token_share",
]  # fmt: skip


def pairing(a: Recording, b: Recording) -> list[tuple[str, str]]:
    """(layer of A, layer of B) by the order of the routed layers; ExplorerError where the numbers differ."""
    layers_a, layers_b = a.layers(), b.layers()
    if len(layers_a) != len(layers_b):
        cut = [name for name, one in (("A", a), ("B", b)) if (one.header.get("trace") or {}).get("cut")]
        why = f" ({' and '.join(cut)} was cut short)" if cut else ""
        raise RecordingError(
            f"A has {len(layers_a)} layers that route and B {len(layers_b)}{why}: layers are paired by their order"
        )
    return list(zip(layers_a, layers_b, strict=True))


def difference(a: Recording, b: Recording, same_tokens: bool | None = None) -> "pd.DataFrame":
    """layer_a, layer_b, same_tokens, saturation, chance, agreement, moved, largest: one row a pair of layers.

    same_tokens: whether both saw the same token ids, in the same order without padding (or as the caller says, of
    recordings that hold no ids). saturation: share of A's choices that B makes too, experts as numbered (1: nothing has
    changed); chance: what it would be by the loads alone; agreement: the same share with experts matched one to one. All
    three are NaN without the same tokens. moved: total variation of the loads, from 0 to 1 (nothing in common), experts
    matched where the tokens are the same, else as numbered, and NaN if there are not as many then. largest: the expert of
    A whose load changed most, -1 where moved is NaN.
    """
    import pandas as pd

    rows = []
    both = _Both.of(a, b, same_tokens)
    for layer_a, layer_b in pairing(a, b):
        loads = metrics.load_fraction(a.counts(layer_a)[1].sum(0)), metrics.load_fraction(b.counts(layer_b)[1].sum(0))
        index = both.choices(layer_a, layer_b)
        if index is None:
            numbers = None if len(loads[0]) != len(loads[1]) else torch.arange(len(loads[0]))
            found = [math.nan] * 3
        else:
            *found, numbers = _kept(*index, len(loads[0]), len(loads[1]))
        rows.append((layer_a, layer_b, index is not None, *found, *_moved(*loads, numbers)))
    return pd.DataFrame(rows, columns=COLUMNS)


def matching(a: Recording, b: Recording, layer_a: str, layer_b: str) -> Matching:
    """Which expert of `layer_b` is which of `layer_a`, by the tokens that both saw: see metrics.match_experts."""
    tokens_a, tokens_b = Tokens(a), Tokens(b)
    tokens_a.index(layer_a), tokens_b.index(layer_b)  # what is missing is said of the one that lacks it
    index = _Both.of(a, b).choices(layer_a, layer_b)
    if index is None:
        raise RecordingError(
            "experts are matched by the tokens that both recordings saw, and these did not see the same"
        )
    return metrics.match_experts(*index, experts(a, layer_a), experts(b, layer_b))


def side_by_side(recordings: Mapping[str, Recording]) -> "pd.DataFrame":
    """One row a recording, of any models: name, layers, experts, chosen, tokens, effective_share, token_entropy, margin,
    domain_nmi, domain_floor, first_token_share.

    layers: how many route. experts: the most of a layer. chosen: experts that served a token, tokens: real ones (both NaN
    of counts alone). effective_share: effective experts over experts, 0 .. 1. From there on, means over the layers that
    have the number, NaN where none has: token entropy (0 sure .. 1 even), margin (probability), domain NMI and what chance
    shows, and the share of the attention that the first token got.
    """  # fmt: skip
    import pandas as pd

    return pd.DataFrame([{"name": name, **_summary(rec)} for name, rec in recordings.items()], columns=SIDE)


class _Both(NamedTuple):
    """The tokens of two recordings."""

    a: Tokens
    b: Tokens
    same: bool

    @classmethod
    def of(cls, a: Recording, b: Recording, same: bool | None = None) -> "_Both":
        tokens = Tokens(a), Tokens(b)
        if same is None:
            ids_a, ids_b = (_real(one, one.tap("/tokens", -1)) for one in tokens)
            known = ids_a is not None and len(ids_a) > 0 and bool((ids_a >= 0).all())  # -1: an engine did not say
            same = known and ids_a is not None and ids_b is not None and ids_a.equal(ids_b)
        elif same and (counts := [int(one.valid.sum()) for one in tokens])[0] != counts[1]:
            raise RecordingError(f"same_tokens=True, but A has {counts[0]} tokens and B {counts[1]}")
        return cls(*tokens, bool(same))

    def choices(self, layer_a: str, layer_b: str) -> tuple[Tensor, Tensor] | None:
        """(N, K) of both for the same tokens; None where they did not see the same."""
        if not self.same:
            return None
        found = [_real(one, one.of(layer, "index", -1)) for one, layer in ((self.a, layer_a), (self.b, layer_b))]
        return None if found[0] is None or found[1] is None else (found[0], found[1])


def _real(tokens: Tokens, values: Tensor | None) -> Tensor | None:
    """(N, ...) without the padding."""
    fits = values is not None and values.shape[:2] == tokens.grid.shape
    if values is None or not fits:
        return None
    return values.flatten(0, 1) if bool(tokens.valid.all()) else values[tokens.valid]


def _kept(index_a: Tensor, index_b: Tensor, n_a: int, n_b: int) -> tuple[float, float, float, Tensor]:
    """(saturation, chance, agreement, partners) of choices (N, K) for the same tokens."""
    slots = [int((one >= 0).sum()) for one in (index_a, index_b)]
    together = co_assignment(index_a, index_b, n_a, n_b)
    matched = match_counts(together, max(slots))
    if slots == [index_a.numel(), index_b.numel()]:  # no slot is empty: then the counts say it
        saturation = float(together.diagonal().sum() / max(slots)) if max(slots) else math.nan
    else:
        saturation = float(metrics.saturation(index_a, index_b))
    chance = float(saturation_by_chance(index_a, index_b, max(n_a, n_b)))
    return saturation, chance, float(matched.agreement), matched.permutation


def _moved(load_a: Tensor, load_b: Tensor, partner: Tensor | None) -> tuple[float, int]:
    """(total variation, the expert of A that changed most); partner: of each expert of A one of B, -1: none."""
    if partner is None or bool(load_a.isnan().any()) or bool(load_b.isnan().any()):
        return math.nan, -1
    kept = partner >= 0
    change = (load_a - torch.where(kept, load_b[partner.clamp(min=0)], 0.0)).abs()
    left = 1 - load_b[partner[kept]].sum()  # of the experts of B that are nobody's partner
    return float((change.sum() + left.clamp(min=0)) / 2), int(change.argmax())


def _summary(rec: Recording) -> dict[str, Any]:
    """The numbers of one recording."""
    used, tokens = routes.utilisation(rec), Tokens(rec)
    chosen, real = math.nan, math.nan
    if tokens.steps:
        real = float(tokens.valid.sum())
        filled = [float((tokens.index(layer) >= 0).sum()) for layer in tokens.layers if _held(tokens, layer)]
        chosen = sum(filled) / len(filled) / real if filled and real else math.nan
    found = domains.specialisation(rec) if tokens.steps else None
    attention = rec.attention()
    return {
        "layers": len(used), "experts": int(used["experts"].max()) if len(used) else 0, "chosen": chosen, "tokens": real,
        "effective_share": _mean(used["effective"] / used["experts"]) if len(used) else math.nan,
        "token_entropy": _mean(used["token_entropy"]), "margin": _mean(used["margin"]),
        "domain_nmi": math.nan if found is None else _mean(found["domain_nmi"]),
        "domain_floor": math.nan if found is None else _mean(found["domain_floor"]),
        "first_token_share": _mean(attention["first_token_share"]),
    }  # fmt: skip


def _held(tokens: Tokens, layer: str) -> bool:
    index = tokens.of(layer, "index", -1)
    return index is not None and index.shape[:2] == tokens.grid.shape


def _mean(column: Any) -> float:
    """Of what is known."""
    return float(column.astype("float64").mean())
