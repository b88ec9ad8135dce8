import math

import pytest
import torch
from torch.testing import assert_close

import explorer

B, T, D, E = 3, 5, 12, 7


def build(**knobs):
    router = explorer.build("noisy-topk", d_model=D, **{"n_experts": E, "k": 3, **knobs})
    with torch.no_grad():  # it starts at zero; away from it nothing is a tie
        router.score.weight.normal_(std=D**-0.5)
        router.noise.weight.normal_(std=D**-0.5)
    return router


def normal_cdf(z):
    return (1 + torch.erf(z / math.sqrt(2))) / 2


def cv2(values):
    mean = sum(values) / len(values)
    return sum((v - mean) ** 2 for v in values) / len(values) / mean**2


def by_the_equations(x_NTD, w_ED, n_ED, draw_BTE, k, w_importance, w_load):
    """Section 2.1 and appendix A in float64, one token after another: (B, T, E) of weights, and the loss."""
    weights, importance, load = [], [0.0] * E, [0.0] * E
    for x, draw in zip(x_NTD.reshape(-1, D), draw_BTE.reshape(-1, E), strict=True):
        clean = [w @ x for w in w_ED]
        spread = [torch.log1p(torch.exp(n @ x)) + 0.01 for n in n_ED]
        noisy = [clean[e] + draw[e] * spread[e] for e in range(E)]
        kept = sorted(range(E), key=lambda e: noisy[e].item(), reverse=True)[:k]
        total = sum(noisy[e].exp() for e in kept)
        row = [noisy[e].exp() / total if e in kept else torch.zeros((), dtype=torch.float64) for e in range(E)]
        weights.append(torch.stack(row))
        for e in range(E):
            importance[e] = importance[e] + row[e]
            if k == E:
                load[e] = load[e] + 1.0
                continue
            others = sorted((noisy[j] for j in range(E) if j != e), key=lambda value: value.item(), reverse=True)
            load[e] = load[e] + normal_cdf((clean[e] - others[k - 1]) / spread[e])
    return torch.stack(weights).view(B, T, E), w_importance * cv2(importance) + w_load * cv2(load)


def test_two_of_three_experts_without_noise():
    router = build(n_experts=3, k=2, importance_loss=1.0, load_loss=0.0).eval()
    with torch.no_grad(), explorer.edit(router, "*/logits", lambda _: torch.tensor([[[6.0, 2.0, 1.0]]]).log()):
        weights, index = router(torch.zeros(1, 1, D))
    assert index.tolist() == [[[0, 1]]]
    assert_close(weights, torch.tensor([[[0.75, 0.25]]]))
    # importance 3/4, 1/4, 0: mean 1/3, mean square 5/24, variance 5/24 - 1/9 = 7/72, over 1/9
    assert_close(router.auxiliary, torch.tensor(7 / 8))


def test_the_load_is_the_chance_to_be_chosen_under_new_noise_of_ones_own():
    """Logits 2, 0, -1 with noise of deviation 1, k = 1: the best must beat 0, the others must beat 2."""
    router = build(n_experts=3, k=1).eval()
    logits = torch.tensor([[[2.0, 0.0, -1.0]]])
    chance = router.chance(logits, logits, torch.ones_like(logits))
    assert_close(chance, torch.tensor([[[0.97725, 0.02275, 0.00135]]]), atol=1e-5, rtol=0)


def test_the_chance_is_what_a_draw_of_the_own_noise_shows():
    router, draws = build(), 40_000
    logits, noise = torch.randn(1, 1, E), torch.rand(1, 1, E) + 0.3
    noisy = logits + noise * torch.randn(1, 1, E)
    chance = router.chance(logits, noisy, noise)[0, 0]
    for e in range(E):
        anew = noisy.expand(draws, 1, E).clone()
        anew[:, 0, e] = logits[0, 0, e] + noise[0, 0, e] * torch.randn(draws)
        seen = (anew.topk(3, dim=-1).indices == e).any(-1).float().mean()
        assert abs(seen - chance[e]) < 0.01


@pytest.mark.parametrize("k", [1, 3, E])
@pytest.mark.parametrize("training", [True, False])
def test_outputs_losses_and_gradients_follow_the_equations(training, k):
    router = build(k=k, importance_loss=0.3, load_loss=0.2).train(training)
    x = torch.randn(B, T, D, requires_grad=True)
    torch.manual_seed(5)
    weights, index = router(x)
    torch.manual_seed(5)
    draw = torch.randn(B, T, E).double() if training else torch.zeros(B, T, E, dtype=torch.float64)
    slow_x, slow_w, slow_n = (
        p.detach().double().requires_grad_() for p in (x, router.score.weight, router.noise.weight)
    )
    slow, slow_loss = by_the_equations(slow_x, slow_w, slow_n, draw, k, 0.3, 0.2)
    mine = torch.zeros(B, T, E).scatter(-1, index, weights)
    assert_close(mine.double(), slow, atol=1e-6, rtol=1e-5)
    assert_close(router.auxiliary.double(), slow_loss, atol=1e-6, rtol=1e-5)
    upstream = torch.randn(B, T, E)
    ((mine * upstream).sum() + 10 * router.auxiliary).backward()
    ((slow * upstream.double()).sum() + 10 * slow_loss).backward()
    pairs = [(x, slow_x), (router.score.weight, slow_w), (router.noise.weight, slow_n)]
    for own, other in pairs:
        mine, expected = (torch.zeros_like(other) if p.grad is None else p.grad.double() for p in (own, other))
        assert_close(mine, expected, atol=3e-6, rtol=1e-4)


def test_it_starts_without_signal_and_with_some_noise():
    router = explorer.build("noisy-topk", d_model=D, n_experts=E, k=2)
    x = torch.randn(64, 32, D)
    with explorer.record(router) as seen:
        _, index = router.train()(x)
    assert not seen.last("/logits").any()
    assert_close(seen.last("/noise"), torch.full((64, 32, E), math.log(2) + 0.01))
    share = explorer.metrics.load_fraction(explorer.metrics.counts(index, E))
    assert (share - 1 / E).abs().max() < 0.02
    _, index = router.eval()(x)
    assert (index == index[0, 0]).all()  # a tie, and the same two win it for every token


def test_the_losses_are_least_at_an_even_load():
    router = build(k=1, importance_loss=1.0, load_loss=1.0).eval()
    one_hot = 50 * torch.eye(E).expand(2, E, E)
    crowd = one_hot.clone()
    crowd[..., 0] = 100
    losses = []
    for logits in (one_hot, crowd):
        with torch.no_grad(), explorer.edit(router, "*/logits", lambda _, logits=logits: logits):
            router(torch.zeros(2, E, D))
        losses.append(router.auxiliary.item())
    assert losses[0] == pytest.approx(0, abs=1e-6)
    assert losses[1] == pytest.approx(2 * (E - 1), rel=1e-3)
