"""Every router class of transformers that is known by name: how it scores, and how to read what it returns.

A row is one name under its score. Most routers return (logits, weights, index), each a row a token; `triple` reads that, and
the decision is taken from what the experts are then given, which is final. The others have a reader of their own.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from explorer.errors import RecordingError


class Decision(NamedTuple):
    """What a router decided for N tokens; -1 in `chosen`: the slot is empty."""

    scores: Tensor | None  # (N, E), what it ranked by, before softmax or sigmoid (Gemma 4: after)
    weights: Tensor | None  # (N, K)
    chosen: Tensor | None  # (N, K)


Read = Callable[[nn.Module, Any], Decision]


def triple(_: nn.Module, output: Any) -> Decision:
    """(logits, weights, index), told apart by type and width, as the order has changed between versions.

    The logits may be missing, or all; gpt-oss of version 4 returns the weights as N E, 0 where not chosen.
    """
    if isinstance(output, Tensor):
        return Decision(output, None, None)
    parts = [part for part in output if isinstance(part, Tensor) and part.ndim == 2]
    index_NK = next(part for part in parts if not part.is_floating_point())
    floats = [part for part in parts if part.is_floating_point()]
    weights_NK = next((part for part in floats[::-1] if part.shape == index_NK.shape), None)
    if weights_NK is None and len(floats) == 1:
        return Decision(None, floats[0].gather(1, index_NK), index_NK)
    return Decision(next((part for part in floats if part is not weights_NK), None), weights_NK, index_NK)


def top_k(block: Any, output: Any) -> Decision:
    """A plain linear gate of version 4, whose block makes the decision of its logits."""
    weights_NK, index_NK = BLOCKS[type(block).__name__](block, output)
    return Decision(output, weights_NK, index_NK)


def best(block: Any, logits_NE: Tensor) -> tuple[Tensor, Tensor]:
    """The k best after a softmax; their share of the sum where the block's settings say so."""
    weights_NK, index_NK = logits_NE.softmax(-1, dtype=torch.float32).topk(block.top_k, dim=-1)
    return (shares(weights_NK) if getattr(block, "norm_topk_prob", False) else weights_NK), index_NK


def best_shares(block: Any, logits_NE: Tensor) -> tuple[Tensor, Tensor]:
    """The k best after a softmax, always as shares of their sum."""
    weights_NK, index_NK = logits_NE.softmax(-1, dtype=torch.float32).topk(block.top_k, dim=-1)
    return shares(weights_NK), index_NK


def shares(weights_NK: Tensor) -> Tensor:
    """Weights as shares of their sum."""
    return weights_NK / weights_NK.sum(-1, keepdim=True)


def aria(block: Any, logits_NE: Tensor) -> tuple[Tensor, Tensor]:
    """A softmax over the k best."""
    best_NK, index_NK = logits_NE.topk(block.config.moe_topk, dim=-1)
    return best_NK.softmax(-1), index_NK


def ernie(block: Any, logits_NE: Tensor) -> tuple[Tensor, Tensor]:
    """A bias has a say in the choice alone; the sum that weights are shares of has a floor."""
    probs_NE = logits_NE.softmax(-1, dtype=torch.float32)
    index_NK = (probs_NE + block.moe_statics.e_score_correction_bias.squeeze()).topk(block.top_k, dim=-1).indices
    weights_NK = probs_NE.gather(-1, index_NK)
    return weights_NK / weights_NK.sum(-1, keepdim=True).clamp(min=block.norm_min), index_NK


def phimoe(block: Any, logits_NE: Tensor) -> tuple[Tensor, Tensor]:
    """Twice a softmax over the experts near the best; the second expert's weight is of its own softmax."""
    if block.training:
        raise RecordingError(
            "PhimoeSparseMoeBlock of transformers 4 draws its experts in training, and tells nobody which: record it in "
            "evaluation mode, or with transformers from 5"
        )
    rest_NE, parts = logits_NE, []
    for _ in range(2):
        top_N1, index_N1 = rest_NE.max(-1, keepdim=True)
        far_NE = (top_N1 - logits_NE) / logits_NE.abs().clamp(min=top_N1) > 2 * block.router_jitter_noise
        parts.append((rest_NE.masked_fill(far_NE, -torch.inf).softmax(-1).gather(-1, index_N1), index_N1))
        rest_NE = rest_NE.scatter(-1, index_N1, -torch.inf)
    return torch.cat([one for one, _ in parts], -1), torch.cat([one for _, one in parts], -1)


def hunyuan(router: Any, output: Any) -> Decision:
    """As a triple; of version 4 the logits alone."""
    if not isinstance(output, Tensor):
        return triple(router, output)
    wanted = router.config.moe_topk
    k = wanted if isinstance(wanted, int) else wanted[router.layer_idx]
    weights_NK, index_NK = output.softmax(-1, dtype=torch.float32).topk(k, dim=-1)
    return Decision(output, weights_NK / weights_NK.sum(-1, keepdim=True), index_NK)


