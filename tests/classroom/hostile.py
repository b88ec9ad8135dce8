"""What the programs with hostile input share: what must never reach a client, who listens for it, and the table."""

import re
import sys
import tempfile
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from tornado.httpclient import HTTPResponse

from tests.classroom.client import Page

ROOT = Path(__file__).resolve().parents[2]
KEPT = 5  # examples of what leaked


def _needles() -> list[tuple[str, re.Pattern[bytes]]]:
    """What tells of this machine: its folders, and the forms in which Python writes of itself."""
    folders = {str(one) for one in (ROOT, Path.home(), Path(sys.prefix), Path(sys.base_prefix)) if len(one.parts) > 1}
    temporary = re.escape(tempfile.gettempdir().encode()) + rb"/(voila_|gating-explorer|classroom-|tmp)"
    found = [(one, re.compile(re.escape(one.encode()) + rb"(?![\w.-])")) for one in sorted(folders)]
    found += [(word, re.compile(re.escape(word.encode()))) for word in ("Traceback", "site-packages", "dist-packages")]
    return [*found, ('File "', re.compile(rb'File \\?"[^"\\<>{}\n]+\.py')), ("temporary", re.compile(temporary))]


NEEDLES = _needles()


def leaks(content: bytes | str) -> list[str]:
    """What in it tells of this machine or of the inside of the program, each with the text around it."""
    data = content.encode(errors="replace") if isinstance(content, str) else content
    return [
        f"{name}: …{data[max(0, found.start() - 60) : found.end() + 60].decode(errors='replace')}…"
        for name, needle in NEEDLES
        if (found := needle.search(data))
    ]


class Ear:
    """Hears every byte that a server sends, and keeps what should not have been among them."""

    def __init__(self) -> None:
        self.bytes, self.leaks = 0, list[str]()

    def hear(self, content: bytes | str, where: str = "") -> None:
        """One answer, or one frame."""
        self.bytes += len(content)
        found = leaks(content)
        self.leaks += [f"{where}: {one}" for one in found]
        del self.leaks[KEPT * 10 :]

    def row(self) -> "Row":
        """Of the table."""
        shown = f"{len(self.leaks)} in {self.bytes / 1e6:,.1f} MB"
        return Row("tracebacks and paths sent", shown, "0", not self.leaks and self.bytes > 0)


class Heard(Page):
    """A visitor whose every byte an ear hears."""

    def __init__(self, url: str, path: str, ear: Ear, acknowledges: bool = False) -> None:
        super().__init__(url, path, acknowledges)
        self.ear = ear

    async def fetch(self, path: str, seconds: float = 200, **settings: Any) -> HTTPResponse:
        """As the visitor does."""
        answer = await super().fetch(path, seconds, **settings)
        headers = "\n".join(f"{name}: {value}" for name, value in answer.headers.get_all())
        self.ear.hear(headers.encode() + b"\n\n" + answer.body, path[:150])
        return answer

    def _heard(self, frame: bytes) -> None:
        self.ear.hear(frame, f"{self.path[:100]}, websocket")
        super()._heard(frame)


class Row(NamedTuple):
    """One line of the table; `met` None: it is told, not judged."""

    what: str
    came: str
    goal: str = ""
    met: bool | None = None


def table(title: str, rows: Iterable[Row], examples: Sequence[str] = ()) -> int:
    """Print it with what fell short; 1 if anything did."""
    rows = list(rows)
    wide = [max(len(row[i] or "") for row in rows) for i in range(3)]
    print(f"\n{title}")
    for row in rows:
        verdict = "" if row.met is None else "met" if row.met else "SHORT"
        line = f"  {row.what:<{wide[0]}}  {row.came:>{wide[1]}}  {row.goal:<{wide[2]}}  {verdict}"
        print(line.rstrip())
    for one in examples[:KEPT]:
        print(f"  ! {one[:600]}")
    sys.stdout.flush()
    return int(any(row.met is False for row in rows))
