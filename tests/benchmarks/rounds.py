"""Interleaved measurement: in a round each candidate runs once, in shuffled order, so a busy machine hits them all."""

import random
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True)
class Row:
    """One line of the table. `goal`: what the ratio is held to, as in ">= 1.5"; "" where it is only reported."""

    name: str
    ours: str
    other: str
    ratio: float
    spread: tuple[float, float]
    goal: str = ""

    @property
    def verdict(self) -> str:
        if not self.goal:
            return ""
        sign, number = self.goal.split()
        return "reached" if (self.ratio >= float(number) if sign == ">=" else self.ratio <= float(number)) else "SHORT"


def measure(candidates: dict[str, Callable[[], object]], rounds: int, repeat: int) -> dict[str, list[float]]:
    """Processor seconds of one call, for each round."""
    seconds: dict[str, list[float]] = {name: [] for name in candidates}
    for call in candidates.values():
        for _ in range(max(3, repeat // 2)):
            call()
    for _ in range(rounds):
        for name in random.sample(list(candidates), len(candidates)):
            began = time.process_time()
            for _ in range(repeat):
                candidates[name]()
            seconds[name].append((time.process_time() - began) / repeat)
    return seconds


def versus(name: str, seconds: dict[str, list[float]], over: str, under: str, goal: str = "") -> Row:
    """The median over the rounds of `over` / `under`."""
    ratios = [a / b for a, b in zip(seconds[over], seconds[under], strict=True)]
    ours, other = statistics.median(seconds[under]), statistics.median(seconds[over])
    return Row(
        name,
        f"{1e3 * ours:.2f} ms",
        f"{1e3 * other:.2f} ms",
        statistics.median(ratios),
        (min(ratios), max(ratios)),
        goal,
    )
