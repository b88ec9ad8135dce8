"""What the checkpoint lab can open, and whether it may: a folder, a file, a hub id, an address, the demo, a recording.

A server that is open to a class must not read any path for anybody: with GATING_EXPLORER_CHECKPOINTS in its environment
(folders, parted by the sign that parts those of PATH) only what lies in these folders is opened, links followed first;
with an empty one, only the demo and hub ids.
"""

import os
import stat
from dataclasses import dataclass, field, replace
from importlib.util import find_spec
from pathlib import Path, PurePath
from typing import TYPE_CHECKING, Any

from explorer.errors import BadValue
from widgets.states.links import short

if TYPE_CHECKING:
    from explorer.checkpoints.checkpoint import Checkpoint
    from explorer.recording import Recording

VARIABLE = "GATING_EXPLORER_CHECKPOINTS"
PEEK = 1 << 16  # bytes of a file of JSON that tell whose it is
READERS = {".pt": "from_sglang", ".csv": "from_sglang", ".npy": "from_vllm", ".json": "", ".jsonl": ""}
DEMO = "the demo model"


@dataclass(frozen=True)
class Opened:
    """A checkpoint with the report of its files, or a recording; the other is None."""

    given: str  # "": the demo
    name: str  # for people, and for files that leave the page: no folder of this machine
    checkpoint: "Checkpoint | None" = None
    report: dict[str, Any] | None = field(default=None, repr=False)
    recording: "Recording | None" = None
    tokenizer: bool = False  # whether texts can be cut into tokens
    as_bytes: bool = (
        False  # whether that is done here: the demo's tokens are bytes, and the library for it is not there
    )

    @property
    def is_demo(self) -> bool:
        """Whether it is the model that came along."""
        return not self.given


def folders() -> list[str] | None:
    """Where checkpoints may lie, as real paths; None: anywhere."""
    said = os.environ.get(VARIABLE)
    return None if said is None else [os.path.realpath(one) for one in said.split(os.pathsep) if one.strip()]


def permitted(given: str) -> str:
    """What to open for `given`: itself, or the real path behind it where only some folders are open; else an error."""
    allowed = folders()
    if allowed is None:
        return given
    from explorer.checkpoints.remote import HUB_ID

    path = os.path.realpath(os.path.expanduser(given)) if "\0" not in given else ""
    if path and any(path == root or path.startswith(root.rstrip(os.sep) + os.sep) for root in allowed):
        return path
    if HUB_ID.fullmatch(given) and not os.path.lexists(given):
        return given
    where = "a folder that is open here, or " if allowed else ""
    raise BadValue(f"this server does not open {short(given, 80)!r}: choose {where}a hub id (owner/name), or the demo")


def is_here(given: str) -> bool:
    """Whether nothing has to be fetched for it: the demo, or a path that is there."""
    return not given or ("\0" not in given and os.path.lexists(os.path.expanduser(given)))


def name_of(given: str) -> str:
    """Of a checkpoint for people: the last part of a path or an address, all of a hub id."""
    if not given:
        return DEMO
    if given.startswith(("/", ".", "~", "\\")) or "://" in given or os.path.lexists(given):
        return PurePath(given.rstrip("/")).name or given
    return given


def reader(path: Path) -> str:
    """The method of Recording that reads a file; "load" is our own; "": it is no recording."""
    try:
        if not stat.S_ISREG(path.stat().st_mode):
            return ""
        if path.suffix == ".safetensors":
            return "load" if _is_ours(path) else ""
        if path.suffix in (".json", ".jsonl"):
            with open(path, "rb") as file:
                return "from_olmoe" if b'"exp_ids"' in file.read(PEEK) else "from_vllm"
    except OSError:
        return ""  # the reader of checkpoints says what is wrong with it
    return READERS.get(path.suffix, "")


def _is_ours(path: Path) -> bool:
    from safetensors import SafetensorError, safe_open

    from explorer.recording_file import KEY

    try:
        with safe_open(path, framework="np") as file:
            return KEY in (file.metadata() or {})
    except SafetensorError:
        return False


def open_given(given: str, layer: int = -1) -> Opened:
    """Open what a person named, with the report of its files; slow, and for a thread. "" opens the demo."""
    given = given.strip()
    if not given:
        from explorer import demo

        return _checkpoint("", str(demo.folder()), layer)
    path = permitted(given)
    if "\0" not in path and (method := reader(Path(path).expanduser())):
        from explorer.recording import Recording

        recording = getattr(Recording, method)(Path(path).expanduser())
        return Opened(given, name_of(given), recording=recording)
    return _checkpoint(given, path, layer)


def open_early(layer: int = -1) -> Opened:
    """The demo as it was early in the same training run."""
    from explorer import demo

    opened = _checkpoint("", str(demo.early()), layer)
    return replace(opened, given="early", name="the demo, early in its training")


def _checkpoint(given: str, path: str, layer: int) -> Opened:
    from explorer.checkpoints.checkpoint import open_checkpoint
    from explorer.checkpoints.report import report

    seen = open_checkpoint(path)
    shown = None if layer < 0 or not seen.layers else seen.layers[min(layer, len(seen.layers) - 1)]
    as_bytes = not given and find_spec("tokenizers") is None
    return Opened(given, name_of(given), seen, report(seen, shown), None, has_tokenizer(seen), as_bytes)


def has_tokenizer(seen: "Checkpoint") -> bool:
    """Whether a tokenizer that is read here lies beside the weights; without one a model is given token ids."""
    from explorer.checkpoints.tokenizer import FILE, OTHERS

    return any(seen.weights.source.size(name) is not None for name in (FILE, *OTHERS))


def vocabulary(seen: "Checkpoint") -> int | None:
    """Token ids that the model knows; None: not found."""
    from explorer.checkpoints.tokens import rows_of

    return rows_of(seen)


def samples() -> tuple[tuple[str, str], ...]:
    """The texts that come with the demo: (domain, text)."""
    from explorer import demo

    return tuple((str(domain), str(text)) for domain, text in demo.samples().items())
