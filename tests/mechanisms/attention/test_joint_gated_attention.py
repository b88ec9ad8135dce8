"""Joint gated attention: the whole block against loops, its attention against a published package, and who sees whom."""

import copy
import math
import sys
import types

import pytest
import torch
from torch.nn import functional as F

import explorer
from explorer.counting import count
from explorer.errors import BadValue
from explorer.kernels.rotary import rotary

B, T, D = 2, 11, 8


def built(**knobs):
    torch.manual_seed(0)
    module = explorer.build("joint-gated-attention", d_model=D, **{"group": 4, "width": 6, "conv": 5, **knobs})
    with torch.no_grad():
        for one in (module.offset, module.to_vu.linear.bias, module.to_z.linear.bias, module.out.linear.bias):
            one.normal_(std=0.5)
        for convm in (module.to_vu, module.to_z, module.out):
            convm.gain.fill_(1.3)
    return module


def slow_convm(convm, x, causal):
    """w_t + sum_j c_j w_{t + j - before}, one channel and place at a time."""
    length = convm.conv.kernel_size[0]
    w = []
    for row in x:
        normed = row / max(row.norm() / math.sqrt(len(row)), 1e-5) * convm.gain
        w.append(F.silu(convm.linear.weight @ normed + convm.linear.bias))
    w, before = torch.stack(w), length - 1 if causal else (length - 1) // 2
    rows = []
    for t in range(len(w)):
        places = [(j, t + j - before) for j in range(length) if 0 <= t + j - before < len(w)]
        rows.append(w[t] + sum(convm.conv.weight[:, 0, j] * w[s] for j, s in places))
    return torch.stack(rows)


