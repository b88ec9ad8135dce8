"""gpt-oss: attention with learned sinks, every other layer through a window, and experts with biases and a bounded gate.

The experts' weights are MXFP4 as they are published, or float with inputs before outputs as transformers saves them.
"""

from typing import NamedTuple

from torch import Tensor

from explorer.checkpoints.streaming.attention import Spans, Watch, attend
from explorer.checkpoints.streaming.decide import Rule
from explorer.checkpoints.streaming.facts import Facts, Layer, Routed, UnknownError
from explorer.checkpoints.streaming.pieces import Matrix, Pieces
from explorer.checkpoints.streaming.positions import Rotation, rotation
from explorer.checkpoints.streaming.rows import Rows

THETA = 150_000.0  # where the configuration says nothing
YARN = {
    "rope_type": "yarn", "factor": 32.0, "beta_fast": 32.0, "beta_slow": 1.0, "truncate": False,
    "original_max_position_embeddings": 4096,
}  # fmt: skip
KINDS = ("sliding_attention", "full_attention")


class WithSinks(NamedTuple):
    """One layer. groups: heads of keys and values; window: how many keys a query sees, its own the last; None: all."""

    path: str
    heads: int
    groups: int
    biased: bool
    turn: Rotation
    window: int | None

    def matrices(self) -> list[Matrix]:
        """In the order in which they are used."""
        names = [f"{self.path}.{one}_proj" for one in "qkvo"]
        return [Matrix(f"{name}.weight", bias=f"{name}.bias" if self.biased else None) for name in names]

    def vectors(self) -> list[str]:
        """Sinks and biases."""
        return [f"{self.path}.sinks", *(one.bias for one in self.matrices() if one.bias is not None)]

    def __call__(self, pieces: Pieces, x: Rows, spans: Spans, watch: Watch | None) -> Rows:
        *projections, out = self.matrices()
        q, k, v = (pieces.linear(x, one) for one in projections)
        sink_H = pieces.vector(f"{self.path}.sinks")
        y = attend(
            q, k, v, spans, self.heads, self.groups, window=self.window, sink_H=sink_H, turn=self.turn, watch=watch
        )
        return pieces.linear(y, out)


class Clamped(NamedTuple):
    """The experts of a layer, at `path` ("model.layers.3.mlp.experts")."""

    path: str
    alpha: float
    limit: float

    def matrices(self, e: int = 0) -> list[Matrix]:
        """Of one expert, in the order in which they are used."""
        names = [f"{self.path}.{one}_proj" for one in ("gate_up", "down")]
        return [Matrix(name, expert=e, transposed=True, bias=f"{name}_bias") for name in names]

    def vectors(self) -> list[str]:
        """Biases, of all experts together."""
        return [f"{self.path}.gate_up_proj_bias", f"{self.path}.down_proj_bias"]

    def __call__(self, pieces: Pieces, x: Rows, e: int = 0) -> Rows:
        both, down = self.matrices(e)
        inner = pieces.linear(x, both)
        return pieces.linear(inner.map(self._gated, inner.width // 2), down)

    def _gated(self, both: Tensor) -> Tensor:
        """Columns of the gate and of what it lets through come in turn."""
        gate, up = both[:, ::2].clamp(max=self.limit), both[:, 1::2].clamp(-self.limit, self.limit)
        return (up + 1) * (gate * (gate * self.alpha).sigmoid())


def attention(facts: Facts, i: int) -> WithSinks:
    """Of a layer."""
    path, D, H = f"{facts.path(i)}.self_attn", facts.width, facts.whole("num_attention_heads")
    G, d = facts.whole("num_key_value_heads", H), facts.whole("head_dim", 64)
    config = facts.config
    if config.get("rope_scaling") is None and config.get("rope_parameters") is None:
        config = config | {"rope_parameters": YARN}
    turn = rotation(config, d, THETA)
    if isinstance(turn, str):
        raise UnknownError(turn)
    if H % G:
        raise UnknownError(f"{H} heads do not share {G} heads of keys and values evenly")
    biased = facts.flag("attention_bias", True)
    for name, n in (("q", H), ("k", G), ("v", G)):
        facts.matrix(f"{path}.{name}_proj", n * d, D, biased)
    facts.matrix(f"{path}.o_proj", D, H * d, biased)
    facts.vector(f"{path}.sinks", H)
    return WithSinks(path, H, G, biased, turn, _window(facts, i))


def _window(facts: Facts, i: int) -> int | None:
    """Every other layer from the first on, where the configuration does not say which."""
    kinds = facts.config.get("layer_types")
    kinds = [KINDS[j % 2] for j in range(facts.count)] if kinds is None else kinds
    if not isinstance(kinds, list) or len(kinds) < facts.count or kinds[i] not in KINDS:
        raise UnknownError("layer_types in config.json does not say full or sliding attention for each layer")
    return None if kinds[i] == KINDS[1] else facts.whole("sliding_window", 128)


def experts(facts: Facts, i: int, count: int) -> Clamped:
    """Of a layer."""
    alpha, limit = facts.number("swiglu_alpha", 1.702), facts.number("swiglu_limit", 7.0)
    if limit <= 0:
        raise UnknownError(f"config.json says swiglu_limit = {limit:g}, which should be above 0")
    made = Clamped(f"{facts.path(i)}.mlp.experts", alpha, limit)
    inner = facts.whole("intermediate_size")
    for matrix, outputs, inputs in zip(made.matrices(), (2 * inner, facts.width), (facts.width, inner), strict=True):
        stored = (inputs, outputs) if matrix.name in facts.weights else (outputs, inputs)
        facts.check(matrix.name, (count, *stored))
        facts.check(f"{matrix.name}_bias", (count, outputs))
    return made


def gpt_oss(facts: Facts) -> tuple[list[Layer], float]:
    """gpt-oss (arXiv:2508.10925): the router has a bias, the weights are a softmax over the chosen alone."""
    E, K = facts.whole("num_local_experts"), facts.whole("num_experts_per_tok")
    if K > E:
        raise UnknownError(f"config.json wants {K} experts for each token, and says there are only {E}")
    layers = []
    for i in range(facts.count):
        path, D = facts.path(i), facts.width
        first, second = (facts.vector(f"{path}.{n}_layernorm.weight", D) for n in ("input", "post_attention"))
        router = facts.matrix(f"{path}.mlp.router", E, D, bias=True)
        block = experts(facts, i, E)
        routed = Routed(f"{path}.mlp", E, router.name, router.bias, Rule(K, "chosen"), block)
        layers.append(Layer((first, second), attention(facts, i), routed))
    return layers, 1e-5
