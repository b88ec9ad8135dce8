"""Requests that no browser of a student would send: what each is answered with, while the good client of frames.py asks on."""

import asyncio
import re
import time
import uuid
from collections import Counter
from collections.abc import Iterator
from contextlib import suppress
from typing import TYPE_CHECKING, NamedTuple
from urllib.parse import urlsplit

from tests.classroom.hostile import Ear, Row
from tests.classroom.room import Server

if TYPE_CHECKING:
    from tests.classroom.frames import Good

NO = range(400, 500)
PASSWD = b"root:x:0"
HALF_OPEN, FLOOD = 100, 2000


class Odd(NamedTuple):
    """One request. head: all of it up to the body; {token}, {kernel} and {other} are filled in. wanted: statuses."""

    kind: str
    head: str
    wanted: range | tuple[int, ...] = NO
    body: bytes = b""


def _get(kind: str, path: str, wanted: range | tuple[int, ...] = NO, headers: str = "", method: str = "GET") -> Odd:
    return Odd(kind, f"{method} {path} HTTP/1.1\r\nHost: {{host}}\r\n{headers}\r\n", wanted)


SOCKET = (
    "Upgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZQ==\r\n"
    "Sec-WebSocket-Protocol: v1.kernel.websocket.jupyter.org\r\n"
)
SIGNED = "Authorization: token {token}\r\n"
EVIL = "Origin: http://evil.example\r\n"
UP = ["../", "..%2f", "%2e%2e/", "..%5c", "..%252f", "....//", "%c0%ae%c0%ae/", "..;/", "/"]
BELOW = [
    "files",
    "static",
    "templates",
    "templates/lab/static",
    "labextensions",
    "render",
    "tree",
    "api/contents",
    "api/themes",
]
REST = [
    "api", "api/kernels", "api/kernelspecs", "api/sessions", "api/contents", "api/terminals", "api/config/notebook",
    "api/status", "api/spec.yaml", "api/me", "api/shutdown", "lab", "tree", "terminals/websocket/1", "nbconvert/html/x",
    "files/index.ipynb", "metrics", "edit/index.py", "kernelspecs/python3/kernel.json", "voila/query/{kernel}",
    "voila/execution/{kernel}", "api/kernels/{kernel}/interrupt", "api/kernels/{kernel}/restart",
]  # fmt: skip


def traversals() -> Iterator[Odd]:
    """Ways out of every folder that is served."""
    for below in BELOW:
        for up in UP:
            yield _get("ways out of a folder", f"/voila/{below}/{up * 12}etc/passwd", range(200, 600), SIGNED)
        for odd in (
            "%00",
            "x%00.png",
            "con",
            "~root",
            "%ff%fe",
            "x" * 5000,
            ".git/config",
            "labs/routing.py",
            "index.ipynb/x",
        ):
            yield _get("odd paths", f"/voila/{below}/{odd}", range(200, 600), SIGNED)


