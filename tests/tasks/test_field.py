"""The field: a picture with one right answer at every point, smooth on the left and grained on the right."""

import pytest
import torch

from explorer.errors import BadValue
from explorer.tasks.field import HELD_OUT_SIDE, Field


def test_a_batch_is_the_picture_at_its_points_and_depends_on_seed_step_and_size_alone():
    data = Field().build(3)
    one, two = data.batch(5, 40), Field().build(3).batch(5, 40)
    assert all(torch.equal(a, b) for a, b in zip(one, two, strict=True))
    assert torch.equal(one.targets, data.at(one.inputs))
    assert torch.equal(one.labels, (one.inputs[:, 0] >= 0).long())
    assert not torch.equal(one.inputs, data.batch(6, 40).inputs) and not torch.equal(
        one.targets, Field().build(4).at(one.inputs)
    )


def test_noise_is_added_in_training_and_never_to_the_held_out_points():
    clean, noisy = Field().build(0), Field(noise=0.5).build(0)
    given, shown = clean.batch(2, 20_000), noisy.batch(2, 20_000)
    assert torch.equal(given.inputs, shown.inputs)
    assert (shown.targets - given.targets).std().item() == pytest.approx(0.5, rel=0.02)
    assert torch.equal(clean.held_out().targets, noisy.held_out().targets)


def test_the_grain_is_the_knots_at_the_corners_of_the_cells_and_their_mean_half_way():
    data = Field(grain=4).build(1)
    smooth = Field(grain=4, contrast=0).build(1)
    points = torch.tensor([[0.5, -0.5], [0.75, -0.5]])  # knot (3, 1) and half-way to knot (4, 1)
    grain = data.at(points) - smooth.at(points)
    expected = 1.5 * torch.stack([data.knots[3, 1], (data.knots[3, 1] + data.knots[4, 1]) / 2])
    torch.testing.assert_close(grain, expected)
    left = torch.tensor([[-0.5, 0.3]])
    assert torch.equal(data.at(left), smooth.at(left))


def test_the_held_out_picture_stands_upright_and_its_loss_is_a_share_of_its_variance():
    data = Field().build(0)
    batch = data.held_out()
    assert batch.inputs.shape == batch.targets.shape == (HELD_OUT_SIDE**2, 2)
    assert batch.inputs[0, 0] < 0 < batch.inputs[0, 1] and batch.inputs[0].abs().max() < 1  # top left first
    assert data.loss(batch.targets, batch) == 0
    mean = batch.targets.mean(0).expand_as(batch.targets)
    assert data.loss(mean, batch).item() == pytest.approx(1, rel=1e-4)
    assert data.bounds() == (-1.0, 1.0, -1.0, 1.0) and data.describe()["task"] == "field"


def test_the_right_half_is_finer_than_the_left():
    picture = Field().build(0).held_out().targets.view(HELD_OUT_SIDE, HELD_OUT_SIDE, 2)
    steps = picture.diff(dim=1).square().mean((0, 2))
    assert steps[HELD_OUT_SIDE // 2 :].mean() > 20 * steps[: HELD_OUT_SIDE // 2 - 1].mean()


@pytest.mark.parametrize("wrong", [{"grain": 1}, {"grain": 2.5}, {"contrast": -1}, {"noise": float("nan")}])
def test_a_setting_out_of_range_is_named(wrong):
    with pytest.raises(BadValue, match=next(iter(wrong))):
        Field(**wrong)
