"""`python -m tests.classroom frames`: bad clients throw frames and requests at a server while a good one asks it things.

The good one asks its kernel, and the server, every 200 ms, and is to be answered within a second throughout. A broken frame
ends its connection; a whole one with hostile content harms nobody but, at most, the kernel of who sent it.
"""

import argparse
import asyncio
import json
import logging
import random
import time
from collections import Counter
from contextlib import suppress
from dataclasses import dataclass, field
from urllib.parse import urlencode

from jupyter_server.services.kernels.connection.base import deserialize_msg_from_ws_v1
from tornado.httpclient import HTTPRequest
from tornado.websocket import WebSocketClientConnection, WebSocketClosedError, websocket_connect

from explorer.serving.guard import check_frame
from tests.classroom.bad_frames import MARK, Whole, broken, whole
from tests.classroom.client import PROTOCOL, Gone
from tests.classroom.hostile import Ear, Heard, Row, table
from tests.classroom.room import Server, percentile

EVERY = 0.2  # seconds between two questions of the good client
GOAL = 1.0  # seconds within which each is answered
TOKEN = "sesame-of-the-class"
PAGE = "labs/checkpoint.ipynb"
REFUSED = (1002, 1003, 1008, 1009)  # with which a server ends a connection on purpose
PATIENCE = 20.0  # seconds until a connection that should be closed is


class Good:
    """Asks its kernel and the server in turn, and remembers how long each answer took, by what went on meanwhile."""

    def __init__(self, server: Server, ear: Ear) -> None:
        self.server, self.page = server, Heard(server.url, PAGE, ear)
        self.phase, self.waits = "", dict[str, list[float]]()
        self._task: asyncio.Task[None] | None = None

    async def __aenter__(self) -> "Good":
        await self.page.open()
        await self.page.find("Open")
        self._task = asyncio.create_task(self._ask())
        return self

    async def __aexit__(self, *_: object) -> None:
        if self._task:
            self._task.cancel()
            with suppress(asyncio.CancelledError):
                await self._task
        await self.page.leave()

    async def _ask(self) -> None:
        while True:
            for ask in (self._kernel, self._server):
                begun, phase = time.perf_counter(), self.phase
                with suppress(TimeoutError, Gone, OSError):  # so long, then
                    await ask()
                self.waits.setdefault(phase, []).append(time.perf_counter() - begun)
                await asyncio.sleep(max(0.0, begun + EVERY - time.perf_counter()))

    async def _kernel(self) -> None:
        """A question to its kernel; if its connection is gone, that is an answer that never comes."""
        before = self.page.counts["kernel_info_reply"]
        if self.page.closed:
            await asyncio.sleep(10)
        self.page.send("kernel_info_request", {})
        await self.page.until(lambda: self.page.counts["kernel_info_reply"] > before, 30)

    async def _server(self) -> None:
        answer = await self.page.fetch("voila/tree", 30)
        if answer.code != 200:
            await asyncio.sleep(10)

    def rows(self) -> list[Row]:
        """Of the table: the worst answer in each phase."""
        return [
            Row(
                f"the good one, {phase}: {len(all_)} answers",
                f"worst {max(all_):.2f} s",
                f"{GOAL:g} s",
                max(all_) <= GOAL,
            )
            for phase, all_ in self.waits.items()
            if phase
        ]


def _worst(waits: list[float]) -> str:
    late = sum(wait > GOAL for wait in waits)
    return f"p99 {percentile(waits, 0.99):.2f} s, worst {max(waits):.2f} s, {late} late"


@dataclass
class Seen:
    """What became of the frames, by kind."""

    refused: Counter[str] = field(default_factory=Counter)
    passed: Counter[str] = field(default_factory=Counter)
    wrong: list[str] = field(default_factory=list)
    lost: Counter[str] = field(default_factory=Counter)  # why a bad client took another kernel

    @property
    def count(self) -> int:
        return self.refused.total() + self.passed.total()


