"""The optimizer is torch's AdamW, step for step."""

import copy

import torch
from torch import nn

from explorer.training import AdamW
from explorer.training.adamw import Group


def test_it_moves_like_torch_optim_adamw():
    torch.manual_seed(0)
    ours = nn.Sequential(nn.Linear(5, 7), nn.Tanh(), nn.Linear(7, 3))
    theirs = copy.deepcopy(ours)
    optimizer = AdamW([Group(list(ours.parameters()), scale=2.0, weight_decay=0.1)], betas=(0.8, 0.95))
    reference = torch.optim.AdamW(theirs.parameters(), lr=0.02, betas=(0.8, 0.95), weight_decay=0.1)
    for _ in range(5):
        x = torch.randn(4, 5)
        for model in (ours, theirs):
            model(x).square().sum().backward()
        assert torch.allclose(
            optimizer.gradient_norm(), torch.nn.utils.get_total_norm([p.grad for p in theirs.parameters()])
        )
        optimizer.step(0.01)
        reference.step()
        reference.zero_grad()
    for a, b in zip(ours.parameters(), theirs.parameters(), strict=True):
        assert torch.allclose(a, b, rtol=1e-6, atol=1e-7)
        assert a.grad is None


def test_the_gradient_scale_clips():
    weight = nn.Parameter(torch.zeros(2))
    optimizer = AdamW([Group([weight])], betas=(0.0, 0.0), eps=1.0)
    weight.grad = torch.tensor([3.0, 4.0])
    assert optimizer.gradient_norm() == 5
    optimizer.step(1.0, gradient_scale=0.2)
    assert torch.allclose(weight.detach(), -torch.tensor([0.6 / 1.6, 0.8 / 1.8]))


def test_a_parameter_without_a_gradient_stays():
    a, b = nn.Parameter(torch.ones(1)), nn.Parameter(torch.ones(1))
    optimizer = AdamW([Group([a, b])])
    a.grad = torch.ones(1)
    optimizer.step(0.1)
    assert a.item() < 1
    assert b.item() == 1
