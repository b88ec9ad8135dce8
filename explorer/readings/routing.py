"""Readings of any run: its loss; and of routers: balance, sureness, specialisation, causality."""

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from explorer import metrics
from explorer.experiment import POINTS
from explorer.metrics.specialisation import first_expert
from explorer.metrics.specialisation import saturation_by_chance as by_chance
from explorer.readings.run import Run, reads
from explorer.recording import Recording
from explorer.tasks import Batch

# -- what the layers decided ---------------------------------------------------------------------------------------------


def asked(seen: Recording, layer: str) -> Tensor:
    """The experts (B, T, K) that tokens asked for: before capacity turned any away, where the mechanism has one."""
    return seen.last(f"{layer}/choice" if f"{layer}/choice" in seen.paths() else f"{layer}/index")


def first_choice(seen: Recording, layer: str) -> Tensor:
    """The expert (B, T) with the largest weight; -1 for a token without any."""
    weights, index = seen.last(f"{layer}/weights"), seen.last(f"{layer}/index")
    if f"{layer}/choice" in seen.paths():
        return seen.last(f"{layer}/choice")[..., 0]
    return first_expert(index, weights)


def _layers(run: Run, measure: Callable[[Recording, str], Any], moment: float = 1.0) -> Tensor:
    """(L,) the measure of every routing layer; a single NaN where nothing routes."""
    seen = run.look(moment)[1]
    values = [float(measure(seen, layer)) for layer in seen.layers()]
    return torch.tensor(values or [math.nan], dtype=torch.float64)


def _counts(seen: Recording, layer: str) -> Tensor:
    return metrics.counts(asked(seen, layer), seen.experts(layer))


# -- loss ----------------------------------------------------------------------------------------------------------------


@reads()
def held_out_loss(run: Run) -> float:
    """The task's loss on the held-out data: nats a token, or MSE / Var(y) on vectors."""
    return run.look()[0]


@reads()
def training_loss(run: Run) -> Tensor:
    """Mean over the last tenth of the steps, without auxiliary losses."""
    losses = run.experiment.losses()
    return losses[-math.ceil(len(losses) / 10) :].mean()


# -- balance ---------------------------------------------------------------------------------------------------------------


@reads()
def max_violation(run: Run) -> Tensor:
    """MaxVio of what the tokens asked for, of the worst layer (which one collapses differs from seed to seed)."""
    return _layers(run, lambda seen, layer: metrics.max_violation(_counts(seen, layer))).max()


@reads()
def load_entropy(run: Run) -> Tensor:
    """Normalised entropy of the loads asked for, of the worst layer."""
    return _layers(run, lambda seen, layer: metrics.load_entropy(_counts(seen, layer))).min()


@reads()
def dead_experts(run: Run) -> Tensor:
    """Share of the experts below 1 % of the mean load, of the worst layer."""
    return _layers(run, lambda seen, layer: metrics.dead_experts(_counts(seen, layer))).max()


@reads()
def empty_slots(run: Run) -> float:
    """Share of the slots without an expert, mean over the layers, the held-out data cut into batches of the training's size.

    Where capacity is counted over a batch, a larger batch is more even and drops less.
    """
    return _in_batches(run, metrics.drop_rate)


@reads()
def tokens_without_expert(run: Run) -> float:
    """Share of the tokens that no expert takes, mean over the layers, in batches as `empty_slots`."""
    return _in_batches(run, metrics.token_drop_rate)


def _in_batches(run: Run, measure: Callable[[Tensor], Tensor]) -> float:
    experiment, held_out = run.experiment, run.experiment.data.held_out()
    size = experiment.settings["batch"] * (POINTS if experiment.data.kind == "vectors" else 1)
    size = min(size, len(held_out.inputs))
    shares = []
    for start in range(0, len(held_out.inputs) - size + 1, size):
        seen = experiment.examine(Batch(*(part[start : start + size] for part in held_out)))[1]
        shares += [measure(seen.last(f"{layer}/index")).item() for layer in seen.layers()]
    return sum(shares) / len(shares) if shares else math.nan


