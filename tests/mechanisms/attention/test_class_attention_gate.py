"""Gated class-attention against the released procedure, read slowly in float64, by hand, and in its host."""

import copy
import math

import pytest
import torch
import torch.nn.functional as F

import explorer
from explorer.errors import BadValue
from explorer.experiment import Experiment
from explorer.mechanisms.attention.class_attention_gate import sharpened
from explorer.tasks.split_digits import SplitDigits
from explorer.training.adamw import AdamW, Group

B, T, D, E, C, H = 2, 5, 12, 4, 3, 3


def build(seed=0, d_model=D, **knobs):
    torch.manual_seed(seed)
    sizes = {"n_tasks": E, "classes": C, "n_heads": H}
    return explorer.build("class-attention-gate", d_model=d_model, **{**sizes, **knobs})


def scrambled(seed=0, **knobs):
    """One whose biases and projectors are no longer zero, in float64."""
    module = build(seed, **knobs).double()
    with torch.no_grad():
        for p in (module.out.bias, module.up.bias, module.down.bias, module.head_bias, module.drift_out):
            p.add_(0.3 * torch.randn_like(p))
    return module


# -- the slow reading ------------------------------------------------------------------------------------------------------
def layer_norm(row):
    centred = row - row.mean()
    return centred / (centred.square().mean() + 1e-5).sqrt()


def project(p, t, row):
    """The projector that leads from task t + 1 back to task t, for one patch."""
    return row + layer_norm(row @ p["drift_in"][t]).clamp(min=0) @ p["drift_out"][t]


def masks(module, p, stage, s):
    """For each task (m0, m2): hard for those before `stage`."""
    found = []
    for t in range(E):
        pair = [module.gate_rate * p[name][t] for name in ("units", "hidden_units")]
        soft = [1 / (1 + (-s * e).exp()) for e in pair]
        found.append([(one > 0.5).double() if t < stage else one for one in soft])
    return found


def answer(p, m0, m2, t, x_TD):
    """The logits of task t's head for one picture, one head and one row at a time."""
    d = D // H
    rows = [layer_norm(row) for row in [p["token"][t], *x_TD]]
    q = m0 * (p["q.weight"] @ (m0 * rows[0]))
    keys = [m0 * (p["k.weight"] @ (m0 * row)) for row in rows]
    values = [p["v.weight"] @ (m0 * row) for row in rows]
    said = []
    for h in range(H):
        part = slice(h * d, (h + 1) * d)
        weights = torch.stack([q[part] @ key[part] / math.sqrt(d) for key in keys]).exp()
        said.append(sum(w * value[part] for w, value in zip(weights / weights.sum(), values, strict=True)))
    token = p["token"][t] + m0 * (p["out.weight"] @ (m0 * torch.cat(said)) + p["out.bias"])
    hidden = m2 * F.gelu(p["up.weight"] @ (m0 * layer_norm(token)) + p["up.bias"])
    token = token + m0 * (p["down.weight"] @ hidden + p["down.bias"])
    return p["head"][t] @ layer_norm(token) + p["head_bias"][t]


def slow_gradients(module, p, x, past, upstream, stage, progress):
    """(logits of the task that is on, gradients by name): plain ones, then changed as the released code changes them."""
    s = (module.s_max - 1 / module.s_max) * progress + 1 / module.s_max
    both = masks(module, p, stage, s)
    logits = torch.stack([answer(p, *both[stage], stage, picture) for picture in x])
    M = [torch.stack([both[t][i] for t in range(stage)]).amax(0).detach() for i in (0, 1)]
    new = sum((m * (1 - seen)).sum() for m, seen in zip(both[stage], M, strict=True)) / sum(
        (1 - seen).sum() for seen in M
    )
    squares = [(past[b, t] - project(p, stage - 1, x[b, t])).square().sum() for b in range(B) for t in range(T)]
    loss = (
        (logits * upstream).sum() + module.sparsity_loss * new + module.drift_loss * torch.stack(squares).sum().sqrt()
    )
    names = ["x", *p]
    grads = dict(zip(names, torch.autograd.grad(loss, [x, *p.values()], allow_unused=True), strict=True))
    for name, (out, into) in {
        "q": (0, 0),
        "k": (0, 0),
        "v": (0, 0),
        "out": (0, 0),
        "up": (1, 0),
        "down": (0, 1),
    }.items():
        grads[f"{name}.weight"] = grads[f"{name}.weight"] * (1 - torch.outer(M[out], M[into]))
        if f"{name}.bias" in grads:
            grads[f"{name}.bias"] = grads[f"{name}.bias"] * (1 - M[out])
    for name in ("units", "hidden_units"):
        e = module.gate_rate * p[name].detach()
        grads[name] = grads[name] * (module.s_max / s) * ((s * e).clamp(-50, 50).cosh() + 1) / (e.cosh() + 1)
    return logits, loss, grads


