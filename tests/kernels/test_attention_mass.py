import math

import pytest
import torch

from explorer import metrics
from explorer.errors import BadValue, UnknownName
from explorer.kernels.attention_mass import CAUSAL, KERNELS, Rule, attention_map, attention_mass, first_from_lse

NAMES = ("received", "first", "elsewhere", "entropy")


def pair(B=3, H=2, T=7, d=12, S=None, scale=1.0, dtype=torch.float32):
    generator = torch.Generator().manual_seed(T + d)
    q, k = torch.randn(B, H, T, d, generator=generator), torch.randn(B, H, S or T, d, generator=generator)
    return (q * scale).to(dtype), (k * scale).to(dtype)


def agree(mass, q, k, rule=CAUSAL, atol=1e-5):
    """Held to the definition in float64."""
    double = {name: one.double() for name in ("sink", "key_bias") if (one := getattr(rule, name)) is not None}
    exact = attention_mass(q.double(), k.double(), "reference", rule._replace(**double))
    for name in NAMES:
        torch.testing.assert_close(
            getattr(mass, name).double(), getattr(exact, name), atol=atol, rtol=0, equal_nan=True, msg=name
        )
    assert mass.error.abs().nan_to_num().max() == 0


def looped(q, k, *, causal, mask=None, sink=None, key_bias=None, weights="softmax", bias=0.0):
    """The definition once more, a number at a time: {name: value} of one sequence and one head, in Python's floats."""
    T, S = len(q), len(k)
    rows, seen = [], []
    for t in range(T):
        may = [(not causal or s <= t + S - T) and (mask is None or bool(mask[0, 0, t, s])) for s in range(S)]
        may = [m and (key_bias is None or key_bias[s] > -math.inf) for s, m in enumerate(may)]
        scores = [sum(a * b for a, b in zip(q[t], k[s], strict=True)) / math.sqrt(len(q[t])) + bias for s in range(S)]
        scores = [x + (key_bias[s] if key_bias is not None else 0) for s, x in enumerate(scores)]
        if weights == "sigmoid":
            rows.append([1 / (1 + math.exp(-x)) if m else 0.0 for x, m in zip(scores, may, strict=True)])
        else:
            total = sum(math.exp(x) for x, m in zip(scores, may, strict=True) if m) + (math.exp(sink) if sink else 0)
            rows.append([math.exp(x) / total if m else 0.0 for x, m in zip(scores, may, strict=True)])
        seen.append(may)
    some = [t for t in range(T) if any(seen[t])]
    first = min(s for s in range(S) if any(seen[t][s] for t in range(T)))
    late = [t for t in some if t + max(S - T, 0) > first]
    sums = [sum(row) for row in rows]
    entropies = [-sum(a / sums[t] * math.log(a / sums[t]) for a in rows[t] if a > 0) for t in some]
    lookers = [sum(seen[t][s] for t in range(T)) for s in range(S)]
    return {
        "received": [sum(row[s] for row in rows) / n if (n := lookers[s]) else math.nan for s in range(S)],
        "first": sum(rows[t][first] for t in late) / len(late),
        "elsewhere": sum(1 - sums[t] for t in some) / len(some),
        "entropy": sum(entropies) / len(some),
    }


def left_padded(T, n):
    """The first n positions are padding: nobody looks at them, and what stands in their own rows does not count."""
    real = torch.arange(T) >= n
    return (real[:, None] & real[None, :])[None, None]


CASES = {
    "causal": {"causal": True},
    "both ways": {"causal": False},
    "sink": {"causal": True, "sink": 0.7},
    "key bias": {"causal": True, "key_bias": [0.3, -1.0, 2.0, -math.inf, 0.0, 0.5]},
    "left padding": {"causal": True, "mask": left_padded(6, 2)},
    "left padding, both ways, sink": {"causal": False, "mask": left_padded(6, 2), "sink": -0.4},
    "sigmoid": {"causal": True, "weights": "sigmoid", "bias": -math.log(6)},
    "bias beside a sink": {"causal": True, "bias": 0.8, "sink": 0.2},
}


