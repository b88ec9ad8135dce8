"""Comparisons: the same experiments over several seeds, side by side, on all cores of a machine or on a cluster."""

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from explorer.assembly import matched_width, width_knob
from explorer.errors import BadValue, ExplorerError
from explorer.experiment import Experiment
from explorer.parallel import abandoned, in_parallel, naming
from explorer.readings import Run, reading

if TYPE_CHECKING:
    import pandas as pd

READ = (
    "held_out_loss", "training_loss", "max_violation", "load_entropy", "dead_experts",
    "tokens_without_expert", "token_entropy", "nmi",
)  # fmt: skip


@dataclass(frozen=True)
class Planned:
    """One row of the table to be: how to make the experiment again, and what to write in front of its numbers.

    match, like: its width is still to be fitted, to the parameters or FLOPs of the experiment that `like` makes.
    """

    recipe: dict[str, Any]
    steps: int
    front: dict[str, Any]
    name: str
    match: str | None = None
    like: Mapping[str, Any] | None = None


def compare(
    experiments: Iterable[Experiment],
    seeds: Iterable[int] = range(3),
    steps: int = 200,
    match: str | None = None,
    backend: str | None = None,
    jobs: int | None = None,
    done: Callable[[int, int], None] | None = None,
) -> "pd.DataFrame":
    """Train every experiment anew for `steps` steps with every seed; one row each.

    The experiments given are plans: they are made again from their recipe (live knobs as they are now) and are left as they
    were. match: "parameters" or "flops" fits the width of the others to the first one's count; `mismatch` is what remains,
    in per cent. backend: None for all cores of this machine, "dask" for the current distributed.Client, "ray", or another
    backend of joblib. The numbers are those of running the same experiments here, except for steps_per_second. done(how
    many, of how many) is called as rows finish. A `Sweep` does the same in the background.

    Columns: experiment (its place in the list), mechanism, the knobs in which the experiments differ, seed, parameters,
    flops (active, a token), mismatch (with `match`), the readings of READ (see explorer.readings; NaN where a mechanism has
    nothing of the kind), steps_per_second.
    """
    import pandas as pd

    experiments, chosen = tuple(experiments), tuple(seeds)
    if wrong := [one for one in experiments if not isinstance(one, Experiment)]:
        raise BadValue(f"compare takes experiments, as in compare([Experiment('switch'), ...]), not {wrong[0]!r}")
    if not experiments or not chosen:
        raise BadValue("compare needs at least one experiment and one seed")
    check(steps, match)
    widths = _matched(experiments, match)
    differing = _differing(experiments, widths)
    plans = [
        Planned(
            {**one.recipe(), **width, "seed": seed, "device": str(one.device)},
            steps,
            {"experiment": i, "mechanism": one.spec.name, **knobs, "seed": seed},
            f"{one.spec.name} (experiment {i}) with seed {seed}",
        )
        for i, (one, width, knobs) in enumerate(zip(experiments, widths, differing, strict=True))
        for seed in chosen
    ]
    frame = pd.DataFrame(in_parallel(row, plans, backend, jobs, done))
    if match is not None:
        mismatch = 100 * (frame[match] / getattr(experiments[0].count(), match) - 1)
        frame.insert(list(frame).index("flops") + 1, "mismatch", mismatch)
    return frame


def check(steps: int, match: str | None) -> None:
    """Both can be asked for."""
    if isinstance(steps, bool) or not isinstance(steps, int) or steps < 1:
        raise BadValue(f"steps={steps!r}: it must be a whole number of at least 1")
    if match not in (None, "parameters", "flops"):
        raise BadValue(f"match={match!r}: it must be 'parameters', 'flops' or None")


def row(plan: Planned) -> dict[str, Any]:
    """In the worker: train, and read."""
    with naming(plan.name):
        experiment, mismatch = _made(plan)
        began = time.perf_counter()
        for _ in experiment.stream(plan.steps):
            if abandoned():
                raise ExplorerError("it was stopped")
        speed = plan.steps / (time.perf_counter() - began)
        run, count = Run(experiment), experiment.count()
        read = {name: reading(name)(run) for name in READ}
    return {
        **plan.front, "parameters": count.parameters, "flops": count.flops, **mismatch, **read, "steps_per_second": speed,
    }  # fmt: skip


def _made(plan: Planned) -> tuple[Experiment, dict[str, float]]:
    """The planned experiment at its matched width, and what remains of the mismatch, in per cent."""
    experiment = Experiment(**plan.recipe, watch=None)
    if plan.match is None or plan.like is None:
        return experiment, {}
    target = getattr(Experiment(**plan.like, watch=None).count(), plan.match)
    try:
        width = {width_knob(experiment.spec): matched_width(experiment, plan.match, target)}
    except Exception as error:
        why = str(error) if isinstance(error, ExplorerError) else f"its width cannot be fitted ({error})"
        raise ExplorerError(f"{why}; so it was not compared") from error
    experiment = Experiment(**{**plan.recipe, **width}, watch=None)
    return experiment, {"mismatch": 100 * (getattr(experiment.count(), plan.match) / target - 1)}


def _matched(experiments: Sequence[Experiment], match: str | None) -> list[dict[str, int]]:
    """For each experiment the width that brings it to the first one's size; the first one is as it is."""
    if match is None:
        return [{} for _ in experiments]
    target = getattr(experiments[0].count(), match)
    return [{}] + [{width_knob(one.spec): matched_width(one, match, target)} for one in experiments[1:]]


def _differing(experiments: Sequence[Experiment], widths: Sequence[dict[str, int]]) -> list[dict[str, Any]]:
    """For each experiment its values of the knobs (and its task) in which not all agree.

    A knob that only some mechanisms have is shown where two of these disagree, or somebody has set it.
    """
    whole = [
        {"task": one.task, **one.settings, **one.knobs, **width} for one, width in zip(experiments, widths, strict=True)
    ]
    shown = []
    for name in dict.fromkeys(name for values in whole for name in values):
        have = [values[name] for values in whole if name in values]
        some_set_it = len(have) < len(whole) and any(
            name in {**one.given, **width} for one, width in zip(experiments, widths, strict=True)
        )
        if any(value != have[0] for value in have) or some_set_it:
            shown.append(name)
    return [{name: _plain(values.get(name)) for name in shown} for values in whole]


def _plain(value: Any) -> Any:
    """A task is shown by its class and settings; numbers and words as they are."""
    return value if value is None or isinstance(value, str | int | float) else repr(value)
