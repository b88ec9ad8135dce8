"""Tiny random models of every mixture-of-experts architecture of transformers that can be built small."""

import inspect
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch

SIZES = {
    "vocab_size": 96, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 3, "num_attention_heads": 4,
    "num_key_value_heads": 4, "head_dim": 8, "max_position_embeddings": 64, "pad_token_id": 0, "bos_token_id": 1,
    "eos_token_id": 2, "num_experts": 8, "num_local_experts": 8, "n_routed_experts": 8, "moe_num_experts": 8,
    "num_experts_per_tok": 2, "num_experts_per_token": 2, "moe_topk": 2, "moe_k": 2, "top_k_experts": 2,
    "moe_intermediate_size": 16, "shared_expert_intermediate_size": 16, "n_shared_experts": 1, "num_shared_experts": 1,
    "moe_num_shared_experts": 1, "n_group": 2, "topk_group": 1, "first_k_dense_replace": 1, "q_lora_rank": 16,
    "kv_lora_rank": 16, "qk_rope_head_dim": 8, "qk_nope_head_dim": 8, "v_head_dim": 8, "decoder_sparse_step": 1,
    "linear_num_key_heads": 2, "linear_num_value_heads": 4, "linear_key_head_dim": 8, "linear_value_head_dim": 8,
}  # fmt: skip
HYBRID = {"layer_types": ["linear_attention", "full_attention", "full_attention"]}
RELATIVE = {
    "swa_num_attention_heads": 4, "swa_num_key_value_heads": 4, "swa_head_dim": 8, "d_rel": 4, "rel_extent": 16,
    "sliding_window_size": 8, "unpadded_vocab_size": 90, "log_scaling_n_floor": 100,
}  # fmt: skip

MULTI = {"rope_type": "default", "rope_theta": 1e4, "mrope_section": [2, 1, 1]}  # positions in time, height and width

# configuration class without its ending -> what it needs besides SIZES
ARCHITECTURES: dict[str, dict[str, Any]] = {
    "Mixtral": {}, "Qwen2Moe": {}, "Qwen3Moe": {}, "Qwen3Next": HYBRID, "Qwen3_5MoeText": HYBRID, "Qwen3VLMoeText": {},
    "Olmoe": {}, "FlexOlmo": {}, "Mellum": {}, "DeepseekV2": {}, "DeepseekV3": {}, "DeepseekV32": {}, "DeepseekV4": {},
    "GptOss": {}, "GraniteMoe": {}, "GraniteMoeShared": {}, "GraniteMoeSWA": {}, "Phimoe": {}, "JetMoe": {},
    "GraniteMoeHybrid": {"mamba_n_heads": 4, "mamba_d_head": 16, "mamba_d_state": 8, "layer_types": ["attention"] * 3},
    "Dbrx": {
        "d_model": 32, "n_heads": 4, "n_layers": 3, "max_seq_len": 64,
        "ffn_config": {"ffn_hidden_size": 16, "moe_num_experts": 8, "moe_top_k": 2, "hidden_size": 32},
        "attn_config": {"kv_n_heads": 2, "rope_theta": 1e4, "clip_qkv": 8.0},
    },
    "Llama4Text": {},
    "Jamba": {
        "attn_layer_period": 2, "attn_layer_offset": 0, "expert_layer_period": 2, "expert_layer_offset": 1,
        "use_mamba_kernels": False, "mamba_d_state": 4, "mamba_dt_rank": 4,
    },
    "NllbMoe": {
        "d_model": 32, "encoder_layers": 2, "decoder_layers": 2, "encoder_sparse_step": 1, "decoder_sparse_step": 1,
        "encoder_ffn_dim": 16, "decoder_ffn_dim": 16, "encoder_attention_heads": 4, "decoder_attention_heads": 4,
        "expert_capacity": 4,
    },
    "SwitchTransformers": {
        "d_model": 32, "d_kv": 8, "d_ff": 16, "num_layers": 2, "num_decoder_layers": 2, "num_sparse_encoder_layers": 2,
        "num_sparse_decoder_layers": 2, "num_heads": 4, "expert_capacity": 1,
    },
    "Ernie4_5_Moe": {}, "Glm4Moe": {}, "Glm4MoeLite": {}, "GlmMoeDsa": {}, "SolarOpen": {}, "Dots1": {},
    "MiMoV2Flash": {"head_dim": 24, "num_key_value_heads": 2},
    "Glm4vMoeText": {"rope_parameters": MULTI | {"partial_rotary_factor": 1.0}},
    "AXK1": {}, "AXK2": {}, "ExaoneMoe": {}, "BailingHybrid": HYBRID, "HYV4": {},
    "KimiLinear": HYBRID | {"linear_head_dim": 8, "linear_num_heads": 4},
    "NemotronH": {
        "mamba_num_heads": 4, "mamba_head_dim": 16, "ssm_state_size": 8, "n_groups": 2, "chunk_size": 16,
        "moe_shared_expert_intermediate_size": 16,
    },
    "Beam": {"mlp_layer_types": ["sparse"] * 3}, "MiniMax": {}, "MiniMaxM2": {}, "MiniMaxM3VLText": {},
    "MuseSparkText": {}, "HunYuanMoEV1": {}, "HYV3": {},
    "Lfm2Moe": {"layer_types": ["full_attention"] * 3, "num_dense_layers": 1}, "LongcatFlash": {"num_layers": 2}, "Afmoe": {},
    "AriaText": {}, "Cohere2Moe": {}, "Laguna": {}, "Kolibri1": {}, "Flint": {}, "Zaya": {"num_experts_per_tok": 1},
    "Gemma4Text": {
        "enable_moe_block": True, "vocab_size_per_layer_input": 96, "hidden_size_per_layer_input": 8, "global_head_dim": 8,
        "num_global_key_value_heads": 2,
    },
    "InklingText": RELATIVE | {"mlp_layer_types": ["sparse"] * 3}, "Inkling2Text": RELATIVE, "Doge": {"is_moe": True},
    "OpenAIPrivacyFilter": {},
}  # fmt: skip
# what version 4 wants besides, or in place of it
IN_4: dict[str, dict[str, Any]] = {
    "Dbrx": {"ffn_config": {"ffn_hidden_size": 16, "moe_num_experts": 8, "moe_top_k": 2}},
    "Glm4vMoeText": {"rope_scaling": MULTI, "head_dim": 16}, "Qwen3VLMoeText": {"rope_scaling": MULTI},
    "JetMoe": {"num_attention_heads": 8},
}  # fmt: skip
BROKEN_IN_4 = {"Doge": "transformers 4 cannot run its experts: the layer adds up a pair"}
# experts of these have a way of their own: there is no choice of implementation
ONE_WAY = {"JetMoe", "SwitchTransformers", "NllbMoe", "Dbrx", "Llama4Text", "Doge", "Zaya", "LongcatFlash"}


