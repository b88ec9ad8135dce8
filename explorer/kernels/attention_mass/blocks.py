"""The same statistics from a few queries at a time: memory grows with T, not with T squared.

With L = score - largest score of the row, P = 2^L and r = the sum of a row of P, the weights are P / r and a row's
entropy is ln r - sum(P L) / r. Scores are in units of ln 2: on a CPU torch's exp takes thirty times as long where its
result is next to nothing, exp2 does not. A tile of P and L stays in the cache; what is left of it is a sum over the
queries for each key, and a few numbers a query.
"""

import math
from collections.abc import Iterator

import torch
import torch.nn.functional as F
from torch import Tensor

from explorer.kernels.attention_mass.asked import ROWS, Asked, Span, everyone
from explorer.kernels.attention_mass.asked import some as sampled
from explorer.kernels.attention_mass.reference import CAUSAL, Statistics, at_least_float, mean
from explorer.kernels.attention_mass.rule import Rule

TILE = 2**19  # scores that are held at once, 2 MiB of float32
HIDDEN = -1e30  # below every score; unlike -inf, nothing times it is nothing
LN2 = math.log(2)
SOME = 1e-30  # a row that sums to less is a row of zeros
Part = tuple[slice, slice, slice]


def mass_in_blocks(
    q_BHTd: Tensor,
    k_BHSd: Tensor,
    rule: Rule = CAUSAL,
    stride: int = 1,
    lse_BHT: Tensor | None = None,
    entropy: bool = True,
) -> Statistics:
    """As reference.mass_by_definition; stride: ask one query in so many only, and say how far off that may be.

    lse_BHT: the log-sum-exp of each row's scores, where a fused kernel has told it: it need not be exact, since rows are
    divided by their sums here too; only for a plain softmax. entropy=False leaves the entropy NaN and takes less time.
    """
    blocks = _Blocks(at_least_float(q_BHTd), at_least_float(k_BHSd), rule, stride, lse_BHT, entropy)
    for span in blocks.asked.spans:
        blocks.add(span)
    return blocks.statistics()


