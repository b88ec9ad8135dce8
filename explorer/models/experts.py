"""A layer of experts behind a router."""

import torch
from torch import Tensor, nn

from explorer.errors import BadValue, unknown
from explorer.kernels.experts import ACTIVATIONS, GATED, choose, experts


class Experts(nn.Module):
    """E small feed-forward networks of equal shape, stored as one tensor a matrix.

    width: of the hidden layer; None makes an expert one d_model x d_out matrix. `kernel` is the path that ran last.
    """

    def __init__(
        self, d_model: int, n_experts: int, width: int | None, activation: str = "swiglu", d_out: int | None = None,
        kernel: str = "auto", out_scale: float = 1.0,
    ) -> None:  # fmt: skip
        super().__init__()
        if n_experts < 1 or (width is not None and width < 1):
            raise BadValue(f"n_experts={n_experts}, width={width}: both must be at least 1")
        if activation not in ACTIVATIONS:
            raise unknown("expert activation", activation, ACTIVATIONS)
        self.asked, self.kernel, self.activation = kernel, kernel, activation
        d_out = d_model if d_out is None else d_out
        hidden = d_out if width is None else width * (2 if activation in GATED else 1)
        self.up = nn.Parameter(torch.empty(n_experts, d_model, hidden))  # E D G
        self.down = None if width is None else nn.Parameter(torch.empty(n_experts, width, d_out))  # E F D
        nn.init.normal_(self.up, std=d_model**-0.5)
        if self.down is not None and width is not None:
            nn.init.normal_(self.down, std=out_scale * width**-0.5)

    def forward(self, x_BTD: Tensor, weights_BTK: Tensor, index_BTK: Tensor) -> Tensor:
        x_ND, K = x_BTD.reshape(-1, x_BTD.shape[-1]), index_BTK.shape[-1]
        self.kernel = choose(self.asked, x_ND, self.up, self.down)
        y_ND = experts(
            x_ND, index_BTK.reshape(-1, K), weights_BTK.reshape(-1, K), self.up, self.down, self.activation, self.kernel
        )
        return y_ND.view(*x_BTD.shape[:-1], y_ND.shape[-1])

    def flops(self) -> float:
        """Of one expert on one token: two a multiply-add, matrices only."""
        return 2.0 * (self.up[0].numel() + (0 if self.down is None else self.down[0].numel()))


class MixtureOfExperts(nn.Module):
    """x_BTD -> y_BTD: the router chooses, the experts compute."""

    def __init__(self, router: nn.Module, experts: Experts) -> None:
        super().__init__()
        self.router, self.experts = router, experts

    @property
    def reads_tokens(self) -> bool:
        """Whether the router wants the token ids beside the vectors."""
        return bool(getattr(self.router, "reads_tokens", False))

    def forward(self, x_BTD: Tensor, tokens_BT: Tensor | None = None) -> Tensor:
        weights_BTK, index_BTK = self.router(x_BTD, tokens_BT) if self.reads_tokens else self.router(x_BTD)
        return self.experts(x_BTD, weights_BTK, index_BTK)
