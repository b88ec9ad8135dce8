"""Token entropy and margin: how sure a router is."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays
from scipy.stats import entropy as scipy_entropy

from explorer import metrics
from explorer.errors import BadValue
from explorer.metrics.entropy import shannon

# the same examples each time, and no deadline: the clock of a shared machine says nothing about the code
examples = settings(max_examples=40, deadline=None, derandomize=True)
scores = arrays("float64", array_shapes(min_dims=1, max_dims=3, max_side=7), elements=st.floats(0, 1e3)).map(
    torch.from_numpy
)


def test_uniform_router_has_maximal_token_entropy():
    assert metrics.token_entropy(torch.full((2, 3, 8), 1 / 8)).item() == pytest.approx(1)


def test_hard_router_has_no_token_entropy():
    assert metrics.token_entropy(torch.eye(5)[[0, 3, 3]]).item() == 0


def test_token_entropy_is_the_mean_over_tokens():
    probs_TE = torch.tensor([[0.5, 0.5, 0.0, 0.0], [1.0, 0.0, 0.0, 0.0]])  # ln 2 / ln 4 and 0
    assert metrics.token_entropy(probs_TE).item() == pytest.approx(0.25)


def test_independent_scores_are_measured_by_their_shares():
    independent = torch.tensor([[0.9, 0.9, 0.0, 0.0], [0.1, 0.1, 0.0, 0.0]])
    assert metrics.token_entropy(independent).item() == pytest.approx(0.5)


def test_a_token_that_no_expert_wants_is_left_out():
    assert metrics.token_entropy(torch.tensor([[0.0, 0.0], [0.3, 0.3]])).item() == pytest.approx(1)
    assert metrics.token_entropy(torch.zeros(3, 2)).isnan()


@examples
@given(scores)
def test_token_entropy_agrees_with_scipy(probs):
    E = probs.shape[-1]
    rows = [row for row in probs.reshape(-1, E) if row.sum() > 0]
    if E > 1 and rows:
        expected = sum(scipy_entropy(row.numpy()) for row in rows) / len(rows) / math.log(E)
        assert metrics.token_entropy(probs).item() == pytest.approx(expected, abs=1e-9)


@examples
@given(scores, st.randoms())
def test_token_entropy_stays_in_range_and_ignores_the_names_of_experts(probs, random):
    value = metrics.token_entropy(probs)
    assert value.isnan() or -1e-9 <= value <= 1 + 1e-9
    order = list(range(probs.shape[-1]))
    random.shuffle(order)
    torch.testing.assert_close(metrics.token_entropy(probs[..., order]), value, equal_nan=True)


def test_token_entropy_at_the_limits():
    assert metrics.token_entropy(torch.ones(3, 1)).item() == 0
    assert metrics.token_entropy(torch.tensor([0.5, 0.5])).item() == pytest.approx(1)
    assert metrics.token_entropy(torch.ones(0, 4)).isnan()
    assert metrics.token_entropy(torch.tensor([[0.5, 0.5], [math.nan, 0.5]])).isnan()


def test_token_entropy_of_half_precision_is_computed_in_single():
    probs = torch.full((1, 1000), 1e-3)
    assert metrics.token_entropy(probs.bfloat16()).item() == pytest.approx(1, abs=1e-4)


def test_a_score_too_small_for_a_logarithm_counts_as_zero():
    assert shannon(torch.tensor([1.0, 1e-45, 0.0])).item() == pytest.approx(0, abs=1e-6)


def test_margin_by_hand():
    scores_TE = torch.tensor([[0.1, 0.6, 0.3], [0.2, 0.2, 0.6]])
    torch.testing.assert_close(metrics.margin(scores_TE, k=1), torch.tensor([0.3, 0.4]))
    torch.testing.assert_close(metrics.margin(scores_TE, k=2), torch.tensor([0.2, 0.0]))


def test_margin_of_a_tie_is_zero_and_of_all_experts_infinite():
    assert metrics.margin(torch.zeros(2, 3), k=1).tolist() == [0, 0]
    assert metrics.margin(torch.rand(2, 3), k=3).tolist() == [math.inf, math.inf]


@examples
@given(scores, st.data())
def test_a_change_below_half_the_margin_keeps_the_choice(scores, data):
    E = scores.shape[-1]
    k = data.draw(st.integers(1, E))
    margin = metrics.margin(scores, k)
    assert margin.shape == scores.shape[:-1] and (margin >= 0).all()
    if k < E:
        shift = torch.where(torch.arange(E) % 2 == 0, 0.49, -0.49) * margin.unsqueeze(-1)
        chosen, after = (s.topk(k).indices.sort(-1).values for s in (scores, scores + shift))
        assert after.equal(chosen) or (margin < 1e-9).any()


def test_a_forbidden_expert_leaves_the_margin_of_the_others():
    logits = torch.tensor([[2.0, -math.inf, 1.5], [1.0, -math.inf, -math.inf]])
    assert metrics.margin(logits, k=1).tolist() == [0.5, math.inf]


@pytest.mark.parametrize("k", [1, 2, 3])
def test_margin_propagates_nan_in_its_own_row(k):
    margin = metrics.margin(torch.tensor([[1.0, 2.0, 3.0], [math.nan, 2.0, 3.0]]), k)
    assert margin.isnan().tolist() == [False, True]


@pytest.mark.parametrize("k", [0, 4, -1])
def test_margin_refuses_an_impossible_k(k):
    with pytest.raises(BadValue, match="k must be between 1 and the 3 experts"):
        metrics.margin(torch.rand(2, 3), k)


@pytest.mark.parametrize("metric", [metrics.token_entropy, metrics.margin])
def test_scores_need_an_expert(metric):
    with pytest.raises(BadValue, match="needs a last axis E"):
        metric(torch.zeros(3, 0))


@pytest.mark.parametrize("k", [1, 2, 3, 7, 8])
def test_the_margin_of_many_rows_is_that_of_each(k):
    scores = torch.randn(1100, 8, generator=torch.Generator().manual_seed(k)).round(decimals=1)  # with ties
    scores[3, 5] = torch.nan
    each = torch.cat([metrics.margin(rows, k) for rows in scores.split(100)])
    assert torch.allclose(metrics.margin(scores, k), each, equal_nan=True) and each[3].isnan()
