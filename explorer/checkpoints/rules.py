"""How the architectures of transformers turn a router's scores into weights: one line each, and the words for it.

Read off transformers 5.23 and 4.57. The numbers of a rule (how many are chosen, groups, the factor) are the configuration's.
"""

from typing import Any, NamedTuple

from explorer.checkpoints.family_defaults import DEFAULTS
from explorer.checkpoints.files import CheckpointError

EXPERTS = ("num_experts", "num_local_experts", "n_routed_experts", "moe_num_experts", "num_routed_experts")
CHOSEN = (
    "num_experts_per_tok",
    "num_experts_per_token",
    "top_k_experts",
    "moe_topk",
    "moe_k",
    "moe_top_k",
    "num_selected_experts",
)
GROUPS, KEPT = ("n_group", "num_expert_group"), ("topk_group",)
SCALE = (
    "routed_scaling_factor",
    "route_scale",
    "router_scaling_factor",
    "moe_routed_scaling_factor",
    "moe_router_scaling_factor",
)


class Rule(NamedTuple):
    """How a family decides. norm: True, False, or the setting that says so and what it is where it is not set."""

    score: str = "softmax scores"
    norm: bool | tuple[str, bool] = False
    bias: bool = False  # added to the scores for the choice, not for the weights
    groups: bool = False  # only experts of the best groups may be chosen
    scale: bool = False
    chosen: int = 0  # fixed by the family; 0: the configuration's
    after: str = ""


FLAG = ("norm_topk_prob", False)
ALWAYS = Rule(norm=True)
FLAGGED = Rule(norm=FLAG)
CHOSEN_ONLY = Rule("softmax over the chosen")
SIGMOID = Rule("sigmoid scores", ("norm_topk_prob", True), bias=True, groups=True, scale=True)
UNGROUPED = Rule("sigmoid scores", True, bias=True, scale=True)

_LINES: list[tuple[str, Rule]] = [
    ("mixtral minimax hunyuan_v1_moe qwen3_5_moe qwen3_5_moe_text qwen3_vl_moe qwen3_vl_moe_text", ALWAYS),
    ("qwen2_moe qwen3_moe qwen3_next olmoe flex_olmo mellum qwen4_exp qwen4_exp_text", FLAGGED),
    ("qwen3_omni_moe qwen3_omni_moe_text qwen3_omni_moe_thinker qwen3_omni_moe_talker_text", FLAGGED),
    ("jamba", Rule()),
    ("deepseek_v2", Rule(groups=True, scale=True)),
    ("deepseek_v3 deepseek_v32 kimi_k2 glm4_moe glm4v_moe glm4v_moe_text glm4_moe_lite glm_moe_dsa solar_open dots1", SIGMOID),
    ("glm5_next dots3_note axk1 axk2 exaone_moe bailing_moe_v2 hy_v4 nemotron_h mimo_v2_flash beam", SIGMOID),
    ("Glm4vMoe_text", SIGMOID),  # as version 4.57 spells it
    ("kimi_linear bailing_hybrid", SIGMOID._replace(norm=("moe_renormalize", True))),
    ("deepseek_v4", Rule("`scoring_func` scores", True, bias=True, scale=True)),
    ("gpt_oss aria aria_text granitemoe granitemoeshared granitemoehybrid granitemoe_swa jetmoe", CHOSEN_ONLY),
    ("openai_privacy_filter", CHOSEN_ONLY._replace(after="divided by their number")),
    ("phimoe", Rule("sparsemixer: softmax over those near the best, twice", chosen=2)),
    ("dbrx", ALWAYS),
    ("llama4 llama4_text", Rule("sigmoid of the chosen", after="the weight multiplies the expert's input")),
    ("switch_transformers", Rule(chosen=1, after="a full expert drops tokens")),
    ("nllb-moe", Rule(norm=True, chosen=2, after="a full expert drops tokens")),
    ("ernie4_5_moe", Rule(norm=True, bias=True)),
    ("minimax_m2", UNGROUPED._replace(scale=False)),
    ("minimax_m3_vl minimax_m3_vl_text step3p7 hy_v3 afmoe muse_spark muse_spark_text", UNGROUPED),
    ("laguna", UNGROUPED),
    ("lfm2_moe", UNGROUPED._replace(norm=("norm_topk_prob", True))),
    ("longcat_flash", Rule(bias=True, scale=True, after="the last experts pass a token on unchanged")),
    ("cohere2_moe", Rule("`expert_selection_fn` of the chosen", ("norm_topk_prob", True))),
    ("mistral4 mistral_large4", Rule(norm=("norm_topk_prob", True), groups=True, scale=True)),
    ("kolibri1", Rule("sigmoid scores", FLAG, bias=True)),
    ("flint", Rule("sigmoid scores", FLAG)),
    ("zaya", Rule(bias=True, after="one more choice skips the layer")),
    ("gemma4 gemma4_text diffusion_gemma", Rule(norm=True, after="times a learned factor of each expert")),
    ("inkling inkling_text", Rule("sigmoid scores", True, bias=True, scale=True, after="shared experts share the sum")),
    ("inkling2 inkling2_text", Rule("`scoring_func` scores", True, bias=True, scale=True)),
    ("doge", Rule("softmax over the chosen", after="an expert's score is the sum of those of its two halves")),
]  # fmt: skip
RULES = {name: rule for names, rule in _LINES for name in names.split()}
GROUPED_BY = {"deepseek_v2": ("topk_method", "group_limited_greedy")}  # the setting without which groups are not used


