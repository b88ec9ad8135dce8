import math

import pytest
import torch

from explorer.errors import BadValue
from explorer.metrics.continual import forgetting, incremental_accuracy

NAN = math.nan


def test_three_tasks_by_hand():
    """Task 0 was best at 1.0 and is at 0.6, task 1 went from 0.8 to 0.9: (0.4 - 0.1) / 2 = 0.15 forgotten."""
    accuracy = torch.tensor([[1.0, NAN, NAN], [0.7, 0.8, NAN], [0.6, 0.9, 1.0]])
    assert forgetting(accuracy).item() == pytest.approx(0.15)
    assert incremental_accuracy(accuracy).item() == pytest.approx((1.0 + 0.75 + 2.5 / 3) / 3)


def test_what_lies_above_the_diagonal_is_not_read():
    accuracy = torch.tensor([[0.5, 0.0], [0.5, 1.0]])
    other = torch.tensor([[0.5, 99.0], [0.5, 1.0]])
    assert forgetting(accuracy) == forgetting(other) == 0
    assert incremental_accuracy(accuracy) == incremental_accuracy(other) == 0.625


def test_both_ends():
    lost = torch.tensor([[1.0, NAN], [0.0, 1.0]])
    assert forgetting(lost) == 1 and incremental_accuracy(torch.tensor([[1.0]])) == 1
    assert forgetting(torch.tensor([[0.2, NAN], [0.9, 1.0]])).item() == pytest.approx(-0.7)


@pytest.mark.parametrize("shape", [(3,), (2, 3), (1, 1), (0, 0), (2, 2, 2)])
def test_what_is_no_matrix_of_tasks_is_refused(shape):
    with pytest.raises(BadValue, match=r"^accuracy_SA must have a row and a column"):
        forgetting(torch.zeros(shape))
