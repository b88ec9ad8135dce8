"""One layer of experts on plain vectors: the host for clusters, where what a router should learn is known."""

from torch import Tensor, nn


class VectorModel(nn.Module):
    """x (B, D) -> y (B, D). The batch is one sequence of B tokens to the layer, so batch-wide rules see all of it."""

    def __init__(self, ffn: nn.Module) -> None:
        super().__init__()
        self.ffn = ffn

    def forward(self, x_BD: Tensor) -> Tensor:
        y: Tensor = self.ffn(x_BD[None])
        return y[0]
