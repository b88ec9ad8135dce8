"""How much a network that learns one task after the other still knows, from the accuracy of every task after every stage."""

import torch
from torch import Tensor

from explorer.errors import BadValue
from explorer.metrics.checks import real


def forgetting(accuracy_SA: Tensor) -> Tensor:
    """Mean over all tasks but the last of: the best accuracy a task had after an earlier stage, minus the one it has now.

    accuracy_SA: row s holds the accuracies after stage s, column a those of task a; what lies above the diagonal is not read.
    A scalar. 0: nothing was lost; 1: all of it; below 0: later tasks helped. Source: Chaudhry et al., arXiv 1801.10112, eq. 3.
    """
    S = _square(accuracy_SA)
    known = real(accuracy_SA).masked_fill(_before(S, accuracy_SA.device), -torch.inf)
    return (known[:-1, :-1].amax(0) - known[-1, :-1]).mean()


def incremental_accuracy(accuracy_SA: Tensor) -> Tensor:
    """Average incremental accuracy: the mean over stages of the mean over the tasks seen so far. A scalar from 0 to 1.

    accuracy_SA as in `forgetting`. Tasks count alike, whatever number of pictures they have. Source: iCaRL, arXiv 1611.07725.
    """
    S = _square(accuracy_SA, least=1)
    known = real(accuracy_SA).masked_fill(_before(S, accuracy_SA.device), 0.0)
    return (known.sum(1) / torch.arange(1, S + 1, device=accuracy_SA.device)).mean()


def _before(S: int, device: torch.device) -> Tensor:
    """Where a task (column) had not begun yet at a stage (row)."""
    return torch.ones(S, S, dtype=torch.bool, device=device).triu(1)


def _square(accuracy_SA: Tensor, least: int = 2) -> int:
    if accuracy_SA.ndim != 2 or accuracy_SA.shape[0] != accuracy_SA.shape[1] or len(accuracy_SA) < least:
        shape = tuple(accuracy_SA.shape)
        raise BadValue(
            f"accuracy_SA must have a row and a column for each of at least {least} tasks, not the shape {shape}"
        )
    return len(accuracy_SA)
