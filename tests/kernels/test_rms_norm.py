"""RMS normalisation by way of torch's weight normalisation, against the formula."""

import copy

import pytest
import torch
import torch.nn.functional as F

from explorer.kernels.rms_norm import RMSNorm, rms_norm


def test_by_hand():
    x = torch.tensor([[3.0, 4.0], [0.0, -2.0]])  # root mean squares sqrt(12.5) and sqrt(2)
    weight = torch.tensor([1.0, 10.0])
    wanted = torch.tensor([[3 / 12.5**0.5, 40 / 12.5**0.5], [0.0, -20 / 2**0.5]])
    assert torch.allclose(rms_norm(x, weight), wanted)


@pytest.mark.parametrize("shape", [(1, 1, 1), (2, 63, 60), (1, 64, 64), (5, 7), (0, 4)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_it_agrees_with_torch_in_outputs_and_gradients(shape, dtype):
    torch.manual_seed(0)
    ours = [
        torch.randn(shape, dtype=dtype).mul(0.1).requires_grad_(),
        torch.randn(shape[-1], dtype=dtype).requires_grad_(),
    ]
    theirs = copy.deepcopy(ours)
    grad = torch.randn(shape, dtype=dtype)
    rms_norm(*ours).backward(grad)
    F.rms_norm(theirs[0], (shape[-1],), theirs[1], eps=0.0).backward(grad)
    assert torch.allclose(rms_norm(*ours), F.rms_norm(theirs[0], (shape[-1],), theirs[1], eps=0.0), rtol=1e-5)
    for a, b in zip(ours, theirs, strict=True):
        assert torch.allclose(a.grad, b.grad, rtol=1e-4, atol=1e-5)


def test_rows_may_lie_apart():
    x = torch.randn(3, 8, 5).transpose(1, 2)
    weight = torch.ones(8)
    assert torch.allclose(rms_norm(x, weight), rms_norm(x.contiguous(), weight))


def test_half_precision():
    x = torch.randn(4, 64, dtype=torch.bfloat16)
    assert torch.allclose(
        rms_norm(x, torch.ones(64, dtype=x.dtype)).float().square().mean(-1), torch.ones(4), atol=0.02
    )


def test_large_and_small_rows_come_out_alike():
    x = torch.randn(1, 64)
    weight = torch.ones(64)
    for scale in (1e-6, 1e6):
        assert torch.allclose(rms_norm(x * scale, weight), rms_norm(x, weight), rtol=1e-4)


def test_a_compiled_model_takes_the_kernel_of_torch():
    norm, x = RMSNorm(16), torch.randn(3, 16)
    compiled = torch.compile(norm, backend="eager", fullgraph=True)
    assert torch.allclose(compiled(x), norm(x), atol=1e-6)