def all_of_them() -> Iterator[Odd]:
    """Every request of the table."""
    yield from traversals()
    for path in REST:
        yield _get("what other servers offer", f"/{path}", NO, SIGNED)
        yield _get("what other servers offer", f"/{path}", NO, SIGNED, "POST")
    closed = (302, 401, 403, 404, 405)
    for headers in (
        "",
        "Authorization: token wrong\r\n",
        "Cookie: username-x=2|1:0|10:0|1:x|1:x|0\r\n",
        "Authorization: x\r\n",
    ):
        for path in (
            "voila/tree",
            "voila/render/index.ipynb",
            "voila/api/contents/",
            "api/kernels/{kernel}",
            "voila/files/x.png",
        ):
            yield _get("without the token", f"/{path}", closed, headers)
        yield _get("without the token", "/api/kernels/{kernel}/channels?session_id=x", NO, SOCKET + headers)
        yield _get("without the token", "/voila/api/shutdown/{kernel}", NO, headers + "Content-Length: 0\r\n", "POST")
    yield _get("without the token", "/voila/tree?token=", closed)
    yield _get("without the token", "/voila/tree?token=" + "9" * 5000, closed)
    for origin in ("http://evil.example", "null", "file://", "http://{host}.evil.example", "javascript:1"):
        header = f"Origin: {origin}\r\n"
        # with the cookie that a browser would send along; a token in a header no other site can make it send
        signed = header + "Cookie: {cookie}\r\n"
        yield _get("from another site", "/api/kernels/{kernel}/channels?session_id=x", NO, SOCKET + signed)
        yield _get("from another site", "/api/kernels/{kernel}", NO, signed, "DELETE")
        yield _get("from another site", "/voila/api/shutdown/{kernel}", NO, signed + "Content-Length: 0\r\n", "POST")
    own = SOCKET + "Origin: http://{host}\r\nCookie: {cookie}\r\n"
    yield _get("from this site", "/api/kernels/{kernel}/channels?session_id=x", (101,), own)
    for who in ("{other}", "x", "..", "0" * 5000, "{kernel}x", "%00"):
        yield _get("a kernel that is not there", f"/api/kernels/{who}/channels?session_id=x", NO, SOCKET + SIGNED)
        yield _get(
            "a kernel that is not there", f"/voila/api/shutdown/{who}", NO, SIGNED + "Content-Length: 0\r\n", "POST"
        )
        yield _get("a kernel that is not there", f"/api/kernels/{who}", NO, SIGNED)
        yield _get("a kernel that is not there", f"/api/kernels/{who}", NO, SIGNED, "DELETE")
    yield _get(
        "an older protocol", "/api/kernels/{kernel}/channels?session_id=x", NO, SIGNED + SOCKET.rpartition("Sec-")[0]
    )
    for number in (70_000, 10**6):
        yield _get("a header too long", "/voila/tree", NO, SIGNED + f"X: {'x' * number}\r\n")
    yield _get("a header too long", "/voila/tree", NO, SIGNED + "X: y\r\n" * 20_000)
    yield _get("a header too long", "/" + "x" * 200_000, NO, SIGNED)
    long = SIGNED + "Content-Length: {}\r\n"
    for length in ("50000000", "99999999999999", "-1", "x", "1\r\nContent-Length: 2", "0x10"):
        yield _get("a body too long", "/voila/api/shutdown/{other}", NO, long.replace("{}", length), "POST")
        yield _get("a body too long", "/login", NO, long.replace("{}", length), "POST")
    yield Odd(
        "a body too long", "POST /login HTTP/1.1\r\nHost: {host}\r\nTransfer-Encoding: chunked\r\n\r\nffffffff\r\n", NO
    )
    yield Odd("a body too long", "POST /login HTTP/1.1\r\nHost: {host}\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n", NO)
    for raw in ("\x00\x01\x02\r\n\r\n", "GET\r\n\r\n", "GET / HTTP/9.9\r\n\r\n", "GET http://evil.example/ HTTP/1.1\r\n\r\n",
                "CONNECT evil.example:443 HTTP/1.1\r\nHost: {host}\r\n\r\n", "TRACE / HTTP/1.1\r\nHost: {host}\r\n\r\n",
                "PUT /voila/tree HTTP/1.1\r\nHost: {host}\r\n\r\n", "GET /voila/tree HTTP/1.1\r\nA b\r\n\r\n",
                "GET /voila/tree HTTP/1.1\r\nHost: evil.example\r\nHost: {host}\r\n\r\n"):  # fmt: skip
        yield Odd("no request at all", raw, range(300, 600))
    yield _get("a template of their own", "/voila/render/index.ipynb?template=reveal&theme=../../x", (200, 503), SIGNED)


