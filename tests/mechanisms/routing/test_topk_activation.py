import pytest
import torch
from torch import nn
from torch.testing import assert_close

import explorer
from explorer.errors import BadValue

B, T, D, F, K = 3, 5, 12, 17, 4


def layer(**knobs):
    return explorer.build("topk-activation", **{"d_model": D, "width": F, "k": K, **knobs})


def test_two_of_four_units():
    ours = layer(d_model=2, width=4, k=2)
    with torch.no_grad():
        ours.keys.copy_(torch.tensor([[1.0, 0.0], [0.0, 1.0], [1.0, 1.0], [-1.0, -1.0]]))
        ours.values.copy_(torch.tensor([[1.0, 0.0], [0.0, 1.0], [10.0, 0.0], [0.0, 10.0]]))
    with explorer.record(ours) as seen:
        y = ours(torch.tensor([[[2.0, 1.0], [-1.0, -3.0]]]))  # units 2 1 3 0, and 0 0 0 4
    assert_close(y, torch.tensor([[[32.0, 0.0], [0.0, 40.0]]]))
    assert seen.last("/index").tolist() == [[[2, 0], [3, -1]]]  # of the second token only one unit is positive
    assert seen.last("/weights").tolist() == [[[3.0, 2.0], [4.0, 0.0]]]


def test_ranked_by_contribution_a_long_value_row_wins():
    ours, x = layer(d_model=1, width=2, k=1, rank="contribution"), torch.ones(1, 1, 1)
    with torch.no_grad():
        ours.keys.copy_(torch.tensor([[2.0], [1.0]]))
        ours.values.copy_(torch.tensor([[1.0], [3.0]]))
    assert ours(x).item() == 3
    ours.rank = "activation"
    assert ours(x).item() == 2


def test_with_all_units_it_is_torchs_two_linear_layers():
    ours = layer(k=F)
    theirs = nn.Sequential(nn.Linear(D, F, bias=False), nn.ReLU(), nn.Linear(F, D, bias=False))
    with torch.no_grad():
        theirs[0].weight.copy_(ours.keys)
        theirs[2].weight.copy_(ours.values.T)
    x = torch.randn(B, T, D, requires_grad=True)
    upstream = torch.randn(B, T, D)
    y, y_theirs = ours(x), theirs(x)
    assert_close(y, y_theirs)
    (g_x, g_keys, g_values) = torch.autograd.grad((y * upstream).sum(), [x, ours.keys, ours.values])
    expected = torch.autograd.grad((y_theirs * upstream).sum(), [x, theirs[0].weight, theirs[2].weight])
    assert_close(g_x, expected[0])
    assert_close(g_keys, expected[1])
    assert_close(g_values, expected[2].T)


def slowly(x, keys, values, k, rank):
    """One token at a time, in float64."""
    x, keys, values = x.double(), keys.double(), values.double()
    rows = []
    for token in x.reshape(-1, D):
        u = [torch.relu(key @ token) for key in keys]
        score = [
            one.item() * (v.norm().item() if rank == "contribution" else 1) for one, v in zip(u, values, strict=True)
        ]
        best = sorted(range(F), key=lambda i: -score[i])[:k]
        rows.append(sum((u[i] * values[i] for i in best), torch.zeros(D, dtype=torch.float64)))
    return torch.stack(rows).view(B, T, D)


@pytest.mark.parametrize("rank", ["activation", "contribution"])
@pytest.mark.parametrize("k", [1, K, F])
def test_agrees_with_the_equations_in_outputs_and_gradients(k, rank):
    ours, x = layer(k=k, rank=rank), torch.randn(B, T, D, requires_grad=True)
    upstream, wanted = torch.randn(B, T, D), [x, ours.keys, ours.values]
    y, slow = ours(x), slowly(x, ours.keys, ours.values, k, rank)
    assert_close(y.double(), slow, rtol=1e-5, atol=1e-5)
    expected = torch.autograd.grad((slow * upstream).sum(), wanted)
    for one, other in zip(torch.autograd.grad((y * upstream).sum(), wanted), expected, strict=True):
        assert_close(one, other, rtol=1e-5, atol=1e-5)


def test_more_units_than_there_are():
    with pytest.raises(BadValue, match=r"k=18: it must be at most the number of hidden units, width=17"):
        layer(k=18)
    ours, x = layer(k=F), torch.randn(B, T, D)
    whole = ours(x)
    ours.k = 1000  # live: the limit is the whole layer
    assert torch.equal(ours(x), whole) and ours.slots == F


def test_an_edited_choice_is_the_one_computed():
    ours, x = layer(), torch.randn(B, T, D)
    with explorer.edit(ours, "*/index", lambda index: torch.full_like(index, -1)):
        assert (ours(x) == 0).all()


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
    assert seen.last("/index").min() >= -1 and seen.last("/index").max() < F
