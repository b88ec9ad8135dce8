import copy
import itertools
import math

import pytest
import torch
from torch.testing import assert_close

import explorer
from explorer.errors import BadValue

B, T, D, E = 3, 5, 12, 7
NAME = "dense-to-sparse"


def router(**knobs):
    return explorer.build(NAME, **{"d_model": D, "n_experts": E, **knobs})


def test_probabilities_of_one_and_three_at_two_temperatures():
    gate = router(d_model=2, n_experts=2, start=1.0, end=0.5, anneal_steps=1, threshold=0.0)
    with torch.no_grad():
        gate.score.weight.copy_(torch.eye(2))
    x = torch.tensor([[[0.0, math.log(3)]]])
    weights, index = gate(x)
    assert index.tolist() == [[[1, 0]]]
    assert_close(weights, torch.tensor([[[0.75, 0.25]]]))
    assert_close(gate(x)[0], torch.tensor([[[0.9, 0.1]]]))  # half the temperature squares the odds: 9 to 1
    gate.threshold = 0.2
    weights, index = gate(x)
    assert index.tolist() == [[[1, -1]]] and weights.tolist() == [[[1.0, 0.0]]]


def slowly(x, gate, step):
    """One token at a time, in float64: weights by expert (B, T, E), 0 for those left out."""
    tau = gate.start * math.exp(math.log(gate.end / gate.start) * min(1.0, step / gate.anneal_steps))
    rows = []
    for token in x.double().reshape(-1, D):
        scores = (gate.score.weight.double() @ token + gate.score.bias.double()) / tau
        p = torch.exp(scores - scores.max()) / torch.exp(scores - scores.max()).sum()
        kept = [e for e in range(E) if p[e] >= gate.threshold or p[e] == p.max()]
        total = sum(p[e] for e in kept)
        rows.append(torch.stack([p[e] / total if e in kept else p[e] * 0 for e in range(E)]))
    return torch.stack(rows).view(B, T, E)


@pytest.mark.parametrize("threshold", [0.0, 0.1, 1.0])
@pytest.mark.parametrize("step", [0, 3, 10, 25])
def test_agrees_with_the_equations_in_outputs_and_gradients(step, threshold):
    gate, x = router(anneal_steps=10, end=0.3, threshold=threshold), torch.randn(B, T, D, requires_grad=True)
    torch.nn.init.normal_(gate.score.bias)
    for _ in range(step):
        gate(torch.randn(1, 1, D))
    upstream = torch.randn(B, T, E)
    weights, index = gate(x)
    slot = torch.where(index < 0, E, index)  # to the order of experts; the last column collects the empty slots
    by_expert = torch.zeros(B, T, E + 1).scatter(-1, slot, weights)[..., :E]
    slow = slowly(x, gate, step)
    assert_close(by_expert.double(), slow, rtol=1e-5, atol=1e-5)
    wanted = [x, gate.score.weight, gate.score.bias]
    ours = torch.autograd.grad((by_expert * upstream).sum(), wanted)
    theirs = torch.autograd.grad((slow * upstream).sum(), wanted)
    for one, other in zip(ours, theirs, strict=True):
        assert_close(one, other, rtol=1e-4, atol=1e-4)


def test_only_training_advances_the_schedule_and_a_state_dict_keeps_it():
    gate, x = router(anneal_steps=10), torch.randn(B, T, D)
    gate.eval()
    assert_close(gate(x)[0], gate(x)[0], rtol=0, atol=0)
    assert gate.steps == 0
    gate.train()
    temperatures = []
    for _ in range(12):
        temperatures.append(gate.temperature().item())
        gate(x)
    assert temperatures[0] == 4 and temperatures[10] == pytest.approx(0.1) == temperatures[11]
    ratios = [b / a for a, b in itertools.pairwise(temperatures[:11])]
    assert ratios == pytest.approx([ratios[0]] * 10, rel=1e-5)  # geometric
    other = router(anneal_steps=10)
    other.load_state_dict(gate.state_dict())
    twin = copy.deepcopy(gate)
    for one in (other, twin):
        assert_close(one.eval()(x)[0], gate.eval()(x)[0], rtol=0, atol=0)


def test_equal_probabilities_keep_at_least_one_expert():
    gate = router(threshold=0.5)
    torch.nn.init.zeros_(gate.score.weight)
    weights, index = gate(torch.randn(B, T, D))
    assert ((index >= 0).sum(-1) == 1).all() and (weights.sum(-1) == 1).all()


@pytest.mark.parametrize("knob", ["start", "end"])
@pytest.mark.parametrize("value", [0, -1, float("nan"), float("inf")])
def test_a_temperature_must_be_positive(knob, value):
    with pytest.raises(BadValue, match=f"{knob}="):
        router(**{knob: value})


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
def test_other_precisions_keep_their_type(dtype):
    weights, _ = router().to(dtype)(torch.randn(B, T, D, dtype=dtype))
    assert weights.dtype == dtype and weights.isfinite().all()


def test_huge_logits_and_nan_at_the_lowest_temperature():
    gate, x = router(start=0.001, end=0.001), torch.randn(B, T, D)
    weights, _ = gate(1e4 * x)
    assert weights.isfinite().all() and (weights[..., 0] > 0.99).float().mean() > 0.9
    weights.square().sum().backward()
    assert gate.score.weight.grad.isfinite().all()
    x[0, 1] = torch.nan
    weights, index = gate(x)
    assert weights[0, 1].isnan().any() and weights.isnan().any(-1).sum() == 1
    assert index.min() >= -1 and index.max() < E
