"""What a reading is a function of: a run, and what it showed on the way; and the list of all readings."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from explorer.errors import BadValue, unknown
from explorer.experiment import Experiment
from explorer.recording import Recording


class Run:
    """An experiment and what its gates decided on the held-out data, at the end and at the moments somebody asked for.

    A moment is a share of the run: 0 before the first step, 1 at the end.
    """

    def __init__(self, experiment: Experiment) -> None:
        self.experiment = experiment
        self._seen: dict[float, tuple[float, Recording]] = {}

    @classmethod
    def through(cls, experiment: Experiment, steps: int, moments: tuple[float, ...] = ()) -> "Run":
        """Train for `steps` steps and look at the held-out data on the way."""
        run = cls(experiment)
        for moment in sorted(set(moments) - {1.0}):
            experiment.run(round(moment * steps) - experiment.step)
            run._seen[moment] = experiment.examine()
        experiment.run(steps - experiment.step)
        return run

    def look(self, moment: float = 1.0) -> tuple[float, Recording]:
        """(loss, recording) of the held-out data at a moment."""
        if moment == 1.0 and moment not in self._seen:
            self._seen[moment] = self.experiment.examine()
        if moment not in self._seen:
            raise BadValue(f"nobody looked at this run after {moment:.0%} of its steps")
        return self._seen[moment]


@dataclass(frozen=True)
class Reading:
    """A function of a Run, and the moments at which it wants the held-out data looked at."""

    function: Callable[[Run], float]
    moments: tuple[float, ...] = (1.0,)

    def __call__(self, run: Run) -> float:
        return float(self.function(run))


READINGS: dict[str, Reading] = {}


def reading(name: str) -> Reading:
    """The reading of that name."""
    if name not in READINGS:
        raise unknown("reading", name, READINGS)
    return READINGS[name]


def reads(*moments: float) -> Callable[[Callable[[Run], Any]], Callable[[Run], Any]]:
    """Decorator that puts a function of a Run on the list, with the moments it wants looked at (none: the end)."""

    def register(function: Callable[[Run], Any]) -> Callable[[Run], Any]:
        READINGS[function.__name__] = Reading(function, moments or (1.0,))
        return function

    return register