@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize("case", CASES)
def test_every_rule_against_plain_loops(case, kernel):
    q, k = pair(B=1, H=1, T=6, d=4)
    settings = CASES[case]
    expected = looped(q[0, 0].tolist(), k[0, 0].tolist(), **settings)
    given = {
        **settings,
        **({"sink": torch.tensor([settings["sink"]])} if "sink" in settings else {}),
        **({"key_bias": torch.tensor(settings["key_bias"])} if "key_bias" in settings else {}),
    }
    mass = attention_mass(q, k, kernel, Rule(**given))
    for name in NAMES:
        got, wanted = getattr(mass, name)[0, 0], torch.tensor(expected[name])
        torch.testing.assert_close(got, wanted, atol=1e-5, rtol=0, equal_nan=True, msg=name)


def test_reference_is_what_the_metrics_read_off_the_map():
    q, k = pair()
    A = attention_map(q, k)
    torch.testing.assert_close(A.sum(-1), torch.ones(3, 2, 7))
    assert A.triu(1).abs().max() == 0
    mass = attention_mass(q, k, "reference")
    torch.testing.assert_close(mass.received, metrics.received_mass(A))
    torch.testing.assert_close(mass.first.mean(0), metrics.first_token_share(A))
    sink = attention_map(q, k, Rule(sink=torch.tensor([1.0, 3.0])))
    taken = attention_mass(q, k, "blocks", Rule(sink=torch.tensor([1.0, 3.0])))
    torch.testing.assert_close(taken.elsewhere.mean(0), metrics.learned_sink_mass(sink))


def test_even_attention_by_hand():
    """Three tokens without any preference: rows (1, 0, 0), (1/2, 1/2, 0) and (1/3, 1/3, 1/3)."""
    for kernel in KERNELS:
        mass = attention_mass(torch.zeros(1, 1, 3, 2), torch.randn(1, 1, 3, 2), kernel)
        torch.testing.assert_close(mass.received[0, 0], torch.tensor([11 / 18, 5 / 12, 1 / 3]))
        torch.testing.assert_close(mass.first, torch.tensor([[5 / 12]]))
        torch.testing.assert_close(mass.entropy, torch.tensor([[math.log(6) / 3]]))
        sink = attention_mass(torch.zeros(1, 1, 3, 2), torch.randn(1, 1, 3, 2), kernel, Rule(sink=torch.zeros(1)))
        torch.testing.assert_close(sink.elsewhere, torch.tensor([[13 / 36]]))  # (1/2 + 1/3 + 1/4) / 3
        torch.testing.assert_close(sink.first, torch.tensor([[7 / 24]]))  # (1/3 + 1/4) / 2
        torch.testing.assert_close(sink.entropy, mass.entropy)  # of the shares: the sink changes none


@pytest.mark.parametrize("T, d, scale", [(7, 12, 1), (2, 2, 1), (63, 6, 1), (64, 4, 1), (65, 4, 1), (200, 16, 3)])
@pytest.mark.parametrize("causal", [True, False])
def test_blocks_are_exact(T, d, scale, causal):
    q, k = pair(T=T, d=d, scale=scale)
    agree(attention_mass(q, k, "blocks", Rule(causal)), q, k, Rule(causal))
    queries, keys = pair(T=T, d=d, S=T + 9)
    agree(attention_mass(queries, keys, "blocks", Rule(causal)), queries, keys, Rule(causal))


@pytest.mark.parametrize("shape", [(3, 1, 70, 70), (1, 1, 1, 70), (1, 2, 70, 1), (70, 70)])
def test_masks_of_any_shape_that_broadcasts(shape):
    q, k = pair(T=70, d=4)
    mask = torch.rand(shape, generator=torch.Generator().manual_seed(1)) > 0.3
    bias = torch.randn(3, 1, 70, generator=torch.Generator().manual_seed(2))
    for rule in (Rule(mask=mask), Rule(False, mask=mask, key_bias=bias, sink=torch.tensor([-1.0, 2.0]))):
        agree(attention_mass(q, k, "blocks", rule), q, k, rule)


