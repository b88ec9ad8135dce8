"""A small encoder of vectors that stand in a row: the patches of a picture, the samples of a sound."""

import copy
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
        self._task = 0
        self._past: tuple[SequenceModel, ...] = ()  # a tuple hides it from parameters() and state_dict()

    def enter(self, task: int, progress: float) -> None:  # noqa: ARG002 (what everybody who cares about stages is told)
        """When a new task begins, keep a frozen copy of the network for a readout that `reads_past`."""
        if task != self._task and getattr(self.readout, "reads_past", False):
            self._past = ()
            self._past = (copy.deepcopy(self).requires_grad_(False),)
        self._task = task

    def features(self, inputs_BTF: Tensor) -> Tensor:
        """inputs_BTF -> x_BTD, from which the answer is read."""
        T, known = inputs_BTF.shape[1], len(self.positions)
        if known < T:
            raise BadValue(f"a row of {T} is longer than the {known} positions that this model knows")
        x_BTD: Tensor = self.norm(stream(self, self.blocks, self.embed(inputs_BTF) + self.positions[:T]))
        return x_BTD

    def forward(self, inputs_BTF: Tensor) -> Tensor:
        x_BTD = self.features(inputs_BTF)
        y: Tensor
        if self.head is None:
            assert self.readout is not None
            past = [before.features(inputs_BTF) for before in self._past] if self.training else []
            y = self.readout(x_BTD, *past)
        else:
            y = self.head(x_BTD.mean(1) if self.pooled else x_BTD)
        return y
