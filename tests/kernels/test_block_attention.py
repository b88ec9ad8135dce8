"""Blocks of attention: the pooled map by hand and against loops, and which blocks a budget keeps."""

import math

import pytest
import torch

from explorer.kernels.block_attention import ROWS, block_maps, block_recall, choose_blocks, tokens_of


def test_three_tokens_in_blocks_of_two_by_hand():
    """All scores are zero, so that rows are even: (1, 0, 0), (1/2, 1/2, 0), (1/3, 1/3, 1/3).

    Largest weights: 1 in the first block; in the second 1/3 and 1/3, over their sum 1/2 and 1/2. Mass: 1; then 2/3 and 1/3.
    """
    q = torch.zeros(1, 1, 3, 4)
    largest, mass = block_maps(q, torch.randn(1, 1, 3, 4), 2)
    torch.testing.assert_close(largest[0, 0], torch.tensor([[1.0, 0.0], [0.5, 0.5]]))
    torch.testing.assert_close(mass[0, 0], torch.tensor([[1.0, 0.0], [2 / 3, 1 / 3]]))


@pytest.mark.parametrize("T, block", [(1, 4), (7, 3), (8, 1), (63, 5), (ROWS + 9, 4), (2 * ROWS + 1, 64), (90, 100)])
def test_agrees_with_the_whole_map_read_in_loops(T, block):
    torch.manual_seed(T)
    q, k = torch.randn(2, 3, T, 6, dtype=torch.float64), torch.randn(2, 3, T, 6, dtype=torch.float64)
    scores = (q @ k.transpose(-1, -2) / math.sqrt(6)).masked_fill(
        torch.ones(T, T, dtype=torch.bool).triu(1), -torch.inf
    )
    whole = scores.softmax(-1)
    M = math.ceil(T / block)
    largest, mass = torch.zeros(2, 3, M, M).double(), torch.zeros(2, 3, M, M).double()
    for m in range(M):
        for n in range(M):
            part = whole[:, :, m * block : (m + 1) * block, n * block : (n + 1) * block]
            largest[:, :, m, n], mass[:, :, m, n] = part.amax((2, 3)), part.sum(3).mean(2)
    ours = block_maps(q, k, block)
    torch.testing.assert_close(ours[0], largest / largest.sum(-1, keepdim=True))
    torch.testing.assert_close(ours[1], mass)
    torch.testing.assert_close(ours[1].sum(-1), torch.ones(2, 3, M).double())


def test_a_budget_keeps_its_own_block_the_best_before_it_and_all_of_the_last_rows():
    """M = 8 and density 7/16: k = (1 - 3/4) 8 = 2 blocks a row, its own and the best one before."""
    scores = torch.tensor([0.0, 5.0, 1.0, 2.0, 3.0, 4.0, 0.0, 9.0]).expand(1, 1, 8, 8)
    kept = choose_blocks(scores, 7 / 16)[0, 0]
    assert [row.nonzero().flatten().tolist() for row in kept[:6]] == [[0], [0, 1], [1, 2], [1, 3], [1, 4], [1, 5]]
    assert kept[6].sum() == 7 and kept[7].all()
    assert choose_blocks(scores, 7 / 16, dense_rows=0)[0, 0, 7].nonzero().flatten().tolist() == [1, 7]


@pytest.mark.parametrize("M", [1, 2, 5, 16, 40])
def test_the_share_of_kept_blocks_is_about_the_density(M):
    for density in (1e-6, 0.1, 0.25, 0.5, 0.9, 1.0):
        kept = choose_blocks(torch.randn(2, 3, M, M), density, dense_rows=0)
        assert kept.diagonal(dim1=-2, dim2=-1).all() and not kept.triu(1).any()
        share = kept.sum() / kept.numel() / ((M + 1) / (2 * M))
        assert abs(share - density) < 2.5 / M or density < 2 / M
    assert torch.equal(kept[0, 0], torch.ones(M, M, dtype=torch.bool).tril())


def test_blocks_stand_for_their_tokens():
    kept = torch.tensor([[[[True, False], [False, True]]]])
    may = tokens_of(kept, 2, 3)[0, 0]
    assert may.tolist() == [[True, False, False], [True, True, False], [False, False, True]]


def test_recall_counts_the_rows_that_leave_something_out():
    """Rows 0 and 1 keep all they have, 4 and 5 are the dense ones: 2 and 3 count, with 0.6 and 0.4 of their mass kept."""
    mass = torch.zeros(6, 6)
    mass[2, :3], mass[3, :4] = torch.tensor([0.4, 0.3, 0.3]), torch.tensor([0.6, 0.0, 0.2, 0.2])
    mass[0, 0] = mass[1, 1] = 1
    mass[4:] = 1 / 6
    kept = torch.ones(6, 6, dtype=torch.bool).tril()
    kept[2, 0] = kept[3, 0] = False
    assert block_recall(mass[None, None], kept[None, None]).item() == pytest.approx(0.5)
    everything = torch.ones(1, 1, 6, 6, dtype=torch.bool).tril()
    assert block_recall(mass[None, None], everything).item() == 1


def test_no_gradient_reaches_queries_or_keys_and_half_precision_is_read_in_single():
    q = torch.randn(1, 2, 9, 4, requires_grad=True)
    largest, mass = block_maps(q, q, 2)
    assert not largest.requires_grad and not mass.requires_grad
    assert all(one.dtype == torch.float32 for one in block_maps(q.half(), q.half(), 2))
