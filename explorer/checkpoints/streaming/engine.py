"""The forward pass of a checkpoint that may be larger than memory, up to its last router: no more is needed to see it route."""

from collections.abc import Callable, Iterator, Sequence
from itertools import pairwise
from typing import Any, NamedTuple

import torch
from torch import Tensor

from explorer.checkpoints.files import CheckpointError, each
from explorer.checkpoints.streaming.attention import Spans, Watch, rms
from explorer.checkpoints.streaming.clock import Clock, Progress, StoppedError
from explorer.checkpoints.streaming.decide import Sums
from explorer.checkpoints.streaming.decoders import Decoder, Layer, Routed
from explorer.checkpoints.streaming.pieces import PIECE, Pieces
from explorer.checkpoints.streaming.rows import Rows
from explorer.checkpoints.weights import Weights

__all__ = ["LayerDone", "Progress", "stream"]

NEAR = 1 << 16  # bytes between two rows of the embedding that are rather read than asked for separately


class LayerDone(NamedTuple):
    """What one layer did with N tokens, those of the sequences one after the other.

    path: of the routed block; None (and the next four too): a dense layer. logits and probs (N, E): only if asked for.
    entropy and margin: means over the tokens, of metrics.token_entropy and of metrics.margin at the last expert chosen.
    attention: the taps `first`, `elsewhere`, `entropy` (B, H) and `received` (B, H, S), if asked for.
    """

    layer: int
    path: str | None
    index: Tensor | None  # type: ignore[assignment]  # a tuple has a method of this name
    weights: Tensor | None
    logits: Tensor | None
    probs: Tensor | None
    entropy: float
    margin: float
    attention: dict[str, Tensor]
    attention_path: str
    bytes_read: int


def stream(
    weights: Weights,
    decoder: Decoder,
    sequences: Sequence[Tensor | list[int]],
    *,
    attention: bool = False,
    scores: bool = True,
    progress: Callable[[Progress], None] | None = None,
    stop: Callable[[], bool] | None = None,
    piece_bytes: int = PIECE,
) -> Iterator[LayerDone]:
    """Each layer as soon as its tokens are routed: those that route, and with `attention` the dense ones as well.

    Every weight that is needed is read once, whatever the number of tokens; of the experts, those that some token chose.
    stop: asked before each piece of a weight; True ends it, so that some layers are missing. No text is made: the last
    layer's experts and the head are not read.
    """
    ids = _ids(sequences, decoder)
    last = max((i for i, layer in enumerate(decoder.layers) if attention or layer.routed is not None), default=-1)
    layers = decoder.layers[: last + 1]
    pass_ = _Pass(weights, decoder, layers, ids, Clock(progress, stop), piece_bytes)
    with pass_.pieces:
        try:
            pass_.embed(torch.cat(ids))
            for i, layer in enumerate(layers):
                taps = pass_.attend(i, layer, attention)
                x = pass_.normed(layer.norms[1])
                done = pass_.route(i, layer, x, scores, taps)
                if attention or layer.routed is not None:
                    yield done
                if i < last:
                    pass_.feed_forward(i, layer, x, done)
        except StoppedError:
            return


