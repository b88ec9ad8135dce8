"""Attention seen in blocks of positions: how much goes where, block by block, and masks of the blocks to keep.

M = ceil(T / block) blocks; the last one may be shorter. The T x T map is never held: some rows of it at a time are enough.
"""

import math

import torch
from torch import Tensor
from torch.nn import functional as F

from explorer.kernels.attention_mass.reference import at_least_float

ROWS = 64  # queries looked at in one go


@torch.no_grad()
def block_maps(q_BHTd: Tensor, k_BHTd: Tensor, block: int) -> tuple[Tensor, Tensor]:
    """(largest, mass), both (B, H, M, M), of causal softmax attention with scores q . k / sqrt(d). Rows sum to one.

    largest[m, n]: the largest weight that a query of block m gives a key of block n, over the sum of its row.
    mass[m, n]: what a query of block m gives all keys of block n together, mean over the queries.
    """
    q, k = at_least_float(q_BHTd), at_least_float(k_BHTd)
    T, rows = q.shape[-2], block * max(1, ROWS // block)
    place = torch.arange(T, device=q.device)
    member_SM = F.one_hot(place // block, -(-T // block)).to(q.dtype)
    largest, mass = [], []
    for start in range(0, T, rows):
        scores = q[..., start : start + rows, :] @ k.transpose(-1, -2) * q.shape[-1] ** -0.5
        map_BHtS = scores.masked_fill(place > place[start : start + rows, None], -torch.inf).softmax(-1)
        largest.append(F.max_pool2d(map_BHtS, block, ceil_mode=True))
        mass.append(F.avg_pool2d(map_BHtS @ member_SM, (block, 1), ceil_mode=True))
    largest_BHMM = torch.cat(largest, 2)
    return largest_BHMM / largest_BHMM.sum(-1, keepdim=True), torch.cat(mass, 2)


def choose_blocks(scores_BHMM: Tensor, density: float, dense_rows: int = 2) -> Tensor:
    """(B, H, M, M) bool: of each row its own block and the best before it, in all k = (1 - sqrt(1 - density)) M, at least one.

    With k blocks a row, a share `density` of the triangle is kept, since the first rows have fewer than k. The last
    `dense_rows` rows keep everything. arXiv:2410.13276.
    """
    M = scores_BHMM.shape[-1]
    k = max(1, int((1 - math.sqrt(1 - density)) * M + 1e-9))
    own = torch.eye(M, dtype=torch.bool, device=scores_BHMM.device)
    earlier = own.new_ones(M, M).tril()
    ranked = scores_BHMM.masked_fill(~earlier, -torch.inf).masked_fill(own, torch.inf)
    kept_BHMM = torch.zeros_like(scores_BHMM, dtype=torch.bool).scatter(-1, ranked.topk(k).indices, True)
    late_M1 = torch.arange(M, device=own.device)[:, None] >= M - dense_rows
    return (kept_BHMM | late_M1) & earlier | own


def tokens_of(kept_BHMM: Tensor, block: int, T: int) -> Tensor:
    """(B, H, T, T) bool: the mask of tokens that a mask of blocks stands for, without what comes later."""
    may = kept_BHMM.repeat_interleave(block, -2).repeat_interleave(block, -1)[..., :T, :T]
    return may & may.new_ones(T, T).tril()


def block_recall(mass_BHMM: Tensor, kept_BHMM: Tensor, dense_rows: int = 2) -> Tensor:
    """(B, H): the share of the attention that falls into the kept blocks, 0 to 1.

    Mean over the rows in which there was something to choose: some block, but not every block, was left out, which rules
    out the first rows and the last `dense_rows`. 1 where there is no such row: nothing is left out.
    """
    M = mass_BHMM.shape[-1]
    row_M = torch.arange(M, device=mass_BHMM.device)
    left_out = kept_BHMM.sum(-1) <= row_M
    counted = left_out & (row_M < M - dense_rows)
    share_BHM = torch.where(kept_BHMM, mass_BHMM, 0).sum(-1)
    return torch.where(counted, share_BHM, 0).sum(-1) / counted.sum(-1).clamp(min=1) + ~counted.any(-1)
