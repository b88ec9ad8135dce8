"""AdvMoE against the equations, read slowly in float64: one image, one pixel, one filter at a time."""

import pytest
import torch

import explorer
from explorer.kernels.ascent import divergence
from explorer.mechanisms.routing._adversarial_moe_claims import under_attack
from explorer.mechanisms.routing.adversarial_moe import shape_of, straight_through

B, T, D, M, C = 2, 3, 6, 3, 2


def build(d_model=D, **knobs):
    torch.manual_seed(0)
    return explorer.build("adversarial-moe", d_model=d_model, **{"n_experts": M, "channels": C, **knobs})


def convolve(image_CHW, filters_OC33):
    """Every output pixel by itself; beyond the edges the image is 0."""
    channels, rows, columns = len(image_CHW), *image_CHW[0].shape

    def pixel(kernel, i, j):
        return sum(
            kernel[c, a + 1, b + 1] * image_CHW[c][i + a, j + b]
            for c in range(channels) for a in (-1, 0, 1) for b in (-1, 0, 1)
            if 0 <= i + a < rows and 0 <= j + b < columns
        )  # fmt: skip

    out = [pixel(kernel, i, j) for kernel in filters_OC33 for i in range(rows) for j in range(columns)]
    return torch.stack(out).view(len(filters_OC33), rows, columns)


def slow(p, x):
    """(y, index) of images of 2 x 3 pixels in float64; here pooling to 2 x 3 (or, the router's, 2 x 2) is by hand."""
    rows, chosen = [], []
    for image in x.reshape(-1, 1, 2, 3):
        seen = convolve(image, p["gate.look"]).clamp(min=0)
        pooled = torch.stack([(seen[..., 0] + seen[..., 1]) / 2, (seen[..., 1] + seen[..., 2]) / 2], -1).flatten()
        centred = pooled - pooled.mean()
        logits = (centred / (centred.square().mean() + 1e-5).sqrt()) @ p["gate.score"]
        probs = logits.exp() / logits.exp().sum()
        e = int(probs.argmax())
        gates = [(m == e) + probs[m] - probs[m].detach() for m in range(M)]
        h = image
        for name in ("first", "second"):
            groups = convolve(h, p[name]).view(M, C, 2, 3)
            h = sum(gate * group for gate, group in zip(gates, groups, strict=True)).clamp(min=0)
        rows.append(p["classes.weight"] @ h.flatten() + p["classes.bias"])
        chosen.append(e)
    return torch.stack(rows).view_as(x), torch.tensor(chosen).view(*x.shape[:2], 1)


def test_outputs_and_gradients_follow_the_equations():
    module = build(robust_loss=0.0)
    x = torch.randn(B, T, D, requires_grad=True)
    p = {name: one.detach().double().requires_grad_() for name, one in module.named_parameters()}
    x_slow = x.detach().double().requires_grad_()
    with explorer.record(module) as seen:
        y = module(x)
    expected, index = slow(p, x_slow)
    assert torch.equal(seen.last("gate/index"), index) and len(index.unique()) > 1
    torch.testing.assert_close(y.double(), expected, atol=1e-5, rtol=1e-5)
    upstream = torch.randn(y.shape)
    (y * upstream).sum().backward()
    (expected * upstream.double()).sum().backward()
    torch.testing.assert_close(x.grad.double(), x_slow.grad, atol=1e-5, rtol=1e-4)
    for name, one in module.named_parameters():
        torch.testing.assert_close(
            one.grad.double(), p[name].grad, atol=1e-5, rtol=1e-4, msg=lambda m, n=name: f"{n}: {m}"
        )


def test_the_straight_through_gate_by_hand():
    """Probabilities 1/4 and 3/4: forward 0 and 1, backward the softmax's own slope, +-3/16."""
    logits = torch.tensor([[[1.0, 3.0]]]).log().requires_grad_()
    gate = straight_through(logits)
    assert gate.tolist() == [[[0.0, 1.0]]]
    gate[..., 1].sum().backward()
    torch.testing.assert_close(logits.grad, torch.tensor([[[-3 / 16, 3 / 16]]]))


def test_the_divergence_by_hand():
    """KL of (1/2, 1/2) from (1/4, 3/4): (ln 2 + ln 2/3) / 2 = 0.1438."""
    clean, attacked = torch.tensor([[[0.5, 0.5]]]).log(), torch.tensor([[[0.25, 0.75]]]).log()
    assert divergence(attacked, clean).item() == pytest.approx(0.14384, abs=1e-5)


@pytest.mark.parametrize("width, shape", [(64, (8, 8)), (24, (4, 6)), (7, (1, 7)), (1, (1, 1))])
def test_an_image_is_as_square_as_its_pixels_go(width, shape):
    assert shape_of(width) == shape


def learned(module, x):
    module.zero_grad()
    (module(x).square().sum() + module.auxiliary).backward()
    moved = {name for name, one in module.named_parameters() if one.grad is not None and one.grad.abs().sum() > 0}
    return {"router" if name.startswith("gate") else "experts" for name in moved}


def test_router_and_experts_learn_in_turns_or_together():
    module, x = build(aux_loss=0.0).train(), torch.rand(1, 9, D)
    assert [learned(module, x) for _ in range(3)] == [{"experts"}, {"router"}, {"experts"}]
    module.in_turns = False
    assert learned(module, x) == {"router", "experts"} and module.turn == 3
    module.eval()
    module(x)
    assert module.turn == 3 and module.auxiliary is None


def test_the_attacked_loss_is_beta_times_the_divergences_of_outputs_and_router():
    module, x = build(aux_loss=0.0, in_turns=False, radius=0.0).train(), torch.rand(1, 9, D)
    module(x)
    assert module.auxiliary.item() == pytest.approx(0, abs=1e-6)  # an attacker who may move nothing
    module.radius = 0.3
    torch.manual_seed(1)
    module(x)
    once = module.auxiliary.item()
    module.robust_loss *= 2
    torch.manual_seed(1)
    module(x)
    assert once > 0 and module.auxiliary.item() == pytest.approx(2 * once, rel=1e-5)


class Borders:
    """Two pathways that say opposite things, and a router with its border at 0.5: every image near it can be flipped."""

    class gate:  # noqa: N801
        @staticmethod
        def logits(x):
            return torch.cat([x, 1 - x], -1) * 4

    @staticmethod
    def pathway(x, gate):
        says = torch.tensor([[2.0, 0.0], [0.0, 2.0]])
        return gate @ says + 0 * x

    def eval(self):
        return self


def test_flips_of_the_router_and_of_the_experts_are_told_apart():
    """0.45 and 0.55 flip within 0.1, 0.1 and 0.9 do not; the experts themselves cannot be fooled."""
    x = torch.tensor([[[0.1], [0.45], [0.55], [0.9]]])
    labels = torch.tensor([[1, 1, 0, 0]])
    found = under_attack(Borders(), x, labels, radius=0.1, aim="router")
    assert (found.clean, found.joint, found.experts, found.router, found.flips) == (1.0, 0.5, 1.0, 0.5, 0.5)
    assert under_attack(Borders(), x, labels, radius=0.01).flips == 0


def test_all_pathways_are_those_of_one_index_in_every_layer():
    module, x = build(robust_loss=0.0).eval(), torch.rand(1, 40, D)
    with explorer.record(module) as seen:
        y = module(x)
    index = seen.last("gate/index")[0, :, 0]
    e = int(index.mode().values)
    with torch.no_grad():
        module.second.view(M, -1)[e].zero_()
    changed = (module(x) != y).any(-1)[0]
    assert not changed[index != e].any() and changed[index == e].any()