def slow_reading(module, x_BTD):
    """The block in float64, a query and a key at a time."""
    g, causal, rows = module.group, module.causal, []
    half = x_BTD.shape[-1] // 2
    turn = 1e4 ** -(2 * torch.arange(module.width // 2).double() / module.width)

    def turned(vector, t):
        z = torch.complex(*vector.chunk(2)) * torch.exp(1j * t * turn)
        return torch.cat([z.real, z.imag])

    for given in x_BTD:
        x = torch.stack(
            [
                torch.cat([given[t - 1, :half] if t else torch.zeros(half).double(), given[t, half:]])
                for t in range(len(given))
            ]
        )
        vu, z = slow_convm(module.to_vu, x, causal), slow_convm(module.to_z, x, causal)
        each = [[turned(one * module.scale[i] + module.offset[i], t) for t, one in enumerate(z)] for i in range(4)]
        near_q, far_q, near_k, far_k = each
        moved = []
        for t in range(len(x)):
            own = t // g
            total = torch.zeros_like(vu[0])
            for s in range(len(x)):
                if s // g == own and (s <= t or not causal):
                    total = total + F.relu(near_q[t] @ near_k[s] / g) ** 2 * vu[s]
                if module.joint and (s // g < own or not causal):
                    total = total + (far_q[t] @ far_k[s]) / (g if causal else len(x)) * vu[s]
            moved.append(total)
        (v, u), (mv, mu) = vu.chunk(2, -1), torch.stack(moved).chunk(2, -1)
        mixed = (mu * v) * torch.sigmoid(mv * u) if module.gating == "triple" else mu + mv
        rows.append(slow_convm(module.out, mixed, causal))
    return torch.stack(rows)


@pytest.mark.parametrize("gating", ["triple", "none"])
@pytest.mark.parametrize("joint", [True, False])
@pytest.mark.parametrize("causal", [True, False])
def test_agrees_with_a_slow_reading_in_outputs_and_gradients(causal, joint, gating):
    module = built(causal=causal, joint=joint, gating=gating).double()
    x, upstream = torch.randn(B, T, D).double().requires_grad_(), torch.randn(B, T, D).double()
    pair = module(x), slow_reading(module, x)
    torch.testing.assert_close(*pair, atol=1e-5, rtol=1e-5)  # the rotation's angles are float32, as everywhere
    weights = [x, *module.parameters()]
    for one, other in zip(*(torch.autograd.grad(y, weights, upstream) for y in pair), strict=True):
        torch.testing.assert_close(one, other, atol=5e-5, rtol=1e-4)


@pytest.mark.parametrize("causal", [True, False])
@pytest.mark.parametrize("length", [3, 8, 11])
def test_its_attention_is_that_of_the_flash_package_in_outputs_and_gradients(monkeypatch, length, causal):
    """FLASH without norm, position bias, gate and residual; its own projections give way to ours."""
    monkeypatch.setitem(sys.modules, "rotary_embedding_torch", types.SimpleNamespace(RotaryEmbedding=None))
    FLASH = pytest.importorskip("flash_pytorch.flash_pytorch").FLASH
    module = built(causal=causal).double()
    z, s = torch.randn(B, length, 6).double().requires_grad_(), torch.randn(B, length, 32).double().requires_grad_()
    rotation = types.SimpleNamespace(rotate_queries_or_keys=rotary)
    theirs = FLASH(dim=32, group_size=4, query_key_dim=6, expansion_factor=1.0, causal=causal, rotary_pos_emb=rotation,
                   norm_klass=lambda _: torch.nn.Identity())  # fmt: skip
    del theirs.to_hidden, theirs.to_qk  # a module's place takes no function
    theirs.to_hidden = lambda x: torch.cat([x, torch.ones_like(x)], -1)
    theirs.to_qk = lambda _: z
    theirs.to_out = torch.nn.Identity()
    theirs.qk_offset_scale.gamma, theirs.qk_offset_scale.beta = module.scale, module.offset  # their orders are the same
    torch.nn.init.zeros_(theirs.rel_pos_bias.relative_attention_bias.weight)
    pair, upstream = (module.attend(z, s), theirs.double()(s) - s), torch.randn(B, length, 32).double()
    torch.testing.assert_close(*pair)
    weights = [z, s, module.scale, module.offset]
    for one, other in zip(*(torch.autograd.grad(y, weights, upstream) for y in pair), strict=True):
        torch.testing.assert_close(one, other)


def test_two_positions_by_hand():
    """One group of two, z = (1, 0), scales and no turn: near scores are 2 / 2 squared = 1, the far ones 2 . 1 / 2 = 1.

    Both positions get s_1 + s_2 from their group and as much from the row: (1 + 3) + (1 + 3) = 8.
    """
    module = explorer.build("joint-gated-attention", d_model=4, group=2, width=2, causal=False)
    with torch.no_grad():
        module.scale.copy_(torch.tensor([[2.0, 0.0], [1.0, 0.0], [1.0, 0.0], [1.0, 0.0]]))
    z, s = torch.tensor([[[1.0, 0.0]] * 2]), torch.tensor([[[1.0], [3.0]]])
    turned = math.cos(1.0)
    near = torch.tensor([1 + 3 * turned**2, turned**2 + 3])
    far = torch.tensor([(1 + 3 * turned) / 2, (turned + 3) / 2])
    torch.testing.assert_close(module.attend(z, s)[0, :, 0], near + far)


def reach(module, length=24):
    """(length, length): whether position t's output depends on position s."""
    x = torch.randn(1, length, D, requires_grad=True)
    rows = [torch.autograd.grad(module(x)[0, t].sum(), x)[0][0].abs().sum(-1) > 0 for t in range(length)]
    return torch.stack(rows)


@pytest.mark.parametrize("joint", [True, False])
def test_causal_no_position_sees_a_later_one(joint):
    assert not reach(built(joint=joint)).triu(1).any()


def test_without_the_far_branch_a_position_hears_its_group_and_what_convolution_and_shift_carry_over():
    seen = reach(built(joint=False, causal=False, conv=1))
    t, s = torch.arange(24)[:, None], torch.arange(24)
    group = (s // 4 == t // 4) | (s == t // 4 * 4 - 1)  # the shift brings the one before the group
    assert torch.equal(seen & ~group, torch.zeros_like(seen)) and (seen | ~group).float().mean() > 0.9
    assert reach(built(joint=True, causal=False, conv=1)).all()


def test_the_gate_is_the_sigmoid_branch_and_an_edit_is_obeyed():
    module, x = built(), torch.randn(B, T, D)
    with explorer.record(module, "*") as recording:
        y = module(x)
    gate = recording.last("/gate")
    assert gate.shape == (B, T, 2 * D) and gate.min() >= 0 and gate.max() <= 1 and gate.std() > 0.01
    with explorer.edit(module, "*/gate", torch.ones_like):
        assert (module(x) - y).abs().max() > 1e-3


@pytest.mark.parametrize("causal", [True, False])
def test_the_map_has_its_blocks_on_the_diagonal_and_an_edit_is_obeyed(causal):
    module, x = built(causal=causal), torch.randn(B, T, D)
    y = module(x)
    with explorer.record(module, ["*", "*/attention"]) as recording:
        module(x)
    whole = recording.last("/attention")
    own = torch.arange(T)[:, None] // 4 == torch.arange(T) // 4
    assert whole.shape == (B, 1, T, T) and (whole[:, :, ~own] == 0).all() and (whole[:, :, own] > 0).any()
    near = (whole[:, 0] @ module.to_vu(torch.cat([F.pad(x[..., :4], (0, 0, 1, -1)), x[..., 4:]], -1))).norm(dim=-1)
    torch.testing.assert_close(recording.last("/near"), near, atol=1e-5, rtol=1e-4)
    with explorer.edit(module, "*/attention", lambda A: A.clone()):
        torch.testing.assert_close(module(x), y, atol=1e-5, rtol=1e-4)
    with explorer.edit(module, "*/attention", torch.zeros_like), explorer.record(module, "*/near") as recording:
        module(x)
    assert (recording.last("/near") == 0).all()


@pytest.mark.parametrize("causal", [True, False])
def test_the_linear_map_is_what_the_far_branch_does(causal):
    module, x = built(causal=causal).double(), torch.randn(B, T, D).double()
    with explorer.record(module, ["*/far", "*/linear"]) as recording:
        module(x)
    values = module.to_vu(torch.cat([F.pad(x[..., :4], (0, 0, 1, -1)), x[..., 4:]], -1))
    torch.testing.assert_close(recording.last("/far"), (recording.last("/linear")[:, 0] @ values).norm(dim=-1))
    module.joint = False
    with explorer.record(module, "*/linear") as recording:
        module(x)
    assert (recording.last("/linear") == 0).all()


def test_padding_the_last_group_adds_nothing():
    """A row cut inside a group gives, causally, the same as the longer row, up to the cut."""
    module, x = built(), torch.randn(B, T, D)
    for length in range(1, T):
        torch.testing.assert_close(module(x[:, :length]), module(x)[:, :length], atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("size", [0.0, 1.0, 1e4])
def test_half_precision_silence_and_large_inputs_stay_finite(dtype, size):
    module = built().to(dtype)
    x = (size * torch.randn(B, T, D)).to(dtype).requires_grad_()
    y = module(x)
    y.float().square().mean().backward()
    assert y.dtype == dtype and y.isfinite().all() and x.grad.isfinite().all()


def test_nan_stays_in_its_sequence():
    x = torch.randn(B, T, D)
    x[0, 3, 5] = torch.nan
    y = built()(x)
    assert y[0, 3:].isnan().all() and y[1].isfinite().all()


def test_a_copy_and_a_reloaded_one_compute_the_same():
    module, x = built(), torch.randn(1, 1, D)
    other = explorer.build("joint-gated-attention", d_model=D, group=4, width=6, conv=5)
    other.load_state_dict(module.state_dict())
    assert torch.equal(module(x), copy.deepcopy(module)(x)) and torch.equal(module(x), other.eval()(x))


@pytest.mark.parametrize("knobs", [{"conv": 4}, {"width": 3}, {"expansion": 3}])
def test_what_cannot_be_is_refused(knobs):
    with pytest.raises(BadValue, match="odd, even and even"):
        explorer.build("joint-gated-attention", d_model=D, **knobs)


def test_flops_count_both_branches():
    module = built()
    joint = count(module, T).flops
    module.joint = False
    assert joint - count(module, T).flops == 2 * 2 * 6 * 32
