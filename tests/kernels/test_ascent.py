import torch

from explorer.kernels.ascent import ascend


def test_a_linear_loss_drives_every_number_to_the_side_of_its_weight():
    """x = 0.5 with room on both sides; 0.0 and 1.0 are the range of the input, which is not left."""
    x, w = torch.tensor([0.5, 0.5, 0.0, 1.0]), torch.tensor([2.0, -3.0, -1.0, 1.0])
    moved = ascend(lambda one: (w * one).sum(), x, radius=0.1, steps=10, stride=0.05)
    torch.testing.assert_close(moved, torch.tensor([0.6, 0.4, 0.0, 1.0]))
    assert not moved.requires_grad


def test_it_stays_within_the_radius_and_works_without_gradients_outside():
    x = torch.rand(3, 7)
    with torch.no_grad():
        moved = ascend(lambda one: one.sin().sum(), x, radius=0.05, steps=3, stride=0.2)
    assert (moved - x).abs().max() <= 0.05 + 1e-6 and moved.min() >= x.min() and moved.max() <= x.max()
    assert torch.equal(ascend(lambda one: one.sum(), x, radius=0.0, steps=2, stride=1.0), x)
