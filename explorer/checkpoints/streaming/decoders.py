"""Which models can be streamed, by the `model_type` of config.json: a function for each family says what its layers are.

Read off transformers 5.23 and compared with it. What the configuration says and nobody here has tested is a reason not to.
"""

import re
from collections.abc import Callable
from typing import Any

from explorer.checkpoints.streaming import quantised
from explorer.checkpoints.streaming.attention import Standard
from explorer.checkpoints.streaming.decide import Rule
from explorer.checkpoints.streaming.experts import Shared
from explorer.checkpoints.streaming.facts import Decoder, Facts, Layer, Routed, UnknownError
from explorer.checkpoints.streaming.gpt_oss import gpt_oss
from explorer.checkpoints.streaming.mla import deepseek_v2, deepseek_v3
from explorer.checkpoints.streaming.positions import Rotation, rotation
from explorer.checkpoints.weights import Weights

__all__ = ["FAMILIES", "Decoder", "Layer", "Routed", "recognise"]

# settings of other families that change the mathematics; set to something in one that does not know them, they are a reason
FOREIGN = re.compile(
    "softcap|multiplier|alibi|parallel|residual|rescale|scoring_func|n_group|topk_group|topk_method|sinks|chunk_size|"
    "mlp_bias|use_bias|qk_norm|qk_layernorm|first_k_dense|n_shared|routed_scaling|query_pre_attn|attn_scale|local_attention"
)


def recognise(weights: Weights) -> Decoder | str:
    """The decoder of a checkpoint, or one sentence why it cannot be streamed."""
    config = weights.config or {}
    kind = config.get("model_type")
    family = FAMILIES.get(kind) if isinstance(kind, str) else None
    if family is None:
        told = f"of the kind {str(kind)[:60]!r}" if kind else "that does not say its model_type"
        return f"a model {told} is not one of those that can be streamed ({', '.join(FAMILIES)})"
    try:
        return _decoder(weights, config, family)
    except UnknownError as error:
        return str(error)


def _decoder(weights: Weights, config: dict[str, Any], family: "Family") -> Decoder:
    refused = quantised.refusal(weights, config)
    if refused:
        raise UnknownError(refused)
    facts = Facts(weights, config)
    made, eps = family(facts)
    embedding = f"{facts.base}embed_tokens.weight"
    facts.check(embedding, (facts.whole("vocab_size", weights.shape(embedding)[0]), facts.width))
    for layer in made:
        facts.take(layer.attention.matrices(), layer.vectors())
    spare = facts.leftover()
    if spare is not None:
        raise UnknownError(f"the files hold {spare}, for which this family has no use")
    turns = [getattr(layer.attention, "turn", None) for layer in made]
    limits = [one.longest for one in turns if isinstance(one, Rotation) and one.longest is not None]
    return Decoder(
        made,
        embedding,
        facts.width,
        weights.shape(embedding)[0],
        facts.number("rms_norm_eps", eps),
        min(limits, default=None),
    )


Family = Callable[[Facts], tuple[list[Layer], float]]


def _foreign(facts: Facts, *known: str) -> None:
    """Raise for a setting that this family does not have."""
    for key, value in facts.config.items():
        if (
            FOREIGN.search(key)
            and key not in (*known, "chunk_size_feed_forward")
            and value not in (None, False, 0, 1, 1.0)
        ):
            facts.only(key)


