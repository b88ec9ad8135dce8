"""What the experts have specialised in: domains, tokens, company, and how early their choices settled.

Decisions and labels are integers; a negative one (an empty slot, a token without a label) counts nowhere. Few
tokens look specialised by chance alone: show `nmi_floor`, or another `permuted_floor`, beside the measure.
"""

import math
from collections.abc import Callable
from typing import Literal

import torch
from torch import Tensor

from explorer.errors import BadValue
from explorer.metrics.balance import counts, load_fraction
from explorer.metrics.checks import need_at_least, need_codes, need_integers, need_last, need_same_shape, real
from explorer.metrics.entropy import shannon


def contingency(experts: Tensor, labels: Tensor, n_experts: int, n_labels: int) -> Tensor:
    """How often each expert met each label: two integer tensors of one shape (...) -> int64 (E, C).

    Pairs with a negative member count nowhere.
    """
    need_same_shape("experts", experts.shape, "labels", labels.shape)
    for name, codes, n in (("experts", experts, n_experts), ("labels", labels, n_labels)):
        need_at_least(f"n_{name}", n, 1)
        need_integers(name, codes)
        need_codes(name, codes, n)
    row, column = experts.reshape(-1).long().clamp(min=-1) + 1, labels.reshape(-1).long().clamp(min=-1) + 1
    table = torch.zeros((n_experts + 1) * (n_labels + 1), dtype=torch.int64, device=experts.device)
    table.scatter_add_(0, row * (n_labels + 1) + column, torch.ones_like(row))
    return table.view(n_experts + 1, n_labels + 1)[1:, 1:]  # row and column 0 collect the negatives


def label_share(index: Tensor, labels: Tensor, n_experts: int, n_labels: int) -> Tensor:
    """Domain specialisation: share of the assignments of label c that went to expert e, N_ce / N_c, as (C, E).

    index: (..., K) (B T K), -1 = empty; labels: (...) (B T) in 0..C-1, negative = unlabelled. Rows sum to 1.
    0: the expert never sees the label; 1/E: chance; 1: it takes all of it (1/k at most for k distinct experts a token).
    A label that never occurs has a row of NaN. Source: OLMoE, arXiv 2409.02060, which divides by tokens instead: k
    times this, with chance k/E.
    """
    need_last("index", index, "K")
    need_same_shape("index without its last axis", index.shape[:-1], "labels", labels.shape)
    table = real(contingency(index, labels.unsqueeze(-1).expand_as(index), n_experts, n_labels)).T
    return table / table.sum(-1, keepdim=True)


def _table(experts: Tensor, labels: Tensor, n_experts: int | None, n_labels: int | None) -> Tensor:
    """`contingency`, where a side without a size is numbered by the values that occur (which reads the data)."""
    need_same_shape("experts", experts.shape, "labels", labels.shape)
    if n_experts is None:
        experts, n_experts = _renumbered("experts", experts)
    if n_labels is None:
        labels, n_labels = _renumbered("labels", labels)
    return contingency(experts, labels, n_experts, n_labels)


def _renumbered(name: str, codes: Tensor) -> tuple[Tensor, int]:
    need_integers(name, codes)
    values, numbers = torch.unique(codes.clamp(min=-1), return_inverse=True)
    negative = int((values < 0).sum())  # 1 if any code is negative: it comes first, and stays -1
    return numbers - negative, max(len(values) - negative, 1)


