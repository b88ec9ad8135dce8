"""What a layer of experts computes, as a loop over the experts: the definition that every faster path is held to."""

import torch
from torch import Tensor

from explorer.kernels.experts.activation import activate


def loop(
    x_ND: Tensor, index_NK: Tensor, weights_NK: Tensor, up_EDG: Tensor, down_EFD: Tensor | None, activation: str
) -> Tensor:
    """y[n] = sum over slots k of weights[n, k] * expert_{index[n, k]}(x[n]); an index of -1 adds nothing."""
    y_ND = torch.zeros(
        len(x_ND), up_EDG.shape[2] if down_EFD is None else down_EFD.shape[2], dtype=x_ND.dtype, device=x_ND.device
    )
    for e in range(len(up_EDG)):
        token, slot = (index_NK == e).nonzero(as_tuple=True)
        hidden = activate(x_ND[token] @ up_EDG[e], activation)
        out = hidden if down_EFD is None else hidden @ down_EFD[e]
        y_ND = y_ND.index_add(0, token, out * weights_NK[token, slot, None])
    return y_ND
