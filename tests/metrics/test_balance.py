"""Load metrics: examples one can check in the head, limits, invariances, and the noise floor of a fair router."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import entropy as scipy_entropy
from scipy.stats import variation

from explorer import metrics
from explorer.errors import BadValue
from explorer.metrics.balance import uniform_counts

# the same examples each time, and no deadline: the clock of a shared machine says nothing about the code
examples = settings(max_examples=40, deadline=None, derandomize=True)
SCALARS = [
    metrics.load_entropy,
    metrics.cv_squared,
    metrics.max_violation,
    metrics.dead_experts,
    metrics.gini,
]
PER_EXPERT = [metrics.load_fraction, metrics.utilisation]
loads = st.lists(st.integers(0, 10**6), min_size=1, max_size=17).filter(any).map(torch.tensor)


def near(value: torch.Tensor, expected: float, tolerance: float = 1e-6) -> bool:
    return value.item() == pytest.approx(expected, abs=tolerance)


def test_counts_ignore_empty_slots():
    index_BTK = torch.tensor([[[0, 2], [2, -1], [-1, -1]]])
    assert metrics.counts(index_BTK, n_experts=4).tolist() == [1, 0, 2, 0]
    assert metrics.counts(index_BTK, n_experts=4).dtype == torch.int64


@pytest.mark.parametrize("shape", [(0,), (7,), (3, 7), (2, 3, 5, 2), (63, 1)])
def test_counts_sum_to_the_filled_slots(shape):
    index = torch.randint(-1, 5, shape, generator=torch.Generator().manual_seed(0))
    assert metrics.counts(index, 5).sum() == (index >= 0).sum()
    assert metrics.counts(index.to(torch.int32), 5).equal(metrics.counts(index, 5))


def test_counts_of_dropped_tokens_only_are_zero():
    assert metrics.counts(torch.full((4, 2), -1), 3).tolist() == [0, 0, 0]


@pytest.mark.parametrize(
    "index, n_experts, culprit",
    [
        (torch.tensor([0, 4]), 4, "index holds 4"),
        (torch.tensor([0.0, 1.0]), 4, "index must hold integers"),
        (torch.tensor([True]), 4, "index must hold integers"),
        (torch.tensor([0]), 0, "n_experts must be at least 1"),
    ],
)
def test_counts_name_what_does_not_fit(index, n_experts, culprit):
    with pytest.raises(BadValue, match=culprit):
        metrics.counts(index, n_experts)


def test_even_load_is_perfect_by_every_metric():
    even = torch.tensor([5, 5, 5, 5])
    assert near(metrics.load_entropy(even), 1)
    for zero_is_best in (metrics.cv_squared, metrics.max_violation, metrics.dead_experts, metrics.gini):
        assert near(zero_is_best(even), 0)
    assert metrics.utilisation(even).tolist() == [1, 1, 1, 1]
    assert metrics.load_fraction(even).tolist() == [0.25] * 4


def test_one_expert_taking_all_is_worst_by_every_metric():
    collapsed = torch.tensor([0, 8, 0, 0])
    assert near(metrics.load_entropy(collapsed), 0)
    assert near(metrics.cv_squared(collapsed), 3)
    assert near(metrics.max_violation(collapsed), 3)
    assert near(metrics.dead_experts(collapsed), 0.75)
    assert near(metrics.gini(collapsed), 0.75)
    assert metrics.utilisation(collapsed).tolist() == [0, 4, 0, 0]


def test_the_same_two_of_eight_experts_are_the_worst_that_two_slots_allow():
    pair = torch.tensor([9, 9, 0, 0, 0, 0, 0, 0])
    assert near(metrics.load_entropy(pair), math.log(2) / math.log(8))
    assert near(metrics.cv_squared(pair), 8 / 2 - 1)
    assert near(metrics.max_violation(pair), 8 / 2 - 1)
    assert near(metrics.gini(pair), 1 - 2 / 8)


def test_three_to_one_by_hand():
    counts = torch.tensor([3, 1])
    assert near(metrics.cv_squared(counts), 0.25)  # mean 2, population variance 1
    assert near(metrics.max_violation(counts), 0.5)
    assert near(metrics.gini(counts), 0.25)
    assert metrics.load_fraction(counts).tolist() == [0.75, 0.25]


def test_a_stray_token_does_not_bring_an_expert_to_life():
    counts = torch.tensor([1, 999, 1000])
    assert near(metrics.dead_experts(counts), 1 / 3)
    assert near(metrics.dead_experts(counts, below=0.001), 0)
    assert near(metrics.dead_experts(torch.tensor([1, 7]), below=0.25), 0)  # exactly a quarter of the mean is not below


@examples
@given(loads)
def test_entropy_and_variation_agree_with_scipy(counts):
    E = len(counts)
    assert near(metrics.cv_squared(counts), variation(counts.numpy()) ** 2, 1e-9)
    if E > 1:
        assert near(metrics.load_entropy(counts), scipy_entropy(counts.numpy()) / math.log(E), 1e-9)


@examples
@given(loads)
def test_gini_is_the_mean_difference_of_two_experts(counts):
    load, E = counts.double(), len(counts)
    pairs = (load[:, None] - load[None, :]).abs().sum() / (2 * E * load.sum())
    assert near(metrics.gini(counts), pairs.item(), 1e-9)


@examples
@given(loads)
def test_load_metrics_stay_in_their_ranges(counts):
    E, slack = len(counts), 1e-9
    assert -slack <= metrics.load_entropy(counts) <= 1 + slack
    assert -slack <= metrics.cv_squared(counts) <= E - 1 + slack
    assert -slack <= metrics.max_violation(counts) <= E - 1 + slack
    assert 0 <= metrics.dead_experts(counts) <= 1 - 1 / E + slack
    assert -slack <= metrics.gini(counts) <= 1 - 1 / E + slack
    assert near(metrics.load_fraction(counts).sum(), 1)
    assert near(metrics.utilisation(counts).mean(), 1)


@examples
@given(loads, st.randoms())
def test_renaming_experts_changes_no_summary_of_the_load(counts, random):
    order = list(range(len(counts)))
    random.shuffle(order)
    for metric in SCALARS:
        torch.testing.assert_close(metric(counts[order]), metric(counts))
    for metric in PER_EXPERT:
        torch.testing.assert_close(metric(counts[order]), metric(counts)[order])


@pytest.mark.parametrize("metric", SCALARS + PER_EXPERT)
def test_a_batch_of_rows_is_measured_row_by_row(metric):
    counts_SLE = torch.randint(0, 50, (3, 2, 5), generator=torch.Generator().manual_seed(1))
    one_by_one = torch.stack([torch.stack([metric(row) for row in step]) for step in counts_SLE])
    torch.testing.assert_close(metric(counts_SLE), one_by_one)


@pytest.mark.parametrize("metric", SCALARS + PER_EXPERT)
def test_no_assignment_is_no_load_and_only_in_its_own_row(metric):
    assert metric(torch.zeros(4, dtype=torch.int64)).isnan().all()
    both = metric(torch.tensor([[0, 0, 0], [1, 2, 3]]))
    assert both[0].isnan().all() and both[1].isfinite().all()


@pytest.mark.parametrize("metric", SCALARS + PER_EXPERT)
def test_nan_importance_stays_nan(metric):
    assert metric(torch.tensor([1.0, math.nan, 2.0])).isnan().any()


def test_a_single_expert_is_perfectly_balanced():
    alone = torch.tensor([7])
    assert near(metrics.load_entropy(alone), 1)
    for zero_is_best in (metrics.cv_squared, metrics.max_violation, metrics.dead_experts, metrics.gini):
        assert near(zero_is_best(alone), 0)


@pytest.mark.parametrize("metric", SCALARS + PER_EXPERT)
def test_load_metrics_need_an_expert(metric):
    with pytest.raises(BadValue, match="counts needs a last axis E"):
        metric(torch.zeros(3, 0))


def test_half_precision_importance_is_summed_in_single():
    importance = torch.full((8,), 60000.0, dtype=torch.float16)  # their sum is infinite in half precision
    assert metrics.load_fraction(importance).tolist() == [0.125] * 8


def test_dropped_slots_and_dropped_tokens_differ():
    index_BTK = torch.tensor([[[0, 1], [2, -1], [-1, -1], [3, -1]]])
    assert near(metrics.drop_rate(index_BTK), 0.5)
    assert near(metrics.token_drop_rate(index_BTK), 0.25)


@pytest.mark.parametrize("rate", [metrics.drop_rate, metrics.token_drop_rate])
def test_drop_rates_reach_both_ends(rate):
    assert near(rate(torch.zeros(3, 2, dtype=torch.int64)), 0)
    assert near(rate(torch.full((3, 2), -1)), 1)
    assert rate(torch.zeros(0, 2, dtype=torch.int64)).isnan()
    with pytest.raises(BadValue, match="index must hold integers"):
        rate(torch.zeros(3, 2))


def test_a_balanced_router_has_load_balancing_loss_one():
    probs = torch.full((8, 4), 0.25)
    index = torch.arange(8).remainder(4).unsqueeze(-1)
    assert near(metrics.load_balancing_loss(probs, index), 1)


def test_a_collapsed_router_has_load_balancing_loss_e():
    probs = torch.tensor([1.0, 0.0, 0.0, 0.0]).expand(6, 4)
    assert near(metrics.load_balancing_loss(probs, torch.zeros(6, 1, dtype=torch.int64)), 4)


def test_collapse_onto_two_of_four_experts_costs_e_over_k():
    probs = torch.tensor([0.5, 0.5, 0.0, 0.0]).expand(6, 4)
    assert near(metrics.load_balancing_loss(probs, torch.tensor([0, 1]).expand(6, 2)), 2)


def test_load_balancing_loss_by_hand():
    probs = torch.tensor([[0.8, 0.2], [0.6, 0.4]])  # P = .7, .3; both choose expert 0, so that f = 1, 0
    assert near(metrics.load_balancing_loss(probs, torch.tensor([[0], [0]])), 2 * 0.7)


def test_load_balancing_loss_pushes_only_the_probabilities():
    probs = torch.rand(3, 5, 4, generator=torch.Generator().manual_seed(0)).softmax(-1).requires_grad_()
    index = probs.topk(2).indices
    metrics.load_balancing_loss(probs, index).backward()
    fraction = metrics.load_fraction(metrics.counts(index, 4)).float()
    torch.testing.assert_close(probs.grad, (4 * fraction / 15).expand(3, 5, 4))


def test_load_balancing_loss_without_any_assignment_is_zero_and_trains_on():
    probs = torch.full((3, 4), 0.25, requires_grad=True)
    loss = metrics.load_balancing_loss(probs, torch.full((3, 1), -1))
    loss.backward()
    assert loss == 0 and probs.grad.count_nonzero() == 0


def test_load_balancing_loss_needs_the_same_tokens():
    with pytest.raises(BadValue, match="they must be equal"):
        metrics.load_balancing_loss(torch.rand(3, 4), torch.zeros(2, 1, dtype=torch.int64))


def test_z_loss_by_hand():
    assert near(metrics.z_loss(torch.full((5, 4), -math.log(4))), 0)
    assert near(metrics.z_loss(torch.tensor([[0.0, 0.0], [1.0, 1.0]])), (math.log(2) ** 2 + (1 + math.log(2)) ** 2) / 2)


def test_z_loss_pulls_large_logits_down():
    logits = torch.tensor([[9.0, 1.0, 2.0]], requires_grad=True)
    metrics.z_loss(logits).backward()
    assert (logits.grad > 0).all()


@pytest.mark.parametrize("loss", [lambda x: metrics.load_balancing_loss(x, torch.zeros(3, 1).long()), metrics.z_loss])
def test_losses_propagate_nan(loss):
    assert loss(torch.tensor([[0.5, 0.5], [math.nan, 0.5], [0.5, 0.5]])).isnan()


@pytest.mark.parametrize("loss", [lambda x: metrics.load_balancing_loss(x, x.topk(2).indices), metrics.z_loss])
def test_losses_compile_without_a_graph_break(loss):
    probs = torch.rand(3, 5, 4, generator=torch.Generator().manual_seed(0)).softmax(-1)
    torch.testing.assert_close(torch.compile(loss, fullgraph=True, backend="eager")(probs), loss(probs))


# tokens -> (mean, 95 %) for (E, k) = (8, 1), (8, 2), (16, 4), (64, 8), simulated token by token, by other code
FLOORS = {
    512: [(0.18, 0.30), (0.12, 0.20), (0.14, 0.21), (0.28, 0.41)],
    640: [(0.16, 0.28), (0.11, 0.17), (0.13, 0.19), (0.25, 0.34)],
    1024: [(0.13, 0.21), (0.08, 0.14), (0.10, 0.16), (0.20, 0.27)],
    5120: [(0.06, 0.09), (0.04, 0.06), (0.04, 0.07), (0.09, 0.12)],
}


@pytest.mark.parametrize("n_tokens", FLOORS)
@pytest.mark.parametrize("column, n_experts, k", [(0, 8, 1), (1, 8, 2), (2, 16, 4), (3, 64, 8)])
def test_noise_floor_agrees_with_the_tabled_simulation(n_tokens, column, n_experts, k):
    mean, high = FLOORS[n_tokens][column]
    assert metrics.max_violation_floor(n_tokens, n_experts, k)[0] == pytest.approx(mean, abs=0.02)
    # 200 draws leave an error of about 0.01 in a quantile, the tabled one included
    assert metrics.max_violation_floor(n_tokens, n_experts, k, draws=2000)[1] == pytest.approx(high, abs=0.02)


def test_noise_floor_agrees_with_routing_token_by_token():
    generator = torch.Generator().manual_seed(3)
    index = torch.rand(400, 100, 6, generator=generator).topk(2).indices
    violation = torch.stack([metrics.max_violation(metrics.counts(one, 6)) for one in index])
    mean, high = metrics.max_violation_floor(100, 6, 2, draws=4000)
    assert mean == pytest.approx(violation.mean().item(), abs=0.015)
    assert high == pytest.approx(violation.quantile(0.95).item(), abs=0.04)


def test_uniform_counts_give_every_token_k_distinct_experts():
    counts = uniform_counts(n_tokens=30, n_experts=7, k=3, draws=4000, seed=0)
    assert counts.shape == (4000, 7)
    assert (counts.sum(-1) == 90).all() and counts.min() >= 0 and counts.max() <= 30
    torch.testing.assert_close(counts.mean(0), torch.full((7,), 30 * 3 / 7).double(), atol=0.15, rtol=0)
    torch.testing.assert_close(counts.var(0), torch.full((7,), 30 * 3 / 7 * 4 / 7).double(), atol=0, rtol=0.1)


@pytest.mark.parametrize("n_tokens, n_experts, k, floor", [(640, 4, 4, 0), (5, 1, 1, 0), (1, 8, 1, 7), (1, 8, 2, 3)])
def test_noise_floor_is_exact_where_there_is_no_chance(n_tokens, n_experts, k, floor):
    assert metrics.max_violation_floor(n_tokens, n_experts, k) == (floor, floor)


def test_noise_floor_is_reproducible_and_leaves_the_global_generator_alone():
    before = torch.random.get_rng_state()
    first = metrics.max_violation_floor(77, 8, 2, seed=5)
    metrics.max_violation_floor.cache_clear()
    assert metrics.max_violation_floor(77, 8, 2, seed=5) == first
    assert metrics.max_violation_floor(77, 8, 2, seed=6) != first
    assert torch.random.get_rng_state().equal(before)


@pytest.mark.parametrize("arguments", [(0, 8, 1), (640, 0, 1), (640, 8, 0), (640, 8, 9), (640, 8, 2, 0)])
def test_noise_floor_refuses_a_router_that_cannot_be(arguments):
    with pytest.raises(BadValue):
        metrics.max_violation_floor(*arguments)


@examples
@given(st.integers(1, 300), st.integers(1, 9), st.data())
def test_noise_floor_stays_in_the_range_of_max_violation(n_tokens, n_experts, data):
    k = data.draw(st.integers(1, n_experts))
    mean, high = metrics.max_violation_floor(n_tokens, n_experts, k, draws=20)
    assert 0 <= mean <= n_experts / k - 1 + 1e-9
    assert 0 <= high <= n_experts / k - 1 + 1e-9
