"""How an attention layer of transformers turned queries and keys into weights, read off the arguments of its function."""

from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from explorer.checkpoints.batch import HIDDEN, Side
from explorer.errors import BadValue


class Call(NamedTuple):
    """One call of an attention function, with keys and values repeated for every head.

    q (B, H, T, d), k and v (B, H, S, d).
    mask: bool that broadcasts to B H T S, True where a query may look; causal: besides, query t sees the keys up to its own
    place, t + S - T. scale: None means 1 / sqrt(d). sink (H): a learned score that takes weight and gives nothing.

    With one of the next three the map itself is needed: bias (broadcasts to B H T S) is added to the scores, softcap c
    bends them to c tanh(s / c), moving_sink (B, H, T, 1) is a learned sink that depends on the query.
    """

    q: Tensor
    k: Tensor
    v: Tensor
    causal: bool
    mask: Tensor | None
    scale: float | None
    sink: Tensor | None
    bias: Tensor | None
    softcap: float | None
    moving_sink: Tensor | None

    @property
    def needs_map(self) -> bool:
        """Whether the statistics cannot be had without the map."""
        return not (self.bias is None and self.softcap is None and self.moving_sink is None)

    def visible(self) -> Tensor:
        """Where a query may look, as bool that broadcasts to B H T S."""
        T, S = self.q.shape[-2], self.k.shape[-2]
        seen = torch.ones(1, 1, T, S, dtype=torch.bool, device=self.q.device)
        seen = seen.tril(S - T) if self.causal else seen
        return seen if self.mask is None else seen & self.mask

    def map(self) -> Tensor:
        """The weights (B, H, T, S) in float32 at least; rows lack what a learned sink took."""
        q, k = (x.to(torch.promote_types(x.dtype, torch.float32)) for x in (self.q, self.k))
        scores = q @ k.transpose(-1, -2) * (q.shape[-1] ** -0.5 if self.scale is None else self.scale)
        if self.softcap is not None:
            scores = self.softcap * torch.tanh(scores / self.softcap)
        if self.bias is not None:
            scores = scores + self.bias
        seen = self.visible()
        scores = scores.masked_fill(~seen, -torch.inf)
        sink = self.sink.view(1, -1, 1, 1) if self.sink is not None else self.moving_sink
        if sink is not None:
            scores = torch.cat([scores, sink.to(scores.dtype).expand(*scores.shape[:-1], 1)], -1)
        return scores.softmax(-1)[..., : k.shape[-2]].masked_fill(~seen, 0.0)