# -- sureness, specialisation and how early it comes -----------------------------------------------------------------------


@reads()
def token_entropy(run: Run) -> Tensor:
    """How undecided the router is about a token (0 sure, 1 even), mean over the layers."""
    return _layers(run, lambda seen, layer: metrics.token_entropy(seen.last(f"{layer}/probs"))).mean()


@reads()
def nmi(run: Run) -> Tensor:
    """I(first expert; label) / H(label), mean over the layers."""

    def measure(seen: Recording, layer: str) -> Tensor:
        top1 = first_choice(seen, layer)
        return metrics.nmi(top1, seen.last("/labels").reshape(top1.shape))

    return _layers(run, measure).mean()


@reads()
def vocabulary_first_layer(run: Run) -> Tensor:
    """I(first expert; input token) / H(first expert) of the first layer."""

    def measure(seen: Recording, layer: str) -> Tensor:
        return metrics.vocabulary_specialisation(first_choice(seen, layer), seen.last("/tokens"))

    return _layers(run, measure)[0]


def _saturation(run: Run, moment: float) -> Tensor:
    """(L,) the share of its final experts that a token has at a moment."""
    final = run.look()[1]
    return _layers(run, lambda seen, layer: metrics.saturation(asked(seen, layer), asked(final, layer)), moment)


@reads(0.4, 1.0)
def saturation(run: Run) -> Tensor:
    """Router saturation after 40 % of the run, of the layer that has settled least."""
    return _saturation(run, 0.4).min()


def _saturation_by_chance(run: Run, moment: float) -> Tensor:
    """(L,) what the saturation would be if tokens kept nothing but the loads: sum_e f_e f'_e K."""
    final = run.look()[1]

    def measure(seen: Recording, layer: str) -> Tensor:
        return by_chance(asked(seen, layer), asked(final, layer), seen.experts(layer))

    return _layers(run, measure, moment)


@reads(0.4, 1.0)
def saturation_by_chance(run: Run) -> Tensor:
    """What `saturation` would be by the loads alone, of the layer where it is most."""
    return _saturation_by_chance(run, 0.4).max()


@reads(0.4, 1.0)
def saturation_first_layer(run: Run) -> Tensor:
    """Router saturation after 40 % of the run, of the first layer."""
    return _saturation(run, 0.4)[0]


@reads(0.4, 1.0)
def saturation_last_layer(run: Run) -> Tensor:
    """Router saturation after 40 % of the run, of the last layer."""
    return _saturation(run, 0.4)[-1]


@reads(0.01, 1.0)
def saturation_early(run: Run) -> Tensor:
    """Router saturation after 1 % of the run, mean over the layers."""
    return _saturation(run, 0.01).mean()


@reads(0.01, 1.0)
def saturation_early_by_chance(run: Run) -> Tensor:
    """What `saturation_early` would be by the loads alone, mean over the layers."""
    return _saturation_by_chance(run, 0.01).mean()


# -- causality -------------------------------------------------------------------------------------------------------------


@reads()
def future_flips(run: Run) -> Tensor:
    """Share of the predictions in the first half of a sequence that change when it goes on as another sequence does.

    0 in a causal model, exactly: no prediction may depend on what comes after it. (Permuting the second half would be too
    gentle a test: the same tokens go on competing for the experts, and a router looks at little but the token.)
    """
    inputs = run.experiment.data.held_out().inputs
    half = inputs.shape[1] // 2
    other = torch.cat([inputs[:, :half], inputs.roll(1, 0)[:, half:]], dim=1)
    return (_predictions(run, inputs)[:, :half] != _predictions(run, other)[:, :half]).float().mean()


def _predictions(run: Run, inputs: Tensor) -> Tensor:
    model = run.experiment.model.eval()
    try:
        with torch.no_grad():
            return model(inputs.to(run.experiment.device)).argmax(-1).cpu()
    finally:
        model.train()
