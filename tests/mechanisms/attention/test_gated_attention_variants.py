"""The forms of the gate that its paper compares, each against a reading of the paper's words in plain Python."""

import math

import pytest
import torch

import explorer
from explorer.errors import BadValue

B, T, D = 3, 7, 24
POSITIONS = ["G1", "G2", "G3", "G4", "G5"]
GRANULARITIES = ["elementwise", "headwise", "head-shared", "input-independent", "self", "norm"]
ACTIVATIONS = ["sigmoid", "silu", "ns-sigmoid", "identity"]
SCALAR = {
    "sigmoid": lambda a: 1 / (1 + math.exp(-a)),
    "silu": lambda a: a / (1 + math.exp(-a)),
    "ns-sigmoid": lambda a: 0.5 + 0.5 / (1 + math.exp(-a)),
    "identity": lambda a: a,
}


def _variants():
    """The forms of the gate that make sense: those of the paper's tables among them."""
    for position in POSITIONS:
        for granularity in GRANULARITIES:
            if position == "G5" and granularity in ("headwise", "head-shared"):
                continue
            if granularity == "norm":
                yield position, granularity, "identity", "multiply"
                continue
            for activation in ACTIVATIONS if position == "G1" else ["sigmoid"]:
                yield position, granularity, activation, "multiply"
            yield position, granularity, "silu", "add"


VARIANTS = list(_variants())


def slow_gate(module, x, signal, h, i, rms):
    """The gate of channel i of head h of one token x (D,), by the words of the paper; `signal` is what it gates."""
    H = 1 if module.position == "G5" else module.n_heads
    d = D // H
    act = SCALAR[module.activation]
    if module.granularity == "norm":
        return module.gain[i].item() / rms
    if module.granularity == "self":
        return act(signal)
    if module.granularity == "input-independent":
        return act(module.constant[h, i].item())
    scores = [sum(w * a for w, a in zip(row, x, strict=True)) for row in module.gate.weight.tolist()]
    if module.granularity == "headwise":
        return act(scores[h])
    if module.granularity == "head-shared":
        return act(sum(scores[g * d + i] for g in range(H)) / H)
    return act(scores[h * d + i])


def slow_gated(module, x, row):
    """A row (D,) of queries, keys, values, heads or outputs, gated: a list."""
    H = 1 if module.position == "G5" else module.n_heads
    d, made = D // H, []
    for h in range(H):
        part = row[h * d : (h + 1) * d]
        rms = math.sqrt(sum(a * a for a in part) / d + 1e-6)
        for i, a in enumerate(part):
            g = slow_gate(module, x, a, h, i, rms)
            made.append(a * g if module.combine == "multiply" else a + g)
    return made


def slow_reading(module, x):
    """The paper's equations in float64, one sequence, head, query and key at a time; rotation as complex numbers."""
    H, d = module.n_heads, D // module.n_heads
    matrices = [w.double() for w in (*module.qkv.weight.detach().chunk(3), module.out.weight.detach())]
    turn = module.rope_base ** (-torch.arange(0, d, 2).double() / d)
    out = torch.zeros_like(x)

    def rotated(vector, position):
        z = torch.complex(*vector.chunk(2)) * torch.exp(1j * position * turn)
        return torch.cat([z.real, z.imag])

    def gated_at(label, rows, b):
        if module.position != label:
            return rows
        return torch.tensor([slow_gated(module, x[b, t].tolist(), row.tolist()) for t, row in enumerate(rows)]).double()

    for b in range(len(x)):
        labels = ("G4", "G3", "G2")
        q, k, v = (gated_at(label, x[b] @ w.T, b) for label, w in zip(labels, matrices[:3], strict=True))
        heads = torch.zeros(x.shape[1], D).double()
        for t in range(x.shape[1]):
            for h in range(H):
                part = slice(h * d, (h + 1) * d)
                last = t + 1 if module.causal else x.shape[1]
                scores = [rotated(q[t, part], t) @ rotated(k[s, part], s) / math.sqrt(d) for s in range(last)]
                weights = torch.stack(scores).exp()
                heads[t, part] = sum(w * v[s, part] for s, w in enumerate(weights / weights.sum()))
        out[b] = gated_at("G5", gated_at("G1", heads, b) @ matrices[3].T, b)
    return out


def built(position, granularity, activation, combine, **knobs):
    torch.manual_seed(0)
    knobs = {"n_heads": 3, "rope_base": 100.0, **knobs}
    module = explorer.build("gated-attention", d_model=D, position=position, granularity=granularity,
                            activation=activation, combine=combine, **knobs).double()  # fmt: skip
    with torch.no_grad():  # constants that start alike would hide which is whose
        for name in ("constant", "gain"):
            if hasattr(module, name):
                getattr(module, name).normal_()
    return module


@pytest.mark.parametrize("variant", VARIANTS, ids="-".join)
def test_every_variant_agrees_with_a_slow_reading(variant):
    module, x = built(*variant), torch.randn(1, 5, D).double()
    torch.testing.assert_close(
        module(x), slow_reading(module, x), atol=1e-5, rtol=1e-5
    )  # the rotation's angles are float32, as everywhere


