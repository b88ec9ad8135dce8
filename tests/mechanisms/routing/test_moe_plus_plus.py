import copy

import pytest
import torch
from torch.nn.functional import silu
from torch.testing import assert_close

import explorer
from explorer.errors import BadValue

B, T, D, E, K, F = 3, 5, 12, 7, 3, 10  # 3 working, 2 constant, 1 copy, 1 zero


def build(**knobs):
    return explorer.build("moe-plus-plus", d_model=D, **{"n_experts": E, "k": K, "width": F, **knobs})


def test_one_of_each_kind_by_hand():
    """Experts: 0 works (and is never chosen here), 1 constant, 2 copy, 3 zero. A token along an axis prefers one of them."""
    layer = explorer.build("moe-plus-plus", d_model=4, n_experts=4, k=2, constant=1, aux_loss=1.0, tau=0.5)
    with torch.no_grad():
        layer.score.weight.copy_(torch.eye(4))
        layer.blend.fill_(0)  # half the token, half the vector
        layer.vector.copy_(torch.tensor([[0.0, 0.0, 0.0, 8.0]]))
    x = torch.tensor([[[1.0, 6.0, 3.0, 2.0], [1.0, 3.0, 2.0, 6.0]]]).log()
    with explorer.record(layer) as seen:
        y = layer(x)
    assert seen.last("/index").tolist() == [[[1, 2], [3, 1]]]
    assert_close(seen.last("/weights"), torch.tensor([[[2 / 3, 1 / 3], [2 / 3, 1 / 3]]]))
    v = layer.vector[0].detach()
    assert_close(y[0, 0], 2 / 3 * (x[0, 0] / 2 + v / 2) + 1 / 3 * x[0, 0])
    assert_close(y[0, 1], 1 / 3 * (x[0, 1] / 2 + v / 2))  # two thirds of it went to the zero expert
    # shares: 0, 1/2, 1/4, 1/4, each at half price; mean probabilities: .375, .2083, .3333 of experts 1, 2, 3
    assert_close(layer.auxiliary, torch.tensor(4 * 0.5 * (0.5 * 4.5 / 12 + 0.25 * 2.5 / 12 + 0.25 * 4 / 12)))


def by_the_equations(layer, x_BTD, below_BTE=None):
    """(y, logits, loss) in float64, token by token, expert by expert; differentiable."""
    at = {name: p.double() for name, p in layer.named_parameters()}
    ys, logits, picked, probs = [], [], torch.zeros(E, dtype=torch.float64), []
    for n, x in enumerate(x_BTD.reshape(-1, D)):
        z = at["score.weight"] @ x
        if below_BTE is not None:
            z = z + at["residual.weight"] @ below_BTE.reshape(-1, E)[n]
        p = z.exp() / z.exp().sum()
        chosen = sorted(range(E), key=lambda e: -p[e].item())[:K]
        y = torch.zeros(D, dtype=torch.float64)
        for e in chosen:
            picked[e] += 1
            weight = p[e] / sum(p[c] for c in chosen)
            if e < 3:
                gate, up = (x @ at["up"][e]).chunk(2)
                y = y + weight * ((silu(gate) * up) @ at["down"][e])
            elif e < 5:
                a = (x @ at["blend"][e - 3]).exp()
                y = y + weight * (a[0] * x + a[1] * at["vector"][e - 3]) / a.sum()
            elif e == 5:
                y = y + weight * x
        ys.append(y)
        logits.append(z)
        probs.append(p)
    eta = torch.tensor([1.0] * 3 + [layer.tau] * 4, dtype=torch.float64)
    loss = layer.aux_loss * E * (eta * picked / picked.sum() * torch.stack(probs).mean(0)).sum()
    return torch.stack(ys).view(x_BTD.shape), torch.stack(logits).view(B, T, E), loss


def test_two_layers_and_all_gradients_follow_the_equations():
    """The second layer's router reads the first one's logits, and its gradient reaches the first one's router."""
    lower, upper = build(aux_loss=0.5, tau=0.3), build(aux_loss=0.5, tau=0.3)
    upper.follow(lower)
    torch.nn.init.normal_(upper.residual.weight, std=0.5)
    x = torch.randn(B, T, D, dtype=torch.float64, requires_grad=True)
    x_slow = x.detach().clone().requires_grad_()
    upstream = torch.randn(2, B, T, D)
    y_lower = lower(x.float())
    y_upper = upper(x.float() * 2)
    slow_lower, logits, loss_lower = by_the_equations(lower, x_slow)
    slow_upper, _, loss_upper = by_the_equations(upper, x_slow * 2, logits)
    assert_close(y_lower.double(), slow_lower, atol=1e-5, rtol=1e-4)
    assert_close(y_upper.double(), slow_upper, atol=1e-5, rtol=1e-4)
    assert_close(lower.auxiliary.double(), loss_lower, atol=1e-6, rtol=1e-5)
    assert_close(upper.auxiliary.double(), loss_upper, atol=1e-6, rtol=1e-5)
    parameters = [*lower.parameters(), *upper.parameters()]
    fast = (torch.stack([y_lower, y_upper]) * upstream).sum() + lower.auxiliary + upper.auxiliary
    slow = (torch.stack([slow_lower, slow_upper]) * upstream).sum() + loss_lower + loss_upper
    for one, other in zip(
        torch.autograd.grad(fast, [x, *parameters]), torch.autograd.grad(slow, [x_slow, *parameters]), strict=True
    ):
        assert_close(one, other, atol=1e-4, rtol=1e-3)


def test_a_fresh_gating_residual_changes_nothing_and_may_be_switched_off():
    lower, upper = build(), build()
    x = torch.randn(B, T, D)
    alone = upper(x)
    upper.follow(lower)
    lower(x)
    assert torch.equal(upper(x), alone)
    torch.nn.init.normal_(upper.residual.weight)
    assert not torch.equal(upper(x), alone)
    upper.gating_residual = False
    assert torch.equal(upper(x), alone)


def test_a_copy_of_two_layers_is_a_pair_of_its_own():
    layers = torch.nn.ModuleList([build(), build()])
    layers[1].follow(layers[0])
    assert len(list(layers.parameters())) == 5 + 6  # the layer below is no part of the one above
    layers[0](torch.randn(B, T, D))
    twins = copy.deepcopy(layers)
    assert twins[1].below[0] is twins[0] and twins[0].carried is None


@pytest.mark.parametrize("knobs", [{"n_experts": 4}, {"constant": 5}, {"copy": 4, "zero": 2}])
def test_one_expert_at_least_has_to_work(knobs):
    with pytest.raises(BadValue, match=r"n_experts=.*above constant"):
        build(k=1, **knobs)


def test_only_working_experts():
    layer = build(constant=0, copy=0, zero=0)
    assert layer(torch.randn(B, T, D)).isfinite().all()


def test_half_precision_scores_in_float32():
    layer = explorer.build("moe-plus-plus", d_model=16).to(torch.bfloat16)
    with explorer.record(layer) as seen:
        y = layer(torch.randn(B, T, 16, dtype=torch.bfloat16))
    assert y.dtype == torch.bfloat16 and seen.last("/probs").dtype == torch.float32
