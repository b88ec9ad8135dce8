"""What sglang's expert distribution recorder dumps -> a Recording.

Modes `stat` and `stat_approx` dump counts of logical experts; `per_pass` counts of physical ones, pass by pass; `per_token`
what every token chose. Before 0.4.6 it was a table in CSV. Source: sglang, srt/eplb/expert_distribution.py.
"""

import csv
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from explorer.checkpoints.engine_files import LARGEST, MOST_EXPERTS, MOST_LAYERS, a_file, dense, need, pt
from explorer.checkpoints.engine_routes import UINT8, Routes, counted, doubled
from explorer.errors import RecordingError
from explorer.recording import Recording
from explorer.recording_file import reason

PHASES = {1: "prefill", 2: "decode", 3: "prefill and decode"}  # ForwardMode
NOTE = "only what the dumping rank saw: with data parallelism each rank writes its own file"
MANY = "of all ranks whose files were given"


def from_sglang(path: Any, shape: tuple[int, int] | None = None, experts: int | None = None) -> Recording:
    """Read one dump, `.pt` or `.csv`; RecordingError says in a sentence what is wrong with any other file.

    path: a file, or the files of several ranks as a list, or the folder in which they lie alone. A file of the server's
    answers (JSON) needs shape, the model's (layers, experts of a token), and may be told how many `experts` a layer has.

    The header's `source` says which format it was. Physical experts (copies made for balance) are counted as the logical
    ones they are copies of, where the dump has the map.
    """
    paths = _files(path)
    if len(paths) > 1:
        from explorer.checkpoints.sglang_ranks import together

        found, how = together(paths)
        made = _records(paths[0], found, MANY)
        made.header["source"] |= {"file": f"{paths[0].name} and {len(paths) - 1} more", "ranks": how}
        return made
    return _one(paths[0], shape, experts)


def _files(path: Any) -> list[Path]:
    if isinstance(path, list | tuple):
        if not path:
            raise RecordingError("no file of sglang is given: the list is empty")
        return [a_file(one) for one in dict.fromkeys(map(str, path))]
    folder = Path(str(path)).expanduser()
    try:
        names = sorted(one.name for one in folder.iterdir() if one.suffix == ".pt") if folder.is_dir() else None
    except (OSError, ValueError) as error:
        raise RecordingError(f"cannot look into {str(path)!r}: {reason(error)}") from error
    if names == []:
        raise RecordingError(f"{str(path)!r} is a folder without a dump of sglang (.pt) in it")
    return [a_file(path)] if names is None else [a_file(folder / name) for name in names]


def _one(path: Path, shape: tuple[int, int] | None, experts: int | None) -> Recording:
    with open(path, "rb") as file:
        start = file.read(64).lstrip()
    if start[:1] in (b"{", b"["):
        from explorer.checkpoints.sglang_answers import answers

        return answers(path, shape, experts)
    if start[:2] != b"PK":
        return _csv(path)
    found = pt(path)
    if isinstance(found, dict) and "logical_count" in found:
        return _counts(path, found)
    return _records(path, need(found, ("records",), repr(str(path))))


