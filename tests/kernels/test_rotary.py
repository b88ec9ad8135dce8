import pytest
import torch

from explorer.kernels import rotary as module
from explorer.kernels.rotary import rotary


@pytest.fixture(autouse=True)
def _no_tables():
    """Every test begins without kept tables, whatever ran before."""
    for thing in vars(module).values():
        if hasattr(thing, "cache_clear"):
            thing.cache_clear()


def turned(x: torch.Tensor, base: float) -> torch.Tensor:
    """The definition: channels i and i + d/2 are a complex number, turned by t * base ** (-2 i / d). In float64."""
    T, d = x.shape[-2:]
    angle = torch.outer(torch.arange(T).double(), base ** (-torch.arange(0, d, 2).double() / d))
    z = torch.complex(*x.double().chunk(2, -1)) * torch.polar(torch.ones_like(angle), angle)
    return torch.cat([z.real, z.imag], -1)


@pytest.mark.parametrize("T, d, base", [(1, 2, 1e4), (7, 8, 1e4), (63, 12, 500.0), (7, 6, 1e6)])
def test_each_pair_of_channels_is_turned_by_its_position(T, d, base):
    x = torch.randn(3, 2, T, d)
    torch.testing.assert_close(rotary(x, base).double(), turned(x, base), atol=1e-5, rtol=0)


def test_agrees_with_transformers_in_outputs_and_gradients():
    from transformers.models.llama.modeling_llama import LlamaConfig, LlamaRotaryEmbedding, apply_rotary_pos_emb

    B, H, T, d = 3, 2, 7, 12
    q, k = (torch.randn(B, H, T, d, requires_grad=True) for _ in "qk")
    upstream = torch.randn(2, B, H, T, d)
    rotation = LlamaRotaryEmbedding(LlamaConfig(hidden_size=H * d, num_attention_heads=H, head_dim=d))
    cos, sin = rotation(q, torch.arange(T)[None])
    theirs = torch.stack(apply_rotary_pos_emb(q, k, cos, sin))
    theirs_grad = torch.autograd.grad(theirs, (q, k), upstream)
    ours = torch.stack([rotary(q), rotary(k)])
    torch.testing.assert_close(ours, theirs, atol=2e-6, rtol=0)
    for one, other in zip(torch.autograd.grad(ours, (q, k), upstream), theirs_grad, strict=True):
        torch.testing.assert_close(one, other, atol=2e-6, rtol=0)


def test_gradient_is_the_numerical_one():
    x = torch.randn(2, 5, 4, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(rotary, (x,)) and torch.autograd.gradgradcheck(rotary, (x,))


def test_scores_depend_on_the_distance_only():
    q, k = torch.randn(2, 8)
    rows = rotary(torch.stack([q.expand(9, 8), k.expand(9, 8)]))
    scores = rows[0] @ rows[1].T
    torch.testing.assert_close(scores[5, 2], scores[8, 5], atol=1e-5, rtol=0)
    torch.testing.assert_close(rows.norm(dim=-1), torch.stack([q.norm(), k.norm()])[:, None].expand(2, 9))


def test_a_table_made_in_inference_mode_serves_training():
    with torch.inference_mode():
        rotary(torch.randn(2, 7, 8))
    x = torch.randn(2, 7, 8, requires_grad=True)
    rotary(x).pow(2).sum().backward()
    assert x.grad.isfinite().all()


def test_a_table_made_of_fake_tensors_is_not_kept():
    from torch._subclasses.fake_tensor import FakeTensorMode

    with FakeTensorMode():
        rotary(torch.randn(2, 7, 8))
    assert type(rotary(torch.randn(2, 7, 8))) is torch.Tensor


def test_lengths_dtypes_and_devices_do_not_mix():
    x = torch.randn(1, 9, 8)
    whole = rotary(x)
    for T in (1, 4, 9, 2):
        torch.testing.assert_close(rotary(x[:, :T]), whole[:, :T], atol=0, rtol=0)
    for dtype, error in ((torch.float64, 1e-5), (torch.bfloat16, 0.05), (torch.float16, 0.01)):
        y = rotary(x.to(dtype))
        assert y.dtype == dtype and (y.double() - whole.double()).abs().max() < error
    assert rotary(torch.empty(1, 9, 8, device="meta")).is_meta
    assert torch.equal(rotary(x), whole)


@pytest.mark.parametrize("backend", ["eager", "aot_eager"])
def test_compiles_in_one_graph_while_the_length_grows(backend, recwarn):
    torch._dynamo.reset()
    compiled = torch.compile(rotary, fullgraph=True, backend=backend)
    for T in (7, 9, 12):
        x = torch.randn(2, T, 8, requires_grad=True)
        y = compiled(x)
        y.pow(2).sum().backward()
        torch.testing.assert_close(y, rotary(x))
    assert not [w for w in recwarn if "lru_cache" in str(w.message)]
