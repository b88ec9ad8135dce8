"""What the attention lab shows of a run, as arrays: a fixed probe of held-out data, looked at again and again."""

from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from explorer import metrics
from explorer.experiment import Experiment
from explorer.recording import Recording
from explorer.taps import Instrumented, instrumented
from explorer.tasks import Batch, BigramBackcopy
from explorer.tasks.data import unit
from widgets.states import attention_special as special
from widgets.states.curves import binned
from widgets.states.timeline import Timeline

SEQUENCES = 8  # of the probe: enough for a mean
SETTLED = 8  # queries before this one see too few keys to be told from a sink
MAP_BYTES = 2**17  # of a moment: of longer sequences or more heads only the newest map is kept
GENERAL = frozenset(
    ("received", "error", "first", "elsewhere", "entropy", "values", "attention")
)  # words of every mechanism


@dataclass(frozen=True)
class Head:
    """One head of one layer: the layer's number among those that attend, its path, and the head's number in it, if any."""

    layer: int
    path: str
    head: int | None

    @property
    def name(self) -> str:
        return f"layer {self.layer}" + ("" if self.head is None else f" · head {self.head}")


def attending(experiment: Experiment) -> list[tuple[str, Instrumented]]:
    """The parts of a model that look at other tokens, by path, in the order of the model."""
    return [(path, one) for path, one in instrumented(experiment.model).items() if "attention" in one.taps]


def heads(experiment: Experiment) -> list[Head]:
    """All heads, layer by layer; a mechanism that does not say how many it has, has one without a number."""
    return [
        Head(i, path, head)
        for i, (path, one) in enumerate(attending(experiment))
        for head in (range(one.n_heads) if hasattr(one, "n_heads") else (None,))
    ]


def is_causal(experiment: Experiment) -> bool:
    """Whether a token sees only what came before it."""
    return bool(experiment.data.kind == "tokens")


# -- the probe -----------------------------------------------------------------------------------------------------------
@dataclass(frozen=True)
class Probe:
    """A few held-out sequences; idle (B, T): queries that have nothing to look for and have seen enough keys."""

    batch: Batch
    texts: list[list[str]]
    idle: Tensor
    kinds: list[str]  # what the numbers of batch.labels are called, where they are of tokens; else none

    @classmethod
    def of(cls, experiment: Experiment) -> "Probe":
        data = experiment.data
        held_out = data.held_out()
        some = torch.linspace(0, len(held_out.inputs) - 1, min(SEQUENCES, len(held_out.inputs))).long()
        batch = Batch(*(part[some] for part in held_out))
        B, T = batch.inputs.shape[:2]
        idle = (torch.arange(T) >= min(SETTLED, T - 1)).repeat(B, 1)
        per_token = data.kind == "tokens"
        if isinstance(experiment.task, BigramBackcopy):
            idle &= batch.labels == 0
        return cls(
            batch, [_words(data, row) for row in batch.inputs], idle, list(data.label_names) if per_token else []
        )


def _words(data: Any, row: Tensor) -> list[str]:
    """The tokens of a sequence as a reader knows them; a patch by its row and column; none where the place says all."""
    if data.kind == "tokens":
        return list(data.decode(row))
    side = round(len(row) ** 0.5)
    if side * side == len(row) and getattr(data, "pooled", False):
        return [f"r{i // side} c{i % side}" for i in range(len(row))]
    return []


# -- a moment ------------------------------------------------------------------------------------------------------------
@dataclass
class Moment:
    """What every head does with the probe at one step. R: heads of all layers, S = T: positions.

    first, elsewhere (R,): attention of idle queries on the first token (emergent sink) and on a learned sink, two numbers that
    are never added. received, values (R, S): what a key receives and how long its value vector is, of the first sequence;
    None where a mechanism does not tell. maps (R, T, S), float16: of the first sequence; None where it was too large.
    gate (R, B, T) or None: a head's gate, mean over its channels; gate_values: some of all gate values.
    largest, median (L + 1,): of |h| in the residual stream, in front of every layer and behind the last.
    own: the other taps of the layers by name, each a list over layers.
    """

    step: int
    loss: float
    first: Tensor
    elsewhere: Tensor
    received: Tensor
    values: Tensor | None
    maps: Tensor | None
    gate: Tensor | None
    gate_values: Tensor
    largest: Tensor
    median: Tensor
    own: dict[str, list[Tensor]] = field(default_factory=dict)
    tasks: Tensor | None = None  # both: attention_special.pictures_read
    right: float | None = None


