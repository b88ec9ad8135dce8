"""Rotary position embedding: turn each pair of channels by an angle proportional to the position. arXiv:2104.09864."""

from functools import lru_cache

import torch
from torch import Tensor


@lru_cache(maxsize=32)
def _angles(length: int, width: int, base: float, device: torch.device, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    inverse = base ** (-torch.arange(0, width, 2, device=device, dtype=torch.float32) / width)
    angle_Td = torch.arange(length, device=device, dtype=torch.float32)[:, None] * inverse
    angle_Td = torch.cat([angle_Td, angle_Td], dim=-1)
    sin = angle_Td.sin()
    sin[:, : width // 2] *= -1  # the sign of the half-swap below, folded into the table
    return angle_Td.cos().to(dtype), sin.to(dtype)


def rotary(x_BHTd: Tensor, base: float = 10_000.0) -> Tensor:
    """Queries or keys (..., T, d), d even, rotated by their position; channel i is paired with i + d/2 as in Llama."""
    T, d = x_BHTd.shape[-2:]
    cos, sin = _angles(T, d, base, x_BHTd.device, x_BHTd.dtype)
    swapped = torch.cat([x_BHTd[..., d // 2 :], x_BHTd[..., : d // 2]], dim=-1)
    return torch.addcmul(x_BHTd * cos, swapped, sin)
