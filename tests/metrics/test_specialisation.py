"""Specialisation: what an expert tells of a domain or a token, its company, and how its choices settle."""

import math
from functools import partial

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import entropy as scipy_entropy
from sklearn.metrics import mutual_info_score, normalized_mutual_info_score

from explorer import metrics
from explorer.errors import BadValue

# the same examples each time, and no deadline: the clock of a shared machine says nothing about the code
examples = settings(max_examples=40, deadline=None, derandomize=True)


@st.composite
def pairs(draw):
    """Top-1 experts and labels of the same tokens, every one of them filled."""
    n = draw(st.integers(1, 60))
    experts = draw(st.lists(st.integers(0, 4), min_size=n, max_size=n))
    labels = draw(st.lists(st.integers(0, 2), min_size=n, max_size=n))
    return torch.tensor(experts), torch.tensor(labels)


def entropy(codes):
    return scipy_entropy(torch.bincount(codes).numpy())


def test_label_share_by_hand():
    index_TK = torch.tensor([[0, 1], [0, 2], [3, -1]])
    share_CE = metrics.label_share(index_TK, torch.tensor([0, 0, 1]), n_experts=4, n_labels=3)
    assert share_CE[0].tolist() == [0.5, 0.25, 0.25, 0]
    assert share_CE[1].tolist() == [0, 0, 0, 1]
    assert share_CE[2].isnan().all()  # a label that never occurs


def test_label_share_ignores_tokens_without_a_label():
    share = metrics.label_share(torch.tensor([[0], [1], [1]]), torch.tensor([0, -100, 0]), 2, 1)
    assert share.tolist() == [[0.5, 0.5]]


@pytest.mark.parametrize("B, T, K", [(1, 1, 1), (3, 7, 2), (2, 63, 5)])
def test_label_shares_of_a_label_sum_to_one(B, T, K):
    generator = torch.Generator().manual_seed(0)
    index = torch.rand(B, T, 6, generator=generator).topk(K).indices
    labels = torch.randint(0, 4, (B, T), generator=generator)
    share = metrics.label_share(index, labels, 6, 4)
    present = torch.bincount(labels.reshape(-1), minlength=4) > 0
    torch.testing.assert_close(share.sum(-1)[present], torch.ones(int(present.sum())).double())
    assert share[~present].isnan().all()


def test_label_share_of_dropped_tokens_only_is_undefined():
    assert metrics.label_share(torch.full((3, 2), -1), torch.zeros(3).long(), 4, 1).isnan().all()


@examples
@given(pairs())
def test_nmi_agrees_with_sklearn(pair):
    experts, labels = pair
    information = mutual_info_score(labels.numpy(), experts.numpy())
    if entropy(labels) > 0:
        assert metrics.nmi(experts, labels).item() == pytest.approx(information / entropy(labels), abs=1e-9)
    if entropy(labels) > 0 and entropy(experts) > 0:
        expected = normalized_mutual_info_score(labels.numpy(), experts.numpy(), average_method="min")
        assert metrics.nmi(experts, labels, normalise="min").item() == pytest.approx(expected, abs=1e-9)


@examples
@given(pairs())
def test_nmi_is_the_same_whether_sizes_are_given_or_read(pair):
    experts, labels = pair
    torch.testing.assert_close(metrics.nmi(experts, labels, n_experts=9, n_labels=7), metrics.nmi(experts, labels))


@examples
@given(pairs(), st.permutations(range(5)), st.sampled_from(["labels", "min"]))
def test_nmi_stays_in_range_and_ignores_the_names_of_experts(pair, names, normalise):
    experts, labels = pair
    value = metrics.nmi(experts, labels, normalise)
    assert 0 <= value <= 1
    torch.testing.assert_close(metrics.nmi(torch.tensor(names)[experts], labels, normalise), value)


def test_an_expert_for_each_label_is_perfect_specialisation():
    labels = torch.tensor([[0, 0, 1], [1, 2, 2]])
    assert metrics.nmi(2 - labels, labels).item() == pytest.approx(1)


