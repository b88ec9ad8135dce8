"""Every path of the expert computation against the loop over experts, which is the definition."""

import pytest
import torch
import torch.nn.functional as F
from torch.testing import assert_close

from explorer.errors import BadValue, ExplorerError, UnknownName
from explorer.kernels.experts import ACTIVATIONS, GATED, KERNELS, choose, experts
from explorer.models import Experts

N, D, E, K, WIDTH = 63, 60, 7, 3, 12


def weights_of(activation, width=WIDTH, d=D, d_out=None, n_experts=E, dtype=torch.float32):
    """(up, down) of random experts; no down for width None."""
    d_out = d if d_out is None else d_out
    hidden = d_out if width is None else width * (2 if activation in GATED else 1)
    up = torch.randn(n_experts, d, hidden, dtype=dtype) * d**-0.5
    down = None if width is None else torch.randn(n_experts, width, d_out, dtype=dtype) * width**-0.5
    return up, down


def routing(n=N, k=K, n_experts=E, empty=0.2):
    """(index, weights) with distinct experts a token and a share of empty slots."""
    index = torch.stack([torch.randperm(n_experts)[:k] for _ in range(n)])
    return index.masked_fill(torch.rand(n, k) < empty, -1), torch.rand(n, k)


def run(kernel, x, index, weights, up, down, activation):
    """(y, gradients of x, weights, up, down) for one upstream gradient."""
    leaves = [t.detach().clone().requires_grad_() for t in (x, weights, up, *(() if down is None else (down,)))]
    y = experts(leaves[0], index, leaves[1], leaves[2], leaves[3] if down is not None else None, activation, kernel)
    upstream = torch.randn(y.shape, generator=torch.Generator().manual_seed(5)).to(y.dtype)
    gradients = torch.autograd.grad((y * upstream).sum(), leaves, allow_unused=True)
    return y, [torch.zeros_like(leaf) if g is None else g for g, leaf in zip(gradients, leaves, strict=True)]


def agree(kernel, *case):
    slow, fast = run("loop", *case), run(kernel, *case)
    assert_close(fast[0], slow[0], atol=1e-5, rtol=1e-5)
    for name, ours, expected in zip(("x", "weights", "up", "down"), fast[1], slow[1], strict=False):
        assert_close(ours, expected, atol=2e-5, rtol=1e-4, msg=lambda text, name=name: f"d{name}: {text}")


FAST = [name for name in KERNELS if name != "loop"]


@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize("kernel", FAST)
def test_outputs_and_gradients_at_awkward_sizes(kernel, activation):
    agree(kernel, torch.randn(N, D), *routing(), *weights_of(activation), activation)


@pytest.mark.parametrize("kernel", FAST)
def test_experts_of_a_single_matrix(kernel):
    agree(kernel, torch.randn(N, D), *routing(), *weights_of("linear", width=None, d_out=8), "linear")


@pytest.mark.parametrize("kernel", FAST)
def test_nothing_empty(kernel):
    agree(kernel, torch.randn(N, D), *routing(empty=0), *weights_of("swiglu"), "swiglu")


@pytest.mark.parametrize("kernel", FAST)
@pytest.mark.parametrize("idle", [[0], [3], [6], [0, 1, 2, 3, 4, 5]])
def test_experts_without_a_token(kernel, idle):
    index, weights = routing()
    for e in idle:
        index[index == e] = -1
    agree(kernel, torch.randn(N, D), index, weights, *weights_of("geglu"), "geglu")


@pytest.mark.parametrize("kernel", KERNELS)
def test_all_slots_empty_give_zero_and_no_gradient(kernel):
    case = torch.randn(N, D), torch.full((N, K), -1), torch.rand(N, K), *weights_of("relu", d_out=8), "relu"
    y, gradients = run(kernel, *case)
    assert torch.equal(y, torch.zeros(N, 8))
    assert all((g == 0).all() for g in gradients)


@pytest.mark.parametrize("kernel", FAST)
def test_one_token(kernel):
    agree(kernel, torch.randn(1, D), torch.tensor([[4, -1, 2]]), torch.rand(1, 3), *weights_of("swiglu"), "swiglu")


@pytest.mark.parametrize("kernel", FAST)
def test_no_token(kernel):
    y = experts(
        torch.randn(0, D),
        torch.zeros(0, K, dtype=torch.long),
        torch.rand(0, K),
        *weights_of("swiglu"),
        "swiglu",
        kernel,
    )
    assert y.shape == (0, D)


@pytest.mark.parametrize("kernel", FAST)
def test_all_tokens_to_one_expert(kernel):
    index = torch.full((N, 1), 5)
    agree(kernel, torch.randn(N, D), index, torch.rand(N, 1), *weights_of("swiglu"), "swiglu")


@pytest.mark.parametrize("kernel", FAST)
def test_as_many_slots_as_experts(kernel):
    """The shape of expert choice: slot e holds expert e or nothing."""
    index = torch.where(torch.rand(N, E) < 0.3, torch.arange(E), -1)
    agree(kernel, torch.randn(N, D), index, torch.rand(N, E), *weights_of("swiglu"), "swiglu")


