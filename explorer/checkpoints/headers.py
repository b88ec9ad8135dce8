"""The header of a safetensors file, read as if somebody had made it to do harm: checked before anything relies on it."""

import gc
import json
import math
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

from explorer.checkpoints.files import CheckpointError, Source, a_pickle

# bits of one number, and the type of torch that holds it (None: none does)
DTYPES: dict[str, tuple[int, str | None]] = {
    "BOOL": (8, "bool"), "U8": (8, "uint8"), "I8": (8, "int8"), "F8_E5M2": (8, "float8_e5m2"),
    "F8_E4M3": (8, "float8_e4m3fn"), "F8_E8M0": (8, "float8_e8m0fnu"), "I16": (16, "int16"), "U16": (16, "uint16"),
    "F16": (16, "float16"), "BF16": (16, "bfloat16"), "I32": (32, "int32"), "U32": (32, "uint32"), "F32": (32, "float32"),
    "F64": (64, "float64"), "I64": (64, "int64"), "U64": (64, "uint64"), "C64": (64, "complex64"), "F4": (4, None),
    "F6_E2M3": (6, None), "F6_E3M2": (6, None),
}  # fmt: skip
REAL = ("F64", "F32", "F16", "BF16", "F8_E4M3", "F8_E5M2")
FIRST = 1 << 16  # bytes of the first request: most headers fit
LARGEST = 40_000_000  # bytes of a header; the largest that are published have a quarter of it
MOST_TENSORS = 400_000
LARGEST_JSON = 32_000_000  # bytes of config.json or of an index


class Tensor(NamedTuple):
    """Where a tensor lies: bytes start..end of a file."""

    file: str
    dtype: str
    shape: tuple[int, ...]
    start: int
    end: int


class _TwiceError(ValueError):
    pass


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """An object of JSON, whose names may not come twice: readers differ in which of the two they take."""
    made = dict(pairs)
    if len(made) != len(pairs):
        names = [name for name, _ in pairs]
        raise _TwiceError(next(name for name in names if names.count(name) > 1))
    return made


def parse_json(text: bytes, what: str) -> dict[str, Any]:
    """An object in JSON, or one sentence about what is wrong with it."""
    shape = text.count(b"{") + text.count(b"["), text.count(b'"')
    if shape[0] > 4 * MOST_TENSORS or shape[1] > 12 * MOST_TENSORS:
        raise CheckpointError(f"{what} is larger than any real one ({len(text):,} bytes of JSON)")
    try:
        made = json.loads(text.decode("utf-8"), object_pairs_hook=_once)
    except UnicodeDecodeError as error:
        raise CheckpointError(f"{what} is not text in UTF-8") from error
    except _TwiceError as error:
        raise CheckpointError(f"{what} names {_short(str(error))} twice") from error
    except RecursionError as error:
        raise CheckpointError(f"{what} is nested too deeply") from error
    except ValueError as error:
        raise CheckpointError(f"{what} is not JSON: {_short(str(error), quoted=False)}") from error
    if not isinstance(made, dict):
        raise CheckpointError(f"{what} is a {type(made).__name__} in JSON and should be an object")
    return made


def _short(text: str, quoted: bool = True) -> str:
    text = text if len(text) <= 80 else text[:79] + "…"
    return repr(text) if quoted else text


def read_header(source: Source, file: str) -> dict[str, Tensor]:
    """Every tensor of a file, by name; the file is as long as its header says, without holes or overlaps."""
    where, size = f"{file} of {source.name}", source.size(file)
    if size is None:
        raise CheckpointError(f"{where} is missing")
    if size < 8:
        raise CheckpointError(f"{where} has {size} bytes, which is no safetensors file")
    first = bytes(source.read(file, 0, min(size, FIRST)))
    length = int.from_bytes(first[:8], "little")
    if length > min(size - 8, LARGEST) or first[8:9] not in (b"{", b""):
        _foreign(first, where)
    if length > size - 8:
        raise CheckpointError(f"{where} says that its header has {length:,} bytes, but the file ends after {size:,}")
    if length > LARGEST:
        raise CheckpointError(
            f"{where} says that its header has {length:,} bytes; more than {LARGEST:,} cannot be right"
        )
    text = first[8 : 8 + length]
    if len(text) < length:
        text += bytes(source.read(file, 8 + len(text), 8 + length))
    with _without_pauses():
        told = parse_json(text, f"the header of {where}")
        return _tensors(told, file, where, 8 + length, size)


