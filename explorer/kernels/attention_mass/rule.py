"""How scores become weights: the one description that every path of this folder follows."""

from typing import NamedTuple

import torch
from torch import Tensor

from explorer.errors import BadValue


class Rule(NamedTuple):
    """softmax or sigmoid of scale * q . k + key_bias + bias, over the keys that a query may see.

    causal: query t sees the keys up to its own position, t + S - T: the queries are the last T of S positions.
    scale: None means 1 / sqrt(d).
    sink (H): a score for each head that takes weight in the softmax and gives nothing back.
    key_bias (B, H, S): added to all scores of a key, or anything that broadcasts to it; -inf hides the key.
    mask: bool, of any shape that broadcasts to B H T S; True: may be seen.
    bias: one number for all scores (sigmoid attention: -ln T).
    """

    causal: bool = True
    scale: float | None = None
    sink: Tensor | None = None
    key_bias: Tensor | None = None
    mask: Tensor | None = None
    weights: str = "softmax"
    bias: float = 0.0

    def checked(self, T: int, S: int) -> "Rule":
        """Itself with tensors of full rank, if it makes sense for T queries and S keys."""
        if self.weights not in ("softmax", "sigmoid"):
            raise BadValue(f"weights={self.weights!r}: it must be 'softmax' or 'sigmoid'")
        if self.sink is not None and self.weights == "sigmoid":
            raise BadValue("a sink takes weight from a softmax: with weights='sigmoid' there is nothing to take from")
        if self.causal and S < T:
            raise BadValue(f"{T} queries and only {S} keys: causal attention needs at least as many keys as queries")
        mask, key_bias = self.mask, self.key_bias
        if mask is not None:
            if mask.dtype != torch.bool:
                raise BadValue(f"mask must be a bool tensor, True where a query may look, not {mask.dtype}")
            mask = mask[(None,) * (4 - mask.ndim)]
        if key_bias is not None:
            key_bias = key_bias.detach()[(None,) * (3 - key_bias.ndim)]
        return self._replace(mask=mask, key_bias=key_bias)

    def times(self, unit: float) -> "Rule":
        """The rule for scores in other units: all but the scale, which is the caller's to change."""
        return self._replace(
            sink=None if self.sink is None else self.sink.detach() * unit,
            key_bias=None if self.key_bias is None else self.key_bias * unit,
            bias=self.bias * unit,
        )

    @property
    def plain(self) -> bool:
        """Whether every query may see every key, but for causality."""
        return self.mask is None and self.key_bias is None

    def part(self, b: slice, h: slice) -> "Rule":
        """The rule of some sequences and heads; `checked` before."""
        return self._replace(
            sink=None if self.sink is None else self.sink[h],
            mask=None if self.mask is None else _cut(_cut(self.mask, 0, b), 1, h),
            key_bias=None if self.key_bias is None else _cut(_cut(self.key_bias, 0, b), 1, h),
        )

    def visible(self, queries_r: Tensor, T: int, keys: slice, S: int) -> Tensor | None:
        """Which of some keys these queries (by number) may see, as bool that broadcasts to B H rows keys; None: all.

        `checked` before.
        """
        seen = None
        if self.causal:
            numbers = torch.arange(keys.start, keys.stop, device=queries_r.device)
            seen = (numbers <= (queries_r + S - T)[:, None])[None, None]
        if self.mask is not None:
            mask = self.mask if self.mask.shape[-2] == 1 else self.mask.index_select(-2, queries_r)
            mask = _cut(mask, -1, keys)
            seen = mask if seen is None else seen & mask
        if self.key_bias is not None:
            some = (_cut(self.key_bias, -1, keys) > -torch.inf).unsqueeze(-2)
            seen = some if seen is None else seen & some
        return seen

    def scores(self, q_BHTd: Tensor, k_BHSd: Tensor) -> Tensor:
        """What becomes weights, (B, H, T, S), of hidden keys too; a new tensor."""
        scale = q_BHTd.shape[-1] ** -0.5 if self.scale is None else self.scale
        return self.add_biases((q_BHTd * scale) @ k_BHSd.transpose(-1, -2))

    def add_biases(self, scores: Tensor) -> Tensor:
        """In place, to the scores of the first keys."""
        if self.bias:
            scores += self.bias
        if self.key_bias is not None:
            scores += _cut(self.key_bias, -1, slice(0, scores.shape[-1])).unsqueeze(-2)
        return scores


def _cut(x: Tensor, axis: int, piece: slice) -> Tensor:
    """A piece of an axis, or all of it where it is there to be broadcast."""
    return x if x.shape[axis] == 1 else x.narrow(axis, piece.start, piece.stop - piece.start)
