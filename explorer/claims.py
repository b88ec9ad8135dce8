"""Claims: a paper's sentence, tried at tiny scale over several seeds, with a control that must fail.

A claim holds when the mean of its effect over the seeds passes its threshold and its control does not. A claim that is not
seen stays in the table with its numbers: what a paper found in a large model need not show in two layers.
"""

import math
import operator
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from statistics import fmean
from typing import TYPE_CHECKING, Any

import torch

from explorer.assembly import SETTINGS, split
from explorer.catalogue import Claim, Spec, names, spec
from explorer.errors import BadValue
from explorer.experiment import Experiment
from explorer.parallel import in_parallel, naming
from explorer.readings import Run, reading
from explorer.tasks import task as find_task

if TYPE_CHECKING:
    import pandas as pd

PASSES: dict[str, Callable[[float, float], bool]] = {
    "<=": operator.le, ">=": operator.ge, "<": operator.lt, ">": operator.gt, "==": operator.eq,
}  # fmt: skip


@dataclass(frozen=True)
class Verdict:
    """What came of a claim. `holds`: True, False (not seen here), or None (reported, never judged)."""

    mechanism: str
    claim: str
    statement: str
    source: str
    reported: str  # the paper's own figure
    metric: str
    value: float  # mean over the seeds
    baseline: float  # the control's mean over the seeds; NaN where there is none
    control: str  # the control in words
    kind: str  # how the effect comes from both: value, ratio or difference
    effect: float  # mean over the seeds of each seed's effect
    spread: tuple[float, ...]  # the effect of each seed, in the order of `seeds`
    relation: str
    threshold: float | None
    why: str  # the reason for the threshold
    holds: bool | None
    seeds: tuple[int, ...]
    seconds: float  # of processor time; runs shared with other claims are counted in each

    @property
    def word(self) -> str:
        return {True: "holds", False: "not seen", None: "reported"}[self.holds]


def verify(
    name: str | Iterable[str],
    seeds: Iterable[int] = (0, 1, 2),
    jobs: int | None = None,
    done: Callable[[int, int], None] | None = None,
) -> list[Verdict]:
    """The verdict on every claim of a mechanism, or of several.

    Each run is trained once, whatever number of claims ask for it, and all at once on all cores (or `jobs` of them).
    done(how many, of how many) is called as runs finish.
    """
    cards = [spec(one) for one in ([name] if isinstance(name, str) else name)]
    return _verdicts([(card, claim) for card in cards for claim in card.claims], seeds, jobs, done)


def verify_all(
    family: str | None = None,
    seeds: Iterable[int] = (0, 1, 2),
    jobs: int | None = None,
    done: Callable[[int, int], None] | None = None,
) -> list[Verdict]:
    """The verdicts on all claims of the catalogue, or on those of a family."""
    return verify(names(family), seeds, jobs, done)


def to_frame(verdicts: Sequence[Verdict]) -> "pd.DataFrame":
    """One row a verdict with every field, for a file."""
    import pandas as pd

    frame = pd.DataFrame([asdict(verdict) for verdict in verdicts], columns=list(Verdict.__dataclass_fields__))
    return frame.astype({"spread": object, "seeds": object})


def table(verdicts: Sequence[Verdict]) -> "pd.DataFrame":
    """One row a verdict for reading: the paper's figure beside ours, what was asked of it, and what came of it."""
    import pandas as pd

    rows = [
        (v.mechanism, v.claim, v.reported, v.metric, _short(v.value), _short(v.baseline), v.control, _effect_in_words(v),
         _asked(v), v.word, round(v.seconds, 1))
        for v in verdicts
    ]  # fmt: skip
    columns = "mechanism, claim, paper, metric, ours, control, control is, effect, asked, verdict, seconds"
    return pd.DataFrame(rows, columns=columns.split(", "))


def judge(claim: Claim, values: Sequence[float], baselines: Sequence[float]) -> tuple[tuple[float, ...], bool | None]:
    """(each seed's effect, holds) from each seed's value and baseline. What is not a finite number never holds."""
    effects = tuple(_effect(claim.effect, value, baseline) for value, baseline in zip(values, baselines, strict=True))
    if claim.threshold is None:
        return effects, None
    passes, asked = PASSES[claim.relation], claim.threshold
    holds = math.isfinite(fmean(effects)) and passes(fmean(effects), asked)
    if claim.effect == "value":  # a ratio and a difference have their control in them
        holds = holds and math.isfinite(fmean(baselines)) and not passes(fmean(baselines), asked)
    return effects, holds


def _effect(kind: str, value: float, baseline: float) -> float:
    if kind == "ratio":
        return value / baseline if baseline else math.nan
    return value - baseline if kind == "difference" else value


# -- from claims to runs ---------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Trial:
    """One run of an experiment, complete: two claims that ask for the same one get the same one."""

    mechanism: str
    task: Any
    seed: int
    steps: int
    knobs: tuple[tuple[str, Any], ...]  # of the mechanism and the host, where they are not the default


@dataclass(frozen=True)
class Look:
    """A reading, after live knobs of the trained model were changed."""

    metric: str
    after: tuple[tuple[str, Any], ...] = ()


Arm = tuple[Trial, Look]  # what a value or a baseline is read off


