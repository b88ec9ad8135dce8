"""Long runs as short curves: the mean of each of at most `points` stretches of equal length."""

import torch
from torch import Tensor


def binned(rows: Tensor, points: int = 150) -> Tensor:
    """(S, ...) -> at most `points` rows, each the mean of as many neighbours (the last of what is left).

    How many is a power of two: a stretch keeps its value until the next doubling, so the curve behind does not wobble.
    """
    S = len(rows)
    size = 1 << max(0, -(-S // points) - 1).bit_length()
    if size <= 1:
        return rows
    whole = S // size * size
    means = rows[:whole].unflatten(0, (-1, size)).mean(1)
    return means if whole == S else torch.cat([means, rows[whole:].mean(0, keepdim=True)])