def version() -> int:
    """The first number of the version of transformers that is installed."""
    import transformers

    return int(transformers.__version__.split(".")[0])


def broken(name: str) -> str:
    """Why an architecture cannot be run here; "" where it can."""
    import transformers

    if not hasattr(transformers, f"{name}Config"):
        return f"not in transformers {transformers.__version__}"
    return BROKEN_IN_4.get(name, "") if version() == 4 else ""


@contextmanager
def reference() -> Iterator[None]:
    """Models are loaded as if no package with GPU kernels were there: importing one takes seconds, and a CPU cannot run it."""
    hidden = "fla" not in sys.modules and not torch.cuda.is_available()
    if hidden:
        sys.modules["fla"] = None  # type: ignore[assignment]
    try:
        yield
    finally:
        if hidden:
            del sys.modules["fla"]


def on_cpu(model: Any) -> Any:
    """The model, with the reference functions of its file where an installed package would put GPU kernels."""
    names = vars(sys.modules[type(model).__module__])
    for name, value in [] if torch.cuda.is_available() else list(names.items()):
        if inspect.isfunction(value) and value.__code__.co_filename.endswith("hub_kernels.py"):
            names[name] = inspect.unwrap(value)
    return model


def model_of(name: str) -> Any:
    """A model with random weights, biases and tables drawn too, so that no rule is left out by a zero."""
    import transformers

    changes = ARCHITECTURES[name] | (IN_4.get(name, {}) if version() == 4 else {})
    made = getattr(transformers, f"{name}Config")(**{**SIZES, **changes})
    mappings = ("CAUSAL_LM", "SEQ_TO_SEQ_CAUSAL_LM", "TOKEN_CLASSIFICATION")
    maps = [getattr(transformers, f"MODEL_FOR_{one}_MAPPING") for one in mappings] + [transformers.MODEL_MAPPING]
    torch.manual_seed(0)
    with reference():
        model = next(mapping for mapping in maps if type(made) in mapping)[type(made)](made).eval()
    with torch.no_grad():
        for key, value in (*model.named_parameters(), *model.named_buffers()):
            if "correction_bias" in key or "expert_bias" in key:
                value.normal_(0, 0.1)
            elif key.endswith("tid2eid"):
                value.random_(0, 8)
    return on_cpu(model)
