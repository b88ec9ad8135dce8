"""Several Voila processes behind one address: this small process passes on what visitors ask, and what they are answered.

A page goes to the process with the fewest pages; what has the id of a kernel in its address goes to the process that has
this kernel. Everything else any of them can answer. The room is one: its places, its line and /health are told here. A
process that ends is started anew; its pages are told that it ended. Run by its path, with settings on standard input.
"""

import asyncio
import json
import os
import secrets
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from contextlib import suppress
from pathlib import Path
from typing import Any

from tornado.httpclient import AsyncHTTPClient, HTTPClientError
from tornado.web import Application

from explorer import budget
from explorer.serving import ports, watch
from explorer.serving.line import Line, places_for
from explorer.serving.proxy import MOST_BYTES, Channels, Relay

HERE = Path(__file__).resolve().parent
LOOK = 1.0  # seconds between two looks at the processes
PATIENCE = 8.0  # seconds that they have to end


class Worker:
    """One Voila process; `facts` is what it said last.

    Its pages are counted by the names of their kernels, so that none counts twice: a page is `coming` until it tells its
    kernel, from then on it is one of `kernels`, until the process says that it is over or it is ended from here.
    """

    def __init__(self, settings: dict[str, Any], restarts: int = -1) -> None:
        self.settings, self.restarts = settings, restarts
        self.process: subprocess.Popen[bytes] | None = None
        self.facts: dict[str, Any] = {}
        self.coming: set[object] = set()  # pages that were asked for and have not told their kernel yet
        self.kernels: set[str] = set()
        self.untold: set[str] = set()  # those that it has although no page has told of them, or not yet
        self.past: dict[str, None] = {}  # those that are over, oldest first

    def start(self) -> None:
        """At a port of its own."""
        with ports.reserve("127.0.0.1") as reserved:
            self.port = ports.number_of(reserved)
            own = self.settings | {"kind": "voila", "host": "127.0.0.1", "port": self.port}
            if ports.CAN_HAND_ON:
                own["socket"] = reserved.fileno()
            self.process = subprocess.Popen(
                [sys.executable, "-P", str(HERE / "server.py")],
                stdin=subprocess.PIPE,
                start_new_session=True,
                pass_fds=[own["socket"]] if ports.CAN_HAND_ON else [],
            )
        assert self.process.stdin
        # the pipe stays open: it ends with this process
        self.process.stdin.write(json.dumps(own).encode() + b"\n")
        self.process.stdin.flush()

    @property
    def alive(self) -> bool:
        return self.process is not None and self.process.poll() is None

    @property
    def ready(self) -> bool:
        return self.alive and bool(self.facts)

    def running(self) -> set[str]:
        """Its kernels, as far as they are known here."""
        return self.kernels | self.untold

    def pages(self) -> int:
        """Pages that it has, and those that it is about to have."""
        # which of those that are coming an untold kernel belongs to, nobody knows; it is not another page
        return len(self.kernels) + max(len(self.coming), len(self.untold))

    def told(self, page: object, kernel: str) -> None:
        """The page has told its kernel."""
        self.coming.discard(page)
        self.untold.discard(kernel)
        self.kernels.add(kernel)

    def over(self, kernels: set[str]) -> None:
        """These have ended."""
        self.kernels -= kernels
        self.untold -= kernels
        self.past |= dict.fromkeys(kernels)
        for kernel in list(self.past)[: -watch.REMEMBERED]:
            self.past.pop(kernel)

    def heard(self, has: set[str], before: set[str]) -> None:
        """It has said which kernels it has; `before`: those that were known when it was asked.

        It may be late: a kernel that it does not name may have begun since, and one that it names may be over.
        """
        self.over(before - has)
        self.untold = has - self.kernels - self.past.keys()


