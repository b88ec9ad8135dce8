"""How several.py passes on what visitors ask of a room of several processes, and what these answer."""

import asyncio
import functools
import re
import secrets
import time
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from tornado.httpclient import AsyncHTTPClient, HTTPClientError, HTTPRequest
from tornado.httputil import HTTPHeaders
from tornado.web import RequestHandler
from tornado.websocket import WebSocketClientConnection, WebSocketClosedError, WebSocketHandler, websocket_connect

from explorer.serving import line, watch

if TYPE_CHECKING:
    from explorer.serving.several import Processes, Worker

TOLD = re.compile(rb'kernelId": "([0-9a-f-]{36})"')
OVER = re.compile(r"/voila/api/shutdown/([0-9a-f-]{36})$")
SHOWN = {"Host", "Cookie", "Authorization"}  # by which a visitor may be known
NOBODY = "00000000-0000-0000-0000-000000000000"
# of one connection and not of what is said over it
HOPS = {
    "connection",
    "keep-alive",
    "transfer-encoding",
    "upgrade",
    "te",
    "trailer",
    "proxy-connection",
    "content-length",
}
OF_A_WEBSOCKET = re.compile(r"sec-websocket-(key|version|extensions|protocol)")
MOST_BYTES = 100 * 2**20  # of an answer
SLOWEST = 600.0  # seconds that an answer may take
ENDED = "the part of the server that it ran on ended"
SORRY = """<!DOCTYPE html><html lang="en"><meta charset="utf-8"><meta http-equiv="refresh" content="3">
<title>The server is starting</title><main role="status"><h1>The server is starting</h1>
<p>This page tries again by itself; leave it open.</p></main></html>"""


def passed_on(request: Any) -> HTTPHeaders:
    """The headers that a process gets: as the visitor sent them, with the name by which he knows the server."""
    kept = HTTPHeaders()
    for name, value in request.headers.get_all():
        if name.lower() not in HOPS and not OF_A_WEBSOCKET.match(name.lower()):
            kept.add(name, value)
    kept.setdefault("X-Forwarded-Proto", request.protocol)
    return kept


class Relay(RequestHandler):
    """What is asked by HTTP."""

    def initialize(self, processes: "Processes") -> None:
        """`processes`: who answer."""
        self.processes, self.begins = processes, b""
        self.page = False  # that has not told its kernel yet

    def check_xsrf_cookie(self) -> None:
        """Whoever answers does."""

    def set_default_headers(self) -> None:
        self.clear_header("Server")

    def prepare(self) -> None:
        """Only paths: behind the address of a process, "@other.example/" would be another server."""
        if not self.request.path.startswith("/"):
            self.set_status(404)
            self.finish()

    async def get(self) -> None:
        """An answer, streamed as it comes; a page only if there is a place."""
        path = self.request.path.removeprefix(self.processes.base_url)
        if path == "health":
            self.set_header("Cache-Control", "no-store")
            self.finish(self.processes.facts())
        elif path.startswith("voila/session/") and path.rpartition("/")[2] in self.processes.lost:
            up = round(time.monotonic() - self.processes.begun, 1)
            self.finish({"running": False, "uptime": up, "why": "crash", "said": ENDED})
        elif path.startswith("voila/render/") and self.request.method == "GET":
            # who may not have the page hears so from the process, and takes no place in the line
            await self._page(counts=await self._may_come_in())
        elif worker := self.processes.of(path):
            await self._pass_on(worker)
        else:
            self._starting()

    head = post = put = patch = delete = options = get

    async def _page(self, counts: bool) -> None:
        worker = self.processes.any()
        if worker is None:
            self._starting()
        elif not counts or self._enters():
            self.page = True
            if counts:
                worker.coming.add(self)
            try:
                await self._pass_on(worker)
            finally:
                worker.coming.discard(self)

    def _starting(self) -> None:
        self.set_status(503)
        self.set_header("Retry-After", "3")
        self.finish(SORRY)

    async def _may_come_in(self) -> bool:
        """Whether a process knows the visitor, by whatever he shows: a token, a cookie."""
        worker = self.processes.any()
        if worker is None or not self.processes.token:
            return worker is not None
        address = f"http://127.0.0.1:{worker.port}{self.processes.base_url}voila/session/{NOBODY}?{self.request.query}"
        shown = {name: value for name, value in passed_on(self.request).items() if name in SHOWN}
        asked = HTTPRequest(address, headers=shown, follow_redirects=False, request_timeout=SLOWEST)
        with suppress(HTTPClientError, OSError):
            return (await AsyncHTTPClient().fetch(asked, raise_error=False)).code == 200
        return False

    def _enters(self) -> bool:
        ticket = (self.get_cookie(line.COOKIE) or secrets.token_hex(8))[:32]
        place = self.processes.line.try_to_enter(ticket, self.processes.taken())
        if place:
            self.set_status(503)
            self.set_cookie(line.COOKIE, ticket, httponly=True, samesite="Lax", path=self.processes.base_url)
            self.set_header("Retry-After", str(line.RETRY))
            self.set_header("Cache-Control", "no-store")
            self.finish(line.waiting_page(place))
        return not place

    async def _pass_on(self, worker: "Worker") -> None:
        try:
            answer = await AsyncHTTPClient().fetch(
                HTTPRequest(
                    f"http://127.0.0.1:{worker.port}{self.request.uri}",
                    method=self.request.method or "GET",
                    headers=passed_on(self.request),
                    body=self.request.body or None,
                    allow_nonstandard_methods=True,
                    follow_redirects=False,
                    decompress_response=False,
                    request_timeout=SLOWEST,
                    header_callback=self._header,
                    streaming_callback=functools.partial(self._piece, worker),
                ),
                raise_error=False,
            )
        except (HTTPClientError, OSError):
            # it ended while it answered
            if not self._headers_written:
                self.clear()
                self.set_status(502)
        else:
            if answer.code == 204 and (ended := OVER.search(self.request.path)):
                worker.over({ended[1]})
        if not self._finished:
            with suppress(Exception):  # the visitor has gone
                await self.finish()

    def _header(self, line: str) -> None:
        if line.startswith("HTTP/"):
            self.set_status(int(line.split()[1]))
            return
        name, _, value = line.strip().partition(":")
        if name and name.lower() not in HOPS:
            self.add_header(name, value.strip())

    def _piece(self, worker: "Worker", chunk: bytes) -> None:
        if self.page:
            self.begins = self.begins[-64:] + chunk
            if found := TOLD.search(self.begins):
                self.page = False
                worker.told(self, found[1].decode())
        if not self._finished:
            self.write(chunk)
            self.flush()


