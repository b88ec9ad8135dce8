"""The nonlinearity between the two matrices of an expert."""

import torch.nn.functional as F
from torch import Tensor

GATED = ("swiglu", "geglu")  # these take twice the width and multiply one half with the other
ACTIVATIONS = (*GATED, "relu", "linear")


def activate(hidden: Tensor, activation: str) -> Tensor:
    """(..., G) -> (..., F): G is 2F for the gated ones (gate first, then up), F for the others."""
    if activation in GATED:
        gate, up = hidden.chunk(2, dim=-1)
        return (F.silu(gate) if activation == "swiglu" else F.gelu(gate)) * up
    return hidden.relu() if activation == "relu" else hidden
