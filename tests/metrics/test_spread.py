"""How a load is spread: effective experts, percentiles, lift."""

import math

import pytest
import torch

from explorer import metrics
from explorer.errors import BadValue


def test_effective_experts_by_hand():
    counts = torch.tensor([[6, 0, 0, 0], [3, 3, 0, 0], [2, 2, 2, 2], [0, 0, 0, 0]])
    torch.testing.assert_close(metrics.effective_experts(counts)[:3], torch.tensor([1.0, 2, 4], dtype=torch.float64))
    assert metrics.effective_experts(counts)[3].isnan()
    one = torch.tensor([5])
    assert metrics.effective_experts(one) == 1


def test_effective_experts_are_the_exponential_of_the_load_entropy():
    counts = torch.randint(1, 50, (3, 7))
    expected = (metrics.load_entropy(counts) * math.log(7)).exp()
    torch.testing.assert_close(metrics.effective_experts(counts), expected)


def test_percentiles_run_from_the_idlest_to_the_busiest():
    counts = torch.tensor([[0, 1, 2, 3, 4], [5, 5, 5, 5, 5]])
    spread = metrics.utilisation_percentiles(counts)
    assert spread.shape == (2, 5)
    torch.testing.assert_close(spread[0], torch.tensor([0, 0.2, 1, 1.8, 2], dtype=torch.float64))
    assert (spread[1] == 1).all()
    assert metrics.utilisation_percentiles(torch.zeros(4)).isnan().all()
    with pytest.raises(BadValue, match="from 0 to 1"):
        metrics.utilisation_percentiles(counts, at=(50,))


def test_lift_by_hand():
    index = torch.tensor([[0, 1], [0, 1], [2, 3], [2, -1], [-1, -1]])  # four tokens with an expert
    lift = metrics.co_activation_lift(index, 5)
    assert lift[0, 1] == 2 and lift[1, 0] == 2  # always together, in half of the tokens
    assert lift[2, 3] == 4 * 1 / (2 * 1) and lift[0, 2] == 0
    assert lift.diagonal().isnan().all() and lift[4].isnan().all() and lift[:, 4].isnan().all()


def test_the_lift_of_a_random_router_is_what_its_docstring_says():
    index = torch.rand(20_000, 6, generator=torch.Generator().manual_seed(0)).topk(3, dim=-1).indices
    lift = metrics.co_activation_lift(index, 6)
    assert lift.nanmean().item() == pytest.approx(6 * 2 / (3 * 5), abs=0.01)
