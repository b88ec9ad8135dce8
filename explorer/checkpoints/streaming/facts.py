"""What a decoder is made of, and the checked reading of it from config.json and the names of the tensors."""

import re
from typing import Any, NamedTuple

import torch.nn.functional as F
from torch import Tensor

from explorer.checkpoints.headers import REAL
from explorer.checkpoints.streaming import quantised
from explorer.checkpoints.streaming.decide import Rule
from explorer.checkpoints.streaming.experts import ACTIVATIONS, Gated, Shared
from explorer.checkpoints.streaming.pieces import Matrix, Pieces
from explorer.checkpoints.weights import Weights

UNUSED = re.compile(r"(?:^|\.)(?:lm_head\.\w+|norm\.weight|rotary_emb\.inv_freq)$")
SUFFIXES = ("", "_scale_inv", "_blocks", "_scales")


class UnknownError(Exception):
    """Why a checkpoint cannot be streamed, in one sentence."""


class Routed(NamedTuple):
    """A routed block: its router's (E, D) matrix and bias by name, how it decides, its experts, and what every token gets.

    block: called with (pieces, rows, number of the expert); `matrices(e)` and `vectors()` say what it reads.
    """

    path: str
    experts: int
    router: str
    router_bias: str | None
    rule: Rule
    block: Any
    shared: tuple[Shared, ...] = ()

    @property
    def chosen(self) -> int:
        """Experts of a token."""
        return self.rule.chosen

    @property
    def score(self) -> str:
        """How probabilities are made of logits, in a word."""
        return "sigmoid" if self.rule.score == "sigmoid" else "softmax"

    def logits(self, pieces: Pieces, x_ND: Tensor) -> Tensor:
        """(N, E)."""
        bias = None if self.router_bias is None else pieces.vector(self.router_bias)
        return F.linear(x_ND, pieces.vector(self.router), bias)

    def bias(self, pieces: Pieces) -> Tensor | None:
        """What only the choice sees, (E,)."""
        return None if self.rule.bias is None else pieces.vector(self.rule.bias).flatten()

    def vectors(self) -> list[str]:
        """The small tensors."""
        own = [one for one in (self.router, self.router_bias, self.rule.bias) if one is not None]
        return [*own, *self.block.vectors(), *(name for one in self.shared for name in one.vectors())]


class Bytes(NamedTuple):
    """What a layer takes in the files: for every token, for its shared or dense blocks, and all of its experts."""

    fixed: int
    shared: int
    experts: int


class Layer(NamedTuple):
    """One layer; `norms` are those before its attention and before what comes behind it."""

    norms: tuple[str, str]
    attention: Any
    routed: Routed | None
    dense: Shared | None = None

    @property
    def always(self) -> tuple[Shared, ...]:
        """The blocks that every token goes through."""
        own = () if self.dense is None else (self.dense,)
        return own if self.routed is None else (*own, *self.routed.shared)

    def vectors(self) -> list[str]:
        """The small tensors."""
        return [*self.norms, *self.attention.vectors(), *(() if self.routed is None else self.routed.vectors())]

    def bytes(self, pieces: Pieces) -> Bytes:
        """How much there is to read."""
        small = sum(one.end - one.start for one in map(pieces.weights.tensors.__getitem__, self.vectors()))
        fixed = small + sum(map(pieces.size, self.attention.matrices()))
        shared = sum(pieces.size(matrix) for one in self.always for matrix in one.matrices())
        routed = self.routed
        experts = 0 if routed is None else routed.experts * sum(map(pieces.size, routed.block.matrices(0)))
        return Bytes(fixed, shared, experts)


class Decoder(NamedTuple):
    """A model of which all is known that decides where its tokens go.

    eps: of its norms. vocabulary: token ids are below it. longest: sequences beyond it have other positions; None: any.
    """

    layers: list[Layer]
    embedding: str
    width: int
    vocabulary: int
    eps: float
    longest: int | None


