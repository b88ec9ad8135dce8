import math

import pytest
import torch
from torch.testing import assert_close

from explorer.errors import BadValue
from explorer.experiment import Experiment
from explorer.tasks.ode_families import COURSE, OdeFamilies, solve


@pytest.fixture(scope="module")
def data():
    return OdeFamilies().build(0)


def test_the_solver_on_a_circle():
    """u' = v, v' = -u from (1, 0) is cos and -sin."""
    course = solve(lambda y: torch.stack([y[1], -y[0]]), torch.tensor([1.0, 0.0], dtype=torch.float64), 0.1, 50)
    t = 0.1 * torch.arange(50, dtype=torch.float64)
    assert_close(course, torch.stack([t.cos(), -t.sin()], dim=1), rtol=0, atol=5e-7)  # h^4 t / 120


def test_each_family_keeps_its_own_law(data):
    """Damped oscillators lose energy; the other two go round and round."""
    late, early = data.courses[:, :, -40:].var((2, 3)), data.courses[:, :, :40].var((2, 3))
    ratio = (late / early).mean(1)
    assert (ratio[data.family == 1] < 0.5).all() and (ratio[data.family == 0] > 0.5).all()


def test_courses_are_scaled_by_family(data):
    assert data.courses.shape == (18, 8, COURSE, 2) and data.courses.isfinite().all()
    for family in range(3):
        assert data.courses[data.family == family].std().item() == pytest.approx(1, abs=0.15)


def test_a_point_is_followed_by_its_target(data):
    batch = data.batch(3, 50)
    assert batch.inputs.shape == batch.targets.shape == (50, 16) and batch.labels.shape == (50,)
    states = torch.cat([batch.inputs, batch.targets], 1).view(50, 16, 2)
    steps = (states[:, 1:] - states[:, :-1]).norm(dim=-1)
    assert steps[:, 7].mean() < 2 * steps.mean()  # no jump between the last state shown and the first one asked for


def test_batches_depend_on_seed_and_step_alone(data):
    again = OdeFamilies().build(0)
    for one, other in zip(data.batch(5, 20), again.batch(5, 20), strict=True):
        assert torch.equal(one, other)
    assert not torch.equal(data.batch(5, 20).inputs, data.batch(6, 20).inputs)
    assert not torch.equal(data.courses, OdeFamilies().build(1).courses)


def test_held_out_courses_are_not_shown(data):
    shown = {tuple(state.tolist()) for state in data.courses[:, :, 0].flatten(0, 1)}
    assert not any(tuple(state.tolist()) in shown for state in data._hidden[:, :, 0].flatten(0, 1))


def test_the_loss_of_the_mean_is_one(data):
    held_out = data.held_out()
    mean = held_out.targets.mean(0).expand_as(held_out.targets)
    assert data.loss(mean, held_out).item() == pytest.approx(1, rel=1e-4)
    assert data.loss(held_out.targets, held_out).item() == 0


@pytest.mark.parametrize("setting", [{"environments": 0}, {"window": 31}, {"courses": 0}, {"window": 2.5}])
def test_settings_out_of_range(setting):
    with pytest.raises(BadValue, match=next(iter(setting))):
        OdeFamilies(**setting)


def test_experts_learn_it():
    run = Experiment("topk-softmax", task=OdeFamilies(), watch=None, learning_rate=1e-2).run(150)
    assert run.examine()[0] < 0.5 and math.isfinite(run.examine()[0])
