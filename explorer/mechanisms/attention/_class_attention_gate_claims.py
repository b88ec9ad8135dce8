"""The claims of `class-attention-gate`, tried on five tasks of two digits, one after the other.

What hosts and trains is imported only when a claim is measured.
"""

from functools import lru_cache
from typing import Any

from torch import Tensor

from explorer.catalogue import Claim

HOST: dict[str, Any] = {"layers": 2, "d_model": 32, "heads": 4, "batch": 32, "watch": None}
OPEN: dict[str, Any] = {"gated": False, "drift_loss": 0.0, "cascade": False}


@lru_cache(maxsize=2)
def learnt(seed: int, gated: bool) -> tuple[Any, Tensor]:
    """(the run after all five tasks, 100 steps each; its accuracy of every task after every stage, the task known)."""
    from explorer.experiment import Experiment
    from explorer.tasks.split_digits import SplitDigits, after_every_stage

    task = SplitDigits(steps_per_task=100, steps_per_epoch=25)
    run = Experiment("class-attention-gate", task=task, seed=seed, **HOST, **({} if gated else OPEN))
    return run, after_every_stage(run, known=True)


def forgotten(seed: int) -> tuple[float, float]:
    """Forgetting, the task known: with gates, and with all of them open and nothing protected."""
    from explorer.metrics.continual import forgetting

    return forgetting(learnt(seed, True)[1]).item(), forgetting(learnt(seed, False)[1]).item()


def claimed(seed: int) -> tuple[float, float]:
    """Share of the block's units that the five tasks claimed: with gates, and without."""
    shares = [learnt(seed, gated)[0].examine(watch="*/capacity")[1].last("readout/capacity") for gated in (True, False)]
    return shares[0].item(), shares[1].item()


def taken_back(seed: int) -> tuple[float, float]:
    """Accuracy on the four old tasks, each known, of one trained model: with the cascade of projectors, and without."""
    from explorer.tasks.split_digits import TASKS, accuracies

    run = learnt(seed, True)[0]
    on, off = (accuracies(run.fork(cascade=cascade), TASKS, known=True)[:-1].mean().item() for cascade in (True, False))
    return on, off


def any_digit(seed: int) -> tuple[float, float]:
    """Accuracy over all ten digits at the end, nobody saying which task: with gates, and without."""
    from explorer.tasks.split_digits import TASKS, accuracies

    with_gates, without = (accuracies(learnt(seed, gated)[0], TASKS).mean().item() for gated in (True, False))
    return with_gates, without


CLAIMS = (
    Claim(
        "forgets-less",
        "Gates, and the projectors of what drifts, keep most of what plain fine-tuning forgets.",
        source="arXiv:2211.12292, abstract; half proposed here",
        reported="",
        metric="forgetting: best accuracy of a past task minus the last one (task known, from 0.5, guessing, to 1)",
        measure=forgotten,
        control_is="the same module with its gates open, nothing protected and no projectors",
        effect="ratio",
        threshold=0.5,
        why="half of what is forgotten",
    ),
    Claim(
        "room-is-left",
        "Five tasks do not fill the block: gates that are not needed stay shut.",
        source="arXiv:2211.12292, sparsity loss; threshold proposed here",
        reported="",
        metric="share of the block's units claimed after the last task",
        measure=claimed,
        control_is="gates open: every unit is used from the first task on",
        threshold=0.95,
        why="a twentieth of the units is still free",
    ),
    Claim(
        "the-cascade-takes-features-back",
        "Projectors, the newest first, turn the features of now into those that an old task knew.",
        source="arXiv:2211.12292, section on feature drift compensation; 0.1 proposed here",
        reported="",
        metric="accuracy on the four old tasks, the task known",
        measure=taken_back,
        control_is="the same trained model, its projectors left out",
        effect="difference",
        relation=">=",
        threshold=0.1,
        why="10 points; a hundred steps a task leave little drift to make up for",
    ),
    Claim(
        "class-incremental",
        "Nobody says which task it is: the largest answer of all heads counts.",
        source="arXiv:2211.12292",
        reported="competitive with methods that rehearse",
        metric="accuracy over ten digits after the last task",
        measure=any_digit,
        control_is="gates open, nothing protected, no projectors",
        effect="difference",
        relation=">=",
        threshold=None,
        why="two classes a task never teach a head to say 'not mine', so which task it is stays a guess",
    ),
)
