"""Projected gradient ascent: the attack that looks for the worst input near a given one (PGD, arXiv:1706.06083)."""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor


def ascend(loss: Callable[[Tensor], Tensor], x: Tensor, radius: float, steps: int, stride: float) -> Tensor:
    """The input that `steps` steps of size `stride` along the sign of the gradient of `loss` lead to, without a graph.

    From a random start; it stays within `radius` of every number of x, and within the range of those in x at all.
    """
    x = x.detach()
    low, high = x.amin(), x.amax()
    moved = x + radius * (2 * torch.rand_like(x) - 1)
    for _ in range(steps):
        with torch.enable_grad():
            moved.requires_grad_()
            (slope,) = torch.autograd.grad(loss(moved), moved)
        moved = x + (moved.detach() + stride * slope.sign() - x).clamp(-radius, radius)
        moved = moved.clamp(low, high)
    return moved


def divergence(attacked: Tensor, clean: Tensor) -> Tensor:
    """Mean over B and T of KL(softmax(clean) || softmax(attacked)), logits (B, T, C): how far an attack moved a decision."""
    attacked, clean = attacked.log_softmax(-1).flatten(0, 1), clean.log_softmax(-1).flatten(0, 1)
    return F.kl_div(attacked, clean, reduction="batchmean", log_target=True)