@pytest.mark.parametrize("stage, progress", [(1, 0.0), (2, 0.3), (3, 0.8)])
def test_outputs_losses_and_gradients_follow_the_released_procedure(stage, progress):
    module = scrambled(stage, s_max=8.0, gate_rate=2.0, drift_loss=0.7, sparsity_loss=0.9).train()
    module.enter(stage, progress)
    x, past = (torch.randn(B, T, D).double() for _ in range(2))
    upstream = torch.randn(B, C).double()
    p = {name: one.detach().clone().requires_grad_() for name, one in module.named_parameters()}
    ours_x, slow_x = x.clone().requires_grad_(), x.clone().requires_grad_()
    logits = module(ours_x, past).view(B, E, C)[:, stage]
    loss = (logits * upstream).sum() + module.auxiliary
    loss.backward()
    slow_logits, slow_loss, grads = slow_gradients(module, p, slow_x, past, upstream, stage, progress)
    torch.testing.assert_close(logits, slow_logits, atol=1e-10, rtol=1e-8)
    torch.testing.assert_close(loss, slow_loss)
    for name, ours in {"x": ours_x.grad, **{name: one.grad for name, one in module.named_parameters()}}.items():
        theirs = torch.zeros_like(ours) if grads[name] is None else grads[name]
        torch.testing.assert_close(ours, theirs, atol=1e-9, rtol=1e-7, msg=lambda said, name=name: f"{name}: {said}")


@pytest.mark.parametrize("cascade", [True, False])
def test_at_test_every_task_answers_and_old_ones_see_features_taken_back(cascade):
    module, stage = scrambled(5, cascade=cascade).eval(), 2
    module.enter(stage, 0.4)
    x = torch.randn(B, T, D).double()
    p = dict(module.named_parameters())
    both = masks(module, p, stage, module.s_max)
    with torch.no_grad():
        logits = module(x).view(B, E, C)
        for b in range(B):
            for t in range(stage + 1):
                rows = list(x[b])
                if cascade:
                    for back in range(stage - 1, t - 1, -1):  # the newest projector first
                        rows = [project(p, back, row) for row in rows]
                torch.testing.assert_close(logits[b, t], answer(p, *both[t], t, rows), atol=1e-9, rtol=1e-7)
    assert (logits[:, stage + 1 :] == -1000).all()


def test_one_token_and_one_patch_by_hand():
    """Queries and keys are zero, so the token takes half of itself and half of the patch: both are (1.2247, 0, -1.2247).

    Only unit 0 is open: (1, 0, -1) becomes (2.2247, 0, -1), which has the mean 0.4082 and the deviation 1.3478.
    """
    module = build(d_model=3, n_tasks=1, classes=3, n_heads=1).eval()
    with torch.no_grad():
        for p in module.parameters():
            p.zero_()
        for layer in (module.v, module.out):
            layer.weight.copy_(torch.eye(3))
        module.head[0].copy_(torch.eye(3))
        module.token.copy_(torch.tensor([[1.0, 0, -1]]))
        module.units.copy_(torch.tensor([[1.0, -1, -1]]))
    with explorer.record(module) as seen:
        logits = module(torch.tensor([[[5.0, 3, 1]]]))
    assert seen.last("/gate").tolist() == [[1, 0, 0]]
    a, mean = 1 + math.sqrt(1.5), (math.sqrt(1.5)) / 3
    deviation = math.sqrt(((a - mean) ** 2 + mean**2 + (1 + mean) ** 2) / 3)
    assert (round(a, 4), round(mean, 4), round(deviation, 4)) == (2.2247, 0.4082, 1.3478)
    by_hand = torch.tensor([[(a - mean) / deviation, -mean / deviation, (-1 - mean) / deviation]])
    torch.testing.assert_close(logits, by_hand, atol=1e-4, rtol=1e-4)


