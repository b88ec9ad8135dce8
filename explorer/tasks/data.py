"""What a task gives: batches that depend on (seed, step, size) alone, so that a run can be forked and replayed."""

import hashlib
import numbers
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor
from torch.nn import functional as F

from explorer.errors import BadValue

UNSCORED = -100


class Batch(NamedTuple):
    """One batch, on the CPU.

    tokens:  inputs (B,T) int64; targets (B,T) int64, -100 where nothing is scored; labels (B,T) int64, one a token
    vectors: inputs (B,D) float32; targets (B,D) float32; labels (B,) int64, one a vector
    sequences: inputs (B,T,width) float32; targets as the task's loss wants them; labels (B,) or (B,T) int64
    """

    inputs: Tensor
    targets: Tensor
    labels: Tensor


class Data(Protocol):
    """What `build(seed)` of every task returns. A `tokens` task has also `vocab: int`, `sequence: int` and
    `decode(tokens) -> list[str]`; a `vectors` task has also `width: int` (D); a `sequences` task has also `width: int`,
    `length: int` (T), `outputs: int` (C) and `pooled: bool`: whether the model answers once (B,C) or everywhere (B,T,C).
    Data that come in stages, one task after another, have also `stage(step) -> (task: int, progress within an epoch)`."""

    kind: str
    """"tokens", "vectors" or "sequences"."""
    label_names: list[str]
    """What the numbers in `Batch.labels` mean."""

    def batch(self, step: int, size: int) -> Batch:
        """The training batch of `step`: a pure function of (seed, step, size)."""

    def held_out(self) -> Batch:
        """A fixed batch that training never shows."""

    def loss(self, outputs: Tensor, batch: Batch) -> Tensor:
        """A scalar, lower is better; a token task: cross entropy in nats a scored token."""

    def describe(self) -> dict[str, Any]:
        """What was read or drawn, as JSON: enough to tell whether two machines saw the same data."""


class Task(Protocol):
    """A frozen dataclass whose fields say everything about the data but the seed."""

    def build(self, seed: int) -> Data:
        """The data; nothing but `seed` and the fields decides it (and, for text, the files that are read)."""


def unit(data: Any) -> str:
    """Of the loss of a task's data, as a picture's axis says it; data with an unusual loss have a `unit` of their own."""
    own: str | None = getattr(data, "unit", None)
    return own or {"tokens": "nats/token", "vectors": "of the variance"}.get(data.kind, "")


class Stream:
    """Random numbers for (seed, purpose, step) without any state.

    torch's CPU generator is seeded by 32 bits. For one seed and purpose, different steps (below 2**32) are sure to get
    different ones: the step is added to a key and multiplied by an odd number, which is one-to-one.
    """

    def __init__(self, seed: int, purpose: str) -> None:
        digest = hashlib.sha256(f"{whole('seed', seed, 0)}/{purpose}".encode()).digest()
        self.key = int.from_bytes(digest[:4], "little")

    def at(self, step: int) -> torch.Generator:
        mixed = ((self.key + step) * 0x9E3779B1) & 0xFFFFFFFF
        return torch.Generator().manual_seed(mixed)


def token_loss(logits_BTV: Tensor, batch: Batch) -> Tensor:
    """Cross entropy in nats a scored target; uniform guessing costs log(V)."""
    return F.cross_entropy(logits_BTV.flatten(0, 1), batch.targets.flatten(), ignore_index=UNSCORED)


def whole(name: str, value: Any, low: int, high: int | None = None) -> int:
    """`value` if it is a whole number from `low` to `high`, else BadValue."""
    if isinstance(value, bool) or not isinstance(value, numbers.Integral):
        raise BadValue(f"{name} must be a whole number, not {value!r}")
    number = int(value)
    if number < low or (high is not None and number > high):
        raise BadValue(f"{name} must be {_between(low, high)}, not {number}")
    return number


def real(name: str, value: Any, low: float, high: float, *, below: bool = False) -> float:
    """`value` if it is a number from `low` to `high` (with `below`: less than `high`), else BadValue."""
    if isinstance(value, bool) or not isinstance(value, numbers.Real):
        raise BadValue(f"{name} must be a number, not {value!r}")
    number = float(value)
    if not low <= number <= high or (below and number == high):
        bounds = f"at least {low:g} and less than {high:g}" if below else _between(low, high)
        raise BadValue(f"{name} must be {bounds}, not {number:g}")
    return number


def settle(config: Any, **values: Any) -> None:
    """Writes checked values into a frozen dataclass: plain Python numbers and tuples, which JSON and hash() accept."""
    for name, value in values.items():
        object.__setattr__(config, name, value)


def _between(low: float, high: float | None) -> str:
    return f"at least {low:,}" if high is None else f"from {low:,} to {high:,}"
