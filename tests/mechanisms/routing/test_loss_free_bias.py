import pytest
import torch
from torch.testing import assert_close

import explorer
from explorer.errors import BadValue
from explorer.metrics import counts, max_violation

B, T, D, E = 3, 5, 12, 12


def build(**knobs):
    return explorer.build("loss-free-bias", d_model=D, **{"n_experts": E, "k": 3, **knobs})


def with_scores(router, scores_BTE):
    """What the router decides for these scores."""
    with explorer.edit(router, "*/logits", lambda _: torch.tensor(scores_BTE).logit()):
        return router(torch.zeros(len(scores_BTE), len(scores_BTE[0]), D))


def dense(weights, index, n_experts=E):
    return torch.zeros(*index.shape[:-1], n_experts).scatter(-1, index, weights)


def their_router(ours):
    from transformers.models.deepseek_v3.configuration_deepseek_v3 import DeepseekV3Config
    from transformers.models.deepseek_v3.modeling_deepseek_v3 import DeepseekV3TopkRouter

    config = DeepseekV3Config(
        hidden_size=D, n_routed_experts=E, num_local_experts=E, num_experts_per_tok=ours.k, n_group=ours.groups,
        topk_group=ours.top_groups, routed_scaling_factor=ours.scale, norm_topk_prob=True,
    )  # fmt: skip
    theirs = DeepseekV3TopkRouter(config)
    theirs.weight.data.copy_(ours.score.weight)
    theirs.e_score_correction_bias.copy_(ours.bias)
    return theirs


def test_the_bias_decides_who_is_chosen_and_not_how_much_it_weighs():
    router = build(n_experts=4, k=2, scale=2.0).eval()
    router.bias = torch.tensor([0.0, -0.6, 0.2, 0.1])  # 0.9 0.8 0.4 0.2 becomes 0.9 0.2 0.6 0.3
    weights, index = with_scores(router, [[[0.9, 0.8, 0.4, 0.2]]])
    assert index.tolist() == [[[0, 2]]]
    assert_close(weights, torch.tensor([[[2 * 0.9 / 1.3, 2 * 0.4 / 1.3]]]))


def test_the_bias_rises_for_the_idle_and_falls_for_the_busy():
    router = build(n_experts=4, k=1, bias_rate=0.01).train()
    scores = [[[0.9, 0.8, 0.4, 0.2], [0.9, 0.1, 0.1, 0.1], [0.1, 0.9, 0.1, 0.1], [0.1, 0.1, 0.9, 0.1]]]
    with explorer.record(router) as seen:
        with_scores(router, scores)  # loads 2 1 1 0, one each would be even
        assert_close(router.bias, torch.tensor([-0.01, 0.0, 0.0, 0.01]))
        with_scores(router, scores)
    assert_close(router.bias, torch.tensor([-0.02, 0.0, 0.0, 0.02]))
    assert seen.at("/bias", 0).tolist() == [0, 0, 0, 0]  # what a batch was chosen with, not what it led to
    assert_close(seen.at("/bias", 1), torch.tensor([-0.01, 0.0, 0.0, 0.01]))


def test_only_training_moves_the_bias_and_only_if_it_shall():
    for router in (build().eval(), build(bias_rate=0.0).train()):
        router(torch.randn(B, T, D))
        assert not router.bias.any()
    assert build().state_dict().keys() == {"score.weight", "bias"}


@pytest.mark.parametrize("groups, top_groups", [(1, 1), (4, 2), (3, 1), (2, 2), (4, 3)])
def test_router_agrees_with_transformers(groups, top_groups):
    ours = build(groups=groups, top_groups=top_groups, scale=2.5).eval()
    ours.bias = 0.3 * torch.randn(E)
    theirs = their_router(ours)
    x_ours = torch.randn(B, T, D, requires_grad=True)
    x_theirs = x_ours.detach().clone().requires_grad_()
    weights, index = ours(x_ours)
    _, their_weights, their_index = theirs(x_theirs)
    mine, other = dense(weights, index), dense(their_weights, their_index).view(B, T, E)
    assert torch.equal(mine > 0, other > 0)
    assert_close(mine, other)
    upstream = torch.randn(B, T, E)
    (mine * upstream).sum().backward()
    (other * upstream).sum().backward()
    assert_close(x_ours.grad, x_theirs.grad)
    assert_close(ours.score.weight.grad, theirs.weight.grad)