class Settings:
    """What the configuration says about routing, checked. `model_type` is "" where there is no configuration.

    `assumed`: settings that it leaves out, with what transformers takes for them in this family.
    """

    def __init__(self, config: dict[str, Any] | None) -> None:
        self.given = {} if config is None else _text_part(config)
        self.model_type = _word(self.given, "model_type")
        self.architecture = _architecture(config)
        self.code = isinstance((config or {}).get("auto_map"), dict) or isinstance(self.given.get("auto_map"), dict)
        self.rule = RULES.get(self.model_type)
        inner = self.given.get("ffn_config")
        self._flat = {**(inner if isinstance(inner, dict) else {}), **self.given}
        self.experts = self.whole(EXPERTS, 1)
        self.assumed = self._left_out()
        self._flat |= self.assumed
        if self.experts is not None:
            self.doubt(self.experts)
        fixed = self.rule.chosen if self.rule is not None else 0
        self.chosen = fixed or self.whole(CHOSEN, 1)
        if self.experts is not None and self.chosen is not None and self.chosen > self.experts:
            raise CheckpointError(
                f"config.json wants {self.chosen} experts for each token, but says there are only {self.experts}"
            )

    def _left_out(self) -> dict[str, Any]:
        """The family's defaults of settings that are given under none of their names."""
        left = {}
        for name, value in DEFAULTS.get(self.model_type, {}).items():
            names = next((one for one in (CHOSEN, GROUPS, SCALE) if name in one), (name,))
            if not any(one in self._flat for one in names):
                left[name] = value
        return left

    def doubt(self, experts: int) -> None:
        """Take back defaults that cannot be those of a layer of so many experts: they are another model's."""
        chosen = next((name for name in CHOSEN if name in self.assumed), "")
        if self.assumed.get(chosen, 0) > experts:
            self._forget(chosen)
            self.chosen = None
        if any(experts % self.assumed.get(name, 1) for name in GROUPS):
            self._forget(*GROUPS, *KEPT)

    def _forget(self, *names: str) -> None:
        for name in names:
            if self.assumed.pop(name, None) is not None:
                del self._flat[name]

    def whole(self, names: tuple[str, ...], least: int) -> int | None:
        """The first of several settings that is there, a whole number; None: none is."""
        for name in names:
            value = self._flat.get(name)
            if value is None:
                continue
            if type(value) is not int or not least <= value < 1 << 31:
                shown = repr(value) if len(repr(value)) <= 40 else repr(value)[:39] + "…"
                raise CheckpointError(f"config.json says {name} = {shown}, which should be a whole number from {least}")
            return value
        return None

    def number(self, names: tuple[str, ...]) -> float | None:
        """The first that is a finite number."""
        for value in (self._flat.get(name) for name in names):
            if isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < 1e30:
                return float(value)
        return None

    def sentence(self, biased: bool, experts: int | None) -> str:
        """The rule in words; `biased`: the files hold a bias for the choice."""
        usual = any(name in self.assumed for name in CHOSEN)
        top = f"top {self.chosen}{' by default' if usual else ''}" if self.chosen else "an unknown number chosen"
        if self.rule is None:
            of = f" of {experts}" if experts else ""
            return f"{top}{of}; how scores become weights is not known"
        parts = [self._score(self.rule.score)]
        parts += ["bias for selection"] if self.rule.bias and biased else []
        parts += [*self._groups(self.rule), top]
        parts += ["renormalised"] if self._normalised(self.rule) else []
        scale = self.number(SCALE) if self.rule.scale else None
        parts += [f"x{scale:g}"] if scale not in (None, 1.0) else []
        return ", ".join([*parts, self.rule.after] if self.rule.after else parts)

    def _score(self, words: str) -> str:
        if "`" not in words:
            return words
        key = words.split("`")[1]
        named = _word(self._flat, key) or "unknown"
        return words.replace(f"`{key}`", named[:40])

    def _groups(self, rule: Rule) -> list[str]:
        key, value = GROUPED_BY.get(self.model_type, ("", None))
        groups = self.whole(GROUPS, 0) if rule.groups else None
        kept = self.whole(KEPT, 0)
        if not groups or not kept or groups == 1 or (key and self._flat.get(key) != value):
            return []
        return [f"{groups} groups", f"top {kept} group{'s' if kept > 1 else ''}"]

    def _normalised(self, rule: Rule) -> bool:
        if isinstance(rule.norm, bool) or self._score(rule.score).startswith("softmax of"):
            return rule.norm is True
        value = self._flat.get(rule.norm[0])
        return value if isinstance(value, bool) else rule.norm[1]


def _text_part(config: dict[str, Any]) -> dict[str, Any]:
    """Models of several kinds of input hold the settings of their language model a level deeper."""
    for key in ("text_config", "llm_config", "language_config", "thinker_config"):
        inner = config.get(key)
        if isinstance(inner, dict):
            return _text_part({"model_type": config.get("model_type"), **inner})
    return config


def _word(config: dict[str, Any], key: str) -> str:
    value = config.get(key)
    return value if isinstance(value, str) else ""


def _architecture(config: dict[str, Any] | None) -> str:
    named = (config or {}).get("architectures")
    if isinstance(named, list) and named and isinstance(named[0], str):
        return named[0][:100]
    return _word(config or {}, "model_type")[:100] or "unknown"
