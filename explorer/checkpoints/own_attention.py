"""The ear at an attention layer that asks transformers for no function, but calls torch itself.

So do layers of transformers 4 (OLMoE, Qwen2-MoE, PhiMoE, Jamba, JetMoE, BERT with scaled dot-product attention). While the
layer runs, torch says which functions it calls; all that they are given says what was computed.
"""

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from explorer.checkpoints.attention import AttentionEar
from explorer.checkpoints.ear import Pass
from explorer.checkpoints.interface import plain_forward
from explorer.checkpoints.scores import call_of
from explorer.mechanisms.attention.watching import watch_map

# classes that take scores = q k', a softmax and weights v, one after the other
BY_HAND = ("OlmoeAttention", "Qwen2MoeAttention", "PhimoeAttention", "JambaAttention", "JetMoeAttention")


def calls_torch(module: nn.Module) -> bool:
    """Whether a layer's attention can be heard at the functions of torch that its forward calls."""
    code = getattr(plain_forward(module), "__code__", None)
    names = () if code is None else code.co_names
    by_hand = any(cls.__name__ in BY_HAND for cls in type(module).__mro__)
    return "scaled_dot_product_attention" in names or (by_hand and "softmax" in names)


class Calls(TorchFunctionMode):
    """Tells `heard` of every function of torch that is called while it is on: the function, its arguments, its result."""

    def __init__(self, heard: Callable[..., None]) -> None:
        super().__init__()
        self.heard = heard

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        self.heard(func, result, args, kwargs or {})
        return result


class OwnAttentionEar(AttentionEar):
    """As an AttentionEar, for a layer that calls torch's functions by itself."""

    missing = "called no function of torch that computes attention: it does so in a way of its own"

    def __init__(self, path: str, module: nn.Module, now: Pass) -> None:
        super().__init__(path, module, now)
        self._on: list[Calls] = []
        self._mask: Any = None
        self._parts: list[Tensor] = []  # q and k, then the map

    def open(self, _module: nn.Module, _args: Any, kwargs: dict[str, Any]) -> None:
        """Hook: the layer begins, and from now on torch tells what it calls."""
        self.begin()
        if self.listened():
            self._mask, self._parts = kwargs.get("attention_mask"), []
            self._on.append(Calls(self._called))
            self._on[-1].__enter__()

    def close(self, *_: Any) -> None:
        """Hook: it is over, also by an error."""
        if self._on:
            self._on.pop().__exit__(None, None, None)
        self._mask, self._parts = None, []

    def _called(self, func: Any, result: Any, args: Any, kwargs: dict[str, Any]) -> None:
        if func is F.scaled_dot_product_attention:
            self.hear("sdpa", result, _named(args, kwargs))
        elif func is torch.matmul and getattr(result, "ndim", 0) == 4:
            self._product(*args[:2])
        elif func is F.softmax and len(self._parts) == 2 and result.ndim == 4:
            self._parts.append(result)

    def _product(self, left: Tensor, right: Tensor) -> None:
        if len(self._parts) < 2:
            self._parts = [left, right.transpose(-1, -2)]
        elif len(self._parts) == 3 and left.shape == self._parts[2].shape:
            (q_BHTd, k_BHSd, map_BHTS), self._parts = self._parts, []
            self._hear_map(q_BHTd, k_BHSd, map_BHTS, right)

    @torch.no_grad()
    def _hear_map(self, q_BHTd: Tensor, k_BHSd: Tensor, map_BHTS: Tensor, v_BHSd: Tensor) -> None:
        self.heard = True
        if self.now.batch is None:
            return
        side = self.now.batch.side(self.path)
        given = {"query": q_BHTd, "key": k_BHSd, "value": v_BHSd, "attention_mask": self._mask}
        call = call_of("eager", self.module, given, side)
        self.kernel = "eager"
        with torch.autocast(q_BHTd.device.type, enabled=False):
            visible = call.visible()
            watch_map(self, map_BHTS.detach().masked_fill(~visible, 0.0), call.v, causal=False, mask=visible)


def _named(args: Any, kwargs: dict[str, Any]) -> dict[str, Any]:
    """The arguments of scaled dot-product attention by the names that the functions of transformers have for them."""
    order = ("query", "key", "value", "attn_mask", "dropout_p", "is_causal", "scale")
    given = dict(zip(order, args, strict=False)) | kwargs
    return {
        "query": given["query"],
        "key": given["key"],
        "value": given["value"],
        "attention_mask": given.get("attn_mask"),
        "is_causal": bool(given.get("is_causal", False)),
        "scaling": given.get("scale"),
    }
