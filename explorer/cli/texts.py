"""Texts and token ids that a command is given as files."""

import json
import os
from pathlib import Path
from typing import Any

from explorer.cli.output import say
from explorer.errors import BadValue

LARGEST = 50_000_000  # bytes of a file
MOST_FILES = 5000  # of a folder


def texts_of(path: Path) -> list[str]:
    """The text of a file, or those of all text files below a folder in the order of their names; hidden ones are left out."""
    path = path.expanduser()
    if not path.is_dir():
        return [_text(path)]
    found, skipped = [], 0
    for file in _below(path):
        try:
            found.append(_text(file))
        except BadValue:
            skipped += 1
    if not found:
        raise BadValue(f"the folder {str(path)!r} has no text files in UTF-8")
    if skipped:
        say(f"{skipped} of the {skipped + len(found)} files of {str(path)!r} are no text in UTF-8, or empty: left out")
    return found


def _below(folder: Path) -> list[Path]:
    files: list[Path] = []
    for parent, folders, names in os.walk(folder):
        folders[:] = sorted(name for name in folders if not name.startswith((".", "__pycache__")))
        files += [Path(parent, name) for name in sorted(names) if not name.startswith(".")]
        if len(files) > MOST_FILES:
            raise BadValue(f"the folder {str(folder)!r} has more than {MOST_FILES:,} files: name some of them")
    return files


def _bytes(path: Path) -> bytes:
    from explorer.recording_file import reason

    if path.exists() and not path.is_file():
        raise BadValue(f"cannot read {str(path)!r}: it is no file")
    try:
        with path.open("rb") as file:
            data = file.read(LARGEST + 1)
    except OSError as error:
        raise BadValue(f"cannot read {str(path)!r}: {reason(error).lower()}") from error
    if len(data) > LARGEST:
        raise BadValue(f"{str(path)!r} has more than {LARGEST:,} bytes: give a part of it")
    return data


def _text(path: Path) -> str:
    data = _bytes(path)
    if not data:
        raise BadValue(f"{str(path)!r} is empty")
    if b"\0" in data:
        raise BadValue(f"{str(path)!r} is no text: it holds NUL bytes")
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise BadValue(f"{str(path)!r} is not text in UTF-8: see its byte {error.start:,}") from error


def token_lists(path: Path) -> list[Any]:
    """A list of lists; one list of ids counts as one sequence."""
    try:
        made = json.loads(_bytes(path.expanduser()).decode("utf-8"))
    except (ValueError, RecursionError) as error:
        raise BadValue(f"{str(path)!r} is not JSON: {(str(error) or 'nested too deeply')[:120]}") from error
    if not isinstance(made, list) or not made:
        raise BadValue(f"{str(path)!r} should hold a list of lists of token ids")
    return made if isinstance(made[0], list) else [made]
