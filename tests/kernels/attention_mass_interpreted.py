"""The GPU kernels in Triton's interpreter on the CPU, held to the definition in outputs, statistics and gradients.

Run by test_attention_mass_triton.py, with TRITON_INTERPRET=1 from the start of the process: Triton settles it on import.
"""

import pytest
import torch

from explorer.kernels.attention_mass import Rule, attention_map, attention_mass, triton_path

SIZES = [  # B, H, T, S, d
    (1, 1, 1, 1, 16), (2, 3, 7, 7, 16), (1, 3, 65, 65, 24), (1, 1, 130, 130, 64), (1, 2, 5, 70, 16), (1, 2, 64, 64, 3),
]  # fmt: skip


def given(B, H, T, S, d, sink=False, dtype=torch.float32):
    generator = torch.Generator().manual_seed(T + d)
    made = [torch.randn(B, H, n, d, generator=generator).to(dtype).requires_grad_() for n in (T, S, S)]
    return made, torch.randn(H, generator=generator).requires_grad_() if sink else None


def exact(tensors, sink, rule, upstream):
    """Output and gradients by the map, in float64."""
    inputs = [one.detach().double().requires_grad_() for one in (*tensors, *([] if sink is None else [sink]))]
    rule = rule._replace(sink=None if sink is None else inputs[3])
    y = attention_map(inputs[0], inputs[1], rule) @ inputs[2]
    return y, torch.autograd.grad(y, inputs, upstream.double())


@pytest.mark.parametrize("sink", [False, True])
@pytest.mark.parametrize("causal", [True, False])
@pytest.mark.parametrize("size", SIZES)
def test_outputs_statistics_and_gradients(size, causal, sink):
    (q, k, v), sink_H = given(*size, sink=sink)
    rule, heard = Rule(causal, sink=sink_H), []
    y, lse, first = triton_path.attention(q, k, v, rule, on_mass=heard.append)
    upstream = torch.randn(y.shape, generator=torch.Generator().manual_seed(0))
    grads = torch.autograd.grad(y, [q, k, v, *([sink_H] if sink else [])], upstream)
    wanted_y, wanted_grads = exact((q, k, v), sink_H, rule, upstream)
    torch.testing.assert_close(y.double(), wanted_y, atol=1e-5, rtol=0)
    for name, one, other in zip(("dq", "dk", "dv", "dsink"), grads, wanted_grads, strict=False):
        torch.testing.assert_close(one.double(), other, atol=1e-5, rtol=1e-5, msg=name)
    mass = triton_path.mass(q, k, lse, first, rule)
    double = rule._replace(sink=None if sink_H is None else sink_H.double())
    definition = attention_mass(q.double(), k.double(), "reference", double)
    for name, one, other in zip(definition._fields, mass, definition[:5], strict=False):
        torch.testing.assert_close(one.double(), other, atol=1e-5, rtol=0, equal_nan=True, msg=name)
    torch.testing.assert_close(heard[0].double(), definition.received, atol=1e-5, rtol=0)


def test_half_precision():
    """float16; of bfloat16 the interpreter multiplies the bits."""
    dtype = torch.float16
    (q, k, v), _ = given(1, 2, 33, 33, 16, dtype=dtype)
    y, lse, first = triton_path.attention(q, k, v, Rule())
    upstream = torch.randn(y.shape, generator=torch.Generator().manual_seed(0)).to(dtype)
    grads = torch.autograd.grad(y, [q, k, v], upstream)
    wanted_y, wanted_grads = exact((q, k, v), None, Rule(), upstream)
    assert y.dtype == dtype and {g.dtype for g in grads} == {dtype}
    for one, other in zip((y, *grads), (wanted_y, *wanted_grads), strict=True):
        torch.testing.assert_close(one.double(), other, atol=0.05, rtol=0.02)
    received = triton_path.mass(q, k, lse, first, Rule())[0]
    torch.testing.assert_close(received, attention_mass(q, k, "reference").received, atol=1e-5, rtol=0)


def test_large_scores_a_scale_of_ones_own_and_a_bias_beside_a_sink():
    (q, k, v), sink_H = given(1, 2, 20, 20, 16, sink=True)
    rule = Rule(scale=8.0, sink=sink_H, bias=1.5)
    y, lse, first = triton_path.attention(q, k, v, rule)
    torch.testing.assert_close(y, attention_map(q, k, rule) @ v, atol=1e-4, rtol=0)
    definition = attention_mass(q.detach(), k.detach(), "reference", rule)
    for one, other in zip(triton_path.mass(q, k, lse, first, rule), definition[:5], strict=True):
        torch.testing.assert_close(one, other, atol=1e-4, rtol=0)


def test_a_number_that_is_none_reaches_only_those_who_see_it():
    (q, k, v), _ = given(1, 1, 40, 40, 16)
    with torch.no_grad():
        k[0, 0, 30] = torch.nan
    y, lse, first = triton_path.attention(q, k, v, Rule())
    assert y[:, :, :30].isfinite().all() and y[:, :, 30:].isnan().all()
    assert triton_path.mass(q, k, lse, first, Rule())[0].isnan().all()


@pytest.mark.parametrize("rule", [Rule(weights="sigmoid"), Rule(mask=torch.ones(4, 4).bool())])
def test_what_the_kernels_cannot_do_they_are_not_asked(rule):
    q = torch.randn(1, 1, 4, 8)
    assert not triton_path.usable(q, q, q, Rule())  # not on CUDA
    cuda = type("Cuda", (), {"is_cuda": True, "dtype": torch.float32, "shape": q.shape, "numel": q.numel})()
    assert triton_path.usable(cuda, q, q, Rule())
    assert not triton_path.usable(cuda, q, q, rule)
    assert not triton_path.usable(cuda, q, torch.randn(1, 1, 4, 9), Rule())
