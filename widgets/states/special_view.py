"""What the pictures of mechanisms that are more than a router draw from, as arrays: ways through the steps of a stack, a
painted field and who paints it, families of motion and who takes them, digits under attack.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from explorer import metrics
from explorer.experiment import Experiment
from explorer.mechanisms.routing._adversarial_moe_claims import UnderAttack, under_attack
from explorer.tasks import Digits, Field, OdeFamilies
from explorer.tasks.field import HELD_OUT_SIDE

if TYPE_CHECKING:
    from widgets.states.routing_view import Scene

IMAGES = 64  # held-out digits that are attacked at a moment: a tenth of a second of work
ATTACKED = "adversarial-moe"  # the mechanism that hardens itself
LETTERS = "ABCDEFGHIJKLMNOP"


@contextmanager
def outputs_of(model: nn.Module) -> Iterator[list[Tensor]]:
    """While inside, collects what each forward pass of the model gives."""
    found: list[Tensor] = []
    hook = model.register_forward_hook(lambda _, __, given: found.append(given))
    try:
        yield found
    finally:
        hook.remove()


# -- a stack: ways through its steps -------------------------------------------------------------------------------------
@dataclass(frozen=True)
class Usage:
    """index (L, T): the first module of each token at each choice, in the order in which they are made."""

    index: Tensor
    words: list[str]
    names: list[str]
    text: str  # which text it is


def is_stack(experiment: Experiment) -> bool:
    """Whether the mechanism is a whole stack of layers."""
    return experiment.spec.slot == "stack"


def layers(experiment: Experiment) -> list[str]:
    """The paths of a run's routers in the order in which a token meets them: those of a stack step by step."""
    assert experiment.recorder is not None
    found = experiment.recorder.routers()
    return sorted(found, key=_place) if is_stack(experiment) else found


def _place(path: str) -> tuple[int, bool]:
    """(step, after the attention)"""
    parts = path.split(".")
    return int(parts[-1]), parts[-2] != "attention"


def usage(scene: "Scene") -> Usage:
    """Of the text in which the chosen token stands."""
    b, group = scene.token[0], int(scene.run.knobs.get("group", 0))
    names = [name + (f", layer {LETTERS[i % group]}" if group else "") for i, name in enumerate(scene.names)]
    return Usage(scene.moment.index[:, b, :, 0], scene.probe.texts[b], names, scene.probe.names[b])


def said_of_stack(scene: "Scene") -> str:
    """In place of advice on each router: the balance of a stack is asked of all its steps together."""
    if not len(scene.now):
        return "Press Train. Each step chooses anew: at first the tokens go anywhere."
    idle, text = int((scene.now < 0.02).sum()), usage(scene)
    unused = f"{idle} of {scene.now.numel()} places" if idle else "No places"
    ways = len({tuple(way) for way in text.index.T.tolist()})
    return (
        f"The {text.index.shape[1]} tokens of the text in the first picture take {ways} different ways. {unused} (an expert "
        "at a step) get next to nothing. Idle places are no collapse here: an even use is asked of all steps together, so "
        "that an expert may be at home at one depth."
    )


# -- a picture on the plane ----------------------------------------------------------------------------------------------
@dataclass(frozen=True)
class Canvas:
    """(S, S) each, the first row the top: a channel as it is, as the model paints it, and the expert of each pixel."""

    target: Tensor
    painted: Tensor
    expert: Tensor
    bounds: tuple[float, float, float, float]


def is_field(experiment: Experiment) -> bool:
    """Whether a picture on the plane is learned."""
    return isinstance(experiment.task, Field)


def painted(experiment: Experiment, outputs_N2: Tensor) -> Tensor | None:
    """(S, S): the first channel of what the model makes of the held-out pixels, as float16; None for other tasks."""
    return outputs_N2[:, 0].reshape(HELD_OUT_SIDE, HELD_OUT_SIDE).half() if is_field(experiment) else None


def canvas(scene: "Scene") -> Canvas:
    """At the step looked at, with the experts of the layer shown."""
    side, moment = (HELD_OUT_SIDE, HELD_OUT_SIDE), scene.moment
    assert moment.painted is not None, "the probe of a field is painted at every moment"
    target = scene.probe.batch.targets[:, 0].reshape(side)
    bounds = scene.run.data.bounds()
    return Canvas(target, moment.painted.float(), scene.index(scene.i)[:, 0].reshape(side), bounds)


# -- families of motion --------------------------------------------------------------------------------------------------
@dataclass(frozen=True)
class Families:
    """pieces (N, W, 2): courses in the phase plane; family and expert (N,) of each; nmi: what the one says of the other."""

    pieces: Tensor
    family: Tensor
    expert: Tensor
    names: list[str]
    nmi: float


def has_families(experiment: Experiment) -> bool:
    """Whether the points are pieces of motion."""
    return isinstance(experiment.task, OdeFamilies)


def families(scene: "Scene") -> Families:
    """Who takes the held-out pieces, in the layer shown."""
    batch, expert = scene.probe.batch, scene.index(scene.i)[:, 0]
    taken = expert >= 0
    nmi = float(metrics.nmi(expert[taken], batch.labels[taken])) if bool(taken.any()) else 0.0
    return Families(batch.inputs.unflatten(1, (-1, 2)), batch.labels, expert, scene.probe.labels, nmi)


# -- digits under attack -------------------------------------------------------------------------------------------------
def is_attacked(experiment: Experiment) -> bool:
    """Whether the mechanism reads images that an attack can change."""
    return experiment.spec.name == ATTACKED and isinstance(experiment.task, Digits)


def attacked(experiment: Experiment) -> UnderAttack | None:
    """The first held-out digits, attacked as the model itself is in training but for longer; the run notices nothing."""
    if not is_attacked(experiment):
        return None
    assert experiment.recorder is not None
    model: Any = experiment.model.ffn
    held_out, training = experiment.data.held_out(), model.training
    images, labels = held_out.inputs[None, :IMAGES], held_out.labels[None, :IMAGES]
    try:
        with experiment.recorder.paused(), torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            return under_attack(model, images, labels, radius=model.radius)
    finally:
        model.train(training)


@dataclass(frozen=True)
class Attacks:
    """(M,) each: steps at which the model was attacked, and the shares of the digits of UnderAttack at them."""

    steps: Tensor
    clean: Tensor
    joint: Tensor
    experts: Tensor
    router: Tensor
    flips: Tensor
    radius: float


def attacks(scene: "Scene") -> Attacks:
    """The course of the run under attack."""
    seen = [(step, one.attack) for step, one in zip(scene.timeline.steps, scene.timeline.moments, strict=True)]
    known = [(step, one) for step, one in seen if one is not None]
    names = ("clean", "joint", "experts", "router", "flips")
    shares = {name: torch.tensor([getattr(one, name) for _, one in known]) for name in names}
    return Attacks(torch.tensor([step for step, _ in known]), **shares, radius=float(scene.run.knobs["radius"]))
