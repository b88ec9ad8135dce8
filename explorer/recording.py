"""Recordings: what a watched model decided, as bounded memory, tidy tables and one file.

Two cadences keep it cheap: every `every`-th step leaves its summaries (loads, entropies, gate means), and of those every
`tensors_every`-th also leaves its tensors, of which the newest `keep` steps stay.
"""

import copy
import sys
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from explorer import metrics
from explorer.errors import BadValue, RecordingError, unknown
from explorer.taps import SCORES, Instrumented, Listener, attach, detach, full_name, instrumented, resolve

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
        # path -> (step, token entropy, margin); path -> (step, heads * [first-token share, row entropy])
        self.series: dict[str, dict[str, Series]] = {"loads": {}, "gates": {}, "routing": {}, "attention": {}}
        self._kept: deque[tuple[int, dict[str, Tensor]]] = deque(maxlen=keep)
        self._bytes = 0
        self._settle: Callable[[], None] | None = None  # of the recorder that is still listening

    # -- reading ---------------------------------------------------------------------------------------------------
    def paths(self) -> list[str]:
        """The recorded taps, as `blocks.0.ffn/probs`."""
        return list(self.header["axes"])

    def steps(self) -> list[int]:
        """The steps whose tensors are still held, oldest first."""
        self.settle()
        return [step for step, _ in self._kept]

    def last(self, name: str) -> Tensor:
        """The newest tensor of a tap, on CPU and detached."""
        return self.at(name)

    def at(self, name: str, step: int | None = None) -> Tensor:
        """The tensor of a tap at a step that is still held (the newest one by default)."""
        self.settle()
        if name not in self.header["axes"]:
            raise unknown("recorded tap", name, self.header["axes"])
        for held, tensors in reversed(self._kept):
            if name in tensors and step in (None, held):
                return tensors[name]
        where = "yet" if step is None else f"of step {step}; held are {self.steps()[:20]}"
        raise RecordingError(f"no tensor of {name!r} {where}")

    def experts(self, layer: str) -> int:
        return int(self.header["experts"][layer])

    def layers(self) -> list[str]:
        """The layers that route."""
        return list(self.series["loads"])

    def counts(self, layer: str) -> tuple[Tensor, Tensor]:
        """(steps, counts): (S,) and (S, E), the assignments each expert got at each recorded step of a layer."""
        self.settle()
        rows = self.series["loads"][layer].rows()
        return rows[:, 0].long(), rows[:, 2:]

    def loads(self) -> "pd.DataFrame":
        """step, layer, expert, load: the share of a layer's assignments; sums to 1 over the experts of a (step, layer)."""
        self.settle()
        parts = {}
        for layer, series in self.series["loads"].items():
            rows = series.rows()
            load = metrics.load_fraction(rows[:, 2:])
            steps, E = rows[:, 0].long(), load.shape[1]
            parts[layer] = (steps.repeat_interleave(E), torch.arange(E).repeat(len(steps)), load.reshape(-1))
        return _frame(parts, ["step", "expert", "load"])

    def routing(self) -> "pd.DataFrame":
        """step, layer, token_entropy (0 sure .. 1 even), margin, empty (share of slots without an expert)."""
        self.settle()
        parts = {}
        for layer, series in self.series["routing"].items():
            rows = series.rows()
            parts[layer] = (rows[:, 0].long(), rows[:, 1], rows[:, 2], rows[:, 3])
        return _frame(parts, ["step", "token_entropy", "margin", "empty"])

    def gates(self) -> "pd.DataFrame":
        """step, layer, tap, mean, std, frac_low (share of values below 0.1)."""
        self.settle()
        import pandas as pd

        frames = []
        for name, series in self.series["gates"].items():
            rows, (layer, tap) = series.rows(), name.rsplit("/", 1)
            frames.append(
                pd.DataFrame(
                    {"step": rows[:, 0].long().numpy(), "layer": layer, "tap": tap, "mean": rows[:, 1].numpy(),
                     "std": rows[:, 2].numpy(), "frac_low": rows[:, 3].numpy()}
                )
            )  # fmt: skip
        columns = ["step", "layer", "tap", "mean", "std", "frac_low"]
        return pd.concat(frames, ignore_index=True) if frames else pd.DataFrame(columns=columns)

    def attention(self) -> "pd.DataFrame":
        """step, layer, head, first_token_share, entropy (nats, mean over queries): of the steps that kept tensors."""
        self.settle()
        parts = {}
        for layer, series in self.series["attention"].items():
            rows = series.rows()
            H = (rows.shape[1] - 1) // 2
            steps = rows[:, 0].long()
            heads = torch.arange(H).repeat(len(steps))
            parts[layer] = (steps.repeat_interleave(H), heads, rows[:, 1 : 1 + H].reshape(-1), rows[:, 1 + H :].reshape(-1))
        return _frame(parts, ["step", "head", "first_token_share", "entropy"])

    def decisions(self, step: int | None = None) -> "pd.DataFrame":
        """step, layer, sequence, position, token, slot, expert, weight of the held steps (or of one); empty slots left out.

        token is -1 where the model took vectors instead of token ids.
        """
        self.settle()
        import pandas as pd

        frames = []
        for held, tensors in self._kept:
            if step not in (None, held):
                continue
            for name, index in tensors.items():
                if not name.endswith("/index") or index.ndim < 2:
                    continue
                layer = name.removesuffix("/index")
                index = index[None] if index.ndim == 2 else index  # (N, K) counts as one sequence
                weight = tensors.get(full_name(layer, "weights"), torch.full(index.shape, torch.nan)).reshape(index.shape)
                tokens = tensors.get("/tokens")
                tokens = torch.full(index.shape[:2], -1) if tokens is None or tokens.ndim != 2 else tokens
                b, t, k = (index >= 0).nonzero(as_tuple=True)
                columns = {"sequence": b, "position": t, "token": tokens[b, t], "slot": k, "expert": index[b, t, k]}
                frame = pd.DataFrame({key: value.numpy() for key, value in columns.items()})
                frame.insert(0, "layer", layer)
                frame.insert(0, "step", held)
                frames.append(frame.assign(weight=weight[b, t, k].float().numpy()))
        columns_ = ["step", "layer", "sequence", "position", "token", "slot", "expert", "weight"]
        return pd.concat(frames, ignore_index=True) if frames else pd.DataFrame(columns=columns_)

    def settle(self) -> None:
        """Take in what a recorder that is still listening has heard so far; every reader does this first."""
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
        twin.series = {t: {n: Series(one.rows().shape[1], one.rows()) for n, one in s.items()} for t, s in self.series.items()}
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

    # -- writing ---------------------------------------------------------------------------------------------------
    def add(self, step: int, heard: list[tuple[str, str, Tensor]], tensors: bool) -> None:
        """Take in what the taps of one step said; `tensors`: keep them, not only their summaries."""
        self.step = step
        named = {full_name(path, tap): value for path, tap, value in heard}
        for name, value in named.items():
            path, tap = name.rsplit("/", 1)
            if tap == "index":
                self._load(step, path, value)
            elif tap in GATES:
                value = value.float()
                row = [step, value.mean(), value.std(correction=0), (value < 0.1).float().mean()]
                self._append("gates", name, torch.tensor(row, dtype=torch.float64))
            elif tap == "probs" and full_name(path, "index") in named:
                self._routing(step, path, value, named[full_name(path, "index")])
            elif tap == "first":
                entropy = named.get(full_name(path, "entropy"), torch.full_like(value, torch.nan))
                row = torch.cat([torch.tensor([float(step)]), value.float().mean(0).cpu(), entropy.float().mean(0).cpu()])
                self._append("attention", path, row)
        if tensors:
            self._keep(step, named)

    def _append(self, table: str, name: str, row: Tensor) -> None:
        series = self.series[table].get(name)
        if series is None:
            series = self.series[table][name] = Series(len(row))
        series.append(row)

    def _load(self, step: int, path: str, index: Tensor) -> None:
        E = self.header["experts"].get(path)
        flat = index.reshape(-1) + 1
        counts = torch.bincount(flat, minlength=(E or int(index.max()) + 1) + 1).cpu()
        self._append("loads", path, torch.cat([torch.tensor([step]), counts]).double())

    def _routing(self, step: int, path: str, probs: Tensor, index: Tensor) -> None:
        k = max(1, min(int(index.shape[-1]), probs.shape[-1] - 1))
        margin = metrics.margin(probs, k).mean() if probs.shape[-1] > 1 else torch.tensor(torch.nan)
        row = [step, metrics.token_entropy(probs), margin, (index < 0).float().mean()]
        self._append("routing", path, torch.tensor([float(one) for one in row], dtype=torch.float64))

    def _keep(self, step: int, named: dict[str, Tensor]) -> None:
        kept = {name: value.to("cpu", copy=True) for name, value in named.items()}
        if len(self._kept) == self._kept.maxlen and self._kept:
            self._bytes -= _size(self._kept[0][1])
        self._kept.append((step, kept))
        self._bytes += _size(kept)
        while self.keep is None and self._bytes > KEEP_BYTES and len(self._kept) > 1:
            self._bytes -= _size(self._kept.popleft()[1])


