"""Activations of any number of tokens in bounded memory: small ones in RAM, large ones in a file that has no name."""

import math
import mmap
import os
import tempfile
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor

from explorer.checkpoints.files import CheckpointError

SPILL = 1 << 20  # bytes of one set of activations that stay in RAM
WAVE = 1 << 20  # bytes that are worked on at a time


class Rows:
    """N rows of `width` numbers, float32, zeros at first.

    What is too large for RAM lies in a mapped file of the folder for temporary files (TMPDIR), which nobody else can open and
    which is gone with the process. After each wave its pages are given back, so that they count for nobody.
    """

    def __init__(self, n: int, width: int) -> None:
        self.n, self.width = n, width
        self._map: Any = None
        if n * width * 4 <= SPILL:
            self._data = torch.zeros(n, width, dtype=torch.float32)
        else:
            self._map = _mapped(n * width * 4)
            self._data = torch.frombuffer(self._map, dtype=torch.float32, count=n * width).view(n, width)

    def __getitem__(self, part: Any) -> Tensor:
        return self._data[part]

    def __setitem__(self, part: Any, value: Tensor) -> None:
        self._data[part] = value

    def waves(self, at_least: int = 0) -> Iterator[slice]:
        """The rows in parts of about WAVE bytes. at_least: the width to reckon with, where something wider is made of them."""
        step = max(1, WAVE // (4 * max(1, self.width, at_least)))
        for start in range(0, self.n, step):
            yield slice(start, min(start + step, self.n))
            self.rest()

    def rest(self) -> None:
        """Give the pages back; what was written stays in the file."""
        if self._map is not None and hasattr(mmap, "MADV_DONTNEED"):
            self._map.madvise(mmap.MADV_DONTNEED)

    def map(self, work: Callable[[Tensor], Tensor], width: int | None = None) -> "Rows":
        """New rows, made of these a wave at a time. width: of the new ones, if it is another."""
        made = Rows(self.n, self.width if width is None else width)
        for part in self.waves(made.width):
            made[part] = work(self[part])
            made.rest()
        return made

    def add(self, other: "Rows") -> None:
        """In place."""
        for part in self.waves():
            self._data[part] += other[part]
            other.rest()

    def times(self, other: "Rows") -> None:
        """In place; other: as wide, or one column."""
        for part in self.waves():
            self._data[part] *= other[part]
            other.rest()

    def take(self, rows_n: Tensor) -> "Rows":
        """Some rows, by number."""
        made = Rows(len(rows_n), self.width)
        for part in made.waves():
            torch.index_select(self._data, 0, rows_n[part], out=made[part])
            self.rest()
        return made

    def add_at(self, rows_n: Tensor, other: "Rows", weight_n: Tensor) -> None:
        """In place: row i of `other` times weight i to the row of number rows_n[i]."""
        for part in other.waves():
            self._data.index_add_(0, rows_n[part], other[part] * weight_n[part, None])
            self.rest()


def _mapped(size: int) -> mmap.mmap:
    """Memory over a file without a name. Its room is reserved: a full disk is an error now, and no crash later."""
    size = math.ceil(size / mmap.PAGESIZE) * mmap.PAGESIZE
    try:
        with tempfile.TemporaryFile() as file:
            if hasattr(os, "posix_fallocate"):
                os.posix_fallocate(file.fileno(), 0, size)
            else:
                file.truncate(size)
            return mmap.mmap(file.fileno(), size)
    except OSError as error:
        why = (error.strerror or type(error).__name__).lower()
        raise CheckpointError(
            f"{size:,} bytes of activations do not fit into {tempfile.gettempdir()} ({why}): set TMPDIR to a folder with room"
        ) from error
