"""Where attention goes, without holding its map: the statistics behind attention sinks. The result names its path."""

from typing import NamedTuple

import torch
from torch import Tensor

from explorer.errors import BadValue, unknown
from explorer.kernels.attention_mass import triton_path
from explorer.kernels.attention_mass.blocks import mass_in_blocks
from explorer.kernels.attention_mass.reference import (
    CAUSAL,
    at_least_float,
    attention_map,
    mass_by_definition,
    mass_of_map,
)
from explorer.kernels.attention_mass.rule import Rule

KERNELS = ("blocks", "reference")

__all__ = [
    "CAUSAL",
    "KERNELS",
    "AttentionMass",
    "Rule",
    "attention_map",
    "attention_mass",
    "first_from_lse",
    "mass_of_map",
    "triton_path",
]


class AttentionMass(NamedTuple):
    """Means over the queries that may look somewhere; a query that may look nowhere (padding) counts in none of them.

    received_BHS: mean of A[t, s] over the queries t that may see key s, in [0, 1]: 1 means that all look at this key
    alone. NaN for a key that no query sees.
    error_BHS: the standard error of `received` (at s = 0 of `first` too) where a sample of the queries was asked; else 0.
    first_BH: what went to the first token: mean of A[t, 0] over the queries t >= 1, in [0, 1]; NaN where there is only
    one query. Where padding hides key 0, the first key that is seen stands in its place. This is the emergent sink.
    elsewhere_BH: what went to no token at all: mean of 1 - sum_s A[t, s]. 0 for plain softmax; a learned sink's share in
    [0, 1]; without normalisation (sigmoid) whatever the sums lack of one, which can be negative.
    entropy_BH: mean of the entropy of a query's row, divided by its sum first, in nats: 0 (one key) .. ln of the number
    of keys it may see (all alike). A row of zeros has no entropy and is left out.
    """

    received: Tensor
    error: Tensor
    first: Tensor
    elsewhere: Tensor
    entropy: Tensor
    kernel: str


@torch.no_grad()
def attention_mass(
    q_BHTd: Tensor,
    k_BHSd: Tensor,
    kernel: str = "auto",
    rule: Rule = CAUSAL,
    stride: int = 1,
    lse_BHT: Tensor | None = None,
    entropy: bool = True,
) -> AttentionMass:
    """Statistics of attention, from queries and keys as it gets them and the rule by which scores become weights.

    No gradient flows. kernel: "auto" or a name of KERNELS. stride: above 1 asks about one query in so many, a stratified
    sample whose means are right on average, and gives their standard error. lse_BHT and entropy=False make the blocks
    faster: see there.
    """
    path = "blocks" if kernel == "auto" else kernel
    if path not in KERNELS:
        raise unknown("attention-mass kernel", kernel, ["auto", *KERNELS])
    if stride < 1:
        raise BadValue(f"stride={stride}: it must be a whole number of at least 1, a query in so many is asked")
    if path == "reference":
        return AttentionMass(*mass_by_definition(q_BHTd, k_BHSd, rule), "attention_mass: reference")
    mass = mass_in_blocks(q_BHTd, k_BHSd, rule, stride, lse_BHT, entropy)
    return AttentionMass(*mass, "attention_mass: blocks" + (f", one query in {stride}" if stride > 1 else ""))


@torch.no_grad()
def first_from_lse(q_BHTd: Tensor, k_BHSd: Tensor, lse_BHT: Tensor, rule: Rule = CAUSAL) -> Tensor:
    """`AttentionMass.first` of softmax attention without masks, from the log-sum-exp of each query's scores alone.

    Each weight is off by as much as the log-sum-exp is rounded: 1e-5 in float32 while scores stay below some 50.
    """
    T, S = q_BHTd.shape[-2], k_BHSd.shape[-2]
    rule.checked(T, S)
    score_BHT = rule.scores(at_least_float(q_BHTd), at_least_float(k_BHSd[:, :, :1]))[..., 0]
    later = slice(1 if S <= T else 0, None)
    return (score_BHT - lse_BHT).exp_().clamp_(max=1)[..., later].mean(-1)
