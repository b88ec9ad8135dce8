import copy

import pytest
import torch
from torch.testing import assert_close

import explorer
from explorer.mechanisms.routing._kmeans_gating_claims import greedy
from explorer.mechanisms.routing.kmeans_gating import kmeans, least_squares

B, T, D, E = 3, 5, 12, 7


def router(**knobs):
    return explorer.build("kmeans-gating", **{"d_model": D, "n_experts": E, **knobs})


def two_heaps():
    """(1, 8, 1): four points around -2 and four around 6."""
    return torch.tensor([-3.0, -2.0, -2.0, -1.0, 5.0, 6.0, 6.0, 7.0])[None, :, None]


def test_two_heaps_on_a_line():
    gate = router(d_model=1, n_experts=2, every=1)
    gate.centres.copy_(torch.tensor([[0.0], [1.0]]))
    weights, index = gate.train()(two_heaps())
    assert gate.centres.tolist() == [[-2.0], [6.0]]
    # least squares through (x, 1 or 0): slope -sum (x-2)(y-.5) / sum (x-2)^2 = -16 / 132, value 0.5 at x = 2
    assert_close(gate.weight, torch.tensor([[-16 / 132], [16 / 132]]), rtol=1e-3, atol=1e-4)
    assert_close(gate.bias, torch.tensor([0.5 + 32 / 132, 0.5 - 32 / 132]), rtol=1e-3, atol=1e-4)
    assert index[0, :, 0].tolist() == [0, 0, 0, 0, 1, 1, 1, 1] and (weights == 1).all()


def slow_kmeans(x, centres, iterations, tolerance):
    """Point by point, in float64."""
    x, centres = x.double(), [c.clone() for c in centres.double()]
    for _ in range(iterations):
        cluster = [min(range(len(centres)), key=lambda e: (p - centres[e]).abs().mean().item()) for p in x]
        members = [[p for p, c in zip(x, cluster, strict=True) if c == e] for e in range(len(centres))]
        new = [sum(m) / len(m) if m else centres[e] for e, m in enumerate(members)]
        moved = max((a - b).abs().max().item() for a, b in zip(new, centres, strict=True))
        centres = new
        if moved < tolerance:
            break
    return torch.stack(centres), cluster, moved < tolerance and all(members)


@pytest.mark.parametrize("iterations", [1, 3, 50])
def test_kmeans_agrees_with_the_slow_reading(iterations):
    x, start = torch.randn(60, D), torch.randn(E, D)
    centres, cluster, settled = kmeans(x, start, iterations, 1e-3)
    slow_centres, slow_cluster, slow_settled = slow_kmeans(x, start, iterations, 1e-3)
    assert cluster.tolist() == slow_cluster and settled == slow_settled
    assert_close(centres.double(), slow_centres, rtol=1e-5, atol=1e-5)


def test_least_squares_solves_the_normal_equations():
    x, expert = torch.randn(50, D), torch.randint(E, (50,))
    weight, bias = least_squares(x, expert, E)
    X = torch.cat([x, torch.ones(50, 1)], 1).double()
    Y = torch.nn.functional.one_hot(expert, E).double()
    W = torch.linalg.inv(X.T @ X) @ X.T @ Y
    assert_close(torch.cat([weight.T, bias[None]]).double(), W, rtol=1e-2, atol=1e-3)  # the noise is 1e-4


def test_the_choice_is_the_best_row_of_the_gate():
    gate, x = router().eval(), torch.randn(B, T, D)
    weights, index = gate(x)
    for b in range(B):
        for t in range(T):
            scores = [(gate.weight[e].double() @ x[b, t].double() + gate.bias[e]).item() for e in range(E)]
            assert index[b, t].tolist() == [max(range(E), key=scores.__getitem__)]
    assert (weights == 1).all()


def test_only_training_learns_every_so_many_steps_and_a_state_dict_keeps_it():
    gate = router(d_model=1, n_experts=2, every=3)
    gate.centres.copy_(torch.tensor([[0.0], [1.0]]))
    before = copy.deepcopy(gate.state_dict())
    gate.eval()(two_heaps())
    assert all(torch.equal(before[name], value) for name, value in gate.state_dict().items())
    fits = []
    for _ in range(6):
        old = gate.weight.clone()
        gate.train()(two_heaps())
        fits.append(not torch.equal(old, gate.weight))
    assert fits == [True, False, False, True, False, False] and gate.steps == 6
    other = router(d_model=1, n_experts=2)
    other.load_state_dict(gate.state_dict())
    assert torch.equal(other.eval()(two_heaps())[1], gate.eval()(two_heaps())[1])


@pytest.mark.parametrize("x", [torch.zeros(B, T, D), torch.ones(1, 1, D), torch.full((B, T, D), torch.nan)])
def test_an_unsound_fit_is_skipped(x):
    """Equal points or a single one leave clusters empty; NaN has no cluster."""
    gate = router(every=1).train()
    before = gate.weight.clone()
    weights, index = gate(x)
    assert torch.equal(gate.weight, before) and gate.centres.isfinite().all()
    assert index.min() >= 0 and index.max() < E
    assert weights.isnan().all() == x.isnan().any()


def test_unsettled_centres_move_on_but_leave_the_gate():
    gate, x = router(every=1, iterations=1).train(), torch.randn(1, 200, D)
    before = gate.weight.clone(), gate.centres.clone()
    gate(x)
    assert torch.equal(gate.weight, before[0]) and not torch.equal(gate.centres, before[1])


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
def test_other_precisions_keep_their_type(dtype):
    weights, _ = router(every=1).to(dtype).train()(torch.randn(B, 40, D, dtype=dtype))
    assert weights.dtype == dtype and weights.isfinite().all()


def test_huge_inputs_and_nan_in_evaluation():
    gate, x = router().eval(), torch.randn(B, T, D)
    assert gate(1e4 * x)[0].isfinite().all()
    x[0, 1, 2] = torch.nan
    weights, index = gate(x)
    assert weights[0, 1].isnan().all() and weights.isnan().sum() == 1 and index.max() < E


def test_clusters_take_the_best_expert_that_is_left():
    loss = torch.tensor([[1.0, 2.0, 9.0], [1.0, 3.0, 9.0], [0.0, 5.0, 6.0], [9.0, 0.0, 0.0]])
    cluster = torch.tensor(
        [0, 0, 1, 2]
    )  # medians: expert 0 for the first two clusters; the second has to take expert 1
    assert greedy(loss, cluster).tolist() == [0, 1, 2]