class _Pass:
    """The residual stream h (N, D), and how it goes on."""

    def __init__(
        self, weights: Weights, decoder: Decoder, layers: list[Layer], ids: list[Tensor], clock: Clock, piece_bytes: int
    ) -> None:
        self.decoder, self.layers, self.clock = decoder, layers, clock
        self.pieces = Pieces(weights, piece_bytes, self._pulse)
        ends = torch.tensor([0, *map(len, ids)]).cumsum(0).tolist()
        self.spans: Spans = list(pairwise(ends))
        self.longest = max(map(len, ids))
        self.h = Rows(ends[-1], decoder.width)
        self._bytes = [layer.bytes(self.pieces) for layer in layers]
        self._bytes[-1:] = [one._replace(shared=0, experts=0) for one in self._bytes[-1:]]
        self._at, self._what = 0, "embeddings"
        self._due, self._from = 0, 0  # bytes that the step under way takes, and what was read before it
        self._used = (0, 0)  # experts that were chosen, of how many

    def embed(self, ids_N: Tensor) -> None:
        """The rows of the tokens that occur; near ones are read together."""
        first = self.layers[0]
        self.pieces.soon(first.vectors())
        weights, name = self.pieces.weights, self.decoder.embedding
        known, place_N = ids_N.unique(return_inverse=True)
        stored = weights.tensors[name]
        near = max(1, NEAR * weights.source.at_once * stored.shape[0] // max(1, stored.end - stored.start))
        cuts = (known.diff() > near).nonzero().flatten() + 1
        runs = [(int(run[0]), int(run[-1]) + 1, run) for run in known.tensor_split(cuts)]
        row = (stored.end - stored.start) // max(1, stored.shape[0])
        weights.source.soon((stored.file, stored.start + a * row, stored.start + b * row) for a, b, _ in runs)
        table = Rows(len(known), self.decoder.width)
        at = 0
        for read in _chunks(runs, max(1, self.pieces.weights.source.at_once)):
            for (a, _, run), rows in zip(
                read, each(lambda r: _rows(weights, name, r), read, weights.source), strict=True
            ):
                table[at : at + len(run)] = rows[run - a]
                at += len(run)
        self.pieces.coming(first.attention.matrices())
        for part in self.h.waves():
            self.h[part] = table[place_N[part]]
            table.rest()

    def normed(self, name: str) -> Rows:
        """The stream through a norm."""
        weight = self.pieces.vector(name)
        return self.h.map(lambda part: rms(part, weight, self.decoder.eps))

    def attend(self, i: int, layer: Layer, watched: bool) -> dict[str, Tensor]:
        """The first half of a layer; what its attention did, if that is watched."""
        self._now(i, "attention", self._bytes[i].fixed)
        watch = Watch(len(self.spans), layer.attention.heads, self.longest) if watched else None
        self.h.add(layer.attention(self.pieces, self.normed(layer.norms[0]), self.spans, watch))
        return {} if watch is None else watch.taps()

    def route(self, i: int, layer: Layer, x: Rows, scores: bool, taps: dict[str, Tensor]) -> LayerDone:
        """Who goes where."""
        self._pulse()
        about = (layer.attention.path, self.pieces.bytes_read)
        if layer.routed is None:
            return LayerDone(i, None, None, None, None, None, float("nan"), float("nan"), taps, *about)
        routed, found, sums = layer.routed, list[tuple[Tensor, ...]](), Sums()
        for part in x.waves(routed.experts):
            logits_nE = routed.logits(self.pieces, x[part])
            made = routed.rule.decide(logits_nE, routed.bias(self.pieces))
            sums = sums.plus(made.probs, routed.rule.chosen)
            found.append((made.index, made.weights, *((logits_nE, made.probs) if scores else ())))
        index_NK, weights_NK, *both = (torch.cat(one) for one in zip(*found, strict=True))
        logits, probs = both or (None, None)
        means = (sums.entropy / sums.n, sums.margin / sums.n)
        return LayerDone(i, routed.path, index_NK, weights_NK, logits, probs, *means, taps, *about)

    def feed_forward(self, i: int, layer: Layer, x: Rows, done: LayerDone) -> None:
        """The second half of a layer, and what the next one begins with is under way."""
        after = self.layers[i + 1]
        self.pieces.soon(after.vectors())
        if layer.routed is not None and done.index is not None and done.weights is not None:
            self._experts(i, layer.routed, x, done.index, done.weights, after)
        else:
            self._now(i, "dense block", self._bytes[i].shared)
        shared = layer.always
        if layer.routed is None:
            self.pieces.coming([*(m for one in shared for m in one.matrices()), *after.attention.matrices()])
        for one in shared:
            self.h.add(one(self.pieces, x))
        self.pieces.forget(layer.vectors())

    def _experts(self, i: int, routed: Routed, x: Rows, index_NK: Tensor, weights_NK: Tensor, after: Layer) -> None:
        chosen = sorted(index_NK.unique().tolist(), key=lambda e: self.pieces.place(routed.block.matrices(e)[0]))
        self._used = (self._used[0] + len(chosen), self._used[1] + routed.experts)
        matrices = [m for e in chosen for m in routed.block.matrices(e)]
        self.pieces.coming(
            [*matrices, *(m for one in routed.shared for m in one.matrices()), *after.attention.matrices()]
        )
        self._now(
            i,
            f"{len(chosen)} of {routed.experts} experts",
            sum(map(self.pieces.size, matrices)) + self._bytes[i].shared,
        )
        flat = index_NK.flatten()
        order = flat.argsort(stable=True)
        counts = torch.bincount(flat, minlength=routed.experts)
        ends = counts.cumsum(0)
        y = Rows(x.n, x.width)
        for e in chosen:
            slots = order[int(ends[e] - counts[e]) : int(ends[e])]
            rows = slots // index_NK.shape[1]
            y.add_at(rows, routed.block(self.pieces, x.take(rows), e), weights_NK.flatten()[slots])
        self.h.add(y)

    # -- how far it is ---------------------------------------------------------------------------------------------
    def _now(self, i: int, what: str, due: int) -> None:
        """What begins, and how many bytes it takes."""
        self._at, self._what, self._due, self._from = i, what, due, self.pieces.bytes_read
        self.clock.now()
        self._pulse()

    def _pulse(self) -> None:
        share = self._used[0] / self._used[1] if self._used[1] else self._guess()
        later = sum(int(one.fixed + one.shared + share * one.experts) for one in self._bytes[self._at + 1 :])
        read = self.pieces.bytes_read
        left = max(0, self._due - (read - self._from)) + later
        self.clock.tick(self._at, len(self.decoder.layers), read, left, self._what)

    def _guess(self) -> float:
        """The share of the experts that N tokens choose, were the choice even."""
        routed = next((one.routed for one in self.layers if one.routed is not None), None)
        return 1.0 if routed is None else 1 - (1 - routed.rule.chosen / routed.experts) ** self.h.n


def _ids(sequences: Sequence[Tensor | list[int]], decoder: Decoder) -> list[Tensor]:
    """Checked token ids, each (T,) int64."""
    if not len(sequences):
        raise CheckpointError("there is no sequence of tokens to trace")
    made = []
    for i, one in enumerate(sequences):
        ids = torch.as_tensor(one)
        if ids.ndim != 1 or not len(ids) or ids.is_floating_point() or ids.dtype == torch.bool:
            raise CheckpointError(f"sequence {i} should be a row of one or more token ids")
        low, high = int(ids.min()), int(ids.max())
        if low < 0 or high >= decoder.vocabulary:
            wrong = low if low < 0 else high
            raise CheckpointError(
                f"sequence {i} has the token id {wrong}: this model knows 0 to {decoder.vocabulary - 1}"
            )
        if decoder.longest is not None and len(ids) > decoder.longest:
            raise CheckpointError(
                f"sequence {i} has {len(ids):,} tokens: beyond {decoder.longest:,} its positions change"
            )
        made.append(ids.long())
    return made


def _rows(weights: Weights, name: str, run: tuple[int, int, Any]) -> Tensor:
    return weights.numbers(name, run[0], run[1] - run[0]).float()


def _chunks(items: list[Any], size: int) -> Iterator[list[Any]]:
    for i in range(0, len(items), size):
        yield items[i : i + size]