class Bad:
    """A client that throws frames at its own kernel, on as many connections as that takes."""

    def __init__(self, server: Server, seed: int, ear: Ear, seen: Seen) -> None:
        self.server, self.dice, self.ear, self.seen = server, random.Random(seed), ear, seen
        self.page = Heard(server.url, PAGE, ear)
        self.models: list[str] = []

    async def run(self, count: int) -> None:
        """So many frames: broken ones, each on a connection of its own, and whole ones, many on one."""
        await self._open()
        supply = broken(self.dice)
        done = 0
        while done < count:
            try:
                if self.dice.random() < 0.5:
                    batch = min(20, count - done)
                    for _ in range(batch):
                        await self._broken(*next(supply))
                        done += 1
                else:
                    done += await self._whole(min(40, count - done))
            except (Gone, OSError, WebSocketClosedError, TimeoutError) as error:
                await self._again(error)
        self.page.close()
        await self.page.leave()

    async def _open(self) -> None:
        self.page = Heard(self.server.url, PAGE, self.ear)
        await self.page.open()
        await self.page.find("Open")
        self.models = list(self.page.states)

    async def _again(self, error: Exception) -> None:
        """Its kernel has ended, or does not answer: that is its own affair. It takes another."""
        self.seen.lost[f"{type(error).__name__}: {error}"[:100]] += 1
        with suppress(Exception):
            await self.page.leave()
        await self._open()

    async def connect(self) -> WebSocketClientConnection:
        """A bare connection to its own kernel."""
        query = urlencode({"session_id": f"{self.dice.getrandbits(64):x}", "token": TOKEN})
        address = f"{self.page.base.replace('http', 'ws', 1)}api/kernels/{self.page.kernel}/channels?{query}"
        request = HTTPRequest(address, connect_timeout=PATIENCE, request_timeout=PATIENCE)
        try:
            return await websocket_connect(request, subprotocols=[PROTOCOL], max_message_size=10**8)
        except Exception as error:  # noqa: BLE001  refused, reset, timed out: there is none
            raise Gone(f"no connection: {error}") from None

    async def _broken(self, kind: str, frame: object) -> None:
        socket = await self.connect()
        try:
            assert isinstance(frame, (str, bytes))
            with suppress(WebSocketClosedError):
                await socket.write_message(frame, binary=isinstance(frame, bytes))
            if isinstance(frame, bytes) and kind == "mangled" and _is_whole(frame):
                self.seen.passed["mangled, and whole by chance"] += 1
            elif await self._is_closed(socket) in REFUSED:
                self.seen.refused[kind] += 1
            else:
                self.seen.wrong.append(f"{kind}: the connection stayed open, or ended with {socket.close_code}")
                self.seen.passed[kind] += 1
        finally:
            socket.close()

    async def _is_closed(self, socket: WebSocketClientConnection) -> int | None:
        """The code with which the server ended it; None: it did not."""
        end = time.monotonic() + PATIENCE
        with suppress(TimeoutError):
            while time.monotonic() < end:
                heard = await asyncio.wait_for(socket.read_message(), PATIENCE)
                if heard is None:
                    # the longest frame is cut off while it is being sent, and no code comes
                    return socket.close_code or 1009
                self.ear.hear(heard, "after a broken frame")
        return None

    async def _whole(self, count: int) -> int:
        """So many in one connection, which then still answers, or was closed; returns how many."""
        socket, sent = await self.connect(), 0
        try:
            for _ in range(count):
                one: Whole = whole(self.dice, self.models)
                try:
                    await socket.write_message(one.frame, binary=True)
                except WebSocketClosedError:
                    self.seen.refused[one.kind] += 1
                    return sent + 1
                self.seen.passed[one.kind] += 1
                sent += 1
            # a page would now read; what comes is heard until there is a pause
            while True:
                heard = await asyncio.wait_for(socket.read_message(), 0.3)
                if heard is None:
                    return sent
                self.ear.hear(heard, "after whole frames")
        except TimeoutError:
            return sent
        finally:
            socket.close()


def _is_whole(frame: bytes) -> bool:
    """Whether what was changed lies within a part, as far as those tell who take it apart."""
    with suppress(Exception):
        check_frame(frame)
        channel, parts = deserialize_msg_from_ws_v1(frame)
        return channel in ("shell", "control", "stdin") and isinstance(json.loads(parts[0])["msg_type"], str)
    return False


async def throw(server: Server, count: int, clients: int, seed: int, ear: Ear, good: Good) -> Seen:
    """So many frames by so many clients."""
    good.phase, seen = f"{count:,} frames of {clients} clients", Seen()
    begun = time.perf_counter()
    bad = [Bad(server, seed + number, ear, seen) for number in range(clients)]
    await asyncio.gather(*(one.run(count // clients) for one in bad))
    good.phase = ""
    took = time.perf_counter() - begun
    print(f"{seen.count:,} frames in {took:.0f} s, {seen.count / took:.0f} a second")
    return seen


async def run(count: int, clients: int, seed: int, http: bool, people: int) -> int:
    """The table."""
    from tests.classroom.odd_requests import Requests

    MARK.unlink(missing_ok=True)
    ear = Ear()
    with Server(people=people, token=TOKEN) as server:
        await server.warm()
        async with Good(server, ear) as good:
            good.phase = "nobody else"
            await asyncio.sleep(3)
            good.phase = ""
            seen = await throw(server, count, clients, seed, ear, good)
            requests = Requests(server, good, ear)
            asked = await requests.run() if http else []
            health = await server.health()
    rows = [Row(kind, f"{n:,} refused", "refused", None) for kind, n in sorted(seen.refused.items())]
    rows += [Row(kind, f"{n:,} harmless", "harmless", None) for kind, n in sorted(seen.passed.items())]
    rows += [
        Row("broken frames that were let in", f"{len(seen.wrong)}", "0", not seen.wrong),
        Row("code of a frame that was run", str(int(MARK.exists())), "0", not MARK.exists()),
        *(Row(f"kernels of the bad that were given up: {why}", str(times)) for why, times in seen.lost.most_common(4)),
        *good.rows(),
        *asked,
        Row("the server afterwards", str(health.get("status")), "ok", health.get("status") == "ok"),
        ear.row(),
    ]
    return table(f"{seen.count:,} hostile frames", rows, [*seen.wrong, *requests.wrong, *requests.failed, *ear.leaks])


def main(argv: list[str]) -> int:
    """The table; 1 if something fell short."""
    parser = argparse.ArgumentParser(prog="frames", description=__doc__)
    parser.add_argument("--count", type=int, default=10_000)
    parser.add_argument("--clients", type=int, default=4)
    parser.add_argument("--seed", type=int, default=7)
    parser.add_argument("--people", type=int, default=12, help="the class that the server is for")
    parser.add_argument("--no-http", action="store_true", help="frames alone, no odd requests")
    given = parser.parse_args(argv)
    # it warns whoever sends on after being cut off, which is what is done here
    logging.getLogger("asyncio").setLevel(logging.ERROR)
    return asyncio.run(run(given.count, given.clients, given.seed, not given.no_http, given.people))
