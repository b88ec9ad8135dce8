import math

import pytest
import torch
from torch.nn.functional import gelu, normalize
from torch.testing import assert_close

import explorer

B, T, D, E, P, F = 3, 5, 12, 7, 2, 8


def build(**knobs):
    return explorer.build("soft-moe", d_model=D, **{"n_experts": E, "slots_per_expert": P, "width": F, **knobs})


def test_two_tokens_and_two_slots_by_hand():
    """Orthogonal tokens, scale ln 3: slot 0 is 3/4 of token 0 and 1/4 of token 1; expert 0 doubles, expert 1 does nothing."""
    layer = explorer.build(
        "soft-moe", d_model=2, n_experts=2, slots_per_expert=1, scale=math.log(3), width=2, activation="linear"
    )
    with torch.no_grad():
        layer.phi.copy_(5 * torch.eye(2))  # its length does not matter
        layer.up.copy_(torch.stack([torch.eye(2), torch.zeros(2, 2)]))
        layer.down.copy_(2 * torch.eye(2).expand(2, 2, 2))
    x = torch.tensor([[[4.0, 0.0], [0.0, 8.0]]])
    with explorer.record(layer) as seen:
        y = layer(x)
    assert_close(seen.last("/probs"), torch.tensor([[[0.75, 0.25], [0.25, 0.75]]]))
    assert seen.last("/index").tolist() == [[[0, 1], [0, 1]]]
    # slot 0: 3/4 (4, 0) + 1/4 (0, 8) = (3, 2), doubled (6, 4); token 0 takes 3/4 of it, token 1 a quarter
    assert_close(y, torch.tensor([[[4.5, 3.0], [1.5, 1.0]]]))


def test_outputs_and_all_gradients_agree_with_soft_moe_pytorch():
    """It norms the tokens by an RMS norm also for the mixing, so both are given tokens that are normed already."""
    from soft_moe_pytorch import SoftMoE

    theirs = SoftMoE(D, num_experts=E, num_slots=P, expert_mult=1, geglu=True)  # hidden width 2/3 of D
    ours = build(scale=float(D), activation="geglu")
    with torch.no_grad():
        theirs.slot_embeds.copy_(ours.phi.T.view(E, P, D))
        for e, expert in enumerate(theirs.experts.experts):
            gate, up = ours.up[e].T.chunk(2)
            expert[0].weight.copy_(torch.cat([up, gate]))  # they gate the first half by the second
            expert[0].bias.zero_()
            expert[3].weight.copy_(ours.down[e].T)
            expert[3].bias.zero_()
    z_ours = torch.randn(B, T, D, requires_grad=True)
    z_theirs = z_ours.detach().clone().requires_grad_()
    y_ours = ours(normalize(z_ours, dim=-1) * D**0.5)
    y_theirs = theirs(normalize(z_theirs, dim=-1) * D**0.5)
    assert_close(y_ours, y_theirs, atol=1e-5, rtol=1e-4)
    upstream = torch.randn(B, T, D)
    (y_ours * upstream).sum().backward()
    (y_theirs * upstream).sum().backward()
    assert_close(z_ours.grad, z_theirs.grad, atol=1e-4, rtol=1e-3)
    assert_close(ours.phi.grad.T.view(E, P, D), theirs.slot_embeds.grad, atol=1e-4, rtol=1e-3)
    for e, expert in enumerate(theirs.experts.experts):
        up, gate = expert[0].weight.grad.chunk(2)
        assert_close(ours.up.grad[e].T, torch.cat([gate, up]), atol=1e-4, rtol=1e-3)
        assert_close(ours.down.grad[e].T, expert[3].weight.grad, atol=1e-4, rtol=1e-3)


def by_the_equations(layer, x_BTD):
    """Algorithm 1 of the paper in float64, slot by slot and token by token; GEGLU experts. Differentiable."""
    phi, up, down, size = (p.double() for p in (layer.phi, layer.up, layer.down, layer.size))
    result = []
    for x_TD in x_BTD:
        score = [[size * (x / x.norm()) @ (phi[:, s] / phi[:, s].norm()) for s in range(E * P)] for x in x_TD]
        out = []
        for s in range(E * P):
            share = [score[t][s].exp() for t in range(len(x_TD))]
            slot = sum(w * x for w, x in zip(share, x_TD, strict=True)) / sum(share)
            gate, value = (slot @ up[s // P]).chunk(2)
            out.append((gelu(gate) * value) @ down[s // P])
        for t in range(len(x_TD)):
            share = [score[t][s].exp() for s in range(E * P)]
            result.append(sum(w * o for w, o in zip(share, out, strict=True)) / sum(share))
    return torch.stack(result).view(x_BTD.shape)


@pytest.mark.parametrize("scale", [1.0, 10.0])
def test_outputs_and_gradients_follow_the_equations(scale):
    layer = build(scale=scale, activation="geglu")
    x = torch.randn(B, T, D, dtype=torch.float64, requires_grad=True)
    x_slow = x.detach().clone().requires_grad_()
    upstream = torch.randn(B, T, D)
    y, slow = layer(x.float()), by_the_equations(layer, x_slow)
    assert_close(y.double(), slow, atol=1e-5, rtol=1e-4)
    parameters = list(layer.parameters())
    fast = torch.autograd.grad((y * upstream).sum(), [x, *parameters])
    true = torch.autograd.grad((slow * upstream).sum(), [x_slow, *parameters])
    for one, other in zip(fast, true, strict=True):
        assert_close(one, other, atol=1e-4, rtol=1e-3)


def test_a_single_token_fills_every_slot():
    layer = build()
    x = torch.randn(1, 1, D)
    each = torch.stack([build_expert(layer, e, x[0, 0]) for e in range(E)])
    with explorer.record(layer) as seen:
        y = layer(x)
    assert_close(y[0, 0], (seen.last("/probs")[0, 0, :, None] * each).sum(0), atol=1e-5, rtol=1e-4)


def build_expert(layer, e, x_D):
    gate, up = (x_D @ layer.up[e]).chunk(2)
    return (torch.nn.functional.silu(gate) * up) @ layer.down[e]


def test_sequences_do_not_mix_and_nan_stays_in_its_own():
    layer, x = build().eval(), torch.randn(B, T, D)
    y = layer(x)
    x[1, 2] = torch.nan
    spoilt = layer(x)
    assert spoilt[1].isnan().all()
    assert_close(spoilt[[0, 2]], y[[0, 2]])


def test_an_edited_weight_counts():
    layer, x = build(), torch.randn(B, T, D)
    with explorer.edit(layer, "/weights", torch.zeros_like):
        assert layer(x).abs().max() == 0


def test_half_precision_scores_in_float32():
    layer = explorer.build("soft-moe", d_model=16, n_experts=E).to(torch.bfloat16)
    with explorer.record(layer) as seen:
        y = layer(torch.randn(B, T, 16, dtype=torch.bfloat16))
    assert y.dtype == torch.bfloat16 and seen.last("/probs").dtype == torch.float32
