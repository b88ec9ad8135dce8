"""What one step of a router leaves in a recording for good: its counts, and how sure and how empty it was.

Summed up for many steps at once: for a single one each operation costs more than the few numbers it works on.
"""

import torch
from torch import Tensor

from explorer import metrics

STEPS = 32
BYTES = 2**22  # 4 MiB: a large step is summed up alone


class Waiting:
    """Copies of the newest steps of one router, as its mechanism may use the tensors again."""

    def __init__(self) -> None:
        self.clear()

    def clear(self) -> None:
        """Nothing waits."""
        self.steps: list[int] = []
        self.index: list[Tensor] = []
        self.probs: list[Tensor | None] = []

    def takes(self, index: Tensor, probs: Tensor | None) -> bool:
        """Whether a step fits to those that wait: of the same shapes, and not too many of them."""
        if not self.steps:
            return True
        alike = _shape(self.index[0]) == _shape(index) and _shape(self.probs[0]) == _shape(probs)
        size = sum(one.numel() * one.element_size() for one in (index, probs) if one is not None)
        return alike and len(self.steps) < min(STEPS, BYTES // max(1, size))

    def add(self, step: int, index: Tensor, probs: Tensor | None) -> None:
        """Let a step wait."""
        self.steps.append(step)
        self.index.append(index.clone())
        self.probs.append(None if probs is None else probs.clone())

    def rows(self, n_experts: int | None) -> dict[str, Tensor]:
        """Table -> (S, columns), float64 on the CPU, the step first; afterwards nothing waits."""
        if not self.steps:
            return {}
        step, index = torch.tensor(self.steps, dtype=torch.float64)[:, None], torch.stack(self.index).flatten(1)
        tables = {"loads": torch.cat([step, counts(index, n_experts).double().cpu()], 1)}
        if self.probs[0] is not None:
            probs = torch.stack([one for one in self.probs if one is not None])
            tables["routing"] = torch.cat([step, routing(probs, index, self.index[0].shape[-1]).double().cpu()], 1)
        self.clear()
        return tables


def counts(index_SN: Tensor, n_experts: int | None) -> Tensor:
    """(S, 1 + E): how many slots are empty (-1), and how many went to each expert."""
    S, width = len(index_SN), 1 + (int(index_SN.max()) + 1 if n_experts is None else n_experts)
    place = index_SN + 1 + torch.arange(0, S * width, width, device=index_SN.device)[:, None]
    return torch.bincount(place.flatten(), minlength=S * width).view(S, width)


def routing(probs: Tensor, index_SN: Tensor, K: int) -> Tensor:
    """(S, 3): token entropy, mean margin of the k-th choice, share of empty slots."""
    E = probs.shape[-1]
    entropy = metrics.token_entropy(probs, keep=1)
    k = max(1, min(K, E - 1))
    margin = metrics.margin(probs, k).flatten(1).mean(1) if E > 1 else torch.full_like(entropy, torch.nan)
    return torch.stack([entropy, margin, (index_SN < 0).to(entropy.dtype).mean(1)], 1)


def _shape(tensor: Tensor | None) -> torch.Size | None:
    return None if tensor is None else tensor.shape
