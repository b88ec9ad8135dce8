"""What a server of one user on a JupyterHub does besides: the pages are copied into the user's own folder, and the kernels'
sockets lie where no other user of the machine can listen.

GATING_EXPLORER_PAGES (set by binder/jupyterhub_config.py) names the folder of the pages below the one that is served.
"""

import atexit
import contextlib
import hashlib
import json
import os
import shutil
import tempfile
from pathlib import Path
from typing import Any, NamedTuple

from explorer.serving import pages_folder
from explorer.serving.server import _transport

PAGES = "GATING_EXPLORER_PAGES"
# in the folder of the pages: the fingerprint of every page as it was copied, by its path
RECORD = ".gating-explorer.json"


class Copied(NamedTuple):
    """How many pages were new, how many replaced an older copy, and how many were left because they had been changed."""

    new: int = 0
    renewed: int = 0
    kept: int = 0


def is_hub() -> bool:
    """Whether a JupyterHub started this server."""
    return bool(os.environ.get("JUPYTERHUB_SERVICE_PREFIX"))


def settings() -> dict[str, Any]:
    """What the server's configuration gets there: over TCP, every user of the machine could listen to every kernel."""
    return {"KernelManager": {"transport": _transport()}} if is_hub() else {}


def begin(app: Any) -> None:
    """Called once the server has its kernel manager, and before it answers."""
    if not is_hub():
        return
    _close_to_others(app.kernel_manager)
    _log_events_only(app)
    folder = os.environ.get(PAGES, "").strip()
    if not folder:
        return
    try:
        copied = copy_pages(pages_folder(), Path(app.root_dir) / folder)
    except OSError as error:
        # a full or read-only home: the server must start all the same, so that its user can tidy up
        app.log.warning("the pages could not be copied into %r: %s", folder, error.strerror or error)
    else:
        app.log.info("pages in %r: %d new, %d renewed, %d changed by the user and kept", folder, *copied)


def copy_pages(source: Path, target: Path) -> Copied:
    """Copy the notebooks of `source` that `target` lacks, or has as an earlier call left them; a changed one is kept."""
    if target.exists() and target.samefile(source):
        return Copied()
    before, now, counts = _record(target), {}, dict.fromkeys(Copied._fields, 0)
    for page in sorted(source.rglob("*.ipynb")):
        name = page.relative_to(source)
        if any(part.startswith(".") for part in name.parts):
            continue
        content, copy = page.read_bytes(), target / name
        there = copy.read_bytes() if copy.is_file() else None
        wanted, key = _fingerprint(content), name.as_posix()
        if there is not None and _fingerprint(there) not in (wanted, before.get(key)):
            counts["kept"] += 1
            now[key] = before.get(key, "")
            continue
        if there != content:
            counts["new" if there is None else "renewed"] += 1
            _write(copy, content)
        now[key] = wanted
    if now != before:
        _write(target / RECORD, json.dumps(now, indent=1).encode())
    return Copied(**counts)


def _record(target: Path) -> dict[str, str]:
    """What was copied earlier; nothing if the record is not there or was spoilt."""
    try:
        record = json.loads((target / RECORD).read_text())
    except (OSError, ValueError):
        return {}
    return record if isinstance(record, dict) else {}


def _fingerprint(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def _write(path: Path, content: bytes) -> None:
    """The file is there whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f".{path.name}.part")
    try:
        part.write_bytes(content)
        part.replace(path)
    except OSError:
        with contextlib.suppress(OSError):
            part.unlink()
        raise


def _close_to_others(kernels: Any) -> None:
    """Sockets and connection files go into a new folder that only this user may enter, whose name is short enough."""
    if not hasattr(kernels, "connection_dir") or _transport() != "ipc":
        return
    folder = tempfile.mkdtemp(prefix="voila_")
    kernels.connection_dir = folder
    atexit.register(shutil.rmtree, folder, ignore_errors=True)


def _log_events_only(app: Any) -> None:
    """Leave out what is said of every page and every connection, as in the server of `gating-explorer serve`."""
    from tornado.log import gen_log

    app.log.addFilter(lambda record: "is not trusted" not in record.getMessage())
    gen_log.addFilter(lambda record: "websocket_ping_timeout" not in record.getMessage())