# -- gates -----------------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("s", [1 / 800, 1.0, 30.0, 800.0])
def test_the_gradient_of_a_gate_does_not_depend_on_its_sharpness_until_it_is_decided(s):
    """The released rule times the sigmoid's own gradient; written with exp(-|z|), as 1 - sigmoid(z) is rounded to 0."""
    e = torch.tensor([-6.0, -0.4, -0.07, -0.001, 0.0, 0.002, 0.05, 0.11, 2.0], dtype=torch.float64, requires_grad=True)
    gate = sharpened(e, torch.tensor(s, dtype=torch.float64), 800.0)
    torch.testing.assert_close(gate, (s * e).sigmoid(), rtol=0, atol=0)
    (ours,) = torch.autograd.grad(gate.sum(), e)
    z = (s * e.detach()).abs()
    slope = s * (-z).exp() / (1 + (-z).exp()) ** 2
    released = slope * (800 / s) * (z.clamp(max=50).cosh() + 1) / (e.detach().cosh() + 1)
    torch.testing.assert_close(ours, released, rtol=1e-6, atol=1e-300)
    undecided = z < 50
    torch.testing.assert_close(ours[undecided], (800 * e.sigmoid() * (-e).sigmoid()).detach()[undecided])


def test_gates_sharpen_within_an_epoch_and_past_ones_are_on_or_off():
    module, x = build().train(), torch.randn(B, T, D)
    spread = []
    for progress in (0.0, 0.01, 0.9):
        module.enter(1, progress)
        with explorer.record(module) as seen:
            module(x)
        gate = seen.last("/gate")
        assert set(gate[0].tolist()) <= {0.0, 1.0}
        spread.append((gate[1] - 0.5).abs().mean().item())
    assert spread[0] < 0.001 < 0.3 < spread[1] < spread[2]


def test_a_unit_is_claimed_by_one_task_after_another_and_never_given_back():
    module, x = build().eval(), torch.randn(B, T, D)
    capacity, claimed = [], []
    for task in range(E):
        module.enter(task, 0.0)
        with explorer.record(module) as seen:
            module(x)
        capacity.append(seen.last("/capacity").item())
        on = torch.cat([seen.last("/gate"), seen.last("/hidden_gate")], 1)[: task + 1] > 0.5
        claimed.append(on.any(0).double().mean().item())
    assert capacity == sorted(capacity) and 0.3 < capacity[0] < capacity[-1] <= 1
    assert capacity == pytest.approx(claimed)


def test_the_sparsity_loss_by_hand():
    """Task 0 holds units 0 and 1 of two layers of 3 and 12. Task 1 asks for half of everything: 0.5 of what is free."""
    module = build(d_model=3, n_heads=1, sparsity_loss=2.0).train()
    with torch.no_grad():
        module.units.zero_()
        module.hidden_units.zero_()
        module.units[0] = module.hidden_units[0, :3] = torch.tensor([1.0, 1, -1])
    module.enter(1, 0.5)
    module(torch.randn(B, T, 3))
    assert module.auxiliary.item() == pytest.approx(2 * 0.5)
    with torch.no_grad():
        module.units[1, 0] = -1  # taken already: whether it is asked for costs nothing
        module.units[1, 2] = -1  # free, and not asked for: 5 of 11 halves are left, of 1 + 10 free units
    module(torch.randn(B, T, 3))
    assert module.auxiliary.item() == pytest.approx(2 * (0.5 * 10) / 11, rel=1e-4)


# -- protection ------------------------------------------------------------------------------------------------------------
def learn(module, task, steps, x, labels):
    """Some steps of a task as the Experiment takes them, on features that do not change."""
    optimizer = AdamW([Group(list(module.parameters()))])
    for step in range(steps):
        module.enter(task, step / steps)
        logits = module.train()(x).view(len(x), E, C)[:, task]
        (F.cross_entropy(logits, labels) + module.auxiliary).backward()
        optimizer.step(3e-3)


