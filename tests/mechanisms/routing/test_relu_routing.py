import pytest
import torch
from torch.testing import assert_close

import explorer
from explorer.models import Experts, MixtureOfExperts

B, T, D, E = 3, 5, 12, 7


def build(**knobs):
    return explorer.build("relu-routing", d_model=D, **{"n_experts": E, "k": 3, **knobs})


def test_an_expert_works_where_its_score_is_positive():
    router = build(n_experts=3, k=1, rate=1.5).train()
    router.strength = torch.tensor([0.1])
    logits = torch.tensor([[[2.0, -1.0, 0.5], [-1.0, -2.0, 3.0]]])
    with explorer.edit(router, "*/logits", lambda _: logits):
        weights, index = router(torch.zeros(1, 2, D))
    assert index.tolist() == [[[0, -1, 2], [-1, -1, 2]]]
    assert_close(weights, torch.tensor([[[2.0, 0.0, 0.5], [0.0, 0.0, 3.0]]]))
    # E / (T^2 k) = 3/4; expert 0: sum 2, one token; expert 2: sum 3.5, two tokens: 0.1 * 3/4 * (2 + 7)
    assert_close(router.auxiliary, torch.tensor(0.675))
    assert_close(router.strength, torch.tensor([0.15]))  # 1.5 experts a token are too many


@pytest.mark.parametrize("training", [True, False])
def test_outputs_penalty_and_gradients_follow_the_equations(training):
    router = build().train(training)
    router.strength = torch.tensor([0.7])
    x = torch.randn(B, T, D, requires_grad=True)
    weights, index = router(x)
    slow_x, slow_w = x.detach().double().requires_grad_(), router.score.weight.detach().double().requires_grad_()
    rows = [[(w * row).sum() for w in slow_w] for row in slow_x.reshape(-1, D)]
    rows = [[value if value > 0 else 0 * value for value in row] for row in rows]
    slow = torch.stack([torch.stack(row) for row in rows]).view(B, T, E)
    tokens, loss = B * T, 0.0
    for e in range(E):
        loss = loss + sum(row[e] for row in rows) * sum(1 for row in rows if row[e] > 0)
    loss = 0.7 * E / (tokens**2 * 3) * loss
    assert torch.equal(index >= 0, slow > 0)
    assert_close(weights.double(), slow, atol=1e-6, rtol=1e-5)
    assert_close(router.auxiliary.double(), loss, atol=1e-6, rtol=1e-5)
    upstream = torch.randn(B, T, E)
    ((weights * upstream).sum() + router.auxiliary).backward()
    ((slow * upstream.double()).sum() + loss).backward()
    assert_close(x.grad.double(), slow_x.grad, atol=1e-6, rtol=1e-4)
    assert_close(router.score.weight.grad.double(), slow_w.grad, atol=1e-5, rtol=1e-4)


def test_layer_adds_up_the_experts_that_work():
    router = build().eval()
    layer, x = MixtureOfExperts(router, Experts(D, E, 8)), torch.randn(B, T, D)
    scores = router.score(x).relu()
    single = [layer.experts(x, torch.ones(B, T, 1), torch.full((B, T, 1), e)) for e in range(E)]
    assert_close(layer(x), sum(scores[..., e, None] * single[e] for e in range(E)), atol=1e-5, rtol=1e-4)


def test_the_strength_rises_falls_and_stays_within_its_limits():
    router = build(rate=2.0).train()
    for logits, expected in ((torch.ones(B, T, E), 2e-8), (-torch.ones(B, T, E), 1e-8)):
        with explorer.edit(router, "*/logits", lambda _, logits=logits: logits):
            router(torch.zeros(B, T, D))
        assert_close(router.strength, torch.tensor([expected]))
    with explorer.edit(router, "*/logits", lambda _: -torch.ones(B, T, E)):
        router(torch.zeros(B, T, D))
        assert_close(router.strength, torch.tensor([1e-8]))  # no token has an expert: it cannot be less
    with explorer.edit(router, "*/logits", lambda _: torch.ones(B, T, E)):
        for _ in range(60):
            router(torch.zeros(B, T, D))
    assert_close(router.strength, torch.tensor([1e4]))
    with explorer.edit(router, "*/logits", lambda _: torch.ones(B, T, E).index_fill(-1, torch.arange(4), -1.0)):
        router(torch.zeros(B, T, D))
    assert_close(router.strength, torch.tensor([1e4]))  # exactly k: it stays


def test_the_penalty_holds_the_mean_at_k_against_a_task_that_wants_more():
    """The task asks for large weights, the tokens have a common part, and the penalty has to find its strength."""
    router = build(k=2)
    optimizer = torch.optim.SGD(router.parameters(), 0.02)
    means = []
    for _ in range(500):
        weights, index = router(torch.randn(1, 256, D) + 0.5)
        (router.auxiliary - 0.1 * weights.sum(-1).mean()).backward()
        optimizer.step()
        optimizer.zero_grad()
        means.append((index >= 0).sum(-1).float().mean().item())
    assert means[100] > 3 and abs(sum(means[-200:]) / 200 - 2) < 0.4


def test_without_the_count_it_would_be_a_plain_l1_penalty():
    """A busy and an idle expert of the same score: the gradient presses on the busy one alone."""
    router = build(n_experts=2, k=1).train()
    router.strength = torch.tensor([1.0])
    logits = torch.tensor([[[1.0, 1.0], [1.0, -1.0], [1.0, -1.0], [1.0, -1.0]]], requires_grad=True)
    with explorer.edit(router, "*/logits", lambda _: logits):
        router(torch.zeros(1, 4, D))
    router.auxiliary.backward()
    assert_close(logits.grad[0, 0, 0] / logits.grad[0, 0, 1], torch.tensor(4.0))


def test_only_training_moves_the_strength():
    router = build().eval()
    router(torch.randn(B, T, D))
    assert_close(router.strength, torch.tensor([1e-8]))
