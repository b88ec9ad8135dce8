"""The modern Hopfield network: one update by hand, attention as an update, energies that fall, and the sizes of mixtures."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional as F

from explorer.kernels.hopfield import ROWS, association, causal, energy, metastable_size, retrieve, update


def test_one_update_by_hand():
    """Patterns (1, 0) and (0, 1), state (1, 0), beta = ln 3: weights 3/4 and 1/4, so the state moves to (3/4, 1/4).

    E before = -ln(3 + 1) / ln 3 + 1/2 + ln 2 / ln 3 + 1/2 = 1 - ln 2 / ln 3, for M = 1.
    """
    patterns, state, beta = torch.eye(2), torch.tensor([[1.0, 0.0]]), math.log(3)
    torch.testing.assert_close(association(state, patterns, beta), torch.tensor([[0.75, 0.25]]))
    torch.testing.assert_close(update(state, patterns, beta), torch.tensor([[0.75, 0.25]]))
    assert energy(state, patterns, beta).item() == pytest.approx(1 - math.log(2) / math.log(3))
    assert metastable_size(state, patterns, beta).item() == 2 and metastable_size(state, patterns, 3.0).item() == 1


def test_the_energy_is_zero_at_the_only_pattern():
    pattern = torch.tensor([[3.0, 4.0]])
    assert energy(pattern, pattern, 0.7).item() == pytest.approx(0, abs=1e-5)
    assert energy(-pattern, pattern, 0.7).item() == pytest.approx(2 * 25)  # the largest a state of that length can have


def test_an_update_whose_patterns_are_keys_is_attention_whose_values_are_its_keys():
    q, k = torch.randn(2, 3, 5, 8), torch.randn(2, 3, 7, 8)
    torch.testing.assert_close(update(q, k, 8**-0.5), F.scaled_dot_product_attention(q, k, k))


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 10**6), st.integers(1, 9), st.integers(1, 6), st.floats(1e-3, 1e3))
def test_no_update_raises_the_energy_which_stays_between_its_bounds(seed, N, d, beta):
    random = torch.Generator().manual_seed(seed)
    patterns = torch.randn(N, d, generator=random, dtype=torch.float64)
    longest = patterns.norm(dim=-1).max()
    states = torch.randn(4, d, generator=random, dtype=torch.float64)
    states = states * (longest / states.norm(dim=-1, keepdim=True)) * torch.rand(4, 1, generator=random)
    before, after = energy(states, patterns, beta), energy(update(states, patterns, beta), patterns, beta)
    assert (after <= before + 1e-9).all() and before.max() <= 2 * longest**2 + 1e-9 and after.min() >= -1e-9
    size = metastable_size(states, patterns, beta)
    assert (size >= 1).all() and (size <= N).all()


def test_beta_decides_between_the_mean_of_all_and_one_pattern():
    patterns = F.normalize(torch.randn(30, 16, dtype=torch.float64), dim=-1)
    torch.testing.assert_close(update(patterns, patterns, 1e-6), patterns.mean(0).expand(30, 16), atol=1e-5, rtol=0)
    torch.testing.assert_close(update(patterns, patterns, 1e4), patterns)
    assert (metastable_size(patterns, patterns, 1e-6) == 27).all()  # nine tenths of thirty
    assert (metastable_size(patterns, patterns, 1e4) == 1).all()


def test_retrieval_stops_where_nothing_moves_any_more_or_when_it_is_told():
    patterns = torch.eye(8, dtype=torch.float64)
    path = retrieve(0.9 * patterns, patterns, 50.0)
    assert 2 <= len(path) < 20 and (path[-1] - path[-2]).norm(dim=-1).max() <= 1e-9
    torch.testing.assert_close(path[-1], patterns)
    assert len(retrieve(0.9 * patterns, patterns, 2.0, most=3)) == 4
    assert len(retrieve(patterns, patterns, 2.0, most=0)) == 1


@pytest.mark.parametrize("T", [1, 7, ROWS, ROWS + 1, 2 * ROWS + 3])
@pytest.mark.parametrize("measure", [energy, metastable_size])
def test_in_blocks_a_state_knows_the_patterns_up_to_its_own(T, measure):
    state, patterns = torch.randn(2, 3, T, 4, dtype=torch.float64), torch.randn(2, 3, T, 4, dtype=torch.float64)
    alone = torch.stack(
        [measure(state[..., t : t + 1, :], patterns[..., : t + 1, :], 1.3)[..., 0] for t in range(T)], -1
    )
    torch.testing.assert_close(causal(measure, state, patterns, 1.3), alone)


def test_what_is_not_a_number_stays_so_and_disturbs_nobody_else():
    state, patterns = torch.randn(2, 4), torch.randn(5, 4)
    state[0, 0] = torch.nan
    for measure in (energy, metastable_size):
        seen = measure(state, patterns, 1.0)
        assert seen[0].isnan() and seen[1].isfinite()


def test_half_precision_is_measured_in_single():
    state, patterns = torch.randn(1, 1, 6, 4), torch.randn(1, 1, 6, 4)
    half = causal(energy, state.half(), patterns.half(), 2.0)
    assert half.dtype == torch.float32
    torch.testing.assert_close(half, causal(energy, state, patterns, 2.0), atol=0.02, rtol=0.01)
