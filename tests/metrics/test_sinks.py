"""Attention sinks: received mass, first-token share, sink rate and row entropy, with padding and caches."""

import math

import pytest
import torch
from scipy.stats import entropy as scipy_entropy

from explorer import metrics
from explorer.errors import BadValue

# one sequence, one head, three queries
BY_HAND = torch.tensor([[[[1.0, 0.0, 0.0], [0.5, 0.5, 0.0], [0.6, 0.2, 0.2]]]])


def causal(B, H, T, S=None, seed=0):
    """Random causal softmax attention (B, H, T, S)."""
    S = S or T
    logits = torch.randn(B, H, T, S, generator=torch.Generator().manual_seed(seed))
    return logits.masked_fill(torch.ones(T, S).tril(S - T) == 0, -math.inf).softmax(-1)


def uniform(T):
    rows = torch.ones(T, T).tril()
    return (rows / rows.sum(-1, keepdim=True))[None, None]


def pad_left(attention, n):
    """The same attention behind n padding positions, whose own rows are NaN as softmax over nothing leaves them."""
    padded = torch.nn.functional.pad(attention, (n, 0, n, 0))
    padded[..., :n, :] = math.nan
    return padded


def test_received_mass_by_hand():
    received_BHS = metrics.received_mass(BY_HAND)
    torch.testing.assert_close(received_BHS, torch.tensor([[[2.1 / 3, 0.7 / 2, 0.2]]]))


@pytest.mark.parametrize("B, H, T", [(1, 1, 1), (2, 3, 5), (3, 2, 63)])
def test_received_mass_is_the_mean_over_the_queries_that_may_see_the_key(B, H, T):
    attention = causal(B, H, T)
    expected = torch.stack([attention[:, :, s:, s].mean(-1) for s in range(T)], dim=-1)
    torch.testing.assert_close(metrics.received_mass(attention), expected)


def test_everybody_looking_at_one_key_is_one_and_nobody_zero():
    sink = torch.zeros(1, 1, 4, 4)
    sink[..., 0] = 1
    assert metrics.received_mass(sink).tolist() == [[[1, 0, 0, 0]]]


def test_bidirectional_attention_is_received_from_all_queries():
    attention = torch.rand(2, 3, 5, 5, generator=torch.Generator().manual_seed(0)).softmax(-1)
    torch.testing.assert_close(metrics.received_mass(attention, causal=False), attention.mean(-2))


def test_queries_with_a_cache_are_the_last_positions():
    whole = causal(2, 2, 7)
    last = whole[:, :, 4:]
    torch.testing.assert_close(metrics.received_mass(last)[..., 5], whole[:, :, 5:, 5].mean(-1))
    torch.testing.assert_close(metrics.received_mass(last)[..., 0], last[..., 0].mean(-1))


def test_padded_queries_never_count():
    attention, n = causal(1, 2, 6), 3
    padded = pad_left(attention, n)
    valid = (torch.arange(6 + n) >= n).unsqueeze(0)
    torch.testing.assert_close(metrics.received_mass(padded, valid)[..., n:], metrics.received_mass(attention))
    torch.testing.assert_close(metrics.row_entropy(padded, valid).isfinite(), torch.ones(2).bool())

    right = torch.nn.functional.pad(attention, (0, n, 0, n), value=math.nan)
    valid = (torch.arange(6 + n) < 6).unsqueeze(0)
    torch.testing.assert_close(metrics.received_mass(right, valid)[..., :6], metrics.received_mass(attention))
    assert metrics.received_mass(right, valid)[..., 6:].isnan().all()  # keys that no valid query sees
    torch.testing.assert_close(metrics.first_token_share(right, valid=valid), metrics.first_token_share(attention))
    torch.testing.assert_close(metrics.row_entropy(right, valid), metrics.row_entropy(attention))


def test_first_token_share_by_hand():
    assert metrics.first_token_share(BY_HAND).tolist() == pytest.approx([0.55])
    assert metrics.first_token_share(BY_HAND, skip=0).tolist() == pytest.approx([0.7])
    assert metrics.first_token_share(BY_HAND, skip=3).isnan().all()


def test_first_token_share_weighs_sequences_by_their_valid_queries():
    attention = torch.cat([BY_HAND, BY_HAND])
    valid = torch.tensor([[True, True, True], [True, True, False]])
    assert metrics.first_token_share(attention, valid=valid).tolist() == pytest.approx([(0.5 + 0.6 + 0.5) / 3])


def test_first_token_share_of_even_attention_is_the_harmonic_mean():
    T = 64
    expected = sum(1 / (t + 1) for t in range(T)) / T
    assert metrics.first_token_share(uniform(T), skip=0).item() == pytest.approx(expected)


