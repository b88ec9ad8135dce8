"""What was seen at some steps of a run, in bounded memory: what the slider scrubs through."""

import bisect
from typing import Generic, TypeVar

Moment = TypeVar("Moment")


class Timeline(Generic[Moment]):
    """Moments by step. When there are more than `most`, every second one goes, so they stay spread over the whole run."""

    def __init__(self, most: int = 240) -> None:
        self.most = most
        self.steps: list[int] = []
        self.moments: list[Moment] = []

    def add(self, step: int, moment: Moment) -> None:
        """The newest moment; one of the same step is replaced."""
        if self.steps and step <= self.steps[-1]:
            del self.steps[bisect.bisect_left(self.steps, step) :]
            del self.moments[len(self.steps) :]
        self.steps.append(step)
        self.moments.append(moment)
        if len(self.steps) > self.most:  # the first and the newest stay
            odd = len(self.steps) % 2 == 0
            self.steps = self.steps[:-1:2] + self.steps[-1:] if odd else self.steps[::2]
            self.moments = self.moments[:-1:2] + self.moments[-1:] if odd else self.moments[::2]

    def at(self, step: int) -> Moment | None:
        """The moment of that step, or the nearest; None while there is none."""
        if not self.steps:
            return None
        i = bisect.bisect_left(self.steps, step)
        near = [j for j in (i - 1, i) if 0 <= j < len(self.steps)]
        return self.moments[min(near, key=lambda j: abs(self.steps[j] - step))]

    def copy(self) -> "Timeline[Moment]":
        """For a fork: the same past, a future of its own."""
        twin = Timeline[Moment](self.most)
        twin.steps, twin.moments = list(self.steps), list(self.moments)
        return twin
