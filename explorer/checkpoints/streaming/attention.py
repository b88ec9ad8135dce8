"""Softmax attention of several sequences that lie behind each other, and where it looks, without holding a map."""

from typing import NamedTuple

import torch
from torch import Tensor

from explorer.checkpoints.streaming.pieces import Matrix, Pieces
from explorer.checkpoints.streaming.positions import Rotation
from explorer.checkpoints.streaming.rows import Rows
from explorer.kernels.attention_mass import AttentionMass, Rule, attention_mass

TILE = 1 << 19  # scores that are held at once
HELD = 1 << 19  # numbers of the queries that are held at once
Spans = list[tuple[int, int]]


class Watch:
    """Statistics of one layer, of B sequences of up to S tokens: the taps of `AttentionMass`, NaN behind a sequence's end."""

    def __init__(self, B: int, H: int, S: int) -> None:
        self.first, self.elsewhere, self.entropy = torch.full((3, B, H), torch.nan).unbind()
        self.received = torch.full((B, H, S), torch.nan)

    def see(self, b: int, heads: slice, mass: AttentionMass) -> None:
        """Some heads of sequence b."""
        self.received[b, heads, : mass.received.shape[-1]] = mass.received[0]
        for name in ("first", "elsewhere", "entropy"):
            getattr(self, name)[b, heads] = getattr(mass, name)[0]

    def taps(self) -> dict[str, Tensor]:
        """By name."""
        return {name: getattr(self, name) for name in ("first", "elsewhere", "entropy", "received")}


def attend(
    q: Rows, k: Rows, v: Rows, spans: Spans, heads: int, groups: int, *, scale: float | None = None,
    window: int | None = None, sink_H: Tensor | None = None, turn: Rotation | None = None, watch: Watch | None = None,
    first_head: int = 0,
) -> Rows:  # fmt: skip
    """Causal attention within each span: queries (N, H d), keys (N, G d), values (N, G e) -> (N, H e).

    G divides H: H / G heads share keys and values. window: a query sees so many keys, its own the last. sink_H: a learned
    score of each head that takes weight and gives nothing. turn: rotates queries and keys by their places in the span.
    first_head: its number among the heads of the layer, for `watch`, where only some of them are given.
    """
    share, wide = heads // groups, v.width // groups
    y = Rows(q.n, heads * wide)
    for b, (start, end) in enumerate(spans):
        together = max(1, HELD // max(1, (end - start) * q.width // groups))
        for g in range(0, groups, together):
            some = slice(g, min(g + together, groups))
            held = slice(g * share, some.stop * share)
            qs, ks, vs = (
                _heads(x, start, end, n)[:, s] for x, n, s in ((q, heads, held), (k, groups, some), (v, groups, some))
            )
            if turn is not None:
                qs, ks = turn.turn(qs), turn.turn(ks)
            sink = None if sink_H is None else sink_H[held]
            y[start:end, held.start * wide : held.stop * wide] = _mixed(qs, ks, vs, scale, window, sink)
            if watch is not None:
                rule = Rule(True, scale, sink, mask=_near(end - start, window))
                q_1HTd, k_1HTd = (x.transpose(0, 1)[None] for x in (qs, ks.repeat_interleave(share, 1)))
                seen = slice(first_head + held.start, first_head + held.stop)
                watch.see(b, seen, attention_mass(q_1HTd, k_1HTd, rule=rule))
            for one in (q, k, v, y):
                one.rest()
    return y


def _heads(x: Rows, start: int, end: int, heads: int) -> Tensor:
    return x[start:end].view(end - start, heads, x.width // heads)


def _near(T: int, window: int | None) -> Tensor | None:
    """Which keys are not too far away, (T, T); None: all."""
    if window is None or window >= T:
        return None
    places = torch.arange(T)
    return places[:, None] - places < window


def _mixed(
    q_THd: Tensor, k_TGd: Tensor, v_TGe: Tensor, scale: float | None, window: int | None, sink_H: Tensor | None
) -> Tensor:
    """(T, H e), a block of queries at a time, which sees the keys up to its last query's."""
    (T, H, d), G = q_THd.shape, k_TGd.shape[1]
    q_GhTd = q_THd.reshape(T, G, H // G, d).permute(1, 2, 0, 3) * (d**-0.5 if scale is None else scale)
    k_G1dT, v_G1Te = k_TGd.permute(1, 2, 0)[:, None], v_TGe.transpose(0, 1)[:, None]
    y, places, window = q_THd.new_empty(T, H * v_TGe.shape[-1]), torch.arange(T), T if window is None else window
    step = max(1, TILE // (H * T))
    for low in range(0, T, step):
        high, begin = min(low + step, T), max(0, low - window + 1)
        back = places[low:high, None] - places[begin:high]
        scores = (q_GhTd[:, :, low:high] @ k_G1dT[..., begin:high]).masked_fill_(
            (back < 0) | (back >= window), -torch.inf
        )
        y[low:high] = (_softmax(scores, sink_H) @ v_G1Te[:, :, begin:high]).permute(2, 0, 1, 3).flatten(1)
    return y


def _softmax(scores_Ghts: Tensor, sink_H: Tensor | None) -> Tensor:
    if sink_H is None:
        return scores_Ghts.softmax(-1)
    sink = sink_H.view(*scores_Ghts.shape[:2], 1, 1).expand(*scores_Ghts.shape[:-1], 1)
    return torch.cat([scores_Ghts, sink], -1).softmax(-1)[..., :-1]


def rms(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    """x over the root of the mean of its squares, times a weight, over the last axis."""
    return weight * (x * torch.rsqrt(x.square().mean(-1, keepdim=True) + eps))


class Standard(NamedTuple):
    """Queries, keys and values by linear maps; the norms and the clipping between them and the rotation are optional.

    normed: "" none, "all" over all heads of a token together, "head" over each.
    """

    path: str
    heads: int
    groups: int
    q: Matrix
    k: Matrix
    v: Matrix
    o: Matrix
    turn: Rotation
    eps: float
    normed: str = ""
    clip: float | None = None
    window: int | None = None

    def matrices(self) -> list[Matrix]:
        """In the order in which they are used."""
        return [self.q, self.k, self.v, self.o]

    def vectors(self) -> list[str]:
        """Norms."""
        return [f"{self.path}.{one}_norm.weight" for one in "qk"] if self.normed else []

    def __call__(self, pieces: Pieces, x: Rows, spans: Spans, watch: Watch | None) -> Rows:
        given = {"q": self.q, "k": self.k, "v": self.v}
        q, k, v = (self._changed(pieces, pieces.linear(x, one), name) for name, one in given.items())
        y = attend(q, k, v, spans, self.heads, self.groups, window=self.window, turn=self.turn, watch=watch)
        return pieces.linear(y, self.o)

    def _changed(self, pieces: Pieces, x: Rows, name: str) -> Rows:
        if self.normed and name != "v":
            weight = pieces.vector(f"{self.path}.{name}_norm.weight")
            x = x.map(lambda part: rms(part.view(len(part), -1, len(weight)), weight, self.eps).flatten(1))
        return x if self.clip is None else x.map(lambda part: part.clamp(-self.clip, self.clip))  # type: ignore[operator]
