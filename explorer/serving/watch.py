"""What becomes of the kernels behind the pages: a line in the log when one begins and when one ends, with the reason.

A kernel that ends unasked is not started again: it would be an empty one, and its page a picture of buttons that do
nothing. The page is told instead, and asks here what happened (share/voila/templates/gating-explorer/lost.js).
"""

import logging
import os
import re
import signal
import time
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

from tornado.ioloop import PeriodicCallback
from tornado.web import HTTPError

LOOK = 0.5  # seconds between two looks at the kernels
REMEMBERED = 1000  # ends of kernels that pages may still ask about
PAGE = "VOILA_REQUEST_URL"  # in the environment of a kernel that Voila starts for a page, and of no other
ALONE_SECONDS = "GATING_EXPLORER_ALONE_SECONDS"
IDLE_SECONDS = "GATING_EXPLORER_IDLE_SECONDS"
SERVER_GONE = 1001  # what a websocket says when its other end goes away
KERNEL = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")

log = logging.getLogger("gating-explorer")

# why -> what the log says, what the page says; both in the middle of a sentence
WORDS = {
    "closed": ("closed by its page", "it was closed by its page, or by another page of the same browser"),
    "idle": ("culled, idle for {detail}", "nothing had been done on it for {detail}"),
    "alone": ("orphaned, its page was away for {detail}", "the server had not heard of this page for {detail}"),
    "memory": ("killed by the system for want of memory", "the machine's memory ran out"),
    "signal": ("killed by signal {detail}", "its process was ended from outside (signal {detail})"),
    "crash": ("crashed, signal {detail}", "its process crashed (signal {detail})"),
    "exit": ("ended by itself, exit code {detail}", "its process ended by itself (exit code {detail})"),
    "restarted": ("started anew by its owner", "its kernel was started anew"),
    "failed": ("could not start", "its process could not be started"),
}
CRASHES = {signal.SIGSEGV, signal.SIGABRT, signal.SIGFPE, signal.SIGILL, getattr(signal, "SIGBUS", signal.SIGSEGV)}


class End:
    """Why a kernel is no more; `detail` is what its words leave open."""

    def __init__(self, why: str, detail: str = "") -> None:
        self.why, self.detail = why, detail

    def logged(self) -> str:
        return WORDS[self.why][0].format(detail=self.detail)

    def said(self) -> str:
        """To the person on the page."""
        return WORDS[self.why][1].format(detail=self.detail)


