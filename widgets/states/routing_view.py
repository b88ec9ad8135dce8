"""What the routing lab shows of a run, as arrays: from its recording, and from a fixed probe of held-out data."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property

import torch
from torch import Tensor, nn

from explorer import metrics
from explorer.experiment import POINTS, Experiment
from explorer.recorder import record
from explorer.recording import Recording
from explorer.tasks import Batch
from explorer.tasks.data import unit as unit_of
from widgets.states import special_view as special
from widgets.states.curves import binned
from widgets.states.timeline import Timeline

RECENT = 20  # steps that "now" means for a load
GRID = 48  # points along one side of the decision map
Bounds = tuple[float, float, float, float]
IN_A_STACK = {"attention": ("attention",), "ffn": ("FFN",)}  # what is chosen at a step, where it is not all of it


def short_layer(path: str) -> str:
    """What a reader calls `blocks.1.ffn`: layer 1. The host of vectors has one layer, `ffn`.

    A stack of layers chooses at every step: `blocks.0.attention.2` is "step 2 attention", `blocks.0.choice.2` "step 2".
    """
    parts = path.removesuffix(".gate").split(".")
    if parts[0] == "blocks" and len(parts) == 4 and parts[3].isdigit():
        return " ".join(["step", parts[3], *IN_A_STACK.get(parts[2], ())])
    if parts[0] == "blocks" and len(parts) > 2:
        return " ".join(["layer", parts[1], *parts[3:]])
    return " ".join(["layer 0", *parts[1:]]) if parts[0] == "ffn" else path


# -- the course of a run ---------------------------------------------------------------------------------------------
@dataclass(frozen=True)
class Curves:
    """steps (P,); loss (P,); by layer: load (P, E), violation (P,), load_entropy (P,), token_entropy (P,), empty (P,).

    empty: share of the slots that no expert filled.
    """

    steps: Tensor
    loss: Tensor
    load: dict[str, Tensor]
    violation: dict[str, Tensor]
    load_entropy: dict[str, Tensor]
    token_entropy: dict[str, Tensor]
    empty: dict[str, Tensor]


def curves(experiment: Experiment) -> Curves:
    """The course of the run in at most 150 points a curve."""
    recording = experiment.recording
    loss = experiment.losses()
    found: dict[str, dict[str, Tensor]] = {
        name: {} for name in ("load", "violation", "load_entropy", "token_entropy", "empty")
    }
    for layer in recording.layers():
        _, counts = recording.counts(layer)
        routing = recording.series["routing"][layer].rows()
        found["load"][layer] = metrics.load_fraction(binned(counts))
        found["violation"][layer] = binned(metrics.max_violation(counts))
        found["load_entropy"][layer] = binned(metrics.load_entropy(counts))
        found["token_entropy"][layer] = binned(routing[:, 1])
        empty = recording.series["loads"][layer].rows()[:, 1]
        found["empty"][layer] = binned(empty / (empty + counts.sum(-1)).clamp(min=1))
    steps = binned(torch.arange(len(loss), dtype=torch.float64))
    return Curves(steps, binned(loss), **found)


def tokens_a_step(experiment: Experiment) -> int:
    """Or points, of a task of vectors."""
    vectors = experiment.data.kind == "vectors"
    return int(experiment.settings["batch"]) * (POINTS if vectors else experiment.data.sequence)


def recent_load(recording: Recording, step: int | None = None) -> Tensor:
    """(L, E): share of the newest steps' assignments up to a step, by layer; layers with fewer experts end in NaN."""
    end = None if step is None else step + 1
    rows = []
    for layer in recording.layers():
        counts = recording.counts(layer)[1][:end]
        rows.append(metrics.load_fraction(counts[-RECENT:].sum(0)))
    if not rows:
        return torch.zeros(0, 0)
    return torch.nn.utils.rnn.pad_sequence(rows, batch_first=True, padding_value=torch.nan)


def floor(experiment: Experiment, layer: str) -> tuple[float, float]:
    """(mean, 95 % quantile) of MaxVio if a step's tokens were thrown at random: no router can be judged below it."""
    E = experiment.recording.experts(layer)
    k = max(1, min(E, round(float(getattr(_router(experiment, layer), "slots", 1)))))
    return metrics.max_violation_floor(tokens_a_step(experiment), E, k)


def _router(experiment: Experiment, layer: str) -> nn.Module:
    assert experiment.recorder is not None
    return experiment.recorder.modules[layer]


