"""How far a pass is, and whether to go on."""

import time
from collections.abc import Callable
from typing import NamedTuple

OFTEN = 0.1  # seconds between two reports of progress


class Progress(NamedTuple):
    """layer: the one that is worked on, from 0, of `layers`. What is left, in bytes and seconds, is an estimate."""

    layer: int
    layers: int
    bytes_read: int
    bytes_left: int
    seconds: float
    seconds_left: float
    what: str


class StoppedError(Exception):
    """Somebody has asked to stop."""


class Clock:
    """Says how far it is, and asks whether to go on."""

    def __init__(self, progress: Callable[[Progress], None] | None, stop: Callable[[], bool] | None) -> None:
        self._progress, self._stop, self._began, self._said = progress, stop, time.perf_counter(), -1.0

    def tick(self, layer: int, layers: int, read: int, left: int, what: str) -> None:
        if self._stop is not None and self._stop():
            raise StoppedError
        seconds = time.perf_counter() - self._began
        if self._progress is not None and seconds - self._said > OFTEN:
            self._said = seconds
            self._progress(Progress(layer, layers, read, left, seconds, seconds * left / max(1, read), what))

    def now(self) -> None:
        """The next tick is told, however soon it comes."""
        self._said = -1.0