def _verdicts(
    claims: Sequence[tuple[Spec, Claim]],
    seeds: Iterable[int],
    jobs: int | None,
    done: Callable[[int, int], None] | None = None,
) -> list[Verdict]:
    chosen = tuple(seeds)
    if not chosen or len(set(chosen)) < len(chosen):
        raise BadValue(f"seeds={chosen}: give at least one, and each once")
    looks: dict[Trial, dict[Look, str]] = {}  # and for which claim
    measures: dict[tuple[str, str, int], Callable[[], Any]] = {}
    for card, claim in claims:
        for seed in chosen:
            for trial, look in _arms(card, claim, seed):
                looks.setdefault(trial, {}).setdefault(look, f"{card.name}: claim {claim.name!r}")
            if claim.measure is not None:
                measures[card.name, claim.name, seed] = partial(_measured, card.name, claim.name, claim.measure, seed)
    trials = sorted(looks, key=lambda trial: -trial.steps)  # the long ones first: no core waits for one at the end
    work: list[Callable[[], Any]] = [partial(perform, trial, looks[trial]) for trial in trials]
    results = in_parallel(_call, [*work, *measures.values()], jobs=jobs, done=done)
    found = dict(zip([*trials, *measures], results, strict=True))
    return [_verdict(card, claim, chosen, found) for card, claim in claims]


def _verdict(card: Spec, claim: Claim, seeds: tuple[int, ...], results: Mapping[Any, Any]) -> Verdict:
    values, baselines, seconds = [], [], 0.0
    for seed in seeds:
        if claim.measure is not None:
            (value, baseline), took = results[card.name, claim.name, seed]
        else:
            arms = _arms(card, claim, seed)
            read = [results[trial][0][look] for trial, look in arms]
            value, baseline = read if len(read) == 2 else (read[0], math.nan)
            took = sum(results[trial][1] for trial in {trial for trial, _ in arms})
        values.append(value)
        baselines.append(baseline)
        seconds += took
    effects, holds = judge(claim, values, baselines)
    return Verdict(
        card.name, claim.name, claim.statement, claim.source, claim.reported, claim.metric, fmean(values), fmean(baselines),
        claim.control_is, claim.effect, fmean(effects), effects, claim.relation, claim.threshold, claim.why, holds, seeds,
        seconds,
    )  # fmt: skip


def _arms(card: Spec, claim: Claim, seed: int) -> list[Arm]:
    """What to run for one seed: the claim's own arm, and its control where it has one."""
    if claim.setup is None:
        return []
    with naming(f"claim {claim.name!r} of {card.name}"):
        arms = [_arm(card, claim.setup, claim.metric, seed)]
        if claim.control is not None or claim.control_metric:
            control = {**claim.setup, **(claim.control or {})}
            control = {name: value for name, value in control.items() if value is not None}
            arms.append(_arm(card, control, claim.control_metric or claim.metric, seed))
    return arms


def _arm(card: Spec, setup: Mapping[str, Any], metric: str, seed: int) -> Arm:
    knobs = dict(setup)
    mechanism, task, steps = knobs.pop("mechanism", card.name), knobs.pop("task", "text"), knobs.pop("steps")
    after = tuple(sorted(knobs.pop("after", {}).items()))
    card = spec(mechanism)
    own, settings = split(card, knobs)
    reading(metric)
    usual = {name: knob.default for name, knob in {**SETTINGS, **card.knobs}.items()}
    unusual = {name: value for name, value in {**settings, **own}.items() if value != usual[name]}
    return Trial(mechanism, _task(task), seed, steps, tuple(sorted(unusual.items()))), Look(metric, after)


def _task(given: Any) -> Any:
    """A task from a name, or from a mapping of its name and its settings: a mechanism's file may import no task."""
    if not isinstance(given, Mapping):
        return find_task(given)
    settings = dict(given)
    return type(find_task(settings.pop("name")))(**settings)


# -- in the worker ---------------------------------------------------------------------------------------------------------


def perform(trial: Trial, looks: Mapping[Look, str]) -> tuple[dict[Look, float], float]:
    """({look: what it read}, seconds) of one run; `looks` says which claim wants each, for the message of an error."""
    began = time.process_time()
    with naming(f"{next(iter(looks.values()))}, {trial.mechanism} with seed {trial.seed}"):
        experiment = Experiment(trial.mechanism, task=trial.task, seed=trial.seed, watch=None, **dict(trial.knobs))
        moments = {moment for look in looks for moment in reading(look.metric).moments}
        run = Run.through(experiment, trial.steps, tuple(moments))
    seen = {}
    for look, wanted_by in looks.items():
        with naming(f"{wanted_by}, {trial.mechanism} with seed {trial.seed}"):
            seen[look] = reading(look.metric)(Run(experiment.fork(**dict(look.after))) if look.after else run)
    return seen, time.process_time() - began


def _measured(
    mechanism: str, claim: str, measure: Callable[[int], tuple[float, float]], seed: int
) -> tuple[tuple[float, float], float]:
    began = time.process_time()
    with naming(f"{mechanism}: claim {claim!r} with seed {seed}"), torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        value, baseline = measure(seed)
    return (float(value), float(baseline)), time.process_time() - began


def _call(work: Callable[[], Any]) -> Any:
    return work()


# -- in words --------------------------------------------------------------------------------------------------------------


def _short(number: float) -> str:
    return "" if math.isnan(number) else f"{number:.3g}"


def _effect_in_words(verdict: Verdict) -> str:
    """The mean and, where the seeds differ, the smallest and the largest: 0.17x (0.05 to 0.31)."""
    form = {"ratio": "{:.3g}x", "difference": "{:+.3g}"}.get(verdict.kind, "{:.3g}").format
    low, high = form(min(verdict.spread)), form(max(verdict.spread))
    return form(verdict.effect) + (f" ({low} to {high})" if low != high else "")


def _asked(verdict: Verdict) -> str:
    return "" if verdict.threshold is None else f"{verdict.relation} {verdict.threshold:g}"
