"""Experts of two runs, matched: the solver against scipy's, and the matching by hand."""

import time

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import linear_sum_assignment

from explorer import metrics
from explorer.errors import BadValue
from explorer.metrics.matching import assign

SIZES = [(0, 3), (3, 0), (1, 1), (1, 5), (5, 1), (7, 7), (13, 29), (29, 13), (63, 60)]
KINDS = {
    "real": lambda rng, size: rng.normal(size=size),
    "ties": lambda rng, size: rng.integers(0, 3, size).astype(float),
    "zero": lambda rng, size: np.zeros(size),
    "counts": lambda rng, size: -rng.poisson(5, size).astype(float),
    "product": lambda rng, size: np.outer(np.arange(size[0]), np.arange(size[1])).astype(float),
}


def some(rng, n_tokens, n_experts, k):
    return torch.from_numpy(rng.random((n_tokens, n_experts)).argsort(1)[:, :k].copy())


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("size", SIZES, ids=str)
def test_the_solver_finds_what_scipy_finds(size, kind):
    cost = KINDS[kind](np.random.default_rng(0), size)
    column_of = assign(cost)
    rows = np.flatnonzero(column_of >= 0)
    assert len(rows) == min(size) == len(set(column_of[rows]))
    assert cost[rows, column_of[rows]].sum() == pytest.approx(cost[linear_sum_assignment(cost)].sum(), abs=1e-9)


@settings(max_examples=60, deadline=None, derandomize=True)
@given(st.integers(1, 9), st.integers(1, 9), st.integers(0, 10**6))
def test_the_solver_finds_what_scipy_finds_whatever_the_cost(rows, columns, seed):
    cost = np.random.default_rng(seed).integers(-4, 5, (rows, columns)).astype(float)
    column_of = assign(cost)
    taken = np.flatnonzero(column_of >= 0)
    assert cost[taken, column_of[taken]].sum() == cost[linear_sum_assignment(cost)].sum()


def test_matching_by_hand():
    a = torch.tensor([[0], [0], [1], [2], [-1]])
    b = torch.tensor([[1], [1], [2], [2], [0]])  # 0 -> 1 twice; 1 and 2 both meet 2 once; b's 0 met nothing of a
    permutation, agreement = metrics.match_experts(a, b, 3, 3)
    assert permutation.tolist() == [1, 0, 2]
    assert agreement.item() == 3 / 5  # of the five slots that b filled


def test_renumbered_runs_are_the_same_run():
    rng = np.random.default_rng(1)
    index = some(rng, 500, 12, 3)
    numbers = torch.from_numpy(rng.permutation(12))
    permutation, agreement = metrics.match_experts(index, numbers[index].flip(-1), 12, 12)
    assert permutation.equal(numbers) and agreement == 1
    assert agreement.dtype == torch.float64 and permutation.dtype == torch.int64


def test_dead_experts_keep_their_numbers():
    index = torch.tensor([[0], [3]])
    permutation, _ = metrics.match_experts(index, index, 6, 6)
    assert permutation.tolist() == list(range(6))


def test_runs_of_unequal_size_leave_experts_over():
    a, b = torch.tensor([[0], [1], [2], [2]]), torch.tensor([[1], [0], [0], [0]])
    permutation, agreement = metrics.match_experts(a, b, 3, 2)
    assert permutation.tolist() == [1, -1, 0] and agreement == 0.75
    back, _ = metrics.match_experts(b, a, 2, 3)
    assert back.tolist() == [2, 0]


def test_runs_with_another_number_of_slots_cannot_agree_fully():
    a = torch.tensor([[0, 1], [2, 3]])
    assert metrics.match_experts(a, a[:, :1], 4, 4).agreement == 0.5


def test_nothing_to_match_is_nan_and_misfits_are_refused():
    assert metrics.match_experts(torch.full((3, 1), -1), torch.full((3, 1), -1), 2, 2).agreement.isnan()
    with pytest.raises(BadValue, match="index_a without its last axis"):
        metrics.match_experts(torch.zeros(3, 1).long(), torch.zeros(4, 1).long(), 2, 2)
    with pytest.raises(BadValue, match="holds 5"):
        metrics.match_experts(torch.tensor([[5]]), torch.tensor([[0]]), 2, 2)


def test_256_experts_are_matched_while_one_waits():
    rng = np.random.default_rng(0)
    a, b = some(rng, 2048, 256, 8), some(rng, 2048, 256, 8)
    began = time.process_time()
    metrics.match_experts(a, b, 256, 256)
    assert time.process_time() - began < 2  # a tenth of a second alone: the bound is for a busy machine
