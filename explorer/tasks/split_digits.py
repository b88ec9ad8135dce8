"""Split digits: five tasks of two digits, learnt one after the other, with nothing kept of what came before.

First 0 and 1, then 2 and 3, and so on to 8 and 9. At the end any digit may come, and nobody says from which task it is:
class-incremental learning. Whoever goes on training the same weights forgets the first digits while learning the last.
"""

import copy
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from explorer.tasks.data import Batch, Stream, settle, whole
from explorer.tasks.digit_patches import SIDE, patch_size, patches, shuffled, standardised
from explorer.tasks.digits import CLASSES, HELD_OUT

TASKS, PER_TASK = 5, 2


@dataclass(frozen=True)
class SplitDigits:
    """`patch`: pixels along the side of a patch, 1, 2 or 4. A task lasts `steps_per_task`, in epochs of `steps_per_epoch`."""

    patch: int = 2
    steps_per_task: int = 200
    steps_per_epoch: int = 50

    def __post_init__(self) -> None:
        settle(
            self,
            patch=patch_size(self.patch),
            steps_per_task=whole("steps_per_task", self.steps_per_task, 1, 1_000_000),
            steps_per_epoch=whole("steps_per_epoch", self.steps_per_epoch, 1, 1_000_000),
        )

    def build(self, seed: int) -> "SplitDigitsData":
        return SplitDigitsData(self, seed)


class SplitDigitsData:
    """Inputs (B,T,width): patches of grey values with mean 0 and deviation 1; labels 0 to 9, outputs one a digit."""

    kind, outputs, pooled, tasks, unit = "sequences", CLASSES, True, TASKS, "nats/digit"
    label_names = [f"digit {c}" for c in range(CLASSES)]

    def __init__(self, config: SplitDigits, seed: int) -> None:
        self.config, self.seed, self.width, self.length = config, seed, config.patch**2, (SIDE // config.patch) ** 2
        pictures, self._labels, self.sha256 = shuffled()
        among = torch.arange(HELD_OUT, len(self._labels))
        self._pictures = standardised(pictures, among[self._labels[among] < PER_TASK])  # by the digits seen first
        self._pools = [among[self._labels[among] // PER_TASK == task] for task in range(TASKS)]
        self._stream = Stream(seed, "split-digits/train")

    def stage(self, step: int) -> tuple[int, float]:
        """(task, progress within its epoch from 0 to below 1) of a step; the last task goes on for ever."""
        task = min(step // self.config.steps_per_task, TASKS - 1)
        within = step - task * self.config.steps_per_task
        return task, within % self.config.steps_per_epoch / self.config.steps_per_epoch

    def batch(self, step: int, size: int) -> Batch:
        """`size` training digits of the task that is on at `step`, drawn with replacement."""
        generator = self._stream.at(whole("step", step, 0))
        pool = self._pools[self.stage(step)[0]]
        return self._batch(pool[torch.randint(len(pool), (whole("size", size, 1),), generator=generator)])

    def held_out(self, task: int | None = None) -> Batch:
        """The 360 digits that training never shows, of all tasks or of one."""
        picked = torch.arange(HELD_OUT)
        if task is not None:
            picked = picked[self._labels[:HELD_OUT] // PER_TASK == whole("task", task, 0, TASKS - 1)]
        return self._batch(picked)

    def loss(self, outputs_BC: Tensor, batch: Batch) -> Tensor:
        """Binary cross entropy, in nats, of the two outputs of a digit's own task; outputs of 0 cost ln 2.

        The other tasks' outputs are not asked for: their digits are gone, or have not come yet.
        """
        own_B12 = (batch.targets // PER_TASK)[:, None, None].expand(-1, 1, PER_TASK)
        logits_B2 = outputs_BC.unflatten(1, (TASKS, PER_TASK)).gather(1, own_B12)[:, 0]
        return F.binary_cross_entropy_with_logits(
            logits_B2, F.one_hot(batch.targets % PER_TASK, PER_TASK).to(logits_B2)
        )

    def describe(self) -> dict[str, Any]:
        return {
            "task": "split-digits", "kind": self.kind, "installation_dependent": True, "seed": self.seed,
            **asdict(self.config), "tasks": TASKS, "held_out": HELD_OUT, "sha256": self.sha256,
        }  # fmt: skip

    def _batch(self, picked_B: Tensor) -> Batch:
        labels_B = self._labels[picked_B]
        return Batch(patches(self._pictures[picked_B], self.config.patch), labels_B, labels_B)


def accuracies(experiment: Any, seen: int, known: bool = False) -> Tensor:
    """(A,) the share of each task's held-out digits that an Experiment on split digits gets right now, 0 to 1.

    seen: how many tasks have begun; the answer is the largest output among their digits, and NaN for tasks to come.
    known: the task is given away, and the answer is one of its two digits (task-incremental).
    """
    model, data = copy.deepcopy(experiment.model).eval(), experiment.data  # nobody records a copy
    found = torch.full((TASKS,), torch.nan)
    with torch.no_grad():
        for task in range(seen):
            batch = data.held_out(task)
            among = slice(PER_TASK * task, PER_TASK * (task + 1)) if known else slice(0, PER_TASK * seen)
            outputs = model(batch.inputs.to(experiment.device))[:, among].cpu()
            found[task] = (outputs.argmax(1) + among.start == batch.labels).float().mean()
    return found


def after_every_stage(experiment: Any, known: bool = False) -> Tensor:
    """(S, A) the accuracy of every task after every stage, NaN above the diagonal. Trains the Experiment through all tasks.

    It must stand at its first step, or within the first task. The lab and `explorer.metrics.continual` read this matrix.
    """
    last = experiment.data.config.steps_per_task
    rows = []
    for stage in range(TASKS):
        experiment.run(last * (stage + 1) - experiment.step)
        rows.append(accuracies(experiment, stage + 1, known))
    return torch.stack(rows)
