"""What if no head could look at the first token, or every gate stood open? Edits of a trained model, and its losses.

A pure function of the model as it is and of the edits; the model and its run notice nothing.
"""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn

import explorer
from explorer.experiment import Experiment
from explorer.taps import instrumented
from explorer.tasks import UNSCORED, Batch

SINKS = {
    "": "as trained",
    "evict": "no later token may look at it: its share goes to the others",
    "mute": "looked at as before, but it says nothing",
    "other": "the same for the fourth token instead (a control)",
}
GATES = {"": "as trained", "1": "open (1)", "0.5": "half open (0.5)", "0": "shut (0)"}
CONTROL = 3  # an ordinary position, whose eviction should cost next to nothing
LATE = 8  # queries from this one on are edited: those before it see too few keys, and may need one of them


@dataclass(frozen=True)
class Edit:
    """sink: a key of SINKS, about the first token; gate: a key of GATES, about every gate."""

    sink: str = ""
    gate: str = ""

    @property
    def empty(self) -> bool:
        return not self.sink and not self.gate

    def words(self) -> str:
        said = [f"the first token: {SINKS[self.sink]}"] if self.sink else []
        return "; ".join([*said, *([f"every gate: {GATES[self.gate]}"] if self.gate else [])]) or "nothing is edited"


@dataclass(frozen=True)
class Outcome:
    """Losses on the probe: of all scored tokens, and of each kind of token by name (none where tokens have no kinds)."""

    loss: float
    by_kind: dict[str, float]


def possible(experiment: Experiment) -> tuple[bool, bool]:
    """(whether attention can be edited, whether there is a gate for each head and token)."""
    parts = instrumented(experiment.model).values()
    maps = any("attention" in one.taps for one in parts) and experiment.data.kind == "tokens"
    return maps, any(one.taps.get("gate") == "B T H d" for one in parts)


def evicted(attention_BHTS: Tensor, key: int, spread: bool) -> Tensor:
    """The map without what late queries gave a key; spread: the others get it, in proportion, so that a row keeps its sum."""
    changed = attention_BHTS.clone()
    changed[..., LATE:, key] = 0
    if spread:
        before, after = attention_BHTS.sum(-1, keepdim=True), changed.sum(-1, keepdim=True)
        changed *= before / after.clamp(min=1e-9)
    return changed


@contextmanager
def edited(model: nn.Module, what: Edit) -> Iterator[None]:
    """While inside, the model looks and gates under the edits."""
    with ExitStack() as stack:
        if what.sink:
            key, spread = CONTROL if what.sink == "other" else 0, what.sink != "mute"
            stack.enter_context(explorer.edit(model, "*/attention", lambda a: evicted(a, key, spread)))
        if what.gate:
            value = float(what.gate)
            stack.enter_context(explorer.edit(model, "*/gate", lambda g: torch.full_like(g, value)))
        yield


def outcomes(experiment: Experiment, batch: Batch, what: Edit, kinds: list[str]) -> tuple[Outcome, Outcome | None]:
    """(as it is, under the edits or None) for a batch of held-out data."""
    plain = _outcome(experiment, batch, kinds)
    if what.empty:
        return plain, None
    with edited(experiment.model, what):
        return plain, _outcome(experiment, batch, kinds)


def _outcome(experiment: Experiment, batch: Batch, kinds: list[str]) -> Outcome:
    by_kind = {}
    for number, kind in enumerate(kinds):
        among = (batch.labels == number) & (batch.targets != UNSCORED)
        if bool(among.any()):
            part = Batch(batch.inputs, batch.targets.where(among, UNSCORED), batch.labels)
            by_kind[kind] = experiment.evaluate(part)
    return Outcome(experiment.evaluate(batch), by_kind)
