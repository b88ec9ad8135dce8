"""Which queries are asked where they look: all of them, or a sample whose mean is right on average (stratified)."""

from functools import lru_cache
from itertools import pairwise
from typing import NamedTuple

import torch
from torch import Tensor

ROWS = 64  # queries in a block
LAST = 64  # so many of the last queries are always asked: the keys at the end are seen by few others


class Span(NamedTuple):
    """One block: the asked queries start..end, whose numbers lie in low..high. Of a sample two of each stratum."""

    start: int
    end: int
    low: int
    high: int
    sampled: bool = False


class Asked(NamedTuple):
    """The numbers of the asked queries, how many queries each stands for, and the blocks to ask them in."""

    queries: Tensor | None  # (R,) None: all, in their order
    weights: Tensor | None  # (R,)
    spans: tuple[Span, ...]


def everyone(T: int, rows: int) -> Asked:
    """All queries, a block of `rows` at a time."""
    return Asked(None, None, tuple(_spans(0, T, rows, 0)))


def some(T: int, stride: int, rows: int) -> Asked:
    """About one query in `stride`: two at random of each 2 * stride; the first query and the last ones for certain.

    The same queries each time, so that a curve over training does not jump because others were asked.
    """
    strata = max(0, (T - 1 - LAST) // (2 * stride))
    if not strata or stride == 1:
        return everyone(T, rows)
    end = 1 + strata * 2 * stride
    pairs = _places(T, stride)
    queries = torch.cat([torch.zeros(1, dtype=torch.int64), pairs, torch.arange(end, T)])
    weights = torch.ones(len(queries)).index_fill_(0, torch.arange(1, 1 + 2 * strata), stride)
    spans = [Span(0, 1, 0, 1)]
    block = max(1, rows // 2)
    for i in range(0, strata, block):
        j = min(i + block, strata)
        spans.append(Span(1 + 2 * i, 1 + 2 * j, 1 + i * 2 * stride, 1 + j * 2 * stride, sampled=True))
    return Asked(queries, weights, (*spans, *_spans(end, T, rows, 1 + 2 * strata)))


def _spans(low: int, high: int, rows: int, start: int) -> list[Span]:
    """Blocks of the queries low..high, the first of which is the asked one of number `start`."""
    edges = [*range(low, high, rows), high]
    return [Span(a - low + start, b - low + start, a, b) for a, b in pairwise(edges)]


@lru_cache(maxsize=32)
def _places(T: int, stride: int) -> Tensor:
    """(2 * strata,) two different queries of each stratum, from a generator of its own: nobody's seed is used up."""
    strata = (T - 1 - LAST) // (2 * stride)
    with torch.inference_mode(False):
        within = torch.rand(strata, 2 * stride, generator=torch.Generator().manual_seed(T)).topk(2).indices
        return (within + 1 + torch.arange(strata)[:, None] * 2 * stride).flatten()


# what torch.compiler.assume_constant_result does, which would import the compiler: two seconds for everybody
_places._dynamo_marked_constant = True  # type: ignore[attr-defined]
