"""The ear at one attention layer of a transformers model."""

import re
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn

from explorer.checkpoints.batch import Side
from explorer.checkpoints.ear import Ear, Pass
from explorer.checkpoints.interface import asks_registry
from explorer.checkpoints.scores import Call, call_of
from explorer.mechanisms.attention.watching import TAPS, watch, watch_map

LINEAR = re.compile("Linear|Lightning|Delta|Mamba|Fourier")


class AttentionEar(Ear):
    """Taps of an attention layer, computed from the queries and keys it worked on, after rotation and repetition.

    `first` is what went to the first real token of the sequence: 0 once a sliding cache no longer holds it.
    """

    taps = TAPS
    missing = "did not ask transformers for its attention function: it computes attention in a way of its own"

    def __init__(self, path: str, module: nn.Module, now: Pass) -> None:
        super().__init__(path, module, now)
        self.kernel = "none yet"
        self._first_is_gone = False

    @torch.no_grad()
    def hear(self, name: str, result: Any, given: dict[str, Any]) -> None:
        """Look at one call of the layer's attention function, after it."""
        self.heard = True
        if self.now.batch is None or not self.listened():
            return
        side = self.now.batch.side(self.path)
        call = call_of(name, self.module, given, side)
        self._first_is_gone, self.kernel = _lost_first(call, side), name
        with torch.autocast(call.q.device.type, enabled=False):
            if call.needs_map:
                watch_map(self, call.map(), call.v, causal=False, mask=call.visible())
            else:
                y = result[0] if isinstance(result, tuple) else result
                watch(
                    self, call.q, call.k, call.v, y,
                    causal=call.causal, scale=call.scale, sink_H=call.sink, mask=call.mask,
                )  # fmt: skip

    def tap(self, name: str, value: Tensor) -> Tensor:
        """As everywhere, but nothing goes to a first token that is no longer there."""
        return super().tap(name, torch.zeros_like(value) if name == "first" and self._first_is_gone else value)


def _lost_first(call: Call, side: Side | None) -> bool:
    """Whether a sliding cache has dropped the first token of the sequences that the queries belong to."""
    B, _, T, _ = call.q.shape
    return side is not None and side.fits(B, T) and side.total > T and call.k.shape[2] < side.total


def attention_ears(model: nn.Module, now: Pass) -> list[AttentionEar]:
    """An ear at every layer whose attention can be overheard."""
    from explorer.checkpoints.own_attention import OwnAttentionEar, calls_torch

    ears: list[AttentionEar] = []
    for path, module in model.named_modules():
        if asks_registry(module):
            ears.append(AttentionEar(path, module, now))
        elif _named_attention(module) and calls_torch(module):
            ears.append(OwnAttentionEar(path, module, now))
    return ears


def deaf(model: nn.Module, heard: Iterable[str]) -> dict[str, str]:
    """Path -> class of the layers that compute attention in a way of their own: no ear of `heard` (paths) is there or inside.

    Linear attention, by its many names, has no map and no sink, and is not meant.
    """
    inside = {path[:end] for path in heard for end in (*_dots(path), len(path))}
    named = ((path, module) for path, module in model.named_modules() if _named_attention(module))
    return {path: type(module).__name__ for path, module in named if path not in inside}


def _dots(path: str) -> list[int]:
    return [i for i, sign in enumerate(path) if sign == "."]


def _named_attention(module: nn.Module) -> bool:
    name = type(module).__name__
    return name.endswith("Attention") and not LINEAR.search(name)
