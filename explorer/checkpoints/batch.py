"""What a forward pass of a transformers model was given: its tokens, where they stand, and which are padding."""

import inspect
from collections.abc import Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn


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
    mask = given.get(f"{prefix}attention_mask")
    position_BT = torch.arange(past, past + T, device=shown.device).expand(B, T)
    valid_BT = None
    if isinstance(mask, Tensor) and mask.ndim == 2 and mask.shape[0] == B and mask.shape[1] >= T:
        seen = mask[:, : past + T].bool() if mask.shape[1] >= past + T else mask.bool()
        if not bool(seen.all()):
            valid_BT = seen[:, -T:]
            position_BT = (seen.long().cumsum(-1)[:, -T:] - 1).masked_fill(~valid_BT, -1)
    return Side(tokens if shown is tokens else None, valid_BT, position_BT, past + T)
