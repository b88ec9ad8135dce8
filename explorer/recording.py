"""Recordings: what a watched model decided, as bounded memory, tidy tables and one file.

Two cadences keep it cheap: every `every`-th step leaves its summaries (loads, entropies, gate means), and of those every
`tensors_every`-th also leaves its tensors, of which the newest `keep` steps stay.
"""

import copy
from collections import deque
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from explorer import recording_tables as tables
from explorer.errors import RecordingError, unknown
from explorer.summaries import Waiting
from explorer.taps import full_name

if TYPE_CHECKING:
    import pandas as pd

GATES = ("gate", "decay", "halt")  # taps summarised by their mean, spread and share of low values
KEEP_BYTES = 256 * 2**20  # what keep=None may hold


class Series:
    """A table of float64 rows that grows by doubling; `rows()` is a view, not a copy."""

    def __init__(self, width: int, rows: Tensor | None = None) -> None:
        self.data = torch.zeros(64, width, dtype=torch.float64) if rows is None else rows.clone()
        self.size = 0 if rows is None else len(rows)

    def append(self, row: Tensor) -> None:
        if self.size == len(self.data):
            self.data = torch.cat([self.data, torch.zeros_like(self.data)])
        self.data[self.size] = row
        self.size += 1

    def rows(self) -> Tensor:
        return self.data[: self.size]


