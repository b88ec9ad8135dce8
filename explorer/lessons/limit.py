"""A time limit for a student's code: an endless loop in Python ends, whatever thread it runs on.

In the main thread of a Unix process a timer's signal ends it; elsewhere it runs on a thread of its own, which is sent an
exception. Either arrives between two instructions of Python: a long call of torch's own code comes to its end first.
"""

import contextvars
import ctypes
import signal
import threading
import time
from collections.abc import Callable
from types import FrameType

AGAIN = 0.1  # seconds until the next signal, for code whose bare `except:` swallowed the last one
GRACE = 2.0  # how long a thread that was told to stop is waited for


class TimeUp(BaseException):
    """Not an Exception, so that a student's `except Exception` lets it pass."""


def limited(work: Callable[[], None], seconds: float) -> None:
    """Call `work`; after `seconds` it is ended, and TimeUp raised."""
    if threading.current_thread() is threading.main_thread() and hasattr(signal, "setitimer"):
        _by_signal(work, seconds)
    else:
        _on_a_thread(work, seconds)


def _by_signal(work: Callable[[], None], seconds: float) -> None:
    armed = True

    def ring(_number: int, _frame: FrameType | None) -> None:
        if armed:
            raise TimeUp

    began = time.monotonic()
    handler = signal.signal(signal.SIGALRM, ring)
    before, interval = signal.setitimer(signal.ITIMER_REAL, seconds, AGAIN)
    try:
        work()
    finally:
        armed = False
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, handler if handler is not None else signal.SIG_DFL)
        if before:  # someone else's timer, as a test runner has one: it goes on
            signal.setitimer(signal.ITIMER_REAL, max(0.001, before - (time.monotonic() - began)), interval)


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
    thread.join(seconds)
    given_up = time.monotonic() + GRACE
    stopped = thread.is_alive()
    while thread.is_alive() and time.monotonic() < given_up:
        ctypes.pythonapi.PyThreadState_SetAsyncExc(ctypes.c_ulong(thread.ident or 0), ctypes.py_object(TimeUp))
        thread.join(AGAIN)
    if stopped:
        raise TimeUp
    if raised:
        raise raised[0]
