"""Whether anybody is there to see: a run whose page was closed must not train on."""

import asyncio
import time
from collections.abc import Callable, Iterable

from widgets.views import Chart

ALONE = 60.0  # seconds without an answer after which nobody is there
LOOK = 1.0  # seconds between two looks whether somebody is back


class Presence:
    """Charts answer what they have drawn, as long as a page shows them: a closed page and a hidden one do not."""

    def __init__(self, charts: Iterable[Chart], back: Callable[[], None]) -> None:
        self.charts, self._back = list(charts), back
        self._began = 0.0
        self._task: asyncio.Task[None] | None = None

    @property
    def waiting(self) -> bool:
        """Whether `back` will be called when a page answers again."""
        return self._task is not None

    def begin(self) -> None:
        """Something begins that a page should see."""
        self.forget()
        self._began = time.monotonic()

    def alone(self) -> bool:
        """Whether no page has answered for long."""
        return bool(self.charts) and time.monotonic() - max(self._began, self._answered()) > ALONE

    def wait(self) -> None:
        """Call `back` once, when a page answers."""
        self.forget()
        self._task = asyncio.get_running_loop().create_task(self._wait())

    def forget(self) -> None:
        """Wait no longer."""
        if self._task is not None:
            self._task.cancel()
            self._task = None

    def _answered(self) -> float:
        return max((one.last_acknowledged or 0.0 for one in self.charts), default=0.0)

    async def _wait(self) -> None:
        left = time.monotonic()
        while self._answered() <= left:
            await asyncio.sleep(LOOK)
        self._task = None
        self._back()
