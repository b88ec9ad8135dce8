"""What a multiplicative gate does: how much it closes, and whether it knows what it should close for."""

import math

import torch
from torch import Tensor

from explorer.metrics.checks import need_same_shape, real
from explorer.metrics.entropy import row_shares, shannon


def gate_sparsity(gate: Tensor, below: float = 0.1) -> Tensor:
    """Gate sparsity: share of the gate's values below a threshold, over all of gate (...), any axes. A scalar.

    0: open everywhere; 1: closed everywhere. Meant for gates in [0, 1]: pass the absolute value of a signed one (tanh),
    whose negative values would count as closed. NaN if gate is empty or holds a NaN.
    Source: gated attention, arXiv 2505.06708, whose sparse gates go with the absence of sinks.
    """
    gate = real(gate)
    return torch.where(gate.isnan(), gate, (gate < below).to(gate.dtype)).mean()


def gate_auc(gate: Tensor, has_property: Tensor) -> Tensor:
    """Rank AUC of a gate as a detector of a token's property: P(gate with > gate without) + P(equal) / 2. A scalar.

    gate: (...) values, has_property: the same shape (for a gate B T H, expand the property of B T), true or not 0.
    0.5: the gate does not know the property; 1: it is always higher with it; 0: always lower with it, which is as much
    knowledge. Only the order of the values matters. NaN if all or no tokens have the property, or if gate holds a NaN.
    """
    need_same_shape("gate", gate.shape, "has_property", has_property.shape)
    values, positive = real(gate).reshape(-1), has_property.reshape(-1) != 0
    in_order = values.sort().values
    # A tie's rank, from 1, is midway between one more than the number of smaller values and that of values no larger.
    smaller, no_larger = (torch.searchsorted(in_order, values, right=right) for right in (False, True))
    ranks = (real(smaller) + real(no_larger) + 1) / 2
    n = real(positive.sum())
    above = torch.where(positive, ranks, 0.0).sum() - n * (n + 1) / 2
    return torch.where(values.isnan().any(), math.nan, above / (n * (len(values) - n)))


def effective_rank(matrix: Tensor) -> Tensor:
    """Effective rank exp(H(s / sum s)) of the singular values s of a matrix: (..., M, N) -> (...).

    1: one direction carries everything; min(M, N): all directions carry the same. 0 for a matrix of zeros; NaN if it is
    not finite. Source: Roy and Vetterli, "The effective rank", EUSIPCO 2007.
    """
    matrix = real(matrix)
    finite = matrix.isfinite().all(-1).all(-1)
    shares, some = row_shares(torch.linalg.svdvals(matrix.nan_to_num(0.0, 0.0, 0.0)))
    return torch.where(finite, torch.where(some, shannon(shares).exp(), 0.0), math.nan)
