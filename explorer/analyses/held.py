"""What a recording holds, whoever made it: its layers, and the tokens of all its steps on one grid (B, T).

A step that goes on where the one before it ended (a decoding step) stands to the right of it, any other below. Where that
would be mostly padding, as of a serving engine's many small passes, all tokens stand in one row.
"""

import copy
from collections.abc import Callable, Mapping
from functools import cached_property
from typing import NamedTuple

import torch
from torch import Tensor

from explorer.errors import RecordingError, unknown
from explorer.metrics.specialisation import first_expert
from explorer.recording import Recording, Series
from explorer.taps import full_name

PHASES = ("prefill", "decode", "whole")


class Place(NamedTuple):
    """Where the (b, t) tokens of a step begin on the grid; goes_on: behind those of the step before."""

    row: int
    column: int
    b: int
    t: int
    goes_on: bool = False


class Grid(NamedTuple):
    """shape (B, T) of all tokens; places by step."""

    shape: tuple[int, int]
    places: dict[int, Place]

    def join(self, parts: Mapping[int, Tensor], padding: float) -> Tensor:
        """(b, t, ...) of each step -> (B, T, ...); steps without it, and what is behind the end of one, are padding."""
        some = list(parts.values())
        if len(self.places) == len(some) == 1 and some[0].shape[:2] == self.shape:
            return some[0]
        rest = tuple(max(sizes) for sizes in zip(*(one.shape[2:] for one in some), strict=True))
        whole = torch.full((*self.shape, *rest), padding, dtype=some[0].dtype)
        for step, part in parts.items():
            place = self.cut(whole, step)
            values = part.flatten(0, 1) if place.ndim < part.ndim else part
            for axis, size in enumerate(part.shape[2:], place.ndim - len(rest)):
                place = place.narrow(axis, 0, size)
            place.copy_(values)
        return whole

    def cut(self, whole: Tensor, step: int) -> Tensor:
        """The (b, t, ...) of one step in (B, T, ...), or its (b * t, ...) where all tokens stand in one row."""
        row, column, b, t, _ = self.places[step]
        return whole[0, column : column + b * t] if self.shape[0] == 1 else whole[row : row + b, column : column + t]


class Tokens:
    """The held steps of a recording that chose experts, read as one: every tensor here has the axes (B, T, ...)."""

    def __init__(self, rec: Recording) -> None:
        self.rec = rec
        self.layers = rec.layers()
        rec.steps()  # takes in what a recorder that still listens has heard
        self.steps = {step: tensors for step, tensors in rec._kept if any(map(_is_index, tensors.items()))}

    @cached_property
    def grid(self) -> Grid:
        """Of the texts: of "/tokens" or "/valid" where a step has them, else of the first layer that chose."""
        return self._grid({step: _shape(tensors) for step, tensors in self.steps.items()})

    @cached_property
    def valid(self) -> Tensor:
        """bool (B, T): False for padding; every token of a step that does not say."""
        parts = {}
        for step, place in self.grid.places.items():
            shape, tensors = (place.b, place.t), self.steps[step]
            known, position = tensors.get("/valid"), tensors.get("/position")
            if known is not None and known.shape == shape:
                parts[step] = known.bool()
            elif position is not None and position.shape == shape:
                parts[step] = position >= 0
            else:
                parts[step] = torch.ones(shape, dtype=torch.bool)
        return self.grid.join(parts, False) if parts else torch.zeros(self.grid.shape, dtype=torch.bool)

    def tap(self, name: str, padding: float) -> Tensor | None:
        """A tap of the model's own (B, T); None where no step has it in the shape of its tokens."""
        parts = {
            step: tensors[name]
            for step, tensors in self.steps.items()
            if name in tensors and tensors[name].shape == self.grid.places[step][2:4]
        }
        return self.grid.join(parts, padding) if parts else None

    def index(self, layer: str) -> Tensor:
        """(B, T, K) the experts of a layer, -1 for empty slots and padding."""
        return self.need(layer, "index", -1)

    def strongest(self, layer: str) -> Tensor:
        """(B, T) the expert with the largest weight (of the first slot where weights were not recorded), -1 for none."""
        index, weights = self.index(layer), self.of(layer, "weights", 0)
        if weights is None or weights.shape != index.shape:
            return index[..., 0]
        return first_expert(index, weights)

    def need(self, layer: str, tap: str, padding: float) -> Tensor:
        """A tap of a layer as (B, T, ...), or the error that says why it is not there."""
        found = self.of(layer, tap, padding)
        if found is not None:
            return found
        if layer not in self.layers:
            raise unknown("recorded routing layer", layer, self.layers)
        if not any(full_name(layer, "index") in tensors for tensors in self.steps.values()):
            raise self.missing(layer)
        raise RecordingError(f"this recording holds no {tap} of {layer}, only its choices: {HOW[tap]}")

    def missing(self, what: str) -> RecordingError:
        """The error for a question about single tokens, where only counts are known."""
        source = self.rec.header.get("source", {})
        if source.get("counts_only"):
            engine = source.get("engine", "its engine")
            return RecordingError(f"{engine} recorded {what} as counts alone: which token chose what is not in them")
        return RecordingError(
            f"no step of {what} holds its tensors, so that which token chose what is not known: record it with tensors"
        )

    def of(self, layer: str, tap: str, padding: float) -> Tensor | None:
        """A tap of a layer as (B, T, ...); None where no held step has it."""
        name = full_name(layer, tap)
        parts = {step: _batched(tensors[name]) for step, tensors in self.steps.items() if name in tensors}
        if not parts:
            return None
        grid, places = self.grid, self.grid.places
        if any(part.shape[:2] != places[step][2:4] for step, part in parts.items()):
            grid = self._grid({step: _pair(part) for step, part in parts.items()})
        return grid.join(parts, padding)

    def on_grid(self, layer: str, what: str) -> Tensor:
        """`index`, where `what` (of the texts) is to be laid beside it: a layer with tokens of its own cannot be."""
        index = self.index(layer)
        if index.shape[:2] != self.grid.shape:
            raise RecordingError(
                f"{layer} worked on {index.shape[0]} x {index.shape[1]} tokens of its own, not on the "
                f"{self.grid.shape[0]} x {self.grid.shape[1]} of the texts: {what} cannot be told of it"
            )
        return index

    def _grid(self, shapes: Mapping[int, tuple[int, int]]) -> Grid:
        """Steps of these (b, t) on one grid."""
        places: dict[int, Place] = {}
        row = height = column = 0
        ends: Tensor | None = None  # of each sequence of the newest row of steps: its last position
        for step, (b, t) in shapes.items():
            first, last = _span(self.steps[step].get("/position"), (b, t))
            goes_on = ends is not None and first is not None and _follows(ends, first)
            if not goes_on:
                row, column, height = row + height, 0, b
            places[step] = Place(row, column, b, t, goes_on)
            column += t
            ends = last if not goes_on or last is None or ends is None else torch.where(last < 0, ends, last)
        B, T = row + height, max((one.column + one.t for one in places.values()), default=0)
        some = sum(one.b * one.t for one in places.values())
        if len(places) > 1 and (B == 1 or 4 * some + 64 < B * T):
            return Grid((1, some), _in_a_row(places))
        return Grid((B, T), places)


