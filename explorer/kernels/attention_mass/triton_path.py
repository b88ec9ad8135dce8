"""The same statistics on a GPU, from kernels that make the output anyway. blocks.py is the definition they are held to.

The share of the first token costs one dot product a query at the end of the forward pass. The mass that any key received
takes a second pass over queries and keys, or nearly nothing in the backward pass, which makes the weights again by keys.
Without a GPU, TRITON_INTERPRET=1 runs the kernels in Python: slowly, and only for tests.
"""

import math
from collections.abc import Callable
from importlib.util import find_spec
from typing import Any

import torch
from torch import Tensor

from explorer.kernels.attention_mass.reference import Statistics
from explorer.kernels.attention_mass.rule import Rule

LN2 = math.log(2)
WIDEST = 256  # channels of a head that fit a program's memory
Received = Callable[[Tensor], None]


def usable(q: Tensor, k: Tensor, v: Tensor, rule: Rule) -> bool:
    """Whether the kernels compute this: on CUDA, softmax without masks, values as wide as keys."""
    return bool(
        q.is_cuda
        and find_spec("triton")
        and rule.plain
        and rule.weights == "softmax"
        and q.dtype in (torch.float16, torch.bfloat16, torch.float32)
        and q.shape[-1] <= WIDEST
        and v.shape == k.shape
        and q.numel()
    )


def attention(
    q_BHTd: Tensor, k_BHSd: Tensor, v_BHSd: Tensor, rule: Rule, on_mass: Received | None = None
) -> tuple[Tensor, Tensor, Tensor]:
    """(y_BHTd, lse_BHT, first_BHT): output, log-sum-exp over the keys in nats, and the weight of key 0 for each query.

    Gradients flow through y to q, k, v and the rule's sink. on_mass: called with the received mass (B, H, S) of this very
    pass when the backward pass has made it.
    """
    rule = rule.checked(q_BHTd.shape[-2], k_BHSd.shape[-2])
    scale = q_BHTd.shape[-1] ** -0.5 if rule.scale is None else rule.scale
    sink = None if rule.sink is None else rule.sink - rule.bias  # a bias of all scores is one the other way of the sink
    y, lse2, first = _Attention.apply(q_BHTd, k_BHSd, v_BHSd, sink, rule.causal, scale, on_mass)
    return y, lse2 * LN2, first


def mass(q_BHTd: Tensor, k_BHSd: Tensor, lse_BHT: Tensor, first_BHT: Tensor, rule: Rule) -> Statistics:
    """What `attention_mass` gives, from what `attention` returned: the key-major second pass."""
    q, k = _flat(q_BHTd), _flat(k_BHSd)
    (B, H, T, d), S = q_BHTd.shape, k_BHSd.shape[-2]
    scale = d**-0.5 if rule.scale is None else rule.scale
    lse2 = (lse_BHT / LN2).reshape(B * H, T).contiguous()
    sink2 = None if rule.sink is None else (rule.sink.detach().float() - rule.bias) / LN2
    summed, mixed = torch.empty(2, B * H, S, device=q.device).unbind()
    _launch("mass_kernel", S, (q, k, sink2, lse2, summed, mixed), scale, H, T, S, d, rule.causal, sink2 is not None)
    received = summed.view(B, H, S) / _queries(T, S, rule.causal, q.device)
    later = torch.arange(T, device=q.device) + max(S - T, 0) > 0
    first = torch.where(later, first_BHT, 0.0).sum(-1) / later.sum()
    entropy = mixed.view(B, H, S).sum(-1) * (-LN2 / T)
    elsewhere = 0 * entropy
    if sink2 is not None:
        elsewhere = (sink2[:, None] - lse2.view(B, H, T)).mul(LN2).sigmoid().mean(-1)
    return received, torch.zeros_like(received), first, elsewhere, entropy


def _queries(T: int, S: int, causal: bool, device: torch.device) -> Tensor:
    """(S,) how many queries see each key."""
    return torch.arange(S, 0, -1, device=device).clamp(max=T) if causal else torch.full((S,), T, device=device)


def _flat(x_BHTd: Tensor) -> Tensor:
    return x_BHTd.detach().reshape(-1, *x_BHTd.shape[-2:]).contiguous()


def _launch(
    name: str, length: int, tensors: tuple[Any, ...], scale: float, H: int, T: int, S: int, d: int, causal: bool,
    sink: bool, **flags: bool,
) -> None:  # fmt: skip
    """Run a kernel with a program for each block of `length` rows of each head; an absent sink is never read."""
    from explorer.kernels.attention_mass import triton_kernels

    block = 64 if d <= 128 else 32
    grid = (-(-length // block), tensors[0].shape[0])
    given = [tensors[0] if one is None else one for one in tensors]
    sizes = {"M": block, "N": block, "D": max(16, 1 << (d - 1).bit_length())}
    getattr(triton_kernels, name)[grid](*given, scale / LN2, H, T, S, d, CAUSAL=causal, SINK=sink, **flags, **sizes)


class _Attention(torch.autograd.Function):
    """Forward and backward by the kernels; lse comes in units of ln 2."""

    @staticmethod
    def forward(
        ctx: Any, q: Tensor, k: Tensor, v: Tensor, sink: Tensor | None, causal: bool, scale: float, on_mass: Any
    ) -> tuple[Tensor, Tensor, Tensor]:
        (B, H, T, d), S = q.shape, k.shape[-2]
        fq, fk, fv = _flat(q), _flat(k), _flat(v)
        y, (lse, first) = torch.empty_like(fq), torch.empty(2, B * H, T, device=q.device).unbind()
        sink2 = None if sink is None else sink.detach().float() / LN2
        tensors = (fq, fk, fv, sink2, y, lse, first)
        _launch("forward_kernel", T, tensors, scale, H, T, S, d, causal, sink is not None)
        ctx.save_for_backward(fq, fk, fv, sink2, y, lse)
        ctx.settings = (B, H, causal, scale, on_mass, None if sink is None else sink.dtype)
        ctx.mark_non_differentiable(lse, first)
        return y.view(B, H, T, d), lse.view(B, H, T), first.view(B, H, T)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        q, k, v, sink2, y, lse = ctx.saved_tensors
        B, H, causal, scale, on_mass, sink_type = ctx.settings
        (T, d), S = q.shape[-2:], k.shape[-2]
        dy = _flat(grads[0])
        delta = (y.float() * dy.float()).sum(-1)
        dq, dk, dv, mass = torch.empty_like(q), torch.empty_like(k), torch.empty_like(v), lse.new_empty(B * H, S)
        shape = (scale, H, T, S, d, causal, sink2 is not None)
        keys = (q, k, v, dy, sink2, lse, delta, dk, dv, mass)
        _launch("keys_backward_kernel", S, keys, *shape, MASS=on_mass is not None)
        _launch("queries_backward_kernel", T, (q, k, v, dy, sink2, lse, delta, dq), *shape)
        if on_mass is not None:
            on_mass(mass.view(B, H, S) / _queries(T, S, causal, q.device))
        dsink = None
        if sink2 is not None:  # the sink's weight gives nothing: its score has the gradient -weight * delta
            weight = (sink2.repeat(B)[:, None] - lse).mul(LN2).sigmoid()
            dsink = -(weight * delta).view(B, H, T).sum((0, 2)).to(sink_type)
        dq, dk, dv = (x.view(B, H, *x.shape[-2:]) for x in (dq, dk, dv))
        return dq, dk, dv, dsink, None, None, None