def look(experiment: Experiment, probe: Probe) -> Moment:
    """The model as it is now; the run itself notices nothing."""
    layers = attending(experiment)
    watch = [f"{path}/{tap}" for path, one in layers for tap in one.taps] + ["/residual"]
    loss, seen = experiment.examine(probe.batch, watch)
    stream = seen.last("/residual").abs().float()
    maps = [seen.last(f"{path}/attention") for path, _ in layers]
    idle = probe.idle
    firsts = [metrics.first_token_share(one, skip=0, valid=idle) for one in maps]
    missing = [_mean_over(1 - one.sum(-1), idle) for one in maps]
    values = [seen.last(f"{path}/values")[0] for path, one in layers if "values" in one.taps]
    causal = is_causal(experiment)
    gates = [gate for path, _ in layers if (gate := _gate(seen, path)) is not None]
    kept = torch.cat([one[0] for one in maps]).half()
    return Moment(
        experiment.step, loss, torch.cat(firsts), torch.cat(missing).clamp(min=0),
        torch.cat([metrics.received_mass(one[:1], causal=causal)[0] for one in maps]),
        torch.cat(values) if values else None, kept, torch.cat(gates) if gates else None, _all_gate_values(seen, layers),
        stream.amax((1, 2, 3)), stream.flatten(1).median(-1).values, _own(seen, layers), *special.pictures_read(experiment),
    )  # fmt: skip


def _mean_over(values_BHT: Tensor, counted_BT: Tensor) -> Tensor:
    """(H,): the mean over the sequences and queries that count."""
    counted = counted_BT[:, None].expand_as(values_BHT)
    return torch.where(counted, values_BHT, 0.0).sum((0, 2)) / counted.sum((0, 2))


def _gate(seen: Recording, path: str) -> Tensor | None:
    """(H, B, T): a layer's gate, one value a head and token, where it has one for each."""
    name = f"{path}/gate"
    if seen.header["axes"].get(name) != "B T H d":
        return None
    return seen.last(name).float().mean(-1).permute(2, 0, 1)