class Watch:
    """The kernels of a server's pages. alone: seconds that one waits for its page to come back; 0: for ever.

    crowd: what the log adds to a line about how full it is. Kernels of notebooks, where the server has them, are left alone.
    """

    def __init__(self, alone: float = 0.0, crowd: Callable[[], str] = lambda: "") -> None:
        self.alone, self.crowd, self.begun = alone, crowd, time.monotonic()
        self.manager: Any = None
        self.pages: set[str] = set()  # kernels that run
        self.ended: dict[str, End] = {}  # and those that did
        self.counts: Counter[str] = Counter()
        self._away: dict[str, float] = {}  # since when they have had no page
        self._why: dict[str, End] = {}  # of an end that is under way
        self._kills = _kills_for_memory()
        self._looking: PeriodicCallback | None = None
        self._busy = False

    def open(self, manager: Any) -> None:
        """Look after the kernels of this manager, once the server's loop runs."""
        self.manager = manager
        self._start, self._shutdown = manager.start_kernel, manager.shutdown_kernel
        self._cull, self._restart = manager.cull_kernel_if_idle, manager.restart_kernel
        manager.start_kernel, manager.shutdown_kernel = self.start, self.shutdown
        manager.cull_kernel_if_idle, manager.restart_kernel = self.cull, self.restart
        self._looking = PeriodicCallback(self.look, 1000 * LOOK)
        self._looking.start()

    # -- in place of the manager's own ---------------------------------------------------------------------------------
    async def start(self, *args: Any, **settings: Any) -> Any:
        """A kernel; one for a page is watched from here on."""
        kernel = await self._start(*args, **settings)
        if PAGE in (settings.get("env") or {}):
            self.pages.add(kernel)
            self.counts["started"] += 1
            self.manager.get_kernel(kernel).stop_restarter()
            log.info("kernel %s started%s", kernel[:8], self.crowd())
        return kernel

    async def shutdown(self, kernel_id: str, *args: Any, **settings: Any) -> Any:
        """End one; unless somebody said why, its page asked for it. A page may ask twice, and others know no kernels' names."""
        if kernel_id not in self.pages and kernel_id not in self.ended:
            return await self._shutdown(kernel_id, *args, **settings)
        self._over(kernel_id, self._why.pop(kernel_id, End("closed")))
        try:
            return await self._shutdown(kernel_id, *args, **settings)
        except HTTPError as error:
            # the server ends and its page says goodbye, both at once: the other one was first
            if error.status_code != 404:
                raise
            return None
        finally:
            self._hang_up(kernel_id)

    async def cull(self, kernel_id: str) -> None:
        """End one if nothing has happened for too long; how long is the manager's to say."""
        self._why[kernel_id] = End("idle", _in_words(self.manager.cull_idle_timeout))
        try:
            await self._cull(kernel_id)
        finally:
            self._why.pop(kernel_id, None)

    async def restart(self, kernel_id: str, *args: Any, **settings: Any) -> Any:
        """Its owner, who has a notebook server around the pages, can start it anew: the page's widgets are then gone."""
        if kernel_id in self.pages:
            self._over(kernel_id, End("restarted"))
            self._hang_up(kernel_id)
        return await self._restart(kernel_id, *args, **settings)

    # -- looking -------------------------------------------------------------------------------------------------------
    async def look(self) -> None:
        """Which have died, and which have been left?"""
        if self._busy:  # the last look still waits for a kernel to end
            return
        self._busy = True
        try:
            for kernel in list(self.pages):
                await self._look_at(kernel)
        finally:
            self._busy = False

    async def _look_at(self, kernel: str) -> None:
        end = await self._death_of(kernel) or self._left(kernel)
        if end is not None and kernel in self.pages:
            self._why[kernel] = end
            with suppress(Exception):  # whatever is left of it; it is over in any case
                await self.shutdown(kernel, now=True)

    async def _death_of(self, kernel: str) -> End | None:
        try:
            found = self.manager.get_kernel(kernel)
        except KeyError:
            self._over(kernel, End("failed"))
            return None
        if found.shutting_down or not found.has_kernel or await found.is_alive():
            return None
        code = getattr(getattr(found.provisioner, "process", None), "returncode", None)
        return self._end_of(code if code is not None else -signal.SIGKILL)

    def _end_of(self, code: int) -> End:
        """From the exit code of its process; for want of memory the system kills as anybody does, but it counts."""
        if code >= 0:
            return End("exit", str(code))
        kills, self._kills = self._kills, _kills_for_memory()
        if -code == signal.SIGKILL and self._kills > kills:
            return End("memory")
        return End("crash" if -code in CRASHES else "signal", str(-code))

    def _left(self, kernel: str) -> End | None:
        if not self.alone:
            return None
        if self.manager._kernel_connections.get(kernel, 0) > 0:
            self._away.pop(kernel, None)
            return None
        since = self._away.setdefault(kernel, time.monotonic())
        return End("alone", _in_words(self.alone)) if time.monotonic() - since > self.alone else None

    def _over(self, kernel: str, end: End) -> None:
        if kernel not in self.pages:
            return
        self.pages.discard(kernel)
        self._away.pop(kernel, None)
        self.ended[kernel] = end
        if len(self.ended) > REMEMBERED:
            self.ended.pop(next(iter(self.ended)))
        self.counts[end.why] += 1
        unasked = end.why in ("memory", "signal", "crash", "exit", "failed")
        log.log(logging.WARNING if unasked else logging.INFO, "kernel %s ended: %s%s", kernel[:8], end.logged(),
                self.crowd())  # fmt: skip

    def _hang_up(self, kernel: str) -> None:
        """Close the connections of its pages, which then ask what happened."""
        # not above: who only passes pages on (several.py) starts without a Jupyter server
        from jupyter_server.services.kernels.connection.channels import ZMQChannelsWebsocketConnection

        for key, handler in list(ZMQChannelsWebsocketConnection._open_sessions.items()):
            if key.startswith(f"{kernel}:"):
                with suppress(Exception):  # one that is closing already
                    handler.close(SERVER_GONE, "the kernel has ended")

    # -- what it tells -------------------------------------------------------------------------------------------------
    def answer(self, kernel: str) -> dict[str, Any]:
        """For a page that lost its connection."""
        told: dict[str, Any] = {"running": kernel in self.pages, "uptime": round(time.monotonic() - self.begun, 1)}
        if (end := self.ended.get(kernel)) is not None:
            told |= {"why": end.why, "said": end.said()}
        return told

    def facts(self) -> dict[str, Any]:
        """For /health: nothing about anybody."""
        ended = {why: count for why, count in sorted(self.counts.items()) if why != "started"}
        kernels = {"running": len(self.pages), "started": self.counts["started"], "ended": ended}
        return {"status": "ok", "kernels": kernels, "seconds": round(time.monotonic() - self.begun)}


def begin_to_log(level: int = logging.INFO) -> None:
    """One line an event, on standard error, with the time."""
    handler = logging.StreamHandler()
    handler.setFormatter(logging.Formatter("%(asctime)s %(message)s", "%Y-%m-%d %H:%M:%S"))
    log.addHandler(handler)
    log.setLevel(level)
    log.propagate = False


def seconds(name: str, usual: float) -> float:
    """So many, unless the environment says otherwise."""
    with suppress(ValueError):
        return max(0.0, float(os.environ.get(name, "")))
    return usual


def _in_words(length: float) -> str:
    return f"{length / 60:.0f} minutes" if length >= 120 else f"{length:g} seconds"


def _kills_for_memory() -> int:
    """How many processes the system has killed because memory ran out, where it counts them."""
    with suppress(OSError, ValueError):
        for line in Path("/proc/vmstat").read_text().splitlines():
            if line.startswith("oom_kill "):
                return int(line.split()[1])
    return 0
