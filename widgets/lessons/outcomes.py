"""What a run of a lesson came to: one number by name, which stands beside what was predicted."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from explorer.errors import unknown

if TYPE_CHECKING:
    import pandas as pd

    from explorer.experiment import Experiment
    from explorer.recording import Recording

RECENT = 20  # steps at the end of a run that count


@dataclass(frozen=True)
class Outcome:
    """of(runs) -> number; the runs of the panel, A first. scale: what a predicted number is divided by (100: per cent).

    more(runs) -> a sentence with the numbers behind it.
    """

    words: str
    form: str
    of: Callable[[Any], float]
    scale: float = 1.0
    more: Callable[[Any], str] = lambda _: ""


def _shares(run: "Experiment") -> Any:
    """(E,): every expert's share of the newest steps' assignments, in the first layer."""
    from explorer import metrics

    recording = run.recording
    return metrics.load_fraction(recording.counts(recording.layers()[0])[1][-RECENT:].sum(0))


def _largest(runs: list["Experiment"]) -> float:
    return float(_shares(runs[0]).max())


def _smallest(runs: list["Experiment"]) -> float:
    return float(_shares(runs[0]).min())


def _dead(runs: list["Experiment"]) -> float:
    shares = _shares(runs[0])
    return float((shares < 0.05 / len(shares)).sum())


def _loss(runs: list["Experiment"]) -> float:
    return float(runs[0].losses()[-RECENT:].mean())


def _lower(runs: list["Experiment"]) -> float:
    return float(runs[0].losses()[-RECENT:].mean() - runs[-1].losses()[-RECENT:].mean())


def _less_even(runs: list["Experiment"]) -> float:
    return float(_shares(runs[0]).max() - _shares(runs[-1]).max())


def _sureness(runs: list["Experiment"]) -> float:
    recording = runs[0].recording
    recording.settle()
    return float(recording.series["routing"][recording.layers()[0]].rows()[-RECENT:, 1].mean())


def _dropped(runs: list["Experiment"]) -> float:
    recording = runs[0].recording
    _, counts = recording.counts(recording.layers()[0])
    empty = recording.series["loads"][recording.layers()[0]].rows()[-RECENT:, 1].sum()
    return float(empty / (empty + counts[-RECENT:].sum()).clamp(min=1))


def _sink(runs: list["Experiment"]) -> float:
    found = runs[0].recording.attention()
    newest = found[found["step"] == found["step"].max()]
    return float(newest["first_token_share"].max())


def held_out(run: "Experiment") -> "Recording":
    """What the model as it is now does with held-out data."""
    return _held_out(run, run.step)


def specialisation(run: "Experiment") -> "pd.DataFrame":
    """A row for each layer of the model as it is now: see explorer.analyses.domains.specialisation."""
    return _specialisation(run, run.step)


@lru_cache(maxsize=1)  # several pictures and sentences ask for the same
def _held_out(run: "Experiment", _step: int) -> "Recording":
    return run.examine()[1]


@lru_cache(maxsize=1)  # several pictures and sentences ask for the same
def _specialisation(run: "Experiment", _step: int) -> "pd.DataFrame":
    from explorer.analyses import domains

    return domains.specialisation(held_out(run))


def _byte_over_domain(runs: list["Experiment"]) -> float:
    first = specialisation(runs[0]).iloc[0]
    return float(first["vocabulary_nmi"] - first["vocabulary_floor"] - (first["domain_nmi"] - first["domain_floor"]))


def _both(runs: list["Experiment"]) -> str:
    first = specialisation(runs[0]).iloc[0]
    return (
        f"In the first layer the byte tells {first['vocabulary_nmi']:.0%} of the expert (by chance "
        f"{first['vocabulary_floor']:.0%}), and the expert {first['domain_nmi']:.0%} of the domain (by chance "
        f"{first['domain_floor']:.0%})."
    ).replace("%", "\u00a0%")


def _kept(comparisons: Any) -> float:
    return float(comparisons[0].table["saturation"].mean())


OUTCOMES = {
    "largest share": Outcome("the largest share of an expert is", ".1%", _largest, 100),
    "smallest share": Outcome("the smallest share of an expert is", ".1%", _smallest, 100),
    "dead experts": Outcome(
        "the number of experts that get less than a twentieth of their fair share is", ".0f", _dead
    ),
    "loss": Outcome("the loss at the end is", ".3f", _loss),
    "gain in loss": Outcome("the loss of A less that of B is", ".3f", _lower),
    "gain in balance": Outcome("the largest share in A less that in B is", ".0%", _less_even, 100),
    "token entropy": Outcome("the entropy of a choice, from 0 sure to 1 even, is", ".2f", _sureness),
    "dropped": Outcome("the share of tokens that found no room is", ".0%", _dropped, 100),
    "sink": Outcome("the largest share of attention that a head gives the first token is", ".0%", _sink, 100),
    "byte over domain": Outcome(
        "above chance, and from 0 to 1, the byte is ahead of the domain by", ".2f", _byte_over_domain, more=_both
    ),
    "kept": Outcome("of the early model's choices the trained model still makes", ".0%", _kept, 100),
}


def came(name: str, runs: list["Experiment"]) -> float:
    """The number of that name for these runs."""
    if name not in OUTCOMES:
        raise unknown("outcome", name, OUTCOMES)
    return OUTCOMES[name].of(runs)


def shown(name: str, value: float) -> str:
    """The number as the page writes it."""
    return f"{value:{OUTCOMES[name].form}}".replace("%", "\u00a0%")
