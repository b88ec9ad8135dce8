import math

import pytest
import torch

from explorer import metrics
from explorer.errors import UnknownName
from explorer.kernels.attention_mass import KERNELS, attention_map, attention_mass

FAST = sorted(set(KERNELS) - {"reference"})


def pair(B=3, H=2, T=7, d=12, scale=1.0, dtype=torch.float32):
    generator = torch.Generator().manual_seed(T + d)
    q, k = torch.randn(2, B, H, T, d, generator=generator).unbind()
    return (q * scale).to(dtype), (k * scale).to(dtype)


def test_reference_is_what_the_metrics_read_off_the_map():
    q, k = pair()
    A = attention_map(q, k)
    torch.testing.assert_close(A.sum(-1), torch.ones(3, 2, 7))
    assert A.triu(1).abs().max() == 0
    mass = attention_mass(q, k, "reference")
    torch.testing.assert_close(mass.received, metrics.received_mass(A))
    torch.testing.assert_close(mass.first.mean(0), metrics.first_token_share(A))
    entropy = -(A * A.clamp(min=1e-30).log()).sum(-1).mean(-1)
    torch.testing.assert_close(mass.entropy, entropy)


def test_even_attention_by_hand():
    """Three tokens without any preference: rows (1, 0, 0), (1/2, 1/2, 0) and (1/3, 1/3, 1/3)."""
    for kernel in KERNELS:
        mass = attention_mass(torch.zeros(1, 1, 3, 2), torch.randn(1, 1, 3, 2), kernel)
        torch.testing.assert_close(mass.received[0, 0], torch.tensor([11 / 18, 5 / 12, 1 / 3]))
        torch.testing.assert_close(mass.first, torch.tensor([[5 / 12]]))
        torch.testing.assert_close(mass.entropy, torch.tensor([[math.log(6) / 3]]))


@pytest.mark.parametrize("kernel", FAST)
@pytest.mark.parametrize("T, d, scale", [(7, 12, 1), (2, 2, 1), (63, 6, 1), (64, 4, 1), (65, 4, 1), (200, 16, 3)])
def test_fast_paths_are_exact(kernel, T, d, scale):
    q, k = pair(T=T, d=d, scale=scale)
    fast, slow = attention_mass(q, k, kernel), attention_mass(q.double(), k.double(), "reference")
    for name in ("received", "first", "entropy"):
        torch.testing.assert_close(getattr(fast, name).double(), getattr(slow, name), atol=1e-5, rtol=0, msg=name)


@pytest.mark.parametrize("kernel", FAST)
def test_exact_where_one_key_takes_everything(kernel):
    q, k = pair(T=90, d=4)
    k[:, :, 0], q[..., 0] = torch.tensor([60.0, 0, 0, 0]), 2.0  # a score of 60 against a few: weights underflow
    fast, slow = attention_mass(q, k, kernel), attention_mass(q.double(), k.double(), "reference")
    assert fast.first.min() > 0.99
    for name in ("received", "first", "entropy"):
        torch.testing.assert_close(getattr(fast, name).double(), getattr(slow, name), atol=1e-5, rtol=0, msg=name)


def test_the_size_of_a_block_does_not_matter(monkeypatch):
    q, k = pair(T=50)
    whole = attention_mass(q, k, "reference")
    for scores in (1, 3 * 2 * 50 * 9):
        monkeypatch.setattr("explorer.kernels.attention_mass.blocks.SCORES", scores)
        for one, other in zip(attention_mass(q, k, "blocks")[:3], whole[:3], strict=True):
            torch.testing.assert_close(one, other, atol=1e-5, rtol=0)


def test_blocks_never_hold_the_map():
    """At T = 2048 and 4 heads the map is 64 MiB; no single allocation of the blocks comes near."""
    from torch.utils._python_dispatch import TorchDispatchMode

    class Largest(TorchDispatchMode):
        bytes = 0

        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            out = func(*args, **(kwargs or {}))
            if isinstance(out, torch.Tensor):
                self.bytes = max(self.bytes, out.untyped_storage().nbytes())
            return out

    q, k = pair(B=1, H=4, T=2048, d=8)
    with Largest() as largest:
        attention_mass(q, k, "blocks")
    assert largest.bytes <= 4 * 2**20


@pytest.mark.parametrize("kernel", KERNELS)
def test_one_token_gives_no_first_token_share(kernel):
    mass = attention_mass(*pair(T=1), kernel)
    assert (mass.received == 1).all() and mass.entropy.abs().max() < 1e-6 and mass.first.isnan().all()


@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_half_precision_is_read_in_float32(kernel, dtype):
    mass = attention_mass(*pair(T=33, dtype=dtype), kernel)
    assert {t.dtype for t in mass[:3]} == {torch.float64 if dtype == torch.float64 else torch.float32}
    assert all(t.isfinite().all() for t in mass[:3])


@pytest.mark.parametrize("kernel", KERNELS)
def test_nan_propagates(kernel):
    q, k = pair()
    k[0, 0, 3] = torch.nan
    mass = attention_mass(q, k, kernel)
    assert mass.received[0, 0].isnan().all() and mass.first[0, 0].isnan() and mass.entropy[0, 0].isnan()
    assert all(t[1:].isfinite().all() for t in mass[:3])


def test_no_gradient_flows_and_the_path_is_named():
    q, k = pair()
    mass = attention_mass(q.requires_grad_(), k)
    assert not any(t.requires_grad for t in mass[:3])
    assert mass.kernel == "attention_mass: blocks"
    with pytest.raises(UnknownName, match="did you mean 'blocks'"):
        attention_mass(q, k, "block")