def test_a_course_of_steps_follows_the_equations():
    """Twelve batches in float64, one token after another, bias and choice written out."""
    router = build(n_experts=7, bias_rate=0.05).train()
    bias, weight = [0.0] * 7, router.score.weight.detach().double()
    for _ in range(12):
        x = torch.randn(B, T, D)
        weights, index = router(x)
        load = [0] * 7
        for b in range(B):
            for t in range(T):
                scores = [float(1 / (1 + torch.exp(-(weight[e] @ x[b, t].double())))) for e in range(7)]
                chosen = sorted(range(7), key=lambda e: scores[e] + bias[e], reverse=True)[:3]
                assert sorted(index[b, t].tolist()) == sorted(chosen)
                total = sum(scores[e] for e in chosen)
                for e, w in zip(index[b, t].tolist(), weights[b, t].tolist(), strict=True):
                    assert w == pytest.approx(scores[e] / total, rel=1e-5)
                for e in chosen:
                    load[e] += 1
        mean = sum(load) / 7
        bias = [b + 0.05 * ((mean > c) - (mean < c)) for b, c in zip(bias, load, strict=True)]
    assert_close(router.bias, torch.tensor(bias))


def test_a_token_reaches_no_more_groups_than_allowed():
    router = build(groups=4, top_groups=2, k=5).eval()
    router.bias = torch.full((E,), -2.0)  # every biased score is negative: a mask of 0 would open all other groups
    _, index = router(torch.randn(8, 16, D))
    groups = torch.nn.functional.one_hot(index // 3, 4).amax(-2).sum(-1)
    assert groups.max() == 2


def test_a_fixed_skew_is_balanced_by_small_steps_and_not_by_large_ones():
    """Logits with a skew of up to 1.5 either way, 512 tokens a batch; sampling alone leaves a MaxVio of 0.12."""
    skew = torch.linspace(-1.5, 1.5, 8)
    violation = {}
    for rate, steps in ((0.0, 1), (0.01, 200), (0.1, 200)):
        router = build(n_experts=8, k=2, bias_rate=rate).train()
        for _ in range(steps):
            logits = torch.randn(1, 512, 8) + skew
            with torch.no_grad(), explorer.edit(router, "*/logits", lambda _, logits=logits: logits):
                _, index = router(torch.zeros(1, 512, D))
        violation[rate] = max_violation(counts(index, 8)).item()
    assert violation[0.0] > 1.5 and violation[0.01] < 0.25 and violation[0.1] > 0.4


def test_the_future_does_not_reach_the_choice_of_its_own_batch():
    x = torch.randn(B, T, D)
    other = x.clone()
    other[:, 3:] = torch.randn(B, T - 3, D)
    one, two = build(bias_rate=1.0), None
    two = build(bias_rate=1.0)
    two.load_state_dict(one.state_dict())
    assert torch.equal(one.train()(x)[1][:, :3], two.train()(other)[1][:, :3])


def test_groups_too_small_for_k_are_refused_at_the_start_and_in_the_middle():
    with pytest.raises(BadValue, match="k=5: it must be at most the 4 experts of the groups allowed"):
        build(groups=3, k=5)
    with pytest.raises(BadValue, match="top_groups=3: it must be at most the number of groups, 2"):
        build(groups=2, top_groups=3)
    router = build(groups=3)
    router.k = 5
    with pytest.raises(BadValue, match="k=5"):
        router(torch.randn(B, T, D))


def test_a_bias_in_low_precision_still_moves():
    """In bfloat16 a step of 0.001 would be lost beside a bias of 0.5."""
    router = build().bfloat16().train()
    for _ in range(600):
        router(torch.ones(1, 1, D, dtype=torch.bfloat16))
    assert router.bias.dtype == torch.float32 and router.bias.max() > 0.3
