"""AdamW (arXiv:1711.05101) over torch's fused kernel.

Not torch.optim: importing that pulls in the compiler, two seconds of processor time and 75 MB that a small page cannot spare.
"""

from dataclasses import dataclass, field

import torch
from torch import Tensor


@dataclass
class Group:
    """Parameters that share a learning-rate multiplier and a weight decay."""

    params: list[Tensor]
    scale: float = 1.0
    weight_decay: float = 0.0
    first: list[Tensor] = field(default_factory=list)  # running mean of the gradient
    second: list[Tensor] = field(default_factory=list)  # running mean of its square
    steps: list[Tensor] = field(default_factory=list)  # how many each parameter has taken: views of `taken`

    def __post_init__(self) -> None:
        self.first = [torch.zeros_like(p) for p in self.params]
        self.second = [torch.zeros_like(p) for p in self.params]
        self.taken = torch.zeros(len(self.params), dtype=torch.float32, device=self.params[0].device)
        self.steps = list(self.taken.unbind())


class AdamW:
    """One `step(learning_rate)` moves every parameter that has a gradient and clears the gradients."""

    def __init__(self, groups: list[Group], betas: tuple[float, float] = (0.9, 0.99), eps: float = 1e-8) -> None:
        self.groups, self.betas, self.eps = groups, betas, eps

    def forget(self) -> None:
        """Begin anew, as at step 0: what was remembered of gradients belongs to a task that is over."""
        for group in self.groups:
            for moment in (*group.first, *group.second, group.taken):
                moment.zero_()

    def gradient_norm(self) -> Tensor:
        """Euclidean norm over all gradients."""
        norms = torch._foreach_norm([p.grad for g in self.groups for p in g.params if p.grad is not None])
        return torch.linalg.vector_norm(torch.stack(norms))

    @torch.no_grad()
    def step(self, learning_rate: float, gradient_scale: float = 1.0) -> None:
        for group in self.groups:
            have = [i for i, p in enumerate(group.params) if p.grad is not None]
            if not have:
                continue
            params = [group.params[i] for i in have]
            grads = [p.grad for p in params if p.grad is not None]  # all of them: said for the type checker
            if gradient_scale != 1.0:
                torch._foreach_mul_(grads, gradient_scale)
            steps = [group.steps[i] for i in have]
            if len(have) == len(group.params):
                group.taken += 1  # one operation instead of one a parameter
            else:
                torch._foreach_add_(steps, 1.0)
            torch._fused_adamw_(
                params, grads, [group.first[i] for i in have], [group.second[i] for i in have], [], steps,
                lr=learning_rate * group.scale, beta1=self.betas[0], beta2=self.betas[1],
                weight_decay=group.weight_decay, eps=self.eps, amsgrad=False, maximize=False,
            )  # fmt: skip
            for p in params:
                p.grad = None
