"""What attention shows to those who watch it; nothing here is computed while nobody does."""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from explorer.errors import BadValue
from explorer.kernels.attention_mass import (
    AttentionMass,
    Rule,
    attention_map,
    attention_mass,
    first_from_lse,
    mass_of_map,
    triton_path,
)
from explorer.taps import instrumented

TAPS = {
    "received": "B H S",
    "error": "B H S",
    "first": "B H",
    "elsewhere": "B H",
    "entropy": "B H",
    "values": "B H S",
    "attention": "B H T S",
}
STATISTICS = ("received", "error", "first", "elsewhere", "entropy")


def attend(
    module: Any, q_BHTd: Tensor, k_BHSd: Tensor, v_BHSd: Tensor, *, causal: bool = True, scale: float | None = None
) -> Tensor:
    """Softmax attention (B, H, T, d), with the taps of `watch`: the same bits as F.scaled_dot_product_attention on a CPU.

    Its kernel says its log-sum-exp too, from which the first token's share follows at nearly no cost where that is all
    that is watched. On CUDA the kernels of attention_mass/triton_path.py compute output and statistics.
    """
    rule = Rule(causal, scale)
    if triton_path.usable(q_BHTd, k_BHSd, v_BHSd, rule):
        y_BHTd, lse_BHT, first_BHT = triton_path.attention(q_BHTd, k_BHSd, v_BHSd, rule)
        module.kernel = "triton"
        if _asks(module) == 1 and any(map(module.watched, STATISTICS)):
            mass = triton_path.mass(q_BHTd, k_BHSd, lse_BHT, first_BHT, rule)
            _show(module, AttentionMass(*mass, "attention_mass: triton"))
            return _rest(module, q_BHTd, k_BHSd, v_BHSd, y_BHTd, rule)
        return _watch(module, q_BHTd, k_BHSd, v_BHSd, y_BHTd, rule)
    if not _fused(q_BHTd, k_BHSd, v_BHSd, causal):
        T, S = q_BHTd.shape[-2], k_BHSd.shape[-2]
        may = torch.ones(T, S, dtype=torch.bool, device=q_BHTd.device).tril(S - T) if causal else None
        y_BHTd = F.scaled_dot_product_attention(q_BHTd, k_BHSd, v_BHSd, attn_mask=may, scale=scale)
        return _watch(module, q_BHTd, k_BHSd, v_BHSd, y_BHTd, rule)
    fused = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu
    y_BHTd, lse_BHT = fused(q_BHTd, k_BHSd, v_BHSd, 0.0, causal, scale=scale)
    if module.watched("first") and not any(map(module.watched, ("received", "error", "elsewhere", "entropy"))):
        module.kernel = f"{_computed_by(module)}, attention_mass: first key from the log-sum-exp"
        module.tap("first", first_from_lse(q_BHTd, k_BHSd, lse_BHT, rule))
        return _rest(module, q_BHTd, k_BHSd, v_BHSd, y_BHTd, rule)
    return _watch(module, q_BHTd, k_BHSd, v_BHSd, y_BHTd, rule, lse_BHT)


def watch(
    module: Any,
    q_BHTd: Tensor,
    k_BHSd: Tensor,
    v_BHSd: Tensor,
    y_BHTd: Tensor,
    *,
    causal: bool = True,
    scale: float | None = None,
    sink_H: Tensor | None = None,
    key_bias_BHS: Tensor | None = None,
    mask: Tensor | None = None,
    weights: str = "softmax",
    bias: float = 0.0,
) -> Tensor:
    """Tap what was asked for. Returns y itself, or the values mixed anew by an attention map that somebody edited.

    module: the mechanism, an Instrumented with these TAPS and a `kernel` (what computed its outputs and statistics).
    The rest is a Rule of `kernels.attention_mass`: how the mechanism made weights of its scores.
    """
    rule = Rule(causal, scale, sink_H, key_bias_BHS, mask, weights, bias)
    return _watch(module, q_BHTd, k_BHSd, v_BHSd, y_BHTd, rule)


def watch_map(
    module: Any, map_BHTS: Tensor, v_BHSd: Tensor, *, causal: bool = True, mask: Tensor | None = None
) -> Tensor:
    """The same taps of a mechanism that holds its map anyway. Returns that map, or what an edit made of it."""
    if any(map(module.watched, STATISTICS)):
        T, S = map_BHTS.shape[-2:]
        with torch.no_grad():
            queries = torch.arange(T, device=map_BHTS.device)
            seen = Rule(causal, mask=mask).checked(T, S).visible(queries, T, slice(0, S), S)
            _show(module, AttentionMass(*mass_of_map(map_BHTS, seen), "attention_mass: its own map"))
    if module.watched("values"):
        module.tap("values", _norms(v_BHSd))
    return module.tap("attention", map_BHTS) if module.watched("attention") else map_BHTS


def sample(model: nn.Module, stride: int) -> None:
    """Let every attention of a model ask about one query in `stride` where it looks, not all of them; 1: all again.

    The taps `received`, `first`, `elsewhere` and `entropy` are then estimates, right on average; `error` is the standard
    error of `received`.
    """
    if stride < 1:
        raise BadValue(f"stride={stride}: it must be a whole number of at least 1, a query in so many is asked")
    modules: list[Any] = list(instrumented(model).values())
    for module in modules:
        if "received" in module.taps:
            module.asks = stride


def _watch(
    module: Any,
    q_BHTd: Tensor,
    k_BHSd: Tensor,
    v_BHSd: Tensor,
    y_BHTd: Tensor,
    rule: Rule,
    lse_BHT: Tensor | None = None,
) -> Tensor:
    if any(map(module.watched, STATISTICS)):
        entropy = module.watched("entropy")
        _show(module, attention_mass(q_BHTd, k_BHSd, "auto", rule, _asks(module), lse_BHT, entropy))
    return _rest(module, q_BHTd, k_BHSd, v_BHSd, y_BHTd, rule)


def _rest(module: Any, q_BHTd: Tensor, k_BHSd: Tensor, v_BHSd: Tensor, y_BHTd: Tensor, rule: Rule) -> Tensor:
    """The norms of the values, and the map itself."""
    if module.watched("values"):
        module.tap("values", _norms(v_BHSd))
    if module.watched("attention"):
        seen_BHTS = attention_map(q_BHTd, k_BHSd, rule)
        map_BHTS = module.tap("attention", seen_BHTS)
        if map_BHTS is not seen_BHTS:
            return map_BHTS.to(v_BHSd.dtype) @ v_BHSd
    return y_BHTd


def _show(module: Any, mass: AttentionMass) -> None:
    """What is read off cannot be edited: whoever edits a statistic changes nothing."""
    module.kernel = f"{_computed_by(module)}, {mass.kernel}"
    for name in STATISTICS:
        module.tap(name, getattr(mass, name))


def _asks(module: Any) -> int:
    return int(getattr(module, "asks", 1))


def _computed_by(module: Any) -> str:
    return str(module.kernel.partition(",")[0])


def _norms(v_BHSd: Tensor) -> Tensor:
    return v_BHSd.detach().to(torch.promote_types(v_BHSd.dtype, torch.float32)).norm(dim=-1)


def _fused(q: Tensor, k: Tensor, v: Tensor, causal: bool) -> bool:
    """Whether torch has a fused kernel for it on the CPU; it takes the first query for the first position."""
    fits = q.shape[-1] == v.shape[-1] and k.shape == v.shape and q.numel() > 0 and k.numel() > 0
    return q.device.type == "cpu" and fits and (not causal or q.shape[-2] == k.shape[-2])