def test_first_token_share_with_no_skip_is_the_first_received_column():
    attention = causal(3, 4, 9)
    first = metrics.received_mass(attention)[..., 0].mean(0)
    torch.testing.assert_close(metrics.first_token_share(attention, skip=0), first)


def test_heads_are_kept_apart():
    pure = torch.zeros(1, 1, 3, 3)
    pure[..., 0] = 1
    both = torch.cat([pure, BY_HAND], dim=1)
    assert metrics.first_token_share(both).tolist() == pytest.approx([1, 0.55])


def test_sink_rate_counts_heads_above_the_threshold():
    first_LBH = torch.tensor([[[0.9, 0.31, 0.3, 0.1]]])
    assert metrics.sink_rate(first_LBH).item() == 0.5
    assert metrics.sink_rate(first_LBH, eps=0.05).item() == 1
    assert metrics.sink_rate(first_LBH, eps=0.95).item() == 0


def test_sink_rate_agrees_with_the_definition_of_the_paper():
    attention = torch.stack([causal(4, 3, 16, seed=layer) * 1.0 for layer in range(2)])  # L B H T S
    attention[0, :, 1] = 0
    attention[0, :, 1, :, 0] = 1
    sinks = 0
    for layer in attention:
        for sequence in layer:
            for head in sequence:
                alpha = sum(head[i, 0].item() for i in range(16)) / 16
                sinks += alpha > 0.3
    first = torch.stack([metrics.received_mass(layer)[..., 0] for layer in attention])
    assert metrics.sink_rate(first).item() == pytest.approx(sinks / (2 * 4 * 3))


def test_sink_rate_is_undefined_without_heads_or_with_nan():
    assert metrics.sink_rate(torch.zeros(0)).isnan()
    assert metrics.sink_rate(torch.tensor([0.5, math.nan])).isnan()


def test_row_entropy_of_even_attention_is_one_and_of_a_sink_zero():
    sink = torch.zeros(1, 1, 5, 5)
    sink[..., 0] = 1
    assert metrics.row_entropy(torch.cat([uniform(5), sink], dim=1)).tolist() == pytest.approx([1, 0])


def test_row_entropy_agrees_with_scipy():
    attention = causal(2, 3, 8)
    rows = [[scipy_entropy(attention[b, :, t].numpy(), axis=-1) / math.log(t + 1) for t in range(1, 8)] for b in (0, 1)]
    expected = torch.tensor(sum(sum(row) for row in rows) / 14)
    torch.testing.assert_close(metrics.row_entropy(attention), expected, check_dtype=False)


def test_row_entropy_of_a_row_with_a_sink_logit_is_that_of_its_shares():
    torch.testing.assert_close(metrics.row_entropy(0.3 * causal(2, 3, 8)), metrics.row_entropy(causal(2, 3, 8)))


def test_row_entropy_leaves_out_queries_with_nothing_to_spread():
    assert metrics.row_entropy(torch.ones(1, 2, 1, 1)).isnan().all()
    silent = uniform(4)
    silent[..., 2, :] = 0
    assert metrics.row_entropy(silent).item() == pytest.approx(1)


def test_row_entropy_of_bidirectional_attention_uses_all_keys():
    assert metrics.row_entropy(torch.full((1, 1, 3, 7), 1 / 7), causal=False).item() == pytest.approx(1)


@pytest.mark.parametrize(
    "metric", [metrics.received_mass, metrics.first_token_share, metrics.row_entropy, metrics.proxy_scores]
)
def test_a_nan_among_valid_queries_is_not_hidden(metric):
    attention = causal(1, 2, 4)
    attention[:, 1, 2] = math.nan
    value = metric(attention)
    assert value.isnan().any()
    assert value.select(-1 if value.dim() == 1 else 1, 0).isfinite().all()  # the other head is untouched


def test_what_stands_above_the_diagonal_never_counts():
    attention = causal(2, 2, 6)
    spoilt = attention.masked_fill(torch.ones(6, 6).triu(1) == 1, math.nan)
    for metric in (metrics.received_mass, metrics.first_token_share, metrics.row_entropy):
        torch.testing.assert_close(metric(spoilt), metric(attention))


def test_proxy_scores_sum_to_one_and_leave_softmax_as_it_is():
    torch.testing.assert_close(metrics.proxy_scores(causal(2, 2, 5)), causal(2, 2, 5))
    sigmoid = torch.tensor([[0.2, 0.6], [0.0, 0.0]])
    torch.testing.assert_close(metrics.proxy_scores(sigmoid), torch.tensor([[0.25, 0.75], [0.0, 0.0]]))