def test_two_experts_a_label_still_tell_the_label():
    labels = torch.tensor([0, 0, 1, 1])
    assert metrics.nmi(torch.tensor([0, 1, 2, 3]), labels).item() == pytest.approx(1)


def test_an_expert_for_two_labels_tells_half():
    labels, experts = torch.tensor([0, 1, 2, 3]), torch.tensor([0, 0, 1, 1])
    assert metrics.nmi(experts, labels).item() == pytest.approx(0.5)
    assert metrics.nmi(experts, labels, normalise="min").item() == pytest.approx(1)


@pytest.mark.parametrize("normalise", ["labels", "min"])
def test_a_constant_tells_nothing(normalise):
    constant, labels = torch.zeros(6).long(), torch.tensor([0, 1, 2, 0, 1, 2])
    assert metrics.nmi(constant, labels, normalise) == 0  # a collapsed router
    assert metrics.nmi(labels, constant, normalise) == 0  # a single domain
    assert metrics.nmi(labels[:1], labels[:1], normalise) == 0  # one token


def test_dropped_and_unlabelled_tokens_tell_nothing_either_way():
    experts, labels = torch.tensor([0, 1, -1, 0, 3]), torch.tensor([0, 1, 1, -100, -1])
    for sizes in ({}, {"n_experts": 4}, {"n_labels": 2}, {"n_experts": 4, "n_labels": 2}):
        assert metrics.nmi(experts, labels, **sizes).item() == pytest.approx(1)
        assert metrics.nmi(torch.full((5,), -1), labels, **sizes).isnan()
    assert metrics.nmi(torch.zeros(0).long(), torch.zeros(0).long()).isnan()


def test_nmi_names_what_does_not_fit():
    three, four = torch.zeros(3).long(), torch.zeros(4).long()
    with pytest.raises(BadValue, match="they must be equal"):
        metrics.nmi(three, four)
    with pytest.raises(BadValue, match='normalise must be "labels" or "min"'):
        metrics.nmi(three, three, normalise="max")
    with pytest.raises(BadValue, match="labels must hold integers"):
        metrics.nmi(three, three.float())
    with pytest.raises(BadValue, match="experts holds 4"):
        metrics.nmi(four + 4, four, n_experts=4)


def test_the_floor_of_independent_tokens_is_the_plug_in_bias():
    generator = torch.Generator().manual_seed(0)
    experts, labels = (torch.randint(0, n, (2000,), generator=generator) for n in (8, 5))
    bias = (8 - 1) * (5 - 1) / (2 * 2000) / math.log(5)
    assert metrics.nmi_floor(experts, labels).item() == pytest.approx(bias, rel=0.2)


def test_whole_sequences_have_a_higher_floor_than_single_tokens():
    labels_BT = torch.arange(5).repeat(4).unsqueeze(-1).expand(20, 64)
    own = torch.randint(0, 8, (20, 1), generator=torch.Generator().manual_seed(1))  # an expert for each sequence
    experts_BT = own.expand(20, 64)
    floor = metrics.nmi_floor(experts_BT, labels_BT)
    assert floor > 10 * metrics.nmi_floor(experts_BT.reshape(-1), labels_BT.reshape(-1))
    assert floor < metrics.nmi(labels_BT, labels_BT)


def test_the_floor_is_reproducible_and_undefined_for_one_row():
    generator = torch.Generator().manual_seed(0)
    experts, labels = (torch.randint(0, 4, (6, 9), generator=generator) for _ in range(2))
    assert metrics.nmi_floor(experts, labels, seed=3) == metrics.nmi_floor(experts, labels, seed=3)
    assert metrics.nmi_floor(experts, labels, seed=3) != metrics.nmi_floor(experts, labels, seed=4)
    assert metrics.nmi_floor(experts[:1], labels[:1]).isnan()


