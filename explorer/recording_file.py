"""The file a Recording is saved as: one safetensors file whose metadata holds a JSON header. Never pickle."""

import errno
import json
import os
import platform
import re
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from explorer.errors import RecordingError

if TYPE_CHECKING:
    from explorer.recording import Recording

SCHEMA = 1
KEY = "gating_explorer"  # of the JSON header in the safetensors metadata


def versions() -> dict[str, str]:
    """Of what a recording was made with."""
    import explorer

    return {"explorer": explorer.__version__, "torch": torch.__version__, "python": platform.python_version()}


def save(recording: "Recording", path: Any) -> None:
    """Write the whole file or none: the old one stays until the new one is on the disk."""
    from safetensors.torch import save_file

    recording.settle()
    path = Path(path).expanduser()
    tensors: dict[str, Tensor] = {}
    for table, series in recording.series.items():
        tensors |= {f"series/{table}/{name}": one.rows().clone() for name, one in series.items()}
    for step, held in recording._kept:
        tensors |= {f"step/{step}/{name}": value.contiguous() for name, value in held.items()}
    header = {
        "schema": SCHEMA,
        "versions": versions(),
        **recording.header,
        "step": recording.step,
        "keep": recording.keep,
    }
    try:
        with replacing(path) as temporary:
            save_file(tensors, temporary, metadata={KEY: json.dumps(header)})
    except Exception as error:  # safetensors' own class derives from Exception alone
        what = f"cannot save the recording to {str(path)!r}: {reason(error)}"
        raise RecordingError(f"{what}; nothing was changed there") from error


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A temporary neighbour to write to, which takes the place of `path` at the end, or vanishes on an error or Ctrl-C.

    A link is followed. A device is refused: root may rename a file over /dev/null, and the machine has none any more.
    """
    path = path.resolve()
    if path.exists() and not path.is_file():
        raise OSError(errno.EINVAL, f"it is a {'folder' if path.is_dir() else 'device'}, not a file")
    temporary = None
    try:
        with tempfile.NamedTemporaryFile(dir=path.parent, prefix=f".{path.name}.", delete=False) as file:
            temporary = Path(file.name)
        yield temporary
        with open(temporary, "rb+") as file:
            os.fsync(file.fileno())
        os.chmod(temporary, 0o666 & ~_umask())
        os.replace(temporary, path)
    finally:
        if temporary is not None:
            temporary.unlink(missing_ok=True)


def load(path: Any) -> "Recording":
    """Read a recording back; the error names the file and says whether it is missing, foreign, damaged or too new."""
    from safetensors import SafetensorError, safe_open

    path = Path(path).expanduser()
    if not path.is_file():
        what = "it is a folder" if path.is_dir() else "it is a device" if path.exists() else "there is no such file"
        raise RecordingError(f"no recording at {str(path)!r}: {what}")
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            if KEY not in metadata:
                raise RecordingError(f"{str(path)!r} is a safetensors file but not a recording of the gating explorer")
            header = json.loads(metadata[KEY])
            _need(header, {"schema": int})
            if header["schema"] > SCHEMA:
                raise RecordingError(
                    f"{str(path)!r} was written by a newer gating explorer (format {header['schema']}, this one reads up to "
                    f"{SCHEMA}): update with `pip install -U gating-explorer`"
                )
            return _rebuild(header, {name: file.get_tensor(name) for name in file.keys()})  # noqa: SIM118 (not a dict)
    except OSError as error:
        raise RecordingError(f"cannot read {str(path)!r}: {reason(error)}") from error
    except SafetensorError as error:
        raise RecordingError(f"{str(path)!r} is not a recording, or was cut short: {error}") from error
    except (LookupError, TypeError, ValueError, ArithmeticError, RuntimeError) as error:
        raise RecordingError(f"{str(path)!r} is a damaged recording: {reason(error)}") from error


HEADER = {"step": int, "axes": dict, "scores": dict, "experts": dict, "events": list}
COLUMNS = {"loads": 3, "gates": 4, "routing": 4, "attention": 3}  # at least, of a series of each table


def _need(header: Any, kinds: dict[str, type]) -> None:
    """Raise TypeError unless the header holds what every reader of a recording relies on."""
    for name, kind in kinds.items():
        if not isinstance(header, dict) or not isinstance(header.get(name), kind) or isinstance(header[name], bool):
            raise TypeError(f"its header has no {name!r} of the kind {kind.__name__}")


def _rebuild(header: dict[str, Any], tensors: dict[str, Tensor]) -> "Recording":
    from explorer.recording import Recording, Series

    _need(header, HEADER)
    _need(header["experts"], dict.fromkeys(header["experts"], int))
    _need(header["axes"], dict.fromkeys(header["axes"], str))
    step, keep = header.pop("step"), header.pop("keep", None)
    recording = Recording(header, None if keep is None else max(1, int(keep)))
    recording.step = step
    order: dict[str, int] = {}  # of the taps, and of their layers: a safetensors file keeps an order of its own
    for place, name in enumerate(header["axes"]):
        order.setdefault(name, place)
        order.setdefault(name.rsplit("/", 1)[0], place)
    held: dict[int, dict[str, Tensor]] = {}
    for name in sorted(tensors, key=lambda name: order.get(name.split("/", 2)[-1], 0)):
        value, (kind, key, rest) = tensors[name], name.split("/", 2)
        if kind == "series" and key in COLUMNS and value.ndim == 2 and value.shape[1] >= COLUMNS[key]:
            recording.series[key][rest] = Series(value.shape[1], value.double())
        elif kind == "step" and rest in header["axes"]:
            held.setdefault(int(key), {})[rest] = value
        else:
            raise ValueError(f"it holds {name!r} of shape {tuple(value.shape)}, which no recording has")
    recording._kept.extend(sorted(held.items()))
    return recording


def reason(error: BaseException) -> str:
    """The operating system's own words without its numbers, or the first line of anything else."""
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    if number := re.search(r"\(os error (\d+)\)", str(error)):  # how safetensors passes one on
        return os.strerror(int(number[1]))
    return (str(error) or type(error).__name__).splitlines()[0]


def _umask() -> int:
    mask = os.umask(0)  # the only way to read it is to set it
    os.umask(mask)
    return mask
