"""What transformers takes for a setting of routing that a config.json does not have, by model_type.

Read off the configuration classes of transformers 5.23 and held to them by a test; those of 4.57 agree where they exist. One
group and a factor of 1 change nothing, and are left out.
"""

from typing import Any

_CHOSEN: list[tuple[str, int, str]] = [
    ("num_experts_per_tok", 1, "llama4 llama4_text zaya"),
    (
        "num_experts_per_tok",
        2,
        "mixtral minimax jamba granitemoe granitemoeshared granitemoehybrid granitemoe_swa jetmoe",
    ),
    ("num_experts_per_tok", 2, "nemotron_h cohere2_moe"),
    ("num_experts_per_tok", 4, "qwen2_moe qwen3_vl_moe qwen3_vl_moe_text glm4_moe_lite gpt_oss openai_privacy_filter"),
    ("num_experts_per_tok", 4, "minimax_m3_vl minimax_m3_vl_text lfm2_moe mistral4 mistral_large4"),
    ("num_experts_per_tok", 5, "flex_olmo"),
    ("num_experts_per_tok", 6, "deepseek_v4 afmoe kolibri1 flint inkling_text"),
    ("num_experts_per_tok", 8, "qwen3_5_moe qwen3_5_moe_text qwen3_moe olmoe mellum deepseek_v3 deepseek_v32 glm4_moe"),
    (
        "num_experts_per_tok",
        8,
        "glm4v_moe glm4v_moe_text glm_moe_dsa solar_open glm5_next dots3_note axk1 axk2 exaone_moe",
    ),
    ("num_experts_per_tok", 8, "qwen3_omni_moe qwen3_omni_moe_text qwen3_omni_moe_thinker qwen3_omni_moe_talker_text"),
    ("num_experts_per_tok", 8, "hy_v4 mimo_v2_flash beam minimax_m2 step3p7 hy_v3 muse_spark muse_spark_text laguna"),
    ("num_experts_per_tok", 8, "inkling2 inkling2_text"),
    ("num_experts_per_tok", 10, "qwen3_next qwen4_exp qwen4_exp_text"),
    ("num_experts_per_tok", 64, "doge"),
    ("num_experts_per_token", 8, "bailing_hybrid kimi_linear"),
    ("moe_topk", 1, "hunyuan_v1_moe"),
    ("moe_topk", 2, "aria aria_text"),
    ("moe_topk", 12, "longcat_flash"),
    ("moe_top_k", 1, "dbrx"),
    ("moe_k", 6, "ernie4_5_moe"),
]
_OTHERS: list[tuple[str, Any, str]] = [
    ("n_group", 8, "deepseek_v3 deepseek_v32 axk1 beam"),
    ("num_expert_group", 8, "bailing_hybrid"),
    ("topk_group", 4, "deepseek_v3 deepseek_v32 axk1 beam bailing_hybrid"),
    ("routed_scaling_factor", 1.5, "deepseek_v4"),
    ("routed_scaling_factor", 1.8, "glm4_moe_lite"),
    ("routed_scaling_factor", 2.0, "minimax_m3_vl minimax_m3_vl_text"),
    ("routed_scaling_factor", 2.446, "kimi_linear"),
    (
        "routed_scaling_factor",
        2.5,
        "deepseek_v3 deepseek_v32 glm_moe_dsa glm5_next axk1 axk2 exaone_moe bailing_hybrid beam",
    ),
    ("routed_scaling_factor", 2.827, "hy_v4"),
    ("routed_scaling_factor", 6.0, "longcat_flash"),
    ("router_scaling_factor", 2.826, "hy_v3"),
    ("route_scale", 8.0, "inkling_text inkling2 inkling2_text"),
    ("norm_topk_prob", False, "qwen2_moe qwen3_moe olmoe flex_olmo qwen3_omni_moe_talker_text dots1 kolibri1"),
    (
        "norm_topk_prob",
        True,
        "qwen3_next mellum qwen4_exp qwen4_exp_text qwen3_omni_moe qwen3_omni_moe_text flint lfm2_moe",
    ),
    (
        "norm_topk_prob",
        True,
        "qwen3_omni_moe_thinker deepseek_v3 deepseek_v32 glm4_moe glm4v_moe glm4v_moe_text solar_open",
    ),
    (
        "norm_topk_prob",
        True,
        "glm4_moe_lite glm_moe_dsa glm5_next dots3_note axk1 axk2 exaone_moe hy_v4 nemotron_h beam",
    ),
    ("norm_topk_prob", True, "mimo_v2_flash cohere2_moe mistral4"),
    ("moe_renormalize", True, "bailing_hybrid kimi_linear"),
    ("topk_method", "greedy", "deepseek_v2"),
    ("scoring_func", "sqrtsoftplus", "deepseek_v4"),
    ("scoring_func", "sigmoid", "inkling2 inkling2_text"),
    ("expert_selection_fn", "softmax", "cohere2_moe"),
]

DEFAULTS: dict[str, dict[str, Any]] = {}
for _setting, _value, _families in [*_CHOSEN, *_OTHERS]:
    for _family in _families.split():
        DEFAULTS.setdefault(_family, {})[_setting] = _value
