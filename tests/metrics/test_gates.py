"""Gates: how far they close, and what they know."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import roc_auc_score

from explorer import metrics
from explorer.errors import BadValue

# the same examples each time, and no deadline: the clock of a shared machine says nothing about the code
examples = settings(max_examples=40, deadline=None, derandomize=True)


def test_gate_sparsity_by_hand():
    gate_BTH = torch.tensor([[[0.05, 0.5], [0.1, 0.0]]])
    assert metrics.gate_sparsity(gate_BTH).item() == 0.5  # 0.1 itself is not below 0.1
    assert metrics.gate_sparsity(gate_BTH, below=0.6).item() == 1
    assert metrics.gate_sparsity(gate_BTH, below=0.0).item() == 0


def test_gate_sparsity_does_not_hide_nan_or_nothing():
    assert metrics.gate_sparsity(torch.tensor([0.0, math.nan])).isnan()
    assert metrics.gate_sparsity(torch.zeros(0)).isnan()


def test_a_gate_that_opens_exactly_for_the_property_is_a_perfect_detector():
    gate, trigger = torch.tensor([[0.9, 0.1], [0.8, 0.2]]), torch.tensor([[True, False], [True, False]])
    assert metrics.gate_auc(gate, trigger) == 1
    assert metrics.gate_auc(-gate, trigger) == 0
    assert metrics.gate_auc(torch.ones(2, 2), trigger) == 0.5


def test_gate_auc_by_hand_with_a_tie():
    gate, trigger = torch.tensor([0.3, 0.7, 0.3, 0.1]), torch.tensor([1, 1, 0, 0])
    assert metrics.gate_auc(gate, trigger).item() == pytest.approx((0.5 + 1 + 1 + 1) / 4)


@examples
@given(st.lists(st.tuples(st.integers(-3, 3), st.booleans()), min_size=1, max_size=80))
def test_gate_auc_agrees_with_sklearn_whatever_the_ties(pairs):
    gate, trigger = torch.tensor([float(g) for g, _ in pairs]), torch.tensor([p for _, p in pairs])
    value = metrics.gate_auc(gate, trigger)
    if trigger.all() or not trigger.any():
        assert value.isnan()
    else:
        assert value.item() == pytest.approx(roc_auc_score(trigger.numpy(), gate.numpy()), abs=1e-9)
        torch.testing.assert_close(metrics.gate_auc(gate.exp() / 99, trigger), value)  # only the order counts


def test_gate_auc_is_exact_for_many_tokens():
    gate = torch.rand(100_003, generator=torch.Generator().manual_seed(0))
    trigger = gate + torch.rand(100_003, generator=torch.Generator().manual_seed(1)) > 1
    expected = roc_auc_score(trigger.numpy(), gate.numpy())
    assert metrics.gate_auc(gate, trigger).item() == pytest.approx(expected, abs=1e-9)


def test_gate_auc_at_the_limits():
    assert metrics.gate_auc(torch.tensor([0.1, math.nan]), torch.tensor([True, False])).isnan()
    assert metrics.gate_auc(torch.zeros(0), torch.zeros(0).bool()).isnan()
    with pytest.raises(BadValue, match="they must be equal"):
        metrics.gate_auc(torch.rand(2, 3), torch.ones(2).bool())


def test_effective_rank_counts_equal_directions():
    assert metrics.effective_rank(torch.eye(4, 6)).item() == pytest.approx(4)
    assert metrics.effective_rank(torch.ones(5, 3)).item() == pytest.approx(1, abs=1e-4)
    assert metrics.effective_rank(torch.diag(torch.tensor([3.0, 1.0]))).item() == pytest.approx(
        math.exp(-(0.75 * math.log(0.75) + 0.25 * math.log(0.25)))
    )


def test_effective_rank_of_a_batch_keeps_zeros_and_nan_to_themselves():
    batch = torch.stack([torch.eye(3), torch.zeros(3, 3), torch.full((3, 3), math.nan)])
    ranks = metrics.effective_rank(batch)
    assert ranks[:2].tolist() == pytest.approx([3, 0]) and ranks[2].isnan()


@examples
@given(st.integers(1, 6), st.integers(1, 6), st.integers(0, 50))
def test_effective_rank_lies_between_one_and_the_smaller_side(M, N, seed):
    matrix = torch.randn(M, N, generator=torch.Generator().manual_seed(seed))
    assert 1 - 1e-5 <= metrics.effective_rank(matrix).item() <= min(M, N) + 1e-5
