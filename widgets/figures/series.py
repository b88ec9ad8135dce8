"""The numbers of a picture: any tensor as a small array, and long runs thinned so that drawn points stay in place."""

from collections.abc import Mapping
from typing import Any

import numpy as np

MOST_POINTS = 400


def numbers(values: Any) -> np.ndarray:
    """Any tensor, array or sequence as float32: enough for a picture and half the bytes of float64."""
    if hasattr(values, "detach"):
        values = values.detach().cpu().float().numpy()
    return np.asarray(values, dtype=np.float32)


def counts(values: Any) -> np.ndarray:
    """Step numbers as int32 (int64 has no typed array that plotly.js can draw)."""
    if hasattr(values, "detach"):
        values = values.detach().cpu().numpy()
    return np.asarray(values, dtype=np.int32)


def stride(length: int, most: int = MOST_POINTS) -> int:
    """The power of two by which a run of `length` points is thinned: at most `most` points remain.

    A power of two, counted from the start: the points already drawn stay where they are while the run grows.
    """
    return 1 << max(0, int(np.ceil(np.log2(max(length, 1) / most))))


def thin(values_SX: np.ndarray, every: int) -> np.ndarray:
    """Means over groups of `every` rows (the last group may be shorter); NaN counts as missing."""
    if every == 1 or not len(values_SX):
        return values_SX
    starts = np.arange(0, len(values_SX), every)
    known = np.isfinite(values_SX)
    total = np.add.reduceat(np.where(known, values_SX, 0), starts, axis=0)
    number = np.add.reduceat(known.astype(np.float32), starts, axis=0)
    with np.errstate(invalid="ignore", divide="ignore"):
        return (total / number).astype(np.float32)


def thin_steps(steps_S: np.ndarray, every: int) -> np.ndarray:
    """The last step of each group, to go with `thin`: a mean is known when its last step is."""
    if every == 1 or not len(steps_S):
        return steps_S
    return np.append(steps_S[every - 1 :: every], steps_S[-1:]) if len(steps_S) % every else steps_S[every - 1 :: every]


def ahead(last: float) -> list[float]:
    """The range of the steps so far with some room: an end that stays for many frames, so that only lines are redrawn."""
    power = 10.0 ** np.floor(np.log10(max(last, 10)))
    return [0.0, float(next(m * power for m in (1, 1.25, 1.5, 2, 2.5, 3, 4, 5, 6, 8, 10) if m * power >= last))]


def named(values: Mapping[str, Any] | Any, word: str = "layer") -> dict[str, Any]:
    """A mapping as it is; a two-dimensional array (names x steps) as {"layer 0": row, ...}."""
    if isinstance(values, Mapping):
        return dict(values)
    return {f"{word} {i}": row for i, row in enumerate(numbers(values))}