@pytest.mark.parametrize("kernel", KERNELS)
def test_padding_on_the_left_changes_nothing(kernel):
    """Behind it the same sequence has the same statistics, whatever stands in the padding."""
    q, k = pair(B=2, T=9, d=4)
    alone = attention_mass(q, k, kernel)
    padded = [torch.cat([torch.full((2, 2, 3, 4), torch.nan), one], 2) for one in (q, k)]
    mass = attention_mass(*padded, kernel, Rule(mask=left_padded(12, 3)))
    assert mass.received[..., :3].isnan().all()  # no query looks at these keys
    torch.testing.assert_close(mass.received[..., 3:], alone.received)
    for name in ("first", "elsewhere", "entropy"):
        torch.testing.assert_close(getattr(mass, name), getattr(alone, name))


@pytest.mark.parametrize("kernel", KERNELS)
def test_where_nobody_may_look_anywhere_there_is_no_mean(kernel):
    mass = attention_mass(*pair(), kernel, Rule(mask=torch.zeros(7, 7, dtype=torch.bool)))
    assert all(getattr(mass, name).isnan().all() for name in NAMES)
    assert (attention_map(*pair(), Rule(mask=torch.zeros(7, 7, dtype=torch.bool))) == 0).all()


@pytest.mark.parametrize("size", [60.0, 1e4])
def test_exact_where_one_key_takes_everything(size):
    q, k = pair(T=90, d=4)
    k[:, :, 0], q[..., 0] = torch.tensor([size, 0, 0, 0]), 2.0  # far above the others: weights underflow
    mass = attention_mass(q, k)
    assert mass.first.min() > 0.99
    agree(mass, q, k)
    lse = torch.logsumexp((q @ k.transpose(-1, -2) / 2).masked_fill(torch.ones(90, 90).triu(1) == 1, -math.inf), -1)
    agree(attention_mass(q, k, lse_BHT=lse), q, k)


def test_a_sink_far_above_or_below_all_scores():
    q, k = pair(T=20)
    rule = Rule(sink=torch.tensor([500.0, -500.0]))
    mass = attention_mass(q, k, rule=rule)
    agree(mass, q, k, rule)
    torch.testing.assert_close(mass.elsewhere, torch.tensor([[1.0, 0.0]]).expand(3, 2))


@pytest.mark.parametrize("kernel", KERNELS)
def test_a_score_of_minus_infinity_weighs_nothing(kernel):
    q, k = pair(T=9)
    q, k = q.abs(), k.clone()
    k[:, :, 2] = -math.inf  # and no query's only key
    k[:, :, 0, 0] = 0.0
    mass = attention_mass(q, k, kernel)
    assert (mass.received[..., 2] == 0).all()
    assert all(getattr(mass, name).isfinite().all() for name in NAMES)


def test_the_log_sum_exp_of_a_fused_kernel_is_as_good_and_needs_not_be_exact():
    q, k = pair(T=130, d=8, scale=2)
    scores = (q @ k.transpose(-1, -2) / 8**0.5).masked_fill(torch.ones(130, 130).triu(1) == 1, -math.inf)
    lse = scores.logsumexp(-1)
    for given in (lse, lse + 0.5):
        agree(attention_mass(q, k, lse_BHT=given), q, k)
    torch.testing.assert_close(first_from_lse(q, k, lse), attention_mass(q, k).first, atol=1e-5, rtol=0)
    quick = attention_mass(q, k, lse_BHT=lse, entropy=False)
    torch.testing.assert_close(quick.received, attention_mass(q, k).received, atol=1e-6, rtol=0)
    assert quick.entropy.isnan().all()


