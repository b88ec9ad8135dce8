from itertools import pairwise

import pytest
import torch
from torch.testing import assert_close

import explorer

B, T, D, E, K, F = 3, 5, 12, 7, 3, 4


def build(**knobs):
    return explorer.build("heterogeneous-experts", d_model=D, **{"n_experts": E, "k": K, "width": F, **knobs})


def test_a_narrow_and_a_wide_expert_by_hand():
    """Widths 1 and 2; probabilities 3/4 and 1/4. The wide one is two blocks: one adds 10 relu(x), the other 100 relu(-x)."""
    layer = explorer.build("heterogeneous-experts", d_model=1, n_experts=2, width=1, widest=2, aux_loss=1.0)
    assert layer.sizes == [1, 2]
    with torch.no_grad():
        layer.score.weight.copy_(torch.tensor([[0.0], [1.0]]))
        layer.up.copy_(torch.tensor([1.0, 1.0, -1.0]).view(3, 1, 1))
        layer.down.copy_(torch.tensor([1.0, 10.0, 100.0]).view(3, 1, 1))
    x = torch.tensor([[[3.0], [1 / 3]]]).log()  # the first token prefers the wide expert, the second the narrow one
    with explorer.record(layer) as seen:
        y = layer(x)
    assert seen.last("/index").tolist() == [[[1], [0]]]
    assert_close(seen.last("/weights"), torch.tensor([[[0.75], [0.75]]]))
    assert_close(y[0, 0, 0], 0.75 * 10 * x[0, 0, 0])
    assert y[0, 1, 0] == 0  # the narrow expert is deaf to negative numbers
    assert seen.last("/cost").tolist() == [[2, 1]]
    assert_close(layer.auxiliary, torch.tensor(1.0))


def test_widths_lie_between_the_narrowest_and_the_widest():
    sizes = {(E, widest): build(widest=widest).sizes for widest in (1, 2, 3, 5)}
    for (_, widest), size in sizes.items():
        assert size == sorted(size) and size[0] == 1 and size[-1] == widest
        assert sum(size) == E * (1 + widest) / 2 or widest == 2
    assert build(n_experts=1, k=1, widest=4).sizes == [1]


def by_the_equations(layer, x_BTD):
    """(y, loss) in float64: every token by itself, every expert as one matrix of its own width."""
    at = {name: p.double() for name, p in layer.named_parameters()}
    first = [sum(layer.sizes[:e]) for e in range(E)]
    ys, picked, probs = [], torch.zeros(E, dtype=torch.float64), []
    for x in x_BTD.reshape(-1, D):
        z = (at["score.weight"] @ x + at["score.bias"])[: layer.present]
        p = z.exp() / z.exp().sum()
        y = torch.zeros(D, dtype=torch.float64)
        for e in sorted(range(layer.present), key=lambda e: -p[e].item())[:K]:
            picked[e] += 1
            blocks = range(first[e], first[e] + layer.sizes[e])
            U = torch.cat([at["up"][b] for b in blocks], dim=1)
            V = torch.cat([at["down"][b] for b in blocks])
            assert U.shape == (D, F * layer.sizes[e])
            y = y + p[e] * ((x @ U).relu() @ V)
        ys.append(y)
        probs.append(torch.cat([p, torch.zeros(E - len(p), dtype=torch.float64)]))
    loss = layer.aux_loss * E * (picked / picked.sum() * torch.stack(probs).mean(0)).sum()
    return torch.stack(ys).view(x_BTD.shape), loss


@pytest.mark.parametrize("fewer", [0, 3])
def test_outputs_and_gradients_follow_the_equations(fewer):
    layer = build(aux_loss=0.5, fewer=fewer)
    layer.follow(build())
    assert layer.present == E - fewer
    x = torch.randn(B, T, D, dtype=torch.float64, requires_grad=True)
    x_slow = x.detach().clone().requires_grad_()
    upstream = torch.randn(B, T, D)
    y, (slow, loss) = layer(x.float()), by_the_equations(layer, x_slow)
    assert_close(y.double(), slow, atol=1e-5, rtol=1e-4)
    assert_close(layer.auxiliary.double(), loss, atol=1e-6, rtol=1e-5)
    parameters = list(layer.parameters())
    fast = torch.autograd.grad((y * upstream).sum() + layer.auxiliary, [x, *parameters])
    true = torch.autograd.grad((slow * upstream).sum() + loss, [x_slow, *parameters])
    for one, other in zip(fast, true, strict=True):
        assert_close(one, other, atol=1e-4, rtol=1e-3)


def test_alike_experts_agree_with_switch():
    """With widest = 1 and one expert a token it is transformers' Switch layer with room for all."""
    from transformers.models.switch_transformers import modeling_switch_transformers as switch
    from transformers.models.switch_transformers.configuration_switch_transformers import SwitchTransformersConfig

    config = SwitchTransformersConfig(
        d_model=D, d_ff=F, num_experts=E, expert_capacity=B * T, router_bias=True, dropout_rate=0.0, dense_act_fn="relu"
    )
    theirs = switch.SwitchTransformersSparseMLP(config).eval()
    ours = build(k=1, widest=1, aux_loss=0).eval()
    with torch.no_grad():
        theirs.router.classifier.weight.copy_(ours.score.weight)
        theirs.router.classifier.bias.copy_(ours.score.bias.normal_())
        for e in range(E):
            expert = theirs.experts[f"expert_{e}"]
            expert.wi.weight.copy_(ours.up[e].T)
            expert.wo.weight.copy_(ours.down[e].T)
    x = torch.randn(B, T, D, requires_grad=True)
    y, wanted = ours(x), theirs(x)
    assert_close(y, wanted)
    upstream = torch.randn(B, T, D)
    for one, other in zip(
        torch.autograd.grad((y * upstream).sum(), [x, ours.score.weight, ours.score.bias]),
        torch.autograd.grad(
            (wanted * upstream).sum(), [x, theirs.router.classifier.weight, theirs.router.classifier.bias]
        ),
        strict=True,
    ):
        assert_close(one, other, atol=1e-5, rtol=1e-4)


def test_a_layer_has_as_many_experts_as_a_token_gets():
    layers = [build(fewer=3) for _ in range(4)]
    for below, above in pairwise(layers):
        above.follow(below)
    assert [layer.present for layer in layers] == [7, 4, 3, 3]
    with explorer.record(layers[1]) as seen:
        layers[1](torch.randn(B, T, D))
    layers[1].k = E  # a live knob
    with explorer.record(layers[1]) as more:
        layers[1](torch.randn(B, T, D))
    assert ((more.last("/index") >= 0).sum(-1) == 4).all()
    assert seen.last("/index").max() < 4 and (seen.last("/probs")[..., 4:] == 0).all()


def test_an_emptied_slot_costs_and_adds_nothing():
    layer, x = build(), torch.randn(B, T, D)
    with explorer.edit(layer, "/index", lambda index: torch.full_like(index, -1)), explorer.record(layer) as seen:
        assert layer(x).abs().max() == 0
    assert seen.last("/cost").max() == 0


def test_half_precision_scores_in_float32():
    layer = explorer.build("heterogeneous-experts", d_model=16).to(torch.bfloat16)
    with explorer.record(layer) as seen:
        y = layer(torch.randn(B, T, 16, dtype=torch.bfloat16))
    assert y.dtype == torch.bfloat16 and seen.last("/probs").dtype == torch.float32
