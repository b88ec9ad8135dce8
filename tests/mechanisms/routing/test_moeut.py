"""MoEUT against the equations, read slowly in float64: one token, one head, one expert at a time."""

import math

import pytest
import torch

import explorer
from explorer.errors import BadValue

B, T, D, E, H, A, G, R = 2, 5, 12, 7, 2, 3, 2, 2


def build(**knobs):
    torch.manual_seed(0)
    sizes = {"n_experts": E, "k": 3, "width": 5, "n_heads": H, "attention_experts": A, "group": G, "repeats": R}
    return explorer.build("moeut", d_model=D, **{**sizes, **knobs})


def norm(p, name, g, x):
    centred = x - x.mean()
    return centred / (centred.square().mean() + 1e-5).sqrt() * p[f"{name}.{g}.weight"] + p[f"{name}.{g}.bias"]


def best(scores, k):
    return sorted(range(len(scores)), key=lambda e: -scores[e].item())[:k]


def sigmoid(x):
    return 1 / (1 + (-x).exp())


def turn(vector, position, turned):
    """RoPE on the first `turned` channels: i and i + turned/2 by position * 10000^(-2i/turned)."""
    half, out = turned // 2, list(vector)
    for i in range(half):
        angle = position * 10000 ** (-2 * i / turned)
        out[i] = vector[i] * math.cos(angle) - vector[i + half] * math.sin(angle)
        out[i + half] = vector[i + half] * math.cos(angle) + vector[i] * math.sin(angle)
    return torch.stack(out)


def slow(p, x, k, attention_k):
    """(y, {choice: index}) of one sequence of vectors in float64."""
    stream, chosen, d = list(x), {}, D // H
    for i in range(G * R):
        g = i % G
        normed = [norm(p, "norm_attention", g, one) for one in stream]
        maps = [sigmoid(p[f"pick_maps.{g}"] @ one).view(2, H, A) for one in normed]
        qk = [(p[f"qk.{g}"] @ one).view(2, H, d) for one in normed]
        added = [torch.zeros(D, dtype=torch.float64) for _ in stream]
        for h in range(H):
            values = [
                sum(m[0, h, a] * (one @ p[f"value.{g}"][h * A + a]) for a in best(m[0, h], attention_k))
                for one, m in zip(stream, maps, strict=True)
            ]
            keys = [turn(one[1, h], t, 2) for t, one in enumerate(qk)]
            for t in range(len(stream)):
                query = turn(qk[t][0, h], t, 2)
                weights = torch.stack([query @ key / d**0.5 for key in keys[: t + 1]]).softmax(0)
                mixed = sum(w * value for w, value in zip(weights, values[: t + 1], strict=True))
                for a in best(maps[t][1, h], attention_k):
                    added[t] = added[t] + maps[t][1, h, a] * (mixed @ p[f"output.{g}"][h * A + a])
        stream = [one + more for one, more in zip(stream, added, strict=True)]
        chosen[i], after = [], []
        for one in stream:
            scores = sigmoid(p[f"pick.{g}"] @ norm(p, "norm_ffn", g, one))
            chosen[i].append(best(scores, k))
            after.append(
                one + sum(scores[e] * ((one @ p[f"up.{g}"][e]).clamp(min=0) @ p[f"down.{g}"][e]) for e in chosen[i][-1])
            )
        stream = after
    return torch.stack(stream), chosen