class _Blocks:
    """The sums of one call. All of its tensors grow with T or with S, none with both."""

    def __init__(
        self, q_BHTd: Tensor, k_BHSd: Tensor, rule: Rule, stride: int, lse_BHT: Tensor | None, entropy: bool
    ) -> None:
        (B, H, T, d), S = q_BHTd.shape, k_BHSd.shape[-2]
        self.B, self.H, self.T, self.S, self.stride = B, H, T, S, stride
        unit = 1.0 if rule.weights == "sigmoid" else 1 / LN2
        self.rule = rule.checked(T, S).times(unit)
        self.rows = max(1, min(T if T <= 2 * ROWS else ROWS, TILE // max(1, S)))
        self.asked: Asked = everyone(T, self.rows) if stride == 1 else sampled(T, stride, self.rows)
        self.q = q_BHTd * (unit * (d**-0.5 if rule.scale is None else rule.scale))
        self.k_BHdS = k_BHSd.transpose(-1, -2)
        self.shifted, self.entropy = lse_BHT is not None, entropy
        if lse_BHT is not None:  # one channel more, and the products are log-weights
            self.q = torch.cat([self.q, lse_BHT.unsqueeze(-1).to(self.q) * -unit], -1)
            self.k_BHdS = F.pad(self.k_BHdS, (0, 0, 0, 1), value=1.0)
        self.queries_R = torch.arange(T, device=q_BHTd.device)
        if self.asked.queries is not None:
            self.queries_R = self.asked.queries.to(q_BHTd.device)
            self.q = self.q.index_select(-2, self.queries_R)
        self.q, self.k_BHdS = self.q.contiguous(), self.k_BHdS.contiguous()
        self.received, self.squares = self.q.new_zeros(2, B, H, S).unbind()
        # of each asked query: P of the first key, r, sum(P L), and the factor that makes weights of P
        self.first, self.sums, self.mixed, self.factor = self.q.new_zeros(4, *self.q.shape[:-1]).unbind()
        self.counted = torch.ones(self.q.shape[:-1], dtype=torch.bool, device=self.q.device)
        self.seen_BHS, self.first_key_BH1 = self._who_sees()
        self.parts = list(self._parts(max(1, TILE // (self.rows * max(1, S)))))
        held = max(self.rows * S, min(TILE, B * H * self.rows * S))
        self.buffers = self.q.new_empty(2, held)  # freshly allocated memory is slow to touch

    def _parts(self, together: int) -> Iterator[tuple[slice, slice]]:
        """As many sequences and heads at a time as a tile holds: some heads of one sequence, or all of several."""
        heads, sequences = min(self.H, together), max(1, together // max(1, self.H))
        for b in range(0, self.B, sequences):
            for h in range(0, self.H, heads):
                yield slice(b, min(b + sequences, self.B)), slice(h, min(h + heads, self.H))

    def add(self, span: Span) -> None:
        """What the keys receive from some queries, and what is kept of these."""
        end = span.high + self.S - self.T if self.rule.causal else self.S
        begin = max(0, span.low + self.S - self.T) if self.rule.plain else 0  # all may see the keys before
        keys = slice(begin, end)
        later = self._hidden(self.rule, span, keys) if self.rule.plain else None
        for part in self.parts:
            rows, rule = (*part, slice(span.start, span.end)), self.rule.part(*part)
            hidden = later if self.rule.plain else self._hidden(rule, span, keys)
            L = self._scores(rule, rows, end)
            if hidden is not None:
                L[..., begin:].masked_fill_(hidden, HIDDEN)
                if not self.rule.plain:
                    self.counted[rows] = ~hidden.all(-1)
            self._add(rule, rows, L, span)

    def _hidden(self, rule: Rule, span: Span, keys: slice) -> Tensor | None:
        seen = rule.visible(self.queries_R[span.start : span.end], self.T, keys, self.S)
        return None if seen is None else ~seen

    def _scores(self, rule: Rule, rows: Part, end: int) -> Tensor:
        """(B, H, rows, keys), of the first `end` keys."""
        q = self.q[rows]
        scores = self._buffer(0, (*q.shape[:-1], end))
        torch.bmm(q.flatten(0, 1), self.k_BHdS[rows[:2]][..., :end].flatten(0, 1), out=scores.flatten(0, 1))
        return rule.add_biases(scores)

    def _buffer(self, which: int, shape: tuple[int, ...]) -> Tensor:
        return self.buffers[which][: math.prod(shape)].view(shape)

    def _add(self, rule: Rule, rows: Part, L: Tensor, span: Span) -> None:
        """One tile."""
        top_BHr1 = None
        if rule.weights == "sigmoid":
            L = F.logsigmoid(L) / LN2
        elif not self.shifted:
            top_BHr1 = L.amax(-1, keepdim=True)
            L.sub_(top_BHr1)
        P, end = torch.exp2(L, out=self._buffer(1, L.shape)), L.shape[-1]
        r = P.sum(-1)
        factor = self._factor(rule, r, top_BHr1)
        if not rule.plain:
            factor = factor * self.counted[rows]
        received = (factor.unsqueeze(-2) @ P).squeeze(-2)
        self.received[rows[:2]][..., :end] += received * self.stride if span.sampled else received
        if span.sampled:
            A = P * factor.unsqueeze(-1)
            self.squares[rows[:2]][..., :end] += (A[..., 0::2, :] - A[..., 1::2, :]).square_().sum(-2)
        self.first[rows], self.sums[rows], self.factor[rows] = self._of_first_key(rows, P), r, factor
        if self.entropy:
            self.mixed[rows] = P.mul_(L.clamp_(min=HIDDEN)).sum(-1)

    def _of_first_key(self, rows: Part, P: Tensor) -> Tensor:
        if self.rule.plain:
            return P[..., 0]
        first = self.first_key_BH1[rows[:2]].unsqueeze(-1).expand(*P.shape[:-1], 1)
        return P.gather(-1, first.clamp(max=P.shape[-1] - 1))[..., 0]

    @staticmethod
    def _factor(rule: Rule, r: Tensor, top_BHr1: Tensor | None) -> Tensor:
        """What makes weights of P."""
        if rule.weights == "sigmoid":
            return torch.ones_like(r)
        if rule.sink is None or top_BHr1 is None:
            return r.reciprocal()
        sink = rule.sink.detach().to(r.dtype).view(-1, 1)
        return ((top_BHr1.squeeze(-1) + r.log2() - sink) * LN2).sigmoid() / r

    def _who_sees(self) -> tuple[Tensor, Tensor]:
        """How many queries see each key, (B, H, S) or what broadcasts to it; the first key that any sees, (B, H, 1)."""
        T, S, device = self.T, self.S, self.q.device
        if self.rule.plain:
            late = torch.arange(S, 0, -1, device=device).clamp(max=T)
            seen_S = late if self.rule.causal else torch.full_like(late, T)
            return seen_S, torch.zeros(self.B, self.H, 1, dtype=torch.int64, device=device)
        seen_BHS = torch.zeros(self.B, self.H, S, dtype=torch.int64, device=device)
        for queries in torch.arange(T, device=device).split(self.rows):
            seen = self.rule.visible(queries, T, slice(0, S), S)
            assert seen is not None
            seen_BHS += seen.expand(-1, -1, len(queries), -1).sum(-2)
        return seen_BHS, (seen_BHS > 0).int().argmax(-1, keepdim=True)

    def statistics(self) -> Statistics:
        """Means of the sums."""
        weights = 1.0 if self.asked.weights is None else self.asked.weights.to(self.sums)
        late = self.counted & (self.queries_R + max(self.S - self.T, 0) > self.first_key_BH1)
        elsewhere = mean(1 - self.sums * self.factor, self.counted, weights)
        if self.rule.weights == "softmax" and self.rule.sink is None:
            elsewhere = 0 * elsewhere  # exactly, but for NaN
        entropy = torch.full_like(elsewhere, torch.nan)
        if self.entropy:
            some = self.counted & ~(self.sums <= SOME)
            entropy = mean(self.sums.log2() - self.mixed / self.sums, some, weights) * LN2
        stratum = 2 * self.stride
        error = (self.squares * (stratum * (stratum - 2) / 4)).sqrt()
        return (
            self.received / self.seen_BHS,
            error / self.seen_BHS,
            mean(self.first * self.factor, late, weights),
            elsewhere,
            entropy,
        )