def call_of(name: str, module: nn.Module, given: dict[str, Any], side: Side | None) -> Call:
    """What the function registered as `name` computes from these arguments; queries of padding may look nowhere."""
    q_BHTd, k_BHSd, v_BHSd = (given[one].detach() for one in ("query", "key", "value"))
    B, H, T, _ = q_BHTd.shape
    k_BHSd, v_BHSd = (x.repeat_interleave(H // x.shape[1], 1) if x.shape[1] < H else x for x in (k_BHSd, v_BHSd))
    causal, mask = _rule(name, module, given, k_BHSd.shape[2])
    if name == "sdpa" and causal:
        k_BHSd, v_BHSd = k_BHSd[:, :, :T], v_BHSd[:, :, :T]  # what else a cache has room for is empty
    S = k_BHSd.shape[2]
    mask, bias = _split(_dense(mask, B, T, S, q_BHTd.device), given.get("position_bias"), S)
    if _roomy(module, mask, side, (B, T, S)):
        assert side is not None and mask is not None
        S = side.total
        k_BHSd, v_BHSd, mask, bias = (
            k_BHSd[:, :, :S],
            v_BHSd[:, :, :S],
            mask[..., :S],
            None if bias is None else bias[..., :S],
        )
    if side is not None and side.valid is not None and side.fits(B, T):
        valid = side.valid.to(q_BHTd.device)[:, None, :, None].expand(B, 1, T, S)
        mask = valid if mask is None else mask & valid
    sink = _sink(name, module, given)
    fixed, moving = (sink, None) if sink is None or sink.ndim == 1 else (None, sink)
    scale, softcap = given.get("scaling"), given.get("softcap")
    return Call(q_BHTd, k_BHSd, v_BHSd, causal, mask, scale, fixed, bias, softcap, moving)


def _roomy(module: nn.Module, mask: Tensor | None, side: Side | None, shape: tuple[int, int, int]) -> bool:
    """Whether the last keys are room that a cache of a fixed size has for later tokens."""
    B, T, S = shape
    if side is None or mask is None or not side.fits(B, T) or not getattr(module, "is_causal", True):
        return False
    return side.total < S == mask.shape[-1] and not bool(mask[..., side.total :].any())


def _rule(name: str, module: nn.Module, given: dict[str, Any], S: int) -> tuple[bool, Any]:
    """(causal, mask) as the implementation understands its arguments."""
    mask, causal = given["attention_mask"], given.get("is_causal")
    causal = bool(getattr(module, "is_causal", True) if causal is None else causal)
    T = given["query"].shape[2]
    if name == "sdpa":  # without a mask; and the single query of a decoding step sees everything
        return causal and mask is None and T > 1, mask
    if name in ("eager", "flex_attention"):
        return False, mask
    if "flash" in name:
        return causal, _flash_mask(module, given, causal, T, S)
    raise BadValue(
        f"attention implementation {name!r} of {type(module).__name__} is unknown here: record with 'eager', 'sdpa', "
        "'flex_attention' or a flash attention"
    )


def _flash_mask(module: nn.Module, given: dict[str, Any], causal: bool, T: int, S: int) -> Tensor | None:
    """Flash attention knows padding by key, and a window by its width."""
    if given.get("cu_seq_lens_q") is not None or given.get("cache") is not None:
        raise BadValue(f"{type(module).__name__} runs flash attention on packed sequences: pad them to be recorded")
    mask, window = given["attention_mask"], given.get("sliding_window")
    mask = None if mask is None else mask[:, None, None, :S].bool().expand(-1, 1, T, S)
    if window is None or window >= S:
        return mask
    device = given["query"].device
    back = torch.arange(S - T, S, device=device)[:, None] - torch.arange(S, device=device)
    near = ((back if causal else back.abs()) < window)[None, None]
    return near if mask is None else mask & near


def _dense(mask: Any, B: int, T: int, S: int, device: torch.device) -> Tensor | None:
    """A mask as a tensor over the S keys."""
    if mask is None or isinstance(mask, Tensor):
        return mask if mask is None else mask[..., :S]
    from torch.nn.attention.flex_attention import create_mask  # for flex attention's BlockMask

    return create_mask(mask.mask_mod, B, None, T, S, device=str(device))


def _split(mask: Tensor | None, bias: Tensor | None, S: int) -> tuple[Tensor | None, Tensor | None]:
    """A mask that may be numbers to be added, and a bias that may hide keys -> (what may be seen, what is added)."""
    seen, bias = None, None if bias is None else bias.detach()[..., :S]
    if mask is not None and not mask.is_floating_point():
        seen, mask = mask.bool(), None
    for numbers in (mask, bias):
        if numbers is not None:
            high = numbers > HIDDEN
            seen = high if seen is None else seen & high
    if mask is not None and bool(((mask == 0) | (mask <= HIDDEN)).all()):
        mask = None
    added = [one for one in (mask, bias) if one is not None]
    return seen, None if not added else added[0] if len(added) == 1 else added[0] + added[1]


def _sink(name: str, module: nn.Module, given: dict[str, Any]) -> Tensor | None:
    """The learned sink that the function used: scaled dot-product attention knows none."""
    if name == "sdpa":
        return None
    own = getattr(module, "sinks", None) if name == "eager" else None
    sink = next((given[key] for key in ("s_aux", "sinks") if given.get(key) is not None), own)
    return sink.detach() if isinstance(sink, Tensor) else None