class Recording:
    """What was recorded. Tables are pandas DataFrames; `header` says where the numbers come from."""

    def __init__(self, header: Mapping[str, Any] | None = None, keep: int | None = None) -> None:
        self.header: dict[str, Any] = {"scores": {}, "axes": {}, "experts": {}, "events": [], **(header or {})}
        self.keep = keep
        self.step = -1  # of the newest recorded step
        # path -> rows of (step, empty slots, counts of each expert); path/tap -> (step, mean, std, share below 0.1);
        # path -> (step, token entropy, margin); path -> (step, heads * each of tables.ATTENTION)
        self.series: dict[str, dict[str, Series]] = {"loads": {}, "gates": {}, "routing": {}, "attention": {}}
        self._kept: deque[tuple[int, dict[str, Tensor]]] = deque(maxlen=keep)
        self._bytes = 0
        self._waiting: dict[str, Waiting] = {}  # routers whose newest steps are not summed up yet
        self._settle: Callable[[], None] | None = None  # of the recorder that is still listening

    # -- reading ---------------------------------------------------------------------------------------------------
    def paths(self) -> list[str]:
        """The recorded taps, as `blocks.0.ffn/probs`."""
        return list(self.header["axes"])

    def steps(self) -> list[int]:
        """The steps whose tensors are still held, oldest first."""
        self._hear()
        return [step for step, _ in self._kept]

    def last(self, name: str) -> Tensor:
        """The newest tensor of a tap, on CPU and detached."""
        return self.at(name)

    def at(self, name: str, step: int | None = None) -> Tensor:
        """The tensor of a tap at a step that is still held (the newest one by default)."""
        self._hear()
        if name not in self.header["axes"]:
            raise unknown("recorded tap", name, self.header["axes"])
        for held, tensors in reversed(self._kept):
            if name in tensors and step in (None, held):
                return tensors[name]
        where = "yet" if step is None else f"of step {step}; held are {self.steps()[:20]}"
        raise RecordingError(f"no tensor of {name!r} {where}")

    def experts(self, layer: str) -> int:
        """How many experts (routed targets) a layer has."""
        if layer not in self.header["experts"]:
            raise unknown("routing layer", layer, self.header["experts"])
        return int(self.header["experts"][layer])

    def layers(self) -> list[str]:
        """The layers that route."""
        self._hear()
        return list(dict.fromkeys([*self.series["loads"], *self._waiting]))

    def counts(self, layer: str) -> tuple[Tensor, Tensor]:
        """(steps, counts): (S,) and (S, E), the assignments each expert got at each recorded step of a layer."""
        self.settle()
        if layer not in self.series["loads"]:
            raise unknown("recorded routing layer", layer, self.series["loads"])
        rows = self.series["loads"][layer].rows()
        return rows[:, 0].long(), rows[:, 2:]

    def loads(self) -> "pd.DataFrame":
        """step, layer, expert, load: the share of a layer's assignments; sums to 1 over the experts of a (step, layer)."""
        self.settle()
        return tables.loads(self.series["loads"])

    def routing(self) -> "pd.DataFrame":
        """step, layer, token_entropy (0 sure .. 1 even), margin, empty_slots (share of slots without an expert)."""
        self.settle()
        return tables.routing(self.series["routing"])

    def gates(self) -> "pd.DataFrame":
        """step, layer, tap, mean, std, frac_low (share of values below 0.1)."""
        self.settle()
        return tables.gates(self.series["gates"])

    def attention(self) -> "pd.DataFrame":
        """step, layer, head, first_token_share, elsewhere, entropy (nats, mean over queries): of steps with tensors.

        first_token_share: what an emergent sink took; elsewhere: what no token got, a learned sink's share. That is 0 for
        plain softmax, and NaN where it was not watched or the recording is older than this column.
        """
        self.settle()
        return tables.attention(self.series["attention"], self.header.get("attention", tables.ATTENTION_BEFORE))

    def decisions(self, step: int | None = None) -> "pd.DataFrame":
        """step, layer, sequence, position, token, slot, expert, weight of the held steps, or of one; empty slots left out.

        token is -1 where the model took vectors instead of token ids.
        """
        self._hear()
        return tables.decisions([one for one in self._kept if step in (None, one[0])])

    def settle(self) -> None:
        """Take in what a recorder that is still listening has heard so far; every reader of a series does this first."""
        self._hear()
        for path in self._waiting:
            self._sum_up(path)

    def _hear(self) -> None:
        """The half of it that readers of tensors need: nothing is summed up."""
        if self._settle is not None:
            self._settle()

    def annotate(self, name: str, axes: str, value: Tensor, step: int) -> None:
        """Put a tensor that no tap shows (the labels of a batch, say) beside the tensors of `step`, if those are held."""
        if self._kept and self._kept[-1][0] == step:
            self.header["axes"].setdefault(name, axes)
            tensors = self._kept[-1][1]
            self._bytes -= _size(tensors)
            tensors[name] = value.to("cpu", copy=True)
            self._bytes += _size(tensors)

    def copy(self) -> "Recording":
        """A recording that goes its own way from here; the tensors held so far are shared, as nobody changes them."""
        self.settle()
        twin = Recording(copy.deepcopy(self.header), self.keep)
        twin.step, twin._bytes = self.step, self._bytes
        twin._kept.extend((step, dict(tensors)) for step, tensors in self._kept)
        twin.series = {
            t: {n: Series(one.rows().shape[1], one.rows()) for n, one in s.items()} for t, s in self.series.items()
        }
        return twin

    def event(self, what: str) -> None:
        """Note in the header that something was changed after the newest recorded step."""
        self.header["events"].append([self.step, what])

    def save(self, path: Any) -> None:
        """Write one safetensors file, whole or not at all."""
        from explorer.recording_file import save

        save(self, path)

    @classmethod
    def load(cls, path: Any) -> "Recording":
        """Read a file that `save` wrote; RecordingError says what is wrong with any other."""
        from explorer.recording_file import load

        return load(path)

    @classmethod
    def from_sglang(cls, path: Any, shape: tuple[int, int] | None = None, experts: int | None = None) -> "Recording":
        """Read what sglang's expert distribution recorder dumped (`.pt`, or `.csv` of old versions), one file or all ranks'.

        Answers of its server (JSON) need shape=(layers, experts of a token); experts: how many there are of a layer.
        """
        from explorer.checkpoints.sglang import from_sglang

        return from_sglang(path, shape, experts)

    @classmethod
    def from_vllm(cls, path: Any, experts: int | None = None) -> "Recording":
        """Read responses of vLLM with routed experts (JSON or JSON lines), or the ids alone (`.npy`: token, layer, slot)."""
        from explorer.checkpoints.vllm import from_vllm

        return from_vllm(path, experts)

    @classmethod
    def from_olmoe(cls, path: Any, experts: int | None = None) -> "Recording":
        """Read the JSON lines of OLMoE's analysis script; experts: how many a layer has, which the file does not say."""
        from explorer.checkpoints.olmoe_jsonl import from_olmoe

        return from_olmoe(path, experts)

    # -- writing ---------------------------------------------------------------------------------------------------
    def add(self, step: int, heard: list[tuple[str, str, Tensor]], tensors: bool) -> None:
        """Take in what the taps of one step said; `tensors`: keep them, not only their summaries."""
        self.step = step
        named = {full_name(path, tap): value for path, tap, value in heard}
        for name, value in named.items():
            path, tap = name.rsplit("/", 1)
            if tap == "index":
                valid = named.get(full_name(path, "valid"), named.get("/valid"))
                self._wait(step, path, *_real(value, named.get(full_name(path, "probs")), valid))
            elif tap in GATES:
                gate = value.float()
                self._summarise("gates", name, step, gate.mean(), gate.std(correction=0), (gate < 0.1).float().mean())
            elif tap == "first":
                self.header["attention"] = list(tables.ATTENTION)
                absent = torch.full_like(value, torch.nan)
                seen = [
                    named.get(full_name(path, name), absent).float().nanmean(0).cpu() for name in tables.ATTENTION_TAPS
                ]
                row = torch.cat([torch.tensor([float(step)]), *seen])
                self._append("attention", path, row)
        if tensors:
            self._keep(step, named)

    def _summarise(self, table: str, name: str, step: int, *values: Tensor) -> None:
        row = torch.stack([value.double() for value in values]).cpu()
        self._append(table, name, torch.cat([torch.tensor([step], dtype=torch.float64), row]))

    def _append(self, table: str, name: str, row: Tensor) -> None:
        series = self.series[table].get(name)
        if series is None:
            series = self.series[table][name] = Series(len(row))
        series.append(row)

    def _wait(self, step: int, path: str, index: Tensor, probs: Tensor | None) -> None:
        waiting = self._waiting.setdefault(path, Waiting())
        if not waiting.takes(index, probs):
            self._sum_up(path)
        waiting.add(step, index, probs)

    def _sum_up(self, path: str) -> None:
        for table, rows in self._waiting[path].rows(self.header["experts"].get(path)).items():
            for row in rows:
                self._append(table, path, row)

    def _keep(self, step: int, named: dict[str, Tensor]) -> None:
        kept = {name: value.to("cpu", copy=True) for name, value in named.items()}
        if len(self._kept) == self._kept.maxlen and self._kept:
            self._bytes -= _size(self._kept[0][1])
        self._kept.append((step, kept))
        self._bytes += _size(kept)
        while self.keep is None and self._bytes > KEEP_BYTES and len(self._kept) > 1:
            self._bytes -= _size(self._kept.popleft()[1])


def _real(index: Tensor, probs: Tensor | None, valid_BT: Tensor | None) -> tuple[Tensor, Tensor | None]:
    """Both without the tokens that are padding, (N, K) and (N, E); as they are where there is none."""
    if valid_BT is None or valid_BT.shape != index.shape[:2] or bool(valid_BT.all()):
        return index, probs
    valid_BT = valid_BT.to(index.device)
    return index[valid_BT], None if probs is None else probs[valid_BT]


def _size(tensors: dict[str, Tensor]) -> int:
    return sum(value.numel() * value.element_size() for value in tensors.values())
