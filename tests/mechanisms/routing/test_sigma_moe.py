import math

import pytest
import torch
from torch.testing import assert_close

import explorer

B, T, D, E, K = 3, 5, 12, 7, 3


def router(**knobs):
    return explorer.build("sigma-moe", **{"d_model": D, "n_experts": E, "k": K, **knobs})


def test_scores_of_three_experts():
    gate = router(d_model=3, n_experts=3, k=2, expert_dropout=0, entropy_loss=2.0)
    with torch.no_grad():
        gate.score.weight.copy_(torch.eye(3))
    x = torch.tensor([[[math.log(3), 0.0, -math.log(3)]]])  # sigmoids 3/4 1/2 1/4; softmax over e^logit = 3, 1, 1/3
    weights, index = gate(x)
    assert index.tolist() == [[[0, 1]]]
    assert_close(weights, torch.tensor([[[0.75, 0.5]]]))  # not divided by their sum
    p = [9 / 13, 3 / 13, 1 / 13]
    assert_close(gate.auxiliary, torch.tensor(2 * sum(one * math.log(one) for one in p)))


def slowly(x, weight):
    """(weights, index, loss): the equations one token at a time, in float64."""
    x, weight = x.double(), weight.double()
    weights, index, mean = [], [], torch.zeros(E, dtype=torch.float64)
    for token in x.reshape(-1, D):
        logits = weight @ token
        scores = 1 / (1 + torch.exp(-logits))
        best = sorted(range(E), key=lambda e: -scores[e].item())[:K]
        weights.append(torch.stack([scores[e] for e in best]))
        index.append(best)
        mean = mean + torch.exp(logits) / torch.exp(logits).sum() / (B * T)
    return torch.stack(weights).view(B, T, K), torch.tensor(index).view(B, T, K), (mean * mean.log()).sum()


def test_agrees_with_the_equations_in_outputs_loss_and_gradients():
    gate, x = router(entropy_loss=0.7, expert_dropout=0), torch.randn(B, T, D, requires_grad=True)
    upstream = torch.randn(B, T, K)
    weights, index = gate(x)
    slow_weights, slow_index, slow_loss = slowly(x, gate.score.weight)
    assert torch.equal(index, slow_index)
    assert_close(weights.double(), slow_weights, rtol=1e-6, atol=1e-6)
    assert_close(gate.auxiliary.double(), 0.7 * slow_loss, rtol=1e-6, atol=1e-6)
    ours = torch.autograd.grad((weights * upstream).sum() + gate.auxiliary, [x, gate.score.weight])
    theirs = torch.autograd.grad((slow_weights * upstream).sum() + 0.7 * slow_loss, [x, gate.score.weight])
    for one, other in zip(ours, theirs, strict=True):
        assert_close(one, other, rtol=1e-5, atol=1e-6)


def test_dropout_shuts_experts_to_single_tokens_in_training_alone():
    gate, x = router(k=1, expert_dropout=0.25), torch.randn(1, 1, D).expand(1, 4000, D)
    best = gate.eval()(x)[1][0, 0, 0]
    assert (gate(x)[1] == best).all()
    weights, index = gate.train()(x)
    assert ((index == best).float().mean() - 0.75).abs() < 0.04  # four standard deviations
    assert_close(weights[index == best], gate.eval()(x)[0][index == best])  # not scaled up


def test_fewer_open_experts_than_slots_leave_slots_empty():
    weights, index = router(expert_dropout=1.0).train()(torch.randn(B, T, D))
    assert (index == -1).all() and (weights == 0).all()


def test_the_loss_is_lowest_when_the_mean_choice_is_even():
    gate = router(d_model=2, n_experts=2, k=1, entropy_loss=1.0)
    with torch.no_grad():
        gate.score.weight.copy_(torch.tensor([[20.0, 0.0], [0.0, 20.0]]))
    gate(torch.tensor([[[1.0, 0.0], [0.0, 1.0]]]))  # each token certain, the mean even
    assert_close(gate.auxiliary, torch.tensor(-math.log(2)))
    gate(torch.tensor([[[1.0, 0.0], [1.0, 0.0]]]))
    assert gate.auxiliary.item() == pytest.approx(0, abs=1e-6)


def test_rows_start_at_equal_length():
    assert_close(router().score.weight.norm(dim=-1), torch.ones(E))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
def test_other_precisions_keep_their_type(dtype):
    weights, _ = router().to(dtype)(torch.randn(B, T, D, dtype=dtype))
    assert weights.dtype == dtype and ((weights >= 0) & (weights <= 1)).all()


def test_huge_logits_and_nan():
    gate, x = router().eval(), torch.randn(B, T, D)
    weights, _ = gate(1e6 * x)
    assert weights.isfinite().all()
    gate.auxiliary.backward()
    assert gate.score.weight.grad.isfinite().all()
    x[0, 1] = torch.nan
    weights, index = gate(x)
    assert weights[0, 1].isnan().all() and (weights.isnan().any(-1).sum() == 1)
    assert index.min() >= 0 and index.max() < E
