"""Mixture of modules against the equations, read slowly in float64: one token, one step, one module at a time."""

import math

import pytest
import torch

import explorer
from explorer.errors import BadValue

B, T, D, E, H, S = 2, 5, 12, 7, 2, 3


def build(**knobs):
    torch.manual_seed(0)
    return explorer.build(
        "mixture-of-modules", d_model=D, **{"n_experts": E, "k": 3, "depth": S, "width": 5, "n_heads": H, **knobs}
    )


def gru(p, prefix, x, state):
    """torch's GRU: reset, update and new gate, in this order."""
    from_x = p[prefix + ".cell.weight_ih"] @ x + p[prefix + ".cell.bias_ih"]
    from_h = p[prefix + ".cell.weight_hh"] @ state + p[prefix + ".cell.bias_hh"]
    (xr, xz, xn), (hr, hz, hn) = from_x.chunk(3), from_h.chunk(3)
    reset, update = 1 / (1 + (-xr - hr).exp()), 1 / (1 + (-xz - hz).exp())
    return (1 - update) * torch.tanh(xn + reset * hn) + update * state


def turn(vector, position):
    """RoPE: channels i and i + d/2 by position * 10000^(-2i/d)."""
    d = len(vector)
    angle = [position * 10000 ** (-2 * i / d) for i in range(d // 2)]
    first = [vector[i] * math.cos(a) - vector[i + d // 2] * math.sin(a) for i, a in enumerate(angle)]
    second = [vector[i + d // 2] * math.cos(a) + vector[i] * math.sin(a) for i, a in enumerate(angle)]
    return torch.stack(first + second)


def normed(p, name, m, x):
    return x / (x.square().mean() + 1e-6).sqrt() * p[name][m, :, 0]


def slow(p, x, k, temperature):
    """(y, {place: index}) of one sequence of vectors in float64."""
    stream = list(x)
    states = {pool: [torch.zeros(32, dtype=torch.float64) for _ in stream] for pool in ("attention", "ffn")}
    chosen = {}

    def choose(pool, step):
        picks = []
        for t, token in enumerate(stream):
            state = states[pool][t] = gru(p, f"route_{pool}", token, states[pool][t])
            logits = p[f"route_{pool}.score"] @ state / temperature
            best = sorted(range(E), key=lambda e: -logits[e].item())[:k]
            total = sum(logits[e].exp() for e in best)
            picks.append([(e, logits[e].exp() / total) for e in best])
        chosen[f"{pool}.{step}"] = [[e for e, _ in one] for one in picks]
        return picks

    for step in range(S):
        picks = choose("attention", step)
        qkv = [
            sum(normed(p, "norm_attention", m, token) @ p["qkv"][m] for m, _ in pick)
            for token, pick in zip(stream, picks, strict=True)
        ]
        d, new = D // H, []
        for t, pick in enumerate(picks):
            heads = []
            for h in range(H):
                part = [[one[n * D + h * d : n * D + (h + 1) * d] for n in range(3)] for one in qkv[: t + 1]]
                query = turn(part[t][0], t)
                scores = torch.stack([query @ turn(key, s) / d**0.5 for s, (_, key, _) in enumerate(part)]).softmax(0)
                heads.append(sum(a * value for a, (_, _, value) in zip(scores, part, strict=True)))
            mixed = torch.cat(heads)
            new.append(stream[t] + sum(w * (mixed @ p["out"][m]) for m, w in pick))
        stream[:] = new
        picks = choose("ffn", step)
        for t, pick in enumerate(picks):
            total = 0
            for m, w in pick:
                gate, up = (normed(p, "norm_ffn", m, stream[t]) @ p["up"][m]).chunk(2)
                total = total + w * ((gate / (1 + (-gate).exp()) * up) @ p["down"][m])
            stream[t] = stream[t] + total
    return torch.stack(stream), chosen


def test_outputs_and_gradients_follow_the_equations():
    module = build(aux_loss=0.0)
    with torch.no_grad():
        for gain in (module.norm_attention, module.norm_ffn):
            gain.add_(0.3 * torch.randn_like(gain))
    x = torch.randn(B, T, D, requires_grad=True)
    p = {name: one.detach().double().requires_grad_() for name, one in module.named_parameters()}
    x_slow = x.detach().double().requires_grad_()
    with explorer.record(module) as seen:
        y = module(x)
    parts = [slow(p, one, 3, 0.2) for one in x_slow]
    expected = torch.stack([one for one, _ in parts])
    for place in parts[0][1]:
        assert seen.last(f"{place}/index").tolist() == [chosen[place] for _, chosen in parts]
    torch.testing.assert_close(y.double(), expected, atol=1e-5, rtol=1e-5)
    upstream = torch.randn(y.shape)
    (y * upstream).sum().backward()
    (expected * upstream.double()).sum().backward()
    torch.testing.assert_close(x.grad.double(), x_slow.grad, atol=2e-4, rtol=1e-3)
    for name, one in module.named_parameters():
        torch.testing.assert_close(
            one.grad.double(), p[name].grad, atol=5e-4, rtol=1e-3, msg=lambda m, n=name: f"{n}: {m}"
        )


def test_one_module_and_one_step_by_hand():
    """All weights zero but the last matrix: the norm of (3, 4) is (0.849, 1.131); SwiGLU of (1, 2) is 2 * 0.731 = 1.462."""
    module = explorer.build("mixture-of-modules", d_model=2, n_experts=1, k=1, depth=1, width=1, n_heads=1)
    with torch.no_grad():
        for one in (module.qkv, module.out, module.up):
            one.zero_()
        module.up[0, 0] = torch.tensor([1 / 0.848528, 2 / 0.848528])
        module.down[0, 0] = torch.tensor([10.0, 0.0])
    y = module(torch.tensor([[[3.0, 4.0]]]))
    torch.testing.assert_close(y, torch.tensor([[[3 + 14.6212, 4.0]]]), atol=1e-3, rtol=0)


def test_later_tokens_change_nothing_before_them():
    module, x = build(), torch.randn(1, T, D)
    other = x.clone()
    other[:, 3:] += 1
    torch.testing.assert_close(module(x)[:, :3], module(other)[:, :3], atol=1e-6, rtol=1e-6)


def test_with_one_module_at_a_time_the_task_teaches_the_routers_nothing():
    """The pitfall: a renormalised weight of one choice is 1."""
    module = build(k=1, aux_loss=0.0)
    module(torch.randn(B, T, D)).square().sum().backward()
    assert module.route_ffn.score.grad.abs().max() < 1e-4 < module.up.grad.abs().max()


def test_the_state_makes_two_steps_choose_differently_from_the_same_weights():
    module = build(k=1)
    with explorer.record(module) as seen:
        module(torch.randn(8, 16, D))
    first, last = seen.last("ffn.0/index"), seen.last(f"ffn.{S - 1}/index")
    assert (first != last).any()


def test_balance_is_of_all_steps_together():
    module = build(aux_loss=1.0)
    with explorer.record(module) as seen:
        module(torch.randn(B, T, D))
    expected = 0.0
    for pool in ("attention", "ffn"):
        probs = torch.cat([seen.last(f"{pool}.{i}/probs") for i in range(S)], 1)
        expected += explorer.metrics.load_balancing_loss(probs, probs.argmax(-1, keepdim=True))
    torch.testing.assert_close(module.auxiliary.detach(), expected)


def test_heads_must_have_an_even_width():
    with pytest.raises(BadValue, match="n_heads=5"):
        explorer.build("mixture-of-modules", d_model=24, n_heads=5)
