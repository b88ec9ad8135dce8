"""What if: forbid or force an expert, add to a router's score, clamp a gate, and see what the model makes of it.

A pure function of the model as it is and of the edits; the model and its run notice nothing.
"""

from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor, nn

import explorer
from explorer.errors import BadValue
from explorer.experiment import Experiment
from explorer.taps import instrumented
from explorer.tasks import Batch

BIAS = 5.0  # the largest shift of a score that the page offers: e^5 = 150 times the odds


@dataclass(frozen=True)
class WhatIf:
    """Edits of one layer's router. bias: expert -> what is added to its score; clamp: every weight becomes this."""

    layer: str
    forbid: frozenset[int] = frozenset()
    force: int | None = None
    bias: Mapping[int, float] = field(default_factory=dict)
    clamp: float | None = None

    @property
    def empty(self) -> bool:
        return not self.forbid and self.force is None and not any(self.bias.values()) and self.clamp is None

    def words(self) -> str:
        """The edits as a sentence."""
        said = [f"expert {e} is forbidden" for e in sorted(self.forbid)]
        said += [] if self.force is None else [f"expert {self.force} is forced"]
        said += [f"{value:+g} is added to the score of expert {e}" for e, value in sorted(self.bias.items()) if value]
        said += [] if self.clamp is None else [f"every gate that is open has the weight {self.clamp:g}"]
        return "; ".join(said) or "nothing is edited"

    def with_expert(self, expert: int, what: str, value: float = 0.0) -> "WhatIf":
        """forbid, force, bias or free an expert; the newest word about an expert counts."""
        forbid, force = self.forbid - {expert}, None if self.force == expert else self.force
        bias = {e: v for e, v in self.bias.items() if e != expert}
        if what == "forbid":
            forbid |= {expert}
        elif what == "force":
            force = expert
        elif what == "bias":
            bias[expert] = value
        return replace(self, forbid=frozenset(forbid), force=force, bias=bias)


def cannot(experiment: Experiment, layer: str) -> str:
    """Why this router's choice cannot be edited; "" if it can."""
    router = instrumented(experiment.model)[layer]
    if "logits" not in router.taps:
        return f"{experiment.spec.title} has no scores that could be edited: its choice is fixed."
    return ""


@contextmanager
def edited(model: nn.Module, what: WhatIf) -> Iterator[None]:
    """While inside, the model routes under the edits. An expert that is forced has the largest score of its token."""
    taps = instrumented(model)[what.layer].taps

    def scores(logits: Tensor) -> Tensor:
        E = logits.shape[-1]
        if len(what.forbid) >= E:
            raise BadValue(f"all {E} experts are forbidden: allow at least one")
        changed = logits.clone()
        for expert, value in what.bias.items():
            changed[..., expert] += value
        for expert in what.forbid:
            changed[..., expert] = -torch.inf
        if what.force is not None:
            changed[..., what.force] = changed.amax(-1) + 1e-3
        return changed

    with ExitStack() as stack:
        if (what.forbid or what.force is not None or what.bias) and "logits" in taps:
            stack.enter_context(explorer.edit(model, f"{what.layer}/logits", scores))
        if what.clamp is not None and "weights" in taps:
            clamp = what.clamp
            stack.enter_context(
                explorer.edit(model, f"{what.layer}/weights", lambda w: torch.where(w != 0, clamp, 0.0).to(w.dtype))
            )
        yield


@dataclass(frozen=True)
class Outcome:
    """loss on the probe; steps of one token (tap -> its values); next: the most probable next tokens and their share."""

    loss: float
    steps: dict[str, Tensor]
    next: list[tuple[str, float]]
    moved: float = 0.0  # share of the probe's tokens that have other experts than without the edits


def outcomes(
    experiment: Experiment, batch: Batch, what: WhatIf, token: tuple[int, int]
) -> tuple[Outcome, Outcome | None]:
    """(as it is, under the edits or None) for a batch of held-out data and one of its tokens (sequence, position)."""
    plain, index = _look(experiment, batch, what, token, edit=False)
    if what.empty:
        return plain, None
    changed, other = _look(experiment, batch, what, token, edit=True)
    moved = (index.sort(-1).values != other.sort(-1).values).any(-1).float().mean()
    return plain, replace(changed, moved=float(moved))


def _look(
    experiment: Experiment, batch: Batch, what: WhatIf, token: tuple[int, int], edit: bool
) -> tuple[Outcome, Tensor]:
    router = instrumented(experiment.model)[what.layer]
    wanted = [name for name, axes in router.taps.items() if axes in ("B T E", "B T K")]
    outputs: list[Tensor] = []
    hook = experiment.model.register_forward_hook(lambda _m, _i, out: outputs.append(out))
    try:
        with edited(experiment.model, what) if edit else ExitStack():
            loss, seen = experiment.examine(batch, [f"{what.layer}/{name}" for name in wanted])
    finally:
        hook.remove()
    taps = {name: seen.last(f"{what.layer}/{name}") for name in wanted}
    b, t = token
    steps = {name: value[b, t].float() for name, value in taps.items()}
    return Outcome(loss, steps, _next(experiment, outputs[-1], b, t)), taps["index"]


def _next(experiment: Experiment, outputs: Tensor, b: int, t: int, most: int = 4) -> list[tuple[str, float]]:
    """What the model expects after the token; of points, what it makes of them."""
    if experiment.data.kind != "tokens":
        values = outputs.reshape(-1, outputs.shape[-1])[max(b, t)]
        return [(f"output {i}", float(value)) for i, value in enumerate(values[:most])]
    share, token = outputs[b, t].softmax(-1).topk(most)
    return list(zip(experiment.data.decode(token), share.tolist(), strict=True))


def table(plain: Outcome, changed: Outcome | None) -> tuple[list[str], list[list[Any]]]:
    """(column names, one row an expert): every tap over the experts in the order of the computation, then the choice."""
    columns, rows = ["expert"], [[e] for e in range(_experts(plain))]
    for outcome, suffix in ((plain, ""), (changed, " edited")):
        if outcome is None:
            continue
        for name, values in outcome.steps.items():
            if name in ("index", "weights", "choice") or len(values) != len(rows):
                continue
            columns.append(name + suffix)
            for row, value in zip(rows, values.tolist(), strict=True):
                row.append(value)
        chosen = outcome.steps["index"].long().tolist()
        weight = outcome.steps["weights"].tolist()
        columns += ["chosen" + suffix, "weight" + suffix]
        for e, row in enumerate(rows):
            place = chosen.index(e) if e in chosen else None
            row += [None if place is None else place + 1, 0.0 if place is None else weight[place]]
    return columns, rows


def _experts(outcome: Outcome) -> int:
    wide = [len(values) for name, values in outcome.steps.items() if name in ("logits", "probs")]
    return max([*wide, int(outcome.steps["index"].max()) + 1])
