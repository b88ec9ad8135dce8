"""A small encoder of vectors that stand in a row: the patches of a picture, the samples of a sound."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from explorer.errors import BadValue
from explorer.kernels.rms_norm import RMSNorm
from explorer.models.language_model import AttentionBlock, Block, stream
from explorer.taps import Instrumented


class SequenceModel(Instrumented):
    """inputs_BTF -> (B, C) where it is pooled or a `readout` reads the answer off the row, else (B, T, C).

    A linear embedding, learned positions, one block a pair of `layers`, a norm, and the readout: a mechanism x_BTD -> (B, C),
    or by default a linear map, of the mean over the positions where `pooled`. Attention here should not be causal.
    """

    taps = {"residual": "L B T D"}
    only_by_name = frozenset({"residual"})

    def __init__(
        self, width: int, length: int, outputs: int, d_model: int, layers: Sequence[tuple[nn.Module, nn.Module | None]],
        pooled: bool = True, readout: nn.Module | None = None,
    ) -> None:  # fmt: skip
        super().__init__()
        if not layers:
            raise BadValue("a sequence model needs at least one layer, not 0")
        self.embed = nn.Linear(width, d_model)
        self.positions = nn.Parameter(torch.randn(length, d_model) * 0.02)
        self.blocks = nn.ModuleList(
            AttentionBlock(d_model, attention) if ffn is None else Block(d_model, attention, ffn)
            for attention, ffn in layers
        )
        self.norm = RMSNorm(d_model)
        self.pooled, self.readout = pooled, readout
        self.head = nn.Linear(d_model, outputs) if readout is None else None

    def forward(self, inputs_BTF: Tensor) -> Tensor:
        T, known = inputs_BTF.shape[1], len(self.positions)
        if known < T:
            raise BadValue(f"a row of {T} is longer than the {known} positions that this model knows")
        x_BTD = self.norm(stream(self, self.blocks, self.embed(inputs_BTF) + self.positions[:T]))
        y: Tensor
        if self.head is None:
            assert self.readout is not None
            y = self.readout(x_BTD)
        else:
            y = self.head(x_BTD.mean(1) if self.pooled else x_BTD)
        return y