def llama4(router: Any, output: Any) -> Decision:
    """(sigmoid scores, 0 where not chosen; logits)."""
    weights_NE, logits_NE = output
    index_NK = logits_NE.topk(router.top_k, dim=1).indices
    return Decision(logits_NE, weights_NE.gather(1, index_NK), index_NK)


def switch(_: nn.Module, output: Any) -> Decision:
    """(one-hot without the tokens a full expert refused, the largest probability, logits), each B T and more."""
    chosen_BTE, weight_BT1, logits_BTE = output
    chosen_NE = chosen_BTE.flatten(0, 1)
    index_N1 = chosen_NE.argmax(-1, keepdim=True).where(chosen_NE.sum(-1, keepdim=True) > 0, -1)
    return Decision(logits_BTE.flatten(0, 1), weight_BT1.reshape(-1, 1) * (index_N1 >= 0), index_N1)


def nllb(_: nn.Module, output: Any) -> Decision:
    """(one-hot of the first choice, weights of both after full experts refused, in version 5 logits)."""
    weights_N2, index_N2 = output[1].topk(2, dim=-1)
    logits_NE = output[2].reshape(output[1].shape) if len(output) > 2 else None
    return Decision(logits_NE, weights_N2, index_N2.where(weights_N2 > 0, -1))


def sorted_by_expert(router: Any, output: Any) -> Decision:
    """Assignments sorted by expert: put back in the order of the tokens."""
    order, _, gates, sizes, logits_NE = output
    experts = torch.arange(len(sizes), device=order.device).repeat_interleave(torch.tensor(sizes, device=order.device))
    index, weights = torch.empty_like(order), torch.empty_like(gates)
    index[order], weights[order] = experts, gates
    shape = (len(logits_NE), router.top_k)
    return Decision(logits_NE, weights.view(shape), index.view(shape))


def zaya(_: nn.Module, output: Any) -> Decision:
    """The last class is to skip the layer: it comes as expert 0 with the weight 0, and is an empty slot here."""
    logits_NE, weights_NK, index_NK, _ = output
    return Decision(logits_NE, weights_NK, index_NK.where(weights_NK != 0, -1))


def doge(block: Any, output: Any) -> Decision:
    """Product keys: an expert's score is the sum of the scores of its two halves."""
    x_NA, y_NA = output[1]
    logits_NE = (x_NA[:, :, None] + y_NA[:, None, :]).flatten(1)
    best_NK, index_NK = logits_NE.topk(block.top_k, dim=-1)
    return Decision(logits_NE, best_NK.softmax(-1), index_NK)


class Row(NamedTuple):
    """A router class. score: "softmax", "sigmoid", "own" (the module's score_fn), "given" (it returns probabilities)."""

    score: str
    read: Read = triple

    @property
    def scores(self) -> str:
        """The word of explorer.taps.SCORES for the probabilities."""
        return "probabilities" if self.score in ("softmax", "given") else "independent"


def _rows(score: str, names: str, read: Read = triple) -> dict[str, Row]:
    return {name: Row(score, read) for name in names.split()}


TABLE: dict[str, Row] = {
    **_rows(
        "softmax",
        "AriaTextTopKRouter DeepseekOcr2TextTopkRouter DeepseekV2TopkRouter Ernie4_5_MoeTopKRouter FlexOlmoTopKRouter "
        "Ernie4_5_VLMoeMoeTopKRouter GptOssTopKRouter GraniteMoeTopKRouter GraniteMoeSWATopKRouter DbrxRouter "
        "GraniteMoeHybridTopKRouter GraniteMoeSharedTopKRouter JambaTopKRouter LongcatFlashTopkRouter MellumTopKRouter "
        "MiniMaxTopKRouter Mistral4TopkRouter MistralLarge4TextTopkRouter MixtralTopKRouter OlmoeTopKRouter "
        "DeepseekV2MoEGate OpenAIPrivacyFilterTopKRouter "
        "PhimoeTopKRouter Qwen2MoeTopKRouter Qwen3MoeTopKRouter Qwen3NextTopKRouter "
        "Qwen3_5MoeTopKRouter Qwen3OmniMoeTalkerTextTopKRouter Qwen3OmniMoeTextTopKRouter Qwen3VLMoeTextTopKRouter "
        "Qwen3OmniMoeThinkerTextTopKRouter Qwen4ExpTextTopKRouter UnlimitedOcrTextTopkRouter",
    ),
    **_rows(
        "sigmoid",
        "AfmoeTokenChoiceRouter AXK1TopkRouter AXK2TopkRouter BailingHybridTopkRouter BeamTopKRouter DeepseekV3TopkRouter "
        "DeepseekV32TopkRouter Dots1TopkRouter Dots3NoteTextTopkRouter Dots3NoteVisionTopKRouter ExaoneMoeTopkRouter "
        "FlintTopKRouter Glm4MoeTopkRouter Glm4MoeLiteTopkRouter Glm4vMoeTextTopkRouter Glm5NextTextTopkRouter "
        "GlmMoeDsaTopkRouter HYV3TopKRouter HYV4TopkRouter InklingTopkRouter KimiLinearTopkRouter Kolibri1TopKRouter "
        "LagunaTopKRouter Lfm2MoeTopKRouter MiMoV2FlashTopkRouter MiniMaxM2TopKRouter MiniMaxM3VLTopKRouter "
        "NemotronHTopkRouter SolarOpenTopkRouter Step3p7TopKRouter",
    ),
    **_rows(
        "own", "Cohere2MoeTopKRouter DeepseekV4TopKRouter DeepseekV4HashRouter Inkling2TopKRouter MuseSparkTopkRouter"
    ),
    **_rows("given", "Gemma4TextRouter DiffusionGemmaTextRouter"),
    **_rows("softmax", "HunYuanMoEV1Gate", hunyuan),
    **_rows("sigmoid", "Llama4Router", llama4),
    **_rows("softmax", "SwitchTransformersTop1Router", switch),
    **_rows("softmax", "NllbMoeTop2Router", nllb),
    **_rows(
        "softmax",
        "JetMoeTopKGating GraniteMoeTopKGating GraniteMoeSharedTopKGating GraniteMoeHybridTopKGating",
        sorted_by_expert,
    ),
    **_rows("softmax", "ZayaRouter", zaya),
    **_rows("softmax", "DogeCDMoE", doge),
}