@pytest.mark.parametrize("variant", VARIANTS, ids="-".join)
def test_gradients_of_every_variant_are_those_of_small_steps(variant):
    module, x = built(*variant, n_heads=2), torch.randn(1, 3, D).double().requires_grad_()
    weights = dict(module.named_parameters())
    grads = torch.autograd.grad(module(x).sin().sum(), [x, *weights.values()])
    directions = [torch.randn_like(one) for one in (x, *weights.values())]
    slope = sum((g * v).sum() for g, v in zip(grads, directions, strict=True))
    ends = []
    for step in (1e-5, -1e-5):
        moved = {name: w + step * v for (name, w), v in zip(weights.items(), directions[1:], strict=True)}
        ends.append(torch.func.functional_call(module, moved, (x + step * directions[0],)).sin().sum())
    torch.testing.assert_close(slope, (ends[0] - ends[1]) / 2e-5, rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("granularity", ["headwise", "elementwise"])
def test_looking_both_ways_agrees_with_a_slow_reading(granularity):
    module, x = built("G1", granularity, "sigmoid", "multiply", causal=False), torch.randn(2, 4, D).double()
    torch.testing.assert_close(module(x), slow_reading(module, x), atol=1e-5, rtol=1e-5)


def test_there_are_as_many_variants_as_the_paper_compares():
    assert len(VARIANTS) >= 30


@pytest.mark.parametrize("granularity", ["headwise", "head-shared"])
def test_behind_the_projection_are_no_heads(granularity):
    with pytest.raises(BadValue, match=rf"granularity='{granularity}'.*G5.*no heads"):
        explorer.build("gated-attention", position="G5", granularity=granularity)


@pytest.mark.parametrize("knobs", [{}, {"activation": "silu"}, {"activation": "identity", "combine": "add"}])
def test_a_norm_is_no_gate_of_the_token(knobs):
    with pytest.raises(BadValue, match=r"granularity='norm'.*activation='identity'"):
        explorer.build("gated-attention", granularity="norm", **knobs)


def parameters(position, granularity):
    activation = "identity" if granularity == "norm" else "sigmoid"
    module = built(position, granularity, activation, "multiply")
    return sum(p.numel() for p in module.parameters()) - 4 * D * D


def test_the_gates_have_the_parameters_of_the_papers_table():
    """With as many heads of keys as of queries; head-shared keeps the whole matrix, and averages what it gives."""
    assert (
        parameters("G1", "elementwise") == parameters("G5", "elementwise") == parameters("G1", "head-shared") == D * D
    )
    assert parameters("G1", "headwise") == 3 * D and parameters("G1", "input-independent") == D
    assert parameters("G1", "self") == 0 and parameters("G1", "norm") == D // 3


def test_constant_gates_start_at_a_half_and_ns_sigmoid_never_shuts():
    constant = explorer.build("gated-attention", d_model=D, granularity="input-independent")
    half = explorer.build("gated-attention", d_model=D, activation="ns-sigmoid")
    with explorer.record(constant, "*/gate") as seen:
        constant(torch.randn(B, T, D))
    assert (seen.last("/gate") == 0.5).all()
    with explorer.record(half, "*/gate") as seen:
        half(-1e4 * torch.ones(B, T, D) * half.gate.weight.sum(0).sign())
    assert seen.last("/gate").min() >= 0.5 and seen.last("/gate").max() <= 1


def test_the_shared_gate_is_the_same_for_all_heads():
    module = explorer.build("gated-attention", d_model=D, n_heads=3, granularity="head-shared")
    with explorer.record(module, "*/gate") as seen:
        module(torch.randn(B, T, D))
    gate = seen.last("/gate")
    assert gate.shape == (B, T, 3, D // 3) and torch.equal(gate[:, :, 0], gate[:, :, 2])


def test_a_value_gate_closes_for_whoever_asks():
    """A value shut off by its own token is missing from the answers to all queries, and changes no weight."""
    module = explorer.build("gated-attention", d_model=D, n_heads=2, position="G2")
    x = torch.randn(B, T, D)
    shut = torch.ones(1, T, 1, 1).index_fill(1, torch.tensor([2]), 0.0)
    with (
        explorer.record(module, ["*/attention", "*/values"]) as seen,
        explorer.edit(module, "*/gate", lambda g: g * shut),
    ):
        module(x)
    edited = seen.last("/attention")
    with explorer.record(module, ["*/attention", "*/values"]) as open_:
        module(x)
    assert torch.equal(edited, open_.last("/attention"))
    assert (seen.last("/values")[..., 2] == 0).all() and (open_.last("/values") > 0).all()


@pytest.mark.parametrize("variant", VARIANTS, ids="-".join)
def test_every_variant_stands_what_is_hard(variant):
    """One token, huge inputs, and half precision: finite, gradients too."""
    module = built(*variant).float()
    for hard in (torch.randn(1, 1, D), 1e4 * torch.randn(1, T, D), torch.zeros(1, T, D)):
        module.zero_grad()
        x = hard.requires_grad_()
        y = module(x)
        y.sum().backward()
        assert y.isfinite().all() and x.grad.isfinite().all()
        assert all(p.grad.isfinite().all() for p in module.parameters() if p.grad is not None)
    for dtype in (torch.float16, torch.bfloat16):
        y = module.to(dtype)(torch.randn(B, T, D, dtype=dtype))
        assert y.dtype == dtype and y.isfinite().all()
