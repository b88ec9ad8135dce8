"""Interleaved measurement: in a round every candidate runs once, in shuffled order, so that a busy machine hits them all."""

import random
import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class Row:
    """One line of the table.

    `value` is what the goal (">= 1.5", "<= 0.15", or "" where it is only reported) is held to: a ratio where something
    stands `beside` what was measured, else the measurement itself. `spread`: its smallest and largest over the rounds.
    """

    what: str
    this: str
    beside: str = ""
    value: float | None = None
    spread: tuple[float, float] | None = None
    goal: str = ""

    @property
    def verdict(self) -> str:
        """reached, short, or nothing where there is no goal."""
        if not self.goal or self.value is None:
            return ""
        sign, number = self.goal.split()
        return "reached" if (self.value >= float(number) if sign == ">=" else self.value <= float(number)) else "SHORT"

    def cells(self) -> list[str]:
        """what, this, beside, ratio, min..max, goal, verdict."""
        ratio = f"{self.value:.2f}" if self.beside and self.value is not None else ""
        spread = f"{self.spread[0]:.2f}..{self.spread[1]:.2f}" if self.spread else ""
        return [self.what, self.this, self.beside, ratio, spread, self.goal, self.verdict]


def measure(
    candidates: Mapping[str, Callable[[], object]],
    rounds: int,
    repeat: int,
    clock: Callable[[], float] = time.process_time,
) -> dict[str, list[float]]:
    """Seconds of one call, for each round: by default of the processor, which a busy machine disturbs least."""
    seconds: dict[str, list[float]] = {name: [] for name in candidates}
    for call in candidates.values():
        for _ in range(max(3, repeat // 2)):
            call()
    for _ in range(rounds):
        for name in random.sample(list(candidates), len(candidates)):
            began = clock()
            for _ in range(repeat):
                candidates[name]()
            seconds[name].append((clock() - began) / repeat)
    return seconds


def faster(what: str, this: list[float], beside: list[float], goal: str = "") -> Row:
    """How many times as fast as its neighbour `this` is: the median over the rounds of beside / this."""
    return _row(what, this, beside, [b / t for t, b in zip(this, beside, strict=True)], goal)


def cost(what: str, this: list[float], beside: list[float], goal: str = "") -> Row:
    """How many times the time of its neighbour `this` takes: the median over the rounds of this / beside."""
    return _row(what, this, beside, [t / b for t, b in zip(this, beside, strict=True)], goal)


def _row(what: str, this: list[float], beside: list[float], ratios: list[float], goal: str) -> Row:
    names = [f"{1e3 * statistics.median(seconds):.2f} ms" for seconds in (this, beside)]
    return Row(what, *names, statistics.median(ratios), (min(ratios), max(ratios)), goal)
