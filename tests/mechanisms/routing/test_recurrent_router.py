import copy
from itertools import pairwise

import torch
from torch.testing import assert_close

import explorer
from explorer.metrics import load_balancing_loss
from explorer.models import Experts, LanguageModel, MixtureOfExperts

B, T, D, E, K, F = 3, 5, 12, 7, 3, 10


def build(**knobs):
    return explorer.build("recurrent-router", d_model=D, **{"n_experts": E, "k": K, "hidden": F, **knobs})


def tower(layers=3, **knobs):
    routers = [build(**knobs) for _ in range(layers)]
    for below, above in pairwise(routers):
        above.follow(below)
    return torch.nn.ModuleList(routers)


def test_two_layers_of_one_number_by_hand():
    """All weights of the GRU 0 but that of the new state: gates at 1/2, h1 = tanh(x) / 2, h2 = tanh(x) / 2 + h1 / 2."""
    layers = [explorer.build("recurrent-router", d_model=1, n_experts=2, k=1, hidden=1, aux_loss=0) for _ in range(2)]
    layers[1].follow(layers[0])
    with torch.no_grad():
        for p in layers[0].gru.parameters():
            p.fill_(0)
        layers[0].gru.weight_ih[2] = 1.0  # order: reset, update, new
        for layer in layers:
            layer.project.weight.fill_(1)
            layer.score.weight.copy_(torch.tensor([[8.0], [0.0]]))
    x = torch.tensor([[[0.5]]]).atanh()
    with explorer.record(torch.nn.ModuleList(layers), ["*", "*/state"]) as seen:
        for layer in layers:
            assert layer(x)[1].tolist() == [[[0]]]
    assert_close(seen.last("0/state"), torch.tensor([[[0.25]]]))
    assert_close(seen.last("1/state"), torch.tensor([[[0.25 + 0.125]]]))
    assert_close(seen.last("1/logits"), torch.tensor([[[3.0, 0.0]]]))
    assert seen.last("1/gate").item() == 0.5
    layers[1].carry = False
    layers[0](x), layers[1](x)
    assert_close(layers[1].carried, torch.tensor([[[0.25]]]))


def test_the_recurrence_and_its_gradients_are_those_of_torch():
    """Three layers against nn.GRUCell and softmax over the kept scores; the gradient flows down through the state."""
    routers, x = tower(aux_loss=0), torch.randn(3, B, T, D, requires_grad=True)
    x_torch = x.detach().clone().requires_grad_()
    cell = copy.deepcopy(routers[0].gru)
    maps = copy.deepcopy(torch.nn.ModuleList([torch.nn.ModuleList([r.project, r.score]) for r in routers]))
    upstream, ours, theirs, h = torch.randn(3, B * T, K), 0.0, 0.0, None
    for layer, router in enumerate(routers):
        weights, index = router(x[layer])
        h = cell(maps[layer][0](x_torch[layer].reshape(-1, D)), h)
        kept, their_index = maps[layer][1](h).topk(K, dim=-1)
        assert torch.equal(index.reshape(-1, K), their_index)
        assert_close(weights.reshape(-1, K), kept.softmax(-1))
        ours = ours + (weights.reshape(-1, K) * upstream[layer]).sum()
        theirs = theirs + (kept.softmax(-1) * upstream[layer]).sum()
    ours.backward()
    theirs.backward()
    assert_close(x.grad, x_torch.grad, atol=1e-6, rtol=1e-4)
    assert x.grad[0].abs().sum() > 0
    for name, parameter in cell.named_parameters():
        assert_close(routers[0].gru.get_parameter(name).grad, parameter.grad, atol=1e-5, rtol=1e-4)
    for router, (project, score) in zip(routers, maps, strict=True):
        assert_close(router.project.weight.grad, project.weight.grad, atol=1e-5, rtol=1e-4)
        assert_close(router.score.weight.grad, score.weight.grad, atol=1e-5, rtol=1e-4)


def test_the_layers_share_one_gru_and_nothing_else():
    routers = tower()
    assert routers[2].gru is routers[1].gru is routers[0].gru
    assert len(list(routers.parameters())) == 4 + 3 * 2
    routers.load_state_dict(copy.deepcopy(routers).state_dict())


def test_a_copy_of_a_tower_has_its_own_layers_below():
    routers = tower()
    for router in routers:
        router(torch.randn(B, T, D))
    twins = copy.deepcopy(routers)
    assert twins[1].below[0] is twins[0] and twins[2].gru is twins[0].gru is not routers[0].gru
    assert all(twin.carried is None for twin in twins)


def test_the_state_is_of_a_token_not_of_a_sequence():
    """Permuting the tokens permutes the decisions: nothing passes along time."""
    routers, x, order = tower().eval(), torch.randn(B, T, D), torch.randperm(T)
    plain = [router(x)[1] for router in routers]
    permuted = [router(x[:, order])[1] for router in routers]
    for one, other in zip(plain, permuted, strict=True):
        assert torch.equal(one[:, order], other)


def test_the_balancing_loss_is_each_layers_own():
    routers = tower(aux_loss=0.5)
    for router in routers:
        with explorer.record(router) as seen:
            router(torch.randn(B, T, D))
        assert_close(router.auxiliary, 0.5 * load_balancing_loss(seen.last("/probs"), seen.last("/index")))


def test_a_language_model_of_linked_routers_compiles_in_one_graph():
    torch.manual_seed(0)
    routers = tower()
    layers = [(torch.nn.Identity(), MixtureOfExperts(router, Experts(D, E, 8, kernel="dense"))) for router in routers]
    model = LanguageModel(11, D, layers).eval()
    tokens = torch.randint(11, (B, T))
    torch._dynamo.reset()
    assert_close(torch.compile(model, fullgraph=True, backend="eager")(tokens), model(tokens))


def test_half_precision_scores_in_float32():
    router = build().to(torch.bfloat16)
    with explorer.record(router) as seen:
        weights, _ = router(torch.randn(B, T, D, dtype=torch.bfloat16))
    assert weights.dtype == torch.bfloat16 and seen.last("/probs").dtype == torch.float32
