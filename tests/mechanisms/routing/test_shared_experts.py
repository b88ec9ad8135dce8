import pytest
import torch
from torch.testing import assert_close

import explorer
from explorer.metrics import load_balancing_loss

B, T, D, E, K, F = 3, 5, 12, 7, 3, 10


def test_one_shared_and_one_of_two_by_hand():
    """Width 1, D = 2: an expert is silu(gate) * up times a row. Probabilities .75 and .25; x = (ln 3, 0)."""
    layer = explorer.build("shared-experts", d_model=2, n_experts=2, k=1, shared=1, width=1, aux_loss=1.0)
    x = torch.tensor([[[3.0, 0.0]]]).log1p()  # (ln 4, 0)
    with torch.no_grad():
        layer.score.weight.copy_(torch.tensor([[1.0, 0.0], [0.0, 1.0]]))  # odds 4 to 1
        layer.up.fill_(0)
        layer.up[0, 0] = torch.tensor([1.0, 2.0])  # gate = x, up = 2x
        layer.down[0] = torch.tensor([[10.0, 0.0]])
        layer.shared_up.copy_(torch.tensor([[1.0, 1.0], [0.0, 0.0]]))  # gate = x, up = x
        layer.shared_down.copy_(torch.tensor([[0.0, 1.0]]))
    silu = x[0, 0, 0] * 4 / 5  # x * sigmoid(ln 4)
    y = layer(x)
    assert_close(y[0, 0, 0], 0.8 * silu * 2 * x[0, 0, 0] * 10)  # the routed expert, times its probability 0.8
    assert_close(y[0, 0, 1], silu * x[0, 0, 0])  # the shared one, in full
    assert_close(layer.auxiliary, torch.tensor(2 * 0.8))
    layer.shared_weight = 0.0
    assert layer(x)[0, 0, 1] == 0


@pytest.mark.parametrize("shared", [1, 2])
def test_outputs_and_all_gradients_agree_with_deepseek(shared):
    from transformers.models.deepseek_v2 import modeling_deepseek_v2
    from transformers.models.deepseek_v2.configuration_deepseek_v2 import DeepseekV2Config

    config = DeepseekV2Config(
        hidden_size=D, num_attention_heads=1, num_key_value_heads=1,
        moe_intermediate_size=F, n_routed_experts=E, num_experts_per_tok=K, n_shared_experts=shared,
        topk_method="greedy", routed_scaling_factor=1.0,
    )  # fmt: skip
    config._experts_implementation = "eager"
    theirs = modeling_deepseek_v2.DeepseekV2Moe(config)
    ours = explorer.build("shared-experts", d_model=D, n_experts=E, k=K, shared=shared, width=F, aux_loss=0)
    gate, up = ours.shared_up.detach().T.chunk(2)
    with torch.no_grad():
        theirs.gate.weight.copy_(ours.score.weight)
        theirs.experts.gate_up_proj.copy_(ours.up.transpose(1, 2))
        theirs.experts.down_proj.copy_(ours.down.transpose(1, 2))
        theirs.shared_experts.gate_proj.weight.copy_(gate)
        theirs.shared_experts.up_proj.weight.copy_(up)
        theirs.shared_experts.down_proj.weight.copy_(ours.shared_down.T)
    x_ours = torch.randn(B, T, D, requires_grad=True)
    x_theirs = x_ours.detach().clone().requires_grad_()
    upstream = torch.randn(B, T, D)
    y_ours, y_theirs = ours(x_ours), theirs(x_theirs)
    assert_close(y_ours, y_theirs)
    (y_ours * upstream).sum().backward()
    (y_theirs * upstream).sum().backward()
    shared_up = torch.cat([theirs.shared_experts.gate_proj.weight.grad, theirs.shared_experts.up_proj.weight.grad])
    assert_close(x_ours.grad, x_theirs.grad, atol=1e-5, rtol=1e-4)
    for mine, other in (
        (ours.score.weight.grad, theirs.gate.weight.grad),
        (ours.up.grad, theirs.experts.gate_up_proj.grad.transpose(1, 2)),
        (ours.down.grad, theirs.experts.down_proj.grad.transpose(1, 2)),
        (ours.shared_up.grad, shared_up.T),
        (ours.shared_down.grad, theirs.shared_experts.down_proj.weight.grad.T),
    ):
        assert_close(mine, other, atol=1e-5, rtol=1e-4)


def test_the_balancing_loss_knows_the_routed_experts_alone():
    layer = explorer.build("shared-experts", d_model=D, n_experts=E, k=K, aux_loss=0.5)
    with explorer.record(layer) as seen:
        layer(torch.randn(B, T, D))
    assert_close(layer.auxiliary, 0.5 * load_balancing_loss(seen.last("/probs"), seen.last("/index")))
    assert seen.last("/weights").sum(-1).max() < 1  # not renormalised


def test_without_a_shared_expert_it_is_the_routed_sum_alone():
    layer = explorer.build("shared-experts", d_model=D, n_experts=E, k=K, shared=0)
    x = torch.randn(B, T, D)
    y = layer(x)
    layer.shared_weight = 5.0
    assert torch.equal(layer(x), y)


def test_half_precision_scores_in_float32():
    layer = explorer.build("shared-experts", d_model=16, n_experts=E, k=K, width=16).to(torch.bfloat16)
    with explorer.record(layer) as seen:
        y = layer(torch.randn(B, T, 16, dtype=torch.bfloat16))
    assert y.dtype == torch.bfloat16 and seen.last("/probs").dtype == torch.float32
