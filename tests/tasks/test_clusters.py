"""Clusters: every point is mapped by the matrix of its own cluster, exactly."""

import math

import pytest
import torch

from explorer.errors import BadValue
from explorer.tasks import Clusters


@pytest.mark.parametrize("dimensions", [2, 3, 16])
@pytest.mark.parametrize("common", [0, 3])
def test_targets_are_the_exact_maps_of_the_points_without_the_offset(dimensions, common):
    data = Clusters(dimensions=dimensions, clusters=5, common=common).build(1)
    for x_BD, y_BD, labels_B in (data.batch(3, 40), data.held_out()):
        expected = torch.stack([data.maps[c] @ x for c, x in zip(labels_B, x_BD - data.offset, strict=True)])
        torch.testing.assert_close(y_BD, expected, atol=1e-5, rtol=1e-4)


def test_points_scatter_around_their_own_mean_by_the_noise():
    data = Clusters(noise=0.25, common=2).build(0)
    x_BD, _, labels_B = data.batch(0, 20_000)
    rest = x_BD - data.offset - data.means[labels_B]
    assert rest.std().item() == pytest.approx(0.25, rel=0.02)
    assert rest.mean().item() == pytest.approx(0, abs=0.005)


def test_the_offset_moves_inputs_and_leaves_targets_alone():
    plain, moved = Clusters().build(4).held_out(), Clusters(common=3).build(4).held_out()
    assert torch.equal(plain.targets, moved.targets)
    shift = moved.inputs - plain.inputs
    torch.testing.assert_close(shift, shift[:1].expand_as(shift), atol=1e-5, rtol=0)
    assert shift.norm() > 0


def test_without_noise_every_point_is_its_mean():
    data = Clusters(noise=0).build(0)
    x_BD, _, labels_B = data.batch(0, 10)
    assert torch.equal(x_BD, data.means[labels_B])


def test_training_draws_all_clusters_alike_and_held_out_points_are_balanced_exactly():
    data = Clusters().build(0)
    counts = data.batch(0, 8000).labels.bincount()
    assert counts.min() > 850 and counts.max() < 1150
    assert data.held_out().labels.bincount().tolist() == [256] * 8


def test_perfect_outputs_cost_nothing_and_the_mean_costs_one():
    data = Clusters().build(0)
    batch = data.held_out()
    assert data.loss(batch.targets, batch).item() == 0
    assert data.loss(batch.targets.mean(0).expand_as(batch.targets), batch).item() == pytest.approx(1, rel=1e-4)


def test_the_loss_of_a_single_point_is_finite():
    data = Clusters().build(0)
    assert data.loss(torch.zeros(1, 16), data.batch(0, 1)).isfinite()


@pytest.mark.parametrize("clusters", [2, 8, 32])
def test_in_the_plane_the_means_stand_on_a_ring_far_enough_apart_to_be_told_apart(clusters):
    means = Clusters(dimensions=2, clusters=clusters).build(0).means
    apart = torch.cdist(means, means) + torch.eye(clusters) * 99
    assert apart.min() > 4 * 0.5
    assert means.norm(dim=1).std().item() == pytest.approx(0, abs=1e-4)


def test_a_nearest_mean_gate_finds_the_clusters_of_the_plane():
    data = Clusters(dimensions=2).build(0)
    x_BD, _, labels_B = data.held_out()
    assert (torch.cdist(x_BD, data.means + data.offset).argmin(1) == labels_B).float().mean() > 0.95


def test_the_bounds_cover_the_held_out_points():
    data = Clusters(dimensions=2, common=3).build(2)
    x_low, x_high, y_low, y_high = data.bounds()
    x, y = data.held_out().inputs.unbind(1)
    assert x_low < x.min() and x.max() < x_high and y_low < y.min() and y.max() < y_high
    assert x_high - x_low < 1.2 * (x.max() - x.min())


def test_bounds_are_for_the_plane_only():
    with pytest.raises(BadValue, match="2 dimensions, these have 16"):
        Clusters().build(0).bounds()


@pytest.mark.parametrize(
    "wrong, message",
    [
        ({"dimensions": 0}, "dimensions must be from 1 to 256, not 0"),
        ({"dimensions": 2.5}, "dimensions must be a whole number, not 2.5"),
        ({"clusters": 0}, "clusters must be from 1 to 256, not 0"),
        ({"clusters": "8"}, "clusters must be a whole number, not '8'"),
        ({"noise": -0.1}, "noise must be from 0 to 1,000, not -0.1"),
        ({"noise": math.nan}, "noise must be from 0 to 1,000, not nan"),
        ({"common": math.inf}, "common must be from 0 to 1,000, not inf"),
        ({"common": None}, "common must be a number, not None"),
        (
            {"clusters": 1, "noise": 0},
            "one cluster without noise is a single point: set noise above 0 or clusters above 1",
        ),
    ],
)
def test_bad_values_are_named(wrong, message):
    with pytest.raises(BadValue) as caught:
        Clusters(**wrong)
    assert str(caught.value) == message