def test_the_size_of_a_block_does_not_matter(monkeypatch):
    q, k = pair(T=50)
    rule = Rule(mask=torch.rand(3, 1, 1, 50, generator=torch.Generator().manual_seed(0)) > 0.2)
    for tile in (1, 3 * 2 * 50 * 9, 5 * 50, 3 * 50 * 50):
        monkeypatch.setattr("explorer.kernels.attention_mass.blocks.TILE", tile)
        agree(attention_mass(q, k), q, k)
        agree(attention_mass(q, k, rule=rule), q, k, rule)


@pytest.mark.parametrize("masked", [False, True])
def test_blocks_never_hold_the_map(masked):
    """At T = 2048 and 8 heads the map is 128 MiB; no single allocation of the blocks comes near."""
    from torch.utils._python_dispatch import TorchDispatchMode

    class Largest(TorchDispatchMode):
        bytes = 0

        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            out = func(*args, **(kwargs or {}))
            if isinstance(out, torch.Tensor):
                self.bytes = max(self.bytes, out.untyped_storage().nbytes())
            return out

    q, k = pair(B=1, H=8, T=2048, d=8)
    rule = Rule(mask=torch.ones(1, 1, 1, 2048, dtype=torch.bool)) if masked else Rule()
    with Largest() as largest:
        attention_mass(q, k, rule=rule)
    assert largest.bytes <= 4 * 2**20  # two tiles


@pytest.mark.parametrize("kernel", KERNELS)
def test_one_token_gives_no_first_token_share(kernel):
    mass = attention_mass(*pair(T=1), kernel)
    assert (mass.received == 1).all() and mass.entropy.abs().max() < 1e-6 and mass.first.isnan().all()
    last = attention_mass(*pair(T=1, S=5), kernel)  # with a cache: one query, and it is not the first
    assert last.first.isfinite().all() and last.received.sum(-1) == pytest.approx(1)


@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_half_precision_is_read_in_float32(kernel, dtype):
    mass = attention_mass(*pair(T=33, dtype=dtype), kernel)
    assert {t.dtype for t in mass[:5]} == {torch.float64 if dtype == torch.float64 else torch.float32}
    assert all(t.isfinite().all() for t in mass[:5])


@pytest.mark.parametrize("kernel", KERNELS)
def test_scores_beyond_half_precision_are_no_overflow(kernel):
    q, k = pair(T=9, scale=1e4, dtype=torch.float16)  # products of 1e8: infinite in float16
    assert all(getattr(attention_mass(q, k, kernel), name).isfinite().all() for name in NAMES)


@pytest.mark.parametrize("kernel", KERNELS)
def test_nan_propagates_to_those_who_see_it(kernel):
    q, k = pair()
    k[0, 0, 3] = torch.nan
    mass = attention_mass(q, k, kernel)
    assert all(getattr(mass, name)[0, 0].isnan().all() for name in NAMES)
    assert all(t[1:].isfinite().all() and t[0, 1].isfinite().all() for t in mass[:5])


def test_no_gradient_flows_and_the_path_is_named():
    q, k = pair()
    mass = attention_mass(q.requires_grad_(), k)
    assert not any(t.requires_grad for t in mass[:5])
    assert mass.kernel == "attention_mass: blocks"
    with pytest.raises(UnknownName, match="did you mean 'blocks'"):
        attention_mass(q, k, "block")


@pytest.mark.parametrize(
    "rule, said",
    [
        (Rule(weights="relu"), "weights='relu': it must be 'softmax' or 'sigmoid'"),
        (Rule(mask=torch.zeros(7, 7)), "mask must be a bool tensor"),
        (Rule(weights="sigmoid", sink=torch.zeros(2)), "a sink takes weight from a softmax"),
    ],
)
@pytest.mark.parametrize("kernel", KERNELS)
def test_a_rule_that_makes_no_sense_is_refused(kernel, rule, said):
    with pytest.raises(BadValue, match=said):
        attention_mass(*pair(), kernel, rule)
    with pytest.raises(BadValue, match="7 queries and only 4 keys"):
        attention_mass(*pair(S=4), kernel)
