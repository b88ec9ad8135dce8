"""A limit for every cell of a notebook that is being graded: otter has none, and nbgrader's does not end what resists.

It rings inside the kernel, in the main thread, and again and again until the cell has ended.
"""

import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

from explorer.lessons.limit import AGAIN, Meter, insist, relent

CELL_SECONDS = 4.0


class EndlessCell(BaseException):
    """Not an Exception, so that a student's `except Exception` lets it pass."""

    def _render_traceback_(self) -> list[str]:
        """What IPython shows of it."""
        return [str(self)]


class Clock:
    """Starts with each cell of an IPython shell, and ends the cell when it has had `seconds`."""

    def __init__(self, shell: Any, seconds: float) -> None:
        self.shell, self.seconds = shell, seconds
        self.running, self.rung = False, 0
        self.meter = Meter(threading.get_native_id())

    def start(self, *_: Any) -> None:
        """A cell begins."""
        self.running, self.rung = True, 0
        self.meter = Meter(threading.get_native_id())
        signal.signal(signal.SIGALRM, self.ring)
        signal.setitimer(signal.ITIMER_REAL, self.seconds, AGAIN)

    def stop(self, *_: Any) -> None:
        """It has ended."""
        self.running = False
        relent()
        signal.setitimer(signal.ITIMER_REAL, 0)

    def ring(self, _number: int, frame: FrameType | None) -> None:
        """End what runs, if it is the cell and not the shell around it, and if it has really had its time."""
        if not self.running or self.meter.spent() < self.seconds:
            return
        if self._in_a_cell(frame):
            said = f"This cell did not end within {self.seconds:g} seconds: is there a loop that never stops?"
            insist(EndlessCell(said), frame, self._in_a_cell)
        self.rung += 1
        if self.rung > 1:  # a cell that awaits is not on the stack while it does; the kernel cancels it as on Ctrl-C
            os.kill(os.getpid(), signal.SIGINT)

    def _in_a_cell(self, frame: FrameType | None) -> bool:
        while frame is not None:
            if frame.f_globals is self.shell.user_ns:
                return True
            frame = frame.f_back
        return False


_clock: Clock | None = None


def watch(seconds: float = CELL_SECONDS) -> None:
    """From now on every cell of this kernel is ended after so many seconds; elsewhere than in a kernel nothing happens.

    torch is imported here, before the first cell, so that no cell's seconds go into that.
    """
    global _clock  # noqa: PLW0603  (a process has one kernel)
    import torch  # noqa: F401
    from IPython.core.getipython import get_ipython

    shell = get_ipython()
    if shell is None or _clock is not None or not hasattr(signal, "setitimer"):
        return
    _clock = Clock(shell, seconds)
    shell.events.register("pre_run_cell", _clock.start)
    shell.events.register("post_run_cell", _clock.stop)


@contextmanager
def stopped() -> Iterator[None]:
    """What a grader does inside a cell has limits of its own; the cell's time begins anew afterwards."""
    held = _clock if _clock is not None and _clock.running else None
    if held:
        held.stop()
    try:
        yield
    finally:
        if held:
            held.start()