@contextmanager
def _without_pauses() -> Iterator[None]:
    """Of a hundred thousand small objects none is garbage yet: looking for it again and again takes most of the time."""
    was = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was:
            gc.enable()


def _foreign(first: bytes, where: str) -> None:
    """Files of other kinds under this name."""
    if first[:2] in (b"PK", b"\x80\x02", b"\x80\x03", b"\x80\x04", b"\x80\x05"):
        raise a_pickle(f"{where} is a pickle under another name")
    if first[:4] == b"GGUF":
        raise CheckpointError(f"{where} is a GGUF file, which is not read here: take the safetensors it was made from")
    if first[:7] == b"version":
        raise CheckpointError(f"{where} is a pointer of git-lfs, not the file itself: fetch it with `git lfs pull`")


def _tensors(told: dict[str, Any], file: str, where: str, offset: int, size: int) -> dict[str, Tensor]:
    extra = told.pop("__metadata__", {})
    if not isinstance(extra, dict) or not all(isinstance(one, str) for one in extra.values()):
        raise CheckpointError(f"{where} has a '__metadata__' that is not made of words")
    if len(told) > MOST_TENSORS:
        raise CheckpointError(
            f"{where} says it holds {len(told):,} tensors; more than {MOST_TENSORS:,} cannot be right"
        )
    found = {name: _tensor(name, about, file, where, offset) for name, about in told.items()}
    at = offset
    for name, one in sorted(found.items(), key=lambda pair: (pair[1].start, pair[1].end)):
        if one.start != at:
            what = "overlaps the one before it" if one.start < at else "leaves a hole before it"
            raise CheckpointError(f"{where}: the tensor {_short(name)} {what}")
        at = one.end
    if at != size:
        what = (
            "ends inside a tensor: it was cut short, or never finished"
            if at > size
            else "goes on after its last tensor"
        )
        raise CheckpointError(f"{where} {what} ({at:,} bytes are told, {size:,} are there)")
    return found


def _tensor(name: str, about: Any, file: str, where: str, offset: int) -> Tensor:
    try:
        dtype, shape, (start, end) = about["dtype"], about["shape"], about["data_offsets"]
        bits, exact = DTYPES[dtype][0], type(shape) is list and type(start) is type(end) is int
    except (LookupError, TypeError, ValueError):
        bits, exact = 0, False
    if not exact or not 0 <= start < 1 << 62 or not all(type(n) is int and 0 <= n < 1 << 62 for n in shape):
        raise CheckpointError(f"{where}: the tensor {_short(name)} {_what_is_wrong(about)}")
    if math.prod(shape) * bits != 8 * (end - start):
        what = f"of shape {_short(str(tuple(shape)), quoted=False)} and type {dtype} does not fill its bytes"
        raise CheckpointError(f"{where}: the tensor {_short(name)} {what}")
    return Tensor(file, dtype, tuple(shape), offset + start, offset + end)


def _what_is_wrong(about: Any) -> str:
    """Of a tensor's description that cannot be used."""
    if not isinstance(about, dict):
        return "is not described by an object"
    dtype, shape, place = about.get("dtype"), about.get("shape"), about.get("data_offsets")
    if not isinstance(dtype, str) or dtype not in DTYPES:
        return f"has the unknown type {_short(str(dtype))}"
    if not isinstance(shape, list) or not isinstance(place, list) or len(place) != 2:
        return "has no shape and two offsets"
    wrong = next(n for n in (*shape, *place) if type(n) is not int or not 0 <= n < 1 << 62)
    return f"has the size or offset {_short(str(wrong))}, which is no whole number from 0"
