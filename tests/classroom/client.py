"""A visitor without a browser: opens a page, talks with its kernel as Voila's page does, finds and presses its buttons.

    async with Page(url, "labs/routing.ipynb") as page:   # url as `serve` prints it, with its token if there is one
        train = await page.find("Train")
        await page.click(train)
        await page.until(lambda: page.states[train].get("disabled"), 30)

A task reads all the time, as a browser does: `states` holds every widget by its id, `times` what took how long since the
page was asked for, `counts` how many messages of which kind have come. Frames of live views are acknowledged as a browser
does: those of the first few at once, and those further down the page, which would be off the screen, after a second.
"""

import asyncio
import json
import re
import time
import uuid
from collections import Counter
from collections.abc import Callable, Iterator
from http.cookies import SimpleCookie
from typing import Any, Self
from urllib.parse import parse_qs, urlencode, urlsplit

from jupyter_server.services.kernels.connection.base import deserialize_msg_from_ws_v1, serialize_msg_to_ws_v1
from tornado.httpclient import AsyncHTTPClient, HTTPClientError, HTTPRequest, HTTPResponse
from tornado.websocket import WebSocketClientConnection, WebSocketError, websocket_connect

PROTOCOL = "v1.kernel.websocket.jupyter.org"
MOST_BYTES = 100_000_000
ON_SCREEN = 3  # live views that a browser would draw at once
AWAY_SECONDS = 1.0  # how long the answers of the others take
ANSWER_SECONDS = 0.05  # a page answers for all its views together
ASK_AGAIN = 10.0  # seconds without an answer after which a page asks for its widgets once more

AsyncHTTPClient.configure(None, max_clients=1000, max_body_size=MOST_BYTES)


class Gone(Exception):
    """The connection to the kernel was closed, or there never was one."""


