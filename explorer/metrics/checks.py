"""What every metric asks of its input: shapes that fit, the right kind of number, and no waiting for a device."""

import torch
from torch import Tensor

from explorer.errors import BadValue


def real(x: Tensor) -> Tensor:
    """`x` in a type that sums and logarithms can be trusted in: half precision as float32, integers as float64."""
    if x.is_floating_point():
        return x if x.dtype in (torch.float32, torch.float64) else x.float()
    return x.to(torch.float32 if x.device.type == "mps" else torch.float64)  # Apple's GPUs have no float64


def need_integers(name: str, x: Tensor) -> None:
    """Raise unless `x` holds integers (a bool or float tensor is nearly always the wrong argument)."""
    if x.is_floating_point() or x.is_complex() or x.dtype == torch.bool:
        raise BadValue(f"{name} must hold integers, not {x.dtype}")


def need_axes(name: str, x: Tensor, axes: str) -> None:
    """Raise unless `x` has one dimension for each letter in `axes`, for example "B H T S"."""
    if x.dim() != len(axes.split()):
        raise BadValue(f"{name} must have the axes {axes}, not the shape {tuple(x.shape)}")


def need_last(name: str, x: Tensor, letter: str) -> None:
    """Raise unless `x` has a last axis with at least one entry."""
    if x.dim() == 0 or x.shape[-1] == 0:
        raise BadValue(f"{name} needs a last axis {letter} of at least one entry, not the shape {tuple(x.shape)}")


def need_same_shape(name_a: str, a: torch.Size, name_b: str, b: torch.Size) -> None:
    """Raise unless both shapes are equal."""
    if a != b:
        raise BadValue(f"{name_a} has the shape {tuple(a)} and {name_b} {tuple(b)}: they must be equal")


def need_at_least(name: str, value: int, low: int) -> None:
    """Raise if a size is below `low`."""
    if value < low:
        raise BadValue(f"{name} must be at least {low}, not {value}")


def need_codes(name: str, x: Tensor, n: int) -> None:
    """Raise if an integer of `x` is `n` or more.

    Only on the CPU and in eager mode: elsewhere the look would wait for the device, or break the compiled graph.
    """
    if x.device.type == "cpu" and x.numel() and not torch.compiler.is_compiling() and int(x.max()) >= n:
        raise BadValue(f"{name} holds {int(x.max())}, but the largest that fits {n} of them is {n - 1}")
