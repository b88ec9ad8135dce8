"""The tidy tables of a Recording, made of its series and of the tensors it holds."""

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Protocol

import torch
from torch import Tensor

from explorer import metrics
from explorer.taps import full_name

if TYPE_CHECKING:
    import pandas as pd


class Rows(Protocol):
    """A Series: `rows()` is (S, columns), the first column the step."""

    def rows(self) -> Tensor:
        """All rows so far."""


def loads(series: Mapping[str, Rows]) -> "pd.DataFrame":
    """step, layer, expert, load."""
    parts = {}
    for layer, one in series.items():
        load = metrics.load_fraction(one.rows()[:, 2:])
        S, E = load.shape
        parts[layer] = (_steps(one).repeat_interleave(E), torch.arange(E).repeat(S), load.reshape(-1))
    return _frame(parts, ["step", "expert", "load"])


def routing(series: Mapping[str, Rows]) -> "pd.DataFrame":
    """step, layer, token_entropy, margin, empty_slots."""
    parts = {layer: (_steps(one), *one.rows()[:, 1:].unbind(1)) for layer, one in series.items()}
    return _frame(parts, ["step", "token_entropy", "margin", "empty_slots"])


def gates(series: Mapping[str, Rows]) -> "pd.DataFrame":
    """step, layer, tap, mean, std, frac_low."""
    parts = {name: (_steps(one), *one.rows()[:, 1:].unbind(1)) for name, one in series.items()}
    table = _frame(parts, ["step", "mean", "std", "frac_low"])
    names = [name.rsplit("/", 1) for name in table["layer"]]
    table["layer"] = [layer for layer, _ in names]
    table.insert(2, "tap", [tap for _, tap in names])
    return table


ATTENTION = ("first_token_share", "elsewhere", "entropy")  # the columns of a series, a head each, in this order
ATTENTION_TAPS = ("first", "elsewhere", "entropy")  # what they are made of
ATTENTION_BEFORE = ("first_token_share", "entropy")  # of recordings whose header does not name them


def attention(series: Mapping[str, Rows], columns: Sequence[str] = ATTENTION) -> "pd.DataFrame":
    """step, layer, head, first_token_share, elsewhere, entropy; NaN where `columns`, which the series hold, lacks one."""
    parts = {}
    for layer, one in series.items():
        rows = one.rows()
        H = (rows.shape[1] - 1) // len(columns)
        held = {name: part.reshape(-1) for name, part in zip(columns, rows[:, 1:].split(H, dim=1), strict=True)}
        absent = torch.full((len(rows) * H,), torch.nan, dtype=torch.float64)
        heads = torch.arange(H).repeat(len(rows))
        parts[layer] = (_steps(one).repeat_interleave(H), heads, *(held.get(name, absent) for name in ATTENTION))
    return _frame(parts, ["step", "head", *ATTENTION])


def decisions(held: Iterable[tuple[int, Mapping[str, Tensor]]]) -> "pd.DataFrame":
    """step, layer, sequence, position, token, slot, expert, weight."""
    import pandas as pd

    columns = ["step", "layer", "sequence", "position", "token", "slot", "expert", "weight"]
    frames = []
    for step, tensors in held:
        for name in [name for name in tensors if name.endswith("/index") and tensors[name].ndim > 1]:
            layer = name.removesuffix("/index")
            frame = pd.DataFrame({key: value.numpy() for key, value in _choices(layer, tensors).items()})
            frames.append(frame.assign(step=step, layer=layer)[columns])
    return pd.concat(frames, ignore_index=True) if frames else pd.DataFrame(columns=columns)


def _choices(layer: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The filled slots of one layer at one step, a column each."""
    index = tensors[full_name(layer, "index")]
    index = index[None] if index.ndim == 2 else index  # (N, K) counts as one sequence
    weights = tensors.get(full_name(layer, "weights"))
    weights = torch.full(index.shape, torch.nan) if weights is None else weights.reshape(index.shape)
    tokens = tensors.get("/tokens")
    tokens = torch.full(index.shape[:2], -1) if tokens is None or tokens.shape != index.shape[:2] else tokens
    b, t, k = (index >= 0).nonzero(as_tuple=True)
    places = tensors.get("/position")  # of a model that pads on the left: a token's own place, without the padding
    place = t if places is None or places.shape != index.shape[:2] else places[b, t]
    found = {"sequence": b, "position": place, "token": tokens[b, t], "slot": k, "expert": index[b, t, k]}
    return {**found, "weight": weights[b, t, k].float()}


def _steps(series: Rows) -> Tensor:
    return series.rows()[:, 0].long()


def _frame(parts: Mapping[str, tuple[Tensor, ...]], columns: list[str]) -> "pd.DataFrame":
    """Tensors by layer -> one tidy table with the column `layer` second."""
    import pandas as pd

    frames = []
    for layer, values in parts.items():
        frame = pd.DataFrame({name: value.numpy() for name, value in zip(columns, values, strict=True)})
        frame.insert(1, "layer", layer)
        frames.append(frame)
    empty = pd.DataFrame(columns=[columns[0], "layer", *columns[1:]])
    return pd.concat(frames, ignore_index=True) if frames else empty