def _size(tensors: dict[str, Tensor]) -> int:
    return sum(value.numel() * value.element_size() for value in tensors.values())


def _frame(parts: dict[str, tuple[Tensor, ...]], columns: list[str]) -> "pd.DataFrame":
    """Tensors by layer -> one tidy table with the column `layer` second."""
    import pandas as pd

    frames = []
    for layer, values in parts.items():
        frame = pd.DataFrame({name: value.numpy() for name, value in zip(columns, values, strict=True)})
        frame.insert(1, "layer", layer)
        frames.append(frame)
    empty = pd.DataFrame(columns=[columns[0], "layer", *columns[1:]])
    return pd.concat(frames, ignore_index=True) if frames else empty


class StepEnd:
    """The forward hook that ends a step. A copy of the model (deepcopy, pickle) carries along one that does nothing."""

    def __init__(self, recorder: "Recorder | None" = None) -> None:
        self.recorder = recorder

    def __call__(self, *_: Any) -> None:
        if self.recorder is not None:
            self.recorder._ended()

    def __reduce__(self) -> tuple[type["StepEnd"], tuple[()]]:
        return StepEnd, ()

    @classmethod
    def of(cls, recorder: "Recorder") -> "StepEnd":
        """A hook that the compiler leaves alone; importing torch._dynamo for it would cost whoever compiles nothing 2 s."""
        if "torch._dynamo" in sys.modules and "_torchdynamo_disable" not in vars(cls.__call__):
            cls.__call__ = torch.compiler.disable(cls.__call__)  # type: ignore[method-assign]
        return cls(recorder)


