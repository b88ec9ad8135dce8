"""Router geometry: cosines and the plane of the rows."""

import math

import pytest
import torch

from explorer import metrics
from explorer.errors import BadValue


def test_cosine_by_hand():
    rows = torch.tensor([[2.0, 0, 0], [3, 3, 0], [-1, 0, 0], [0, 0, 0]])
    cosine = metrics.cosine(rows)
    assert cosine.dtype == torch.float64
    torch.testing.assert_close(cosine[0, :3], torch.tensor([1, math.sqrt(0.5), -1], dtype=torch.float64))
    assert cosine[3].isnan().all() and cosine[:3, 3].isnan().all()
    with pytest.raises(BadValue, match="E D"):
        metrics.cosine(torch.ones(3))


def test_the_plane_of_flat_rows_shows_all_of_them():
    rows = torch.randn(5, 2, generator=torch.Generator().manual_seed(0))
    turn = torch.linalg.qr(torch.randn(7, 7, generator=torch.Generator().manual_seed(1)))[0]
    hidden = torch.nn.functional.pad(rows, (0, 5)) @ turn + 3  # a plane somewhere in seven dimensions
    tokens = torch.randn(40, 7, generator=torch.Generator().manual_seed(2))
    rows_E2, tokens_N2, explained = metrics.plane(hidden, tokens)
    assert explained.item() == pytest.approx(1)
    torch.testing.assert_close(
        torch.cdist(rows_E2, rows_E2), torch.cdist(rows.double(), rows.double()), rtol=1e-5, atol=1e-5
    )
    winner = (tokens @ hidden.T).argmax(-1)
    assert (tokens_N2 @ rows_E2.T).argmax(-1).equal(winner)  # the plane decides as the router does


def test_the_plane_is_the_best_of_all_planes_and_keeps_its_sign():
    rows, tokens = torch.randn(9, 6), torch.randn(30, 6)
    rows_E2, _, explained = metrics.plane(rows, tokens)
    sizes = torch.linalg.svdvals((rows - rows.mean(0)).double()).square()
    assert explained.item() == pytest.approx((sizes[:2].sum() / sizes.sum()).item())
    assert (rows_E2[0] > 0).all()
    again, _, _ = metrics.plane(rows + 1e-9 * torch.randn(9, 6), tokens)
    torch.testing.assert_close(again, rows_E2, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("rows", [torch.eye(5)[:1], torch.zeros(3, 5), torch.ones(4, 5), torch.eye(5)[:2] + 0.3])
def test_where_rows_do_not_fill_a_plane_the_tokens_do(rows):
    tokens = torch.randn(50, 5)
    rows_E2, tokens_N2, explained = metrics.plane(rows, tokens)
    assert rows_E2.shape == (len(rows), 2) and rows_E2.isfinite().all()
    assert (tokens_N2.std(0) > 0.1).all()
    assert explained.isnan() if len(rows) != 2 else explained == 1


def test_nan_stays_where_it_is():
    rows, tokens = torch.randn(4, 5), torch.randn(20, 5)
    clean = metrics.plane(rows[1:], tokens[1:])
    rows[0], tokens[0, 2] = math.nan, math.nan
    rows_E2, tokens_N2, explained = metrics.plane(rows, tokens)
    assert rows_E2[0].isnan().all() and tokens_N2[0].isnan().all()
    torch.testing.assert_close((rows_E2[1:], tokens_N2[1:], explained), clean)


def test_no_tokens_and_one_dimension_are_no_reason_to_fail():
    rows_E2, tokens_N2, _ = metrics.plane(torch.tensor([[1.0], [-1.0]]), torch.zeros(0, 1))
    torch.testing.assert_close(rows_E2, torch.tensor([[1.0, 0], [-1, 0]], dtype=torch.float64))
    assert tokens_N2.shape == (0, 2)
    with pytest.raises(BadValue, match="a row has the shape"):
        metrics.plane(torch.ones(2, 3), torch.ones(4, 5))
