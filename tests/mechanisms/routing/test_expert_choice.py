import pytest
import torch
from torch.testing import assert_close

import explorer
from explorer.metrics import counts, max_violation
from explorer.models import Experts, MixtureOfExperts

B, T, D, E = 3, 7, 20, 5


def build(**knobs):
    return explorer.build("expert-choice", d_model=D, **{"n_experts": E, **knobs})


def by_the_equations(x_TD, weight_ED, capacity):
    """Section 3.2 of the paper for one group, in float64: (T, E) of combination weights, 0 where not chosen."""
    scores = [[sum(a * b for a, b in zip(x, w, strict=True)) for w in weight_ED] for x in x_TD]
    chosen = [[torch.zeros((), dtype=torch.float64) for _ in weight_ED] for _ in x_TD]
    shares = []
    for row in scores:
        exponentials = [s.exp() for s in row]
        shares.append([e / sum(exponentials) for e in exponentials])
    for e in range(len(weight_ED)):
        ranked = sorted(range(len(x_TD)), key=lambda t: shares[t][e].item(), reverse=True)
        for t in ranked[:capacity]:
            chosen[t][e] = shares[t][e]
    return torch.stack([torch.stack(row) for row in chosen])


def test_two_experts_share_four_tokens_of_one_mind():
    """All four prefer expert 0, which takes the two that want it most; expert 1 takes the two that mind it least."""
    router = explorer.build("expert-choice", d_model=2, n_experts=2, k=1)
    with torch.no_grad():
        router.score.weight.copy_(torch.eye(2))
    x = torch.tensor([[[9.0, 1.0], [8.0, 2.0], [7.0, 3.0], [6.0, 4.0]]]).log()
    weights, index = router(x)
    assert index.tolist() == [[[0, -1], [0, -1], [-1, 1], [-1, 1]]]
    assert_close(weights, torch.tensor([[[0.9, 0], [0.8, 0], [0, 0.3], [0, 0.4]]]))
    router.k = 0.5  # one token each: the two in the middle get nothing
    assert router(x)[1].tolist() == [[[0, -1], [-1, -1], [-1, -1], [-1, 1]]]
    assert router.auxiliary is None


@pytest.mark.parametrize("group, capacity", [("batch", 8), ("sequence", 3)])
def test_outputs_and_gradients_follow_the_equations(group, capacity):
    """C = 21 * 2 / 5 = 8.4 for the batch, 7 * 2 / 5 = 2.8 for a sequence, rounded."""
    router = build(group=group)
    x = torch.randn(B, T, D, requires_grad=True)
    weights, index = router(x)
    x_slow = x.detach().double().requires_grad_()
    w_slow = router.score.weight.detach().double().requires_grad_()
    parts = [x_slow.reshape(1, -1, D)[0]] if group == "batch" else list(x_slow)
    slow = torch.cat([by_the_equations(part, w_slow, capacity) for part in parts]).view(B, T, E)
    assert torch.equal(index >= 0, slow > 0)
    assert torch.equal(index, torch.where(slow > 0, torch.arange(E), -1))
    assert_close(weights.double(), slow, atol=1e-6, rtol=1e-5)
    upstream = torch.randn(B, T, E)
    (weights * upstream).sum().backward()
    (slow * upstream.double()).sum().backward()
    assert_close(x.grad.double(), x_slow.grad, atol=1e-6, rtol=1e-4)
    assert_close(router.score.weight.grad.double(), w_slow.grad, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("k", [0.1, 0.5, 1, 2, 3.3, 5])
def test_every_expert_takes_the_same_number_of_tokens(k):
    router = build(k=k)
    _, index = router(torch.randn(4, 16, D))
    load = counts(index, E)
    assert load.tolist() == [max(1, round(64 * k / E))] * E
    assert max_violation(load) == 0


def test_some_tokens_get_several_experts_and_some_none():
    _, index = build(n_experts=8, k=1, group="sequence")(torch.randn(16, 64, D))
    experts = (index >= 0).sum(-1)
    assert experts.min() == 0 and experts.max() >= 3
    assert experts.float().mean() == 1


def test_it_is_not_causal():
    """Another ending changes who was chosen at the beginning, in both kinds of group; token choice is not moved."""
    x = torch.randn(B, T, D)
    other = x.clone()
    other[:, 4:] = 3 * torch.randn(B, T - 4, D)
    for group in ("batch", "sequence"):
        router = build(group=group)
        assert not torch.equal(router(x)[1][:, :4], router(other)[1][:, :4])
    control = explorer.build("topk-softmax", d_model=D, n_experts=E)
    assert torch.equal(control(x)[1][:, :4], control(other)[1][:, :4])
    assert any("NOT CAUSAL" in pitfall for pitfall in explorer.spec("expert-choice").pitfalls)
    assert "NOT CAUSAL" in explorer.spec("expert-choice").source


def test_a_single_token_goes_to_every_expert():
    weights, index = build()(torch.randn(1, 1, D))
    assert index.tolist() == [[list(range(E))]]
    assert_close(weights.sum(), torch.tensor(1.0))


def test_layer_adds_up_what_the_experts_make_of_the_tokens_they_took():
    router = build()
    layer = MixtureOfExperts(router, Experts(D, E, 12))
    x = torch.randn(B, T, D)
    weights, _ = router(x)
    single = [layer.experts(x, torch.ones(B, T, 1), torch.full((B, T, 1), e)) for e in range(E)]
    assert_close(layer(x), sum(weights[..., e, None] * single[e] for e in range(E)), atol=1e-5, rtol=1e-4)