def test_any_measure_has_a_permuted_floor():
    tokens = torch.arange(500).remainder(4)
    measure = partial(metrics.vocabulary_specialisation, n_experts=4, n_tokens=4)
    assert measure(tokens, tokens).item() == pytest.approx(1)
    assert metrics.permuted_floor(measure, tokens, tokens) < 0.03


def test_hash_routing_is_all_vocabulary():
    tokens = torch.randint(0, 50, (4, 63), generator=torch.Generator().manual_seed(0))
    assert metrics.vocabulary_specialisation(tokens % 8, tokens).item() == pytest.approx(1)
    assert metrics.vocabulary_top_share(tokens % 8, tokens, at_least=1).item() == pytest.approx(1)


def test_routing_by_position_knows_no_vocabulary():
    tokens, experts = torch.tensor([0, 0, 1, 1]), torch.tensor([0, 1, 0, 1])
    assert metrics.vocabulary_specialisation(experts, tokens) == 0
    assert metrics.vocabulary_top_share(experts, tokens, at_least=2).item() == 0.5


def test_a_collapsed_router_specialises_in_nothing_though_its_top_share_is_one():
    tokens, experts = torch.arange(30) % 3, torch.zeros(30).long()
    assert metrics.vocabulary_specialisation(experts, tokens) == 0
    assert metrics.vocabulary_top_share(experts, tokens) == 1


def test_top_share_by_hand_counts_only_frequent_ids():
    tokens = torch.tensor([7, 7, 7, 7, 9, 9, 1])  # id 7: 3 of 4, id 9: 1 of 2, id 1: too rare
    experts = torch.tensor([0, 0, 0, 1, 0, 1, 2])
    for sizes in ({}, {"n_experts": 3, "n_tokens": 10}):
        share = metrics.vocabulary_top_share(experts, tokens, at_least=2, **sizes)
        assert share.item() == pytest.approx((0.75 + 0.5) / 2)
    assert metrics.vocabulary_top_share(experts, tokens, at_least=5).isnan()


def test_a_large_vocabulary_is_tabled_by_the_ids_that_occur():
    tokens = torch.tensor([10**12, 10**12, 5])
    assert metrics.vocabulary_specialisation(torch.tensor([0, 0, 1]), tokens).item() == pytest.approx(1)


@examples
@given(pairs())
def test_vocabulary_specialisation_agrees_with_sklearn(pair):
    experts, tokens = pair
    if entropy(experts) > 0:
        expected = mutual_info_score(tokens.numpy(), experts.numpy()) / entropy(experts)
        assert metrics.vocabulary_specialisation(experts, tokens).item() == pytest.approx(expected, abs=1e-9)


@pytest.mark.parametrize("measure", [metrics.vocabulary_specialisation, metrics.vocabulary_top_share])
def test_vocabulary_measures_without_tokens_are_undefined(measure):
    nothing = torch.zeros(0).long()
    assert measure(nothing, nothing).isnan()
    assert measure(torch.full((3,), -1), torch.zeros(3).long()).isnan()
    assert measure(nothing, nothing, n_experts=4, n_tokens=9).isnan()


def test_co_activation_by_hand():
    index_TK = torch.tensor([[0, 1], [1, 0], [0, 2], [1, -1]])
    expected = [[1, 2 / 3, 1 / 3, 0], [2 / 3, 1, 0, 0], [1, 0, 1, 0], [0, 0, 0, 0]]  # expert 3: no token, a row of 0
    torch.testing.assert_close(metrics.co_activation(index_TK, 4), torch.tensor(expected))


def test_co_activation_counts_pairs_that_are_not_neighbours():
    assert metrics.co_activation(torch.tensor([[0, 1, 2]]), 3).tolist() == [[1, 1, 1]] * 3