@pytest.mark.parametrize("kernel", KERNELS)
def test_the_weight_of_an_empty_slot_is_ignored(kernel):
    x, (up, down) = torch.randn(N, D), weights_of("swiglu")
    index, weights = routing(empty=0.5)
    loud = weights.masked_fill(index < 0, 1e6)
    assert_close(
        experts(x, index, loud, up, down, "swiglu", kernel), experts(x, index, weights, up, down, "swiglu", kernel)
    )


@pytest.mark.parametrize("kernel", KERNELS)
def test_two_experts_by_hand(kernel):
    """Expert 0 doubles, expert 1 negates; the weights mix them."""
    up = torch.stack([2 * torch.eye(4), -torch.eye(4)])
    x = torch.tensor([[1.0, 2, 3, 4]]).expand(3, 4)
    index, weights = torch.tensor([[0, 1], [1, -1], [-1, -1]]), torch.tensor([[0.75, 0.25], [0.5, 0.0], [0.0, 0.0]])
    y = experts(x, index, weights, up, None, "linear", kernel)
    assert_close(y, torch.tensor([[1.25], [-0.5], [0.0]]) * x)


def test_the_gate_comes_before_the_value():
    x = torch.randn(5, 8)
    (up, down), one = weights_of("swiglu", width=4, d=8, n_experts=1), torch.ones(5, 1)
    expected = (F.silu(x @ up[0, :, :4]) * (x @ up[0, :, 4:])) @ down[0]
    assert_close(experts(x, torch.zeros(5, 1, dtype=torch.long), one, up, down, "swiglu", "loop"), expected)


# -- the choice --------------------------------------------------------------------------------------------------------
def test_aligned_float32_takes_the_grouped_product():
    assert choose("auto", torch.randn(N, D), *weights_of("swiglu")) == "grouped_mm"
    assert choose("auto", torch.randn(N, D), *weights_of("linear", width=None, d_out=8)) == "grouped_mm"


@pytest.mark.parametrize("d, width, d_out", [(61, 12, 60), (60, 13, 60), (60, 12, 62), (60, None, 7), (62, None, 8)])
def test_widths_off_the_sixteen_byte_grid_take_the_loop(d, width, d_out):
    up, down = weights_of("relu", width, d, d_out)
    assert choose("auto", torch.randn(N, d), up, down) == "loop"
    y = experts(torch.randn(N, d), *routing(), up, down, "relu", choose("auto", torch.randn(N, d), up, down))
    assert y.shape == (N, d_out) and y.isfinite().all()


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16, torch.float16])
def test_the_chosen_path_runs_in_every_precision(dtype):
    """There is no grouped product of doubles: they take the loop."""
    x, (up, down) = torch.randn(N, 64, dtype=dtype), weights_of("swiglu", 16, 64, dtype=dtype)
    kernel = choose("auto", x, up, down)
    assert kernel == ("loop" if dtype == torch.float64 else "grouped_mm")
    index, weights = routing()
    y, gradients = run(kernel, x, index, weights.to(dtype), up, down, "swiglu")
    exact = run("loop", x.double(), index, weights.to(dtype).double(), up.double(), down.double(), "swiglu")
    tolerance = {torch.float64: 1e-12, torch.bfloat16: 0.05, torch.float16: 0.01}[dtype]
    for ours, expected in zip([y, *gradients], [exact[0], *exact[1]], strict=True):
        assert ours.dtype == dtype
        assert (ours.double() - expected).norm() <= tolerance * expected.norm()


def test_the_layer_reports_the_path_that_ran():
    layer = Experts(D, E, 12)
    index, weights = torch.zeros(2, 3, 1, dtype=torch.long), torch.ones(2, 3, 1)
    assert layer.kernel == "auto"
    layer(torch.randn(2, 3, D), weights, index)
    assert layer.kernel == "grouped_mm"
    layer.double()(torch.randn(2, 3, D).double(), weights.double(), index)
    assert layer.kernel == "loop"
    forced = Experts(D, E, 12, kernel="dense")
    forced(torch.randn(2, 3, D), weights, index)
    assert forced.kernel == "dense"
    odd = Experts(61, E, 13)
    odd(torch.randn(2, 3, 61), weights, index)
    assert odd.kernel == "loop"


def test_compiled_it_runs_dense_in_one_graph_and_says_so():
    layer = Experts(D, E, 12)
    index, weights = routing()
    x = torch.randn(N, D)
    expected = experts(x, index, weights, layer.up, layer.down, "swiglu", "loop")
    torch._dynamo.reset()
    compiled = torch.compile(layer, fullgraph=True, backend="eager")
    assert_close(compiled(x[None], weights[None], index[None])[0], expected, atol=1e-5, rtol=1e-5)
    assert layer.kernel == "dense"


def test_bad_requests_are_one_sentence():
    with pytest.raises(UnknownName, match="no expert kernel 'grouped'; did you mean 'grouped_mm'"):
        choose("grouped", torch.randn(N, D), *weights_of("relu"))
    with pytest.raises(ExplorerError, match="no expert activation 'swiglue'; did you mean 'swiglu'"):
        Experts(D, E, 12, activation="swiglue")
    for n_experts, width in ((0, 12), (E, 0)):
        with pytest.raises(BadValue, match="must be at least 1"):
            Experts(D, n_experts, width)
