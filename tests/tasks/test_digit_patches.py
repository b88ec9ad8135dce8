"""Digit patches: pictures cut up and put in a row, with few or many of them to learn from."""

import pytest
import torch

from explorer.errors import BadValue
from explorer.tasks import digits
from explorer.tasks.digit_patches import DigitPatches, patches, shuffled, standardised


def pixels(inputs, side):
    """A picture put together again from its patches, one pixel at a time."""
    picture, across = torch.zeros(8, 8), 8 // side
    for t, patch in enumerate(inputs):
        for p, value in enumerate(patch):
            picture[t // across * side + p // side, t % across * side + p % side] = value
    return picture


@pytest.mark.parametrize("side, length", [(1, 64), (2, 16), (4, 4)])
def test_patches_stand_line_by_line_and_nothing_is_lost(side, length):
    data = DigitPatches(patch=side).build(0)
    assert (data.kind, data.width, data.length, data.outputs, data.pooled) == ("sequences", side**2, length, 10, True)
    batch = data.held_out()
    assert batch.inputs.shape == (360, length, side**2) and batch.inputs.dtype == torch.float32
    pictures, labels, _ = shuffled()
    whole = standardised(pictures, torch.arange(360, 1797))
    torch.testing.assert_close(pixels(batch.inputs[5], side), whole[5])
    assert torch.equal(batch.labels, labels[:360]) and torch.equal(batch.targets, batch.labels)


def test_patches_by_hand():
    """The first patch of 2 x 2 holds pixels 0, 1, 8 and 9 of an 8 x 8 picture, the second 2, 3, 10 and 11."""
    rows = patches(torch.arange(64.0).view(1, 8, 8), 2)[0]
    assert (
        rows[0].tolist() == [0, 1, 8, 9] and rows[1].tolist() == [2, 3, 10, 11] and rows[4].tolist() == [16, 17, 24, 25]
    )


def test_the_held_out_digits_are_those_of_the_task_digits_and_are_never_trained_on():
    data = DigitPatches(patch=1).build(4)
    theirs = digits.Digits().build(0).held_out()
    assert torch.equal(data.held_out().labels, theirs.labels)
    held_out = {tuple(row.flatten().tolist()) for row in data.held_out().inputs}
    seen = {tuple(row.flatten().tolist()) for row in data.batch(0, 5000).inputs}
    assert not held_out & seen and 1300 < len(seen) <= 1437


def test_few_digits_are_few_and_the_seed_chooses_them():
    seen = []
    for seed in (0, 1):
        data = DigitPatches(n_train=50).build(seed)
        inputs = torch.cat([data.batch(step, 64).inputs for step in range(20)])
        distinct = {tuple(round(x, 3) for x in row.flatten().tolist()) for row in inputs}
        assert len(distinct) == 50
        seen.append(distinct)
    assert seen[0] != seen[1]


def test_what_is_trained_on_has_mean_0_and_deviation_1():
    inputs = DigitPatches().build(0).batch(0, 5000).inputs
    assert abs(inputs.mean().item()) < 0.02 and inputs.std().item() == pytest.approx(1, abs=0.02)


def test_guessing_costs_ln_10():
    data = DigitPatches().build(0)
    batch = data.batch(0, 7)
    assert data.loss(torch.zeros(7, 10), batch).item() == pytest.approx(2.302585, abs=1e-5)
    assert data.loss(100 * torch.nn.functional.one_hot(batch.targets, 10).float(), batch) == 0


@pytest.mark.parametrize("patch", [0, 3, 8, -1, True, "2", None])
def test_patches_that_do_not_fill_a_picture_are_refused(patch):
    with pytest.raises(BadValue, match=r"^patch must be 1, 2 or 4 pixels, not "):
        DigitPatches(patch=patch)


@pytest.mark.parametrize("n_train", [0, 9, 1438, 100.5, True])
def test_more_digits_than_there_are_or_fewer_than_classes_are_refused(n_train):
    with pytest.raises(BadValue, match=r"^n_train must be"):
        DigitPatches(n_train=n_train)


def test_the_same_seed_gives_the_same_batch():
    one, two = (DigitPatches(n_train=200).build(3).batch(9, 16) for _ in range(2))
    assert all(torch.equal(a, b) for a, b in zip(one, two, strict=True))
    assert not torch.equal(one.inputs, DigitPatches(n_train=200).build(3).batch(10, 16).inputs)
