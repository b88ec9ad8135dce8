"""Gated positional attention against timm's GPSA, against the equations read slowly, and by hand."""

import ast
import copy
import importlib.util
import math
from pathlib import Path

import pytest
import torch
from torch import nn

import explorer
from explorer.errors import BadValue
from explorer.experiment import Experiment
from explorer.mechanisms.attention.gated_positional import places, window
from explorer.tasks.digit_patches import DigitPatches

B, T, D = 3, 9, 36


def build(seed=0, d_model=D, **knobs):
    torch.manual_seed(seed)
    return explorer.build("gated-positional", d_model=d_model, **{"causal": False, **knobs})


def their_gpsa():
    """timm's class out of its file: the package itself wants torchvision, which nothing here needs."""
    found = importlib.util.find_spec("timm")
    if found is None:
        pytest.skip("timm is not installed: pip install --no-deps -r tests/alone.txt")
    tree = ast.parse((Path(found.origin).parent / "models" / "convit.py").read_text(encoding="utf-8"))
    (definition,) = [node for node in tree.body if isinstance(node, ast.ClassDef) and node.name == "GPSA"]
    scope = {"torch": torch, "nn": nn, "register_notrace_module": lambda cls: cls}
    exec(compile(ast.Module([definition], []), "convit.py", "exec"), scope)
    return scope["GPSA"]


def theirs_of(ours):
    """timm's module with our weights: its channels are column, row, square, where ours are square, row, column."""
    theirs = their_gpsa()(D, num_heads=ours.n_heads)
    with torch.no_grad():
        theirs.qk.weight.copy_(ours.qk.weight)
        theirs.v.weight.copy_(ours.v.weight)
        theirs.proj.weight.copy_(ours.out.weight)
        theirs.proj.bias.zero_()
        theirs.pos_proj.weight.copy_(ours.v_pos[:, [2, 1, 0]])
        theirs.gating_param.copy_(ours.gate * ours.gate_rate)
    return theirs


@pytest.mark.parametrize("n_heads, start, rate", [(4, 1.0, 20.0), (9, -0.7, 1.0), (6, 0.3, 5.0)])
def test_agrees_with_timm_in_outputs_and_gradients(n_heads, start, rate):
    ours = build(n_heads, n_heads=n_heads, start=start, gate_rate=rate)
    with torch.no_grad():
        ours.v_pos.add_(0.3 * torch.randn_like(ours.v_pos))
        ours.v.weight.add_(0.1 * torch.randn_like(ours.v.weight))
    theirs = theirs_of(ours)
    x, upstream = torch.randn(B, T, D), torch.randn(B, T, D)
    ours_x, theirs_x = x.clone().requires_grad_(), x.clone().requires_grad_()
    ours_y, theirs_y = ours(ours_x), theirs(theirs_x)
    torch.testing.assert_close(ours_y, theirs_y, atol=2e-6, rtol=1e-5)
    ours_y.backward(upstream)
    theirs_y.backward(upstream)
    pairs = {
        "input": (ours_x.grad, theirs_x.grad),
        "queries and keys": (ours.qk.weight.grad, theirs.qk.weight.grad),
        "values": (ours.v.weight.grad, theirs.v.weight.grad),
        "output projection": (ours.out.weight.grad, theirs.proj.weight.grad),
        "positions": (ours.v_pos.grad[:, [2, 1, 0]], theirs.pos_proj.weight.grad),
        "gates": (ours.gate.grad, rate * theirs.gating_param.grad),
    }
    for name, (one, other) in pairs.items():
        torch.testing.assert_close(one, other, atol=1e-5, rtol=1e-4, msg=lambda said, name=name: f"{name}: {said}")
    with explorer.record(ours, ["*/attention", "*/nonlocality"]) as seen:
        ours(x)
    distance, their_map = theirs.get_attention_map(x, return_map=True)
    torch.testing.assert_close(seen.last("/attention").mean(0), their_map, atol=1e-6, rtol=1e-5)
    torch.testing.assert_close(seen.last("/nonlocality"), distance)