def _information(table: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """I(e; y), H(e) and H(y) in nats of a table of counts (E, C), NaN if it is empty."""
    joint = real(table) / table.sum()
    of_expert, of_label = shannon(joint.sum(1)), shannon(joint.sum(0))
    return (of_expert + of_label - shannon(joint.reshape(-1))).clamp(min=0), of_expert, of_label


def _ratio(information: Tensor, entropy: Tensor) -> Tensor:
    # A constant has no entropy, and nothing to be told: 0, where the formula says 0/0. Below 1e-12 is rounding.
    return torch.where(entropy < 1e-12, 0.0 * information, (information / entropy).clamp(max=1))


def nmi(
    index_top1: Tensor,
    labels: Tensor,
    normalise: Literal["labels", "min"] = "labels",
    n_experts: int | None = None,
    n_labels: int | None = None,
) -> Tensor:
    """Normalised mutual information of a token's first expert and its label, I(e; y) / H(y). A scalar.

    index_top1, labels: (...) of one shape (B T). n_experts and n_labels, if given, spare a look at the data (a sync).
    normalise="min" divides by min(H(e), H(y)) instead: with care, a nearly collapsed router can score high on it.
    0: the expert says nothing of the label; 1: the label can be told from the expert. 0 as well if either is constant,
    NaN without tokens. From n independent tokens the information comes out too high by about (E - 1)(C - 1) / 2n nats,
    from correlated ones by more: see `nmi_floor`.
    """
    information, of_expert, of_label = _information(_table(index_top1, labels, n_experts, n_labels))
    if normalise == "labels":
        return _ratio(information, of_label)
    if normalise == "min":
        return _ratio(information, torch.minimum(of_expert, of_label))
    raise BadValue(f'normalise must be "labels" or "min", not {normalise!r}')


def permuted_floor(
    measure: Callable[[Tensor, Tensor], Tensor], experts: Tensor, labels: Tensor, draws: int = 20, seed: int = 0
) -> Tensor:
    """Chance level of measure(experts, labels): its mean over `draws` random orders of the labels. A scalar.

    Labels are permuted along their first axis. (B T) keeps sequences whole, the honest baseline, because neighbouring
    tokens share label and topic; (N,) permutes single tokens, and gives the plug-in bias alone, a lower floor.
    NaN with fewer than two rows, which have no other order.
    """
    need_last("labels", labels, "T")
    need_same_shape("experts", experts.shape, "labels", labels.shape)
    need_at_least("draws", draws, 1)
    if len(labels) < 2:
        return torch.full((), math.nan, device=labels.device)
    generator = torch.Generator().manual_seed(seed)
    orders = [torch.randperm(len(labels), generator=generator).to(labels.device) for _ in range(draws)]
    return torch.stack([measure(experts, labels[order]) for order in orders]).mean()


def nmi_floor(
    index_top1: Tensor,
    labels: Tensor,
    normalise: Literal["labels", "min"] = "labels",
    n_experts: int | None = None,
    n_labels: int | None = None,
    draws: int = 20,
    seed: int = 0,
) -> Tensor:
    """What `nmi` shows for permuted labels, where there is nothing to find: see `permuted_floor`. A scalar, 0 to 1.

    Near 0 with many independent tokens; specialisation is what `nmi` has above it.
    """

    def measure(experts: Tensor, shuffled: Tensor) -> Tensor:
        return nmi(experts, shuffled, normalise, n_experts, n_labels)

    return permuted_floor(measure, index_top1, labels, draws, seed)


def vocabulary_specialisation(
    expert_top1: Tensor, tokens: Tensor, n_experts: int | None = None, n_tokens: int | None = None
) -> Tensor:
    """Vocabulary specialisation I(e; v) / H(e) of first experts and token ids v, both (...) (B T). A scalar.

    0: the choice ignores the token's identity; 1: the token id decides it alone, as in a hash layer (arXiv 2106.04426).
    0 as well for a collapsed router; NaN without tokens. Rare ids bias it up: compare `permuted_floor`.
    n_tokens is the size of the vocabulary; without it, only the ids that occur are tabled: right for a large one.
    """
    information, of_expert, _ = _information(_table(expert_top1, tokens, n_experts, n_tokens))
    return _ratio(information, of_expert)


def vocabulary_top_share(
    expert_top1: Tensor,
    tokens: Tensor,
    at_least: int = 10,
    n_experts: int | None = None,
    n_tokens: int | None = None,
) -> Tensor:
    """OLMoE's vocabulary specialisation: mean over token ids v of max_e N_ve / N_v, both inputs (...) (B T). A scalar.

    Only ids with `at_least` occurrences count: an id seen once scores 1 for nothing. NaN if there is none.
    1/E: every id is spread evenly (a little more by chance); 1: every id has its expert, also when that is the same one
    for all: look at the load beside it, or at `vocabulary_specialisation`. Source: OLMoE, arXiv 2409.02060.
    """
    need_at_least("at_least", at_least, 1)
    table = real(_table(expert_top1, tokens, n_experts, n_tokens))
    seen = table.sum(0)
    often = seen >= at_least
    share = table.amax(0) / seen
    return torch.where(often, share, 0.0).sum() / often.sum()


def co_activation(index: Tensor, n_experts: int) -> Tensor:
    """Co-activation Co(a, b) = N_ab / N_a: how often b is active among the tokens where a is, as (E, E).

    index: (..., K) (B T K). All pairs of a token's experts count (OLMoE's script takes neighbours in the ranked list).
    0: never together; (k - 1)/(E - 1): chance; 1: b always comes with a. The diagonal is 1. Not symmetric.
    The row of an expert that no token used is 0, its diagonal too, and not NaN. Source: OLMoE, arXiv 2409.02060.
    """
    need_integers("index", index)
    need_last("index", index, "K")
    need_at_least("n_experts", n_experts, 1)
    need_codes("index", index, n_experts)
    flat = index.reshape(-1, index.shape[-1]).long().clamp(min=-1) + 1
    active = torch.zeros(len(flat), n_experts + 1, device=index.device).scatter_(1, flat, 1.0)[:, 1:]
    together = active.T @ active
    return together / together.diagonal().clamp(min=1).unsqueeze(-1)


def saturation(index: Tensor, index_final: Tensor) -> Tensor:
    """Router saturation: mean over tokens of |S_t & S_final| / k, the share of its final experts a token already has.

    index, index_final: (..., K) (B T K), the choices for the same tokens at a checkpoint and at the end; experts of one
        token are distinct. Where slots are empty (-1), k is the larger of the two sets, so that 1 still means the same
        set; a token with no expert in either is left out. K may differ.
    0: every choice changed; k/E: chance; 1: nothing has changed (at the end, by construction). NaN without tokens.
    A collapsed router saturates early for nothing: its chance level is sum_e f_e f'_e k for loads f and f'.
    Source: OLMoE, arXiv 2409.02060.
    """
    for name, chosen in (("index", index), ("index_final", index_final)):
        need_integers(name, chosen)
        need_last(name, chosen, "K")
    need_same_shape("index without its last axis", index.shape[:-1], "that of index_final", index_final.shape[:-1])
    same = (index.unsqueeze(-1) == index_final.unsqueeze(-2)) & (index >= 0).unsqueeze(-1)
    kept = same.any(-1).sum(-1)
    k = torch.maximum((index >= 0).sum(-1), (index_final >= 0).sum(-1))
    return (kept / k.clamp(min=1)).sum() / (k > 0).sum()


def saturation_by_chance(index: Tensor, index_final: Tensor, n_experts: int) -> Tensor:
    """What `saturation` would be by the loads alone, sum_e f_e f'_e k: of the filled slots of a token the fewer. A scalar.

    k/E: even loads; 1: a collapsed router, whose k experts take every token. NaN without tokens.
    """
    share, k = [], []
    for chosen in (index, index_final):
        count = counts(chosen, n_experts)
        k.append(count.sum() / max(1, chosen[..., 0].numel()))
        share.append(load_fraction(count))
    return (share[0] * share[1]).sum() * torch.minimum(*k)


def first_expert(index: Tensor, weights: Tensor) -> Tensor:
    """The expert with the largest weight, -1 for a token without any: both (..., K) -> (...)."""
    return index.gather(-1, weights.masked_fill(index < 0, -torch.inf).argmax(-1, keepdim=True))[..., 0]


def flip_rate(top1_a: Tensor, top1_b: Tensor) -> Tensor:
    """Gate-flip rate: share of the tokens whose first expert differs between two runs over the same tokens. A scalar.

    top1_a, top1_b: (...) (B T). Between a and b lies noise, quantisation, an attack, or one optimizer step.
    0: nothing changed; 1 - sum_e f_e f'_e: chance; 1: every token moved. NaN without tokens. It is 1 - `saturation` for
    k = 1: a token that lost its expert (-1) or found one has moved, one without an expert in both is left out.
    """
    need_integers("top1_a", top1_a)
    need_integers("top1_b", top1_b)
    need_same_shape("top1_a", top1_a.shape, "top1_b", top1_b.shape)
    return 1 - saturation(top1_a.unsqueeze(-1), top1_b.unsqueeze(-1))