def _all_gate_values(seen: Recording, layers: list[tuple[str, Instrumented]], most: int = 4000) -> Tensor:
    """(n,): gate values of all layers, evenly thinned."""
    names = [f"{path}/gate" for path, one in layers if "gate" in one.taps]
    values = torch.cat([seen.last(name).float().flatten() for name in names]) if names else torch.zeros(0)
    return values[:: max(1, len(values) // most)]


def _own(seen: Recording, layers: list[tuple[str, Instrumented]]) -> dict[str, list[Tensor]]:
    """A mechanism's own taps, but no maps besides that of what is far; of those with sequences the first one alone."""
    found: dict[str, list[Tensor]] = {}
    for path, one in layers:
        for tap, axes in one.taps.items():
            letters = axes.split()
            small = not {"T", "S"} <= set(letters) or tap == special.FAR_MAP
            if tap not in GENERAL and axes != "B T H d" and small:
                value = seen.last(f"{path}/{tap}")
                found.setdefault(tap, []).append(value[0] if letters[0] == "B" else value)
    return found


def slim(timeline: Timeline[Moment]) -> None:
    """Forget the maps of earlier moments where they are too large to keep for every one."""
    for moment in timeline.moments[:-1]:
        if moment.maps is not None and moment.maps.numel() * 2 > MAP_BYTES:
            moment.maps = None


# -- one run at the step that is looked at -------------------------------------------------------------------------------
class Scene:
    """All that pictures of one run draw from; computed when first asked for, and once."""

    def __init__(
        self, experiment: Experiment, timeline: Timeline[Moment], probe: Probe, held_out: tuple[list[int], list[float]],
        head: int, cursor: int,
    ) -> None:  # fmt: skip
        self.run, self.timeline, self.probe, self.held_out, self.cursor = experiment, timeline, probe, held_out, cursor
        self.heads = heads(experiment)
        self.names = [one.name for one in self.heads]
        self.i = min(head, len(self.heads) - 1)
        self.head = self.heads[self.i]
        self.tokens = probe.texts[0]

    @property
    def step(self) -> int:
        """The step looked at."""
        return self.run.step if self.cursor < 0 else min(self.cursor, self.run.step)

    @property
    def marker(self) -> float | None:
        """Where the pictures over steps have their cursor; None at the newest step."""
        return None if self.cursor < 0 else float(self.step)

    @property
    def unit(self) -> str:
        return unit(self.run.data)

    @cached_property
    def moment(self) -> Moment:
        found = self.timeline.at(self.step)
        assert found is not None, "the probe is looked at when a run begins"
        return found

    @property
    def map(self) -> Tensor | None:
        """(T, S): where the head that is shown looks, on the first sequence."""
        return None if self.moment.maps is None else self.moment.maps[self.i].float()

    @cached_property
    def course(self) -> tuple[Tensor, Tensor]:
        """(steps (P,), loss (P,)) of the training batches, in at most 150 points."""
        loss = self.run.losses()
        return binned(torch.arange(len(loss), dtype=torch.float64)), binned(loss)

    @cached_property
    def steps(self) -> Tensor:
        """(P,): the steps that were looked at."""
        return torch.tensor(self.timeline.steps)

    @cached_property
    def births(self) -> Tensor:
        """(P, R): every head's attention on the first token at every step that was looked at."""
        return torch.stack([moment.first for moment in self.timeline.moments])

    @cached_property
    def even(self) -> float:
        """What the first token gets if idle queries look at all keys alike."""
        T = self.probe.idle.shape[1]
        share = 1 / torch.arange(1, T + 1) if is_causal(self.run) else torch.full((T,), 1 / T)
        return float(share.expand_as(self.probe.idle)[self.probe.idle].mean())

    @cached_property
    def strongest(self) -> int:
        """The head with the largest share on the first token."""
        return int(self.moment.first.nan_to_num(-1).argmax())

    @cached_property
    def kinds(self) -> Tensor:
        """(N,): the kind of each token of the probe that counts."""
        return self.probe.batch.labels[:, SETTLED:].reshape(-1)

    @cached_property
    def gates_by_kind(self) -> Tensor:
        """(R, N): the gate of every head for each of those tokens."""
        assert self.moment.gate is not None
        return self.moment.gate[:, :, SETTLED:].flatten(1)

    @cached_property
    def detectors(self) -> Tensor:
        """(R,): how well each head's gate tells the last kind of token from the others, as AUC."""
        last = self.kinds == len(self.probe.kinds) - 1
        return torch.stack([metrics.gate_auc(gate.contiguous(), last) for gate in self.gates_by_kind])

    @property
    def has_a_first(self) -> bool:
        """Whether there is a first token, and heads share out their attention among tokens."""
        return self.run.data.kind == "tokens" and self.shares_out

    @property
    def shares_out(self) -> bool:
        """Whether a weight is a share of a head's attention."""
        return all("received" in one.taps for _, one in attending(self.run))

    @property
    def well_seen(self) -> int:
        """How many keys, from the first, are seen by enough queries for a mean over them."""
        T = self.moment.received.shape[1]
        return max(1, T - SETTLED) if is_causal(self.run) else T

    def own(self, tap: str) -> list[Tensor]:
        """What the layers say under a word of the mechanism's own, at this step."""
        return self.moment.own.get(tap, [])
