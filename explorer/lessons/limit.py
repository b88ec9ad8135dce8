"""A time limit for a student's code: an endless loop in Python ends, whatever thread it runs on.

In the main thread of a Unix process a timer's signal ends it; elsewhere it runs on a thread of its own, which is sent an
exception. Either arrives between two instructions of Python: a long call of torch's own code comes to its end first.
Only its own time counts, where the system tells it: on a machine that many share, nothing is called endless that merely had
to wait for a processor.
"""

import contextvars
import ctypes
import signal
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import Any

AGAIN = 0.1  # seconds until the next signal, for code whose bare `except:` swallowed the last one
GRACE = 2.0  # how long a thread that was told to stop is waited for


class TimeUp(BaseException):
    """Not an Exception, so that a student's `except Exception` lets it pass."""


class Meter:
    """Seconds that a thread has had since now: those in which it worked or slept, and not those in line for a processor."""

    def __init__(self, thread: int) -> None:
        self.thread = thread
        self.began, self.before = time.monotonic(), queued(thread)

    def spent(self) -> float:
        """So far."""
        return time.monotonic() - self.began - (queued(self.thread) - self.before)


def queued(thread: int) -> float:
    """Seconds that a thread of this process has stood in line for a processor; 0 where the system does not tell."""
    try:
        return int(Path(f"/proc/self/task/{thread}/schedstat").read_bytes().split()[1]) / 1e9
    except (OSError, ValueError, IndexError):
        return 0.0


def limited(work: Callable[[], None], seconds: float) -> None:
    """Call `work`; after `seconds` it is ended, and TimeUp raised."""
    if threading.current_thread() is threading.main_thread() and hasattr(signal, "setitimer"):
        _by_signal(work, seconds)
    else:
        _on_a_thread(work, seconds)


def _by_signal(work: Callable[[], None], seconds: float) -> None:
    armed = True

    def ring(_number: int, frame: FrameType | None) -> None:
        if armed and meter.spent() >= seconds:
            insist(TimeUp(), frame, lambda one: one.f_code is not _by_signal.__code__)

    began, meter = time.monotonic(), Meter(threading.get_native_id())
    handler = signal.signal(signal.SIGALRM, ring)
    before, interval = signal.setitimer(signal.ITIMER_REAL, seconds, AGAIN)
    try:
        work()
    finally:
        armed = False
        relent()
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, handler if handler is not None else signal.SIG_DFL)
        if before:  # someone else's timer, as a test runner has one: it goes on
            signal.setitimer(signal.ITIMER_REAL, max(0.001, before - (time.monotonic() - began)), interval)


def insist(error: BaseException, frame: FrameType | None, inside: Callable[[FrameType], bool]) -> None:
    """Raise it, and should an `except:` of the code swallow it, again on the line that comes next.

    inside: whether a frame belongs to the code that is to end; from the first that does not, nothing is touched.
    """

    def again(_frame: FrameType, event: str, _given: Any) -> Any:
        if event == "line":
            raise error
        return again

    while frame is not None and inside(frame):
        frame.f_trace = again
        frame = frame.f_back
    sys.settrace(_untraced)
    raise error


def relent() -> None:
    """The code has ended: nothing is raised any more."""
    if sys.gettrace() is _untraced:
        sys.settrace(None)


def _untraced(*_: Any) -> None:
    """What is called meanwhile goes its way."""


def _on_a_thread(work: Callable[[], None], seconds: float) -> None:
    raised: list[BaseException] = []

    def body() -> None:
        try:
            work()
        except BaseException as error:  # noqa: BLE001  handed to the thread that waits
            raised.append(error)

    # the context tells a notebook which cell a print belongs to
    thread = threading.Thread(target=contextvars.copy_context().run, args=(body,), daemon=True)
    thread.start()
    meter = Meter(thread.native_id or 0)
    while thread.is_alive() and (left := seconds - meter.spent()) > 0:
        thread.join(left)
    given_up = time.monotonic() + GRACE
    stopped = thread.is_alive()
    while thread.is_alive() and time.monotonic() < given_up:
        ctypes.pythonapi.PyThreadState_SetAsyncExc(ctypes.c_ulong(thread.ident or 0), ctypes.py_object(TimeUp))
        thread.join(AGAIN)
    if stopped:
        raise TimeUp
    if raised:
        raise raised[0]