@pytest.mark.parametrize("metric", [metrics.received_mass, metrics.first_token_share, metrics.row_entropy])
@pytest.mark.parametrize(
    "attention, valid, culprit",
    [
        (torch.rand(3, 3), None, "attention must have the axes B H T S"),
        (torch.rand(1, 2, 3, 3), torch.ones(1, 2).bool(), "they must be equal"),
        (torch.rand(1, 2, 3, 3), torch.ones(1, 3), "valid must be a bool tensor"),
    ],
)
def test_attention_that_does_not_fit_is_refused(metric, attention, valid, culprit):
    with pytest.raises(BadValue, match=culprit):
        metric(attention, valid=valid)


@pytest.mark.parametrize("metric", [metrics.received_mass, metrics.row_entropy])
def test_more_queries_than_keys_are_refused_only_where_attention_is_causal(metric):
    with pytest.raises(BadValue, match="4 queries and only 3 keys"):
        metric(torch.rand(1, 1, 4, 3))
    assert metric(torch.rand(1, 1, 4, 3), causal=False).isfinite().all()


def test_learned_sink_mass_is_what_the_rows_lack():
    attention = torch.tensor([[[[0.2, 0.0], [0.1, 0.3]]]])
    assert metrics.learned_sink_mass(attention).tolist() == pytest.approx([(0.8 + 0.6) / 2])
    assert metrics.learned_sink_mass(BY_HAND).tolist() == pytest.approx([0], abs=1e-6)
    pure = torch.zeros(1, 1, 3, 3)
    pure[..., 0] = 1
    assert metrics.learned_sink_mass(pure).item() == 0  # an emergent sink is none of it


def test_padded_queries_are_no_learned_sink():
    attention, n = 0.25 * causal(2, 3, 5), 2
    valid = (torch.arange(5 + n) >= n).expand(2, -1)
    lacking = metrics.learned_sink_mass(pad_left(attention, n), valid)
    torch.testing.assert_close(lacking, torch.full((3,), 0.75))
    assert metrics.learned_sink_mass(attention, torch.zeros(2, 5).bool()).isnan().all()


def test_value_norm_ratio_by_hand():
    values = torch.tensor([[[1.0, 4.0, 6.0], [2.0, 2.0, 2.0]], [[3.0, 1.0, 5.0], [0.0, 1.0, 1.0]]])
    assert metrics.value_norm_ratio(values).tolist() == pytest.approx([(1 / 5 + 3 / 3) / 2, (1 + 0) / 2])
    assert metrics.value_norm_ratio(values, sink=2).tolist() == pytest.approx([(6 / 2.5 + 5 / 2) / 2, (1 + 2) / 2])
    valid = torch.tensor([[True, True, False], [False, True, True]])  # the second sequence has no first token
    assert metrics.value_norm_ratio(values, valid=valid).tolist() == pytest.approx([1 / 4, 1])
    assert metrics.value_norm_ratio(values[..., :1]).isnan().all()


def test_values_that_do_not_fit_are_refused():
    with pytest.raises(BadValue, match="sink=3: it must be one of the 3 keys"):
        metrics.value_norm_ratio(torch.ones(1, 1, 3), sink=3)
    with pytest.raises(BadValue, match="axes B H S"):
        metrics.value_norm_ratio(torch.ones(1, 3))
    with pytest.raises(BadValue, match="valid must be a bool tensor of keys"):
        metrics.value_norm_ratio(torch.ones(1, 1, 3), valid=torch.ones(1, 3))


def test_massive_activations_by_hand():
    residual = torch.tensor([[[1.0, -2.0, 3.0], [-900.0, 2.0, 1.0]]])
    largest, ratio = metrics.massive_activations(residual)
    assert largest.item() == 900 and ratio.item() == 450
    largest, ratio = metrics.massive_activations(residual, torch.tensor([[True, False]]))
    assert largest.item() == 3 and ratio.item() == 1.5


def test_massive_activations_of_nothing_of_nan_and_of_half_precision():
    assert all(one.isnan() for one in metrics.massive_activations(torch.ones(0, 4)))
    assert all(one.isnan() for one in metrics.massive_activations(torch.tensor([1.0, math.nan])))
    largest, ratio = metrics.massive_activations(torch.tensor([6e4, -1, 1, 0.5, 1], dtype=torch.float16))
    assert largest.item() == 60_000 and ratio.item() == 60_000
    with pytest.raises(BadValue, match="they must be equal"):
        metrics.massive_activations(torch.ones(2, 3, 4), torch.ones(2, 4).bool())
