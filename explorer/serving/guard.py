"""What a browser sends to a kernel is checked before anything reads it; the connection of who sends nonsense is closed.

A frame of `v1.kernel.websocket.jupyter.org`, all numbers 8 bytes, least first: how many offsets follow; the offsets, of
which the last is the length of the frame; the channel; then at least four parts, of which the first is the header.
"""

import json
import re
import time
from itertools import pairwise
from typing import Any

from jupyter_client.jsonutil import extract_dates
from jupyter_server.services.kernels.connection.channels import ZMQChannelsWebsocketConnection
from tornado.web import Finish, RequestHandler

from explorer.errors import ExplorerError

PROTOCOL = "v1.kernel.websocket.jupyter.org"
PARTS = range(4, 64 + 1)  # header, parent header, metadata, content, and buffers
MAX_BYTES = 12 * 2**20
MAX_HEADER = 16 * 2**10
CHANNELS = (b"shell", b"control", b"stdin")
NUMBER = 8
TYPE = re.compile(r"[A-Za-z0-9_.-]{1,64}")  # of a message; logs mention it
LONGEST_MENTION = 4000  # characters of what a kernel wrote to stderr
CONNECTIONS = 16  # to one kernel; a page has one, and each may hold a frame that is half sent
LONGEST_PATH = 1000
# what no page of ours asks for: a way upwards, a NUL, a folder of templates without a file in it, a list of folders
NOWHERE = r".*(?:\.\.|%00|%2e|%5c|\\).*|{base}voila/(?:templates/(?![^/]+/static/)|api/contents).*|.{{{longest},}}"


class BadFrame(ExplorerError):
    """A frame that no page of ours would send."""


def check_frame(frame: object) -> None:
    """Raise BadFrame unless the frame can be taken apart and its header is one that server and kernel can read."""
    if not isinstance(frame, bytes):
        raise BadFrame("a frame is binary")
    if len(frame) > MAX_BYTES:
        raise BadFrame(f"a frame has at most {MAX_BYTES:,} bytes, not {len(frame):,}")
    offsets = _offsets(frame)
    channel, header = (frame[start:end] for start, end in list(pairwise(offsets))[:2])
    if channel not in CHANNELS:
        raise BadFrame(f"no channel {channel[:20]!r}")
    _check_header(header)


def _offsets(frame: bytes) -> list[int]:
    """Where channel, parts and frame begin or end: in order, within the frame, and with nothing between or behind."""
    count = int.from_bytes(frame[:NUMBER], "little")
    if len(frame) < NUMBER or count - 2 not in PARTS:
        raise BadFrame(f"a frame has {PARTS[0]} to {PARTS[-1]} parts, not {max(0, count - 2):.4g}")
    first = NUMBER * (1 + count)
    if len(frame) < first:
        raise BadFrame("the frame ends within its offsets")
    offsets = [int.from_bytes(frame[at : at + NUMBER], "little") for at in range(NUMBER, first, NUMBER)]
    if offsets[0] != first or offsets[-1] != len(frame) or any(end < start for start, end in pairwise(offsets)):
        raise BadFrame("the offsets do not divide the frame")
    return offsets


def _check_header(text: bytes) -> None:
    """A flat JSON object with a type: it comes back within every answer of the kernel, which the server reads."""
    if len(text) > MAX_HEADER:
        raise BadFrame(f"a header has at most {MAX_HEADER:,} bytes, not {len(text):,}")
    try:
        header = json.loads(text.decode())
        flat = isinstance(header, dict) and all(_is_plain(value) for value in header.values())
        if flat:
            # neither half a character nor what is no number: the kernel could not answer
            json.dumps(header, ensure_ascii=False, allow_nan=False).encode()
            extract_dates(header)  # a date that is none would stop the server's reader of the answers
    except (ValueError, RecursionError, OverflowError):
        raise BadFrame("the header is no JSON that can be read") from None
    if not flat or not isinstance(header.get("msg_type"), str) or not TYPE.fullmatch(header["msg_type"]):
        raise BadFrame("the header is no flat object with a msg_type")


def _is_plain(value: object) -> bool:
    return value is None or isinstance(value, (str, int, float))


