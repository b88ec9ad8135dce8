import pytest
import torch
from torch import nn
from torch.testing import assert_close

import explorer

B, T, D, E, K, G = 3, 5, 12, 7, 3, 4


def layer(**knobs):
    return explorer.build("avg-k", **{"d_model": D, "n_experts": E, "k": K, "width": G, **knobs})


def test_two_blocks_of_two_cells():
    ours = layer(d_model=2, n_experts=2, k=1, width=2)
    with torch.no_grad():
        ours.keys.copy_(torch.tensor([[[4.0, -2.0], [0.0, 0.0]], [[1.0, 2.0], [0.0, 0.0]]]))  # block, input, cell
        ours.values.copy_(torch.tensor([[[1.0, 0.0], [0.0, 1.0]], [[1.0, 1.0], [2.0, 2.0]]]))
    with explorer.record(ours) as seen:
        y = ours(torch.tensor([[[1.0, 0.0], [-1.0, 0.0]]]))
    # cells excite 4, -2 and 1, 2: means 1 and 1.5, though the largest cell is in the first block; negated: -1 and -1.5
    assert seen.last("/logits").tolist() == [[[1.0, 1.5], [-1.0, -1.5]]]
    assert seen.last("/index").tolist() == [[[1], [0]]]
    assert y.tolist() == [[[1 * 1 + 2 * 2, 1 * 1 + 2 * 2], [0.0, 2.0]]]


def test_with_all_blocks_it_is_torchs_two_linear_layers():
    ours, x, upstream = layer(k=E), torch.randn(B, T, D, requires_grad=True), torch.randn(B, T, D)
    theirs = nn.Sequential(nn.Linear(D, E * G, bias=False), nn.ReLU(), nn.Linear(E * G, D, bias=False))
    with torch.no_grad():
        theirs[0].weight.copy_(ours.keys.transpose(1, 2).reshape(E * G, D))
        theirs[2].weight.copy_(ours.values.reshape(E * G, D).T)
    y, y_theirs = ours(x), theirs(x)
    assert_close(y, y_theirs)
    got = torch.autograd.grad((y * upstream).sum(), [x, ours.keys, ours.values])
    expected = torch.autograd.grad((y_theirs * upstream).sum(), [x, theirs[0].weight, theirs[2].weight])
    assert_close(got[0], expected[0])
    assert_close(got[1].transpose(1, 2).reshape(E * G, D), expected[1])
    assert_close(got[2].reshape(E * G, D), expected[2].T)


def slowly(x, keys, values):
    """One token at a time, in float64."""
    x, keys, values = x.double(), keys.double(), values.double()
    rows, chosen = [], []
    for token in x.reshape(-1, D):
        cells = [[keys[e, :, j] @ token for j in range(G)] for e in range(E)]
        best = sorted(range(E), key=lambda e: -sum(cells[e]).item() / G)[:K]
        rows.append(sum(torch.relu(cells[e][j]) * values[e, j] for e in best for j in range(G)))
        chosen.append(best)
    return torch.stack(rows).view(B, T, D), torch.tensor(chosen).view(B, T, K)


def test_agrees_with_the_equations_in_choice_outputs_and_gradients():
    ours, x, upstream = layer(), torch.randn(B, T, D, requires_grad=True), torch.randn(B, T, D)
    with explorer.record(ours) as seen:
        y = ours(x)
    slow, chosen = slowly(x, ours.keys, ours.values)
    assert torch.equal(seen.last("/index"), chosen)
    assert_close(y.double(), slow, rtol=1e-5, atol=1e-5)
    wanted = [x, ours.keys, ours.values]
    expected = torch.autograd.grad((slow * upstream).sum(), wanted)
    for one, other in zip(torch.autograd.grad((y * upstream).sum(), wanted), expected, strict=True):
        assert_close(one, other, rtol=1e-5, atol=1e-5)


def test_the_mean_key_moves_with_its_cells():
    ours, x = layer(k=1), torch.randn(1, 1, D)
    with torch.no_grad():
        ours.keys[4] += 100 * x[0, 0, :, None]
    with explorer.record(ours) as seen:
        ours(x)
    assert seen.last("/index").item() == 4


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
def test_other_precisions_keep_their_type(dtype):
    y = layer().to(dtype)(torch.randn(B, T, D, dtype=dtype))
    assert y.dtype == dtype and y.isfinite().all()


def test_nan_stays_with_its_token_and_huge_inputs_stay_finite():
    ours, x = layer(), torch.randn(B, T, D)
    assert ours(1e4 * x).isfinite().all()
    x[1, 2, 3] = torch.nan
    with explorer.record(ours) as seen:
        y = ours(x)
    assert y[1, 2].isnan().all() and y.isnan().any(-1).sum() == 1
    assert seen.last("/index").min() >= 0 and seen.last("/index").max() < E
