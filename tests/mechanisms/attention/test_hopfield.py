"""Hopfield attention: softmax attention in one update; in several, what the authors' own package computes."""

import copy
import math

import pytest
import torch

import explorer
from explorer.errors import BadValue
from explorer.kernels.hopfield import energy
from explorer.kernels.rotary import rotary
from explorer.mechanisms.attention import _hopfield_claims

B, T, D, H = 3, 7, 24, 3


def built(**knobs):
    torch.manual_seed(0)
    return explorer.build("hopfield", d_model=D, n_heads=H, **knobs)


def heads(module, x):
    """Queries, keys and values (B, H, T, d) as the mechanism makes them."""
    parts = module.qkv(x).view(*x.shape[:2], 3 * module.n_heads, -1).transpose(1, 2).chunk(3, dim=1)
    return rotary(parts[0], module.rope_base), rotary(parts[1], module.rope_base), parts[2]


def test_one_update_is_softmax_attention_to_the_bit():
    module, plain = built(), explorer.build("softmax-attention", d_model=D, n_heads=H)
    plain.load_state_dict(module.state_dict())
    x = torch.randn(B, T, D)
    assert torch.equal(module(x), plain(x))


@pytest.mark.parametrize("updates, beta", [(1, 1.0), (2, 3.0), (5, 0.4)])
def test_agrees_with_the_authors_layer_in_outputs_and_gradients(updates, beta):
    """difflayers packs hflayers' Hopfield; its heads are independent, so here each is a row of its batch."""
    difflayers = pytest.importorskip("difflayers")
    ours = built(updates=updates, beta=beta).double()
    d = D // H
    theirs = difflayers.Hopfield(
        input_size=d, num_heads=1, scaling=beta * d**-0.5, update_steps_max=updates - 1, update_steps_eps=1e-30,
        normalize_stored_pattern=False, normalize_stored_pattern_affine=False, normalize_state_pattern=False,
        normalize_state_pattern_affine=False, normalize_pattern_projection=False, normalize_pattern_projection_affine=False,
        stored_pattern_as_static=True, state_pattern_as_static=True, pattern_projection_as_static=True,
        disable_out_projection=True, input_bias=False, stored_pattern_size=d, pattern_projection_size=d,
    )  # fmt: skip
    later = torch.ones(T, T, dtype=torch.bool).triu(1)

    def call(x):
        q, k, v = (part.flatten(0, 1) for part in heads(ours, x))
        y = theirs((k, q, v), association_mask=later)
        return ours.out(y.view(B, H, T, d).transpose(1, 2).reshape(B, T, D))

    x, upstream = torch.randn(B, T, D).double().requires_grad_(), torch.randn(B, T, D).double()
    weights = [ours.qkv.weight, ours.out.weight]
    pair = ours(x), call(x)
    torch.testing.assert_close(*pair, atol=1e-10, rtol=1e-8)
    for one, other in zip(*(torch.autograd.grad(y, [x, *weights], upstream) for y in pair), strict=True):
        torch.testing.assert_close(one, other, atol=1e-9, rtol=1e-7)


