"""Where the bytes of a checkpoint come from: a folder, one file, or a server, in exact pieces and never all at once.

Nothing stays open between two reads, and nothing outside the folder is ever opened: a name is checked before its file is.
"""

import os
import re
import stat
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import ClassVar, Protocol, TypeVar

import numpy as np

from explorer.errors import ExplorerError

PICKLES = (".bin", ".pt", ".pth", ".ckpt", ".pkl", ".pickle")
CONVERT = "save it anew as safetensors where you trust it: model.save_pretrained(folder, safe_serialization=True)"
T = TypeVar("T")
R = TypeVar("R")


class CheckpointError(ExplorerError):
    """A checkpoint that cannot be opened or read, and why."""


class Source(Protocol):
    """Named files that are read in pieces. `name`: what to call the whole of it in a sentence."""

    name: str
    at_once: ClassVar[int]

    def names(self) -> list[str] | None:
        """What there is; None: nobody can say."""

    def size(self, file: str) -> int | None:
        """Bytes of a file; None: there is none of this name."""

    def read(self, file: str, start: int, end: int) -> bytearray | memoryview:
        """Bytes start..end of a file, writable."""

    def soon(self, pieces: Iterable[tuple[str, int, int]]) -> None:
        """(file, start, end) of what will be read next: a hint, and never an error."""


def each(work: Callable[[T], R], items: Sequence[T], source: Source) -> list[R]:
    """`work` of every item in order, as many at once as the source likes: a server is asked for several pieces together."""
    if source.at_once == 1 or len(items) < 2:
        return [work(one) for one in items]
    with ThreadPoolExecutor(min(source.at_once, len(items))) as pool:
        return list(pool.map(work, items))


def whole(source: Source, file: str, limit: int) -> bytes | None:
    """A small file as a whole; None: there is none. One beyond the limit is refused before it is read."""
    size = source.size(file)
    if size is None:
        return None
    if size > limit:
        raise CheckpointError(f"{file} of {source.name} has {size:,} bytes; more than {limit:,} cannot be right")
    return bytes(source.read(file, 0, size))


def plain_name(file: object, said_by: str) -> str:
    """A file name that stays in its folder, or an error that says who gave it."""
    named = isinstance(file, str) and file not in ("", ".", "..") and not re.search(r"[/\\\x00-\x1f:]", file)
    if not named or not isinstance(file, str):
        shown = repr(file) if len(repr(file)) <= 80 else repr(file)[:79] + "…"
        raise CheckpointError(f"{said_by} names the file {shown}, which is not a plain name of a file beside it")
    return file


def refuse_pickle(names: Iterable[str], where: str) -> None:
    """Raise if there is a pickle: whoever opens one runs what is in it."""
    found = sorted(name for name in names if name.lower().endswith(PICKLES))
    if found:
        raise a_pickle(f"{where} holds its weights as a pickle ({found[0]})")


def a_pickle(what: str) -> CheckpointError:
    """The error for one, with what to do instead."""
    return CheckpointError(f"{what}, which can run code when it is opened and is never opened here: {CONVERT}")


class Folder:
    """A folder of this machine. `only`: one file of it that is the whole checkpoint."""

    at_once: ClassVar[int] = 1

    def __init__(self, path: Path, only: str | None = None) -> None:
        self.name = repr(str(path / only if only else path))
        self.only = only
        try:
            self._root = os.path.realpath(path, strict=True)
        except OSError as error:
            raise CheckpointError(f"cannot open {self.name}: {_why(error)}") from error
        self._seen: dict[str, tuple[int, int, int]] = {}

    def names(self) -> list[str] | None:
        """The files of the folder."""
        try:
            return sorted(os.listdir(self._root))
        except OSError as error:
            raise CheckpointError(f"cannot look into {self.name}: {_why(error)}") from error

    def size(self, file: str) -> int | None:
        """Bytes of a regular file that lies, links followed, inside the folder."""
        if not os.path.lexists(os.path.join(self._root, plain_name(file, self.name))):
            return None
        return self._look(file)[1].st_size

    def read(self, file: str, start: int, end: int) -> memoryview:
        """As many preads as it takes; the system is told not to read ahead, as the next piece lies elsewhere."""
        path, before = self._look(file)
        if self._seen.setdefault(file, _identity(before)) != _identity(before):
            raise CheckpointError(f"{file} of {self.name} has changed since it was opened: open it again")
        data = np.empty(end - start, np.uint8).data  # a bytearray would be zeroed first, other threads waiting
        try:
            handle = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
            try:
                if hasattr(os, "posix_fadvise"):
                    os.posix_fadvise(handle, 0, 0, os.POSIX_FADV_RANDOM)
                _fill(handle, data, start)
            finally:
                os.close(handle)
        except OSError as error:
            raise CheckpointError(f"cannot read {file} of {self.name}: {_why(error)}") from error
        except EOFError as error:
            raise CheckpointError(f"{file} of {self.name} was cut short while it was read") from error
        return data

    def soon(self, pieces: Iterable[tuple[str, int, int]]) -> None:
        """Let the disk fetch all of it while the first is being worked on."""
        if not hasattr(os, "posix_fadvise"):
            return
        for file, start, end in pieces:
            with suppress(OSError, CheckpointError):
                handle = os.open(self._look(file)[0], os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
                try:
                    os.posix_fadvise(handle, start, end - start, os.POSIX_FADV_WILLNEED)
                finally:
                    os.close(handle)

    def _look(self, file: str) -> tuple[str, os.stat_result]:
        """Where a file really is, and that it may be opened."""
        try:
            path = os.path.realpath(os.path.join(self._root, file), strict=True)
            about = os.stat(path)
        except OSError as error:
            raise CheckpointError(f"cannot read {file} of {self.name}: {_why(error)}") from error
        if not any(path.startswith(root + os.sep) for root in self._roots()):
            raise CheckpointError(f"{file} of {self.name} is a link to a place outside its folder, and is not followed")
        if not stat.S_ISREG(about.st_mode):
            what = "a folder" if stat.S_ISDIR(about.st_mode) else "a pipe or a device"
            raise CheckpointError(f"{file} of {self.name} is {what}, not a file")
        return path, about

    def _roots(self) -> list[str]:
        """The folder; of a snapshot in the hub's own cache also its `blobs`, which its links lead to."""
        parent = os.path.dirname(self._root)
        cached = os.path.basename(parent) == "snapshots"
        return [self._root, os.path.join(os.path.dirname(parent), "blobs")] if cached else [self._root]


def _identity(about: os.stat_result) -> tuple[int, int, int]:
    return about.st_ino, about.st_size, about.st_mtime_ns


def _fill(handle: int, view: memoryview, start: int) -> None:
    done = 0
    while done < len(view):
        got = os.preadv(handle, [view[done : done + (1 << 30)]], start + done)
        if not got:
            raise EOFError
        done += got


def _why(error: OSError) -> str:
    return (error.strerror or type(error).__name__).lower()


def here(given: str) -> Folder | None:
    """The checkpoint at a path of this machine; None: there is nothing at it."""
    path = Path(given).expanduser()
    if not given or "\x00" in given or not os.path.lexists(path):
        return None
    if os.path.isdir(path):
        return Folder(path)
    refuse_pickle([path.name], repr(given))
    if not path.name.endswith(".safetensors"):
        raise CheckpointError(f"{given!r} is neither a folder nor a .safetensors file")
    return Folder(path.parent, path.name)
