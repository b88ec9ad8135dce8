"""What the routing lab shows of a run, as arrays: computed from the recording and from a fixed probe of held-out data."""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from explorer import metrics
from explorer.experiment import POINTS, Experiment
from explorer.recorder import record
from explorer.recording import Recording
from explorer.tasks import Batch
from widgets.states.curves import binned

RECENT = 20  # steps that "now" means for a load
GRID = 48  # points along one side of the decision map


def short_layer(path: str) -> str:
    """What a reader calls `blocks.1.ffn`: layer 1. The host of vectors has one layer, `ffn`."""
    parts = path.split(".")
    if parts[0] == "blocks" and len(parts) > 1:
        return f"layer {parts[1]}"
    return "layer 0" if path == "ffn" else path


@dataclass(frozen=True)
class Curves:
    """steps (P,); loss (P,); by layer: load (P, E), violation (P,), load_entropy (P,), token_entropy (P,)."""

    steps: Tensor
    loss: Tensor
    load: dict[str, Tensor]
    violation: dict[str, Tensor]
    load_entropy: dict[str, Tensor]
    token_entropy: dict[str, Tensor]


def curves(experiment: Experiment) -> Curves:
    """The course of the run in at most 150 points a curve."""
    recording = experiment.recording
    loss = experiment.losses()
    load, violation, load_entropy, token_entropy = {}, {}, {}, {}
    for layer in recording.layers():
        _, counts = recording.counts(layer)
        load[layer] = metrics.load_fraction(binned(counts))
        violation[layer] = binned(metrics.max_violation(counts))
        load_entropy[layer] = binned(metrics.load_entropy(counts))
        token_entropy[layer] = binned(recording.series["routing"][layer].rows()[:, 1])
    steps = binned(torch.arange(len(loss), dtype=torch.float64))
    return Curves(steps, binned(loss), load, violation, load_entropy, token_entropy)


def recent_load(recording: Recording) -> Tensor:
    """(L, E): share of the newest steps' assignments, by layer; layers with fewer experts are padded with NaN."""
    rows = [metrics.load_fraction(recording.counts(layer)[1][-RECENT:].sum(0)) for layer in recording.layers()]
    return (
        torch.nn.utils.rnn.pad_sequence(rows, batch_first=True, padding_value=torch.nan) if rows else torch.zeros(0, 0)
    )


def floor(experiment: Experiment, layer: str) -> tuple[float, float]:
    """(mean, 95 % quantile) of MaxVio if a step's tokens were thrown at random: no router can be judged below it."""
    recording = experiment.recording
    E = recording.experts(layer)
    assert experiment.recorder is not None
    k = max(1, min(E, round(float(getattr(experiment.recorder.modules[layer], "slots", 1)))))
    vectors = experiment.data.kind == "vectors"
    tokens = experiment.settings["batch"] * (POINTS if vectors else experiment.data.sequence)
    return metrics.max_violation_floor(tokens, E, k)


@dataclass(frozen=True)
class Probe:
    """A few held-out sequences (or all held-out points) that are shown again and again while the model changes."""

    batch: Batch
    names: list[str]  # of the sequences: their domains
    texts: list[list[str]]  # of their tokens

    @classmethod
    def of(cls, experiment: Experiment, sequences: int = 4) -> "Probe":
        batch = experiment.data.held_out()
        if experiment.data.kind == "vectors":
            return cls(batch, [], [])
        first = [int((batch.labels[:, 0] == c).nonzero()[0]) for c in range(len(experiment.data.label_names))]
        rows = (first * sequences)[:sequences] if len(first) < sequences else first[:sequences]
        picked = Batch(*(part[rows] for part in batch))
        names = [experiment.data.label_names[int(c)] for c in picked.labels[:, 0]]
        return cls(picked, names, [experiment.data.decode(row) for row in picked.inputs])


@dataclass(frozen=True)
class Routed:
    """What the routers make of some tokens: index and weights (L, B, T, K), margin (L, B, T), labels (B, T) or (B,)."""

    layers: list[str]
    index: Tensor
    weights: Tensor
    margin: Tensor
    labels: Tensor
    loss: float


