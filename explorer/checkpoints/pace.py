"""How often a model in training may be looked at: an account of what looking has cost so far."""

import time
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from statistics import fmean
from typing import Any

from explorer.errors import BadValue

TYPICAL = 4  # recorded steps that say what the next one will cost


class Pace:
    """Keeps the time spent on recording below `budget`, a share of the time of the training steps without it.

    The first step is always recorded; what it costs is paid off by the steps after it. Costs are measured, on this
    machine, in seconds of the thread that trains; work queued on a GPU counts from where the recorder waits for it.
    """

    def __init__(self, budget: float = 0.02) -> None:
        if isinstance(budget, bool) or not isinstance(budget, int | float) or not 0 < budget <= 1:
            raise BadValue(
                f"budget={budget!r}: it is the share of a step that recording may take, above 0 and at most 1"
            )
        self.budget = float(budget)
        self.steps = self.recorded = 0
        self.seconds = self.spent = 0.0  # of training without recording, and of recording
        self._costs: deque[float] = deque(maxlen=TYPICAL)
        self._now = 0.0  # spent in the step that is under way

    def due(self) -> bool:
        """Whether the account allows to record the next step."""
        if not self._costs:
            return self.recorded == 0
        return self.spent + fmean(self._costs) <= self.budget * self.seconds

    @contextmanager
    def timed(self) -> Iterator[None]:
        """What happens inside is a cost of recording."""
        began = time.perf_counter()
        try:
            yield
        finally:
            self._now += time.perf_counter() - began

    def ended(self, seconds: float, recorded: bool) -> None:
        """A training step took so long, all in all."""
        self.steps += 1
        self.recorded += recorded
        self.seconds += max(0.0, seconds - self._now)
        self.spent += self._now
        if recorded:
            self._costs.append(self._now)
        self._now = 0.0

    @property
    def spacing(self) -> float:
        """How many steps a recorded one needs so that the budget holds; 1 before anything is known."""
        if not self._costs or not self.seconds:
            return 1.0
        return max(1.0, fmean(self._costs) / (self.budget * self.seconds / self.steps))

    def about(self) -> dict[str, Any]:
        """For the header of the recording."""
        return {
            "budget": self.budget,
            "spent": self.spent / self.seconds if self.seconds else 0.0,
            "spacing": round(self.spacing, 1),
            "steps": self.steps,
            "recorded": self.recorded,
            "seconds_a_step": self.seconds / max(1, self.steps),
            "seconds_a_recording": fmean(self._costs) if self._costs else 0.0,
        }

    def state(self) -> dict[str, Any]:
        """Plain numbers, from which `resume` goes on."""
        kept = {"steps": self.steps, "recorded": self.recorded, "seconds": self.seconds, "spent": self.spent}
        return kept | {"costs": list(self._costs)}

    def resume(self, state: dict[str, Any]) -> None:
        """Go on with the account of an earlier run, or begin a new one where there is none."""
        self.steps, self.recorded = int(state.get("steps", 0)), int(state.get("recorded", 0))
        self.seconds, self.spent = float(state.get("seconds", 0)), float(state.get("spent", 0))
        self._costs = deque(map(float, state.get("costs", ())), maxlen=TYPICAL)
