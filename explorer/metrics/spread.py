"""How a load is spread over the experts: how many of them really work, its percentiles, and who works with whom."""

from collections.abc import Sequence

import torch
from torch import Tensor

from explorer.errors import BadValue
from explorer.metrics.balance import load_fraction, utilisation
from explorer.metrics.checks import need_at_least, need_codes, need_integers, need_last, real
from explorer.metrics.entropy import shannon

PERCENTILES = (0.0, 0.1, 0.5, 0.9, 1.0)


def effective_experts(counts: Tensor) -> Tensor:
    """Effective number of experts exp(-sum_e f_e ln f_e), f the load: (..., E) -> (...), from 1 to E.

    1: one expert takes all (k for k of E); E: even load. NaN where nothing was assigned (0 counts in all). Half of it
    dead with the rest even gives E/2. Source: Hill's number of order 1, Ecology 1973, doi 10.2307/1934352.
    """
    return shannon(load_fraction(counts)).exp()


def utilisation_percentiles(counts: Tensor, at: Sequence[float] = PERCENTILES) -> Tensor:
    """Percentiles over the experts of the utilisation c_e / mean c: (..., E) -> (..., Q), one for each share in `at`.

    at: shares of the experts from 0 (the idlest) over 0.5 (the median) to 1 (the busiest), between two experts by
        linear interpolation.
    0: dead; 1: its fair share; E: takes all (E/k for k of E). NaN where nothing was assigned.
    """
    need_last("counts", counts, "E")
    if not at or not all(0 <= q <= 1 for q in at):
        raise BadValue(f"at must be shares from 0 to 1, not {tuple(at)}")
    used = utilisation(counts)
    shares = torch.tensor(list(at), dtype=used.dtype, device=used.device)
    return torch.quantile(used, shares, dim=-1).movedim(0, -1)


def co_activation_lift(index: Tensor, n_experts: int) -> Tensor:
    """Lift of co-activation N N_ab / (N_a N_b): how much more often a pair meets than if both came alone, (E, E).

    index: (..., K) (B T K), -1 = empty; N: the tokens with any expert. 0: never together; 1: independent; above: they
    seek each other, up to N / max(N_a, N_b). Chance is a little below 1, E (k - 1) / (k (E - 1)), because a token's
    experts are distinct. Symmetric; the diagonal and the row and column of an expert that no token used are NaN.
    See `co_activation` for the plain share. Source of the share: OLMoE, arXiv 2409.02060.
    """
    need_integers("index", index)
    need_last("index", index, "K")
    need_at_least("n_experts", n_experts, 1)
    need_codes("index", index, n_experts)
    flat = index.reshape(-1, index.shape[-1]).long().clamp(min=-1) + 1
    active = torch.zeros(len(flat), n_experts + 1, device=index.device).scatter_(1, flat, 1.0)[:, 1:]
    together = real((active.T @ active).long())
    alone = together.diagonal()
    tokens = active.amax(-1).sum().to(together.dtype) if len(flat) else together.sum()
    return lift(together, alone, tokens)


def lift(together: Tensor, alone: Tensor, tokens: Tensor | float) -> Tensor:
    """Lift N N_ab / (N_a N_b) of counts: together (E, E), alone (E,), tokens N -> (E, E), NaN on the diagonal."""
    found = tokens * together / (alone.unsqueeze(0) * alone.unsqueeze(1))
    return found.fill_diagonal_(torch.nan)
