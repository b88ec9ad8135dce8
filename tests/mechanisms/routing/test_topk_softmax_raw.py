import math

import pytest
import torch
from torch.testing import assert_close

import explorer

B, T, D, E, K = 3, 7, 20, 5, 3


def build(**knobs):
    return explorer.build("topk-softmax-raw", d_model=D, n_experts=E, k=K, **knobs)


def test_weights_are_the_probabilities_themselves():
    router = explorer.build("topk-softmax-raw", d_model=4, n_experts=4, k=2, aux_loss=1.0, z_loss=0.0)
    with torch.no_grad():
        router.score.weight.copy_(torch.eye(4))
    x = torch.tensor([[[1.0, 4.0, 2.0, 3.0]]]).log()
    weights, index = router(x)
    assert index.tolist() == [[[1, 3]]]
    assert_close(weights, torch.tensor([[[0.4, 0.3]]]))
    assert_close(router.auxiliary, torch.tensor(4 * (0.5 * 0.4 + 0.5 * 0.3)))
    router.aux_loss, router.z_loss = 0.0, 2.0
    router(x)
    assert_close(router.auxiliary, torch.tensor(2 * math.log(10) ** 2))  # the exponentials sum to 10
    router.z_loss = 0.0
    router(x)
    assert router.auxiliary is None


def test_router_agrees_with_olmoe():
    from transformers.models.olmoe.configuration_olmoe import OlmoeConfig
    from transformers.models.olmoe.modeling_olmoe import OlmoeTopKRouter

    theirs = OlmoeTopKRouter(OlmoeConfig(hidden_size=D, num_experts=E, num_experts_per_tok=K))
    assert not theirs.norm_topk_prob
    ours = build()
    with torch.no_grad():
        theirs.weight.copy_(ours.score.weight)
    x_ours = torch.randn(B, T, D, requires_grad=True)
    x_theirs = x_ours.detach().clone().requires_grad_()
    weights, index = ours(x_ours)
    _, their_weights, their_index = theirs(x_theirs)
    assert torch.equal(index.reshape(-1, K), their_index)
    assert_close(weights.reshape(-1, K), their_weights)
    upstream = torch.randn(B * T, K)
    (weights.reshape(-1, K) * upstream).sum().backward()
    (their_weights * upstream).sum().backward()
    assert_close(x_ours.grad, x_theirs.grad)
    assert_close(ours.score.weight.grad, theirs.weight.grad)


def test_losses_agree_with_transformers():
    """Its balance loss sums the share of the experts to k, ours to one; its z-loss is a mean over tokens, as ours."""
    from transformers.models.olmoe.modeling_olmoe import load_balancing_loss_func
    from transformers.models.switch_transformers.modeling_switch_transformers import router_z_loss_func

    router, x = build(aux_loss=0.01, z_loss=0.001), torch.randn(B, T, D)
    router(x)
    ours = torch.autograd.grad(router.auxiliary, router.score.weight)[0]
    logits = router.score(x)
    balance = load_balancing_loss_func((logits.reshape(-1, E),), E, K) / K
    loss = 0.01 * balance + 0.001 * router_z_loss_func(logits)
    assert_close(router.auxiliary, loss)
    assert_close(ours, torch.autograd.grad(loss, router.score.weight)[0])


@pytest.mark.parametrize("knob, expected", [("aux_loss", 1.0), ("z_loss", math.log(E) ** 2)])
def test_an_undecided_router_pays_the_least_balance_loss(knob, expected):
    router = build(**{"aux_loss": 0, "z_loss": 0, knob: 1.0})
    torch.nn.init.zeros_(router.score.weight)
    weights, _ = router(torch.randn(B, T, D))
    assert_close(router.auxiliary, torch.tensor(expected))
    assert_close(weights.sum(-1), torch.full((B, T), K / E))
