"""Where attention goes, read off its full map: the definition that every faster path is held to."""

import torch
from torch import Tensor

from explorer.kernels.attention_mass.rule import Rule
from explorer.metrics.entropy import row_shares, shannon

CAUSAL = Rule()
Statistics = tuple[Tensor, Tensor, Tensor, Tensor, Tensor]  # received, its standard error, first, elsewhere, entropy


def attention_map(q_BHTd: Tensor, k_BHSd: Tensor, rule: Rule = CAUSAL) -> Tensor:
    """A (B, H, T, S), in float32 at least; 0 where a query may not look, also if it may look nowhere."""
    T, S = q_BHTd.shape[-2], k_BHSd.shape[-2]
    rule = rule.checked(T, S)
    seen = all_visible(rule, T, S, q_BHTd.device)
    scores = rule.scores(at_least_float(q_BHTd), at_least_float(k_BHSd))
    if rule.weights == "sigmoid":
        weights = scores.sigmoid()
    else:
        weights = _softmax(scores if seen is None else scores.masked_fill(~seen, -torch.inf), rule.sink)
    return weights if seen is None else weights.masked_fill(~seen, 0.0)


def all_visible(rule: Rule, T: int, S: int, device: torch.device) -> Tensor | None:
    """Who may see whom, as bool that broadcasts to B H T S; None: everybody everything."""
    return rule.visible(torch.arange(T, device=device), T, slice(0, S), S)


def _softmax(scores_BHTS: Tensor, sink_H: Tensor | None) -> Tensor:
    if sink_H is None:
        return scores_BHTS.softmax(-1)
    sink = sink_H.to(scores_BHTS.dtype).view(-1, 1, 1).expand(*scores_BHTS.shape[:-1], 1)
    return torch.cat([scores_BHTS, sink], -1).softmax(-1)[..., :-1]


def mass_of_map(map_BHTS: Tensor, seen: Tensor | None) -> Statistics:
    """The statistics of a map, as the package's `AttentionMass` describes them.

    seen: bool that broadcasts to B H T S, where a query may look; None: everywhere.
    """
    A = at_least_float(map_BHTS)
    T, S = A.shape[-2:]
    seen = torch.ones(1, 1, T, S, dtype=torch.bool, device=A.device) if seen is None else seen.expand(-1, -1, T, S)
    counted, queries_S = seen.any(-1), seen.sum(-2)
    first_S = (queries_S > 0).int().argmax(-1, keepdim=True)  # key 0, unless padding hides it
    late = counted & (torch.arange(T, device=A.device) + max(S - T, 0) > first_S)
    first_BHT = A.gather(-1, first_S[..., None].expand(*A.shape[:-1], 1))[..., 0]
    shares, some = row_shares(A)
    received = A.sum(-2) / queries_S
    return (
        received,
        torch.zeros_like(received),
        mean(first_BHT, late),
        mean(1 - A.sum(-1), counted),
        mean(shannon(shares), counted & some),
    )


def mass_by_definition(q_BHTd: Tensor, k_BHSd: Tensor, rule: Rule = CAUSAL) -> Statistics:
    """The statistics of the map of these queries and keys."""
    T, S = q_BHTd.shape[-2], k_BHSd.shape[-2]
    return mass_of_map(attention_map(q_BHTd, k_BHSd, rule), all_visible(rule.checked(T, S), T, S, q_BHTd.device))


def mean(values_BHT: Tensor, counted: Tensor, weight_T: Tensor | float = 1.0) -> Tensor:
    """Mean over the queries that count, each by its weight; NaN where none does."""
    weights = counted.expand_as(values_BHT) * weight_T
    return torch.where(weights > 0, values_BHT * weights, 0.0).sum(-1) / weights.sum(-1)


def at_least_float(x: Tensor) -> Tensor:
    """Half precision in float32, everything else as it is."""
    return x.to(torch.promote_types(x.dtype, torch.float32))
