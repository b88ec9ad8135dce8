import math

import pytest
import torch

import explorer

B, T, D = 3, 7, 24


def same(ours, theirs, name, atol=5e-6):
    torch.testing.assert_close(ours, theirs, atol=atol, rtol=1e-5, msg=lambda message: f"{name}: {message}")


def qwen3_next(module):
    """transformers' Qwen3NextAttention, eager, with our weights, and the call that gives it rotation and a causal mask.

    It differs from the paper's G1 in two ways, both taken out: its norms of queries and keys are replaced by the
    identity, and its partial rotation turns all channels. Its q_proj holds, head by head, the query's rows and then the
    gate's.
    """
    from transformers.models.qwen3_next.modeling_qwen3_next import (
        Qwen3NextAttention,
        Qwen3NextConfig,
        Qwen3NextRotaryEmbedding,
    )

    H, d = module.n_heads, D // module.n_heads
    rope = {"rope_type": "default", "rope_theta": module.rope_base, "partial_rotary_factor": 1.0}
    config = Qwen3NextConfig(
        hidden_size=D, num_attention_heads=H, num_key_value_heads=H, head_dim=d, rope_parameters=rope
    )
    config._attn_implementation = "eager"
    theirs, rotation = Qwen3NextAttention(config, 0), Qwen3NextRotaryEmbedding(config)
    theirs.q_norm = theirs.k_norm = torch.nn.Identity()
    q, k, v = module.qkv.weight.detach().chunk(3)
    gate = module.gate.weight.detach().view(H, -1, D).expand(H, d, D)  # headwise: one row stands for all of its head
    with torch.no_grad():
        theirs.q_proj.weight.copy_(torch.cat([q.view(H, d, D), gate], 1).reshape(-1, D))
        theirs.k_proj.weight.copy_(k)
        theirs.v_proj.weight.copy_(v)
        theirs.o_proj.weight.copy_(module.out.weight)

    def call(x):
        mask = torch.full((T, T), -torch.inf).triu(1)[None, None]
        cos, sin = rotation(x, torch.arange(T)[None])
        assert cos.shape[-1] == d
        return theirs(x, (cos, sin), mask)[0]

    return theirs, call


@pytest.mark.parametrize("granularity", ["elementwise", "headwise"])
@pytest.mark.parametrize("n_heads", [2, 3])
def test_agrees_with_qwen3_next_in_outputs_and_gradients(n_heads, granularity):
    torch.manual_seed(n_heads)
    ours = explorer.build("gated-attention", d_model=D, n_heads=n_heads, granularity=granularity)
    theirs, call = qwen3_next(ours)
    x, upstream = torch.randn(B, T, D), torch.randn(B, T, D)
    ours_x, theirs_x = x.clone().requires_grad_(), x.clone().requires_grad_()
    ours_y, theirs_y = ours(ours_x), call(theirs_x)
    same(ours_y, theirs_y, "output")
    ours_y.backward(upstream)
    theirs_y.backward(upstream)
    same(ours_x.grad, theirs_x.grad, "input gradient")
    same(ours.out.weight.grad, theirs.o_proj.weight.grad, "output projection")
    q_grad, k_grad, v_grad = ours.qkv.weight.grad.chunk(3)
    same(k_grad, theirs.k_proj.weight.grad, "key projection")
    same(v_grad, theirs.v_proj.weight.grad, "value projection")
    theirs_q, theirs_gate = theirs.q_proj.weight.grad.view(n_heads, 2, D // n_heads, D).unbind(1)
    same(q_grad, theirs_q.reshape(D, D), "query projection")
    theirs_gate = theirs_gate.sum(1) if granularity == "headwise" else theirs_gate.reshape(D, D)
    same(ours.gate.weight.grad, theirs_gate, "gate projection")


def built_by_hand(granularity, gate):
    """Two heads of width 2, every projection the identity, except for the gate's."""
    module = explorer.build("gated-attention", d_model=4, n_heads=2, granularity=granularity)
    with torch.no_grad():
        module.qkv.weight.copy_(torch.eye(4).repeat(3, 1))
        module.out.weight.copy_(torch.eye(4))
        module.gate.weight.copy_(torch.tensor(gate))
    return module


def test_gates_by_hand():
    """One token (1, 2, 3, 4) attends to itself, so that each head says its own two channels, times its gate."""
    x = torch.tensor([[[1.0, 2.0, 3.0, 4.0]]])
    shut, half, ajar = 0.0, 0.5, 1 / (1 + math.exp(-3))  # of logits -90, 0 and 3
    headwise = built_by_hand("headwise", [[3.0, 0, 0, 0], [-90.0, 0, 0, 0]])
    torch.testing.assert_close(headwise(x)[0, 0], torch.tensor([ajar, 2 * ajar, shut, shut]))
    elementwise = built_by_hand("elementwise", [[0.0] * 4, [0, 0, 1.0, 0], [-90.0, 0, 0, 0], [0.0] * 4])
    with explorer.record(elementwise, "*/gate") as recording:
        y = elementwise(x)
    torch.testing.assert_close(y[0, 0], torch.tensor([half, 2 * ajar, shut, 4 * half]))
    torch.testing.assert_close(recording.last("/gate"), torch.tensor([[[[half, ajar], [shut, half]]]]))


@pytest.mark.parametrize("granularity, width", [("elementwise", 12), ("headwise", 1)])
def test_the_gate_tap_has_the_same_axes_for_both_granularities(granularity, width):
    module = explorer.build("gated-attention", d_model=D, n_heads=2, granularity=granularity)
    with explorer.record(module, "*/gate") as recording:
        module(torch.randn(B, T, D))
    gate = recording.last("/gate")
    assert gate.shape == (B, T, 2, width) and gate.min() > 0 and gate.max() < 1
    assert recording.gates()["mean"].item() == pytest.approx(gate.mean().item(), rel=1e-5)


@pytest.mark.parametrize("granularity", ["elementwise", "headwise"])
def test_gates_forced_open_leave_softmax_attention_and_forced_shut_nothing(granularity):
    gated = explorer.build("gated-attention", d_model=D, n_heads=3, granularity=granularity)
    plain = explorer.build("softmax-attention", d_model=D, n_heads=3)
    plain.load_state_dict({name: value for name, value in gated.state_dict().items() if name != "gate.weight"})
    x = torch.randn(B, T, D)
    with explorer.edit(gated, "*/gate", torch.ones_like):
        torch.testing.assert_close(gated(x), plain(x))
    with explorer.edit(gated, "*/gate", torch.zeros_like):
        assert (gated(x) == 0).all()


def test_with_one_token_it_is_no_linear_map():
    """The paper's first reason: a nonlinearity between the value and the output projection.

    An ungated sequence of one token is x W_V W_O, which a least-squares fit finds exactly; a gated one is not.
    """
    from explorer.mechanisms.attention._gated_attention_claims import far_from_linear

    gated, ungated = far_from_linear(seed=0)
    assert ungated < 1e-20 and gated > 0.01


def test_gates_start_around_a_half():
    torch.manual_seed(0)
    module = explorer.build("gated-attention", d_model=256)
    gate = module.gate(torch.randn(1, 500, 256)).sigmoid()
    assert gate.mean().item() == pytest.approx(0.5, abs=0.02) and gate.std().item() == pytest.approx(0.21, abs=0.03)
