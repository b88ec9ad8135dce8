import importlib.util
import math
from pathlib import Path

import pytest
import torch

import explorer
from explorer.errors import BadValue

B, T, D = 3, 7, 24


def built(**knobs):
    torch.manual_seed(0)
    return explorer.build("forgetting-attention", d_model=D, **{"n_heads": 3, **knobs})


def naive():
    """fla-core's reading in plain torch, from its file alone: the package around it wants Triton."""
    (folder,) = importlib.util.find_spec("fla").submodule_search_locations
    path = Path(folder) / "ops" / "forgetting_attn" / "naive.py"
    spec = importlib.util.spec_from_file_location("fla_naive_forgetting", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.naive_forgetting_attn


@pytest.mark.parametrize("n_heads, size", [(3, 7), (2, 13), (1, 1), (8, 5)])
def test_agrees_with_flash_linear_attention_in_outputs_and_gradients(n_heads, size):
    module = built(n_heads=n_heads)
    with torch.no_grad():
        module.forget.bias.normal_()
    weights = list(module.parameters())
    x, upstream = torch.randn(B, size, D).requires_grad_(), torch.randn(B, size, D)
    q, k, v = (part.view(B, size, n_heads, -1) for part in (x @ module.qkv.weight.T).chunk(3, -1))
    gates = torch.nn.functional.logsigmoid(x @ module.forget.weight.T + module.forget.bias)
    theirs = naive()(q, k, v, gates).reshape(B, size, D) @ module.out.weight.T
    ours = module(x)
    torch.testing.assert_close(ours, theirs, atol=2e-6, rtol=1e-5)
    grads = (torch.autograd.grad(y, [x, *weights], upstream, allow_unused=True) for y in (ours, theirs))
    for name, one, other in zip(["x", *dict(module.named_parameters())], *grads, strict=True):
        torch.testing.assert_close(one, other, atol=1e-5, rtol=1e-4, msg=lambda said, name=name: f"{name}: {said}")


def slow_reading(module, x):
    """The paper's equations in float64 as products of gates, one sequence, head, query and key at a time."""
    H, d, rows = module.n_heads, D // module.n_heads, []
    q, k, v = (x @ weight.T for weight in module.qkv.weight.chunk(3))
    f = torch.sigmoid(x @ module.forget.weight.T + module.forget.bias)
    turn = 1e4 ** (-torch.arange(0, d, 2).double() / d)

    def placed(vector, position):
        if not module.rope:
            return vector
        z = torch.complex(*vector.chunk(2)) * torch.exp(1j * position * turn)
        return torch.cat([z.real, z.imag])

    for b in range(len(x)):
        for t in range(x.shape[1]):
            heads = []
            for h in range(H):
                part, terms, kept = slice(h * d, (h + 1) * d), [], torch.ones(()).double()
                for s in range(t, -1, -1):
                    score = placed(q[b, t, part], t) @ placed(k[b, s, part], s) / math.sqrt(d)
                    terms.append((score.exp() * kept, v[b, s, part]))
                    kept = kept * f[b, s, h]  # the gate of s lies between s and all that is before it
                heads.append(sum(a * value for a, value in terms) / sum(a for a, _ in terms))
            rows.append(torch.cat(heads) @ module.out.weight.T)
    return torch.stack(rows).view(x.shape)


@pytest.mark.parametrize("rope", [False, True])
def test_agrees_with_a_slow_reading_in_outputs_and_gradients(rope):
    module = built(rope=rope).double()
    x, upstream = torch.randn(2, T, D).double().requires_grad_(), torch.randn(2, T, D).double()
    slow, ours = slow_reading(module, x), module(x)
    torch.testing.assert_close(ours, slow, atol=1e-5, rtol=1e-5)  # the rotation's angles are float32, as everywhere
    grads = (torch.autograd.grad(y, [x, *module.parameters()], upstream) for y in (ours, slow))
    for one, other in zip(*grads, strict=True):
        torch.testing.assert_close(one, other, atol=2e-5, rtol=1e-5)


def test_three_tokens_by_hand():
    """Scores of zero and gates of 1/2, 1/4, 1/3: the last query's keys weigh 1/3 1/4, 1/3 and 1, over their sum 17/12.

    A token's own gate forgets what is before it: the first token's 1/2 forgets nothing.
    """
    module = explorer.build("forgetting-attention", d_model=2, n_heads=1)
    with torch.no_grad():
        module.qkv.weight.copy_(torch.cat([torch.zeros(4, 2), torch.eye(2)]))
        module.out.weight.copy_(torch.eye(2))
        module.forget.weight.copy_(torch.tensor([[1.0, 0.0]]))
    logits = [0.0, math.log(1 / 3), math.log(1 / 2)]  # of 1/2, 1/4 and 1/3
    x = torch.tensor([[[logits[0], 12.0], [logits[1], 24.0], [logits[2], 36.0]]])
    with explorer.record(module, ["*", "*/attention"]) as seen:
        y = module(x)
    torch.testing.assert_close(seen.last("/decay")[0, :, 0], torch.tensor([1 / 2, 1 / 4, 1 / 3]))
    torch.testing.assert_close(seen.last("/attention")[0, 0, 2], torch.tensor([1 / 17, 4 / 17, 12 / 17]))
    assert y[0, 2, 1].item() == pytest.approx((12 + 4 * 24 + 12 * 36) / 17, rel=1e-5)


def test_a_constant_gate_is_a_penalty_linear_in_distance():
    """Exactly ALiBi (arXiv:2108.12409): scores minus a slope, here -ln f, for each token of distance."""
    module, x = built(), torch.randn(B, T, D)
    slopes = torch.tensor([0.25, 0.5, 1.0])
    with torch.no_grad():
        module.forget.weight.zero_()
        module.forget.bias.copy_(torch.logit((-slopes).exp()))
    q, k, _ = (part.view(B, T, 3, 8).transpose(1, 2) for part in (x @ module.qkv.weight.T).chunk(3, -1))
    distance = torch.arange(T)[:, None] - torch.arange(T)
    scores = q @ k.transpose(-1, -2) / 8**0.5 - slopes[:, None, None] * distance
    alibi = scores.masked_fill(distance < 0, -torch.inf).softmax(-1)
    with explorer.record(module, "*/attention") as seen:
        module(x)
    torch.testing.assert_close(seen.last("/attention"), alibi)


def test_gates_forced_open_leave_attention_without_positions_and_shut_only_the_token_itself():
    module, x = built(), torch.randn(B, T, D)
    v = (x @ module.qkv.weight.T).chunk(3, -1)[2]
    with explorer.edit(module, "*/decay", torch.ones_like):
        y = module(x)
        swapped = module(x[:, [1, 0, *range(2, T)]])
    torch.testing.assert_close(y[:, 2:], swapped[:, 2:])  # what has no positions does not see the order
    with explorer.edit(module, "*/decay", torch.zeros_like):
        torch.testing.assert_close(module(x), v @ module.out.weight.T)


def test_an_edit_that_changes_nothing_changes_nothing():
    module, x = built(), torch.randn(B, T, D)
    with explorer.edit(module, "*/decay", torch.clone):
        torch.testing.assert_close(module(x), module(x).detach())


def test_a_gate_that_shuts_hard_forgets_and_keeps_its_gradient():
    module, x = built(), torch.randn(1, T, D)
    with torch.no_grad():
        module.forget.weight.zero_()
        module.forget.bias.fill_(-200.0)  # a sigmoid of it is zero in float32
    y = module(x)
    y.sum().backward()
    assert y.isfinite().all() and module.forget.bias.grad.isfinite().all()
    v = (x @ module.qkv.weight.T).chunk(3, -1)[2]
    torch.testing.assert_close(y, v @ module.out.weight.T)


def test_long_sequences_keep_the_precision_of_near_keys():
    """4096 gates of a half: sums down to -2839, and yet the last query weighs its own key as a short sequence would."""
    module, x = built(), torch.randn(1, 4096, D)
    with torch.no_grad():
        module.forget.weight.zero_()
    torch.testing.assert_close(module(x)[:, -1], module(x[:, -64:])[:, -1], atol=2e-3, rtol=0)


@pytest.mark.parametrize("n_heads, rope", [(5, False), (8, True)])
def test_heads_must_split_the_width(n_heads, rope):
    with pytest.raises(BadValue, match=rf"n_heads={n_heads}.*d_model=24"):
        built(n_heads=n_heads, rope=rope)
    if rope:
        assert built(n_heads=n_heads)(torch.randn(B, T, D)).shape == (B, T, D)  # an odd width needs no rotation


def test_gates_start_around_a_half():
    torch.manual_seed(0)
    module = explorer.build("forgetting-attention", d_model=256)
    with explorer.record(module, "*/decay") as seen:
        module(torch.randn(1, 500, 256))
    assert seen.last("/decay").mean().item() == pytest.approx(0.5, abs=0.03)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_keeps_sums_of_many_gates(dtype):
    module, x = built(), torch.randn(1, 600, D)
    exact = module(x)
    y = module.to(dtype)(x.to(dtype))
    assert y.dtype == dtype and (y.float() - exact).abs().max() < 0.1
