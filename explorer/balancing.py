"""The balance benchmark: what keeps the experts evenly loaded where one domain of the text is common and another rare.

Every method runs in the same host with the same text, seeds and learning rate, and with eight experts; each is read beside
its control, the same router with the method switched off. Losses and biases that balance are as strong as 300 steps need:
papers, which train for longer, use weaker ones.
"""

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from explorer import metrics
from explorer.catalogue import spec
from explorer.errors import BadValue, unknown
from explorer.experiment import Experiment
from explorer.parallel import in_parallel, naming
from explorer.readings import Run, asked, reading
from explorer.tasks import UNSCORED, Batch, Text

if TYPE_CHECKING:
    import pandas as pd

MIX = {"english": 0.70, "python": 0.20, "markup": 0.07, "data": 0.03}
EXPERTS = 8
CAPACITY = 1.25
STARVED = 0.1  # below a tenth of its fair share an expert learns next to nothing in a few hundred steps


@dataclass(frozen=True)
class Method:
    """A row of the benchmark: a mechanism and its knobs, and what they do about the load."""

    mechanism: str
    does: str
    """One sentence."""
    knobs: Mapping[str, Any]
    control: str | None = None
    """The method with the same router and nothing that balances; None for such a method itself."""
    k: int = 2


METHODS: dict[str, Method] = {
    "none (topk-softmax)": Method("topk-softmax", "Nothing asks for an even load.", {"aux_loss": 0.0}),
    "auxiliary loss": Method(
        "topk-softmax",
        "A loss grows when the experts that get most tokens also get most probability.",
        {"aux_loss": 0.1},
        "none (topk-softmax)",
    ),
    "none (topk-softmax-raw)": Method(
        "topk-softmax-raw", "Nothing asks for an even load.", {"aux_loss": 0.0, "z_loss": 0.0}
    ),
    "z-loss": Method(
        "topk-softmax-raw",
        "A loss keeps the router's logits small; it is meant for steady numbers, not for an even load.",
        {"aux_loss": 0.0, "z_loss": 0.001},
        "none (topk-softmax-raw)",
    ),
    "expert choice": Method(
        "expert-choice",
        "Each expert takes equally many tokens of the batch, those that want it most.",
        {},
        "none (topk-softmax-raw)",
    ),
    "none (sigma-moe)": Method(
        "sigma-moe", "Nothing asks for an even load.", {"entropy_loss": 0.0, "expert_dropout": 0.0}
    ),
    "entropy regulariser": Method(
        "sigma-moe",
        "A loss falls when the mean of all choices is spread over many experts.",
        {"entropy_loss": 0.1, "expert_dropout": 0.0},
        "none (sigma-moe)",
    ),
    "none (loss-free-bias)": Method(
        "loss-free-bias", "The biases stay 0: nothing asks for an even load.", {"bias_rate": 0.0}
    ),
    "loss-free bias": Method(
        "loss-free-bias",
        "A bias lifts the scores of idle experts after every batch and lowers those of busy ones; no loss is added.",
        {"bias_rate": 0.01},
        "none (loss-free-bias)",
    ),
    "none (sinkhorn)": Method(
        "sinkhorn", "Each token takes its best expert: nothing asks for an even load.", {"balanced": "never"}, k=1
    ),
    "sinkhorn": Method(
        "sinkhorn",
        "In training the whole batch is shared out evenly; afterwards each token takes its best expert.",
        {"balanced": "training"},
        "none (sinkhorn)",
        k=1,
    ),
}

MEASURES = {
    "batch_violation": "MaxVio of one training batch, mean over the last tenth of the steps: "
    "how much more than its share the busiest expert has to compute at once (0: even)",
    "training_violation": "MaxVio of all these batches together",
    "held_out_violation": "MaxVio of held-out text in the shares of the mix, the router by itself as after training",
    "max_violation": "MaxVio of held-out text with all domains alike",
    "dead_experts": "share of the experts with less than a tenth of their fair load, over the last tenth of the steps",
    "drops": f"share of the assignments beyond a capacity factor of {CAPACITY:g}, or of the tokens that no expert took",
    "held_out_loss": "nats a byte on held-out text, all domains alike",
    "training_loss": "nats a byte on training text, mean over the last tenth of the steps, routed as in training",
    "common_loss": "nats a byte on the held-out text of the commonest domain",
    "rare_loss": "nats a byte on the held-out text of the rarest domain",
    "future_flips": "share of the predictions that change when the text goes on differently (0: causal)",
}
"""The columns that `balance` measures; those of MaxVio and dead experts are of the worst layer, drops the mean of all."""

