"""The Hopfield network by itself: what one update retrieves, where states come to rest, and that their energy only falls."""

from itertools import pairwise

import torch
from torch import Tensor

from explorer.kernels.hopfield import energy, retrieve, update

BETA = 40.0  # retrieves single patterns of length 1
CLUSTERS, MEMBERS, WIDTH = 4, 8, 32
REGIMES = {1.0: 1, 8.0: CLUSTERS, 64.0: CLUSTERS * MEMBERS}  # fixed points expected at each beta
BETAS = (0.5, 1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0, 100.0)


def random_patterns(seed: int, stored: int = 100, width: int = 64) -> tuple[float, float]:
    """Share of random sign patterns found from copies with a fifth of the signs flipped: by one update, by a Hebbian net."""
    random = torch.Generator().manual_seed(seed)
    signs_ND = torch.randint(2, (stored, width), generator=random).double() * 2 - 1
    flipped = torch.rand(stored, width, generator=random).argsort(-1) < round(0.2 * width)
    copies_ND = torch.where(flipped, -signs_ND, signs_ND)
    found_ND = update(copies_ND / width**0.5, signs_ND / width**0.5, BETA)
    modern = ((found_ND - signs_ND / width**0.5).norm(dim=-1) < 0.1).double().mean()
    weights_DD = (signs_ND.T @ signs_ND).fill_diagonal_(0)
    for _ in range(20):
        copies_ND = torch.where(copies_ND @ weights_DD >= 0, 1.0, -1.0).double()
    classical = ((copies_ND * signs_ND).mean(-1) >= 0.97).double().mean()
    return modern.item(), classical.item()


def digits(seed: int, stored: int = 50) -> tuple[float, float]:
    """Median distance to the stored digit after one update from its upper half, at beta 40 and at beta 5."""
    from explorer.tasks.digits import read

    images_ND = read()[0].double()
    chosen = torch.randperm(len(images_ND), generator=torch.Generator().manual_seed(seed))[:stored]
    patterns_ND = images_ND[chosen] - images_ND.mean(0)
    patterns_ND = patterns_ND / patterns_ND.norm(dim=-1, keepdim=True)
    upper_ND = patterns_ND.clone()
    upper_ND[:, 32:] = 0  # the mean
    far = [(update(upper_ND, patterns_ND, beta) - patterns_ND).norm(dim=-1).median().item() for beta in (BETA, 5.0)]
    return far[0], far[1]


def fixed_points(seed: int) -> tuple[float, float]:
    """Share of the values of beta with as many fixed points as means, clusters or patterns: with clusters, without any."""
    random = torch.Generator().manual_seed(seed)
    clustered, even = (_patterns(random, spread) for spread in (0.19, torch.inf))
    shares = [sum(_rests(x, beta) == n for beta, n in REGIMES.items()) / len(REGIMES) for x in (clustered, even)]
    return shares[0], shares[1]


def energy_rise(seed: int) -> tuple[float, float]:
    """The largest rise of the energy in a step of retrieval from random states, and in random steps of the same lengths."""
    random = torch.Generator().manual_seed(seed)
    patterns_ND = _patterns(random, 0.19)
    retrieved, at_random = [], []
    for beta in BETAS:
        state_ND = torch.randn(patterns_ND.shape, generator=random, dtype=torch.float64) * WIDTH**-0.5
        path = retrieve(state_ND, patterns_ND, beta, most=200)
        for here, there in pairwise(path):
            step = torch.randn(here.shape, generator=random, dtype=torch.float64)
            step *= (there - here).norm(dim=-1, keepdim=True) / step.norm(dim=-1, keepdim=True)
            before = energy(here, patterns_ND, beta)
            retrieved.append((energy(there, patterns_ND, beta) - before).max())
            at_random.append((energy(here + step, patterns_ND, beta) - before).max())
    return torch.stack(retrieved).max().item(), torch.stack(at_random).max().item()


def _patterns(random: torch.Generator, spread: float) -> Tensor:
    """(32, 32) patterns of length 1 around four orthogonal directions; an infinite spread leaves no clusters."""
    direction = torch.linalg.qr(torch.randn(WIDTH, WIDTH, generator=random, dtype=torch.float64)).Q
    if spread == torch.inf:
        return direction
    noise = torch.randn(CLUSTERS, MEMBERS, WIDTH, generator=random, dtype=torch.float64)
    x_ND = (direction[:CLUSTERS, None] + (spread / WIDTH) ** 0.5 * noise).flatten(0, 1)
    return x_ND / x_ND.norm(dim=-1, keepdim=True)


def _rests(patterns_ND: Tensor, beta: float) -> int:
    """How many different states the patterns come to rest at."""
    rest_ND = retrieve(patterns_ND, patterns_ND, beta)[-1]
    near_NN = torch.cdist(rest_ND, rest_ND) < 1e-3
    return int((near_NN.tril(-1).sum(-1) == 0).sum())
