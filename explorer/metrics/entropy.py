"""How sure a router is of its choice: the entropy of a token's own distribution, and how far off another choice is."""

import math

import torch
from torch import Tensor

from explorer.errors import BadValue
from explorer.metrics.checks import need_last, real


def shannon(shares: Tensor) -> Tensor:
    """Entropy in nats, -sum_e s_e ln s_e, over the last axis of shares that sum to one: (..., E) -> (...).

    Range 0 (all in one place) to ln E (even); 0 ln 0 counts as 0, and NaN stays NaN.
    """
    shares = real(shares)
    # torch.special.entr is the same, and not vectorised: five times slower on a CPU
    return -(shares * shares.clamp(min=torch.finfo(shares.dtype).tiny).log()).sum(-1)


def row_shares(scores: Tensor) -> tuple[Tensor, Tensor]:
    """Non-negative scores (..., E) over their row's sum, and which rows (...) had a sum at all (False: all are 0)."""
    scores = real(scores)
    mass = scores.sum(-1, keepdim=True)
    some = mass != 0
    return scores / torch.where(some, mass, torch.ones_like(mass)), some.squeeze(-1)


def token_entropy(probs: Tensor, keep: int = 0) -> Tensor:
    """Normalised token entropy H_tok = mean over tokens of (-sum_e p_e ln p_e) / ln E.

    probs: (..., E) the router's distribution over experts for each token, before top-k (B T E). Each row is first
        renormalised to sum to one: no change for probabilities, a proxy distribution for independent (sigmoid, ReLU)
        scores, which must not be negative. A row of zeros has no distribution and is left out.
    keep: so many leading axes are not averaged over (S B T E with keep=1: one number a step).
    Returns a scalar, or the kept axes. 0: every token is certain of one expert; 1: every token finds all experts
    equally good. Read it beside the load entropy: low here and high there is healthy, both low is collapse, both high no
    specialisation.
    With one expert there is nothing to decide: 0. NaN if there is no token, or if any score is NaN.
    Source: the routing entropy of MoE analyses; as a loss, the local entropy of LIMoE, arXiv 2206.02770.
    """
    need_last("probs", probs, "E")
    shares, some = row_shares(probs)
    entropy = shannon(shares) / math.log(max(shares.shape[-1], 2))
    return torch.where(some, entropy, 0.0).flatten(keep).sum(-1) / some.flatten(keep).sum(-1)


def margin(scores: Tensor, k: int = 1) -> Tensor:
    """Margin of the decision: the k-th best score minus the (k+1)-th, how far a token is from another set of experts.

    scores: (..., E) logits, probabilities or biased scores: what the router ranks by (B T E).
    Returns (...), one margin a token, in the unit of the scores.
    0: a tie, about to switch at the smallest change; large: settled (at most 1 for probabilities, no bound for logits).
    k = E keeps every expert, so that nothing can switch: infinity. A row with a NaN gives NaN.
    """
    need_last("scores", scores, "E")
    E = scores.shape[-1]
    if not 1 <= k <= E:
        raise BadValue(f"k must be between 1 and the {E} experts, not {k}")
    best = largest(real(scores), min(k + 1, E))
    gap = best[k - 1] - best[k] if k < E else torch.full_like(best[0], math.inf)
    return torch.where(best[0].isnan(), math.nan, gap)


def largest(scores: Tensor, count: int) -> list[Tensor]:
    """The `count` largest of (..., E), each (...), in descending order; the first of a row with a NaN is NaN."""
    if scores.shape[-1] * count > 64 or scores.numel() < 2**13:
        return list(scores.topk(count, dim=-1).values.unbind(-1))
    best: list[Tensor] = []  # many rows of few experts: comparing whole columns takes a third of topk's time
    for column in scores.movedim(-1, 0).contiguous():
        left = column
        for i, better in enumerate(best):
            best[i], left = torch.maximum(better, left), torch.minimum(better, left)
        best = [*best, left][:count]
    return best