def routed(experiment: Experiment, batch: Batch) -> Routed:
    """The decisions of the model as it is now; layers are stacked (all layers of a host have the same mechanism)."""
    loss, seen = experiment.examine(batch, ["*/index", "*/weights", "*/probs"])
    layers = seen.layers()
    index = torch.stack([seen.last(f"{layer}/index") for layer in layers])
    weights = torch.stack([seen.last(f"{layer}/weights") for layer in layers])
    margin = torch.stack([_margin(seen.last(f"{layer}/probs"), index.shape[-1]) for layer in layers])
    order = weights.argsort(dim=-1, descending=True, stable=True)  # the strongest slot first, empty ones last
    return Routed(layers, index.gather(-1, order), weights.gather(-1, order), margin, batch.labels, loss)


def _margin(probs: Tensor, k: int) -> Tensor:
    E = probs.shape[-1]
    return metrics.margin(probs, min(k, E - 1)) if E > 1 else torch.zeros(probs.shape[:-1])


def shares(routed_: Routed, layer: int, n_experts: int, n_labels: int) -> tuple[Tensor, float]:
    """(C, E) share of each label's assignments that went to each expert of a layer, and the NMI of expert and label."""
    index, labels = routed_.index[layer], routed_.labels
    index = index.reshape(*labels.shape, -1)
    top1 = index[..., 0]
    taken = top1 >= 0
    nmi = float(metrics.nmi(top1[taken], labels[taken])) if bool(taken.any()) else 0.0
    return metrics.label_share(index, labels, n_experts, n_labels), nmi


def decision_map(experiment: Experiment) -> tuple[Tensor, Tensor, tuple[float, float, float, float]]:
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
    with recorder.paused(), torch.no_grad(), record(router, ["/probs"], keep=1) as seen:
        weights_BTK, index_BTK = router(points_BTD)
    router.train(training)
    strongest = index_BTK.gather(-1, weights_BTK.argmax(-1, keepdim=True))
    margin = _margin(seen.last("/probs"), index_BTK.shape[-1])
    return strongest.reshape(GRID, GRID), margin.reshape(GRID, GRID), (x_low, x_high, y_low, y_high)


def what_to_look_at(experiment: Experiment, now: Tensor) -> str:
    """One to three sentences about the run as it stands; `now` is recent_load's (L, E)."""
    if not len(now) or experiment.step < 5:
        return (
            "Press Train. In the second picture every line is one expert: the share of the tokens it gets. Do the lines "
            "stay near the dashed fair share, or do a few experts take everything?"
        )
    fair = 1 / now.shape[1]
    if float(now.max()) < 1.1 * fair:
        return "Every expert gets about its fair share of the tokens, in every layer."
    layer = int(now.max(1).values.argmax())
    top, dead = float(now[layer].max()), int((now < 0.01 * fair).sum())
    where = short_layer(experiment.recording.layers()[layer])
    parts = [f"In {where} the busiest expert ({int(now[layer].argmax())}) takes {top / fair:.1f} times its fair share."]
    if dead:
        parts.append(f"{dead} of {now.numel()} experts get next to nothing: without tokens they do not learn.")
    if top / fair > 2.5 and "aux_loss" in experiment.knobs:
        parts.append("To repair it, raise the auxiliary loss while it trains and watch the lines come together.")
    return " ".join(parts)


def status(experiment: Experiment, steps_per_second: float, threads: int) -> dict[str, Any]:
    """The status line, as values."""
    size = experiment.count()
    header = experiment.recording.header
    return {
        "step": experiment.step, "steps/s": f"{steps_per_second:.0f}" if steps_per_second else "-", "seed": experiment.seed,
        "device": str(experiment.device), "kernel": ", ".join(header["kernel"]) or "-", "threads": threads,
        "parameters": f"{size.parameters:,}", "active FLOPs a token": f"{size.flops:,.0f}",
    }  # fmt: skip
