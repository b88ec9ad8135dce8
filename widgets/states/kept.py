"""What a page keeps on disk while its runs train, so that it can be gone on with after its kernel or its server has ended.

A run is determined by its settings, its seed, and what was done to it at which step: that is all that is kept, a few
hundred bytes (and the person's own text, where there is one), and the run is trained again, exactly. A file a page, named
by a random key that only the page knows, in the folder $GATING_EXPLORER_KEPT, which the server chooses; without it nothing
is kept. Nothing leaves the machine.
"""

import errno
import json
import os
import re
import secrets
import tempfile
import time
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, urlencode

from explorer.errors import ExplorerError
from widgets.states.lab import Change, LabState

FOLDER = "GATING_EXPLORER_KEPT"
NAME = "kept"  # of the key in a link
VERSION = 1
OLDEST = 7 * 24 * 3600.0  # seconds
MOST_FILES, MOST_BYTES = 500, 200 * 2**20  # of all pages
LONGEST = 4 * 2**20  # bytes of one
ABANDONED = 3600.0  # seconds after which what was not written to its end is thrown away
COURSE = ("steps", "do", "cursor")  # of a link: kept apart, with no limit of length
KEY = re.compile(r"[A-Za-z0-9_-]{22}")


# what the system's own words would leave a reader to guess
REASONS = {
    **dict.fromkeys((errno.EEXIST, errno.ENOTDIR), "a file is in the place of its folder"),
    **dict.fromkeys((errno.ENOSPC, errno.EFBIG, getattr(errno, "EDQUOT", errno.ENOSPC)), "the disk is full"),
}


class CannotKeep(ExplorerError):
    """What is done on a page cannot be written down, or what was cannot be read."""


@dataclass(frozen=True)
class Kept:
    """A page as it was. query: its link, without the course of the run; step: where that was; own: ((name, text), ...)."""

    lab: str
    query: str
    step: int = 0
    changes: tuple[tuple[int, str, str, Any], ...] = ()
    own: tuple[tuple[str, str], ...] = ()
    writer: str = ""  # which page wrote it: two that were opened from one key must not overwrite each other

    def same_as(self, other: "Kept | None") -> bool:
        """Whether both say the same, whoever wrote them."""
        return other is not None and replace(self, writer=other.writer) == other

    def is_before(self, other: "Kept") -> bool:
        """Whether this is the same run at an earlier step: going on, it comes to the other."""
        same = (self.lab, self.query, self.own) == (other.lab, other.query, other.own)
        return same and self.step < other.step and other.changes[: len(self.changes)] == self.changes


def of(state: LabState, lab: str, writer: str = "") -> Kept:
    """What there is to keep of a page."""
    query = urlencode([pair for pair in parse_qsl(state.link()) if pair[0] not in COURSE])
    changes = tuple((one.step, one.side, one.name, one.value) for one in state.changes)
    return Kept(lab, query, state.step, changes, tuple(state.own), writer)


def restore(state: LabState, kept: Kept) -> None:
    """The course of the run, for a state that was made of `kept.query`: it is taken from step 0."""
    state.own = kept.own
    state.planned = [Change(*one) for one in kept.changes]
    state.steps = kept.step


def split(query: str) -> tuple[str, str]:
    """(key, the rest) of a page's query; "" where there is no key."""
    pairs = parse_qsl(query, keep_blank_values=True)
    keys = [value for name, value in pairs if name == NAME]
    if not keys:
        return "", query
    return keys[0], urlencode([pair for pair in pairs if pair[0] != NAME])


class Shelf:
    """The folder with what pages keep; all that goes wrong is a CannotKeep."""

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder)

    def put(self, key: str, kept: Kept) -> None:
        """Write it down whole, or leave what there was; when this returns, it is on the disk."""
        text = json.dumps({"version": VERSION, **asdict(kept)}).encode()
        if len(text) > LONGEST:
            raise CannotKeep("this page is too large to be kept: its own text is very long")
        temporary = ""
        try:
            self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            with tempfile.NamedTemporaryFile(dir=self.folder, prefix=".", delete=False) as file:
                temporary = file.name
                file.write(text)
                file.flush()
                os.fsync(file.fileno())
            os.replace(temporary, self._path(key))
        except OSError as error:
            with suppress(OSError):
                if temporary:
                    os.unlink(temporary)
            raise CannotKeep(f"what is done on this page cannot be kept now: {_reason(error)}") from None

    def get(self, key: str) -> Kept | None:
        """What was kept under this key; None if there is nothing, or nothing any more."""
        try:
            text = self._path(key).read_bytes() if KEY.fullmatch(key) else b""
        except (FileNotFoundError, NotADirectoryError):
            return None
        except OSError as error:
            raise CannotKeep(f"what was kept cannot be read: {_reason(error)}") from None
        return _read(text) if text else None

    def tidy(self) -> None:
        """Throw away what is too old, and the oldest of too many. Another process may be doing the same."""
        now, taken = time.time(), 0
        with suppress(OSError):
            newest_first = sorted(
                ((file.stat(follow_symlinks=False), file) for file in os.scandir(self.folder)),
                key=lambda found: -found[0].st_mtime,
            )
            for count, (facts, file) in enumerate(newest_first):
                age, taken = now - facts.st_mtime, taken + facts.st_size
                unfinished = file.name.startswith(".") and age > ABANDONED
                if unfinished or age > OLDEST or count >= MOST_FILES or taken > MOST_BYTES:
                    with suppress(OSError):
                        os.unlink(file.path)

    def _path(self, key: str) -> Path:
        assert KEY.fullmatch(key), "keys are ours or were checked"
        return self.folder / f"{key}.json"


def shelf() -> Shelf | None:
    """That of this server; None where nothing is kept."""
    folder = os.environ.get(FOLDER, "").strip()
    return Shelf(folder) if folder else None


def new_key() -> str:
    """22 characters that nobody guesses."""
    return secrets.token_urlsafe(16)


def _read(text: bytes) -> Kept:
    """Of a file; it is ours, but a disk may have failed, or a later version have written it."""
    read: Kept | None
    try:
        found = json.loads(text)
        version = found.pop("version")
        found["changes"] = tuple(
            (int(step), str(side), str(name), value) for step, side, name, value in found["changes"]
        )
        found["own"] = tuple((str(name), str(said)) for name, said in found["own"])
        found["step"] = max(0, int(found["step"]))
        read = Kept(**found)
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
        version, read = 0, None
    if version != VERSION or read is None:
        raise CannotKeep("what was kept of this page cannot be read any more")
    return read


def _reason(error: OSError) -> str:
    return REASONS.get(error.errno or 0, error.strerror or str(error))