def test_outputs_and_gradients_follow_the_equations():
    module = build(aux_loss=0.0, attention_loss=0.0)
    with torch.no_grad():
        for name, one in module.named_parameters():
            if "norm" in name:
                one.add_(0.3 * torch.randn_like(one))
    x = torch.randn(B, T, D, requires_grad=True)
    p = {name: one.detach().double().requires_grad_() for name, one in module.named_parameters()}
    x_slow = x.detach().double().requires_grad_()
    with explorer.record(module) as seen:
        y = module(x)
    parts = [slow(p, one, 3, 2) for one in x_slow]
    for i in range(G * R):
        assert seen.last(f"choice.{i}/index").tolist() == [chosen[i] for _, chosen in parts]
    expected = torch.stack([one for one, _ in parts])
    torch.testing.assert_close(y.double(), expected, atol=1e-5, rtol=1e-5)
    upstream = torch.randn(y.shape)
    (y * upstream).sum().backward()
    (expected * upstream.double()).sum().backward()
    torch.testing.assert_close(x.grad.double(), x_slow.grad, atol=2e-4, rtol=1e-3)
    for name, one in module.named_parameters():
        torch.testing.assert_close(
            one.grad.double(), p[name].grad, atol=5e-4, rtol=1e-3, msg=lambda m, n=name: f"{n}: {m}"
        )


def test_one_expert_by_hand():
    """Attention says nothing; the expert's sigmoid is 1/2 (its row is zero): (2, 1) + 1/2 * relu(2 - 1) * (4, 6)."""
    module = explorer.build(
        "moeut", d_model=2, n_experts=1, k=1, width=1, n_heads=1, attention_experts=1, attention_k=1, group=1, repeats=1
    )
    with torch.no_grad():
        module.output[0].zero_()
        module.pick[0].zero_()
        module.up[0][0] = torch.tensor([[1.0], [-1.0]])
        module.down[0][0] = torch.tensor([[4.0, 6.0]])
    torch.testing.assert_close(module(torch.tensor([[[2.0, 1.0]]])), torch.tensor([[[4.0, 4.0]]]))


def test_balance_is_asked_of_all_repeats_together_per_sequence():
    module = build(aux_loss=1.0, attention_loss=0.0)
    with explorer.record(module) as seen:
        module(torch.randn(B, T, D))
    expected = 0.0
    for g in range(G):
        for b in range(B):
            rows = torch.cat([seen.last(f"choice.{g + G * r}/logits")[b] for r in range(R)]).softmax(-1)
            mean = rows.mean(0)
            expected += (mean * mean.log()).sum() / B
    torch.testing.assert_close(module.auxiliary.detach(), expected)


def test_layers_are_shared_over_the_repeats():
    count = lambda module: sum(p.numel() for p in module.parameters())  # noqa: E731
    assert count(build(repeats=1)) == count(build(repeats=5))
    module, x = build(group=1, repeats=2), torch.randn(1, T, D)
    once = build(group=1, repeats=1)
    once.load_state_dict(module.state_dict())
    torch.testing.assert_close(module(x), once(once(x)))


def test_the_gates_of_the_attention_are_watched_and_can_be_shut():
    module, x = build(), torch.randn(B, T, D)
    with explorer.record(module) as seen:
        module(x)
    gate = seen.last("maps.0/value_gate")
    assert gate.shape == (B, T, H, A) and ((gate > 0).sum(-1) == 2).all()
    with explorer.edit(module, "*_gate", torch.zeros_like), explorer.edit(module, "*/weights", torch.zeros_like):
        assert torch.equal(module(x), x)


def test_later_tokens_change_nothing_before_them():
    module, x = build(), torch.randn(1, T, D)
    other = x.clone()
    other[:, 3:] += 1
    torch.testing.assert_close(module(x)[:, :3], module(other)[:, :3], atol=1e-6, rtol=1e-6)


def test_the_scale_of_the_stream_is_free_while_choices_see_only_its_direction():
    """Peri-layernorm: what the first layer's attention chooses does not change with the size of its input."""
    module, x = build(), torch.randn(B, T, D)
    with explorer.record(module) as seen:
        module(x)
        one = seen.last("maps.0/value_gate")
        module(10 * x)
    torch.testing.assert_close(seen.last("maps.0/value_gate"), one, atol=1e-4, rtol=1e-3)


@pytest.mark.parametrize("wrong", [{"attention_k": 4, "attention_experts": 3}, {"n_heads": 5}])
def test_sizes_that_do_not_fit_are_named(wrong):
    with pytest.raises(BadValue, match=f"{next(iter(wrong))}="):
        build(**wrong)