class Processes:
    """All of them, and the room that they are together."""

    def __init__(self, settings: dict[str, Any]) -> None:
        self.base_url, self.begun = str(settings["base_url"]), time.monotonic()
        self.line = Line(places_for(settings["class"]))
        # any of them may hold all the places; that there are no more is seen to here
        own = {"secret": secrets.token_hex(32), "front": secrets.token_hex(16)}
        self.shared = {name: value for name, value in settings.items() if name != "socket"} | own
        # where a process tells what /health tells nobody; the address is its own password
        self.inside, self.token = f"{self.base_url}health/{own['front']}", settings.get("token", "")
        self.workers = [Worker(self.shared) for _ in range(settings["processes"])]
        self.lost: dict[str, None] = {}  # kernels whose process ended, oldest first

    def any(self) -> Worker | None:
        """One that answers: that with the fewest pages."""
        return min((one for one in self.workers if one.ready), key=Worker.pages, default=None)

    def of(self, path: str) -> Worker | None:
        """Whose kernel is in this address; another, where there is none or nobody knows it."""
        found = watch.KERNEL.search(path)
        if found:
            for one in self.workers:
                if one.ready and (found[0] in one.running() or found[0] in one.past):
                    return one
        return self.any()

    def taken(self) -> int:
        return sum(one.pages() for one in self.workers)

    async def look(self) -> None:
        """Start anew what has ended, and hear how the others are."""
        for place, one in enumerate(self.workers):
            if not one.alive:
                if one.restarts >= 0:
                    watch.log.warning(
                        "a process of the server ended with %d pages; it is started anew", len(one.running())
                    )
                self.lost |= dict.fromkeys(one.running())
                for kernel in list(self.lost)[: -watch.REMEMBERED]:
                    self.lost.pop(kernel)
                # what still comes from the one that ended counts there, and no more
                self.workers[place] = Worker(self.shared, one.restarts + 1)
                self.workers[place].start()
        await asyncio.gather(*(self._ask(one) for one in self.workers))

    async def _ask(self, worker: Worker) -> None:
        before = worker.running()
        with suppress(HTTPClientError, OSError, ValueError):
            address = f"http://127.0.0.1:{worker.port}{self.inside}"
            facts = json.loads((await AsyncHTTPClient().fetch(address, request_timeout=5)).body)
            worker.heard(set(facts.pop("names")), before)
            worker.facts = facts

    async def keep_looking(self) -> None:
        while True:
            await self.look()
            await asyncio.sleep(LOOK)

    def facts(self) -> dict[str, Any]:
        """For /health: those of all, as one."""
        told = [one.facts.get("kernels", {}) for one in self.workers]
        ended = sum((Counter(one.get("ended", {})) for one in told), Counter())
        kernels: dict[str, Any] = {
            name: sum(one.get(name, 0) for one in told) for name in ("started", "forked", "plain")
        }
        kernels["running"] = sum(len(one.running()) for one in self.workers)
        kinds = sorted({one["kind"] for one in told if "kind" in one}) if all(told) else ["warming up"]
        kernels |= {"ended": dict(sorted(ended.items())), "kind": ", ".join(kinds), **budget.facts()}
        kernels |= {"places": self.line.places, "waiting": len(self.line.seen)}
        processes = {
            "running": sum(one.ready for one in self.workers),
            "restarts": sum(w.restarts for w in self.workers),
        }
        return {
            "status": "ok",
            "kernels": kernels,
            "processes": processes,
            "seconds": round(time.monotonic() - self.begun),
        }

    def end(self) -> None:
        """Of all, with their kernels."""
        running = [one.process for one in self.workers if one.process and one.alive]
        for process in running:
            process.terminate()
        until = time.monotonic() + PATIENCE
        for process in running:
            with suppress(subprocess.TimeoutExpired):
                process.wait(max(0.0, until - time.monotonic()))
            if process.poll() is None:
                process.kill()


async def serve(settings: dict[str, Any]) -> None:
    """Until a signal."""
    own = json.loads((HERE / "voila.json").read_text())["Voila"]["tornado_settings"]
    AsyncHTTPClient.configure(None, max_clients=2000, max_body_size=MOST_BYTES)
    processes = Processes(settings)
    given = {"processes": processes}
    handlers = [(r".*/api/kernels/[^/]+/channels", Channels, given), (r".*", Relay, given)]
    application = Application(
        handlers,
        websocket_max_message_size=own["websocket_max_message_size"],
        log_function=lambda _: None,
    )
    ports.listen(application, settings)
    over = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, over.set)
    looking = asyncio.create_task(processes.keep_looking())
    try:
        await over.wait()
    finally:
        looking.cancel()
        processes.end()


def main() -> None:
    """Serve until a signal, or the end of the process that started this one."""
    settings = json.loads(sys.stdin.readline())
    threading.Thread(target=_stop_with_the_parent, daemon=True).start()
    watch.begin_to_log()
    asyncio.run(serve(settings))


def _stop_with_the_parent() -> None:
    sys.stdin.read()
    os.kill(os.getpid(), signal.SIGTERM)


if __name__ == "__main__":
    main()
