"""Recorded pictures: what views show, as JSON, to be put back into fresh views without a model or torch.

    save("run.frames", dump({"loss": chart, "strip": strip}))
    restore({"loss": Chart(), "strip": TokenStrip()}, load("run.frames"))

A dump is {"version": 1, "views": {name: {"class", "traits"}}}; bytes stand in it as {"base64:": text}. A file is that as
gzipped JSON. Nothing in a file is ever run: it fills traits, and each trait checks its own kind.
"""

import base64
import binascii
import gzip
import json
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import traitlets

from explorer.errors import RecordingError
from widgets.views.framed import Framed

VERSION = 1
BYTES = "base64:"
LARGEST = 64 * 2**20  # bytes of an unpacked file
_SHARED = ("label", "stamp", "frame")


def dump(views: Mapping[str, Framed]) -> dict[str, Any]:
    """What each view shows now, as plain JSON."""
    return {"version": VERSION, "views": {name: _dumped(view) for name, view in views.items()}}


def restore(views: Mapping[str, Framed], dumped: Mapping[str, Any]) -> None:
    """Show in `views` what was dumped under the same names; names that only one side knows are left alone."""
    recorded = _checked(dumped)
    for name in views.keys() & recorded.keys():
        _restore(views[name], name, recorded[name])


def save(path: str | Path, dumped: Mapping[str, Any]) -> None:
    """Write a dump; the same dump makes the same bytes."""
    text = json.dumps(_whole(dumped), ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    Path(path).write_bytes(gzip.compress(text.encode("utf-8", "replace"), mtime=0))


def load(path: str | Path) -> dict[str, Any]:
    """Read a dump; a file that is none, is damaged, or comes from another version is refused by name."""
    name = Path(path).name
    try:
        with gzip.open(path) as file:
            content = file.read(LARGEST + 1)
        if len(content) > LARGEST:
            raise RecordingError(f"{name} holds more than {LARGEST:,} bytes: that is no recorded page")
        dumped = json.loads(content)
    except FileNotFoundError:
        raise RecordingError(f"there is no file {name}") from None
    except (OSError, EOFError, zlib.error, ValueError, RecursionError):
        raise RecordingError(f"{name} is damaged, or no recorded page: it should be gzipped JSON") from None
    return _whole(dumped)


def packed(value: Any) -> Any:
    """`value` with its bytes as {"base64:": text}."""
    if isinstance(value, bytes | bytearray | memoryview):
        return {BYTES: base64.b64encode(value).decode()}
    if isinstance(value, Mapping):
        return {key: packed(inner) for key, inner in value.items()}
    return [packed(inner) for inner in value] if isinstance(value, list | tuple) else value


def unpacked(value: Any) -> Any:
    """What `packed` was given, tuples as lists."""
    if isinstance(value, Mapping):
        if value.keys() == {BYTES}:
            return base64.b64decode(value[BYTES], validate=True)
        return {key: unpacked(inner) for key, inner in value.items()}
    return [unpacked(inner) for inner in value] if isinstance(value, list) else value


def _dumped(view: Framed) -> dict[str, Any]:
    traits = {name: packed(getattr(view, name)) for name in (*_SHARED, *view.pictured)}
    return {"class": type(view).__name__, "traits": traits}


def _restore(view: Framed, name: str, recorded: Any) -> None:
    kind = recorded.get("class") if isinstance(recorded, Mapping) else None
    if kind != type(view).__name__:
        raise RecordingError(f"the recorded {name!r} is a {kind}; it cannot be shown in a {type(view).__name__}")
    try:
        traits = unpacked(recorded["traits"])
        frame = traits["frame"]
        for trait in ("label", "stamp", *view.pictured):
            setattr(view, trait, traits[trait])
        if frame.pop("number"):
            view.offer(**frame)
    except (KeyError, TypeError, AttributeError, binascii.Error, traitlets.TraitError) as error:
        raise RecordingError(f"the recorded {name!r} is damaged: {type(error).__name__}") from None


def _whole(dumped: Any) -> dict[str, Any]:
    _checked(dumped)
    return dict(dumped)


def _checked(dumped: Any) -> Mapping[str, Any]:
    if not isinstance(dumped, Mapping) or "version" not in dumped or not isinstance(dumped.get("views"), Mapping):
        raise RecordingError("this is no recorded page: it should hold a version and views")
    if dumped["version"] != VERSION:
        raise RecordingError(
            f"the recorded page has version {dumped['version']!r}; this explorer reads version {VERSION}: record it anew"
        )
    views: Mapping[str, Any] = dumped["views"]
    return views
