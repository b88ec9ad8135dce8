import math

import pytest
import torch
from torch.testing import assert_close

import explorer
from explorer.metrics import drop_rate

B, T, D, E = 3, 7, 20, 5


def build(**knobs):
    return explorer.build("switch", d_model=D, n_experts=E, **knobs)


def with_logits(router, logits_BTE):
    """What the router decides for these logits."""
    with torch.no_grad(), explorer.edit(router, "*/logits", lambda _: logits_BTE):
        return router(torch.zeros(*logits_BTE.shape[:2], D))


def their_router(ours, capacity):
    from transformers.models.switch_transformers.configuration_switch_transformers import SwitchTransformersConfig
    from transformers.models.switch_transformers.modeling_switch_transformers import SwitchTransformersTop1Router

    theirs = SwitchTransformersTop1Router(
        SwitchTransformersConfig(
            hidden_size=D, d_model=D, num_experts=E, expert_capacity=capacity, router_jitter_noise=ours.jitter
        )
    )
    theirs.classifier.weight.data.copy_(ours.score.weight)
    return theirs


def test_a_full_expert_drops_the_last_token():
    router = explorer.build("switch", d_model=2, n_experts=2, capacity_factor=1.0, aux_loss=1.0).eval()
    with torch.no_grad():
        router.score.weight.copy_(torch.eye(2))
    x = torch.tensor([[[8.0, 2.0], [7.0, 3.0], [9.0, 1.0], [4.0, 6.0]]]).log()  # room for 4 / 2 * 1 = 2 tokens each
    weights, index = router(x)
    assert index.tolist() == [[[0], [0], [-1], [1]]]
    assert_close(weights, torch.tensor([[[0.8], [0.7], [0.0], [0.6]]]))
    # three of four wanted expert 0, dropped or not; mean probabilities 2.8 / 4 and 1.2 / 4
    assert_close(router.auxiliary, torch.tensor(2 * (0.75 * 0.7 + 0.25 * 0.3)))


@pytest.mark.parametrize("capacity_factor", [0.3, 1.0, 1.25, 4.0])
def test_router_agrees_with_transformers(capacity_factor):
    ours = build(capacity_factor=capacity_factor, group="sequence", jitter=0.0, aux_loss=0.0)
    theirs = their_router(ours, math.ceil(T / E * capacity_factor))
    x_ours = torch.randn(B, T, D, requires_grad=True)
    x_theirs = x_ours.detach().clone().requires_grad_()
    weights, index = ours(x_ours)
    dispatch, probs, _ = theirs(x_theirs)
    kept = dispatch.sum(-1, keepdim=True)
    assert torch.equal(index >= 0, kept.bool())
    assert torch.equal(index.clamp(min=0), dispatch.argmax(-1, keepdim=True))
    assert_close(weights, probs * kept)
    upstream = torch.randn(B, T, 1)
    (weights * upstream).sum().backward()
    (probs * kept * upstream).sum().backward()
    assert_close(x_ours.grad, x_theirs.grad)
    assert_close(ours.score.weight.grad, theirs.classifier.weight.grad)


def test_auxiliary_loss_agrees_with_transformers_on_one_group():
    """Theirs is the mean over sequences of each one's own balance, ours the balance of the batch: equal for one group."""
    from transformers.models.switch_transformers.modeling_switch_transformers import load_balancing_loss_func

    router = build(aux_loss=0.01, jitter=0.0)
    x = torch.randn(1, B * T, D)
    router(x)
    ours = torch.autograd.grad(router.auxiliary, router.score.weight)[0]
    probs = router.score(x).softmax(-1)
    loss = 0.01 * load_balancing_loss_func(probs, probs.argmax(-1))
    assert_close(router.auxiliary, loss)
    assert_close(ours, torch.autograd.grad(loss, router.score.weight)[0])