def _attention(
    facts: Facts,
    i: int,
    base: float,
    normed: str = "",
    biased: str = "",
    clip: float | None = None,
    window: int | None = None,
) -> Standard:
    """biased: those of "qkvo" that have a bias."""
    path, D = f"{facts.path(i)}.self_attn", facts.width
    H = facts.whole("num_attention_heads")
    G = facts.whole("num_key_value_heads", H)
    d = facts.whole("head_dim", D // H)
    if H % G or d % 2:
        raise UnknownError(f"{H} heads of {d} channels do not share {G} keys evenly, or cannot be rotated")
    turn = rotation(facts.config, d, base)
    if isinstance(turn, str):
        raise UnknownError(turn)
    eps = facts.number("rms_norm_eps", 1e-5 if normed == "all" else 1e-6)
    q, k, v = (facts.matrix(f"{path}.{n}_proj", size * d, D, n in biased) for n, size in (("q", H), ("k", G), ("v", G)))
    o = facts.matrix(f"{path}.o_proj", D, H * d, "o" in biased)
    made = Standard(path, H, G, q, k, v, o, turn, eps, normed, clip, window)
    for name, size in zip(made.vectors(), (d, d) if normed == "head" else (H * d, G * d), strict=False):
        facts.vector(name, size)
    return made


def _norms(facts: Facts, i: int) -> tuple[str, str]:
    path = facts.path(i)
    first, second = (facts.vector(f"{path}.{one}_layernorm.weight", facts.width) for one in ("input", "post_attention"))
    return first, second


def _routed(facts: Facts, path: str, inner: int, experts: int, rule: Rule, shared: tuple[Shared, ...] = ()) -> Routed:
    if rule.chosen > experts:
        raise UnknownError(f"config.json wants {rule.chosen} experts for each token, and says there are only {experts}")
    facts.check(f"{path}.gate.weight", (experts, facts.width))
    return Routed(path, experts, f"{path}.gate.weight", None, rule, facts.experts(path, experts, inner), shared)


def _count(facts: Facts, default: int) -> int:
    """Experts: two names are in use for one setting."""
    found = {
        facts.config[key] for key in ("num_experts", "num_local_experts") if isinstance(facts.config.get(key), int)
    }
    if len(found) > 1:
        raise UnknownError("config.json says two different numbers of experts")
    return facts.whole("num_local_experts", facts.whole("num_experts", default))


def mixtral(facts: Facts) -> tuple[list[Layer], float]:
    """Mixtral (arXiv 2401.04088): every layer routes, the weights of the chosen are divided by their sum."""
    _foreign(facts)
    window = facts.whole("sliding_window") if facts.config.get("sliding_window") is not None else None
    rule = Rule(facts.whole("num_experts_per_tok", 2), norm=True)
    layers = []
    for i in range(facts.count):
        path = f"{facts.path(i)}.block_sparse_moe"
        if not facts.has(f"{path}.gate.weight"):
            path = f"{facts.path(i)}.mlp"
        routed = _routed(facts, path, facts.whole("intermediate_size", 14336), _count(facts, 8), rule)
        layers.append(Layer(_norms(facts, i), _attention(facts, i, 1e6, window=window), routed))
    return layers, 1e-5


def olmoe(facts: Facts) -> tuple[list[Layer], float]:
    """OLMoE (arXiv 2409.02060): queries and keys are normed over all heads together, and may be clipped."""
    _foreign(facts)
    facts.only("sliding_window")
    clip = None if facts.config.get("clip_qkv") is None else facts.number("clip_qkv", 0.0)
    biased = "qkvo" if facts.flag("attention_bias", False) else ""
    rule = Rule(facts.whole("num_experts_per_tok", 8), norm=facts.flag("norm_topk_prob", False))
    layers = []
    for i in range(facts.count):
        inner = facts.whole("intermediate_size", 2048)
        routed = _routed(facts, f"{facts.path(i)}.mlp", inner, _count(facts, 64), rule)
        layers.append(Layer(_norms(facts, i), _attention(facts, i, 1e4, "all", biased, clip), routed))
    return layers, 1e-5


def qwen2_moe(facts: Facts) -> tuple[list[Layer], float]:
    """Qwen 1.5 and 2 MoE (arXiv 2407.10671): a shared expert behind a sigmoid gate, biases of queries, keys and values."""
    _foreign(facts)
    biased = "qkv" if facts.flag("qkv_bias", True) else ""
    windows = _windows(facts)
    shared = facts.whole("shared_expert_intermediate_size", 5632)
    layers = []
    for i in range(facts.count):
        attention = _attention(facts, i, 1e4, biased=biased, window=windows[i])
        layers.append(_qwen(facts, i, attention, shared, chosen=4, experts=60))
    return layers, 1e-6


def qwen3_moe(facts: Facts) -> tuple[list[Layer], float]:
    """Qwen3 MoE (arXiv 2505.09388): queries and keys are normed head by head; no shared expert."""
    _foreign(facts)
    biased = "qkvo" if facts.flag("attention_bias", False) else ""
    window = facts.whole("sliding_window", 4096) if facts.flag("use_sliding_window", False) else None
    layers = []
    for i in range(facts.count):
        attention = _attention(facts, i, 1e4, "head", biased, window=window)
        layers.append(_qwen(facts, i, attention, 0, chosen=8, experts=128))
    return layers, 1e-6


def _qwen(facts: Facts, i: int, attention: Standard, shared: int, chosen: int, experts: int) -> Layer:
    """A layer that routes or not; `chosen` and `experts` are what is meant where the configuration is silent."""
    path, dense = f"{facts.path(i)}.mlp", facts.config.get("mlp_only_layers") or []
    if not isinstance(dense, list):
        raise UnknownError("mlp_only_layers in config.json is not a list")
    if i in dense or (i + 1) % facts.whole("decoder_sparse_step", 1):
        block = facts.gated(path, facts.whole("intermediate_size"))
        return Layer(_norms(facts, i), attention, None, Shared("mlp", block))
    rule = Rule(facts.whole("num_experts_per_tok", chosen), norm=facts.flag("norm_topk_prob", False))
    always: tuple[Shared, ...] = ()
    if shared:
        gate = facts.vector(f"{path}.shared_expert_gate.weight", facts.width)
        always = (Shared("shared_expert", facts.gated(f"{path}.shared_expert", shared), gate),)
    inner = facts.whole("moe_intermediate_size", 1408 if shared else 768)
    return Layer(_norms(facts, i), attention, _routed(facts, path, inner, _count(facts, experts), rule, always))


def _windows(facts: Facts) -> list[int | None]:
    """Of each layer, how many keys a query sees; None: all before it."""
    sliding = facts.flag("use_sliding_window", False)
    most = facts.whole("max_window_layers", 28, least=0)
    kinds = facts.config.get("layer_types")
    if kinds is None:
        kinds = [
            "sliding_attention" if i % 2 == 0 and i < most and sliding else "full_attention" for i in range(facts.count)
        ]
    if not isinstance(kinds, list) or len(kinds) < facts.count or {*kinds} - {"sliding_attention", "full_attention"}:
        raise UnknownError("layer_types in config.json does not say full or sliding attention for each layer")
    if "sliding_attention" in kinds and not sliding:
        raise UnknownError("layer_types in config.json asks for sliding attention, and use_sliding_window for none")
    return [
        facts.whole("sliding_window", 4096) if kind == "sliding_attention" else None for kind in kinds[: facts.count]
    ]


FAMILIES: dict[str, Family] = {
    "mixtral": mixtral, "olmoe": olmoe, "qwen2_moe": qwen2_moe, "qwen3_moe": qwen3_moe, "deepseek_v2": deepseek_v2,
    "deepseek_v3": deepseek_v3, "kimi_k2": deepseek_v3, "gpt_oss": gpt_oss,
}  # fmt: skip
