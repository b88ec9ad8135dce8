"""The experiments behind the claims of heterogeneous_experts.py."""

import torch
from torch import Tensor

from explorer.catalogue import build
from explorer.taps import Instrumented, Listener, attach


def fit(seed: int, width: int, widest: int) -> tuple[Tensor, float]:
    """(width that each of eight kinds of points meets (C,), error) after 1000 steps; the first four kinds are easy.

    A point is the code of its kind and eight normal numbers; easy kinds map these linearly, hard ones by sines.
    """
    random = torch.Generator().manual_seed(seed)
    D, C = 16, 8
    map_CXD = torch.randn(C, D - C, D, generator=random) * (D - C) ** -0.5
    layer = build("heterogeneous-experts", d_model=D, width=width, widest=widest, aux_loss=0.1)
    assert isinstance(layer, Instrumented)
    heard: list[tuple[str, str, Tensor]] = []
    attach(layer, "", listener=Listener(frozenset({"cost"}), heard))
    adam = torch.optim.Adam(layer.parameters(), lr=5e-3)
    for step in range(1001):
        kind_N = torch.randint(C, (256 if step < 1000 else 4096,), generator=random)
        free_NX = torch.randn(len(kind_N), D - C, generator=random)
        x_ND = torch.cat([3 * torch.eye(C)[kind_N], free_NX], dim=1)
        flat_ND = torch.bmm(free_NX[:, None], map_CXD[kind_N])[:, 0]
        y_ND = torch.where(kind_N[:, None] < 4, flat_ND, 2**0.5 * (2 * flat_ND).sin())
        heard.clear()
        error = (layer(x_ND[None])[0] - y_ND).square().mean()
        adam.zero_grad()
        (error + layer.auxiliary).backward()
        adam.step()
    cost_N = heard[0][2][0].float()
    return torch.stack([cost_N[kind_N == c].mean() for c in range(C)]), error.item()


def width_by_kind(seed: int) -> tuple[float, float]:
    """Mean width met by the points of hard kinds, and by those of easy ones."""
    width_C, _ = fit(seed, 16, 3)
    return width_C[4:].mean().item(), width_C[:4].mean().item()


def errors(seed: int) -> tuple[float, float]:
    """MSE / Var(y) of experts 16, 32 and 48 wide, and of as many all 32 wide."""
    return fit(seed, 16, 3)[1], fit(seed, 32, 1)[1]
