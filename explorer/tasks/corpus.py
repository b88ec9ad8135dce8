"""Reading real text: the four domains that every installation carries, and the user's own files and strings.

A domain is a list of pieces (a file, a help topic). A bounded part of each is taken, the end of every part is held out,
and bytes become the 128 ids of the vocabulary. Nothing here looks at the clock, the working directory (but for relative
paths of the user's) or the order in which a disk lists its files.
"""

import hashlib
import os
import stat
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache, partial
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from explorer.errors import BadValue
from explorer.tasks import sources

NOT_ASCII = 127
"""The id of every byte from 128 up (and of DEL, which no text contains)."""
PIECES = 25
"""No piece gives more than 1/25 of a domain, unless the others are too short to fill it."""
FOLDER_FILES = 5000
"""Files looked at in one folder of the user's; the rest count as skipped."""
_IDS = bytes(min(byte, NOT_ASCII) for byte in range(256))
_CONTROLS = bytes(set(range(32)) - set(b"\t\n\r\f\x1b"))
_SNIFF = 1024


class Amount(NamedTuple):
    """How much of a domain is wanted."""

    wanted: int
    """Bytes, at most."""
    held_out: float
    """The share of every piece that is held out: its end."""
    shortest: int
    """The least length in bytes of the training part and of the held-out part: one sequence and the byte after it."""


class Piece(NamedTuple):
    """One source of a domain: its size in bytes, and what reads its first n bytes."""

    size: int
    read: Callable[[int], bytes]


@dataclass(frozen=True, eq=False)
class Corpus:
    """One domain in memory: ids as uint8, and what they were read from."""

    name: str
    train: Tensor
    held_out: Tensor
    about: dict[str, Any]


@lru_cache(maxsize=8)
def installed(name: str, amount: Amount) -> Corpus:
    """A domain of the installation (sources.DOMAINS), read once a process and shared by all experiments."""
    pieces = [Piece(len(text), partial(_first, text)) for _, text in sources.read(name, amount.wanted)]
    return _assemble(name, f"domain {name!r}", pieces, amount)


def pasted(name: str, text: str, amount: Amount) -> Corpus:
    """A string as a domain."""
    raw = text.encode("utf-8", "surrogatepass")
    _refuse_binary(f"text {name!r}", raw[: amount.wanted])
    return _assemble(name, f"text {name!r}", [Piece(len(raw), partial(_first, raw))], amount)


def on_disk(name: str, path: str, amount: Amount) -> Corpus:
    """A file or folder of the user's; read again only if a name, a size or a modification time changed."""
    files, skipped = _listing(path)
    return _on_disk(name, path, tuple(files), skipped, amount)


@lru_cache(maxsize=8)
def _on_disk(name: str, path: str, files: tuple[tuple[str, int, int], ...], skipped: int, amount: Amount) -> Corpus:
    if files[0][0] == path:
        _refuse_binary(repr(path), _head(path, amount.wanted))
    corpus = _assemble(name, repr(path), [Piece(size, partial(_head, file)) for file, size, _ in files], amount)
    corpus.about.update(path=path, files_skipped=skipped)
    return corpus


def _assemble(name: str, where: str, pieces: list[Piece], amount: Amount) -> Corpus:
    """Joins the beginnings of the pieces and splits them.

    The end of every piece is held out, and not that of the whole: the last files of a domain may be of another sort
    than the first, and held-out text would then measure the difference.
    """
    taken = _allot([piece.size for piece in pieces], amount.wanted)
    parts = [piece.read(n).replace(b"\r\n", b"\n") for piece, n in zip(pieces, taken, strict=True) if n]
    total, least = sum(map(len, parts)), 2 * amount.shortest
    if total < least:
        raise BadValue(
            f"{where} has {total:,} bytes of text, but two sequences need {least:,}; give more or shorten sequence"
        )
    train, held_out = _split(parts, amount)
    available = sum(piece.size for piece in pieces)
    about = {
        "sources": len(parts), "bytes": total, "available_bytes": available, "truncated": available > amount.wanted,
        "train_bytes": len(train), "held_out_bytes": len(held_out),
        "sha256": hashlib.sha256(train + b"\0" + held_out).hexdigest(),
    }  # fmt: skip
    return Corpus(name, _ids(train), _ids(held_out), about)


