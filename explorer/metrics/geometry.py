"""Router geometry: how alike the rows of a linear router are, and the plane in which they differ most."""

import torch
from torch import Tensor

from explorer.metrics.checks import need_axes, need_last, need_same_shape


def _double(x: Tensor) -> Tensor:
    return x if x.device.type == "mps" else x.double()  # Apple's GPUs have no float64


def cosine(rows: Tensor) -> Tensor:
    """Cosine similarity of every two router rows, w_a . w_b / (|w_a| |w_b|), from (E, D) to float64 (E, E).

    1: the same direction (two experts compete for the same tokens); 0: nothing in common; -1: opposite. The diagonal is
    1. A row of zeros has no direction: its row and column are NaN, as are those of a row with a NaN.
    Rows of many dimensions are near 0 by chance: about 1/sqrt(D) away from it.
    """
    need_axes("rows", rows, "E D")
    rows = _double(rows)
    unit = rows / rows.norm(dim=-1, keepdim=True)
    return (unit @ unit.T).clamp(-1, 1)


def plane(rows: Tensor, tokens: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Router rows (E, D) and the tokens (N, D) they see, in the plane where the rows differ most.

    Returns (rows (E, 2), tokens (N, 2), explained), float64. The plane is that of the first two principal components of
    the rows about their mean: a shift of all rows alike changes no decision of a softmax or of a top-k. The rows come
    out about their mean; the tokens are not moved, so that at the origin all experts tie, and a token belongs to the
    expert whose row it reaches farthest along, as far as the plane tells.
    explained: share of the rows' variance in the plane; 1: the plane tells all (always up to E = 3); near 2/(E - 1): it
    is as good as any other; NaN where the rows do not differ (E = 1). Directions that the rows do not fill are the
    tokens' own principal ones, or 0. Rows and tokens with a NaN come out NaN and count nowhere.
    """
    need_axes("rows", rows, "E D")
    need_axes("tokens", tokens, "N D")
    need_last("rows", rows, "D")
    need_same_shape("a row", rows.shape[-1:], "a token", tokens.shape[-1:])
    rows, tokens = _double(rows), _double(tokens)
    known_rows, known_tokens = (x[x.isfinite().all(-1)] for x in (rows, tokens))
    rows = rows - (known_rows.mean(0) if len(known_rows) else 0)
    axes, shares = _principal(rows[rows.isfinite().all(-1)])
    explained = shares[:2].sum() if len(shares) else torch.full((), torch.nan, dtype=rows.dtype, device=rows.device)
    if len(axes) < 2:
        centred = known_tokens - known_tokens.mean(0) if len(known_tokens) else known_tokens
        axes = torch.cat([axes, _principal(centred - centred @ axes.T @ axes)[0]])
    axes = torch.nn.functional.pad(axes[:2], (0, 0, 0, max(0, 2 - len(axes))))
    places = rows @ axes.T
    sign = _first_sign(places)
    return places * sign, tokens @ axes.T * sign, explained


def _principal(points: Tensor) -> tuple[Tensor, Tensor]:
    """Principal directions (R, D) of centred points (N, D), the largest first, and their shares of the variance (R,)."""
    if not points.numel():
        return points.new_zeros(0, points.shape[-1]), points.new_zeros(0)
    _, sizes, directions = torch.linalg.svd(points, full_matrices=False)
    some = sizes > 1e-9 * points.norm().clamp(min=1e-30)
    sizes, directions = sizes[some], directions[some]
    return directions, sizes.square() / sizes.square().sum() if len(sizes) else sizes


def _first_sign(places: Tensor) -> Tensor:
    """Signs (2,) that put the first row off an axis on its positive side: an SVD's own sign may jump between steps."""
    size = places.nan_to_num()
    off = size.abs() > 1e-6 * size.abs().amax(0).clamp(min=1e-30) if len(size) else size.bool()
    if not len(size):
        return places.new_ones(2)
    first = off.int().argmax(0)
    sign = size.gather(0, first.unsqueeze(0)).squeeze(0).sign()
    return torch.where(sign == 0, 1.0, sign)
