import math

import pytest
import torch
from torch.testing import assert_close

import explorer
from explorer.metrics import drop_rate

B, T, D, E = 3, 7, 12, 5


def build(**knobs):
    return explorer.build("gshard-top2", d_model=D, **{"n_experts": E, **knobs})


def dense(weights, index):
    """(B, T, E) of weights; an empty slot adds nothing."""
    return torch.zeros(*index.shape[:-1], E).scatter_add(-1, index.clamp(min=0), weights)


def agree(ours, x_ours, mine, their_weight_ED, x_theirs, other):
    """Outputs and gradients; `their_weight_ED` gives their gate's gradient as (E, D)."""
    assert torch.equal(mine > 0, other > 0)
    assert_close(mine, other)
    upstream = torch.randn(B, T, E)
    (mine * upstream).sum().backward()
    (other * upstream).sum().backward()
    assert_close(x_ours.grad, x_theirs.grad, atol=1e-6, rtol=1e-5)
    assert_close(ours.score.weight.grad, their_weight_ED(), atol=1e-6, rtol=1e-5)


def test_first_choices_are_served_before_second_ones():
    """Room for 2 * 3 / 3 = 2 tokens an expert; 0 is the first choice of two tokens and the second of the first one."""
    router = explorer.build("gshard-top2", d_model=3, n_experts=3, aux_loss=1.0).eval()
    with torch.no_grad():
        router.score.weight.copy_(torch.eye(3))
    x = torch.tensor([[[3.0, 6.0, 1.0], [8.0, 1.0, 1.0], [7.0, 1.0, 2.0]]]).log()
    weights, index = router(x)
    assert index[0, 0].tolist() == [1, -1]  # wanted 0 beside 1, but both later tokens want it more
    assert index[0, 2].tolist() == [0, 2]
    assert_close(weights[0, 0], torch.tensor([6 / 9, 0.0]))
    assert_close(weights[0, 2], torch.tensor([7 / 9, 2 / 9]))
    # of the first choices 2/3 went to expert 0 and 1/3 to expert 1, whose mean probabilities are 18/30 and 8/30
    assert_close(router.auxiliary, torch.tensor(3 * (2 / 3 * 18 / 30 + 1 / 3 * 8 / 30)))


@pytest.mark.parametrize("capacity_factor", [0.3, 0.7, 1.0, 4.0])
def test_router_agrees_with_transformers(capacity_factor):
    from transformers.models.nllb_moe.configuration_nllb_moe import NllbMoeConfig
    from transformers.models.nllb_moe.modeling_nllb_moe import NllbMoeTop2Router

    config = NllbMoeConfig(
        hidden_size=D, d_model=D, num_experts=E, second_expert_policy="all", moe_eval_capacity_token_fraction=-1.0,
        normalize_router_prob_before_dropping=True, expert_capacity=math.ceil(2 * B * T * capacity_factor / E),
    )  # fmt: skip
    theirs, ours = NllbMoeTop2Router(config), build(capacity_factor=capacity_factor, second="all").train()
    theirs.classifier.weight.data.copy_(ours.score.weight)
    x_ours = torch.randn(B, T, D, requires_grad=True)
    x_theirs = x_ours.detach().clone().requires_grad_()
    _, other, _ = theirs(x_theirs.reshape(-1, D))
    agree(ours, x_ours, dense(*ours(x_ours)), lambda: theirs.classifier.weight.grad, x_theirs, other.view(B, T, E))


def test_chance_loss_and_weights_agree_with_mixture_of_experts():
    """Under one seed; their threshold of 0.5 is the paper's 2 g_2, and their expert has room for a whole sequence."""
    from mixture_of_experts.mixture_of_experts import Top2Gating

    theirs = Top2Gating(D, E, second_threshold_train=0.5, capacity_factor_train=8.0).train()
    ours = build(capacity_factor=8.0, aux_loss=1.0).train()
    with torch.no_grad():
        theirs.w_gating.copy_(ours.score.weight.T)
    x_ours = torch.randn(B, T, D, requires_grad=True)
    x_theirs = x_ours.detach().clone().requires_grad_()
    torch.manual_seed(3)
    weights, index = ours(x_ours)
    torch.manual_seed(3)
    _, combine, _ = theirs(x_theirs)
    assert (index[..., 1] < 0).any() and (index[..., 1] >= 0).any()
    agree(ours, x_ours, dense(weights, index), lambda: theirs.w_gating.grad.T, x_theirs, combine.sum(-1))
    one, single = (
        x_ours.detach()[:1],
        build(aux_loss=1.0).eval(),
    )  # their loss is a mean over sequences, ours of the batch
    single.load_state_dict(ours.state_dict())
    single(one)
    assert_close(single.auxiliary, theirs(one)[2])


def test_the_second_is_called_as_often_as_twice_its_weight():
    router = build(capacity_factor=8.0).train()
    for second, expected in ((0.05, 0.1), (0.2, 0.4), (0.5, 1.0)):
        logits = torch.tensor([1 - second, second, 1e-9, 1e-9, 1e-9]).log().expand(1, 20_000, E)
        with torch.no_grad(), explorer.edit(router, "*/logits", lambda _, logits=logits: logits):
            weights, index = router(torch.zeros(1, 20_000, D))
        called = (index[..., 1] >= 0).float().mean()
        assert abs(called - expected) < 0.02
        assert_close(weights[..., 0], torch.full((1, 20_000), 1 - second))  # the first is weighed alike in any case
        assert (router.eval()(torch.randn(1, 9, D))[1] >= 0).all()
        router.train()


def test_less_room_drops_more_and_enough_room_drops_nothing():
    router, x = build().eval(), torch.randn(8, 32, D)
    dropped = []
    for router.capacity_factor in (0.01, 0.5, 1.0, 1.25, 2.0, float(E)):
        dropped.append(drop_rate(router(x)[1]).item())
    assert dropped == sorted(dropped, reverse=True) and dropped[0] > 0.9 and dropped[-1] == 0


def test_sequence_groups_leave_other_sequences_alone():
    x = torch.randn(B, T, D)
    changed = x.clone()
    changed[0] = torch.randn(T, D)
    for group, leaks in (("sequence", False), ("batch", True)):
        router = build(group=group, capacity_factor=0.5).eval()
        assert torch.equal(router(x)[1][1:], router(changed)[1][1:]) is not leaks


def test_choice_is_what_was_asked_for():
    router = build(capacity_factor=0.5).train()
    with explorer.record(router) as seen:
        _, index = router(torch.randn(B, T, D))
    choice = seen.last("/choice")
    assert torch.equal(choice[..., 0], seen.last("/probs").argmax(-1))
    assert (choice[..., 1] < 0).any(), "a second expert that was not called was not asked for"
    assert ((index == choice) | (index < 0)).all() and (index < 0).sum() > (choice < 0).sum()
