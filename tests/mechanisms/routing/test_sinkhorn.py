import math

import pytest
import torch
from torch.testing import assert_close

import explorer
from explorer.metrics import counts, max_violation

B, T, D, E = 1, 15, 12, 5


def build(**knobs):
    return explorer.build("sinkhorn", d_model=D, **{"n_experts": E, **knobs})


def test_the_token_that_minds_least_moves_over():
    """Both prefer expert 0; the second by less, and after one round of columns and rows it has expert 1."""
    router = explorer.build("sinkhorn", d_model=2, n_experts=2, iterations=1, temperature=1.0).train()
    with torch.no_grad():
        router.score.weight.copy_(torch.eye(2))
    x = torch.tensor([[[9.0, 1.0], [3.0, 2.0]]]).log()
    with explorer.record(router) as seen:
        weights, index = router(x)
    assert index.tolist() == [[[0], [1]]]
    assert_close(weights, torch.tensor([[[9 / 10], [2 / 3]]]))  # sigmoid(ln w) = w / (1 + w)
    # columns 9 3 and 1 2 become 3/4 1/4 and 1/3 2/3; rows 3/4 1/3 and 1/4 2/3 are divided by 13/12 and 11/12
    assert_close(seen.last("/probs"), torch.tensor([[[9 / 13, 4 / 13], [3 / 11, 8 / 11]]]))
    weights, index = router.eval()(x)
    assert index.tolist() == [[[0], [0]]]
    assert_close(weights, torch.tensor([[[9 / 10], [3 / 4]]]))


@pytest.mark.parametrize("iterations, temperature", [(1, 1.0), (8, 1.0), (8, 0.3), (50, 0.1)])
def test_plan_agrees_with_sinkhorn_router_pytorch(iterations, temperature):
    from sinkhorn_router_pytorch import sinkhorn

    router = build(iterations=iterations, temperature=temperature).train()
    x = torch.randn(B, T, D)
    with explorer.record(router) as seen:
        _, index = router(x)
    theirs = sinkhorn(seen.last("/logits").exp(), num_iters=iterations, temperature=temperature)
    assert_close(seen.last("/probs"), theirs, atol=1e-5, rtol=1e-4)
    assert torch.equal(index[..., 0], theirs.argmax(-1))


@pytest.mark.parametrize("training", [True, False])
def test_outputs_and_gradients_follow_the_equations(training):
    router = build(iterations=6, temperature=0.5).train(training)
    x = torch.randn(3, 5, D, requires_grad=True)
    weights, index = router(x)
    slow_x, slow_w = x.detach().double().requires_grad_(), router.score.weight.detach().double().requires_grad_()
    scores = [[sum(a * b for a, b in zip(row, w, strict=True)) for w in slow_w] for row in slow_x.reshape(-1, D)]
    plan = [[math.exp(s.item() / 0.5) for s in row] for row in scores]
    for _ in range(6 if training else 0):
        columns = [sum(row[e] for row in plan) for e in range(E)]
        plan = [[row[e] / columns[e] for e in range(E)] for row in plan]
        plan = [[value / sum(row) for value in row] for row in plan]
    chosen = [max(range(E), key=row.__getitem__) for row in plan]
    assert index.flatten().tolist() == chosen
    slow = torch.stack([1 / (1 + torch.exp(-row[e])) for row, e in zip(scores, chosen, strict=True)]).view(3, 5, 1)
    assert_close(weights.double(), slow, atol=1e-6, rtol=1e-5)
    upstream = torch.randn(3, 5, 1)
    (weights * upstream).sum().backward()
    (slow * upstream.double()).sum().backward()
    assert_close(x.grad.double(), slow_x.grad, atol=1e-6, rtol=1e-4)
    assert_close(router.score.weight.grad.double(), slow_w.grad, atol=1e-6, rtol=1e-4)


def test_it_comes_near_the_best_even_assignment():
    """Against scipy's exact solution with 64 / 8 places an expert: nearly as even, and nearly the same sum of scores (a little
    more, as it is not exactly even)."""
    from scipy.optimize import linear_sum_assignment

    router = build(n_experts=8, iterations=100, temperature=0.02).train()
    x = torch.randn(1, 64, D) + 1.5 * torch.randn(D)  # all point the same way, so that greedy choice is lopsided
    logits = router.score(x)[0].detach()
    places = logits.repeat_interleave(8, dim=1)
    rows, columns = linear_sum_assignment(-places.numpy())
    best = places[rows, columns].sum()
    _, index = router(x)
    mine = logits.gather(1, index[0]).sum()
    assert max_violation(counts(index, 8)) <= 0.25
    assert max_violation(counts(router.eval()(x)[1], 8)) > 1
    assert abs(mine - best) < 0.03 * best.abs()


def test_balanced_says_when_the_batch_is_shared_out():
    x = torch.randn(4, 16, D) + 2 * torch.randn(D)
    router = build(iterations=50, temperature=0.1)
    even, greedy = router.train()(x)[1], router.eval()(x)[1]
    assert max_violation(counts(even, E)) < max_violation(counts(greedy, E))
    router.balanced = "always"
    assert torch.equal(router(x)[1], even)
    router.balanced = "never"
    assert torch.equal(router.train()(x)[1], greedy)
    assert torch.equal(greedy[..., 0], router.score(x).argmax(-1))


def test_it_is_causal_in_evaluation_and_not_in_training():
    x = torch.randn(1, 16, D)
    other = x.clone()
    other[:, 8:] = torch.randn(1, 8, D) + 3
    router = build()
    assert torch.equal(router.eval()(x)[1][:, :8], router(other)[1][:, :8])
    assert not torch.equal(router.train()(x)[1][:, :8], router(other)[1][:, :8])


def test_a_token_of_nan_does_not_spoil_the_plan_of_the_others():
    x = torch.randn(1, 16, D)
    x[0, 3, 0] = torch.nan
    weights, index = build().train()(x)
    assert weights[0, 3].isnan().all() and weights.isnan().sum() == 1
    assert max_violation(counts(index, E)) < 1
