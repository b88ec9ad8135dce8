"""Attention sinks: where attention goes when it has nowhere to go, which is mostly the first token.

attention: (B, H, T, S), the weights of T queries over S keys; when T < S, the queries are the last T positions.
valid: (B, T) bool, False for queries that are padding; what stands in their rows (NaN, as a rule) never counts.
Rows are taken as they are. A sink logit's sum to less than one, rightly; attention without normalisation (sigmoid) goes
through `proxy_scores` first, to be compared with softmax at all.
"""

import torch
from torch import Tensor

from explorer.errors import BadValue
from explorer.metrics.checks import need_at_least, need_axes, need_last, need_same_shape, real
from explorer.metrics.entropy import row_shares, shannon


def _visible(attention: Tensor, causal: bool) -> Tensor:
    """Which query may see which key, as bool (T, S)."""
    T, S = attention.shape[-2:]
    if causal and S < T:
        raise BadValue(f"attention has {T} queries and only {S} keys: causal, it needs the axes B H T S with S >= T")
    everything = torch.ones(T, S, dtype=torch.bool, device=attention.device)
    return everything.tril(S - T) if causal else everything


def _queries(attention: Tensor, valid: Tensor | None) -> Tensor:
    """The queries that count, as bool (B, 1, T), or (1, 1, T) when all do."""
    need_axes("attention", attention, "B H T S")
    B, _, T, _ = attention.shape
    if valid is None:
        return torch.ones(1, 1, T, dtype=torch.bool, device=attention.device)
    if valid.dtype != torch.bool:
        raise BadValue(f"valid must be a bool tensor of queries, not {valid.dtype}")
    need_same_shape("valid", valid.shape, "attention's axes B T", torch.Size((B, T)))
    return valid.unsqueeze(1)


def _mean_per_head(values_BHT: Tensor, counted: Tensor) -> Tensor:
    """Mean over the sequences and queries that count: (B, H, T) -> (H,)."""
    counted = counted.expand_as(values_BHT)
    return torch.where(counted, values_BHT, 0.0).sum((0, 2)) / counted.sum((0, 2))


def proxy_scores(attention: Tensor) -> Tensor:
    """Attention without normalisation, made comparable for the metrics below only: each row over its sum, (..., S).

    A row of zeros stays zero. Meant for non-negative weights (sigmoid, ELU + 1); not for softmax with a sink logit,
    whose missing mass is the point. Source: arXiv 2410.10781.
    """
    need_last("attention", attention, "S")
    return row_shares(attention)[0]


def received_mass(attention: Tensor, valid: Tensor | None = None, causal: bool = True) -> Tensor:
    """Attention that key s received, alpha_s = mean over the queries t that may see it of A[t, s]: (B, H, S).

    Causal attention shows key s to the T - s queries from s on (S = T), which makes late keys means of few.
    causal=False: every query sees every key. NaN for a key that no valid query sees.
    0: nobody looks at the key; 1: everybody looks at nothing else. Source: alpha_k of arXiv 2410.10781.
    """
    seen = _queries(attention, valid).unsqueeze(-1) & _visible(attention, causal)
    return torch.where(seen, real(attention), 0.0).sum(-2) / seen.sum(-2)


def first_token_share(attention: Tensor, skip: int = 1, valid: Tensor | None = None) -> Tensor:
    """First-token share: mean of A[t, 0] over sequences and queries t >= skip, for each head: (H,).

    skip=1 leaves out the first query, which can see nothing else and has share 1 by force (with a cache, T < S, use 0).
    0: the head never looks at the first token; about ln(T)/T: even attention; 1: a pure sink. NaN if no query is left.
    Source: StreamingLLM, arXiv 2309.17453, and gated attention, arXiv 2505.06708.
    """
    need_at_least("skip", skip, 0)
    queries = _queries(attention, valid)
    need_last("attention", attention, "S")
    late = torch.arange(attention.shape[2], device=attention.device) >= skip
    return _mean_per_head(real(attention[..., 0]), queries & late)


def sink_rate(first: Tensor, eps: float = 0.3) -> Tensor:
    """Sink rate Sink_1^eps: share of the heads (over sequences, layers and heads) with alpha_1 > eps. A scalar.

    first: (...) (B H, or L B H): alpha_1, the first column of `received_mass`, which counts the first query too.
    0: no head has a sink on the first token; 1: all have. It depends on the length: the paper uses T = 64, eps = 0.3.
    NaN if there is no head or any alpha is NaN. Source: arXiv 2410.10781.
    """
    first = real(first)
    return torch.where(first.isnan(), first, (first > eps).to(first.dtype)).mean()


def row_entropy(attention: Tensor, valid: Tensor | None = None, causal: bool = True) -> Tensor:
    """Normalised attention entropy: mean over sequences and queries of H(A[t, :]) / ln(keys t may see), a head: (H,).

    Rows are divided by their sum first (no change for softmax); queries that see a single key, and rows of zeros, have
    nothing to spread and are left out. NaN if no query is left.
    0: each query looks at one key; 1: at all it may see, evenly. A sink lowers it: see `first_token_share` beside it.
    """
    queries, visible = _queries(attention, valid), _visible(attention, causal)
    shares, some = row_shares(torch.where(visible, real(attention), 0.0))
    keys = visible.sum(-1)
    return _mean_per_head(shannon(shares) / keys.clamp(min=2).log(), queries & (keys > 1) & some)