class Recorder:
    """Listens to a model on behalf of a Recording; `record` is the usual way to have one.

    A step is one forward pass of the watched model: a hook on it ends the step. Where that hook cannot fire (a compiled
    model whose original is watched, or a part of the model called by itself) what was heard waits until it is read,
    and is then cut into passes wherever the first tap comes again.
    """

    def __init__(
        self,
        model: nn.Module,
        pattern: str | list[str] = "*",
        every: int = 1,
        keep: int | None = None,
        tensors_every: int = 1,
        recording: Recording | None = None,
        start_step: int = 0,
    ) -> None:
        for name, value in {"every": every, "tensors_every": tensors_every, "keep": 1 if keep is None else keep}.items():
            if isinstance(value, bool) or not isinstance(value, int) or value < 1:
                raise BadValue(f"{name}={value!r}: it must be a whole number of at least 1")
        self.model, self.every, self.tensors_every = model, every, tensors_every
        self.chosen, self.modules = resolve(model, pattern), instrumented(model)
        self.recording = Recording(describe(model, self.chosen), keep) if recording is None else recording
        self.heard: list[tuple[str, str, Tensor]] = []
        self.listeners = {path: Listener(frozenset(), self.heard) for path in self.chosen}
        self.next_step = start_step
        self.muted = False
        self._listen()

    def _due(self) -> tuple[bool, bool]:
        """Whether the next step is recorded at all, and whether with its tensors."""
        record = self.next_step % self.every == 0
        return record, record and self.next_step // self.every % self.tensors_every == 0

    def _listen(self) -> None:
        record, tensors = self._due()
        for path, taps in self.chosen.items():
            cheap = [tap for tap in taps if tap in ("index", "probs", *GATES)]
            self.listeners[path].wanted = frozenset(() if self.muted or not record else taps if tensors else cheap)

    def start(self) -> None:
        for path, listener in self.listeners.items():
            attach(self.modules[path], path, listener=listener)
        self._hook = self.model.register_forward_hook(StepEnd.of(self))
        self.recording._settle = self.settle

    def stop(self) -> None:
        self._hook.remove()
        for path, listener in self.listeners.items():
            detach(self.modules[path], listener=listener)
        self.settle()
        self.recording._settle = None

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Forward passes in here (an evaluation, say) are not steps of the recording."""
        self.settle()
        self.muted = True
        self._listen()
        try:
            yield
        finally:
            self.muted = False
            self._listen()

    def _ended(self) -> None:
        if not self.muted:
            self._take(self.heard)
            self.heard.clear()

    def settle(self) -> None:
        """Take in what was heard and not yet ended by the hook."""
        if not self.heard:
            return
        waiting, first, cut = list(self.heard), self.heard[0][:2], 0
        self.heard.clear()
        for i in range(1, len(waiting) + 1):
            if i == len(waiting) or waiting[i][:2] == first:
                self._take(waiting[cut:i])
                cut = i

    def _take(self, heard: list[tuple[str, str, Tensor]]) -> None:
        record, tensors = self._due()
        if record:
            self.recording.add(self.next_step, heard, tensors)
        if tensors:
            self.recording.header["kernel"] = kernels(self.model)
        self.next_step += 1
        self._listen()


def describe(model: nn.Module, chosen: Mapping[str, list[str]]) -> dict[str, Any]:
    """The header of a recording of these taps of a model: what each number is and what computed it."""
    modules = instrumented(model)
    header: dict[str, Any] = {"scores": {}, "axes": {}, "experts": {}}
    for path, taps in chosen.items():
        module: Instrumented = modules[path]
        for tap in taps:
            header["axes"][full_name(path, tap)] = module.taps[tap]
            kind = "logits" if tap == "logits" else module.scores if tap == "probs" else None
            if kind is not None:
                header["scores"][full_name(path, tap)] = f"{kind}: {SCORES[kind]}"
        if "index" in taps and isinstance(getattr(module, "n_experts", None), int):
            header["experts"][path] = module.n_experts
    weight = next(model.parameters(), torch.zeros(0))
    header |= {"device": str(weight.device), "dtype": str(weight.dtype).removeprefix("torch."), "threads": torch.get_num_threads()}
    header["kernel"] = kernels(model)
    return header


def kernels(model: nn.Module) -> list[str]:
    """The names of the paths that ran last, of all modules that have a choice."""
    return sorted({str(module.kernel) for module in model.modules() if hasattr(module, "kernel")})


@contextmanager
def record(
    model: nn.Module, pattern: str | list[str] = "*", every: int = 1, keep: int | None = None, tensors_every: int = 1
) -> Iterator[Recording]:
    """Record what the taps of `model` that match `pattern` say while inside.

    every: of every so many forward passes one is a step of the recording. tensors_every: of those, one in so many keeps
    its tensors (the others only leave their loads and summaries). keep: how many of the newest such steps are held;
    None: as many as fit into 256 MiB. Recording changes neither outputs nor gradients by a single bit.
    """
    recorder = Recorder(model, pattern, every, keep, tensors_every)
    recorder.start()
    try:
        yield recorder.recording
    finally:
        recorder.stop()
