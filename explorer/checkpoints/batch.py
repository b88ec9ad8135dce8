"""What a forward pass of a transformers model was given: its tokens, where they stand, and which are padding."""

import inspect
from collections.abc import Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

HIDDEN = -1e4  # a number this low in a mask hides a key; models write this one, -inf or the lowest of their type


class Side(NamedTuple):
    """One stream of positions: the only one of most models; the encoder's and the decoder's of a translator.

    tokens (B, T): token ids, None where the model was given vectors. valid (B, T): False where a token is padding; None:
    nowhere. position (B, T): 0 for the first real token of a sequence, also behind padding and after a prefill; -1 for padding.
    total: how many positions there are with those of earlier passes.
    """

    tokens: Tensor | None
    valid: Tensor | None
    position: Tensor
    total: int

    def fits(self, B: int, T: int) -> bool:
        """Whether a tensor of B sequences and T positions belongs to this stream (an image has its own positions)."""
        return self.position.shape == (B, T)


class Batch(NamedTuple):
    """The streams of one forward pass. two: the decoder has its own, which is None where its tokens are not known."""

    main: Side | None
    decoder: Side | None
    two: bool

    def side(self, path: str) -> Side | None:
        """The stream that the module at `path` works on."""
        return self.decoder if self.two and "decoder" in path.split(".") else self.main


def batch_of(model: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Batch:
    """Read off the arguments of `model.forward`."""
    signature = inspect.signature(model.forward)
    given = signature.bind_partial(*args, **kwargs).arguments
    given |= next((value for value in given.values() if isinstance(value, dict) and "input_ids" in value), {})
    cache = given.get("past_key_values", given.get("kwargs", {}).get("past_key_values"))
    two = "decoder_input_ids" in signature.parameters
    return Batch(_side(given, "", cache), _side(given, "decoder_", cache), two)


def _side(given: Mapping[str, Any], prefix: str, cache: Any) -> Side | None:
    tokens, vectors = given.get(f"{prefix}input_ids"), given.get(f"{prefix}inputs_embeds")
    shown = tokens if isinstance(tokens, Tensor) and tokens.ndim == 2 else vectors
    if not isinstance(shown, Tensor) or shown.ndim < 2:
        return None
    B, T = shown.shape[:2]
    past = int(cache.get_seq_length()) if hasattr(cache, "get_seq_length") else 0
    position_BT = torch.arange(past, past + T, device=shown.device).expand(B, T)
    seen_BT, place_BT = _real(given, prefix, (B, T), past)
    valid_BT = None
    if seen_BT is not None and not bool(seen_BT.all()):
        valid_BT = seen_BT[:, -T:]
        place_BT = seen_BT.long().cumsum(-1)[:, -T:] - 1 if place_BT is None else place_BT
        position_BT = place_BT.masked_fill(~valid_BT, -1)
    elif place_BT is not None:
        position_BT = place_BT
    return Side(tokens if shown is tokens else None, valid_BT, position_BT, past + T)


def _real(
    given: Mapping[str, Any], prefix: str, shape: tuple[int, int], past: int
) -> tuple[Tensor | None, Tensor | None]:
    """(which tokens are real, those of earlier passes first where they are known; their positions where these do not follow).

    A mask says so by token, (B, S), or, as generate() makes it for caches of a fixed size, by query and key, (B, 1, T, S); of
    several by kind of layer the one of full attention does.
    """
    (B, T), mask = shape, given.get(f"{prefix}attention_mask")
    if isinstance(mask, dict):
        mask = mask.get("full_attention", next(iter(mask.values()), None))
    if not isinstance(mask, Tensor) or mask.shape[0] not in (1, B):
        return None, None
    if mask.ndim == 2 and mask.shape[0] == B and mask.shape[1] >= T:
        return (mask[:, : past + T] if mask.shape[1] >= past + T else mask).bool(), None
    if mask.ndim != 4 or mask.shape[2] != T or mask.shape[3] < past + T:
        return None, None
    seen_BTS = (mask if mask.dtype is torch.bool else mask > HIDDEN)[:, 0].expand(B, T, -1)
    own_T = torch.arange(past, past + T, device=mask.device)
    valid_BT = seen_BTS[:, torch.arange(T, device=mask.device), own_T]  # a token that is real sees itself
    odd_BT = seen_BTS.all(-1) & (own_T < seen_BTS.shape[-1] - 1)  # padding may be let see everything, against NaN
    valid_BT = valid_BT if bool(odd_BT.all()) else valid_BT & ~odd_BT
    place = given.get(f"{prefix}position_ids", given.get("kwargs", {}).get(f"{prefix}position_ids"))
    if isinstance(place, Tensor) and place.shape in ((1, T), (B, T)):
        return valid_BT, place.expand(B, T)
    return valid_BT, seen_BTS.sum(-1) - 1
