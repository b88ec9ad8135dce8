"""What every check does: ask the candidate on copies of its arguments, and look at what comes back, before judging."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from explorer.kernels.experts.activation import activate
from explorer.lessons.exercise import Wrong

Candidate = Callable[..., Any]


def ask(candidate: Candidate, *arguments: Any) -> Any:
    """What the candidate returns for copies of the arguments: one that writes into its arguments spoils nothing."""
    return candidate(*(one.detach().clone() if isinstance(one, Tensor) else one for one in arguments))


def tensor(given: Any, shape: tuple[int, ...], what: str = "The result") -> Tensor:
    """`given` if it is a tensor of that shape; Wrong says what it is instead."""
    if given is None:
        raise Wrong(f"{what} is None: is there a `return` at the end of your function?")
    if not isinstance(given, Tensor):
        raise Wrong(f"{what} is a {type(given).__name__}, and should be a torch tensor.")
    if tuple(given.shape) != shape:
        raise Wrong(f"{what} has the shape {tuple(given.shape)}, and should have {shape}.")
    return given


def one_number(given: Any) -> Tensor:
    """`given` as a scalar of float64, if it is a number or a tensor of one; Wrong says what it is instead."""
    if given is None:
        raise Wrong("The result is None: is there a `return` at the end of your function?")
    if not hasattr(given, "shape") and not isinstance(given, int | float):
        raise Wrong(f"The result is a {type(given).__name__}, and should be one number.")
    found = torch.as_tensor(given).detach().double()
    if found.numel() != 1:
        raise Wrong(f"One number is asked for, and yours has the shape {tuple(found.shape)}.")
    return found.reshape(())


def pair(given: Any, shape: tuple[int, ...]) -> tuple[Tensor, Tensor]:
    """`given` if it is (weights, index), two tensors of that shape, the second of integers."""
    if not isinstance(given, tuple | list) or len(given) != 2:
        raise Wrong("Return two things, `weights, index`, in this order.")
    weights, index = (
        tensor(given[0], shape, "The first result, weights,"),
        tensor(given[1], shape, "The second, index,"),
    )
    if index.is_floating_point() or index.dtype == torch.bool:
        raise Wrong(
            "The second result must hold the experts' numbers, which are integers: weights first, index second."
        )
    return weights, index


def spread(weights: Tensor, index: Tensor, n_experts: int) -> Tensor:
    """(N, E): each expert's weight at its own place, so that the order of the slots does not matter."""
    return torch.zeros(len(weights), n_experts).scatter_add(1, index.long(), weights.float())


def same(a: Any, b: Any, tolerance: float = 1e-5) -> bool:
    """Whether two tensors, or a tensor and a number, are equal but for rounding."""
    a, b = torch.as_tensor(a).detach().double(), torch.as_tensor(b).detach().double()
    return a.shape == b.shape and torch.allclose(a, b, rtol=tolerance, atol=tolerance)


def rule_out(given: Any, *wrong: tuple[Any, str]) -> None:
    """Raise the hint of the first wrong answer that `given` is; pairs of such an answer and its hint."""
    for answer, hint in wrong:
        if same(given, answer):
            raise Wrong(hint)


def numbers(seed: int, *shape: int) -> Tensor:
    """Normal numbers, the same for the same seed, and nobody else's randomness is touched."""
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def expert_functions(up_EDG: Tensor) -> list[Callable[[Tensor], Tensor]]:
    """The experts of a layer as functions from (n, D) to (n, D): one matrix of up_EDG and a gated activation each."""

    def function(up_DG: Tensor) -> Callable[[Tensor], Tensor]:
        return lambda x: activate(x @ up_DG, "swiglu")

    return [function(up_DG) for up_DG in up_EDG]
