"""Expert computation, shared by every router. `choose` says which path runs, and the host reports it."""

import torch
import torch.nn.functional as F
from torch import Tensor

from explorer.errors import unknown
from explorer.kernels.experts.activation import ACTIVATIONS, GATED
from explorer.kernels.experts.grouped import dense, grouped_mm
from explorer.kernels.experts.reference import loop

KERNELS = {"loop": loop, "grouped_mm": grouped_mm, "dense": dense}

__all__ = ["ACTIVATIONS", "GATED", "KERNELS", "choose", "experts"]


def choose(asked: str, x_ND: Tensor, up_EDG: Tensor, down_EFD: Tensor | None) -> str:
    """The name of the path that will run for "auto" or a name of KERNELS."""
    if asked != "auto":
        if asked not in KERNELS:
            raise unknown("expert kernel", asked, ["auto", *KERNELS])
        return asked
    if torch.compiler.is_compiling():
        return (
            "dense"  # F.grouped_mm has no float32 shape function in torch 2.13, and a sort by expert breaks the graph
        )
    rows = (x_ND, up_EDG) if down_EFD is None else (x_ND, up_EDG, down_EFD)
    aligned = all(t.shape[-1] * t.element_size() % 16 == 0 for t in rows)  # grouped_mm wants rows on 16-byte boundaries
    aligned &= down_EFD is None or down_EFD.shape[1] * down_EFD.element_size() % 16 == 0
    supported = all(t.dtype in (torch.float32, torch.bfloat16, torch.float16) for t in rows)
    return "grouped_mm" if hasattr(F, "grouped_mm") and aligned and supported else "loop"


def experts(
    x_ND: Tensor,
    index_NK: Tensor,
    weights_NK: Tensor,
    up_EDG: Tensor,
    down_EFD: Tensor | None,
    activation: str = "swiglu",
    kernel: str = "grouped_mm",
) -> Tensor:
    """y_ND: the weighted sum of the chosen experts' outputs. `down_EFD` None: an expert is one matrix and an activation."""
    return KERNELS[kernel](x_ND, index_NK, weights_NK, up_EDG, down_EFD, activation)
