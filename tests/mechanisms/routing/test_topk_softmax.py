import pytest
import torch
from torch.testing import assert_close

import explorer
from explorer.metrics import load_balancing_loss
from explorer.models import Experts, MixtureOfExperts

B, T, D, E, K, F = 3, 7, 20, 5, 2, 12


@pytest.fixture(scope="module")
def mixtral():
    from transformers.models.mixtral import modeling_mixtral
    from transformers.models.mixtral.configuration_mixtral import MixtralConfig

    config = MixtralConfig(hidden_size=D, intermediate_size=F, num_local_experts=E, num_experts_per_tok=K)
    config._experts_implementation = "eager"
    return modeling_mixtral, config


def ours_and_theirs(mixtral):
    """Our layer and transformers' with the same weights; theirs keeps an expert's matrices transposed."""
    module, config = mixtral
    theirs = module.MixtralSparseMoeBlock(config)
    router = explorer.build("topk-softmax", d_model=D, n_experts=E, k=K)
    ours = MixtureOfExperts(router, Experts(D, E, F, kernel="loop"))
    with torch.no_grad():
        theirs.gate.weight.copy_(router.score.weight)
        theirs.experts.gate_up_proj.copy_(ours.experts.up.transpose(1, 2))
        theirs.experts.down_proj.copy_(ours.experts.down.transpose(1, 2))
    return ours, theirs


def test_weights_of_four_three_two_one():
    router = explorer.build("topk-softmax", d_model=4, n_experts=4, k=2, aux_loss=1.0)
    with torch.no_grad():
        router.score.weight.copy_(torch.eye(4))
    weights, index = router(torch.tensor([[[1.0, 4.0, 2.0, 3.0]]]).log())  # probabilities .1 .4 .2 .3
    assert index.tolist() == [[[1, 3]]]
    assert_close(weights, torch.tensor([[[4 / 7, 3 / 7]]]))
    assert_close(router.auxiliary, torch.tensor(4 * (0.5 * 0.4 + 0.5 * 0.3)))  # E * sum of load times mean probability


def test_router_agrees_with_mixtral(mixtral):
    ours, theirs = ours_and_theirs(mixtral)
    x_ours = torch.randn(B, T, D, requires_grad=True)
    x_theirs = x_ours.detach().clone().requires_grad_()
    weights, index = ours.router(x_ours)
    _, their_weights, their_index = theirs.gate(x_theirs)
    assert torch.equal(index.reshape(-1, K), their_index)
    assert_close(weights.reshape(-1, K), their_weights)
    upstream = torch.randn(B * T, K)
    (weights.reshape(-1, K) * upstream).sum().backward()
    (their_weights * upstream).sum().backward()
    assert_close(x_ours.grad, x_theirs.grad)
    assert_close(ours.router.score.weight.grad, theirs.gate.weight.grad)


@pytest.mark.parametrize("kernel", ["loop", "grouped_mm", "dense"])
def test_layer_agrees_with_mixtral_in_outputs_and_gradients(mixtral, kernel):
    ours, theirs = ours_and_theirs(mixtral)
    ours.experts.asked = kernel
    x_ours = torch.randn(B, T, D, requires_grad=True)
    x_theirs = x_ours.detach().clone().requires_grad_()
    y_ours, y_theirs = ours(x_ours), theirs(x_theirs)
    assert_close(y_ours, y_theirs)
    upstream = torch.randn(B, T, D)
    (y_ours * upstream).sum().backward()
    (y_theirs * upstream).sum().backward()
    assert_close(x_ours.grad, x_theirs.grad)
    assert_close(ours.router.score.weight.grad, theirs.gate.weight.grad)
    assert_close(ours.experts.up.grad, theirs.experts.gate_up_proj.grad.transpose(1, 2))
    assert_close(ours.experts.down.grad, theirs.experts.down_proj.grad.transpose(1, 2))


@pytest.mark.parametrize("k", [1, 2, 4])
def test_auxiliary_loss_is_transformers_divided_by_k(mixtral, k):
    """Theirs takes c_e / tokens for the share of expert e, which sums to k over the experts; ours sums to one."""
    module, _ = mixtral
    router = explorer.build("topk-softmax", d_model=D, n_experts=E, k=k, aux_loss=0.5)
    x = torch.randn(B, T, D)
    router(x)
    ours = torch.autograd.grad(router.auxiliary, router.score.weight)[0]
    logits = router.score(x).reshape(-1, E)
    loss = 0.5 / k * module.load_balancing_loss_func((logits,), E, k)
    theirs = torch.autograd.grad(loss, router.score.weight)[0]
    assert_close(router.auxiliary, loss)
    assert_close(ours, theirs)


def test_auxiliary_loss_of_several_layers_is_not_transformers_pool(mixtral):
    """They pool the tokens of all layers first, so that two layers may balance each other; ours is a loss of each layer."""
    module, _ = mixtral
    one = torch.tensor([[9.0, 0.0], [9.0, 0.0]])
    theirs = module.load_balancing_loss_func((one, one.flip(1)), 2, 1)
    assert_close(theirs, torch.tensor(1.0))
    ours = [load_balancing_loss(x.softmax(-1), x.argmax(-1, keepdim=True)) for x in (one, one.flip(1))]
    assert all(loss > 1.99 for loss in ours)


def test_one_expert_a_token_starves_the_router():
    """With k = 1 the weight is p / p: what arrives at the router is rounding, where Switch gets a real gradient."""
    x = torch.randn(4, 64, D)
    gradients = {}
    for name, knobs in {"topk-softmax": {"k": 1}, "topk-softmax-raw": {"k": 1}}.items():
        torch.manual_seed(1)
        router = explorer.build(name, d_model=D, n_experts=E, aux_loss=0, **knobs)
        weights, _ = router(x)
        (weights[..., 0] * x[..., 0]).sum().backward()
        gradients[name] = router.score.weight.grad.norm()
    assert gradients["topk-softmax"] < 1e-5 * gradients["topk-softmax-raw"]
