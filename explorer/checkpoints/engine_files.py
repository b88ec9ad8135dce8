"""Files that serving engines write, read as if somebody had made them to do harm: nothing in them is ever run."""

import io
import json
import math
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from explorer.errors import RecordingError
from explorer.recording_file import reason

LARGEST = 2 * 2**30  # bytes of a file, and of what an archive unpacks to
LARGEST_LINE = 2**28  # bytes of one line of JSON
MOST_LAYERS, MOST_EXPERTS, MOST_SLOTS = 4096, 65536, 1024


def a_file(path: Any) -> Path:
    """The path of an ordinary file of a size that can be read, or one sentence about what is there instead."""
    path = Path(path).expanduser()
    try:
        if not path.is_file():
            what = "a folder: name one of its files" if path.is_dir() else "no file" if path.exists() else "not there"
            raise RecordingError(f"{str(path)!r} is {what}")
        size = path.stat().st_size
    except (OSError, ValueError) as error:
        raise RecordingError(f"cannot read {str(path)!r}: {reason(error)}") from error
    if size == 0:
        raise RecordingError(f"{str(path)!r} is empty")
    if size > LARGEST:
        raise RecordingError(f"{str(path)!r} has {size:,} bytes, more than the {LARGEST:,} that are read at once")
    return path


def lines(path: Path) -> Iterator[tuple[str, Any]]:
    """(where, object) of each line of a file of JSON lines; a file that is one object over many lines counts as one."""
    try:
        with open(path, "rb") as file:
            first = file.readline(LARGEST_LINE + 1)
            if first.strip() in (b"{", b"["):  # printed for people
                yield str(path), parse(first + file.read(LARGEST_LINE + 1), repr(str(path)))
                return
            number, line = 1, first
            while line:
                if line.strip():
                    yield f"line {number}", parse(line, f"line {number} of {str(path)!r}")
                number, line = number + 1, file.readline(LARGEST_LINE + 1)
    except OSError as error:
        raise RecordingError(f"cannot read {str(path)!r}: {reason(error)}") from error


def parse(text: bytes, what: str) -> Any:
    """One value in JSON, or one sentence about what is wrong with it."""
    if len(text) > LARGEST_LINE:
        raise RecordingError(f"{what} is longer than {LARGEST_LINE:,} bytes")
    try:
        return json.loads(text.decode("utf-8"))
    except UnicodeDecodeError as error:
        raise RecordingError(f"{what} is not text in UTF-8") from error
    except RecursionError as error:
        raise RecordingError(f"{what} is nested too deeply") from error
    except ValueError as error:
        raise RecordingError(f"{what} is no JSON, or was cut short: {error}") from error


def npy(data: bytes, what: str) -> np.ndarray[Any, Any]:
    """The array of a .npy file; one of objects, which is a pickle, is refused, and so is a shape beyond its bytes."""
    file = io.BytesIO(data)
    try:
        version = np.lib.format.read_magic(file)
        read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
        shape, fortran, dtype = read(file)
    except (ValueError, SyntaxError, TypeError, RecursionError) as error:
        raise RecordingError(f"{what} is no .npy array: {reason(error)}") from error
    if dtype.hasobject:
        raise RecordingError(f"{what} holds pickled objects, which are never read: save an array of integers")
    if dtype.itemsize == 0 or math.prod(shape) * dtype.itemsize != len(data) - file.tell():
        raise RecordingError(f"{what} was cut short: its shape {tuple(shape)} does not fit its {len(data):,} bytes")
    flat = np.frombuffer(data, dtype, offset=file.tell())
    return flat.reshape(shape, order="F" if fortran else "C")


def pt(path: Path) -> Any:
    """What torch.save wrote, of plain values and dense tensors; nothing else is unpickled, and nothing is run."""
    what = repr(str(path))
    try:
        with zipfile.ZipFile(path) as archive:
            parts = archive.infolist()
    except (OSError, ValueError, zipfile.BadZipFile, NotImplementedError) as error:
        raise RecordingError(f"{what} is not a file of torch.save, or was cut short: {reason(error)}") from error
    packed = any(part.compress_type != zipfile.ZIP_STORED for part in parts)
    if packed or sum(part.file_size for part in parts) > LARGEST:
        raise RecordingError(f"{what} is packed in a way that torch.save never does")
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # its unpickler lets through whatever a broken pickle makes it stumble over
        raise RecordingError(
            f"{what} holds more than numbers and tensors, or was cut short; it is not unpickled. Load it where it was written "
            "and save a dictionary of plain tensors and lists with torch.save"
        ) from error


def dense(value: Any, what: str, axes: str) -> Tensor:
    """An integer tensor (int64) with these axes, of a tensor, an array or nested lists; raises for anything else."""
    if isinstance(value, Tensor):
        held = value.layout is torch.strided and value.device.type == "cpu" and not value.is_quantized
        if not held or value.numel() * value.element_size() > value.untyped_storage().nbytes():
            raise RecordingError(f"{what} is no plain dense tensor (it is sparse, quantised, or larger than its bytes)")
        tensor = value.detach()
        if tensor.is_complex():
            raise RecordingError(f"{what} holds complex numbers, not whole ones")
    else:
        tensor = torch.from_numpy(_array(value, what))
    if tensor.ndim != len(axes.split()):
        raise RecordingError(f"{what} has the shape {tuple(tensor.shape)}; right would be the axes ({axes})")
    if tensor.is_floating_point():
        if not bool(torch.isfinite(tensor).all()) or bool((tensor != tensor.round()).any()):
            raise RecordingError(f"{what} holds numbers that are not whole (NaN, infinite or broken)")
        if tensor.numel() and float(tensor.abs().max()) > 2.0**53:
            raise RecordingError(f"{what} holds numbers beyond 2^53, of which a file of floats knows no last digit")
    elif tensor.dtype is torch.bool:
        raise RecordingError(f"{what} holds true and false, not whole numbers")
    return tensor.long()


def _array(value: Any, what: str) -> np.ndarray[Any, Any]:
    try:
        array = np.asarray(value)
    except (ValueError, TypeError, OverflowError, RecursionError) as error:
        raise RecordingError(f"{what} is no regular table of whole numbers: its rows differ in length") from error
    if array.dtype.kind not in "iufb" or (array.dtype.kind == "u" and array.dtype.itemsize == 8):
        raise RecordingError(f"{what} is no regular table of whole numbers (it is {_kind(value, array)})")
    if not array.dtype.isnative:
        array = array.astype(array.dtype.newbyteorder("="))
    if array.dtype.kind == "u" and array.dtype.itemsize > 1:
        array = array.astype(np.int64)
    return np.array(array)  # from_numpy wants memory that may be written to


def _kind(value: Any, array: np.ndarray[Any, Any]) -> str:
    return f"of {array.dtype}" if isinstance(value, np.ndarray) else type(value).__name__


def need(found: Any, keys: tuple[str, ...], what: str) -> dict[str, Any]:
    """The dictionary, which must have these keys."""
    if not isinstance(found, dict):
        raise RecordingError(f"{what} is {type(found).__name__}; right would be an object with {', '.join(keys)}")
    missing = [key for key in keys if key not in found]
    if missing:
        has = ", ".join(str(key)[:40] for key in list(found)[:8]) or "nothing"
        raise RecordingError(f"{what} has no {' and no '.join(missing)}; it has {has}")
    return found