class Page:
    """One visitor on one page. `path` is a notebook, with a query if wanted; see the top of this file."""

    def __init__(self, url: str, path: str = "labs/routing.ipynb", acknowledges: bool = True) -> None:
        parts = urlsplit(url)
        self.base = f"{parts.scheme}://{parts.netloc}{parts.path}"
        self.token = parse_qs(parts.query).get("token", [""])[0]
        self.path, self.acknowledges = path, acknowledges
        self.cookies: dict[str, str] = {}
        self.kernel, self.session, self.html, self.status = "", uuid.uuid4().hex, "", 0
        self.socket: WebSocketClientConnection | None = None
        self.states: dict[str, dict[str, Any]] = {}
        self.times: dict[str, float] = {}
        self.counts: Counter[str] = Counter()
        self.received = 0  # bytes over the websocket
        self.messages: list[tuple[str, dict[str, Any]]] | None = None  # (type, content) of each, from when it is a list
        self.closed = ""  # why there is no connection any more
        self._news = asyncio.Event()
        self._views: list[str] = []
        self._tasks: list[asyncio.Task[None]] = []
        self._begun = time.perf_counter()

    # -- HTTP ----------------------------------------------------------------------------------------------------------
    def headers(self) -> dict[str, str]:
        """The cookies that the server has set, and the token."""
        kept = "; ".join(f"{name}={value}" for name, value in self.cookies.items())
        return ({"Cookie": kept} if kept else {}) | ({"Authorization": f"token {self.token}"} if self.token else {})

    async def fetch(self, path: str, seconds: float = 200, **settings: Any) -> HTTPResponse:
        """An answer, of whatever status, to a path below the base url."""
        given = {"request_timeout": seconds, "connect_timeout": seconds, "headers": self.headers(), **settings}
        try:
            answer = await AsyncHTTPClient().fetch(HTTPRequest(self.base + path, **given), raise_error=False)
        except HTTPClientError as error:
            raise Gone(f"no answer to {path}: {error}") from None
        for one in answer.headers.get_list("Set-Cookie"):
            self.cookies |= {name: morsel.value for name, morsel in SimpleCookie(one).items()}
        return answer

    async def open(self, seconds: float = 200) -> Self:
        """Ask for the page, then connect with its kernel and ask for its widgets."""
        self._begun = time.perf_counter()
        answer = await self.fetch(f"voila/render/{self.path}", seconds)
        self.status, self.html = answer.code, answer.body.decode(errors="replace")
        self._took("page")
        found = re.search(r'kernelId": "([0-9a-f-]{36})"', self.html)
        if not found:
            raise Gone(f"the page has no kernel (status {self.status})")
        self.kernel = found[1]
        await self.connect(seconds)
        return self

    # -- the websocket -------------------------------------------------------------------------------------------------
    async def connect(self, seconds: float = 100) -> None:
        """The websocket of the kernel, as a page opens it, also after it was lost."""
        query = urlencode({"session_id": self.session} | ({"token": self.token} if self.token else {}))
        address = f"{self.base.replace('http', 'ws', 1)}api/kernels/{self.kernel}/channels?{query}"
        request = HTTPRequest(address, connect_timeout=seconds, request_timeout=seconds, headers=self.headers())
        try:
            self.socket = await websocket_connect(request, subprotocols=[PROTOCOL], max_message_size=MOST_BYTES)
        except (HTTPClientError, WebSocketError) as error:
            raise Gone(f"no connection with the kernel: {error}") from None
        self.closed = ""
        self._took("socket")
        self._tasks = [asyncio.create_task(self._read()), asyncio.create_task(self._answer())]
        self.ask_for_widgets()

    def send(self, kind: str, content: dict[str, Any], channel: str = "shell") -> str:
        """A message of this kind to the kernel; returns its id."""
        number = uuid.uuid4().hex
        header = {"msg_id": number, "msg_type": kind, "session": self.session, "username": "", "version": "5.3"}
        header["date"] = time.strftime("%Y-%m-%dT%H:%M:%S.000Z", time.gmtime())
        parts = [json.dumps(one).encode() for one in (header, {}, {"version": "1.0.0"}, content)]
        if self.socket is None or self.closed:
            raise Gone(self.closed or "not connected")
        self.socket.write_message(serialize_msg_to_ws_v1(parts, channel), binary=True)
        return number

    def ask_for_widgets(self) -> None:
        """What a page asks when it connects; the answer fills `states`."""
        comm = uuid.uuid4().hex
        opening = {"comm_id": comm, "target_name": "jupyter.widget.control", "data": {}}
        self.send("comm_open", opening | {"target_module": None})
        self.send("comm_msg", {"comm_id": comm, "data": {"method": "request_states"}})

    def to_widget(self, model: str, **data: Any) -> None:
        """A message to one widget."""
        self.send("comm_msg", {"comm_id": model, "data": data})

    def click(self, model: str) -> None:
        """Press a button."""
        self.to_widget(model, method="custom", content={"event": "click"})

    def set(self, model: str, **state: Any) -> None:
        """Change a widget, as a person who moves a slider does."""
        self.to_widget(model, method="update", state=state, buffer_paths=[])

    def close(self) -> None:
        """As a page whose network is gone: the kernel is not told."""
        for task in self._tasks:
            task.cancel()
        if self.socket is not None:
            self.socket.close()
        self.closed = self.closed or "closed here"

    async def leave(self) -> None:
        """As a page that is closed: ask for the end of its kernel by a beacon, then go."""
        self.close()
        await self.fetch(f"voila/api/shutdown/{self.kernel}", method="POST", body=b"")

    async def __aenter__(self) -> Self:
        return await self.open()

    async def __aexit__(self, *_: object) -> None:
        await self.leave()

    # -- waiting -------------------------------------------------------------------------------------------------------
    async def until(self, true: Callable[[], Any], seconds: float, what: str = "") -> float:
        """Wait until it is true; returns the seconds that took. TimeoutError, or Gone if the connection ends first."""
        begun = time.perf_counter()
        while not true():
            rest = begun + seconds - time.perf_counter()
            if self.closed:
                raise Gone(self.closed)
            if rest <= 0:
                raise TimeoutError(what or f"nothing came within {seconds:.0f} s")
            self._news.clear()
            try:
                await asyncio.wait_for(self._news.wait(), rest)
            except TimeoutError:
                continue
        return time.perf_counter() - begun

    def having(self, **state: Any) -> Iterator[str]:
        """The widgets whose state has these values."""
        return (
            model
            for model, has in list(self.states.items())
            if all(name in has and has[name] == value for name, value in state.items())
        )

    async def find(self, description: str, seconds: float = 120) -> str:
        """The widget of this description, as soon as the page has it; asks again, seldom, if nothing comes."""
        end = time.perf_counter() + seconds
        while True:
            rest = min(ASK_AGAIN, max(0.0, end - time.perf_counter()))
            try:
                await self.until(lambda: any(self.having(description=description)), rest)
            except TimeoutError:
                if time.perf_counter() >= end:
                    raise TimeoutError(f"no widget {description!r} within {seconds:.0f} s") from None
                self.ask_for_widgets()
            else:
                return next(self.having(description=description))

    async def press(self, description: str, until: Callable[[], Any], seconds: float = 60) -> float:
        """Press the button of this description; returns the seconds until that is true."""
        begun = time.perf_counter()
        self.click(await self.find(description, seconds))
        await self.until(until, seconds, f"{description} was not answered within {seconds:.0f} s")
        return time.perf_counter() - begun

    async def drain(self, seconds: float) -> int:
        """Let so much time pass, reading; returns how many messages came."""
        before = self.counts.total()
        await asyncio.sleep(seconds)
        return self.counts.total() - before

    def _took(self, name: str) -> None:
        self.times[name] = time.perf_counter() - self._begun

    # -- what comes ----------------------------------------------------------------------------------------------------
    async def _read(self) -> None:
        assert self.socket is not None
        while (frame := await self.socket.read_message()) is not None:
            if isinstance(frame, bytes):
                self._heard(frame)
                self._news.set()
        self.closed = f"the server closed the connection ({self.socket.close_code} {self.socket.close_reason or ''})"
        self._news.set()

    def _heard(self, frame: bytes) -> None:
        self.received += len(frame)
        _, parts = deserialize_msg_from_ws_v1(frame)
        kind, content = json.loads(parts[0])["msg_type"], json.loads(parts[3])
        self.counts[kind] += 1
        if self.messages is not None:
            self.messages.append((kind, content))
        model, data = content.get("comm_id", ""), content.get("data") or {}
        if kind == "comm_close":
            self.states.pop(model, None)
        elif data.get("method") == "update_states":
            for one, found in data["states"].items():
                self._changed(one, found["state"])
        elif kind == "comm_open" or data.get("method") in ("update", "echo_update"):
            self.counts["update"] += 1
            self._changed(model, data.get("state") or {})

    def _changed(self, model: str, state: dict[str, Any]) -> None:
        self.states.setdefault(model, {}).update(state)
        if "frame" in state and "ident" in self.states[model]:
            self.counts["frame"] += 1
            if model not in self._views:
                self._views.append(model)

    async def _answer(self) -> None:
        """Say which frames were drawn."""
        told: dict[str, tuple[int, float]] = {}  # view -> number of the frame that was answered, when
        while self.acknowledges:
            await asyncio.sleep(ANSWER_SECONDS)
            frames, now, home = {}, time.perf_counter(), ""
            for place, model in enumerate(self._views):
                state = self.states.get(model, {})
                newest, (answered, at) = state.get("frame", {}).get("number", 0), told.get(model, (0, 0.0))
                if newest > answered and (place < ON_SCREEN or now - at > AWAY_SECONDS):
                    frames[state["ident"]], home = [newest, ""], model
                    told[model] = (newest, now)
            if frames and not self.closed:
                self.to_widget(home, method="custom", content={"kind": "drawn", "frames": frames})
