"""Slow work of the checkpoint lab, on a thread, so that the page stays free; at once where no loop runs, as in a test."""

import asyncio
import contextlib
from collections.abc import Callable
from typing import Any

from widgets.labs.frame import HEADLESS

LOOK = 0.2  # seconds between two looks at how far it is


def _loop() -> asyncio.AbstractEventLoop | None:
    if HEADLESS:
        return None
    with contextlib.suppress(RuntimeError):
        return asyncio.get_running_loop()
    return None


class Work:
    """One thing at a time; what is started later takes the place of what is under way, whose result nobody hears."""

    def __init__(self, look: Callable[[], None]) -> None:
        self._look = look  # called now and then while something goes on
        self._number = 0
        self.running = False
        self.task: asyncio.Task[None] | None = None

    def start(self, work: Callable[[], Any], done: Callable[[Any], None], failed: Callable[[Exception], None]) -> None:
        """`done(result)` or `failed(error)` is called on the page's own thread."""
        self._number += 1
        self.running = True
        loop = _loop()
        if loop is None:
            self._finish(self._number, *_tried(work), done, failed)
        else:
            self.task = loop.create_task(self._follow(loop, self._number, work, done, failed))

    def forget(self) -> None:
        """Nobody hears what is under way any more."""
        self._number += 1
        self.running = False

    async def _follow(
        self,
        loop: asyncio.AbstractEventLoop,
        number: int,
        work: Callable[[], Any],
        done: Callable[[Any], None],
        failed: Callable[[Exception], None],
    ) -> None:
        future = loop.run_in_executor(None, _tried, work)
        while not future.done():
            await asyncio.wait([future], timeout=LOOK)
            if number == self._number and not future.done():
                self._look()
        self._finish(number, *future.result(), done, failed)

    def _finish(
        self,
        number: int,
        result: Any,
        error: Exception | None,
        done: Callable[[Any], None],
        failed: Callable[[Exception], None],
    ) -> None:
        if number != self._number:
            return
        self.running = False
        if error is not None:
            failed(error)
        else:
            done(result)


def _tried(work: Callable[[], Any]) -> tuple[Any, Exception | None]:
    try:
        return work(), None
    except Exception as error:  # noqa: BLE001  told on the page
        return None, error