class Channels(WebSocketHandler):
    """A page's connection to its kernel; who may have it, the process decides that has the kernel."""

    def initialize(self, processes: "Processes") -> None:
        """`processes`: who have the kernels."""
        self.processes = processes
        self.other: WebSocketClientConnection | None = None

    def check_origin(self, origin: str) -> bool:  # noqa: ARG002  (the process was given it)
        """Whoever has the kernel was asked before."""
        return True

    def select_subprotocol(self, subprotocols: list[str]) -> str | None:  # noqa: ARG002  (the process chose)
        """The one that the process has agreed to."""
        return self.other.selected_subprotocol if self.other else None

    async def get(self, *args: Any, **kwargs: Any) -> None:
        """First that with the kernel, then, if there is one, this."""
        if not self.request.path.startswith("/"):  # as in Relay.prepare
            self.set_status(404)
            return
        worker = self.processes.of(self.request.path)
        if worker is None:
            self.set_status(503)
            return
        offered = self.request.headers.get("Sec-WebSocket-Protocol", "")
        address = f"ws://127.0.0.1:{worker.port}{self.request.uri}"
        request = HTTPRequest(address, headers=passed_on(self.request), request_timeout=SLOWEST)
        try:
            self.other = await websocket_connect(
                request,
                subprotocols=[one.strip() for one in offered.split(",") if one.strip()] or None,
                max_message_size=MOST_BYTES,
            )
        except (HTTPClientError, OSError) as error:
            self.set_status(getattr(error, "code", 502) if 400 <= getattr(error, "code", 502) < 600 else 502)
            return
        await super().get(*args, **kwargs)

    async def open(self, *_: str, **__: str) -> None:
        """Pass on what the kernel says, from now on."""
        self.reading = asyncio.create_task(self._from_the_kernel())

    async def _from_the_kernel(self) -> None:
        assert self.other
        with suppress(WebSocketClosedError):
            while (message := await self.other.read_message()) is not None:
                # the next is read when the visitor's line has taken this one
                await self.write_message(message, binary=isinstance(message, bytes))
        self.close(self.other.close_code or watch.SERVER_GONE, self.other.close_reason)

    async def on_message(self, message: str | bytes) -> None:
        """What the page says."""
        assert self.other
        with suppress(WebSocketClosedError):
            await self.other.write_message(message, binary=isinstance(message, bytes))

    def on_close(self) -> None:
        """The page has gone."""
        if self.other:
            self.other.close(self.close_code, self.close_reason)
