"""Everything that a checkpoint's files say about its routing, as plain numbers and words: for JSON, a table and a page."""

import math
from typing import TYPE_CHECKING, Any

from explorer.checkpoints.checkpoint import Checkpoint
from explorer.checkpoints.files import CheckpointError

if TYPE_CHECKING:
    import pandas as pd

MOST_EXPERTS = 1024  # of a map of all pairs


def report(seen: Checkpoint, layer: int | str | None = None) -> dict[str, Any]:
    """What `seen` shows; maps of experts of one layer only, the middle one where none is named.

    Numbers that are not finite are None; every other has six digits. The keys are those of the properties of Checkpoint.
    """
    shown = None if layer is None and not seen.blocks else _middle(seen) if layer is None else seen.block(layer).path
    made = {
        "checkpoint": seen.name,
        "architecture": seen.architecture,
        "model_type": seen.settings.model_type,
        "rule": seen.rule,
        "layers": seen.layers,
        "experts": seen.experts,
        "chosen": seen.chosen,
        "tensors": len(seen.weights.tensors),
        "bytes": seen.weights.bytes,
        "routers": seen.routers.to_dict("records"),
        "norms": [seen._read[i].norm.tolist() for i in range(len(seen.blocks))],
        "biases": _grouped(seen.biases, "bias"),
        "shared_gates": seen.shared_gates.to_dict("records"),
        "sinks": _grouped(seen.sinks, "logit"),
        "output_gates": seen.output_gates.to_dict("records"),
        "pairs": None if shown is None else _pairs(seen, shown),
        "unknown": seen.unknown,
        "damaged": seen.damaged,
    }
    plain: dict[str, Any] = _plain(made)
    return plain


def _middle(seen: Checkpoint) -> str:
    return seen.blocks[len(seen.blocks) // 2].path


def _pairs(seen: Checkpoint, path: str) -> dict[str, Any]:
    """The maps of one layer; `without` says why one is not there."""
    made: dict[str, Any] = {"path": path, "cosine": None, "similarity": None, "sample": "", "without": ""}
    if seen.block(path).experts > MOST_EXPERTS:
        return {
            **made,
            "without": f"a map of {seen.block(path).experts:,} experts is not drawn: {MOST_EXPERTS:,} at most",
        }
    made["cosine"] = seen.cosine(path).tolist()
    try:
        alike = seen.similarity(path)
    except CheckpointError as error:
        return {**made, "without": str(error)}
    return {**made, "similarity": alike.cosine.tolist(), "sample": alike.sample}


def _grouped(table: "pd.DataFrame", value: str) -> list[dict[str, Any]]:
    """A row for each path, with its numbers in a list."""
    return [
        {"layer": rows["layer"].iloc[0], "path": path, "values": rows[value].tolist()}
        for path, rows in table.groupby("path", sort=False)
    ]


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {str(key): _plain(one) for key, one in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(one) for one in value]
    if isinstance(value, float):
        return float(f"{value:.6g}") if math.isfinite(value) else None
    if value is None or isinstance(value, bool | str):
        return value
    return int(value) if hasattr(value, "__index__") else None
