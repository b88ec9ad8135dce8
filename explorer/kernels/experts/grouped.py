"""The fast path: sort the (token, slot) pairs by expert, then two matrix products with one group of rows an expert."""

import torch
import torch.nn.functional as F
from torch import Tensor

from explorer.kernels.experts.activation import activate
from explorer.kernels.experts.reference import loop


def grouped_mm(
    x_ND: Tensor, index_NK: Tensor, weights_NK: Tensor, up_EDG: Tensor, down_EFD: Tensor | None, activation: str
) -> Tensor:
    """As reference.loop, in O(1) kernels instead of O(E); one synchronisation, for the number of slots that are filled."""
    K, E, index = index_NK.shape[1], len(up_EDG), index_NK.reshape(-1)
    filled = (index >= 0).nonzero()[:, 0]  # before the sort: of E slots a token, nearly all may be empty
    if not len(filled):  # no rows to group; the loop's zeros have a gradient, as the output of any other batch
        return loop(x_ND, index_NK, weights_NK, up_EDG, down_EFD, activation)
    expert, by_expert = index.index_select(0, filled).sort(stable=True)
    order = filled.index_select(0, by_expert)
    offsets = torch.searchsorted(expert, torch.arange(E, device=expert.device), right=True, out_int32=True)
    token = order // K  # index_select below: its gradient is faster than that of x_ND[token]
    hidden = activate(F.grouped_mm(x_ND.index_select(0, token), up_EDG, offs=offsets), activation)
    out = hidden if down_EFD is None else F.grouped_mm(hidden, down_EFD, offs=offsets)
    out = out * weights_NK.reshape(-1).index_select(0, order)[:, None]
    return out.new_zeros(len(x_ND), out.shape[1]).index_add(0, token, out)


def dense(
    x_ND: Tensor, index_NK: Tensor, weights_NK: Tensor, up_EDG: Tensor, down_EFD: Tensor | None, activation: str
) -> Tensor:
    """Every expert on every token, then the weights: E/K times the work, but shapes that torch.compile can see through."""
    hidden = activate(torch.einsum("nd,edg->eng", x_ND, up_EDG), activation)
    out_END = hidden if down_EFD is None else hidden @ down_EFD
    chosen_NKE = index_NK[..., None] == torch.arange(len(up_EDG), device=index_NK.device)
    weight_NE = (weights_NK[..., None] * chosen_NKE).sum(1)
    return torch.einsum("end,ne->nd", out_END, weight_NE)