def _csv(path: Path) -> Recording:
    counts: dict[tuple[int, int], int] = {}
    try:
        with open(path, encoding="utf-8-sig", newline="") as file:
            rows = csv.reader(file)
            if [name.strip() for name in next(rows, [])] != ["layer_id", "expert_id", "count"]:
                raise RecordingError(
                    f"{str(path)!r} is no dump of sglang: neither a file of torch.save nor a table that begins with "
                    "layer_id,expert_id,count"
                )
            for row in filter(None, rows):
                if len(row) != 3:
                    raise RecordingError(
                        f"line {rows.line_num} of {str(path)!r} was cut short: {len(row)} numbers, not 3"
                    )
                layer, expert, count = (int(number) for number in row)
                fits = 0 <= layer < MOST_LAYERS and 0 <= expert < MOST_EXPERTS and 0 <= count < 2**53
                if not fits or (layer, expert) in counts:
                    why = "comes twice" if fits else "cannot be"
                    raise RecordingError(f"line {rows.line_num} of {str(path)!r}: layer {layer}, expert {expert} {why}")
                counts[layer, expert] = count
    except (UnicodeDecodeError, csv.Error) as error:
        raise RecordingError(f"{str(path)!r} is no dump of sglang: neither a file of torch.save nor a table") from error
    except ValueError as error:
        raise RecordingError(f"line {rows.line_num} of {str(path)!r} has no three whole numbers") from error
    if not counts:
        raise RecordingError(f"{str(path)!r} counts nothing: it has no line but the first")
    L, E = (1 + max(key[axis] for key in counts) for axis in (0, 1))
    table_LE = torch.zeros(L, E, dtype=torch.int64)
    for (layer, expert), count in counts.items():
        table_LE[layer, expert] = count
    return counted(path, "sglang", "table of counts (CSV, before 0.4.6)", table_LE[None], NOTE)


def _counts(path: Path, found: dict[str, Any]) -> Recording:
    what = f"logical_count of {str(path)!r}"
    count = found["logical_count"]
    flat = getattr(count, "ndim", 0) == 2
    counts_SLE = dense(count, what, "layer, expert" if flat else "step, layer, expert")
    note = "steps in the order of the recorder's ring buffer, which begins anew when it is full"
    return counted(
        path,
        "sglang",
        "counts of logical experts (.pt, stat or stat_approx)",
        counts_SLE[None] if flat else counts_SLE,
        note,
    )


def _records(path: Path, found: dict[str, Any], seen: str = NOTE) -> Recording:
    what = repr(str(path))
    records = found["records"]
    if not isinstance(records, list) or not records:
        raise RecordingError(f"{what} holds no recorded pass")
    places = found.get("last_physical_to_logical_map")
    map_LP = None if places is None else dense(places, f"last_physical_to_logical_map of {what}", "layer, expert")
    if map_LP is not None and (not map_LP.numel() or int(map_LP.min()) < 0 or int(map_LP.max()) >= MOST_EXPERTS):
        raise RecordingError(f"last_physical_to_logical_map of {what} names experts that cannot be")
    if "topk_ids_of_layer" in need(records[0], (), f"record 0 of {what}"):
        return _tokens(path, records, map_LP, seen)
    counts: list[Tensor] = []
    for i, record in enumerate(records):
        where = f"record {i} of {what}"
        counts_LP = dense(
            need(record, ("global_physical_count",), where)["global_physical_count"], where, "layer, expert"
        )
        if counts and counts_LP.shape != counts[0].shape:
            raise RecordingError(
                f"{where} counts {tuple(counts_LP.shape)}, the ones before it {tuple(counts[0].shape)}"
            )
        counts.append(counts_LP)
    if len(counts) * counts[0].numel() * 8 > LARGEST:
        raise RecordingError(
            f"{what} counts {len(counts):,} passes of {tuple(counts[0].shape)}: too many to read at once"
        )
    counts_SLP = torch.stack(counts)
    if map_LP is not None:
        if map_LP.shape != counts_SLP.shape[1:]:
            raise RecordingError(f"{what} maps {tuple(map_LP.shape)} experts and counts {tuple(counts_SLP.shape[1:])}")
        E = int(map_LP.max()) + 1
        logical = torch.zeros(*counts_SLP.shape[:2], E, dtype=torch.int64)
        counts_SLP = logical.scatter_add_(2, map_LP.expand_as(counts_SLP), counts_SLP)
    return counted(path, "sglang", "counts pass by pass (.pt, per_pass)", counts_SLP, _mapped(map_LP, seen))


def _mapped(map_LP: Tensor | None, seen: str) -> str:
    how = "logical, by the map at the time of the dump" if map_LP is not None else "physical: the dump has no map"
    return f"experts are {how}; {seen}"