def test_jitter_blurs_the_logits_of_training_only_and_as_in_transformers():
    router, x = build(jitter=0.1), torch.randn(B, T, D)
    theirs = their_router(router, T)
    with explorer.record(router) as seen:
        torch.manual_seed(3)
        router.train()(x)
        noisy = seen.last("/logits")
        router.eval()(x)
    plain = router.score(x)
    assert_close(seen.last("/logits"), plain)
    torch.manual_seed(3)
    assert_close(noisy, theirs.train()(x.clone())[2])
    furthest = 0.1 * x.abs() @ router.score.weight.abs().T  # no factor leaves 1 +- 0.1
    assert (noisy != plain).all() and ((noisy - plain).abs() <= furthest * 1.0001).all()


def test_dropping_goes_by_position_in_the_batch_or_in_each_sequence():
    eager = torch.zeros(2, 4, E)
    eager[..., 2] = 9.0  # all eight tokens want expert 2
    router = build(capacity_factor=2.5).eval()
    _, index = with_logits(router, eager)  # ceil(8 / 5 * 2.5) = 4: the first sequence fills it
    assert index[..., 0].tolist() == [[2, 2, 2, 2], [-1, -1, -1, -1]]
    router.group = "sequence"
    _, index = with_logits(router, eager)  # ceil(4 / 5 * 2.5) = 2
    assert index[..., 0].tolist() == [[2, 2, -1, -1], [2, 2, -1, -1]]


def test_capacity_is_the_ceiling_of_the_exact_product():
    """640 * 1.1 / 8 is 88.00000000000001 in floating point; the room is 88, not 89."""
    router = explorer.build("switch", d_model=D, n_experts=8, capacity_factor=1.1).eval()
    crowd = torch.zeros(1, 640, 8)
    crowd[..., 0] = 1.0
    assert (with_logits(router, crowd)[1] >= 0).sum() == 88


def test_less_room_drops_more_and_enough_room_drops_nothing():
    router, x = build().eval(), torch.randn(8, 32, D)
    dropped = []
    for router.capacity_factor in (0.01, 0.5, 1.0, 1.25, 2.0, float(E)):
        dropped.append(drop_rate(router(x)[1]).item())
    assert dropped == sorted(dropped, reverse=True) and dropped[0] > 0.9 and dropped[-1] == 0
    assert dropped[1] >= 1 - 26 * E / 256  # ceil(256 / 5 * 0.5) = 26 tokens fit into each


def test_sequence_groups_are_causal_and_batch_groups_leak_into_the_next_sequence():
    x = torch.randn(B, T, D)
    changed = x.clone()
    changed[0, 4:] = torch.randn(T - 4, D)
    for group, leaks in (("sequence", False), ("batch", True)):
        router = build(group=group, capacity_factor=0.75).eval()
        before, after = router(x)[1], router(changed)[1]
        assert torch.equal(before[0, :4], after[0, :4])
        assert torch.equal(before[1:], after[1:]) is not leaks


def test_choice_is_what_was_asked_for_and_index_what_was_given():
    router = build(capacity_factor=0.5).eval()
    with explorer.record(router) as seen:
        router(torch.randn(B, T, D))
    choice, index = seen.last("/choice"), seen.last("/index")
    assert torch.equal(choice, seen.last("/probs").argmax(-1, keepdim=True))
    assert (index < 0).any() and torch.equal(index[index >= 0], choice[index >= 0])
    assert torch.equal(seen.last("/weights") == 0, index < 0)


def test_an_edited_choice_is_queued_and_weighed_as_if_it_were_the_tokens_own():
    router, x = build(capacity_factor=1.0, group="sequence").eval(), torch.randn(B, T, D)  # room for ceil(7 / 5) = 2
    probs = router.score(x).softmax(-1)
    with explorer.edit(router, "*/choice", lambda choice: torch.full_like(choice, 3)):
        weights, index = router(x)
    assert (index[:, :2] == 3).all() and (index[:, 2:] == -1).all()
    assert_close(weights[:, :2, 0], probs[:, :2, 3])


def test_initial_scale_is_a_tenth_of_the_variance():
    """Truncation at two standard deviations leaves 0.774 of the variance 0.1 / D."""
    weight = explorer.build("switch", d_model=256, n_experts=64).score.weight
    assert weight.abs().max() <= 2 * math.sqrt(0.1 / 256)
    assert 0.72 < weight.var().item() * 256 / 0.1 < 0.83
