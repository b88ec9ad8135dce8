"""What every server with pages answers besides them: how it is, and what became of a kernel; and its log of requests."""

import json
import logging
import re
from collections.abc import Callable
from typing import Any

from jupyter_server.base.handlers import APIHandler
from tornado.web import RequestHandler, authenticated
from voila.tornado.kernel_websocket_handler import VoilaKernelWebsocketHandler

from explorer.serving.watch import KERNEL, Watch, log

OF_AN_ANSWER = re.compile(r"[1-5]\d\d [A-Z]+ /|wrote error: ")


class Session(APIHandler):
    """What became of a page's kernel. Its id is random and was told to that page alone."""

    def initialize(self, watch: Watch) -> None:
        """`watch`: who knows."""
        self.watch = watch

    @authenticated
    def get(self, kernel: str) -> None:
        """A JSON object: running, uptime of the server in seconds, and why and said where it is known."""
        self.set_header("Cache-Control", "no-store")
        self.finish(self.watch.answer(kernel))


class Channels(VoilaKernelWebsocketHandler):
    """The connection with a kernel, where a page that has lost its own and tries again is told so without a page of HTML."""

    async def get(self, kernel_id: str) -> None:
        """As ever, if there is such a kernel."""
        if self.current_user and kernel_id not in self.kernel_manager:
            self.set_status(404)
            await self.finish()
            return
        await super().get(kernel_id)

    def write_error(self, status_code: int, **_: Any) -> None:
        """In a word: jupyter_server's own page for an error needs files that a server of pages does not have."""
        self.finish(f"{status_code}\n")


class Health(RequestHandler):
    """For whoever watches the server; it tells nothing about anybody, so it asks for no token."""

    def initialize(self, facts: Callable[[], dict[str, Any]]) -> None:
        """`facts`: what to tell."""
        self.facts = facts

    def get(self) -> None:
        """A JSON object."""
        self.set_header("Content-Type", "application/json")
        self.set_header("Cache-Control", "no-store")
        self.finish(json.dumps(self.facts()))


def quietly(handlers: list[Any]) -> list[Any]:
    """These handlers, with ours for connections."""
    return [(one[0], Channels, *one[2:]) if one[1] is VoilaKernelWebsocketHandler else one for one in handlers]


def handlers(watch: Watch, base_url: str, facts: Callable[[], dict[str, Any]] | None = None) -> list[Any]:
    """Those of every server with pages."""
    return [
        (re.escape(f"{base_url}health"), Health, {"facts": facts or watch.facts}),
        (re.escape(f"{base_url}voila/session/") + r"([0-9a-f-]{36})", Session, {"watch": watch}),
    ]


def log_request(handler: RequestHandler) -> None:
    """What was refused or failed, in one line, without the query, which may hold what a person wrote.

    Left out are the line in front of a full room, which the room mentions, and pages that ask for a kernel that has ended,
    which they do a dozen times.
    """
    status = handler.get_status()
    if status < 400 or status == 503 or (status == 404 and KERNEL.search(handler.request.path)):
        return
    path = "".join(one if one.isprintable() else "?" for one in handler.request.path)[:80]
    refused = status < 500
    level = logging.INFO if refused else logging.WARNING
    log.log(level, "%s: %s %s (%d)", "refused" if refused else "failed", handler.request.method, path, status)


def is_said_by_us(record: logging.LogRecord) -> bool:
    """Whether what tornado or jupyter_server says of an answer stands in our own log too."""
    return bool(OF_AN_ANSWER.match(record.getMessage()))