HOW = {"probs": "record its scores too (a trace keeps them with scores=True)"}


def experts(rec: Recording, layer: str) -> int:
    """How many experts a recorded layer has."""
    known = rec.header["experts"].get(layer)
    return int(known) if known is not None else rec.counts(layer)[1].shape[1]


def phases(rec: Recording, tokens: Tokens) -> dict[int, str]:
    """Step -> one of PHASES, for the held steps and for those that an engine named."""
    places, found = tokens.grid.places, {}
    after = [place.goes_on for place in places.values()][1:]
    for (step, place), continued in zip(places.items(), [*after, False], strict=False):
        begun = place.goes_on or _inside(tokens.steps[step].get("/position"))
        found[step] = "decode" if begun else "prefill" if continued else "whole"
    for step, name in enumerate(rec.header.get("phases", [])):
        if name:
            found[step] = name if name in PHASES else "whole"
    return found


def only(rec: Recording, keep: Callable[[int], bool]) -> Recording:
    """The steps that `keep` wants, in a recording that shares its tensors."""
    rec.settle()
    part = Recording(copy.deepcopy(rec.header), rec.keep)
    part._kept.extend((step, tensors) for step, tensors in rec._kept if keep(step))
    for table, series in rec.series.items():
        for name, one in series.items():
            rows = one.rows()
            kept = torch.tensor([keep(int(step)) for step in rows[:, 0]], dtype=torch.bool)
            part.series[table][name] = Series(rows.shape[1], rows[kept])
    steps = [int(one.rows()[-1, 0]) for one in part.series["loads"].values() if one.size]
    part.step = max(steps + part.steps(), default=-1)
    return part


def _is_index(item: tuple[str, Tensor]) -> bool:
    return item[0].endswith("/index") and item[1].ndim > 1


def _pair(tensor: Tensor) -> tuple[int, int]:
    return tensor.shape[0], tensor.shape[1]


def _batched(tensor: Tensor) -> Tensor:
    """(N, K) counts as one sequence."""
    return tensor[None] if tensor.ndim == 2 else tensor


def _shape(tensors: Mapping[str, Tensor]) -> tuple[int, int]:
    own = [tensors[name] for name in ("/tokens", "/valid") if name in tensors and tensors[name].ndim == 2]
    return _pair(
        own[0] if own else _batched(next(value for name, value in tensors.items() if _is_index((name, value))))
    )


def _span(position: Tensor | None, shape: tuple[int, int]) -> tuple[Tensor | None, Tensor | None]:
    """(b,) the first and last position of each sequence, -1 where it is all padding; None where positions are unknown."""
    if position is None or position.shape != shape or not position.numel():
        return None, None
    low = position.masked_fill(position < 0, torch.iinfo(position.dtype).max).amin(1)
    high = position.amax(1)
    return low.masked_fill(high < 0, -1), high


def _follows(ends: Tensor, first: Tensor) -> bool:
    """Whether sequences that begin at `first` go on where others ended (those that have finished do not begin)."""
    return len(ends) == len(first) and bool(((first == ends + 1) | (first < 0)).all()) and bool((first > 0).any())


def _inside(position: Tensor | None) -> bool:
    """Whether no sequence of a step begins at its own beginning."""
    return position is not None and bool((position >= 0).any()) and not bool((position == 0).any())


def _in_a_row(places: Mapping[int, Place]) -> dict[int, Place]:
    found, column = {}, 0
    for step, (_, _, b, t, goes_on) in places.items():
        found[step] = Place(0, column, b, t, goes_on)
        column += b * t
    return found
