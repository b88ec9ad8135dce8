"""The tensors of a checkpoint by name, of however many files; each is read when it is asked for, and only the part that is."""

import math
import re
from collections.abc import Sequence
from typing import Any

import torch

from explorer.checkpoints.files import (
    PICKLES,
    CheckpointError,
    Folder,
    Source,
    each,
    here,
    plain_name,
    refuse_pickle,
    whole,
)
from explorer.checkpoints.headers import DTYPES, FIRST, LARGEST_JSON, REAL, Tensor, parse_json, read_header
from explorer.checkpoints.remote import Remote, there

INDEX, SINGLE = "model.safetensors.index.json", "model.safetensors"
MOST_FILES = 5000
BUDGET = 1 << 30  # bytes that one piece may take in memory where nobody says


class Weights:
    """Tensors by name. `memory`: bytes that one piece, as it is stored and as float32, may take at most."""

    def __init__(self, source: Source, tensors: dict[str, Tensor], config: dict[str, Any] | None, memory: int) -> None:
        self.source, self.tensors, self.config, self.memory = source, tensors, config, memory

    def __contains__(self, name: str) -> bool:
        return name in self.tensors

    def shape(self, name: str) -> tuple[int, ...]:
        """Of a tensor that is there."""
        return self.tensors[name].shape

    @property
    def bytes(self) -> int:
        """Of all tensors together."""
        return sum(one.end - one.start for one in self.tensors.values())

    def need(self, size: int, what: str) -> None:
        """Raise, before anything is allocated, if `size` bytes are more than the budget."""
        if size > self.memory:
            raise CheckpointError(
                f"{what} would take {size:,} bytes of memory, more than the {self.memory:,} allowed: "
                "open_checkpoint(..., memory=...) sets another limit"
            )

    def read(self, name: str, first: int = 0, rows: int | None = None) -> torch.Tensor:
        """A tensor as it is stored, or `rows` of the rows of a matrix (all axes but the last are rows), from `first`."""
        one = self.tensors[name]
        kind = DTYPES[one.dtype][1]
        if kind is None or not hasattr(torch, kind):
            raise CheckpointError(f"{name} is stored as {one.dtype}, which torch cannot hold")
        shape, width = one.shape, one.shape[-1] if one.shape else 1
        bits = DTYPES[one.dtype][0]
        if rows is not None:
            shape = (rows, width)
        self.need(math.prod(shape) * (bits // 8 + 4), name)
        start = one.start + first * width * bits // 8
        data = self.source.read(one.file, start, start + math.prod(shape) * bits // 8)
        if not data:
            return torch.zeros(shape, dtype=getattr(torch, kind))
        return torch.frombuffer(data, dtype=getattr(torch, kind)).reshape(shape)

    def numbers(self, name: str, first: int = 0, rows: int | None = None) -> torch.Tensor:
        """The same in float32 (float64 where it is stored so); what holds no real numbers is refused."""
        dtype = self.tensors[name].dtype
        if dtype not in REAL:
            raise CheckpointError(f"{name} is stored as {dtype}, and should hold real numbers")
        value = self.read(name, first, rows)
        return value if value.dtype == torch.float64 else value.float()

    def soon(self, names: Sequence[str]) -> None:
        """A hint that these will be read, unless they are too much to be held."""
        places = [self.tensors[name] for name in names]
        if sum(one.end - one.start for one in places) <= self.memory:
            self.source.soon((one.file, one.start, one.end) for one in places)

    def many(self, names: Sequence[str]) -> list[torch.Tensor]:
        """`numbers` of each name."""
        self.need(sum(math.prod(self.shape(name)) * 8 for name in names), f"{len(names)} tensors at once")
        self.soon(names)
        return each(self.numbers, names, self.source)


def open_weights(given: str, memory: int | None = None) -> Weights:
    """The tensors of a folder, of a file, or of what lies under a hub id or an address; headers only are read."""
    local = here(given)
    if local is not None:
        return _opened(local, memory)
    source = there(given)
    cached = _cached(source)
    if cached is not None:
        try:
            return _opened(cached, memory)
        except CheckpointError:  # not all of it was ever fetched
            pass
    return _opened(source, memory)


def _cached(source: Remote) -> Folder | None:
    path = source.in_cache("config.json")
    return None if path is None else Folder(path.parent)


def _opened(source: Folder | Remote, memory: int | None) -> Weights:
    wanted = _wanted(source)
    files = sorted(set(wanted.values())) if isinstance(wanted, dict) else wanted
    source.soon((file, 0, FIRST) for file in files)
    headers = dict(zip(files, each(lambda file: read_header(source, file), files, source), strict=True))
    tensors = _by_index(wanted, headers, source) if isinstance(wanted, dict) else _merged(headers, source)
    text = whole(source, "config.json", LARGEST_JSON)
    config = None if text is None else parse_json(text, f"config.json of {source.name}")
    return Weights(source, tensors, config, BUDGET if memory is None else memory)


def _wanted(source: Folder | Remote) -> list[str] | dict[str, str]:
    """The files that make up a checkpoint; where an index says so, which tensor lies in which."""
    if source.only is not None:
        return [source.only]
    names = source.names()
    if names is None:
        if source.size(SINGLE) is not None:
            return [SINGLE]
        index = INDEX if source.size(INDEX) is not None else None
        if index is None:
            refuse_pickle([one for one in ("pytorch_model.bin", "pytorch_model.bin.index.json") if _is(source, one)][:1],
                          source.name)  # fmt: skip
            raise CheckpointError(f"{source.name} has neither {SINGLE} nor {INDEX}")
        return _index(source, index)
    if SINGLE in names:
        return [SINGLE]
    indexes = sorted(
        (name for name in names if name.endswith(".safetensors.index.json")), key=lambda name: name != INDEX
    )
    if indexes:
        return _index(source, indexes[0])
    files = [name for name in names if name.endswith(".safetensors")]
    if not files:
        refuse_pickle(names, source.name)
        raise CheckpointError(f"{source.name} holds no .safetensors file{'' if names else ': it is empty'}")
    return _complete(files, source)


def _is(source: Remote | Folder, file: str) -> bool:
    return source.size(file) is not None


def _complete(files: list[str], source: Source) -> list[str]:
    """Shards without an index say themselves how many they are."""
    for match in (re.fullmatch(r"(.+)-(\d{5})-of-(\d{5})\.safetensors", file) for file in files):
        if match:
            stem, _, count = match.groups()
            if int(count) > MOST_FILES:
                raise CheckpointError(f"{match[0]} of {source.name} says there are {int(count):,} files like it")
            whole_set = [f"{stem}-{i:05}-of-{count}.safetensors" for i in range(1, int(count) + 1)]
            lost = [one for one in whole_set if one not in files]
            if lost:
                raise CheckpointError(f"{lost[0]} of {source.name} is missing ({len(lost)} of {int(count)} files are)")
            return whole_set
    return files


def _index(source: Source, file: str) -> dict[str, str]:
    """weight_map of an index: only plain names of safetensors files."""
    what = f"{file} of {source.name}"
    text = whole(source, file, LARGEST_JSON)
    assert text is not None
    places = parse_json(text, what).get("weight_map")
    if not isinstance(places, dict) or not places:
        raise CheckpointError(f"{what} has no 'weight_map' that says which tensor lies in which file")
    for shard in dict.fromkeys(places.values() if all(map(_hashable, places.values())) else [None]):
        plain_name(shard, what)
        if str(shard).lower().endswith(PICKLES):
            refuse_pickle([shard], source.name)
        if not str(shard).endswith(".safetensors"):
            raise CheckpointError(f"{what} names the file {shard!r}, which is no .safetensors file")
    if len(set(places.values())) > MOST_FILES:
        raise CheckpointError(
            f"{what} names {len(set(places.values())):,} files; more than {MOST_FILES:,} cannot be right"
        )
    return places


def _hashable(value: object) -> bool:
    return isinstance(value, str)


def _by_index(places: dict[str, str], headers: dict[str, dict[str, Tensor]], source: Source) -> dict[str, Tensor]:
    for name, file in places.items():
        if name not in headers[file]:
            raise CheckpointError(
                f"the index of {source.name} looks for {name[:80]!r} in {file}, which does not hold it"
            )
    return {name: headers[file][name] for name, file in places.items()}


def _merged(headers: dict[str, dict[str, Tensor]], source: Source) -> dict[str, Tensor]:
    made: dict[str, Tensor] = {}
    for file, tensors in headers.items():
        twice = next((name for name in tensors if name in made), None)
        if twice is not None:
            raise CheckpointError(f"{twice[:80]!r} lies both in {made[twice].file} and in {file} of {source.name}")
        made |= tensors
    return made
