"""DeepSeek 2, DeepSeek 3 and Kimi K2: multi-head latent attention (arXiv:2405.04434), and how their layers route.

A token's keys and values are made of one vector of `rank` numbers, and of a key that all heads share and that alone is
rotated. The heads are worked on some at a time: all of DeepSeek 3 would take 400 KB a token.
"""

from collections.abc import Iterator
from typing import NamedTuple

import torch

from explorer.checkpoints.streaming.attention import Spans, Watch, attend, rms
from explorer.checkpoints.streaming.decide import Rule
from explorer.checkpoints.streaming.experts import Shared
from explorer.checkpoints.streaming.facts import Facts, Layer, Routed, UnknownError
from explorer.checkpoints.streaming.pieces import Matrix, Pieces
from explorer.checkpoints.streaming.positions import Rotation, rotation
from explorer.checkpoints.streaming.rows import Rows

SIZES = ("kv_lora_rank", "qk_nope_head_dim", "qk_rope_head_dim", "v_head_dim")
EPS = 1e-6  # of the norms within attention, whatever `rms_norm_eps` is
TOGETHER = 16  # heads
STEP = 256  # tokens that are rotated together


class Latent(NamedTuple):
    """One layer. rank: numbers that keys and values are made of. low: those that queries are made of; 0: of the token itself.

    plain, turned: channels of a query that are not rotated, and that are. wide: channels of a value.
    """

    path: str
    heads: int
    rank: int
    plain: int
    turned: int
    wide: int
    low: int
    biased: bool
    turn: Rotation
    interleaved: bool

    def matrices(self) -> list[Matrix]:
        """In the order in which they are used."""
        begin = [self._map(one) for one in (["q_a_proj"] if self.low else []) + ["kv_a_proj_with_mqa"]]
        parts = [one for first, n in self._parts() for one in (self._queries(first, n), self._pairs(first, n))]
        return [*begin, *parts, self._map("o_proj")]

    def norms(self) -> list[str]:
        """Their weights."""
        return [f"{self.path}.{one}_a_layernorm.weight" for one in (["kv", "q"] if self.low else ["kv"])]

    def vectors(self) -> list[str]:
        """Norms and biases."""
        return self.norms() + [one.bias for one in self.matrices() if one.bias is not None]

    def __call__(self, pieces: Pieces, x: Rows, spans: Spans, watch: Watch | None) -> Rows:
        queries = self._normed(pieces, pieces.linear(x, self._map("q_a_proj")), "q", self.low) if self.low else x
        both = pieces.linear(x, self._map("kv_a_proj_with_mqa"))
        latent = self._normed(pieces, both, "kv", self.rank)
        key = both.map(lambda part: part[:, self.rank :], self.turned)
        self._rotate(key, spans, 0)
        y = Rows(x.n, self.heads * self.wide)
        for first, n in self._parts():
            q = pieces.linear(queries, self._queries(first, n))
            self._rotate(q, spans, self.plain)
            k, v = self._apart(pieces.linear(latent, self._pairs(first, n)), key)
            part = attend(q, k, v, spans, n, n, scale=self.scale, watch=watch, first_head=first)
            for wave in y.waves():
                y[wave, first * self.wide : (first + n) * self.wide] = part[wave]
                part.rest()
        return pieces.linear(y, self._map("o_proj"))

    @property
    def scale(self) -> float:
        """Of the scores."""
        return float((self.plain + self.turned) ** -0.5 * self.turn.sharper)

    def _parts(self) -> Iterator[tuple[int, int]]:
        """(first, how many) of the heads that are worked on together."""
        for first in range(0, self.heads, TOGETHER):
            yield first, min(TOGETHER, self.heads - first)

    def _map(self, name: str) -> Matrix:
        return Matrix(f"{self.path}.{name}.weight", bias=f"{self.path}.{name}.bias" if self.biased else None)

    def _queries(self, first: int, n: int) -> Matrix:
        name, each = "q_b_proj" if self.low else "q_proj", self.plain + self.turned
        return Matrix(f"{self.path}.{name}.weight", first=first * each, rows=n * each)

    def _pairs(self, first: int, n: int) -> Matrix:
        """Keys without their rotated part, and values."""
        each = self.plain + self.wide
        return Matrix(f"{self.path}.kv_b_proj.weight", first=first * each, rows=n * each)

    def _normed(self, pieces: Pieces, x: Rows, name: str, width: int) -> Rows:
        weight = pieces.vector(f"{self.path}.{name}_a_layernorm.weight")
        return x.map(lambda part: rms(part[:, :width], weight, EPS), width)

    def _rotate(self, x: Rows, spans: Spans, plain: int) -> None:
        """In place: of each head of (N, heads (plain + turned)) the last channels."""
        for start, end in spans:
            for at in range(start, end, STEP):
                part_THd = x[at : min(at + STEP, end)].view(-1, x.width // (plain + self.turned), plain + self.turned)
                part_THd[..., plain:] = self.turn.turn(part_THd[..., plain:], at - start, self.interleaved)
                x.rest()

    def _apart(self, pairs: Rows, key: Rows) -> tuple[Rows, Rows]:
        """Keys, to which the one that all heads share is joined, and values, (N, heads x channels) each."""
        n = pairs.width // (self.plain + self.wide)
        k, v = Rows(pairs.n, n * (self.plain + self.turned)), Rows(pairs.n, n * self.wide)
        for wave in pairs.waves(k.width):
            part_THd = pairs[wave].view(-1, n, self.plain + self.wide)
            shared_THd = key[wave][:, None].expand(-1, n, -1)
            k[wave] = torch.cat([part_THd[..., : self.plain], shared_THd], -1).flatten(1)
            v[wave] = part_THd[..., self.plain :].flatten(1)
            for one in (k, v, key):
                one.rest()
        return k, v


def attention(facts: Facts, i: int) -> Latent:
    """Of a layer."""
    path, D, H = f"{facts.path(i)}.self_attn", facts.width, facts.whole("num_attention_heads")
    rank, plain, turned, wide = map(facts.whole, SIZES)
    facts.only("num_key_value_heads", H)
    turn = rotation(facts.config, turned)
    if isinstance(turn, str):
        raise UnknownError(turn)
    low = facts.whole("q_lora_rank") if facts.config.get("q_lora_rank") is not None else 0
    interleaved = facts.config.get("model_type") == "deepseek_v2" or facts.flag("rope_interleave", True)
    made = Latent(path, H, rank, plain, turned, wide, low, facts.flag("attention_bias", False), turn, interleaved)
    shapes = {"kv_a_proj_with_mqa": (rank + turned, D), "o_proj": (D, H * wide)}
    shapes |= {"q_a_proj": (low, D)} if low else {}
    for name, size in shapes.items():
        facts.matrix(f"{path}.{name}", *size, bias=made.biased)
    facts.matrix(f"{path}.kv_b_proj", H * (plain + wide), rank)
    facts.matrix(f"{path}.{'q_b_proj' if low else 'q_proj'}", H * (plain + turned), low or D)
    for name, numbers in zip(made.norms(), (rank, low), strict=False):
        facts.vector(name, numbers)
    return made


def deepseek_v3(facts: Facts) -> tuple[list[Layer], float]:
    """DeepSeek 3 (arXiv:2412.19437) and Kimi K2 (arXiv:2507.20534): sigmoid scores, a bias for the choice, groups."""
    facts.only("scoring_func", "sigmoid")
    facts.only("topk_method", "noaux_tc")
    rule = Rule(
        facts.whole("num_experts_per_tok", 8), "sigmoid", norm=facts.flag("norm_topk_prob", True),
        groups=facts.whole("n_group", 8), kept=facts.whole("topk_group", 4), best=2,
        scale=facts.number("routed_scaling_factor", 2.5), sort=False,
    )  # fmt: skip
    return [_layer(facts, i, rule, facts.whole("n_routed_experts", 256), 1, 3) for i in range(facts.count)], 1e-6


def deepseek_v2(facts: Facts) -> tuple[list[Layer], float]:
    """DeepSeek 2 (arXiv:2405.04434): softmax over all experts, of the groups of the best expert; nothing is renormalised."""
    facts.only("scoring_func", "softmax")
    facts.only("topk_method", "greedy", "group_limited_greedy")
    facts.only("norm_topk_prob", False)
    facts.only("mlp_bias", False)
    rule = Rule(facts.whole("num_experts_per_tok"), scale=facts.number("routed_scaling_factor", 1.0), sort=False)
    if facts.config.get("topk_method") == "group_limited_greedy":
        rule = rule._replace(groups=facts.whole("n_group"), kept=facts.whole("topk_group"), best=1)
    return [_layer(facts, i, rule, facts.whole("n_routed_experts", 64), 2, 0) for i in range(facts.count)], 1e-6


def _layer(facts: Facts, i: int, rule: Rule, experts: int, shared: int, dense: int) -> Layer:
    """shared, dense: how many shared experts, and first layers that do not route, where the configuration is silent."""
    facts.only("moe_layer_freq", 1)
    path, D = f"{facts.path(i)}.mlp", facts.width
    first, second = (facts.vector(f"{facts.path(i)}.{n}_layernorm.weight", D) for n in ("input", "post_attention"))
    if i < facts.whole("first_k_dense_replace", dense, least=0):
        block = Shared("mlp", facts.gated(path, facts.whole("intermediate_size")))
        return Layer((first, second), attention(facts, i), None, block)
    inner = facts.whole("moe_intermediate_size")
    always = facts.gated(f"{path}.shared_experts", inner * facts.whole("n_shared_experts", shared))
    facts.check(f"{path}.gate.weight", (experts, D))
    if rule.score == "sigmoid":
        rule = rule._replace(bias=facts.vector(f"{path}.gate.e_score_correction_bias", experts))
    _fits(rule, experts)
    block_of = facts.experts(path, experts, inner)
    routed = Routed(path, experts, f"{path}.gate.weight", None, rule, block_of, (Shared("shared_experts", always),))
    return Layer((first, second), attention(facts, i), routed)


def _fits(rule: Rule, experts: int) -> None:
    """Raise where the groups do not come out even, or hold fewer experts than are chosen."""
    in_group, rest = divmod(experts, rule.groups)
    if rest or rule.kept > rule.groups or (rule.groups > 1 and in_group < rule.best):
        raise UnknownError(f"{experts} experts in {rule.groups} groups, the best {rule.kept} of them kept, cannot be")
    if rule.chosen > in_group * (rule.kept if rule.groups > 1 else 1):
        raise UnknownError(f"config.json wants {rule.chosen} experts for each token, and leaves fewer to choose from")
