"""Hash experts against the equations, read slowly in float64: one place, one level, one corner at a time."""

import math

import pytest
import torch

import explorer
from explorer.errors import BadValue
from explorer.mechanisms.routing.hash_experts import PRIME, hash_grid, pyramid

B, T, D, E = 3, 5, 12, 7


def build(d_model=D, **knobs):
    torch.manual_seed(0)
    module = explorer.build("hash-experts", d_model=d_model, **{"n_experts": E, "levels": 3, "entries": 64, **knobs})
    with torch.no_grad():
        module.table.normal_()  # at their first 1e-4 all experts look alike
    return module


def features(table_LSF, cells, place):
    """The pyramid at one place of [0, 1]^2, corner by corner."""
    found = []
    for level, n in zip(table_LSF, cells, strict=True):
        u, v = place[0] * n, place[1] * n
        left, low = math.floor(u.item()), math.floor(v.item())
        total = 0
        for i in (0, 1):
            for j in (0, 1):
                a, b = left + i, low + j
                entry = (a + b * (n + 1)) if (n + 1) ** 2 <= len(level) else a ^ (b * PRIME)
                share = (u - left if i else left + 1 - u) * (v - low if j else low + 1 - v)
                total = total + share * level[entry % len(level)]
        found.append(total)
    return torch.cat(found)


def slow(p, x, cells, gate_cells):
    """(y, index) of every token by itself; p: parameters in float64 by name."""
    rows, chosen = [], []
    for token in x.reshape(-1, x.shape[-1]):
        place = token if "place.weight" not in p else p["place.weight"] @ token + p["place.bias"]
        unit = (place + 1) / 2
        seen = features(p["gate.table"][0], gate_cells[0], unit)
        logits = (p["gate.hidden.weight"] @ seen).clamp(min=0) @ p["gate.score"]
        probs = logits.exp() / logits.exp().sum()
        e = int(probs.argmax())
        hidden = (features(p["table"][e], cells[e], unit) @ p["up"][e]).clamp(min=0)
        rows.append(probs[e] * (hidden @ p["down"][e]))
        chosen.append(e)
    return torch.stack(rows).view_as(x), torch.tensor(chosen).view(*x.shape[:2], 1)


@pytest.mark.parametrize("d_model", [D, 2])
def test_outputs_and_gradients_follow_the_equations(d_model):
    module = build(d_model)
    x = torch.randn(B, T, d_model) * 0.8  # some of them beyond the plane's edges
    x.requires_grad_()
    p = {name: one.detach().double().requires_grad_() for name, one in module.named_parameters()}
    x_slow = x.detach().double().requires_grad_()
    with explorer.record(module) as seen:
        y = module(x)
    expected, index = slow(p, x_slow, module.cells.tolist(), module.gate.cells.tolist())
    assert torch.equal(seen.last("gate/index"), index) and len(index.unique()) > 1
    torch.testing.assert_close(y.double(), expected, atol=1e-5, rtol=1e-5)
    upstream = torch.randn(y.shape)
    (y * upstream).sum().backward()
    (expected * upstream.double()).sum().backward()
    torch.testing.assert_close(x.grad.double(), x_slow.grad, atol=2e-4, rtol=1e-4)
    for name, one in module.named_parameters():
        torch.testing.assert_close(
            one.grad.double(), p[name].grad, atol=2e-4, rtol=1e-4, msg=lambda m, n=name: f"{n}: {m}"
        )


def test_half_way_between_two_corners_by_hand():
    """Two cells a side: 9 corners fit into 16 entries. (0.25, 0.5) lies half-way from corner (0, 1) to (1, 1)."""
    table = torch.arange(16.0).view(1, 1, 16, 1)
    found = hash_grid(table, torch.tensor([[2]]), torch.tensor([[0.25, 0.5]]), torch.tensor([0]))
    assert found.item() == 0.5 * (0 + 1 * 3) + 0.5 * (1 + 1 * 3)


def test_a_corner_that_does_not_fit_is_hashed_by_hand():
    """Eight cells a side: 81 corners. PRIME is 1 modulo 16, so corner (3, 5) has the entry 3 xor 5 = 6."""
    table = torch.arange(16.0).view(1, 1, 16, 1)
    assert PRIME % 16 == 1
    found = hash_grid(table, torch.tensor([[8]]), torch.tensor([[3 / 8, 5 / 8]]), torch.tensor([0]))
    assert found.item() == 6


def test_experts_are_finer_one_by_one_and_a_pyramid_grows_by_a_constant_factor():
    module = explorer.build("hash-experts", d_model=2, n_experts=4, smoothest=8, finest=64)
    assert module.cells[:, -1].tolist() == [8, 16, 32, 64] and (module.cells[:, 0] == 4).all()
    assert pyramid(4, 2, torch.tensor([16.0])).tolist() == [[2, 4, 8, 16]]
    alike = explorer.build("hash-experts", d_model=2, smoothest=64)
    assert (alike.cells == alike.cells[0]).all()
    assert sum(p.numel() for p in alike.parameters()) == sum(p.numel() for p in module.parameters())


def test_a_place_is_painted_by_its_own_expert_alone():
    module = build(2)
    x = torch.rand(1, 40, 2) * 2 - 1
    with explorer.record(module) as seen:
        y = module(x)
    index = seen.last("gate/index")[..., 0]
    e = int(index.flatten().mode().values)
    with torch.no_grad():
        module.table[e] += 1
    changed = (module(x) != y).any(-1)
    assert torch.equal(changed, index == e) and changed.any() and not changed.all()


def test_the_gate_alone_answers_for_places_as_the_decision_map_asks_it():
    module = build(2)
    x = torch.rand(1, 30, 2) * 2 - 1
    with explorer.record(module) as seen:
        module(x)
    weights, index = module.gate(x)
    assert torch.equal(index, seen.last("gate/index")) and torch.equal(weights, seen.last("gate/weights"))


def test_the_balancing_loss_is_the_gates_own():
    module = build(2, aux_loss=0.5)
    x = torch.rand(2, 30, 2)
    with explorer.record(module) as seen:
        module(x)
    expected = explorer.metrics.load_balancing_loss(seen.last("gate/probs"), seen.last("gate/index"))
    torch.testing.assert_close(module.auxiliary.detach(), 0.5 * expected)
    assert module.gate.auxiliary is None
    module.aux_loss = 0.0
    module(x)
    assert module.auxiliary is None


def test_smooth_experts_must_not_be_finer_than_the_finest():
    with pytest.raises(BadValue, match="smoothest=65"):
        explorer.build("hash-experts", smoothest=65)
