"""How alike the experts of a layer are, judged by the same few rows of the matrices of each: whole layers are never read."""

import random
from typing import NamedTuple

import torch
from torch import Tensor

from explorer import metrics
from explorer.checkpoints.files import CheckpointError, each
from explorer.checkpoints.layouts import Block, Matrix
from explorer.checkpoints.streaming.quantised import BLOCKS, dequantised, is_quantised
from explorer.checkpoints.weights import Weights

RUN = 4  # neighbouring rows that are read together


class Similarity(NamedTuple):
    """cosine: of what was sampled of every two experts, the mean over the kinds of matrices, float64 (E, E), -1..1.

    Experts that began as copies of one are near 1; those trained from random numbers near 0, whatever they do: which
    neuron of one expert is like which of another is not looked for. `sample` says how much was read.
    """

    cosine: Tensor
    sample: str


def similarity(weights: Weights, block: Block, rows: int = 16, seed: int = 0) -> Similarity:
    """Compare the experts of a block by `rows` rows of each kind of matrix."""
    if type(rows) is not int or rows < 1:
        raise CheckpointError(f"rows = {rows!r} should be a whole number from 1")
    if not block.matrices:
        raise CheckpointError(f"the experts of {block.path} are kept in a way that is not read here")
    matrices = block.matrices
    experts = min(count(weights, one) for one in matrices)  # some of LongCat's do nothing, and have no last matrix
    size = sum(experts * min(rows, one.rows) * one.width * 8 for one in matrices) + experts * experts * 16
    weights.need(size, f"a sample of {rows} rows of {experts:,} experts")
    generator, total, told = random.Random(seed), torch.zeros(experts, experts, dtype=torch.float64), []
    for one in matrices:
        starts = _starts(one.rows, rows, generator)
        pieces = [(one, e, start, length) for e in range(experts) for start, length in starts]
        read = each(lambda piece: _piece(weights, *piece), pieces, weights.source)
        flat_EX = torch.stack(read).reshape(experts, -1)
        total += metrics.cosine(flat_EX)
        told.append(f"{sum(length for _, length in starts)} of {one.rows} rows of {one.kind}")
    return Similarity(total / len(matrices), f"{', '.join(told)}, the same of each of {experts} experts (seed {seed})")


def count(weights: Weights, one: Matrix) -> int:
    """How many experts have a matrix of this kind."""
    return len(one.names) if len(one.names) > 1 else weights.shape(one.names[0])[0] // _stride(weights, one)


def _stride(weights: Weights, one: Matrix) -> int:
    """Entries of the first axis that belong to one expert: 1 where experts have an axis of their own."""
    return one.rows if len(weights.shape(one.names[0])) == 2 else 1


def _starts(of: int, rows: int, generator: random.Random) -> list[tuple[int, int]]:
    """Runs of neighbouring rows, all of one length, that do not overlap: (first, how many)."""
    length = min(RUN, rows, of)
    places = generator.sample(range(of // length), min(max(1, rows // length), of // length))
    return [(place * length, length) for place in sorted(places)]


def _piece(weights: Weights, one: Matrix, expert: int, start: int, length: int) -> Tensor:
    """(length, C) numbers of one expert's matrix."""
    if len(one.names) > 1:
        return _numbers(weights, one.names[expert], start, length)
    first = expert * one.rows + start
    if one.packed:
        return dequantised(weights, one.names[0].removesuffix(BLOCKS), first, length)
    return _numbers(weights, one.names[0], first, length)


def _numbers(weights: Weights, name: str, first: int, length: int) -> Tensor:
    """Float8 without factors is taken as it is."""
    if is_quantised(weights, name):
        return dequantised(weights, name, first, length)
    return weights.numbers(name, first, length)
