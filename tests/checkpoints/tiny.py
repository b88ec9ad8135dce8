"""Tiny random models of transformers, and what their own attention maps say, in float64 and with loops."""

import math
from typing import Any

import torch
from torch import Tensor

SIZES = {
    "vocab_size": 96, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4,
    "num_key_value_heads": 2, "head_dim": 8, "max_position_embeddings": 64,
    "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2,
}  # fmt: skip


def config(kind: str, **changes: Any) -> Any:
    """A configuration class of transformers at a tiny size; it leaves out the sizes that the class does not know."""
    import transformers

    return getattr(transformers, f"{kind}Config")(**{**SIZES, **changes})


def tokens(padding: str = "left") -> tuple[Tensor, Tensor]:
    """(token ids, attention mask), 3 sequences of 9 tokens of which two have padding on a side ("none": no padding)."""
    ids = torch.randint(3, 90, (3, 9), generator=torch.Generator().manual_seed(5))
    mask = torch.ones(3, 9, dtype=torch.long)
    if padding == "left":
        mask[0, :4], mask[2, :1] = 0, 0
    elif padding == "right":
        mask[0, -4:], mask[2, -1:] = 0, 0
    return ids, mask


def by_hand(map_BHTS: Tensor, valid_BS: Tensor, causal: bool, window: int | None = None) -> dict[str, Tensor]:
    """received (B, H, S), first, elsewhere and entropy (B, H) of a map, one query after the other."""
    B, H, T, S = map_BHTS.shape
    out = {"received": torch.full((B, H, S), math.nan), **{n: torch.full((B, H), math.nan) for n in ONE}}
    for b in range(B):
        start = next(s for s in range(S) if valid_BS[b, s])
        queries = [t for t in range(T) if valid_BS[b, t + S - T]]
        for h in range(H):
            A = map_BHTS[b, h].double()
            for s in range(S):
                seen = [t for t in queries if valid_BS[b, s] and _may(t + S - T, s, causal, window)]
                if seen:
                    out["received"][b, h, s] = sum(A[t, s] for t in seen) / len(seen)
            later = [t for t in queries if t + S - T > start]
            if later:
                out["first"][b, h] = sum(A[t, start] for t in later) / len(later)
            out["elsewhere"][b, h] = sum(1 - A[t].sum() for t in queries) / len(queries)
            out["entropy"][b, h] = sum(_entropy(A[t]) for t in queries) / len(queries)
    return out


ONE = ("first", "elsewhere", "entropy")


def _may(t: int, s: int, causal: bool, window: int | None) -> bool:
    return (s <= t or not causal) and (window is None or t - s < window)


def _entropy(row: Tensor) -> float:
    return -sum(float(p) * math.log(float(p)) for p in row / row.sum() if p > 0)