class Facts:
    """config.json and the tensors of one model. What is missing or makes no sense raises UnknownError."""

    def __init__(self, weights: Weights, config: dict[str, Any], inner: str = "") -> None:
        self.weights, self.config, self.used = weights, config, set[str]()
        base = next((one for one in (f"{inner}model.", inner) if f"{one}embed_tokens.weight" in weights), None)
        if base is None:
            raise UnknownError("the files hold no model.embed_tokens.weight")
        self.base = base
        self.width = self.whole("hidden_size")
        self.count = self.whole("num_hidden_layers")
        if self.count > 10_000:
            raise UnknownError(f"config.json says num_hidden_layers = {self.count}")

    def path(self, i: int) -> str:
        """Of a layer: model.layers.3."""
        return f"{self.base}layers.{i}"

    def has(self, name: str) -> bool:
        """Whether a tensor, packed or not, is there."""
        return name in self.weights or name + "_blocks" in self.weights

    # -- config.json -----------------------------------------------------------------------------------------------
    def whole(self, key: str, default: int | None = None, least: int = 1) -> int:
        """A whole number."""
        value = self.config.get(key)
        value = default if value is None else value
        if type(value) is not int or not least <= value < 1 << 31:
            raise UnknownError(f"config.json says {key} = {_shown(value)}, and should say a whole number from {least}")
        return value

    def number(self, key: str, default: float) -> float:
        """A finite number."""
        value = self.config.get(key)
        value = default if value is None else value
        if isinstance(value, bool) or not isinstance(value, int | float) or not abs(value) < 1e30:
            raise UnknownError(f"config.json says {key} = {_shown(value)}, and should say a number")
        return float(value)

    def flag(self, key: str, default: bool) -> bool:
        """True or false."""
        value = self.config.get(key)
        value = default if value is None else value
        if not isinstance(value, bool):
            raise UnknownError(f"config.json says {key} = {_shown(value)}, and should say true or false")
        return value

    def only(self, key: str, *allowed: Any) -> None:
        """A setting of which only some values are known; not to be there at all is one of them."""
        value = self.config.get(key)
        if value is not None and value not in allowed:
            raise UnknownError(f"{key} = {_shown(value)} in config.json is not known of this family")

    def act(self) -> str:
        """The function between the matrices of a block."""
        name = self.config.get("hidden_act") or "silu"
        if name not in ACTIVATIONS:
            raise UnknownError(f"the activation {_shown(name)} is not known")
        return str(name)

    # -- tensors ---------------------------------------------------------------------------------------------------
    def vector(self, name: str, size: int) -> str:
        """The name of a vector of so many numbers."""
        self._need(name)
        shape = self.weights.shape(name)
        if shape[-1:] != (size,) or any(n != 1 for n in shape[:-1]):
            raise UnknownError(f"{name} has the shape {list(shape)}, and config.json wants {size}")
        return name

    def matrix(self, name: str, outputs: int, inputs: int, bias: bool = False) -> Matrix:
        """A linear map `name`.weight, with `name`.bias where there should be one."""
        self.check(f"{name}.weight", (outputs, inputs))
        return Matrix(f"{name}.weight", bias=self.vector(f"{name}.bias", outputs) if bias else None)

    def check(self, name: str, shape: tuple[int, ...]) -> None:
        """Raise where a tensor is missing or of another shape."""
        self._need(name)
        found = quantised.shape(self.weights, name)
        if found != shape:
            raise UnknownError(f"{name} has the shape {list(found)}, and config.json wants {list(shape)}")

    def take(self, matrices: list[Matrix], names: list[str]) -> None:
        """These are there, and are used."""
        for name in (*(one.name for one in matrices), *(one.bias for one in matrices if one.bias is not None), *names):
            self._need(name)

    def gated(
        self, path: str, inner: int, names: tuple[str, str, str] = ("gate_proj", "up_proj", "down_proj")
    ) -> Gated:
        """A block of three matrices."""
        gate, up = (self.matrix(f"{path}.{one}", inner, self.width) for one in names[:2])
        return Gated(gate, up, self.matrix(f"{path}.{names[2]}", self.width, inner), self.act())

    def experts(self, path: str, count: int, inner: int) -> Gated:
        """The experts of a routed block: one by one as the hub has them, or together as newer versions can save them."""
        if self.has(f"{path}.experts.gate_up_proj"):
            both, down = f"{path}.experts.gate_up_proj", f"{path}.experts.down_proj"
            self.check(both, (count, 2 * inner, self.width))
            self.check(down, (count, self.width, inner))
            return Gated(
                Matrix(both, rows=inner), Matrix(both, first=inner, rows=inner), Matrix(down), self.act(), True
            )
        names = (
            ("w1", "w3", "w2")
            if f"{path}.experts.0.w1.weight" in self.weights
            else ("gate_proj", "up_proj", "down_proj")
        )
        for e in range(count):
            self.gated(f"{path}.experts.{e}", inner, names)
        first, second, last = (Matrix(f"{path}.experts.{{e}}.{one}.weight") for one in names)
        return Gated(first, second, last, self.act())

    def leftover(self) -> str | None:
        """A tensor that nothing here uses, and that is no part of what is left out on purpose."""
        spare = {name + suffix for name in self.used for suffix in SUFFIXES}
        layer = re.compile(re.escape(self.base) + r"layers\.(\d+)\.")
        for name in self.weights.tensors:
            if name in spare or UNUSED.search(name):
                continue
            found = layer.match(name)
            if found is None or int(found[1]) < self.count:
                return name
        return None

    def _need(self, name: str) -> None:
        if not self.has(name):
            raise UnknownError(f"the files hold no {name}")
        self.used.add(name)
        if name in self.weights and self.weights.tensors[name].dtype not in REAL:
            raise UnknownError(f"{name} is stored as {self.weights.tensors[name].dtype}")


def _shown(value: object) -> str:
    return repr(value) if len(repr(value)) <= 40 else repr(value)[:39] + "…"
