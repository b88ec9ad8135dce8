"""What a page, and everything that leaves it, says about the run it shows."""

from typing import Any

from explorer.experiment import Experiment
from explorer.recording_file import versions


def status(experiment: Experiment, steps_per_second: float, threads: int) -> dict[str, Any]:
    """The status line, as values; the first is the step."""
    size = experiment.count()
    return {
        "step": experiment.step, "steps/s": f"{steps_per_second:.0f}" if steps_per_second else "-", "seed": experiment.seed,
        "device": str(experiment.device), "kernel": kernel(experiment), "threads": threads,
        "parameters": f"{size.parameters:,}", "active FLOPs a token": f"{size.flops:,.0f}",
    }  # fmt: skip


def kernel(experiment: Experiment) -> str:
    """What computed the newest step."""
    return ", ".join(experiment.recording.header["kernel"]) or "-"


def stamp(experiment: Experiment, step: int) -> str:
    """What an exported picture says about itself."""
    task = type(experiment.task).__name__.lower()
    made = " · ".join(f"{name} {version}" for name, version in versions().items())
    return (
        f"{experiment.spec.name} · {task} · seed {experiment.seed} · step {step} · {experiment.device} · kernel "
        f"{kernel(experiment)} · {made}"
    )


def forked_at(experiment: Experiment) -> int | None:
    """The step at which a run left the one beside it; None for a run of its own."""
    events = experiment.recording.header["events"]
    return next((step for step, what in events if str(what).startswith("forked")), None)