@pytest.mark.parametrize("n_heads", [4, 9])
def test_starts_as_timm_does(n_heads):
    theirs = their_gpsa()(D, num_heads=n_heads, locality_strength=0.6)
    theirs.local_init()
    ours = build(n_heads=n_heads, locality=0.6)
    rows = lambda weight: sorted(tuple(round(x, 5) for x in row) for row in weight.tolist())  # noqa: E731 (theirs: columns first)
    assert rows(ours.v_pos[:, [2, 1, 0]]) == rows(theirs.pos_proj.weight)
    assert torch.equal(ours.v.weight, theirs.v.weight) and torch.equal(ours.gate * 20, theirs.gating_param)


def slow_reading(module, x, causal):
    """The equations with loops over everything, in float64; (rows, columns) is said by the test, not computed."""
    H, d = module.n_heads, D // module.n_heads
    q_weight, k_weight = module.qk.weight.chunk(2)
    columns = x.shape[1] if causal else {6: 3, 7: 7, 1: 1}[x.shape[1]]
    out = []
    for b in range(len(x)):
        for i in range(x.shape[1]):
            heads = []
            for h in range(H):
                part = slice(h * d, (h + 1) * d)
                gate = 1 / (1 + (-module.gate_rate * module.gate[h]).exp())
                keys = range(i + 1 if causal else x.shape[1])
                content, position = [], []
                for j in keys:
                    content.append((q_weight @ x[b, i])[part] @ (k_weight @ x[b, j])[part] / math.sqrt(d))
                    down, right = j // columns - i // columns, j % columns - i % columns
                    r = torch.tensor([down**2 + right**2, down, right], dtype=torch.float64)
                    position.append(module.v_pos[h] @ r)
                content, position = torch.stack(content).exp(), torch.stack(position).exp()
                weights = (1 - gate) * content / content.sum() + gate * position / position.sum()
                heads.append(sum(w * (module.v.weight @ x[b, j])[part] for w, j in zip(weights, keys, strict=True)))
            out.append(module.out.weight @ torch.cat(heads))
    return torch.stack(out).view_as(x)


@pytest.mark.parametrize("causal", [True, False])
@pytest.mark.parametrize("length", [1, 6, 7])
def test_agrees_with_a_slow_reading_in_outputs_and_gradients(length, causal):
    module = build(3, n_heads=6, causal=causal, start=0.4).double()
    x, upstream = torch.randn(2, length, D).double().requires_grad_(), torch.randn(2, length, D).double()
    ours, slow = module(x), slow_reading(module, x, causal)
    torch.testing.assert_close(ours, slow, atol=1e-12, rtol=1e-10)
    parameters = [x, *module.parameters()]
    grads = [torch.autograd.grad(y, parameters, upstream, allow_unused=True) for y in (ours, slow)]
    for one, other in zip(*grads, strict=True):
        torch.testing.assert_close(one, other, atol=1e-12, rtol=1e-10)


def test_two_patches_by_hand():
    """One head with its bump in the middle: scores 0 at home and -1 next door, so e / (1 + e) = 0.7311 stay at home.

    Queries are zero, so content looks at both alike; a gate of one half gives (0.7311 + 0.5) / 2 = 0.6155.
    """
    module = build(d_model=2, n_heads=1, start=0.0)
    with torch.no_grad():
        module.qk.weight.zero_()
        module.out.weight.copy_(torch.eye(2))
    with explorer.record(module, ["*", "*/attention", "*/positional"]) as seen:
        y = module(torch.tensor([[[1.0, 0.0], [0.0, 1.0]]]))
    home = 1 / (1 + math.exp(-1))
    torch.testing.assert_close(seen.last("/positional")[0], torch.tensor([[home, 1 - home], [1 - home, home]]))
    mixed = (home + 0.5) / 2
    assert mixed == pytest.approx(0.6155, abs=1e-4)
    torch.testing.assert_close(y[0], torch.tensor([[mixed, 1 - mixed], [1 - mixed, mixed]]))
    assert seen.last("/gate").item() == 0.5
    assert seen.last("/nonlocality").item() == pytest.approx(1 - mixed)


def test_patches_lie_on_the_most_nearly_square_rectangle_and_words_on_a_line():
    assert places(6, causal=False).tolist() == [[0, 0], [0, 1], [0, 2], [1, 0], [1, 1], [1, 2]]
    shapes = {T: (places(T, causal=False).max(0).values + 1).tolist() for T in (1, 7, 12, 16, 18, 64)}
    assert shapes == {1: [1, 1], 7: [1, 7], 12: [3, 4], 16: [4, 4], 18: [3, 6], 64: [8, 8]}
    assert places(6, causal=True).tolist() == [[0, t] for t in range(6)]


