import pytest
import torch
from torch.testing import assert_close

import explorer
from explorer.errors import BadValue
from explorer.mechanisms.routing.product_key_memory import best_pairs

B, T, D, M, H, K = 3, 5, 12, 7, 3, 4


def layer(**knobs):
    return explorer.build("product-key-memory", **{"d_model": D, "memories": M * M, "heads": H, "k": K, **knobs})


def test_four_slots_by_hand():
    """One head, m = 2: scores a + b of the pairs (0,0) (0,1) (1,0) (1,1)."""
    ours = layer(d_model=2, memories=4, heads=1, k=2)
    with torch.no_grad():
        ours.query.weight.copy_(torch.eye(2))  # both halves of the query are one number
        ours.half_keys.copy_(torch.tensor([[[[1.0], [-1.0]]], [[[2.0], [0.5]]]]))  # a = 1, -1; b = 2, 0.5
        ours.values.copy_(torch.tensor([[1.0, 0.0], [0.0, 1.0], [5.0, 5.0], [7.0, 7.0]]))
    x = torch.tensor([[[3.0, 1.0]]])  # scores 3 + 2, 3 + 0.5, -3 + 2, -3 + 0.5
    with explorer.record(ours) as seen:
        y = ours(x)
    assert seen.last("/index").tolist() == [[[0, 1]]] and seen.last("/weights").tolist() == [[[5.0, 3.5]]]
    assert_close(y, torch.tensor([[[5.0, 3.5]]]))
    ours.activation = "softmax"
    share = torch.tensor([5.0, 3.5]).softmax(-1)
    assert_close(ours(x), share[None, None])


def test_a_negative_score_is_an_empty_slot_behind_relu():
    ours = layer(d_model=2, memories=4, heads=1, k=4)
    with torch.no_grad():
        ours.query.weight.copy_(torch.eye(2))
        ours.half_keys.copy_(torch.tensor([[[[1.0], [-1.0]]], [[[2.0], [0.5]]]]))
    with explorer.record(ours) as seen:
        ours(torch.tensor([[[3.0, 1.0]]]))
    assert seen.last("/index").tolist() == [[[0, 1, -1, -1]]]


@pytest.mark.parametrize("m, k", [(7, 3), (7, 7), (7, 20), (32, 8), (1, 1)])
def test_the_search_is_exact(m, k):
    a, b = torch.randn(2, 50, m)
    sums = (a[:, :, None] + b[:, None, :]).flatten(1)
    assert_close(sums.gather(-1, best_pairs(a, b, k)), sums.topk(k).values)


@pytest.mark.parametrize("activation", ["relu", "softmax"])
def test_agrees_with_the_package_in_outputs_and_gradients(activation):
    theirs = pytest.importorskip("product_key_memory").PKM(
        D, heads=H, num_keys=M, topk=K, dim_head=D // 2, non_competitive_gates=activation == "relu"
    )
    theirs.norm = torch.nn.Identity()  # ours leaves the queries as they are
    ours = layer(activation=activation)
    with torch.no_grad():
        theirs.to_queries.weight.copy_(ours.query.weight)
        theirs.keys.copy_(ours.half_keys.permute(1, 2, 0, 3))  # half, head, key -> head, key, half
        theirs.values.weight.copy_(ours.values)
    x_ours = torch.randn(B, T, D, requires_grad=True)
    x_theirs = x_ours.detach().clone().requires_grad_()
    y_ours, y_theirs = ours(x_ours), theirs(x_theirs)
    assert_close(y_ours, y_theirs)
    upstream = torch.randn(B, T, D)
    (y_ours * upstream).sum().backward()
    (y_theirs * upstream).sum().backward()
    assert_close(x_ours.grad, x_theirs.grad)
    assert_close(ours.query.weight.grad, theirs.to_queries.weight.grad)
    assert_close(ours.half_keys.grad.permute(1, 2, 0, 3), theirs.keys.grad)
    assert_close(ours.values.grad, theirs.values.weight.grad)


def slowly(x, ours):
    """One token and head at a time over all m * m slots, in float64."""
    x, query, keys, values = (one.double() for one in (x, ours.query.weight, ours.half_keys, ours.values))
    half, m, rows = keys.shape[-1], keys.shape[-2], []
    for token in x.reshape(-1, x.shape[-1]):
        y = torch.zeros(x.shape[-1], dtype=torch.float64)
        for h in range(ours.heads):
            q_a, q_b = (query[(p * ours.heads + h) * half :][:half] @ token for p in range(2))
            score = {i * m + j: keys[0, h, i] @ q_a + keys[1, h, j] @ q_b for i in range(m) for j in range(m)}
            best = sorted(score, key=lambda n: -score[n].item())[: ours.k]
            top = torch.stack([score[n] for n in best])
            for weight, n in zip(top.relu() if ours.activation == "relu" else top.softmax(0), best, strict=True):
                y = y + weight * values[n]
        rows.append(y)
    return torch.stack(rows).view(x.shape)


@pytest.mark.parametrize("activation", ["relu", "softmax"])
@pytest.mark.parametrize("d_model, k", [(12, 4), (9, 1), (9, 49)])
def test_agrees_with_the_equations_in_outputs_and_gradients(activation, d_model, k):
    ours = layer(d_model=d_model, activation=activation, k=k)
    x = torch.randn(2, 3, d_model, requires_grad=True)
    upstream, wanted = torch.randn(2, 3, d_model), [x, *ours.parameters()]
    y, slow = ours(x), slowly(x, ours)
    assert_close(y.double(), slow, rtol=1e-5, atol=1e-5)
    expected = torch.autograd.grad((slow * upstream).sum(), wanted)
    for one, other in zip(torch.autograd.grad((y * upstream).sum(), wanted), expected, strict=True):
        assert_close(one, other, rtol=1e-4, atol=1e-5)


def test_sizes_that_do_not_fit():
    with pytest.raises(BadValue, match=r"memories=1000: it must be a square number, such as 961 or 1024"):
        layer(memories=1000)
    with pytest.raises(BadValue, match=r"k=10: it must be at most the number of slots, memories=9"):
        layer(memories=9, k=10)
    assert layer(memories=9, k=9)(torch.randn(B, T, D)).isfinite().all()  # more than the three half-keys


def test_reads_of_a_slot_by_several_heads_add_up_in_probs():
    ours = layer()
    with explorer.record(ours) as seen:
        ours(torch.randn(B, T, D))
    assert_close(seen.last("/probs").sum(-1), seen.last("/weights").sum(-1))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
def test_other_precisions_keep_their_type(dtype):
    y = layer().to(dtype)(torch.randn(B, T, D, dtype=dtype))
    assert y.dtype == dtype and y.isfinite().all()


@pytest.mark.parametrize("activation", ["relu", "softmax"])
def test_nan_stays_with_its_token_and_huge_inputs_stay_finite(activation):
    ours, x = layer(activation=activation), torch.randn(B, T, D)
    assert ours(1e4 * x).isfinite().all()
    x[1, 2, 3] = torch.nan
    with explorer.record(ours) as seen:
        y = ours(x)
    assert y[1, 2].isnan().all() and y.isnan().any(-1).sum() == 1
    assert seen.last("/index").min() >= -1 and seen.last("/index").max() < M * M
