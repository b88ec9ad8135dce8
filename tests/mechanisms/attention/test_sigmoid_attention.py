import math

import pytest
import torch

import explorer

B, T, D = 3, 7, 24


def built(**knobs):
    torch.manual_seed(0)
    return explorer.build("sigmoid-attention", d_model=D, **{"n_heads": 3, **knobs})


def slow_reading(x, qkv, out, H, base, length, causal):
    """The paper's equations in float64, one sequence, head, query and key at a time; rotation as complex numbers."""
    d = D // H
    turn = base ** (-torch.arange(0, d, 2).double() / d)

    def rotated(vector, position):
        z = torch.complex(*vector.chunk(2)) * torch.exp(1j * position * turn)
        return torch.cat([z.real, z.imag])

    q, k, v = (x @ weight.T for weight in qkv.chunk(3))
    rows = []
    for b in range(len(x)):
        for t in range(x.shape[1]):
            heads = []
            for h in range(H):
                part, mixed = slice(h * d, (h + 1) * d), torch.zeros(d).double()
                for s in range(t + 1 if causal else x.shape[1]):
                    score = rotated(q[b, t, part], t) @ rotated(k[b, s, part], s) / math.sqrt(d)
                    mixed = mixed + v[b, s, part] / (1 + length * torch.exp(-score))  # sigmoid(score - ln length)
                heads.append(mixed)
            rows.append(torch.cat(heads) @ out.T)
    return torch.stack(rows).view(x.shape)


@pytest.mark.parametrize("causal", [True, False])
@pytest.mark.parametrize("n_heads, size, length", [(3, 7, 64), (2, 5, 1), (1, 1, 9)])
def test_agrees_with_a_slow_reading_in_outputs_and_gradients(n_heads, size, length, causal):
    module = built(n_heads=n_heads, length=length, rope_base=100.0, causal=causal).double()
    x, upstream = torch.randn(2, size, D).double().requires_grad_(), torch.randn(2, size, D).double()
    weights = [module.qkv.weight, module.out.weight]
    slow, ours = slow_reading(x, *weights, n_heads, 100.0, length, causal), module(x)
    torch.testing.assert_close(ours, slow, atol=1e-5, rtol=1e-5)  # the rotation's angles are float32, as everywhere
    grads = (torch.autograd.grad(y, [x, *weights], upstream) for y in (ours, slow))
    for one, other in zip(*grads, strict=True):
        torch.testing.assert_close(one, other, atol=2e-5, rtol=1e-5)


def test_two_tokens_by_hand():
    """All projections the identity, n = 3. Token (0, 0) has scores of 0: each key weighs sigmoid(-ln 3) = 1/4."""
    module = explorer.build("sigmoid-attention", d_model=2, n_heads=1, length=3)
    with torch.no_grad():
        module.qkv.weight.copy_(torch.eye(2).repeat(3, 1))
        module.out.weight.copy_(torch.eye(2))
    x = torch.tensor([[[4.0, 8.0], [0.0, 0.0]]])
    with explorer.record(module, ["*", "*/attention"]) as seen:
        y = module(x)
    torch.testing.assert_close(seen.last("/attention")[0, 0, 1], torch.tensor([0.25, 0.25]))
    torch.testing.assert_close(y[0, 1], torch.tensor([1.0, 2.0]))  # a quarter of (4, 8), a quarter of nothing
    torch.testing.assert_close(seen.last("/first"), torch.tensor([[0.25]]))


def test_n_keys_without_a_preference_sum_to_about_one():
    module = built(length=64, causal=False)
    with explorer.record(module, "*/attention") as seen:
        module(torch.zeros(1, 64, D))
    torch.testing.assert_close(seen.last("/attention").sum(-1), torch.full((1, 3, 64), 64 / 65))


def test_no_token_sees_how_many_come_after_it():
    module, x = built(), torch.randn(B, T, D)
    torch.testing.assert_close(module(x)[:, :4], module(x[:, :4]))


def test_a_row_may_look_nowhere():
    """Scores of minus sixty at every key: the token says nothing at all, as no softmax could."""
    module = built()
    with torch.no_grad():
        q, k, _ = module.qkv.weight.chunk(3)
        k.copy_(-q)
    module.rope_base = 1e9
    x = 8 * torch.randn(1, 1, D)
    assert module(x).abs().max() < 1e-3 * x.abs().max()


def test_the_map_is_the_one_that_mixes_and_edits_of_it_are_obeyed():
    module, x = built(), torch.randn(B, T, D)
    with explorer.record(module, ["*", "*/attention"]) as seen:
        y = module(x)
    A = seen.last("/attention")
    assert (A.triu(1) == 0).all() and (A >= 0).all() and (A <= 1).all()
    torch.testing.assert_close(seen.last("/received")[..., 0], A[..., 0].mean(-1))
    with explorer.edit(module, "*/attention", lambda A: 2 * A):
        torch.testing.assert_close(module(x), 2 * y)
    with explorer.edit(module, "*/attention", torch.zeros_like):
        assert (module(x) == 0).all()


@pytest.mark.parametrize("causal", [True, False])
def test_a_few_queries_at_a_time_say_the_same(causal, monkeypatch):
    """Blocks of three, the last one short: outputs and gradients of the whole map."""
    module, x = built(causal=causal), torch.randn(B, T, D).requires_grad_()
    runs = []
    for rows in (512, 3):
        monkeypatch.setattr("explorer.mechanisms.attention.sigmoid_attention.ROWS", rows)
        y = module(x)
        runs.append([y, *torch.autograd.grad(y.sin().sum(), [x, *module.parameters()])])
    for one, other in zip(*runs, strict=True):
        torch.testing.assert_close(one, other)
    with explorer.record(module, "*") as seen:
        assert torch.equal(module(x), runs[1][0])
    assert "attention_mass" in module.kernel and seen.last("/entropy").isfinite().all()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_and_huge_inputs_stay_finite(dtype):
    module, x = built(), torch.randn(B, T, D)
    exact = module(x)
    y = module.to(dtype)(x.to(dtype))
    assert y.dtype == dtype and (y.float() - exact).abs().max() < 0.05
    huge = module.float()(1e4 * torch.randn(B, T, D))
    huge.sum().backward()
    assert huge.isfinite().all() and all(p.grad.isfinite().all() for p in module.parameters())