# the blocks of version 4 whose gate is a plain linear layer, and how they decide
BLOCKS: dict[str, Callable[[Any, Tensor], tuple[Tensor, Tensor]]] = {
    "MixtralSparseMoeBlock": best_shares, "MiniMaxSparseMoeBlock": best_shares, "Qwen3VLMoeTextSparseMoeBlock": best_shares,
    "Qwen2MoeSparseMoeBlock": best, "Qwen3MoeSparseMoeBlock": best, "Qwen3NextSparseMoeBlock": best,
    "OlmoeSparseMoeBlock": best, "FlexOlmoSparseMoeBlock": best, "JambaSparseMoeBlock": best,
    "Qwen3OmniMoeThinkerTextSparseMoeBlock": best, "Qwen3OmniMoeTalkerTextSparseMoeBlock": best,
    "AriaTextMoELayer": aria, "Ernie4_5_MoeSparseMoeBlock": ernie, "PhimoeSparseMoeBlock": phimoe,
}  # fmt: skip


def row_of(module: nn.Module) -> Row | None:
    """The row of a module's class or of one that it derives from; None: it is no router that is known."""
    return next((TABLE[cls.__name__] for cls in type(module).__mro__ if cls.__name__ in TABLE), None)


def gate_of(block: nn.Module) -> nn.Linear | None:
    """The plain linear gate of a block of version 4."""
    gates = [getattr(block, name, None) for name in ("gate", "router")] if type(block).__name__ in BLOCKS else []
    return next((gate for gate in gates if type(gate) is nn.Linear), None)


def score_name(row: Row, router: Any) -> str:
    """How a router makes probabilities of its scores, in a word."""
    if row.score != "own":
        return "softmax" if row.score == "given" else row.score
    own = _own(router)
    return str(getattr(router, "expert_selection_fn", "sigmoid")) if own is None else type(own).__name__


def probs_of(row: Row, router: Any, scores_NE: Tensor) -> Tensor:
    """A router's scores in its own range, in float32."""
    scores_NE = scores_NE.float()
    if row.score == "given":
        return scores_NE
    own = _own(router) if row.score == "own" else None
    if own is not None:
        return own(scores_NE)
    return scores_NE.softmax(-1) if score_name(row, router) == "softmax" else scores_NE.sigmoid()


def _own(router: Any) -> Callable[[Tensor], Tensor] | None:
    return getattr(router, "score_fn", None) or getattr(router, "scoring_function", None)


def logits_of(router: Any, x: Tensor) -> Tensor | None:
    """The logits of a router that returns none (or probabilities in their place), from its one linear map."""
    x_ND = x.detach().reshape(-1, x.shape[-1])
    maps = [
        one for one in router.modules() if isinstance(getattr(one, "weight", None), Tensor) and one.weight.ndim == 2
    ]
    if len(maps) != 1:
        return None
    bias = getattr(maps[0], "bias", None)
    return nn.functional.linear(x_ND.float(), maps[0].weight.float(), None if bias is None else bias.float())


def is_distribution(scores_NE: Tensor) -> bool:
    """Whether what should be logits are probabilities already, as some versions return."""
    return bool((scores_NE >= 0).all()) and bool((scores_NE.float().sum(-1) - 1).abs().max() < 1e-2)