COLUMNS = {
    "MaxVio batch": ("batch_violation", ".2f"),
    "MaxVio new text": ("held_out_violation", ".2f"),
    "starved": ("dead_experts", ".0%"),
    "drops": ("drops", ".1%"),
    "loss": ("held_out_loss", ".3f"),
    "rare loss": ("rare_loss", ".3f"),
}
"""Of the table for reading: its title, the measure and how it is written."""


@dataclass(frozen=True)
class Planned:
    """One row of the table to be."""

    name: str
    seed: int
    steps: int


def balance(
    seeds: Iterable[int] = range(3),
    steps: int = 300,
    methods: Iterable[str] = METHODS,
    backend: str | None = None,
    jobs: int | None = None,
    done: Callable[[int, int], None] | None = None,
) -> "pd.DataFrame":
    """Train every method with every seed for `steps` steps on text in the shares of MIX; one row each.

    Columns: method, router (the mechanism), k (experts a token), control (the method to compare with, None for a control),
    seed, those of MEASURES, and batch_floor and held_out_floor: the MaxVio that a router throwing dice stays below in 95 of
    100 cases, for batch_violation and held_out_violation. backend, jobs, done: as in `explorer.parallel.in_parallel`.
    """
    import pandas as pd

    chosen, names = tuple(seeds), tuple(methods)
    for name in names:
        if name not in METHODS:
            raise unknown("balancing method", name, METHODS)
    if not chosen or not names:
        raise BadValue("the balance benchmark needs at least one method and one seed")
    if isinstance(steps, bool) or not isinstance(steps, int) or steps < 1:
        raise BadValue(f"steps={steps!r}: it must be a whole number of at least 1")
    plans = [Planned(name, seed, steps) for name in names for seed in chosen]
    return pd.DataFrame(in_parallel(_row, plans, backend, jobs, done))


def against_control(frame: "pd.DataFrame", column: str) -> "pd.Series[float]":
    """For each row of `balance` its value less that of its control with the same seed; NaN without a control."""
    values = dict(zip(zip(frame["method"], frame["seed"], strict=True), frame[column], strict=True))
    controls = zip(frame["control"], frame["seed"], strict=True)
    return frame[column] - [values.get(key, math.nan) for key in controls]


def table(frame: "pd.DataFrame") -> "pd.DataFrame":
    """One row a method for reading, its seeds as words: the mean, and in a second line the lowest and the highest.

    The last two columns are what the method adds to the loss of its control, seed by seed: it has the same text.
    """
    import pandas as pd

    kinds: list[tuple[str, pd.Series[float], str]] = [
        (title, frame[column], form) for title, (column, form) in COLUMNS.items()
    ]
    kinds += [
        (title, against_control(frame, column), "+.3f")
        for title, column in (("loss vs none", "held_out_loss"), ("rare vs none", "rare_loss"))
    ]
    rows = []
    for name, mine in frame.groupby("method", sort=False):
        front = {"method": f"{name}\n{mine['router'].iloc[0]}, k = {mine['k'].iloc[0]}"}
        rows.append(front | {title: _spread(values[mine.index], form) for title, values, form in kinds})
    return pd.DataFrame(rows)


def _spread(values: "pd.Series[float]", form: str) -> str:
    known = values.dropna()
    if not len(known):
        return ""
    mean, low, high = (f"{one:{form}}" for one in (known.mean(), known.min(), known.max()))
    return mean if low == high else f"{mean}\n{low}..{high}"


def overflow(counts: Tensor, capacity_factor: float) -> Tensor:
    """Share of the assignments beyond an expert's room C = ceil(capacity_factor * mean_e c_e): (..., E) -> (...).

    0: every expert has room enough; 1 - 1.25 / E: of a capacity factor 1.25, where one expert takes all. It is what a
    router with capacity would drop, whatever the order of the tokens. NaN without any assignment.
    """
    total = counts.sum(-1, dtype=torch.float64)
    room = (capacity_factor * total / counts.shape[-1] - 1e-9).ceil()
    return (counts - room[..., None]).clamp(min=0).sum(-1) / total


