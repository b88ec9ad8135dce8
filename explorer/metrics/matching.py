"""Which expert of one run is which of another: expert numbers are arbitrary, so runs are matched before they are compared."""

from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from explorer.metrics.checks import need_codes, need_integers, need_last, need_same_shape


class Matching(NamedTuple):
    """permutation (n_a,): the expert of B that expert e of A corresponds to, -1 if none is left for it.

    agreement: share of the assignments that meet under it, 0 to 1.
    """

    permutation: Tensor
    agreement: Tensor


def co_assignment(index_a: Tensor, index_b: Tensor, n_a: int, n_b: int) -> Tensor:
    """Co-assignment C_ef: how many tokens A sends to expert e and B to expert f, as int64 (n_a, n_b).

    index_a, index_b: (..., K) integers, the choices of both for the same tokens; K may differ, -1 is an empty slot, and
        the experts of one token are distinct. 0: the two never met. The sum is that of the products of filled slots.
    """
    for name, index, n in (("index_a", index_a, n_a), ("index_b", index_b, n_b)):
        need_integers(name, index)
        need_last(name, index, "K")
        need_codes(name, index, n)
    need_same_shape("index_a without its last axis", index_a.shape[:-1], "that of index_b", index_b.shape[:-1])
    # experts from 1, so that 0 is an empty slot; a row for each slot, which makes listing the pairs twice as fast
    a_KN, b_KN = (one.reshape(-1, one.shape[-1]).T.int().clamp(min=-1) + 1 for one in (index_a, index_b))
    together = torch.zeros((n_a + 1) * (n_b + 1), dtype=torch.int64, device=index_a.device)
    pairs = len(a_KN) * len(b_KN)
    many = pairs > 256  # then a product of matrices is faster than to list the pairs
    step = max(1, 2**22 // (n_a + n_b + 2) if many else 2**18 // pairs)
    for a, b in zip(a_KN.split(step, 1), b_KN.split(step, 1), strict=True):
        if many:
            together += (_active(a, n_a) @ _active(b, n_b).T).long().flatten()
        else:
            met = (a.contiguous() * (n_b + 1)).unsqueeze(1) + b.contiguous()
            together += torch.bincount(met.flatten(), minlength=len(together))
    return together.view(n_a + 1, n_b + 1)[1:, 1:]


def _active(codes_KN: Tensor, n: int) -> Tensor:
    """(1 + n, N): 1 where a token has the code."""
    return torch.zeros(n + 1, codes_KN.shape[1], device=codes_KN.device).scatter_(0, codes_KN.long(), 1.0)


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
    together = co_assignment(index_a, index_b, n_a, n_b)
    return match_counts(together, max(int((index_a >= 0).sum()), int((index_b >= 0).sum())))


def match_counts(together: Tensor, slots: int) -> Matching:
    """`match_experts` of a co-assignment (n_a, n_b) that is known already; slots: the larger number of filled slots."""
    gain = together.cpu().numpy().astype(np.float64)
    partner = assign(-gain * (min(gain.shape) + 1) - np.eye(*gain.shape))  # a kept number weighs less than one token
    matched = partner >= 0
    met = gain[matched, partner[matched]].sum()
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
    u, v = (
        cost_RC.min(1) if C else np.zeros(R),
        np.zeros(C),
    )  # prices: cost - u - v is nowhere below 0, and 0 where taken
    column_of, row_of = np.full(R, -1, dtype=np.int64), np.full(C, -1, dtype=np.int64)
    for row, column in enumerate(cost_RC.argmin(1).tolist() if C else []):
        if row_of[column] < 0:  # the first that asks for its cheapest column has it
            column_of[row], row_of[column] = column, row
    for start in np.flatnonzero(column_of < 0).tolist():
        open_, price, before = np.full(C, np.inf), v.copy(), np.empty(C, dtype=np.int64)
        row, here, rows, columns, lengths, free = start, 0.0, [start], [], [], row_of < 0
        while True:
            reach = cost_RC[row] - price
            reach += here - u[row]
            np.copyto(before, row, where=reach < open_)
            np.minimum(open_, reach, out=open_)
            column = int(open_.argmin())
            here = float(open_[column])
            ends = free & (open_ == here)
            if ends[last := int(ends.argmax())]:
                column = last  # of equal paths one that ends: without it, ties cost a walk over all columns
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
