"""Where attention goes, without holding its map: the statistics behind attention sinks. The result names its path."""

from typing import NamedTuple

import torch
from torch import Tensor

from explorer.errors import unknown
from explorer.kernels.attention_mass.blocks import mass_in_blocks
from explorer.kernels.attention_mass.reference import attention_map, mass_of_map

KERNELS = {"reference": mass_of_map, "blocks": mass_in_blocks}

__all__ = ["KERNELS", "AttentionMass", "attention_map", "attention_mass"]


class AttentionMass(NamedTuple):
    """received_BHS: mean of A[t, s] over the queries t >= s, in [0, 1]: 1 means that all look at this key alone.
    first_BH: mean of A[t, 0] over the queries t >= 1, in [0, 1]; NaN where there is only one query.
    entropy_BH: mean over all queries of a row's entropy, in nats: 0 (one key) .. mean of ln(t + 1) (all keys alike).
    """

    received: Tensor
    first: Tensor
    entropy: Tensor
    kernel: str


@torch.no_grad()
def attention_mass(q_BHTd: Tensor, k_BHSd: Tensor, kernel: str = "auto") -> AttentionMass:
    """Statistics of causal softmax attention with scores q . k / sqrt(d), from queries and keys as attention gets them.

    S = T; no gradient flows. kernel: "auto" or a name of KERNELS.
    """
    path = "blocks" if kernel == "auto" else kernel
    if path not in KERNELS:
        raise unknown("attention-mass kernel", kernel, ["auto", *KERNELS])
    return AttentionMass(*KERNELS[path](q_BHTd, k_BHSd), f"attention_mass: {path}")