class Requests:
    """Sends them all, then holds connections half open, then floods."""

    def __init__(self, server: Server, good: "Good", ear: Ear) -> None:
        parts = urlsplit(server.url)
        self.host, self.port = str(parts.hostname), int(parts.port or 80)
        self.good, self.ear = good, ear
        token = parts.query.partition("=")[2]
        self.fill = {"{token}": token, "{kernel}": good.page.kernel, "{other}": str(uuid.uuid4())}
        self.fill |= {"{host}": f"{self.host}:{self.port}"}
        self.statuses: dict[str, Counter[int]] = {}
        self.wrong: list[str] = []
        self.failed: list[str] = []

    async def run(self) -> list[Row]:
        """Rows of the table."""
        await self.prepare()
        self.good.phase = "odd requests"
        for odd in all_of_them():
            await self.one(odd)
        self.good.phase = f"{HALF_OPEN} half-open connections"
        await self.half_open()
        self.good.phase = f"{FLOOD:,} requests to /health"
        flooded = await self.flood()
        self.good.phase = ""
        rows = [
            Row(
                f"{kind}: {seen.total()}", " ".join(f"{n} x {status or 'closed'}" for status, n in sorted(seen.items()))
            )
            for kind, seen in self.statuses.items()
        ]
        rows.append(Row("errors of the server itself (500)", str(len(self.failed)), "0", not self.failed))
        rows.append(Row("requests that got more than they should", str(len(self.wrong)), "0", not self.wrong))
        return [*rows, Row(f"/health, {FLOOD:,} times", f"{flooded:.0f} a second")]

    async def prepare(self) -> None:
        """The cookie that a browser of this visitor would have."""
        answer = await self.exchange(
            f"GET /voila/tree?token={self.fill['{token}']} HTTP/1.0\r\nHost: {self.fill['{host}']}\r\n\r\n".encode()
        )
        cookies = re.findall(rb"Set-Cookie: ([^;\r]+)", answer)
        self.fill["{cookie}"] = b"; ".join(cookies).decode()

    async def one(self, odd: Odd) -> None:
        """Send it; what comes back is heard, and its status must be one of those wanted (0: closed without a word)."""
        head = odd.head
        for name, value in self.fill.items():
            head = head.replace(name, value)
        answer = await self.exchange(head.encode(errors="surrogatepass") + odd.body)
        self.ear.hear(answer, head[:150])
        status = int(answer[9:12]) if answer[:5] == b"HTTP/" and answer[9:12].isdigit() else 0
        self.statuses.setdefault(odd.kind, Counter())[status] += 1
        if status == 500:
            self.failed.append(head[:100])
        if (status and status not in odd.wanted) or PASSWD in answer:
            self.wrong.append(f"{odd.kind}: {status} for {head[:120]!r}")

    async def exchange(self, data: bytes, seconds: float = 5.0) -> bytes:
        """What a bare connection is answered with until it is closed, or pauses."""
        reader, writer = await asyncio.open_connection(self.host, self.port)
        got = b""
        with suppress(OSError, TimeoutError):
            writer.write(data)
            await asyncio.wait_for(writer.drain(), seconds)
            got = await asyncio.wait_for(reader.read(2**20), seconds)
            while more := await asyncio.wait_for(reader.read(2**20), 0.05):
                got += more
        writer.close()
        return got

    async def half_open(self) -> None:
        """Requests that never end: a line now and then, on many connections at once."""
        held = []
        for number in range(HALF_OPEN):
            _, writer = await asyncio.open_connection(self.host, self.port)
            start = (
                "GET /voila/tree HTTP/1.1\r\n"
                if number % 2
                else "POST /login HTTP/1.1\r\nContent-Length: 9999\r\n\r\nx"
            )
            writer.write(start.encode())
            held.append(writer)
        end = time.monotonic() + 5
        while time.monotonic() < end:
            for writer in held:
                with suppress(OSError):
                    writer.write(b"X: y\r\n")
            await asyncio.sleep(0.5)
        for writer in held:
            writer.close()

    async def flood(self) -> float:
        """/health as fast as twenty clients can ask; how many a second were answered."""
        begun, left = time.perf_counter(), iter(range(FLOOD))

        async def ask() -> None:
            for _ in left:
                answer = await self.exchange(f"GET /health HTTP/1.0\r\nHost: {self.host}\r\n\r\n".encode())
                self.ear.hear(answer, "/health")

        await asyncio.gather(*(ask() for _ in range(20)))
        return FLOOD / (time.perf_counter() - begun)
