"""The modern Hopfield network: a memory of patterns that a state falls into. arXiv:2008.02217.

Stored patterns are the rows x_i of (..., N, d), states xi are (..., T, d), and the inverse temperature beta > 0 says how
sharply a state tells patterns apart. The axes in front (batch, heads) are the same in both. `may` (T, N), bool, says
which patterns a state knows of; every state knows at least one. All but `causal` can be differentiated.
"""

from collections.abc import Callable

import torch
from torch import Tensor

ROWS = 64  # states looked at in one go by `causal`: memory then grows with T, not with T squared


def association(state_Td: Tensor, patterns_Nd: Tensor, beta: float, may: Tensor | None = None) -> Tensor:
    """(..., T, N): softmax over the patterns of beta x_i . xi. Rows sum to one."""
    return _scores(state_Td, patterns_Nd, beta, may).softmax(-1)


def update(state_Td: Tensor, patterns_Nd: Tensor, beta: float, may: Tensor | None = None) -> Tensor:
    """(..., T, d): the next state, sum_i softmax_i(beta x_i . xi) x_i. It is attention whose values are its keys."""
    return association(state_Td, patterns_Nd, beta, may) @ patterns_Nd


def energy(state_Td: Tensor, patterns_Nd: Tensor, beta: float, may: Tensor | None = None) -> Tensor:
    """(..., T): E = -log(sum_i exp(beta x_i . xi)) / beta + |xi|^2 / 2 + log(N) / beta + M^2 / 2, with M the longest pattern.

    0 at the only pattern of a memory, at most 2 M^2 for a state no longer than M. `update` never makes it larger.
    """
    scores_TN = _scores(state_Td, patterns_Nd, beta, may)
    known = torch.ones_like(scores_TN, dtype=torch.bool) if may is None else may.expand_as(scores_TN)
    norm_TN = patterns_Nd.square().sum(-1)[..., None, :].expand_as(scores_TN)
    longest_T = norm_TN.masked_fill(~known, 0).amax(-1)
    spread_T = scores_TN.logsumexp(-1) - known.sum(-1).to(scores_TN.dtype).log()
    return (state_Td.square().sum(-1) + longest_T) / 2 - spread_T / beta


def metastable_size(
    state_Td: Tensor, patterns_Nd: Tensor, beta: float, may: Tensor | None = None, mass: float = 0.9
) -> Tensor:
    """(..., T): the fewest patterns that together get `mass` of a state's association; NaN where that is not a number.

    1: one pattern is retrieved. Some: the state stands between the patterns of a cluster. Nearly N: the mean of them all.
    """
    largest_TN = association(state_Td, patterns_Nd, beta, may).sort(-1, descending=True).values
    reached_TN = largest_TN.cumsum(-1)
    size_T = 1.0 + (reached_TN < mass - 1e-6).sum(-1)  # rounding: nine of ten even weights are 0.9
    return size_T.masked_fill(reached_TN[..., -1].isnan(), torch.nan)


def retrieve(
    state_Td: Tensor, patterns_Nd: Tensor, beta: float, most: int = 1000, tolerance: float = 1e-9
) -> list[Tensor]:
    """The state, and the state after every update until none moves by more than `tolerance`, or after `most` of them."""
    path = [state_Td]
    for _ in range(most):
        path.append(update(path[-1], patterns_Nd, beta))
        if (path[-1] - path[-2]).norm(dim=-1).max() <= tolerance:
            break
    return path


@torch.no_grad()
def causal(
    measure: Callable[[Tensor, Tensor, float, Tensor], Tensor], state_Td: Tensor, patterns_Td: Tensor, beta: float
) -> Tensor:
    """(..., T): `energy` or `metastable_size` where state t knows the patterns up to t; in float32 at least."""
    precision = torch.promote_types(state_Td.dtype, torch.float32)
    state_Td, patterns_Td = state_Td.to(precision), patterns_Td.to(precision)
    T, parts = state_Td.shape[-2], []
    for start in range(0, T, ROWS):
        end = min(start + ROWS, T)
        place = torch.arange(end, device=state_Td.device)
        may = place <= place[start:, None]
        parts.append(measure(state_Td[..., start:end, :], patterns_Td[..., :end, :], beta, may))
    return torch.cat(parts, -1)


def _scores(state_Td: Tensor, patterns_Nd: Tensor, beta: float, may: Tensor | None) -> Tensor:
    scores_TN = beta * (state_Td @ patterns_Nd.transpose(-1, -2))
    return scores_TN if may is None else scores_TN.masked_fill(~may, -torch.inf)
