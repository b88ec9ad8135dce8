"""Rotary position embedding: turn each pair of channels by an angle proportional to the position. arXiv:2104.09864."""

from functools import lru_cache

import torch
from torch import Tensor


def _angles(length: int, width: int, base: float, device: torch.device, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    inverse = base ** (-torch.arange(0, width, 2, device=device, dtype=torch.float32) / width)
    angle_Td = torch.arange(length, device=device, dtype=torch.float32)[:, None] * inverse
    sin, cos = angle_Td.sin(), angle_Td.cos()
    return torch.cat([cos, cos], -1).to(dtype), torch.cat([-sin, sin], -1).to(dtype)  # the sign of the half-swap below


@lru_cache(maxsize=32)
def _kept(length: int, width: int, base: float, device: torch.device, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    with torch.inference_mode(False):  # a table first made under inference mode must still serve training
        return _angles(length, width, base, device, dtype)


def rotary(x_BHTd: Tensor, base: float = 10_000.0) -> Tensor:
    """Queries or keys (..., T, d), d even, rotated by their position; channel i is paired with i + d/2 as in Llama."""
    T, d = x_BHTd.shape[-2:]
    tracing = torch.compiler.is_compiling() or type(x_BHTd) is not Tensor  # a fake tensor must not get into the cache
    cos, sin = (_angles if tracing else _kept)(T, d, base, x_BHTd.device, x_BHTd.dtype)
    return torch.addcmul(x_BHTd * cos, x_BHTd.roll(d // 2, -1), sin)  # unlike slices, a roll has a cheap backward
