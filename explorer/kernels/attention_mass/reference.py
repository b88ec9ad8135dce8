"""Where causal softmax attention goes, read off its full map: the definition that every faster path is held to."""

import torch
from torch import Tensor


def attention_map(q_BHTd: Tensor, k_BHSd: Tensor) -> Tensor:
    """A (B, H, T, S) = softmax over s <= t of q_t . k_s / sqrt(d), in float32 at least; rows sum to 1."""
    q, k = at_least_float(q_BHTd), at_least_float(k_BHSd)
    scores = q @ k.transpose(-1, -2) * q.shape[-1] ** -0.5
    later = torch.ones(scores.shape[-2:], dtype=torch.bool, device=q.device).triu(1)
    return scores.masked_fill(later, -torch.inf).softmax(-1)


def mass_of_map(q_BHTd: Tensor, k_BHSd: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """(received, first, entropy) as the package's `attention_mass` describes them."""
    map_BHTS = attention_map(q_BHTd, k_BHSd)
    queries_S = torch.arange(map_BHTS.shape[-1], 0, -1, device=map_BHTS.device)  # key s is seen by T - s of them
    received_BHS = map_BHTS.sum(-2) / queries_S
    return received_BHS, map_BHTS[..., 1:, 0].mean(-1), torch.special.entr(map_BHTS).sum(-1).mean(-1)


def at_least_float(x: Tensor) -> Tensor:
    """Half precision in float32, everything else as it is."""
    return x.to(torch.promote_types(x.dtype, torch.float32))
