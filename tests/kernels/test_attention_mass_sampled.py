"""A sample of the queries: right on average, as far off as it says, and the same on every call."""

import pytest
import torch

from explorer.errors import BadValue
from explorer.kernels.attention_mass import Rule, asked, attention_mass

T, STRIDE = 400, 8


def pair(B=2, H=3):
    return torch.randn(2, B, H, T, 8, generator=torch.Generator().manual_seed(0)).unbind()


def drawn(monkeypatch, seed):
    """Another draw of the queries that are asked."""

    def places(T, stride):
        strata = (T - 1 - asked.LAST) // (2 * stride)
        within = torch.rand(strata, 2 * stride, generator=torch.Generator().manual_seed(seed)).topk(2).indices
        return (within + 1 + torch.arange(strata)[:, None] * 2 * stride).flatten()

    monkeypatch.setattr(asked, "_places", places)


def test_two_queries_of_each_stratum_the_first_and_the_last_ones():
    plan = asked.some(T, STRIDE, 64)
    queries, weights = plan.queries.tolist(), plan.weights.tolist()
    assert len(set(queries)) == len(queries) and min(queries) >= 0 and max(queries) == T - 1
    assert queries[0] == 0 and set(range(T - asked.LAST, T)) <= set(queries)
    assert sum(weights) == T  # together they stand for all
    strata = [(q - 1) // (2 * STRIDE) for q, w in zip(queries, weights, strict=True) if w > 1]
    assert sorted(strata) == [s for s in range(len(strata) // 2) for _ in "ab"]
    for span in plan.spans:
        assert all(span.low <= q < span.high for q in queries[span.start : span.end])


@pytest.mark.parametrize("causal", [True, False])
def test_its_mean_over_draws_is_the_exact_value_and_its_error_the_spread(monkeypatch, causal):
    q, k = pair()
    rule = Rule(causal, sink=torch.tensor([0.0, 1.0, 2.0]))
    exact, n = attention_mass(q, k, rule=rule), 300
    draws = []
    for seed in range(n):
        drawn(monkeypatch, seed)
        draws.append(attention_mass(q, k, rule=rule, stride=STRIDE))
    for name in ("received", "first", "elsewhere", "entropy"):
        values = torch.stack([getattr(one, name) for one in draws])
        spread = values.std(0)
        assert ((values.mean(0) - getattr(exact, name)).abs() <= 5 * spread / n**0.5 + 1e-6).all(), name
    received = torch.stack([one.received for one in draws])
    said = torch.stack([one.error for one in draws]).square().mean(0).sqrt()
    early = slice(0, T - asked.LAST - 2 * STRIDE)
    assert (said[..., early] / received.std(0)[..., early]).mean() == pytest.approx(1, abs=0.05)
    assert said[..., T - 1].max() == (0 if causal else said[..., T - 1].max())  # the last keys are seen by all asked


def test_every_call_asks_the_same_and_uses_up_nobodys_seed():
    q, k = pair()
    state = torch.random.get_rng_state()
    one, other = (attention_mass(q, k, stride=STRIDE) for _ in "ab")
    assert all(torch.equal(a, b) for a, b in zip(one[:5], other[:5], strict=True))
    assert torch.equal(state, torch.random.get_rng_state())
    assert one.kernel == "attention_mass: blocks, one query in 8"


def test_a_short_sequence_is_asked_completely():
    q, k = (one[:, :, : asked.LAST + 2 * STRIDE] for one in pair())
    sampled, exact = attention_mass(q, k, stride=STRIDE), attention_mass(q, k)
    torch.testing.assert_close(sampled.received, exact.received)
    assert (sampled.error == 0).all()


def test_padding_is_left_out_of_a_sample_too():
    q, k = pair()
    real = torch.arange(T) >= 37
    rule = Rule(mask=(real[:, None] & real[None, :])[None, None])
    sampled, exact = attention_mass(q, k, rule=rule, stride=STRIDE), attention_mass(q, k, rule=rule)
    assert torch.equal(sampled.received.isnan(), exact.received.isnan())
    off, said = ((one[..., 37:]).square().mean() for one in (sampled.received - exact.received, sampled.error))
    assert 0.3 < off / said < 3
    assert (sampled.first - exact.first).abs().max() < 0.02


def test_a_stride_of_nothing_is_refused():
    with pytest.raises(BadValue, match="stride=0: it must be a whole number of at least 1"):
        attention_mass(*pair(), stride=0)
