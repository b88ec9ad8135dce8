"""What all runs of a room together may take of its cores, so that its pages answer while thirty of them train.

Runs share most of the cores: each rests after a step until the processor time that it took is paid for by its share, which
is larger the fewer they are. One that trains alone is not slowed. Who trains is written in a file of the server's that all
of its kernels map into their memory: a place for each, with the moment until which it counts. Without that file, as on
one's own machine, nothing is slowed.
"""

import mmap
import os
import tempfile
import time
from array import array
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from functools import cache
from pathlib import Path
from typing import Any

FILE = "GATING_EXPLORER_BUDGET"  # in the environment: the file's path
PLACES = 1024
BYTES = 8
TOGETHER = 0.7  # of all cores; the rest is for pages that open, and for the server
COUNTS = 3.0  # seconds after its last sign that a run still counts
LOOK = 0.25  # seconds between two looks at how many train, and the longest rest in one piece
PAINTS = 5.0  # a second, at most, for those that share
PAINTING = 0.5  # of a run's share may go into pictures


class Table:
    """The file: `PLACES` numbers that say whose a place is, then as many that say until when it counts."""

    def __init__(self, path: str | Path) -> None:
        with open(path, "r+b") as file:
            self._map = mmap.mmap(file.fileno(), 2 * PLACES * BYTES)
        self._numbers = memoryview(self._map).cast("d")

    def take(self, owner: int, now: float) -> int:
        """A place for this owner: its own, or one that counts no more. Two that take one at once are counted as one."""
        for place in ((owner + n) % PLACES for n in range(PLACES)):
            if self._numbers[place] == owner or self._numbers[PLACES + place] + COUNTS < now:
                self._numbers[place] = owner
                return place
        return owner % PLACES

    def mark(self, place: int, until: float) -> None:
        """The run at this place counts until then."""
        self._numbers[PLACES + place] = until

    def training(self, now: float) -> int:
        """How many count now."""
        return sum(until > now for until in self._numbers[PLACES:].tolist())


class Pace:
    """How a process keeps to its share; the clocks are those of all processes, and of the work of this one."""

    def __init__(
        self, table: Table | None, cores: float, clock: Any = time.monotonic, worked: Any = time.process_time
    ) -> None:
        self.table, self.cores, self.clock, self.worked = table, cores, clock, worked
        self.runs, self.share = 0, 1.0  # those of all that train now, and what this one has of one core
        self._own = 0  # loops of this process
        self._place = -1
        self._debt = self._painting = 0.0
        self._paid = self._looked = self._seen = 0.0

    def begin(self) -> None:
        """A loop begins."""
        self._own += 1
        if self._own == 1 and self.table:
            now = self.clock()
            self._place, self._debt = self.table.take(os.getpid(), now), 0.0
            self._paid, self._seen, self._looked = now, self.worked(), 0.0
            self._look(now)

    def end(self) -> None:
        """It ended."""
        self._own -= 1
        if self._own == 0 and self.table:
            self.table.mark(self._place, 0.0)
            self.runs, self.share = 0, 1.0

    def rest(self) -> float:
        """Seconds to rest before the next step; to be asked again after it, until there are none."""
        if not self.table:
            return 0.0
        now, worked = self.clock(), self.worked()
        self._debt = max(0.0, self._debt + worked - self._seen - self.share * (now - self._paid))
        self._paid, self._seen = now, worked
        self._look(now)
        if self.share >= 1.0:
            self._debt = 0.0
        return min(self._debt / self.share, LOOK)

    @contextmanager
    def painting(self) -> Iterator[None]:
        """Around the work for a frame: what it takes decides how soon the next may come."""
        begun = self.worked()
        yield
        self._painting = self.worked() - begun

    @property
    def frame_seconds(self) -> float:
        """From one frame to the next, at least; 0 for who trains alone."""
        return 0.0 if self.share >= 1.0 else max(1 / PAINTS, self._painting / (PAINTING * self.share))

    def said(self) -> str:
        """For the page, in words; "" where nothing is slowed."""
        return f"{self.runs} runs, each with {100 * self.share:.0f} % of a core" if self.share < 1.0 else ""

    def _look(self, now: float) -> None:
        assert self.table
        if now < self._looked + LOOK:
            return
        self._looked = now
        self.table.mark(self._place, now + COUNTS)
        self.runs = self.table.training(now)
        self.share = share_of(self.runs, self.cores)


def share_of(runs: int, cores: float) -> float:
    """Of one core, for each of so many runs; one loop cannot take more than one core."""
    return 1.0 if runs <= 1 else min(1.0, TOGETHER * cores / runs)


@cache
def pace() -> Pace:
    """That of this process; a kernel asks when its environment is its own."""
    path = os.environ.get(FILE, "")
    if path:
        with suppress(OSError, ValueError):
            return Pace(Table(path), cores())
    return Pace(None, 1.0)


def cores() -> float:
    """Cores that this process may use: a container may have been given less than the machine has."""
    own = float(len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1)
    with suppress(OSError, ValueError):
        most, period = Path("/sys/fs/cgroup/cpu.max").read_text().split()
        return max(0.1, min(own, int(most) / int(period)))
    return own


@contextmanager
def table_file() -> Iterator[str]:
    """The path of a fresh file, which is gone at the end."""
    number, path = tempfile.mkstemp(prefix="gating-explorer-", suffix=".budget")
    try:
        with open(number, "wb") as file:
            file.write(array("d", [0.0]) * (2 * PLACES))
        yield path
    finally:
        with suppress(OSError):
            os.unlink(path)


def facts(environment: Mapping[str, str] = os.environ) -> dict[str, Any]:
    """For /health: how many train, and what each has of one core."""
    with suppress(OSError, ValueError, KeyError):
        runs = Table(environment[FILE]).training(time.monotonic())
        return {"training": runs, "share": round(share_of(runs, cores()), 3)}
    return {}