class Allowance:
    """So much a second in the long run, and `seconds` of it at once; `take` says whether there was enough."""

    def __init__(self, rate: float, seconds: float) -> None:
        self.rate, self.most = rate, rate * seconds
        self.left, self.at = self.most, time.monotonic()

    def take(self, amount: float) -> bool:
        """Whether there was enough left; if not, nothing is taken."""
        now = time.monotonic()
        self.left, self.at = min(self.most, self.left + self.rate * (now - self.at)), now
        if amount > self.left:
            return False
        self.left -= amount
        return True


class Guarded(ZMQChannelsWebsocketConnection):
    """A page's connection to its kernel. A page sends some sixty messages a second while a slider is dragged."""

    def __init__(self, **settings: Any) -> None:
        super().__init__(**settings)
        self.allowances = (Allowance(400, seconds=10), Allowance(8 * 2**20, seconds=6))  # messages, bytes
        self.refused = False

    async def prepare(self) -> None:
        """Before the connection is made: one that would speak the older, unmarked protocol is not."""
        offered = self.websocket_handler.request.headers.get("Sec-WebSocket-Protocol", "")
        if PROTOCOL not in [one.strip() for one in offered.split(",")]:
            await self._refuse(400, f"the connection needs the sub-protocol {PROTOCOL}")
        if self.multi_kernel_manager._kernel_connections.get(self.kernel_id, 0) >= CONNECTIONS:
            await self._refuse(429, "this page is connected too often")
        await super().prepare()

    async def _refuse(self, status: int, reason: str) -> None:
        """In one line: jupyter_server's own page for an error needs files that a server of pages does not have."""
        self.websocket_handler.set_status(status, reason)
        await self.websocket_handler.finish(f"{reason}\n")
        raise Finish

    def handle_incoming_message(self, incoming_msg: str | bytes) -> None:
        """Pass on a good frame. After a bad one nothing more is read, though the client may go on sending."""
        if self.refused:
            return
        try:
            self._check(incoming_msg)
        except BadFrame as fault:
            self.refused = True
            self.log.warning("closed the connection to kernel %s: %s", self.kernel_id, fault)
            self.websocket_handler.close(1008, "the server cannot read this message")
            return
        super().handle_incoming_message(incoming_msg)

    def _check(self, message: str | bytes) -> None:
        if self.subprotocol != PROTOCOL:
            raise BadFrame(f"the connection does not speak {PROTOCOL}")
        check_frame(message)
        if not all(one.take(of) for one, of in zip(self.allowances, (1, len(message)), strict=True)):
            raise BadFrame("too many messages at once")


class Discreet(Guarded):
    """The connection of a reader: what a kernel writes to stderr, with its paths, goes into the server's log instead."""

    def __init__(self, **settings: Any) -> None:
        super().__init__(**settings)
        self.mentions = Allowance(1, seconds=20)  # a client that provokes errors must not fill the log

    def _on_zmq_reply(self, stream: Any, msg_list: list[bytes]) -> None:
        """Keep back a message of that kind; any other is passed on."""
        # nearly all are told apart without being parsed
        if b'"stream"' in msg_list[0] and b'"stderr"' in msg_list[3] and _is_stderr(msg_list):
            text = _worth_a_mention(str(json.loads(msg_list[3]).get("text", "")))
            if text and self.mentions.take(1):
                self.log.warning("kernel %s: %s", self.kernel_id, _printable(text[:LONGEST_MENTION]))
            return
        super()._on_zmq_reply(stream, msg_list)


def _is_stderr(parts: list[bytes]) -> bool:
    return json.loads(parts[0]).get("msg_type") == "stream" and json.loads(parts[3]).get("name") == "stderr"


def _worth_a_mention(text: str) -> str:
    """Without what ipykernel 7 says once a page: it looks for a comm before the message that opens it has been handled."""
    lines = (one for one in text.splitlines() if not one.startswith("No such comm: "))
    return "\n".join(lines).strip()


def _printable(text: str) -> str:
    """Without what would move the cursor of who reads the log; lines stay lines."""
    return "".join(one if one.isprintable() or one == "\n" else "?" for one in text)


class Nowhere(RequestHandler):
    """The answer to an address that nobody has a use for but who looks for a way out of the folders that are served."""

    def prepare(self) -> None:
        """Before anything looks at it."""
        self.set_status(404)
        self.finish("There is no such page.\n")


def nowhere(base_url: str) -> tuple[str, type[Nowhere]]:
    """(addresses, handler): to stand before all others."""
    return "(?i:" + NOWHERE.format(base=re.escape(base_url), longest=LONGEST_PATH) + ")", Nowhere
