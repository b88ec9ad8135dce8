"""Readings of attention in blocks: how much of it the chosen blocks hold, and what leaving the others out costs.

All rows of blocks choose alike here: the last two, which the mechanism keeps whole, count as the others do. Patterns to be
compared with keep as many blocks: at random, or the better of two that need no gate, the nearest blocks with the
first one or without it.
"""

from collections.abc import Callable

import torch
from torch import Tensor

from explorer.kernels.block_attention import block_recall, choose_blocks
from explorer.readings.run import Run, reads


@reads()
def block_recall_of_gate(run: Run) -> Tensor:
    """Share of the attention within the blocks that the gate chooses, mean over layers and heads."""
    return _recall(run, lambda scores: scores)


@reads()
def block_recall_at_random(run: Run) -> Tensor:
    """The same for blocks chosen at random."""
    random = torch.Generator().manual_seed(run.experiment.seed)
    return _recall(run, lambda scores: torch.rand(scores.shape, generator=random))


@reads()
def block_recall_nearby(run: Run) -> Tensor:
    """The same for the nearest blocks, with the first block or without it: the better of the two."""
    return torch.maximum(_recall(run, nearest), _recall(run, lambda scores: nearest(scores, first=True)))


@reads()
def sparse_loss(run: Run) -> float:
    """Held-out loss when only the blocks are computed that the gate chooses."""
    return run.experiment.fork(sparse=True).examine()[0]


def nearest(scores_BHMM: Tensor, first: bool = False) -> Tensor:
    """Scores that prefer the blocks nearest to a row's own, and with `first` the first block even to those."""
    place = torch.arange(scores_BHMM.shape[-1])
    near_MM = -(place[:, None] - place).abs().float()
    if first:
        near_MM[:, 0] = 1
    return near_MM.expand_as(scores_BHMM)


def _recall(run: Run, scores: Callable[[Tensor], Tensor]) -> Tensor:
    """What `scores`, made of the gate's, would keep of the attention."""
    seen, density = run.look()[1], run.experiment.knobs.get("density", 1.0)
    recalls = []
    for path in seen.paths():
        if path.endswith("/block_mass"):
            ranked = scores(seen.last(f"{path.rpartition('/')[0]}/block_scores"))
            recalls.append(block_recall(seen.last(path), choose_blocks(ranked, density, 0), 0).mean())
    return torch.stack(recalls).mean() if recalls else torch.tensor(torch.nan)
