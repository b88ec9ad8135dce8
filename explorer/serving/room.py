"""A room of people on one server: so many kernels and no more, a line in front of a full room, and no kernel left behind."""

import logging
import secrets
from typing import Any

from tornado.web import authenticated
from voila.tornado.handler import TornadoVoilaHandler

from explorer import budget
from explorer.serving.line import COOKIE, RETRY, Line, places_for, waiting_page
from explorer.serving.provisioner import Kernels
from explorer.serving.watch import ALONE_SECONDS, Watch, seconds

ALONE = 180.0  # seconds that a kernel waits for its page to come back
NICE = 10  # kernels yield to the server, which answers everybody
MEMORY = 2 * 2**30  # bytes of data for one kernel, a forked one's share included

log = logging.getLogger("gating-explorer")


class Room:
    """The state of the room, and what its handlers share; its kernels are watched."""

    def __init__(self, people: int) -> None:
        self.line = Line(places_for(people))
        self.manager: Any = None
        self.starting = 0
        self.waiting = 0
        self.watch = Watch(seconds(ALONE_SECONDS, ALONE), self.crowd)

    def open(self, manager: Any) -> None:
        """Begin to look after the kernels of this manager, once the server's loop runs."""
        self.manager = manager
        self.watch.open(manager)
        log.info("the room is open: %d places, kernels %s", self.line.places, Kernels.kind())

    def taken(self) -> int:
        """Places that are taken: kernels, and those that are about to start."""
        return len(self.manager.list_kernel_ids()) + self.starting

    def crowd(self) -> str:
        """How full it is, for the end of a line in the log."""
        return f"; {len(self.watch.pages)} of {self.line.places} places taken"

    def came(self, ticket: str) -> int:
        """Somebody asks for a page: 0, come in, or the place in the line; a longer line is mentioned."""
        place = self.line.try_to_enter(ticket, self.taken())
        if len(self.line.seen) > self.waiting:
            log.info("the room is full: %d in line", len(self.line.seen))
        self.waiting = len(self.line.seen)
        return place

    def facts(self) -> dict[str, Any]:
        """For /health: nothing about anybody."""
        facts = self.watch.facts()
        facts["kernels"] |= {"running": len(self.manager.list_kernel_ids()), "places": self.line.places}
        facts["kernels"] |= {"waiting": len(self.line.seen), "forked": Kernels.forked, "plain": Kernels.plain}
        facts["kernels"] |= {"kind": Kernels.kind(), **budget.facts()}
        return facts


class Page(TornadoVoilaHandler):
    """A page, if there is a place for it."""

    def initialize(self, room: Room, **settings: Any) -> None:
        """`room` beside what Voila's own handler takes."""
        super().initialize(**settings)
        self.room = room

    @authenticated
    async def get(self, path: str | None = None) -> None:
        """The page, or the place in the line."""
        ticket = self.get_cookie(COOKIE) or secrets.token_hex(8)
        place = self.room.came(ticket[:32])
        if place:
            self._wait(ticket, place)
            return
        self.room.starting += 1
        started = False
        try:
            async for html in self.get_generator(path=path):
                if not started:  # the kernel, counted from here on by its manager
                    started = True
                    self.room.starting -= 1
                    log.info("page %s opened", (path or "")[:80])  # it exists, so nobody made its name up
                self.write(html)
                self.flush()
        finally:
            self.room.starting -= not started

    def _wait(self, ticket: str, place: int) -> None:
        self.set_status(503)
        self.set_cookie(COOKIE, ticket[:32], httponly=True, samesite="Lax", path=self.base_url)
        self.set_header("Retry-After", str(RETRY))
        self.set_header("Cache-Control", "no-store")
        self.set_header("Content-Type", "text/html; charset=utf-8")
        self.finish(waiting_page(place))


def with_room(handlers: list[Any], room: Room) -> list[Any]:
    """Voila's handlers, with its pages behind the door of the room."""
    found = [one for one in handlers if one[1] is TornadoVoilaHandler]
    assert found, "Voila renders pages"
    return [one if one not in found else (one[0], Page, {**one[2], "room": room}) for one in handlers]