@pytest.mark.parametrize("gated", [True, False])
def test_what_old_tasks_answer_never_changes_by_a_bit_and_does_without_gates(gated):
    module = build(gated=gated, cascade=False)
    x, labels = torch.randn(16, T, D), torch.arange(16) % C
    learn(module, 0, 40, x, labels)
    module.enter(1, 0.0)
    with torch.no_grad():
        before = module.eval()(x)[:, :C]
    assert (before.argmax(1) == labels).float().mean() > 0.8
    for task in (1, 2, 3):
        learn(module, task, 15, x, labels.roll(task))
    with torch.no_grad():
        after = module.eval()(x)[:, :C]
    assert torch.equal(before, after) is gated
    assert gated or (before - after).abs().max() > 0.1


def test_a_saved_state_answers_alike_and_a_copy_is_protected_too():
    module, x = build(), torch.randn(B, T, D)
    module.enter(2, 0.7)
    other = build(9)
    other.load_state_dict(module.state_dict())
    twin = copy.deepcopy(module)
    for one in (module, other, twin):
        one.train()(x)[:, 2 * C : 3 * C].sum().backward()
        assert torch.equal(one.out.weight.grad, module.out.weight.grad) and (one.out.weight.grad == 0).any()
    assert torch.equal(module.eval()(x), other.eval()(x))


# -- input -----------------------------------------------------------------------------------------------------------------
def test_a_task_too_many_is_refused_and_gates_stay_within_6():
    module = build()
    with pytest.raises(BadValue, match=r"^n_tasks=4: it must be more than 4"):
        module.enter(4, 0.0)
    with torch.no_grad():
        module.units.fill_(100)
    module.enter(0, 0.0)
    torch.testing.assert_close(module.gate_rate * module.units, torch.full((E, D), 6.0))


@pytest.mark.parametrize("n_heads", [5, 8])
def test_heads_must_split_the_width(n_heads):
    with pytest.raises(BadValue, match=rf"n_heads={n_heads}.*d_model=12"):
        build(n_heads=n_heads)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("shape", [(1, 1), (1, 7), (7, 1)])
def test_half_precision_one_picture_one_patch(dtype, shape):
    module, x = build().to(dtype).train(), 1e3 * torch.randn(*shape, D)
    module.enter(1, 0.999)
    y = module(x.to(dtype), x.to(dtype))
    (y.float().sum() + module.auxiliary.float()).backward()
    assert y.dtype == dtype and y.shape == (shape[0], E * C) and y.isfinite().all()
    assert all(p.grad.isfinite().all() for p in module.parameters())


# -- in its host -----------------------------------------------------------------------------------------------------------
def run(steps=0, **knobs):
    task = SplitDigits(steps_per_task=4, steps_per_epoch=2)
    return Experiment("class-attention-gate", task=task, layers=1, d_model=16, batch=8, **knobs).run(steps)


def test_an_experiment_tells_the_stage_and_goes_through_all_tasks():
    experiment = run(6)
    readout = experiment.model.readout
    assert readout.stage == 1 and readout.progress == 0.5
    experiment.run(15)
    assert readout.stage == 4 and all(math.isfinite(loss) for loss in experiment.history.loss)
    assert set(experiment.recording.gates()["tap"]) == {"gate"}
    twin = experiment.fork(s_max=400.0).run(2)
    assert twin.model.readout.s_max == 400 and experiment.model.readout.s_max == 800 and twin.step == 23


def test_the_host_hands_over_features_as_they_were_and_each_projector_learns_in_its_own_task():
    experiment = run()
    readout, moved = experiment.model.readout, []
    for _ in range(5):
        before = readout.drift_out.detach().clone()
        experiment.run(4)
        moved.append([not torch.equal(*pair) for pair in zip(before, readout.drift_out, strict=True)])
    assert moved == [[task == back + 1 for back in range(4)] for task in range(5)]
    assert not any("past" in name for name in [*experiment.model.state_dict(), *dict(experiment.model.named_modules())])


def test_classes_that_do_not_fit_the_data_are_refused():
    with pytest.raises(BadValue, match="knows 8 classes, and this task has 10"):
        run(n_tasks=4)