def skewed(batch: Batch, mix: tuple[float, ...]) -> Batch:
    """Of a batch with equally many sequences of each domain, the largest part in the shares of `mix`, evenly spread."""
    domain_B = batch.labels[:, 0]
    chosen = []
    for domain, share in enumerate(mix):
        rows = (domain_B == domain).nonzero()[:, 0]
        number = max(1, round(len(rows) * share / max(mix)))
        chosen.append(rows[torch.linspace(0, len(rows) - 1, number).round().long()])
    return Batch(*(part[torch.cat(chosen)] for part in batch))


def _row(plan: Planned) -> dict[str, Any]:
    """In the worker: train, and read."""
    method, window = METHODS[plan.name], math.ceil(plan.steps / 10)
    own = {**method.knobs, **({"k": method.k} if "k" in spec(method.mechanism).knobs else {})}
    with naming(f"{plan.name} with seed {plan.seed}"):
        experiment = Experiment(
            method.mechanism, task=Text(mix=MIX), seed=plan.seed, watch="*/index", tensors_every=1, keep=window,
            n_experts=EXPERTS, horizon=plan.steps, **own,
        ).run(plan.steps)  # fmt: skip
        experiment.close()
        front = {"method": plan.name, "router": method.mechanism, "k": method.k, "control": method.control}
        read = _in_training(experiment, window) | _held_out(experiment)
    return {**front, "seed": plan.seed, **{name: read[name] for name in MEASURES}, **_floors(experiment, method.k)}


def _in_training(experiment: Experiment, window: int) -> dict[str, float]:
    """The load of the last `window` steps, as the router in training dealt it out."""
    seen = experiment.recording
    counts_LSE = torch.stack([seen.counts(layer)[1][-window:] for layer in seen.layers()])
    without = [
        metrics.token_drop_rate(seen.at(f"{layer}/index", step)) for layer in seen.layers() for step in seen.steps()
    ]
    together_LE = counts_LSE.sum(1)
    return {
        "batch_violation": metrics.max_violation(counts_LSE).mean(1).max().item(),
        "training_violation": metrics.max_violation(together_LE).max().item(),
        "dead_experts": metrics.dead_experts(together_LE, STARVED).max().item(),
        "drops": (overflow(counts_LSE, CAPACITY).mean() + torch.stack(without).mean()).item(),
    }


def _held_out(experiment: Experiment) -> dict[str, float]:
    """The model after training, on text it has not seen."""
    run, mix = Run(experiment), _shares(experiment)
    seen = experiment.examine(skewed(experiment.data.held_out(), mix))[1]
    counts_LE = torch.stack([metrics.counts(asked(seen, layer), seen.experts(layer)) for layer in seen.layers()])
    return {
        "held_out_violation": metrics.max_violation(counts_LE).max().item(),
        "common_loss": _loss_on(experiment, mix.index(max(mix))),
        "rare_loss": _loss_on(experiment, mix.index(min(mix))),
        **{name: reading(name)(run) for name in ("max_violation", "held_out_loss", "training_loss", "future_flips")},
    }


def _loss_on(experiment: Experiment, domain: int) -> float:
    """Of the whole held-out batch only this domain is scored: where tokens compete, they meet the same rivals."""
    batch = experiment.data.held_out()
    targets = batch.targets.masked_fill(batch.labels != domain, UNSCORED)
    return experiment.examine(batch._replace(targets=targets))[0]


def _floors(experiment: Experiment, k: int) -> dict[str, float]:
    """What dice reach, at as many tokens as were counted."""
    held_out = experiment.data.held_out()
    tokens = {
        "batch_floor": experiment.settings["batch"] * held_out.inputs.shape[1],
        "held_out_floor": skewed(held_out, _shares(experiment)).inputs.numel(),
    }
    return {name: metrics.max_violation_floor(n, EXPERTS, k)[1] for name, n in tokens.items()}


def _shares(experiment: Experiment) -> tuple[float, ...]:
    return tuple(MIX[name] for name in experiment.data.label_names)
