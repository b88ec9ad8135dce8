"""What a run of a lesson came to: one number by name, which stands beside what was predicted."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from explorer.errors import unknown

if TYPE_CHECKING:
    from explorer.experiment import Experiment

RECENT = 20  # steps at the end of a run that count


@dataclass(frozen=True)
class Outcome:
    """of(runs) -> number; the runs of the panel, A first. scale: what a predicted number is divided by (100: per cent)."""

    words: str
    form: str
    of: Callable[[list["Experiment"]], float]
    scale: float = 1.0


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


def _empty(runs: list["Experiment"]) -> float:
    recording = runs[0].recording
    _, counts = recording.counts(recording.layers()[0])
    empty = recording.series["loads"][recording.layers()[0]].rows()[-RECENT:, 1].sum()
    return float(empty / (empty + counts[-RECENT:].sum()).clamp(min=1))


def _sink(runs: list["Experiment"]) -> float:
    found = runs[0].recording.attention()
    newest = found[found["step"] == found["step"].max()]
    return float(newest["first_token_share"].max())


OUTCOMES = {
    "largest share": Outcome("the largest share of an expert is", ".0%", _largest, 100),
    "smallest share": Outcome("the smallest share of an expert is", ".0%", _smallest, 100),
    "dead experts": Outcome(
        "the number of experts that get less than a twentieth of their fair share is", ".0f", _dead
    ),
    "loss": Outcome("the loss at the end is", ".3f", _loss),
    "gain in loss": Outcome("the loss of A less that of B is", ".3f", _lower),
    "gain in balance": Outcome("the largest share in A less that in B is", ".0%", _less_even, 100),
    "token entropy": Outcome("the entropy of a token's choice, from 0 sure to 1 even, is", ".2f", _sureness),
    "empty slots": Outcome("the share of places that no token filled is", ".0%", _empty, 100),
    "sink": Outcome("the largest share of attention that a head gives the first token is", ".0%", _sink, 100),
}


def came(name: str, runs: list["Experiment"]) -> float:
    """The number of that name for these runs."""
    if name not in OUTCOMES:
        raise unknown("outcome", name, OUTCOMES)
    return OUTCOMES[name].of(runs)


def shown(name: str, value: float) -> str:
    """The number as the page writes it."""
    return f"{value:{OUTCOMES[name].form}}".replace("%", " %")
