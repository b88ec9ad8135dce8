"""Feed-forward blocks: down(act(gate(x)) * up(x)), of an expert, of a shared one, or of a dense layer."""

from collections.abc import Callable
from typing import NamedTuple

import torch.nn.functional as F
from torch import Tensor

from explorer.checkpoints.streaming.pieces import Matrix, Pieces
from explorer.checkpoints.streaming.rows import Rows

ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "silu": F.silu,
    "swish": F.silu,
    "gelu": F.gelu,
    "gelu_pytorch_tanh": lambda x: F.gelu(x, approximate="tanh"),
    "gelu_new": lambda x: F.gelu(x, approximate="tanh"),
    "relu": F.relu,
}  # names as transformers has them


class Gated(NamedTuple):
    """gate, up, down: where the matrices lie; "{e}" in a name stands for the number of the expert.

    fused: the three are parts of tensors with an axis for the experts.
    """

    gate: Matrix
    up: Matrix
    down: Matrix
    act: str
    fused: bool = False

    def matrices(self, e: int = 0) -> list[Matrix]:
        """Of one expert, in the order in which they are used."""
        expert = e if self.fused else None
        return [one._replace(name=one.name.replace("{e}", str(e)), expert=expert) for one in self[:3]]

    def vectors(self) -> list[str]:
        """None."""
        return []

    def __call__(self, pieces: Pieces, x: Rows, e: int = 0) -> Rows:
        gate, up, down = self.matrices(e)
        inner = pieces.linear(x, gate).map(ACTIVATIONS[self.act])
        inner.times(pieces.linear(x, up))
        return pieces.linear(inner, down)


class Shared(NamedTuple):
    """An expert that every token gets, or a whole dense block.

    gate: the name of a vector (1, D) whose product with a token, through a sigmoid, weighs it.
    """

    name: str
    block: Gated
    gate: str | None = None

    def matrices(self) -> list[Matrix]:
        """In the order in which they are used."""
        return self.block.matrices()

    def vectors(self) -> list[str]:
        """The gate, where there is one."""
        return [] if self.gate is None else [self.gate]

    def __call__(self, pieces: Pieces, x: Rows) -> Rows:
        y = self.block(pieces, x)
        if self.gate is not None:
            gate = pieces.vector(self.gate)
            y.times(x.map(lambda part: F.linear(part, gate).sigmoid(), 1))
        return y