def test_windows():
    assert window(4).tolist() == [[-0.5, -0.5], [-0.5, 0.5], [0.5, -0.5], [0.5, 0.5]]
    assert window(9)[[0, 1, 4, 8]].tolist() == [[-1, -1], [-1, 0], [0, 0], [1, 1]]
    assert torch.equal(window(15), window(9)) and window(1).tolist() == [[0, 0]]


def test_a_bump_without_width_is_even_over_all_patches():
    module = build(n_heads=4, locality=0.0, start=20.0)
    x = torch.randn(B, 4, D)
    with explorer.record(module, ["*", "*/attention"]) as seen:
        module(x)
    torch.testing.assert_close(seen.last("/attention"), torch.full((B, 4, 4, 4), 0.25))
    torch.testing.assert_close(seen.last("/nonlocality"), torch.full((4,), (2 + math.sqrt(2)) / 4))


def test_a_text_is_read_forwards_and_its_length_changes_nothing_before_its_end():
    module = build(causal=True)
    x = torch.randn(B, 7, D, requires_grad=True)
    y = module(x)
    torch.testing.assert_close(y[:, :5], module(x[:, :5]))
    for t in range(6):
        (grad,) = torch.autograd.grad(y[:, t].sum(), x, retain_graph=True)
        assert grad[:, t + 1 :].abs().max() == 0 and (grad[:, : t + 1] != 0).any(-1).all()
    module.causal = False
    (grad,) = torch.autograd.grad(module(x)[:, 0].sum(), x)
    assert (grad != 0).any(-1).all()


def test_maps_and_gates_that_are_edited_are_obeyed():
    module, x = build(), torch.randn(B, T, D)
    y = module(x)
    with explorer.edit(module, "*/gate", torch.ones_like):
        by_place = module(x)
        torch.testing.assert_close(by_place, module(x + 0))
    with explorer.edit(module, "*/attention", torch.zeros_like):
        assert (module(x) == 0).all()
    with explorer.edit(module, "*/content", torch.zeros_like), explorer.edit(module, "*/gate", torch.ones_like):
        torch.testing.assert_close(module(x), by_place)
    assert (by_place - y).abs().max() > 0.01


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("length", [1, 400])
def test_half_precision_and_long_rows(dtype, length):
    """400 words on a line: squared distances up to 159201, more than float16 knows."""
    module, x = build(causal=True).to(dtype), torch.randn(1, length, D)
    y = module(x.to(dtype))
    assert y.dtype == dtype and y.isfinite().all()
    torch.testing.assert_close(y.float(), module.float()(x), atol=0.06, rtol=0.05)
    y.float().sum().backward()
    assert all(p.grad.isfinite().all() for p in module.parameters())


@pytest.mark.parametrize("n_heads", [5, 8])
def test_heads_must_split_the_width(n_heads):
    with pytest.raises(BadValue, match=rf"n_heads={n_heads}.*d_model=36"):
        build(n_heads=n_heads)


def test_the_gates_of_an_optimizer_of_even_steps_move_faster_by_their_rate():
    moved = {}
    for rate in (1.0, 20.0):
        run = Experiment("gated-positional", task=DigitPatches(n_train=50), watch=None, layers=1,
                         d_model=16, gate_rate=rate, warmup=0, learning_rate=1e-3).run(1)  # fmt: skip
        module = run.model.blocks[0].attention
        moved[rate] = (module.gate * rate - 1).abs().mean().item()
    assert moved[20.0] == pytest.approx(20 * moved[1.0], rel=1e-2)


def test_on_pictures_it_looks_both_ways_and_a_copy_and_a_saved_state_do_the_same():
    run = Experiment("gated-positional", task=DigitPatches(n_train=50), layers=1, d_model=16, batch=4).run(3)
    module = run.model.blocks[0].attention
    assert module.causal is False and math.isfinite(run.history.loss.iloc[-1])
    assert list(run.recording.gates()["tap"].unique()) == ["gate"]
    x = run.data.held_out().inputs[:1]
    again = Experiment("gated-positional", task=DigitPatches(n_train=50), layers=1, d_model=16, seed=5, watch=None)
    again.model.load_state_dict(run.model.state_dict())
    for model in (copy.deepcopy(run.model), again.model):
        assert torch.equal(model.eval()(x), run.model.eval()(x))
