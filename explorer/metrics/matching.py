"""Which expert of one run is which of another: expert numbers are arbitrary, so runs are matched before they are compared."""

from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from explorer.metrics.checks import need_last, need_same_shape
from explorer.metrics.specialisation import contingency


class Matching(NamedTuple):
    """permutation (n_a,): the expert of B that expert e of A corresponds to, -1 if none is left for it.

    agreement: share of the assignments that meet under it, 0 to 1.
    """

    permutation: Tensor
    agreement: Tensor


def match_experts(index_a: Tensor, index_b: Tensor, n_a: int, n_b: int) -> Matching:
    """The one-to-one matching of the experts of runs A and B under which most assignments of the same tokens meet.

    index_a, index_b: (..., K) (N K) integers, the choices of both runs for the same tokens; K may differ, -1 is an
        empty slot, and the experts of one token are distinct. n_a, n_b: how many experts each run has.
    Co-assignment C_ef counts the tokens that A sends to e and B to f; the matching maximises sum_e C_e,p(e), exactly.
    Of several that are equally good, it is one that keeps most numbers: two dead experts stay themselves.
    agreement, of the larger number of filled slots: 0: no token meets its own expert again; about 1/E for two unrelated
    routers with k = 1 (more for few tokens, since the best matching is sought); 1: the same routing under other
    numbers. NaN without any assignment. The solver runs on the CPU: this waits for the device.
    Source: Kuhn, The Hungarian method for the assignment problem, 1955, doi 10.1002/nav.3800020109.
    """
    need_last("index_a", index_a, "K")
    need_last("index_b", index_b, "K")
    need_same_shape("index_a without its last axis", index_a.shape[:-1], "that of index_b", index_b.shape[:-1])
    together = torch.stack([contingency(a, b, n_a, n_b) for a in index_a.unbind(-1) for b in index_b.unbind(-1)]).sum(
        0
    )  # (n_a, n_b)
    gain = together.cpu().numpy().astype(np.float64)
    partner = assign(-gain * (min(n_a, n_b) + 1) - np.eye(n_a, n_b))  # a kept number weighs less than one token
    matched = partner >= 0
    met = gain[matched, partner[matched]].sum()
    slots = max(int((index_a >= 0).sum()), int((index_b >= 0).sum()))
    agreement = met / slots if slots else np.nan
    return Matching(torch.from_numpy(partner), torch.tensor(agreement, dtype=torch.float64))


def assign(cost_RC: np.ndarray) -> np.ndarray:
    """The column of each row, as int64 (R,), each column at most once, with the smallest sum of finite costs.

    -1 marks the rows that are left over where there are fewer columns than rows. Shortest augmenting paths in
    O(R^2 C) of vectorised steps. Source: Crouse, On implementing 2D rectangular assignment algorithms, 2016,
    doi 10.1109/TAES.2016.140952.
    """
    R, C = cost_RC.shape
    if R > C:
        row_of = assign(cost_RC.T)
        column_of = np.full(R, -1, dtype=np.int64)
        column_of[row_of] = np.arange(C)
        return column_of
    u, v = np.zeros(R), np.zeros(C)  # dual prices: cost - u - v is nowhere negative, and 0 on every pair that is taken
    column_of, row_of = np.full(R, -1, dtype=np.int64), np.full(C, -1, dtype=np.int64)
    for start in range(R):
        open_, price, before = np.full(C, np.inf), v.copy(), np.empty(C, dtype=np.int64)
        row, here, rows, columns, lengths = start, 0.0, [start], [], []
        while True:
            reach = cost_RC[row] - price
            reach += here - u[row]
            np.copyto(before, row, where=reach < open_)
            np.minimum(open_, reach, out=open_)
            column = int(open_.argmin())
            here = float(open_[column])
            if row_of[column] >= 0 and len(free := np.flatnonzero((open_ == here) & (row_of < 0))):
                column = int(free[0])  # of equal paths one that ends: without it, ties cost a walk over all columns
            if row_of[column] < 0:
                break
            columns.append(column)
            lengths.append(here)
            open_[column], price[column] = np.inf, -np.inf  # seen: never reached again
            row = int(row_of[column])
            rows.append(row)
        gone = here - np.array([0.0, *lengths])
        u[rows] += gone
        v[columns] -= gone[1:]
        while column >= 0:  # back along the path: each row hands its column on and takes the next
            row = int(before[column])
            row_of[column] = row
            column_of[row], column = column, int(column_of[row])
    return column_of