@examples
@given(st.integers(1, 30), st.integers(1, 6), st.data())
def test_company_of_an_expert_sums_to_the_slots(n_tokens, n_experts, data):
    k = data.draw(st.integers(1, n_experts))
    generator = torch.Generator().manual_seed(data.draw(st.integers(0, 99)))
    index = torch.rand(n_tokens, n_experts, generator=generator).topk(k).indices
    together = metrics.co_activation(index, n_experts)
    used = metrics.counts(index, n_experts) > 0
    torch.testing.assert_close(together.sum(-1), torch.where(used, float(k), 0.0))
    torch.testing.assert_close(together.diagonal(), used.float())
    order = torch.randperm(n_experts, generator=generator)
    renamed = metrics.co_activation(order[index], n_experts)
    torch.testing.assert_close(renamed[order][:, order], together)


def test_co_activation_of_dropped_tokens_only_is_zero():
    assert metrics.co_activation(torch.full((2, 3, 2), -1), 3).tolist() == [[0] * 3] * 3


def test_saturation_counts_common_experts_in_any_order():
    early, final = torch.tensor([[0, 1], [2, 3]]), torch.tensor([[1, 0], [3, 4]])
    assert metrics.saturation(early, final).item() == pytest.approx(0.75)
    assert metrics.saturation(final, final) == 1
    assert metrics.saturation(final, final + 5) == 0


def test_empty_slots_are_no_agreement():
    early, final = torch.tensor([[0, -1], [-1, -1], [1, -1]]), torch.tensor([[0, -1], [-1, -1], [-1, -1]])
    assert metrics.saturation(early, final).item() == pytest.approx(0.5)  # same set; left out; lost its expert
    assert metrics.saturation(final, final) == 1
    assert metrics.saturation(torch.full((4, 2), -1), torch.full((4, 2), -1)).isnan()


def test_saturation_of_an_untrained_router_is_k_of_e():
    generator = torch.Generator().manual_seed(0)
    early, final = (torch.rand(5000, 8, generator=generator).topk(2).indices for _ in range(2))
    assert metrics.saturation(early, final).item() == pytest.approx(2 / 8, abs=0.02)


def test_saturation_compares_different_numbers_of_slots():
    assert metrics.saturation(torch.tensor([[3]]), torch.tensor([[3, 1]])).item() == 0.5


def test_flip_rate_by_hand():
    assert metrics.flip_rate(torch.tensor([[0, 1], [2, 3]]), torch.tensor([[0, 1], [2, 0]])).item() == 0.25
    assert metrics.flip_rate(torch.tensor([0, -1, -1]), torch.tensor([-1, -1, 2])) == 1  # lost; left out; found
    assert metrics.flip_rate(torch.zeros(0).long(), torch.zeros(0).long()).isnan()


@examples
@given(pairs())
def test_flip_rate_is_what_top_one_saturation_lacks(pair):
    a, b = pair
    torch.testing.assert_close(metrics.flip_rate(a, b), (a != b).float().mean())
    torch.testing.assert_close(metrics.flip_rate(a, b), 1 - metrics.saturation(a[:, None], b[:, None]))


@pytest.mark.parametrize(
    "call",
    [
        lambda: metrics.label_share(torch.zeros(3, 1).long(), torch.zeros(2).long(), 4, 2),
        lambda: metrics.label_share(torch.zeros(3, 1).long(), torch.full((3,), 2), 4, 2),
        lambda: metrics.contingency(torch.zeros(3).long(), torch.zeros(2).long(), 4, 2),
        lambda: metrics.contingency(torch.zeros(3).long(), torch.zeros(3).long(), 0, 2),
        lambda: metrics.nmi_floor(torch.zeros(3).long(), torch.zeros(3).long(), draws=0),
        lambda: metrics.vocabulary_top_share(torch.zeros(3).long(), torch.zeros(3).long(), at_least=0),
        lambda: metrics.co_activation(torch.full((3, 2), 4), 4),
        lambda: metrics.saturation(torch.zeros(3, 2).long(), torch.zeros(4, 2).long()),
        lambda: metrics.saturation(torch.zeros(3, 2), torch.zeros(3, 2)),
        lambda: metrics.flip_rate(torch.zeros(3).long(), torch.zeros(4).long()),
    ],
)
def test_what_does_not_fit_is_refused_in_one_sentence(call):
    with pytest.raises(BadValue) as caught:
        call()
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 150