def _split(parts: list[bytes], amount: Amount) -> tuple[bytes, bytes]:
    cuts = [len(part) - int(len(part) * amount.held_out) for part in parts]
    train = b"".join(part[:cut] for part, cut in zip(parts, cuts, strict=True))
    held_out = b"".join(part[cut:] for part, cut in zip(parts, cuts, strict=True))
    if min(len(train), len(held_out)) >= amount.shortest:
        return train, held_out
    whole = b"".join(parts)
    return whole[: -amount.shortest], whole[-amount.shortest :]


def _allot(sizes: list[int], wanted: int) -> list[int]:
    """Bytes to take from each piece: all of it; or as evenly as possible; or `wanted / 25` from each of the first."""
    cap, left = 0, wanted
    for i, size in enumerate(sorted(sizes)):
        cap = max(size, cap)
        sharing = len(sizes) - i
        if size * sharing > left:
            cap = -(-left // sharing)
            break
        left -= size
    cap, left, taken = max(cap, wanted // PIECES), wanted, []
    for size in sizes:
        taken.append(min(size, cap, left))
        left -= taken[-1]
    return taken


def _ids(raw: bytes) -> Tensor:
    return torch.frombuffer(bytearray(raw.translate(_IDS)), dtype=torch.uint8)


def _first(text: bytes, n: int) -> bytes:
    return text[:n]


def _refuse_binary(where: str, raw: bytes) -> None:
    controls = len(raw) - len(raw.translate(None, _CONTROLS))
    if b"\0" in raw:
        raise BadValue(f"{where} is binary (it contains NUL bytes); give a text file, in UTF-8")
    if controls > 0.3 * len(raw):
        raise BadValue(f"{where} is binary ({controls / len(raw):.0%} control bytes); give a text file, in UTF-8")


def _listing(path: str) -> tuple[list[tuple[str, int, int]], int]:
    """(path, size, modification time in ns) of the text files at `path`, and how many files there were left out."""
    try:
        facts = os.stat(path)
        names, unseen = _walk(path) if stat.S_ISDIR(facts.st_mode) else ([path], 0)
    except (OSError, ValueError) as error:  # ValueError: a NUL in the path
        raise _cannot_read(path, error) from error
    if stat.S_ISDIR(facts.st_mode):
        files = [(name, found.st_size, found.st_mtime_ns) for name in names if (found := _text_file(name))]
        if not files:
            raise BadValue(f"folder {path!r} has no text files; give a folder of text, or a file")
        return files, len(names) - len(files) + unseen
    if not stat.S_ISREG(facts.st_mode):
        raise BadValue(f"{path!r} is neither a file nor a folder; give a text file")
    if not facts.st_size:
        raise BadValue(f"{path!r} is empty; give a file with text")
    return [(path, facts.st_size, facts.st_mtime_ns)], 0


def _walk(folder: str) -> tuple[list[str], int]:
    """Up to 5000 files below a folder in sorted order, hidden ones left out, and how many more the last folder had."""
    names: list[str] = []
    os.scandir(folder).close()
    for parent, folders, files in os.walk(folder):
        folders[:] = sorted(name for name in folders if not name.startswith((".", "__pycache__")))
        names += [os.path.join(parent, name) for name in sorted(files) if not name.startswith(".")]
        if len(names) > FOLDER_FILES:
            break
    return names[:FOLDER_FILES], len(names[FOLDER_FILES:])


def _text_file(name: str) -> os.stat_result | None:
    """The file's facts if it is a readable, non-empty regular file that begins like text."""
    try:
        found = os.stat(name)
        if not stat.S_ISREG(found.st_mode) or not found.st_size:
            return None
        _refuse_binary(name, _head(name, _SNIFF))
    except (OSError, BadValue):
        return None
    return found


def _head(path: str, n: int) -> bytes:
    try:
        with Path(path).open("rb") as file:
            return file.read(n)
    except OSError as error:
        raise _cannot_read(path, error) from error


def _cannot_read(path: str, error: Exception) -> BadValue:
    reason = (getattr(error, "strerror", None) or str(error)).lower()
    return BadValue(f"cannot read {path!r}: {reason}; give the path of a text file or folder")