def _tokens(path: Path, records: list[Any], map_LP: Tensor | None, seen: str) -> Recording:
    E = None if map_LP is None else int(map_LP.max()) + 1
    routes = Routes(path, "sglang", "choices token by token (.pt, per_token)", E, _mapped(map_LP, seen))
    for i, record in enumerate(records):
        where = f"record {i} of {str(path)!r}"
        need(record, ("input_ids", "topk_ids_of_layer"), where)
        if not len(record["input_ids"]):
            continue  # a rank that idles
        tokens_N = dense(record["input_ids"], f"input_ids of {where}", "token")
        ids_LNK = dense(record["topk_ids_of_layer"], f"topk_ids_of_layer of {where}", "layer, token, slot").clone()
        if ids_LNK.shape[1] != len(tokens_N):
            raise RecordingError(f"{where} has {len(tokens_N)} tokens, but choices of {ids_LNK.shape[1]}")
        place_N = record.get("positions")
        place_N = torch.arange(len(tokens_N)) if place_N is None else dense(place_N, f"positions of {where}", "token")
        if place_N.shape != tokens_N.shape:
            raise RecordingError(f"{where} has {len(tokens_N)} tokens, but {len(place_N)} positions")
        ids_LNK = _logical(ids_LNK, map_LP, where)
        phase = PHASES.get(record.get("forward_mode") or 0, "")
        parts = {"index": ids_LNK.transpose(0, 1), "tokens": tokens_N, "position": place_N}
        parts = _sequences(parts, _lengths(record, phase, len(tokens_N), where))
        routes.add(parts.pop("index"), parts, phase)
    made = routes.recording()
    if map_LP is not None:
        made.header["source"]["experts"] = "the map of the dump"
    return made


def _logical(ids_LNK: Tensor, map_LP: Tensor | None, where: str) -> Tensor:
    """Physical ids -> logical ones, and no slots that no token fills (the recorder has 8 for every model)."""
    if map_LP is not None:
        if len(map_LP) != len(ids_LNK):
            raise RecordingError(f"{where} has {len(ids_LNK)} layers, but a map of {len(map_LP)}")
        P = map_LP.shape[1]
        ids_LNK[(ids_LNK == UINT8) if P <= UINT8 else doubled(ids_LNK)] = -1
        if int(ids_LNK.max()) >= P or int(ids_LNK.min()) < -1:
            raise RecordingError(f"{where} chooses expert {int(ids_LNK.max())}, but its map has {P}")
        logical = map_LP.gather(1, ids_LNK.clamp(min=0).flatten(1)).view_as(ids_LNK)
        ids_LNK = logical.masked_fill(ids_LNK < 0, -1)
    filled = (ids_LNK >= 0).flatten(0, 1).any(0)
    return ids_LNK[:, :, : int(filled.nonzero().max()) + 1] if bool(filled.any()) else ids_LNK


def _lengths(record: dict[str, Any], phase: str, N: int, where: str) -> list[int]:
    """How many of the tokens belong to each sequence of a pass."""
    given = record.get("extend_seq_lens")
    if given is None:
        return [1] * N if phase == "decode" else [N]
    lengths = [int(n) for n in dense(given, f"extend_seq_lens of {where}", "sequence")]
    if sum(lengths) > N or min(lengths, default=0) < 0:
        raise RecordingError(f"{where} has {N} tokens, but sequences of {sum(lengths)}")
    return [n for n in (*lengths, *[1] * (N - sum(lengths))) if n]  # what is left over decodes


def _sequences(parts: dict[str, Tensor], lengths: list[int]) -> dict[str, Tensor]:
    """(N, ...) -> (B, T, ...), -1 behind the end of a sequence; one row where that would be mostly padding."""
    if len(lengths) * max(lengths) > 4 * sum(lengths) + 64:
        lengths = [sum(lengths)]
    split = {name: value.split(lengths) for name, value in parts.items()}
    return {
        name: torch.nn.utils.rnn.pad_sequence(list(value), batch_first=True, padding_value=-1)
        for name, value in split.items()
    }
