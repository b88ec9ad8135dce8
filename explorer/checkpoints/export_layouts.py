"""Which of our tiny language models is exactly an architecture of transformers: its config.json and its tensors there.

OLMoE (arXiv:2409.02060): q and k normalised over the full width, softmax over all experts, `norm_topk_prob` says whether
the kept weights are renormalised. Mixtral (arXiv:2401.04088): no such norms, always renormalised. The tensors have the names
of the files on the hub, one matrix an expert, which every version of transformers reads.
"""

from typing import TYPE_CHECKING, Any

from torch import Tensor

from explorer.checkpoints.files import CheckpointError
from explorer.models import LanguageModel, MixtureOfExperts

if TYPE_CHECKING:
    from explorer.experiment import Experiment

# (mechanism, qk_norm) -> architecture
EXACT = {
    ("topk-softmax-raw", "full"): "OlmoeForCausalLM",
    ("topk-softmax", "full"): "OlmoeForCausalLM",
    ("topk-softmax", "none"): "MixtralForCausalLM",
}
# our norms have no epsilon; this one changes no bit of them, and unlike 0 no reader takes it for a missing value
EPSILON = 1e-20
# how Mixtral's files name an expert's gate, up and down matrices, and OLMoE's
MATRICES = {
    "MixtralForCausalLM": ("block_sparse_moe", ("w1", "w3", "w2")),
    "OlmoeForCausalLM": ("mlp", ("gate_proj", "up_proj", "down_proj")),
}


def architecture(experiment: "Experiment") -> str:
    """The class of transformers that computes the same; CheckpointError names everything that is in the way."""
    name, settings, obstacles = experiment.spec.name, experiment.settings, []
    known = sorted({mechanism for mechanism, _ in EXACT})
    if name not in known:
        raise CheckpointError(
            f"{name} cannot be exported: transformers has exactly our computation only for {' and '.join(known)}"
        )
    if not isinstance(experiment.model, LanguageModel):
        obstacles.append("the task has no tokens (choose one that has, such as 'text')")
    if settings["attention"] != "softmax-attention":
        obstacles.append(f"attention={settings['attention']} (it must be softmax-attention)")
    elif (name, settings["qk_norm"]) not in EXACT:
        obstacles.append(f"qk_norm={settings['qk_norm']} (OLMoE normalises queries and keys: set qk_norm=full)")
    if obstacles:
        raise CheckpointError(f"{name} cannot be exported because of {', and of '.join(obstacles)}")
    return EXACT[name, settings["qk_norm"]]


def config(experiment: "Experiment", dtype: str) -> dict[str, Any]:
    """The content of config.json."""
    kind, settings = architecture(experiment), experiment.settings
    model: Any = experiment.model
    data: Any = experiment.data
    block = model.blocks[0]
    experts, router = block.ffn.experts, block.ffn.router
    olmoe = kind == "OlmoeForCausalLM"
    own = {"num_experts": router.n_experts, "norm_topk_prob": experiment.spec.name == "topk-softmax", "clip_qkv": None}
    return {
        "architectures": [kind],
        "model_type": "olmoe" if olmoe else "mixtral",
        "vocab_size": model.embed.num_embeddings,
        "hidden_size": settings["d_model"],
        "intermediate_size": experts.down.shape[1],
        "num_hidden_layers": settings["layers"],
        "num_attention_heads": block.attention.n_heads,
        "num_key_value_heads": block.attention.n_heads,
        "num_experts_per_tok": router.k,
        **(own if olmoe else {"num_local_experts": router.n_experts, "sliding_window": None}),
        "router_aux_loss_coef": router.aux_loss,
        "hidden_act": "silu",
        "attention_bias": False,
        "rms_norm_eps": EPSILON,
        "rope_theta": block.attention.rope_base,
        "max_position_embeddings": data.sequence,
        "tie_word_embeddings": settings["tied"],
        "pad_token_id": None,
        "bos_token_id": None,
        "eos_token_id": None,
        "torch_dtype": dtype,
    }


def tensors(model: LanguageModel, kind: str) -> dict[str, Tensor]:
    """Views of the weights under the names of the hub, each matrix as nn.Linear keeps it (out, in)."""
    found = {"model.embed_tokens.weight": model.embed.weight, "model.norm.weight": model.norm.weight}
    if model.head is not None:
        found["lm_head.weight"] = model.head.weight
    for i, block in enumerate(model.blocks):
        for name, value in _block(block, kind).items():
            found[f"model.layers.{i}.{name}.weight"] = value
    return {name: value.detach() for name, value in found.items()}


def _block(block: Any, kind: str) -> dict[str, Tensor]:
    attention = block.attention
    q_DD, k_DD, v_DD = attention.qkv.weight.chunk(3)
    named = {"q_proj": q_DD, "k_proj": k_DD, "v_proj": v_DD, "o_proj": attention.out.weight}
    if attention.norm_q is not None:
        named |= {"q_norm": attention.norm_q.weight, "k_norm": attention.norm_k.weight}
    return {
        "input_layernorm": block.norm_attention.weight,
        **{f"self_attn.{name}": value for name, value in named.items()},
        "post_attention_layernorm": block.norm_ffn.weight,
        **_experts(block.ffn, kind),
    }


def _experts(layer: MixtureOfExperts, kind: str) -> dict[str, Tensor]:
    place, names = MATRICES[kind]
    router: Any = layer.router
    found, up_EDG, down_EFD = {f"{place}.gate": router.score.weight}, layer.experts.up, layer.experts.down
    assert down_EFD is not None  # a language model's experts have two layers
    for e in range(len(up_EDG)):
        gate_DF, up_DF = up_EDG[e].chunk(2, dim=-1)
        for name, value in zip(names, (gate_DF.T, up_DF.T, down_EFD[e].T), strict=True):
            found[f"{place}.experts.{e}.{name}"] = value
    return found
