"""The same statistics from a few queries at a time: memory grows with T, not with T squared.

A row's entropy is its log-sum-exp minus its mean score, and the mean score is q . (A k): a small matrix product instead
of a logarithm for every weight. The log-sum-exp is read off the largest score, whose weight is at least 1 / T.
"""

import torch
from torch import Tensor

from explorer.kernels.attention_mass.reference import at_least_float

ROWS = 64  # queries in a block
SCORES = 2**22  # and at most so many scores: 16 MiB of float32


def mass_in_blocks(q_BHTd: Tensor, k_BHSd: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """As reference.mass_of_map; a row of the map needs no other row, so each block has its exact softmax."""
    B, H, T, d = q_BHTd.shape
    q, k = at_least_float(q_BHTd).contiguous() * d**-0.5, at_least_float(k_BHSd).contiguous()
    rows = max(1, min(ROWS, T, SCORES // max(1, B * H * T)))
    later = q.new_full((rows, rows), -torch.inf).triu(1)  # to be added: twice as fast as a mask
    mass_BHS, entropy_BH = q.new_zeros(B, H, T), q.new_zeros(B, H)
    for start in range(0, T, rows):
        end = min(start + rows, T)
        q_block, keys = q[:, :, start:end], k[:, :, :end]
        scores = q_block @ keys.transpose(-1, -2)
        scores[..., start:] += later[: end - start, : end - start]
        weights = scores.softmax(-1)
        mass_BHS[..., :end] += weights.sum(-2)
        log_sum_exp = scores.amax(-1) - weights.amax(-1).log()
        entropy_BHr = log_sum_exp - (q_block * (weights @ keys)).sum(-1)
        entropy_BH += entropy_BHr.clamp(min=0).sum(-1)  # rounding
    first_BH = (mass_BHS[..., 0] - 1) / (T - 1)  # the first query has nothing but the first key
    return mass_BHS / torch.arange(T, 0, -1, device=q.device), first_BH, entropy_BH / T
