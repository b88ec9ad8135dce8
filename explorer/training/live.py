"""The live trainer: one asyncio task that trains, gives way after every step, and lets the page draw when it is able to.

A loop inside a callback would never hear the Pause button, and a thread fights the interpreter lock with the page (in one
measurement 73 updates a second against 113 for a task).
"""

import asyncio
import time
from collections.abc import Callable
from typing import TYPE_CHECKING

from explorer.budget import pace

if TYPE_CHECKING:
    from explorer.experiment import Experiment, Step


TURNS = (
    4  # of the event loop that a message from the page takes to arrive: with one a step, Pause would wait four steps
)


class LiveTrainer:
    """Start, pause, step and reset an experiment without ever blocking the event loop for longer than one step.

    on_frame() is called after a step when at least `frame_seconds` have passed and `ready()` says that the last frame was
    drawn; always once after the last step before a pause. on_error(error) gets whatever ended the run.
    """

    def __init__(
        self,
        experiment: "Experiment",
        on_frame: Callable[[], None],
        on_error: Callable[[Exception], None],
        ready: Callable[[], bool] = lambda: True,
        frame_seconds: float = 0.12,
        step_seconds: float = 0.0,
    ) -> None:
        self.experiment, self.on_frame, self.on_error, self.ready = experiment, on_frame, on_error, ready
        self.frame_seconds, self.step_seconds = frame_seconds, step_seconds
        self.steps_per_second = 0.0
        self.newest: Step | None = None
        self._task: asyncio.Task[None] | None = None

    @property
    def running(self) -> bool:
        return self._task is not None and not self._task.done()

    def start(self, steps: int | None = None) -> None:
        """Train until paused, or for `steps` more steps. Does nothing while running."""
        if not self.running:
            self._task = asyncio.get_event_loop().create_task(self._run(steps))

    def pause(self) -> None:
        """Stop after the step under way. Returns at once; the last frame has been drawn when this returns."""
        if self.running and self._task is not None:
            self._task.cancel()
            self._task = None
            self.on_frame()

    async def wait(self) -> None:
        """Until the run has ended by itself."""
        if self._task is not None:
            await asyncio.gather(self._task, return_exceptions=True)

    async def _run(self, steps: int | None) -> None:
        began = drawn = counted = time.perf_counter()
        count, total = 0, 0
        share = pace()
        share.begin()
        try:
            while steps is None or total < steps:
                self.newest = self.experiment.advance()
                count, total = count + 1, total + 1
                now = time.perf_counter()
                if now - counted >= 0.5:
                    self.steps_per_second, counted, count = count / (now - counted), now, 0
                if now - drawn >= max(self.frame_seconds, share.frame_seconds) and self.ready():
                    with share.painting():
                        self.on_frame()
                    drawn = time.perf_counter()
                for _ in range(TURNS):
                    await asyncio.sleep(0)
                while (rest := share.rest()) > 0:
                    await asyncio.sleep(rest)
                if (rest := self.step_seconds - (time.perf_counter() - now)) > 0:
                    await asyncio.sleep(rest)
            self._task = None
            if counted == began:
                self.steps_per_second = total / max(time.perf_counter() - began, 1e-9)
            self.on_frame()
        except Exception as error:  # noqa: BLE001  reported on the page, where the person is, and not only in a log
            self._task = None
            self.on_error(error)
        finally:
            share.end()
