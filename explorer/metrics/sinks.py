"""Attention sinks: where attention goes when it has nowhere to go, which is mostly the first token.

Two kinds, never in one number. An emergent sink is a token like the others that attention is parked on: a column of the
map (`received_mass`, `first_token_share`, `sink_rate`). A learned sink is a logit or key of the mechanism's own that no
token stands for: what the rows lack of one (`learned_sink_mass`).

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


def learned_sink_mass(attention: Tensor, valid: Tensor | None = None) -> Tensor:
    """Learned sink: mean over sequences and queries of 1 - sum_s A[t, s], what went to no token at all: (H,).

    0: everything goes to tokens, as in plain softmax; 1: the learned logit takes all. Nothing of an emergent sink is in
    it. Rows are taken as they are: of attention without normalisation (sigmoid) it is whatever the sums lack of one,
    negative where they are more. NaN if no query is left. Source: the sink logits of gpt-oss, arXiv 2508.10925.
    """
    queries = _queries(attention, valid)
    need_last("attention", attention, "S")
    return _mean_per_head(1 - real(attention).sum(-1), queries)


def value_norm_ratio(values_BHS: Tensor, sink: int = 0, valid: Tensor | None = None) -> Tensor:
    """Norm of the sink's value vector over the mean norm of the others', mean over sequences: (H,).

    values_BHS: the norm of each key's value (the tap `values`). sink: which key. valid: (B, S) bool, False for padding;
    a sequence without the sink or without another key is left out.
    About 1: the sink's value is one like the others; near 0: attending to it adds next to nothing, the mark of a sink
    that serves as a place to rest; NaN if no sequence is left. Source: arXiv 2410.10781 (values of sink tokens are small).
    """
    need_axes("values_BHS", values_BHS, "B H S")
    B, _, S = values_BHS.shape
    if not 0 <= sink < S:
        raise BadValue(f"sink={sink}: it must be one of the {S} keys, 0 to {S - 1}")
    counted = torch.ones(B, 1, S, dtype=torch.bool, device=values_BHS.device)
    if valid is not None:
        if valid.dtype != torch.bool:
            raise BadValue(f"valid must be a bool tensor of keys, not {valid.dtype}")
        need_same_shape("valid", valid.shape, "values_BHS's axes B S", torch.Size((B, S)))
        counted = valid.unsqueeze(1)
    others = counted & (torch.arange(S, device=values_BHS.device) != sink)
    norms = real(values_BHS)
    mean_BH = torch.where(others, norms, 0.0).sum(-1) / others.sum(-1)
    kept = counted[..., sink] & others.any(-1)
    return torch.where(kept, norms[..., sink] / mean_BH, 0.0).sum(0) / kept.sum(0)


def massive_activations(residual: Tensor, valid: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """(max |h|, max |h| / median |h|) of a residual stream (..., D), over all of its tokens: two scalars.

    valid: bool of the leading axes, False for padding. A massive activation, after the paper, is above 100 and about a
    thousand times the median; a Gaussian of this many values has a ratio of 4 to 8, and the toy models here stay below 25.
    Infinite where the median is 0; NaN if there is no token or any value is NaN. Source: arXiv 2402.17762.
    """
    need_last("residual", residual, "D")
    size = real(residual).abs()
    if valid is not None:
        need_same_shape("valid", valid.shape, "residual's leading axes", residual.shape[:-1])
        size = size[valid]
    if not size.numel():
        nothing = size.new_full((), torch.nan)
        return nothing, nothing.clone()
    return size.amax(), size.amax() / size.flatten().median()
