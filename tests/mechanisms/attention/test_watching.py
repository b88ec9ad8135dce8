"""attend, watch and watch_map: what they compute for those who watch, and that it changes nothing."""

import pytest
import torch
import torch.nn.functional as F

import explorer
from explorer import metrics
from explorer.errors import BadValue
from explorer.mechanisms.attention.watching import STATISTICS, TAPS, attend, sample, watch, watch_map
from explorer.taps import Instrumented

B, H, T, d = 2, 3, 9, 4
ALL = ["*", "/attention"]


class Attention(Instrumented):
    taps = TAPS

    def __init__(self, how, **rule):
        super().__init__()
        self.how, self.rule, self.kernel = how, rule, "sdpa"

    def forward(self, q, k, v):
        if self.how == "attend":
            return attend(self, q, k, v, **self.rule)
        if self.how == "map":
            A = (q @ k.transpose(-1, -2)).tril(k.shape[-2] - q.shape[-2]).clamp(min=0)
            return watch_map(self, A, v, **self.rule) @ v
        y = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        return watch(self, q, k, v, y, **self.rule)


def qkv(T=T, S=None, dtype=torch.float32):
    generator = torch.Generator().manual_seed(T)
    return [torch.randn(B, n, H, d, generator=generator).to(dtype).transpose(1, 2) for n in (T, S or T, S or T)]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("causal", [True, False])
@pytest.mark.parametrize("T", [1, 7, 65])
def test_attend_is_torchs_attention_bit_for_bit_recorded_or_not(T, causal, dtype):
    ours, theirs = ([one.clone().requires_grad_() for one in qkv(T, dtype=dtype)] for _ in "ab")
    wanted = F.scaled_dot_product_attention(*theirs, is_causal=causal)
    upstream = torch.randn_like(wanted)
    grads = torch.autograd.grad(wanted, theirs, upstream)
    module = Attention("attend", causal=causal)
    for watched in (None, "/first", ["/received", "/entropy"], ALL):
        if watched is None:
            y = module(*ours)
        else:
            with explorer.record(module, watched):
                y = module(*ours)
        assert torch.equal(y, wanted)
        assert all(map(torch.equal, torch.autograd.grad(y, ours, upstream), grads))


@pytest.mark.parametrize("causal", [True, False])
def test_attend_with_a_cache_and_with_wider_values(causal):
    module = Attention("attend", causal=causal)
    q, k, v = qkv(3, 8)
    with explorer.record(module, ALL) as seen:
        y = module(q, k, v)
    torch.testing.assert_close(y, seen.last("/attention") @ v)
    torch.testing.assert_close(seen.last("/received"), metrics.received_mass(seen.last("/attention"), causal=causal))
    wide = torch.cat([v, v], -1)
    torch.testing.assert_close(module(q, k, wide), torch.cat([y, y], -1))


def test_the_first_token_alone_comes_from_the_log_sum_exp_and_is_the_same():
    module = Attention("attend")
    q, k, v = qkv(65)
    with explorer.record(module, ["/first", "/values"]) as quick:
        module(q, k, v)
    assert module.kernel == "sdpa, attention_mass: first key from the log-sum-exp"
    with explorer.record(module, ALL) as full:
        module(q, k, v)
    assert module.kernel == "sdpa, attention_mass: blocks"
    torch.testing.assert_close(quick.last("/first"), full.last("/first"), atol=1e-6, rtol=0)
    torch.testing.assert_close(quick.last("/values"), v.norm(dim=-1))


@pytest.mark.parametrize("how", ["attend", "watch"])
def test_a_sample_says_so_and_how_far_off_it_may_be(how):
    module = Attention(how)
    q, k, v = qkv(300)
    with explorer.record(module) as seen:
        module(q, k, v)
        sample(module, 4)
        module(q, k, v)
        assert module.kernel == "sdpa, attention_mass: blocks, one query in 4"
        sample(module, 1)
        module(q, k, v)
        assert module.kernel == "sdpa, attention_mass: blocks"
    exact, estimate = (seen.at("/received", step) for step in (0, 1))
    off, said = (estimate - exact).square().mean(), seen.at("/error", 1).square().mean()
    assert 0.3 < off / said < 3 and (seen.at("/error", 0) == 0).all()
    assert torch.equal(seen.at("/received", 2), exact)
    with pytest.raises(BadValue, match="stride=0"):
        sample(module, 0)


def test_a_map_that_a_mechanism_holds_is_read_off_and_may_be_edited():
    module = Attention("map")
    q, k, v = qkv()
    with explorer.record(module, ALL) as seen:
        y = module(q, k, v)
    A = seen.last("/attention")
    assert module.kernel == "sdpa, attention_mass: its own map"
    torch.testing.assert_close(y, A @ v)
    torch.testing.assert_close(seen.last("/received"), metrics.received_mass(A))
    torch.testing.assert_close(seen.last("/elsewhere").mean(0), metrics.learned_sink_mass(A))
    with explorer.edit(module, "*/attention", lambda A: 2 * A):
        torch.testing.assert_close(module(q, k, v), 2 * y)
    assert set(seen.paths()) == {f"/{tap}" for tap in TAPS}


def test_whatever_rule_it_is_given_the_statistics_are_those_of_its_map():
    mask = torch.rand(B, 1, 1, T, generator=torch.Generator().manual_seed(0)) > 0.3
    mask[..., 0] = True
    module = Attention("watch", sink_H=torch.tensor([0.0, 1.0, -1.0]), mask=mask, key_bias_BHS=torch.randn(B, 1, T))
    with explorer.record(module, ALL) as seen:
        module(*qkv())
    A = seen.last("/attention")
    torch.testing.assert_close(seen.last("/elsewhere").mean(0), metrics.learned_sink_mass(A))
    torch.testing.assert_close(seen.last("/first").mean(0), metrics.first_token_share(A))
    sigmoid = Attention("watch", weights="sigmoid", bias=-2.0)
    with explorer.record(sigmoid, ALL) as seen:
        sigmoid(*qkv())
    torch.testing.assert_close(seen.last("/received"), metrics.received_mass(seen.last("/attention")))


def test_whoever_edits_a_statistic_changes_nothing():
    module = Attention("attend")
    y = module(*qkv())
    for name in STATISTICS:
        with explorer.edit(module, f"*/{name}", torch.zeros_like):
            assert torch.equal(module(*qkv()), y)