def slow_reading(x, qkv, out, n_heads, base, updates, beta):
    """The equations in float64, a state and a pattern at a time; channel i of a head turns together with i + d/2."""
    d = x.shape[-1] // n_heads
    q, k, v = (x @ weight.T for weight in qkv.chunk(3))
    turn = base ** -(2 * torch.arange(d // 2).double() / d)

    def rotated(vector, position):
        z = torch.complex(*vector.chunk(2)) * torch.exp(1j * position * turn)
        return torch.cat([z.real, z.imag])

    rows = []
    for b in range(len(x)):
        for t in range(x.shape[1]):
            found = []
            for h in range(n_heads):
                part = slice(h * d, (h + 1) * d)
                state, patterns = rotated(q[b, t, part], t), [rotated(k[b, s, part], s) for s in range(t + 1)]
                for step in range(updates):
                    weights = torch.stack([beta / math.sqrt(d) * (state @ pattern) for pattern in patterns]).exp()
                    weights = weights / weights.sum()
                    read = patterns if step + 1 < updates else [v[b, s, part] for s in range(t + 1)]
                    state = sum(w * one for w, one in zip(weights, read, strict=True))
                found.append(state)
            rows.append(torch.cat(found) @ out.T)
    return torch.stack(rows).view(x.shape)


@pytest.mark.parametrize("updates, beta", [(1, 1.0), (3, 2.5)])
def test_agrees_with_a_slow_reading_in_outputs_and_gradients(updates, beta):
    module = built(updates=updates, beta=beta, rope_base=100.0).double()
    weights = [module.qkv.weight, module.out.weight]
    x, upstream = torch.randn(2, T, D).double().requires_grad_(), torch.randn(2, T, D).double()
    pair = module(x), slow_reading(x, *weights, H, 100.0, updates, beta)
    torch.testing.assert_close(*pair, atol=1e-5, rtol=1e-5)  # the rotation's angles are float32, as everywhere
    for one, other in zip(*(torch.autograd.grad(y, [x, *weights], upstream) for y in pair), strict=True):
        torch.testing.assert_close(one, other, atol=5e-5, rtol=1e-4)


def test_two_updates_by_hand():
    """The second of two tokens, keys (1, 0) and (0, 1) without turning, query (1, 0), beta of both updates ln 3.

    The weights 3/4, 1/4 make the state (3/4, 1/4). Its scores differ by ln 3 / 2, so the weights of the second update are
    sqrt(3) to 1: 0.6340 and 0.3660. The values are 1 and 0 in the first channel.
    """
    module = explorer.build("hopfield", d_model=2, n_heads=1, updates=2, beta=math.log(3) * math.sqrt(2))
    turned = math.cos(1.0), math.sin(1.0)  # undo the turn of one radian of the second token
    with torch.no_grad():
        module.out.weight.copy_(torch.eye(2))
    q, k, v = (
        torch.tensor([[0.0, 0.0], [turned[0], -turned[1]]]),
        torch.tensor([[1.0, 0.0], [turned[1], turned[0]]]),
        None,
    )
    v = torch.tensor([[1.0, 0.0], [0.0, 0.0]])
    module.qkv.forward = lambda _: torch.cat([q, k, v], -1)[None]
    with explorer.record(module, ["*", "*/attention"]) as recording:
        y = module(torch.zeros(1, 2, 2))
    share = math.sqrt(3) / (1 + math.sqrt(3))
    torch.testing.assert_close(y[0, 1], torch.tensor([share, 0.0]))
    torch.testing.assert_close(recording.last("/attention")[0, 0, 1], torch.tensor([share, 1 - share]))
    assert recording.last("/metastable").tolist() == [[[1.0, 2.0]]]
    before = 1 - math.log(2) / math.log(3)
    assert recording.last("/energy_before")[0, 0, 1].item() == pytest.approx(before, abs=1e-5)


def test_the_energies_are_those_of_the_query_and_of_where_it_ends():
    module = built(updates=3, beta=2.0)
    x = torch.randn(B, T, D)
    with explorer.record(module) as recording:
        module(x)
    q, k, _ = heads(module, x)
    beta = 2.0 * (D // H) ** -0.5
    for t in range(T):
        expected = energy(q[:, :, t : t + 1], k[:, :, : t + 1], beta)[..., 0]
        torch.testing.assert_close(recording.last("/energy_before")[:, :, t], expected, atol=1e-5, rtol=1e-5)
    before, after = recording.last("/energy_before"), recording.last("/energy_after")
    assert (after <= before + 1e-5).all() and (after < before - 1e-3).any()
    size = recording.last("/metastable")
    assert (size >= 1).all() and (size <= torch.arange(1, T + 1)).all() and (size == size.round()).all()


def test_a_large_beta_retrieves_one_key_and_a_small_one_the_mean():
    x = torch.randn(B, T, D)
    module = built(beta=1000.0)
    with explorer.record(module, ["*/metastable", "*/entropy"]) as recording:
        module(x)
    assert recording.last("/metastable").mean() < 1.2 and recording.last("/entropy").max() < 0.3
    module.beta = 1e-6
    values = heads(module, x)[2]
    mean = values.cumsum(2) / torch.arange(1, T + 1)[:, None]
    torch.testing.assert_close(module(x), module.out(mean.transpose(1, 2).reshape(B, T, D)), atol=1e-4, rtol=1e-4)


def test_an_edited_map_mixes_the_values_of_the_last_update():
    module, x = built(updates=3), torch.randn(B, T, D)
    y = module(x)
    with explorer.edit(module, "*/attention", lambda A: A.clone()):
        torch.testing.assert_close(module(x), y, atol=1e-5, rtol=1e-5)
    with explorer.edit(module, "*/attention", torch.zeros_like):
        assert (module(x) == 0).all()


def test_no_token_sees_a_later_one():
    module, x = built(updates=4), torch.randn(1, T, D, requires_grad=True)
    for t in range(T - 1):
        (grad,) = torch.autograd.grad(module(x)[:, t].sum(), x)
        assert grad[:, t + 1 :].abs().max() == 0 and (grad[:, : t + 1] != 0).any(-1).all()


def test_nan_stays_with_the_tokens_that_see_it():
    x = torch.randn(B, T, D)
    x[0, 3, 5] = torch.nan
    module = built(updates=2)
    with explorer.record(module) as recording:
        y = module(x)
    assert y[0, 3:].isnan().all() and y[1:].isfinite().all()
    assert recording.last("/metastable")[1:].isfinite().all() and recording.last("/metastable")[0, :, 3:].isnan().all()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("updates", [1, 8])
def test_half_precision_and_large_inputs_stay_finite(dtype, updates):
    module = built(updates=updates).to(dtype)
    for size in (1.0, 100.0):
        x = (size * torch.randn(B, T, D)).to(dtype).requires_grad_()
        y = module(x)
        y.float().square().mean().backward()
        assert y.dtype == dtype and y.isfinite().all() and x.grad.isfinite().all()


def test_a_copy_and_a_reloaded_one_compute_the_same():
    module, x = built(updates=3), torch.randn(1, 1, D)
    other = explorer.build("hopfield", d_model=D, n_heads=H, updates=3)
    other.load_state_dict(module.state_dict())
    assert torch.equal(module(x), copy.deepcopy(module)(x)) and torch.equal(module(x), other.eval()(x))


@pytest.mark.parametrize("n_heads", [5, 8, 24])
def test_heads_must_split_the_width_evenly(n_heads):
    with pytest.raises(BadValue, match=rf"n_heads={n_heads}.*d_model=24.*even width"):
        explorer.build("hopfield", d_model=D, n_heads=n_heads)


def test_flops_count_every_update():
    assert built(updates=3).flops(T) == 3 * built().flops(T)


@pytest.mark.parametrize("measure", ["random_patterns", "digits", "fixed_points", "energy_rise"])
def test_a_measure_depends_on_its_seed_alone(measure):
    function = getattr(_hopfield_claims, measure)
    torch.manual_seed(1)
    first = function(0)
    torch.manual_seed(2)
    assert function(0) == first
