"""What the pictures of single attention mechanisms draw from, as arrays: gates that leave their place, blocks worth
attending to, a memory's energy, tasks learnt and forgotten, near and far.
"""

import copy
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from explorer.experiment import Experiment
from explorer.kernels import hopfield
from explorer.tasks import SplitDigits
from explorer.tasks.split_digits import PER_TASK, TASKS

if TYPE_CHECKING:
    from widgets.states.attention_view import Scene

FAR_MAP = "linear"  # the tap of joint-gated-attention
CLUSTERS, EACH = 4, 3  # patterns in the plane: clusters of some
CORNER = 3.0  # how far from the middle a cluster lies
BETAS = 10 ** torch.linspace(-2, 1.5, 36)
SIDE = 61  # points along one side of the energy's picture
SPAN = 4.5
PICTURES = 120  # held-out ones that are read with every look


# -- gated-positional ----------------------------------------------------------------------------------------------------
def leaves_its_place(s: "Scene") -> bool:
    """Whether heads begin at a place of their own."""
    return bool(s.own("nonlocality"))


def places(s: "Scene") -> tuple[Tensor, Tensor]:
    """(gate, mean distance in patches), each (P, R): of every head at every step that was looked at."""
    gate, far = (
        torch.stack([torch.cat(moment.own[tap]) for moment in s.timeline.moments]) for tap in ("gate", "nonlocality")
    )
    return gate, far


# -- block-gate ----------------------------------------------------------------------------------------------------------
@dataclass(frozen=True)
class Blocks:
    """truth, scores, kept (M, M) of the head that is shown, on the first sequence; recall: share of its attention kept."""

    truth: Tensor
    scores: Tensor
    kept: Tensor
    recall: float
    density: float


def has_blocks(s: "Scene") -> bool:
    """Whether a gate guesses which blocks of the map are worth computing."""
    return bool(s.own("block_truth"))


def blocks(s: "Scene") -> Blocks:
    """Of the head that is shown."""
    truth, scores, kept, recall = (
        torch.cat(s.own(tap))[s.i] for tap in ("block_truth", "block_scores", "block_kept", "recall")
    )
    return Blocks(truth, scores, kept, float(recall), float(s.run.knobs["density"]))


# -- hopfield ------------------------------------------------------------------------------------------------------------
@dataclass(frozen=True)
class Memory:
    """A memory in the plane. energy (Y, X) at y, x; patterns (N, 2); path (P, 2): a state and where each update takes it."""

    energy: Tensor
    x: Tensor
    y: Tensor
    patterns: Tensor
    path: Tensor
    beta: float


def is_memory(s: "Scene") -> bool:
    """Whether heads are memories that a state falls into."""
    return s.run.spec.name == "hopfield"


def stored(seed: int) -> Tensor:
    """(N, 2): four clusters of three patterns, around the corners of a square."""
    generator = torch.Generator().manual_seed(seed)
    corners = CORNER / 2**0.5 * torch.tensor([[1.0, 1.0], [-1.0, 1.0], [-1.0, -1.0], [1.0, -1.0]])
    return (corners[:, None] + 0.45 * torch.randn(CLUSTERS, EACH, 2, generator=generator)).flatten(0, 1)


@lru_cache(maxsize=32)
def memory(seed: int, beta: float) -> Memory:
    """A state from the middle of a side, until it rests; beta in units of 1/sqrt(2), as the mechanism's knob counts it."""
    patterns, sharp = stored(seed), beta * 2**-0.5
    line = torch.linspace(-SPAN, SPAN, SIDE)
    grid = torch.stack(torch.meshgrid(line, line, indexing="xy"), -1)
    energy = hopfield.energy(grid.reshape(-1, 2), patterns, sharp).view(SIDE, SIDE)
    path = torch.cat(hopfield.retrieve(torch.tensor([[3.6, -0.4]]), patterns, sharp, most=200, tolerance=1e-3))
    return Memory(energy, line, line, patterns, path, beta)


@lru_cache(maxsize=8)
def regimes(seed: int) -> tuple[Tensor, Tensor, Tensor]:
    """(beta (N,), median metastable size (N,), fixed points (N,)) of the patterns of that seed."""
    patterns = stored(seed)
    sizes, points = [], []
    for beta in BETAS.tolist():
        sharp = beta * 2**-0.5
        rest = hopfield.retrieve(patterns, patterns, sharp, most=300, tolerance=1e-4)[-1]
        sizes.append(hopfield.metastable_size(rest, patterns, sharp).median())
        points.append(len({tuple(one) for one in (rest * 20).round().tolist()}))  # apart by a twentieth: another one
    return BETAS, torch.stack(sizes), torch.tensor(points)


# -- class-attention-gate ------------------------------------------------------------------------------------------------
def pictures_read(experiment: Experiment) -> tuple[Tensor | None, float | None]:
    """(tasks (A,), right): how many of the held-out pictures are read correctly now, 0..1; None where inputs have no label.

    tasks: where the data come as tasks, for each that has begun, one digit of the task's two being the answer; NaN for those
    to come. right: of all those digits together, any that has come being the answer.
    """
    data = experiment.data
    if data.kind != "sequences" or not data.pooled:
        return None, None
    batch, begun = data.held_out(), TASKS
    if isinstance(experiment.task, SplitDigits):
        begun = data.stage(max(0, experiment.step - 1))[0] + 1
        chosen = batch.labels < PER_TASK * begun
    else:
        chosen = torch.arange(len(batch.labels)) < PICTURES  # enough for a percentage, and soon read
    labels_B, model = batch.labels[chosen], copy.deepcopy(experiment.model).eval()  # nobody records a copy
    with torch.no_grad():
        outputs_BC = model(batch.inputs[chosen].to(experiment.device)).cpu()
    right = float((outputs_BC[:, : PER_TASK * begun].argmax(1) == labels_B).float().mean())
    if not isinstance(experiment.task, SplitDigits):
        return None, right
    task_B, tasks_A = labels_B // PER_TASK, torch.full((TASKS,), torch.nan)
    own_B2 = outputs_BC.unflatten(1, (TASKS, PER_TASK))[torch.arange(len(labels_B)), task_B]
    known_B = own_B2.argmax(1) == labels_B % PER_TASK
    for task in range(begun):
        tasks_A[task] = known_B[task_B == task].float().mean()
    return tasks_A, right


def has_tasks(s: "Scene") -> bool:
    """Whether the data come as tasks, one after the other."""
    return s.moment.tasks is not None


def learnt(s: "Scene") -> tuple[Tensor, list[str]]:
    """((S, A), names): the accuracy on every task at the end of every stage so far, the one under way as it is now."""
    upto = [(step, one.tasks) for step, one in zip(s.timeline.steps, s.timeline.moments, strict=True) if step <= s.step]
    last: dict[int, Tensor] = {}
    for step, found in upto:
        if found is not None:
            last[s.run.data.stage(max(0, step - 1))[0]] = found
    names = [f"{PER_TASK * task} or {PER_TASK * task + 1}" for task in range(TASKS)]
    return torch.stack([last[stage] for stage in sorted(last)]), names


# -- joint-gated-attention -----------------------------------------------------------------------------------------------
def has_near_and_far(s: "Scene") -> bool:
    """Whether a near and a far attention act together."""
    return bool(s.own(FAR_MAP)) and s.map is not None


def near_and_far(s: "Scene") -> tuple[Tensor, Tensor]:
    """((T, T), (T, T)): the map within groups and the linear one over all positions, of the first sequence."""
    assert s.map is not None
    return s.map, s.own(FAR_MAP)[s.head.layer][0]
