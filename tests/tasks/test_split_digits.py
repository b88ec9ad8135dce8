"""Split digits: five tasks one after the other, and what is still known of each after each."""

import math

import pytest
import torch

from explorer.errors import BadValue
from explorer.experiment import Experiment
from explorer.tasks.split_digits import SplitDigits, accuracies, after_every_stage


def test_each_task_brings_its_own_two_digits_and_no_other():
    data = SplitDigits(steps_per_task=10, steps_per_epoch=4).build(0)
    for step, expected in [(0, {0, 1}), (9, {0, 1}), (10, {2, 3}), (39, {6, 7}), (40, {8, 9}), (10_000, {8, 9})]:
        assert set(data.batch(step, 200).labels.tolist()) == expected


def test_stages_and_the_progress_of_an_epoch_by_hand():
    data = SplitDigits(steps_per_task=10, steps_per_epoch=4).build(0)
    assert [data.stage(step) for step in (0, 1, 4, 9, 10, 13)] == [
        (0, 0.0), (0, 0.25), (0, 0.0), (0, 0.25), (1, 0.0), (1, 0.75)
    ]  # fmt: skip
    assert data.stage(49) == (4, 0.25) and data.stage(50) == (4, 0.5)  # the last task goes on


def test_held_out_covers_all_digits_and_can_be_had_task_by_task():
    data = SplitDigits().build(0)
    everything = data.held_out()
    assert set(everything.labels.tolist()) == set(range(10)) and len(everything.labels) == 360
    parts = [data.held_out(task) for task in range(5)]
    assert sum(len(part.labels) for part in parts) == 360
    assert all(set(part.labels.tolist()) == {2 * task, 2 * task + 1} for task, part in enumerate(parts))
    with pytest.raises(BadValue, match=r"^task must be from 0 to 4, not 5"):
        data.held_out(5)


def test_the_loss_asks_for_the_two_outputs_of_a_digits_own_task():
    """Digit 3 is the second of task 1: outputs 2 and 3 shall be 'no' and 'yes', and the others may be anything."""
    data = SplitDigits().build(0)
    batch = data.held_out()
    batch = type(batch)(batch.inputs[:1], torch.tensor([3]), torch.tensor([3]))
    outputs = torch.full((1, 10), 50.0)
    outputs[0, 2:4] = torch.tensor([-1.0, 2.0])
    by_hand = (math.log(1 + math.exp(-1)) + math.log(1 + math.exp(-2))) / 2
    assert data.loss(outputs, batch).item() == pytest.approx(by_hand, rel=1e-5)
    outputs.requires_grad_()
    data.loss(outputs, batch).backward()
    assert (outputs.grad[0] != 0).tolist() == [False, False, True, True, *[False] * 6]
    assert data.loss(torch.zeros(360, 10), data.held_out()).item() == pytest.approx(math.log(2), rel=1e-5)


def test_the_numbers_do_not_depend_on_digits_that_have_not_come_yet():
    one = SplitDigits().build(0)
    first = one.batch(0, 1000).inputs
    assert abs(first.mean().item()) < 0.03 and first.std().item() == pytest.approx(1, abs=0.03)


class Oracle(torch.nn.Module):
    """Knows the digits by their pixels, and says so for those of some tasks; for others it says the wrong one of the pair."""

    def __init__(self, data, right):
        super().__init__()
        batch = data.held_out()
        self.known = {
            tuple(row.flatten().tolist()): int(label) for row, label in zip(batch.inputs, batch.labels, strict=True)
        }
        self.right = right

    def forward(self, inputs):
        labels = torch.tensor([self.known[tuple(row.flatten().tolist())] for row in inputs])
        said = torch.where(torch.isin(labels // 2, torch.tensor(self.right)), labels, labels ^ 1)
        outputs = torch.nn.functional.one_hot(said, 10).float()
        outputs[:, 9] += 0.5 * (labels < 2)  # and it likes 9 for the first two digits, but less
        return outputs


class Bare:
    device = torch.device("cpu")

    def __init__(self, right):
        self.data = SplitDigits().build(0)
        self.model = Oracle(self.data, right)


def test_accuracies_of_one_who_knows_tasks_0_and_2():
    found = accuracies(Bare([0, 2]), seen=3)
    assert found[:3].tolist() == [1, 0, 1] and found[3:].isnan().all()
    assert accuracies(Bare([1]), seen=5, known=True).tolist() == [0, 1, 0, 0, 0]


def test_the_matrix_of_a_plain_model_that_forgets():
    task = SplitDigits(steps_per_task=12, steps_per_epoch=6)
    run = Experiment("softmax-attention", task=task, layers=1, d_model=16, heads=2, batch=16, learning_rate=0.01)
    matrix = after_every_stage(run)
    assert matrix.shape == (5, 5) and run.step == 60 and run.recording.steps()[-1] < 60
    assert torch.equal(matrix.isnan(), torch.ones(5, 5, dtype=torch.bool).triu(1))
    assert matrix[0, 0] > 0.7 and matrix[4].mean() < 0.6 and run.model.training


@pytest.mark.parametrize("settings", [{"patch": 3}, {"steps_per_task": 0}, {"steps_per_epoch": 0.5}])
def test_settings_that_make_no_sense_are_refused(settings):
    with pytest.raises(BadValue, match=f"^{next(iter(settings))} must be"):
        SplitDigits(**settings)
