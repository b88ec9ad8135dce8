"""The files that the ranks of one sglang server dumped, put together as what one rank would have written.

In the modes `per_pass` and `per_token` each rank writes its own. Ranks that split a model's matrices (tensor parallel) all saw
the same tokens, which count once; ranks that split the requests (data parallel) or the experts saw their own.
"""

from pathlib import Path
from typing import Any

import torch

from explorer.checkpoints.engine_files import LARGEST, need, pt
from explorer.errors import RecordingError

MOST_FILES = 4096


def together(paths: list[Path]) -> tuple[dict[str, Any], str]:
    """(what they hold, how they were put together); a forward pass is told by its number, its passes by their rank."""
    if len(paths) > MOST_FILES or sum(path.stat().st_size for path in paths) > LARGEST:
        raise RecordingError(f"{len(paths):,} dumps are more than {MOST_FILES:,} files or {LARGEST:,} bytes together")
    places, passes = None, dict[tuple[int, str], dict[int, dict[str, Any]]]()
    for i, path in enumerate(paths):
        found = _dump(path)
        theirs = found.get("last_physical_to_logical_map")
        if i == 0:
            places = theirs
        elif not _equal(places, theirs):
            raise RecordingError(
                f"{str(path)!r} and {str(paths[0])!r} map physical experts differently: read them apart"
            )
        for number, record in enumerate(found["records"]):
            _sort_in(passes, record, f"record {number} of {str(path)!r}", i)
    records, same = [], 0
    for key in sorted(passes):
        apart = _distinct([passes[key][rank] for rank in sorted(passes[key])])
        same += len(passes[key]) - len(apart)
        records += _summed(apart)
    how = f"{len(paths)} files put together; {same} passes that several ranks saw alike count once"
    return {"records": records, "last_physical_to_logical_map": places}, how


def _dump(path: Path) -> dict[str, Any]:
    found = pt(path)
    if isinstance(found, dict) and "logical_count" in found:
        raise RecordingError(f"{str(path)!r} counts for all ranks already (stat or stat_approx): read it alone")
    found = need(found, ("records",), repr(str(path)))
    if not isinstance(found["records"], list):
        raise RecordingError(f"{str(path)!r} holds no recorded pass")
    return found


def _sort_in(passes: dict[tuple[int, str], dict[int, dict[str, Any]]], record: Any, where: str, file: int) -> None:
    need(record, ("forward_pass_id",), where)
    number, rank = record["forward_pass_id"], record.get("rank", file)
    if type(number) is not int or type(rank) is not int:
        raise RecordingError(f"{where} has no whole numbers as forward_pass_id and rank")
    ranks = passes.setdefault((number, str(record.get("gatherer_key", ""))), {})
    if rank in ranks:
        raise RecordingError(f"{where}: pass {number} of rank {rank} comes twice, so the files are not of one run")
    ranks[rank] = record


def _distinct(records: list[dict[str, Any]]) -> list[dict[str, Any]]:
    kept: list[dict[str, Any]] = []
    for record in records:
        if not any(all(_equal(record.get(key), one.get(key)) for key in SAME) for one in kept):
            kept.append(record)
    return kept


SAME = ("input_ids", "positions", "topk_ids_of_layer", "global_physical_count")


def _equal(a: Any, b: Any) -> bool:
    if a is None or b is None:
        return a is b
    a, b = torch.as_tensor(a), torch.as_tensor(b)
    return a.shape == b.shape and bool((a == b).all())


def _summed(records: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Counts of ranks that saw different tokens add up to those of the pass; choices stay steps of their own."""
    if len(records) < 2 or any("topk_ids_of_layer" in one for one in records):
        return records
    counts = [one.get("global_physical_count") for one in records]
    if any(not isinstance(one, torch.Tensor) or one.shape != counts[0].shape for one in counts):  # type: ignore[union-attr]
        return records
    return [records[0] | {"global_physical_count": torch.stack([one.long() for one in counts]).sum(0)}]  # type: ignore[union-attr]