# -- the probe ---------------------------------------------------------------------------------------------------------
@dataclass(frozen=True)
class Probe:
    """A few held-out sequences (or all held-out points) that are shown again and again while the model changes."""

    batch: Batch
    names: list[str]  # of the sequences: their domains
    texts: list[list[str]]  # of their tokens
    labels: list[str]  # what the numbers in batch.labels are called
    points: Batch | None = None  # of the decision map: enough to see, few to send

    @classmethod
    def of(cls, experiment: Experiment, sequences: int = 4) -> "Probe":
        data = experiment.data
        batch = data.held_out()
        if data.kind == "vectors":
            some = torch.randperm(len(batch.labels), generator=torch.Generator().manual_seed(0))[:256]
            return cls(batch, [], [], data.label_names, Batch(*(part[some] for part in batch)))
        domains = len(data.label_names)
        first = [
            int((batch.labels[:, 0] == c).nonzero()[i]) for i in range(-(-sequences // domains)) for c in range(domains)
        ]
        picked = Batch(*(part[first[:sequences]] for part in batch))
        names = [data.label_names[int(c)] for c in picked.labels[:, 0]]
        return cls(picked, names, [data.decode(row) for row in picked.inputs], data.label_names)


@dataclass(frozen=True)
class Moment:
    """What the routers make of the probe at one step; layers are stacked, since a host's layers are alike.

    index and weights (L, ..., K), the strongest slot first, -1: empty; probs (L, ..., E); margin (L, ...); `...` is
    (B, T) of tokens or (B,) of points. plane: of each layer its router's rows and what it reads, in one plane.
    """

    step: int
    loss: float
    index: Tensor
    weights: Tensor
    margin: Tensor
    probs: Tensor
    untaken: Tensor  # (L,): share of the tokens that no expert took
    bias: Tensor | None = None  # (L, E), of routers that balance by one
    cosine: list[Tensor] = field(default_factory=list)
    plane: list[tuple[Tensor, Tensor, Tensor]] = field(default_factory=list)
    grid: tuple[Tensor, Tensor, Bounds] | None = None
    painted: Tensor | None = None  # of a picture on the plane, what special_view.painted says
    attack: special.UnderAttack | None = None  # of digits under attack


def look(experiment: Experiment, probe: Probe) -> Moment:
    """The model as it is now; the run itself notices nothing."""
    layers = special.layers(experiment)
    routers = [_router(experiment, layer) for layer in layers]
    taps = _tapped(routers[0])
    with _read_by(routers) as read, special.outputs_of(experiment.model) as outputs:
        loss, seen = experiment.examine(probe.batch, [f"*/{tap}" for tap in taps])
    stacked = {tap: torch.stack([seen.last(f"{layer}/{tap}") for layer in layers]) for tap in taps}
    index, weights = stacked["index"], stacked["weights"]
    probs = stacked.get("probs", torch.zeros(*index.shape[:-1], 0))
    order = weights.argsort(dim=-1, descending=True, stable=True)
    experts = [experiment.recording.experts(layer) for layer in layers]
    rows = [router_rows(router, E, x.shape[-1]) for router, E, x in zip(routers, experts, read, strict=False)]
    known = [row for row in rows if row is not None]
    return Moment(
        experiment.step, loss, index.gather(-1, order), weights.gather(-1, order), _margin(probs, index.shape[-1]), probs,
        (index < 0).all(-1).flatten(1).float().mean(1),
        stacked.get("bias"),
        [metrics.cosine(row) for row in known] if len(known) == len(layers) else [],
        [metrics.plane(row, x) for row, x in zip(known, read, strict=False)] if len(known) == len(layers) else [],
        decision_map(experiment) if is_plane(experiment) else None,
        special.painted(experiment, outputs[-1]), special.attacked(experiment),
    )  # fmt: skip


def _tapped(router: nn.Module) -> list[str]:
    """Of what the pictures are made of, what this router tells."""
    return [tap for tap in ("index", "weights", "probs", "bias") if tap in router.taps]  # type: ignore[operator]


def router_rows(router: nn.Module, n_experts: int, width: int) -> Tensor | None:
    """(E, D): the vectors that a linear router compares a token of width D with; None where it has none."""
    for name, rows in [*router.named_parameters(), *router.named_buffers()]:
        if rows.shape == (n_experts, width) and name != "values":  # of a memory: what it gives, not what it looks for
            return rows.detach().float()
    return None


@contextmanager
def _read_by(routers: list[nn.Module]) -> Iterator[list[Tensor]]:
    """While inside, collects (at most 256, D): what each router reads."""
    read: list[Tensor] = []
    hooks = [one.register_forward_pre_hook(lambda _, given: read.append(_some(given[0]))) for one in routers]
    try:
        yield read
    finally:
        for hook in hooks:
            hook.remove()


def _some(x_BTD: Tensor, most: int = 256) -> Tensor:
    return x_BTD.detach().reshape(-1, x_BTD.shape[-1])[:most].float()


def _margin(probs: Tensor, k: int) -> Tensor:
    """Of a router that takes every expert, or tells no scores: infinite, for nothing can switch."""
    return metrics.margin(probs, k) if probs.shape[-1] > k else torch.full(probs.shape[:-1], torch.inf)


def is_plane(experiment: Experiment) -> bool:
    """Whether the inputs are points of a plane."""
    return bool(experiment.data.kind == "vectors" and experiment.data.width == 2)


def decision_map(experiment: Experiment) -> tuple[Tensor, Tensor, Bounds]:
    """(expert (H, W), margin (H, W), bounds): which expert the router gives each point of the plane to; -1: none.

    The router alone is asked, thirty times a second: what the experts would make of the points is not on the map.
    """
    x_low, x_high, y_low, y_high = experiment.data.bounds()
    x, y = torch.linspace(x_low, x_high, GRID), torch.linspace(y_high, y_low, GRID)  # the first row is the top
    points_BTD = torch.stack(torch.meshgrid(x, y, indexing="xy"), dim=-1).reshape(1, -1, 2)
    recorder = experiment.recorder
    assert recorder is not None
    router = recorder.modules[recorder.routers()[0]]
    training = router.training
    router.eval()
    taps = [f"/{tap}" for tap in _tapped(router)]
    with recorder.paused(), torch.no_grad(), record(router, taps, keep=1) as seen:
        router(points_BTD)
    router.train(training)
    index_BTK, weights_BTK = seen.last("/index"), seen.last("/weights")
    strongest = index_BTK.gather(-1, weights_BTK.argmax(-1, keepdim=True))
    margin = _margin(seen.last("/probs") if "/probs" in taps else weights_BTK[..., :0], index_BTK.shape[-1]).nan_to_num(
        posinf=0.0
    )
    return strongest.reshape(GRID, GRID), margin.reshape(GRID, GRID), (x_low, x_high, y_low, y_high)


def shares(moment: Moment, layer: int, labels: Tensor, n_experts: int, n_labels: int) -> tuple[Tensor, float]:
    """(C, E) share of each label's assignments that went to each expert of a layer, and the NMI of expert and label.

    Where every token goes to every expert, the shares are those of the weights.
    """
    index = moment.index[layer].reshape(*labels.shape, -1)
    top1 = index[..., 0]
    taken = top1 >= 0
    nmi = float(metrics.nmi(top1[taken], labels[taken])) if bool(taken.any()) else 0.0
    if not goes_everywhere(moment, layer, n_experts):
        return metrics.label_share(index, labels, n_experts, n_labels), nmi
    weights = moment.weights[layer].reshape(*labels.shape, -1).abs()
    code = labels.unsqueeze(-1) * n_experts + index
    table = torch.bincount(code.flatten(), weights.flatten().double(), n_labels * n_experts).view(n_labels, n_experts)
    return table / table.sum(-1, keepdim=True), nmi


def goes_everywhere(moment: Moment, layer: int, n_experts: int) -> bool:
    """Whether every token of the probe goes to every expert of a layer, and only the weights differ."""
    index = moment.index[layer]
    return index.shape[-1] == n_experts and bool((index >= 0).all())


# -- one run at the step that is looked at -------------------------------------------------------------------------------
class Scene:
    """All that pictures of one run draw from; computed when first asked for, and once."""

    def __init__(
        self, experiment: Experiment, timeline: Timeline[Moment], probe: Probe, held_out: tuple[list[int], list[float]],
        layer: int, cursor: int, token: tuple[int, int],
    ) -> None:  # fmt: skip
        self.run, self.timeline, self.probe, self.held_out = experiment, timeline, probe, held_out
        self.i, self.cursor, self.token = layer, cursor, token
        self.layers = special.layers(experiment)
        self.names = [short_layer(path) for path in self.layers]
        self.layer, self.name = self.layers[layer], self.names[layer]
        self.E = experiment.recording.experts(self.layer)

    @property
    def step(self) -> int:
        """The step looked at."""
        return self.run.step if self.cursor < 0 else min(self.cursor, self.run.step)

    @property
    def marker(self) -> float | None:
        """Where the pictures over steps have their cursor; None at the newest step."""
        return None if self.cursor < 0 else float(self.step)

    @cached_property
    def curves(self) -> Curves:
        return curves(self.run)

    @cached_property
    def now(self) -> Tensor:
        """(L, E): recent_load at the step looked at."""
        return recent_load(self.run.recording, None if self.cursor < 0 else self.step)

    @cached_property
    def utilisation(self) -> Tensor:
        """(L, E): load / ideal load at the step looked at."""
        return self.now * self.now.shape[-1]

    @cached_property
    def moment(self) -> Moment:
        found = self.timeline.at(self.step)
        assert found is not None, "the probe is looked at when a run begins"
        return found

    @cached_property
    def untaken(self) -> Tensor:
        """(P, L): share of the probe's tokens that no expert took, at every step that was looked at."""
        return torch.stack([moment.untaken for moment in self.timeline.moments])

    @property
    def probabilities(self) -> bool:
        """Whether a token's scores sum to 1 over the experts."""
        return getattr(_router(self.run, self.layer), "scores", None) == "probabilities"

    @property
    def unit(self) -> str:
        return unit_of(self.run.data)

    def index(self, layer: int) -> Tensor:
        """(N, K): what every token of the probe got in a layer."""
        return self.moment.index[layer].reshape(-1, self.moment.index.shape[-1])


def match_experts(a: Scene, b: Scene) -> list[metrics.matching.Matching]:
    """By layer: which expert of B is which of A, by the tokens of the probe that they share."""
    return [metrics.match_experts(a.index(i), b.index(i), a.E, b.E) for i in range(min(len(a.layers), len(b.layers)))]
