"""What to look at: one to three sentences about a run as it stands, the most important first, from its recording alone.

Each rule's threshold stands between what the ready-made pathologies of `presets` show and what their controls show, on
three seeds; the tests hold it there.
"""

import math
from dataclasses import dataclass

import numpy as np
from torch import Tensor

from explorer.experiment import Experiment
from widgets.states.routing_view import short_layer

NOW = 20  # steps that a share of tokens is taken over
COURSE = 40  # steps that a swing is looked for in
PAST = 400  # steps that are looked back over, at most, for an expert's last token
IDLE = 30  # steps without a token before an expert counts as dead
DROPPED = 0.1  # share of the slots
CROWDED = 3.0  # times the fair share: collapse, ...
FEW = 0.6  # ... if the load is spread like an even one over less than this share of the experts: exp(entropy) / E
UNEVEN = 1.4  # times the fair share: worth a word. Tokens of a text come in runs, so 1.2 is an even router's noise
SWING = 0.95  # of a fair share, root mean square over experts and steps (a healthy start reaches 0.8), and ...
ABOVE_NOISE = 5.0  # ... times what tokens thrown at random would show, and ...
CHANGES = 0.6  # ... share of the steps at which another expert becomes the busiest
AT_LEAST = 0.5  # of the balancing loss, before it can be too much
SETTLED = 0.2  # normalised entropy of a token's probabilities: a softmax so sure hardly learns
UNDECIDED = 0.75  # ... and from here the router hardly tells experts apart: 1 is a coin toss

START = (
    "Press Train. In the picture of loads every line is one expert: the share of the tokens it gets. Do the lines stay near "
    "the dashed fair share, or do a few experts take everything?"
)
EVEN = (
    "Every expert gets about its fair share of the tokens, in every layer. Look next at what each has specialised in: the "
    "loads do not say."
)


@dataclass(frozen=True)
class Seen:
    """What the rules read, of the L layers that have as many experts (E) as the first: layers of a host are alike.

    now: (L, E), mean load of the newest steps, 1 being the fair share; counts: (L, S, E), S of at most PAST steps, the
    newest last; empty: (L, S), slots without an expert; end: how many steps lie up to the one looked at.
    """

    run: Experiment
    names: list[str]
    E: int
    now: np.ndarray
    counts: np.ndarray
    empty: np.ndarray
    end: int

    def times_fair(self, steps: int) -> np.ndarray:
        """(L, S, E): load of each expert at each of the newest steps, 1 being its fair share."""
        load = self.counts[:, -steps:]
        return load / np.maximum(load.mean(-1, keepdims=True), 1e-9)


def advice(run: Experiment, now: Tensor, step: int | None = None) -> list[str]:
    """Sentences about the run at a step (None: the newest); `now` is `recent_load`'s (L, E) at that step."""
    seen = _see(run, now, step)
    if seen is None:
        return [START]
    swings = _swing(seen)
    loads = swings or _collapse(seen) or [*_dead(seen), *_uneven(seen)]
    return [*_dropped(seen), *loads, *_over_balanced(seen)][:3] or [EVEN]


def _see(run: Experiment, now: Tensor, step: int | None) -> Seen | None:
    recording = run.recording
    layers = recording.layers()
    if not layers or not len(now):
        return None
    steps, first = recording.counts(layers[0])
    E = first.shape[1]
    end = len(steps) if step is None else int(np.searchsorted(steps.numpy(), step, side="right"))
    if end < 5:
        return None
    alike = [layer for layer in layers if recording.experts(layer) == E]
    rows = np.stack([recording.series["loads"][layer].rows()[max(0, end - PAST) : end].numpy() for layer in alike])
    names, here = [short_layer(one) for one in alike], [layer in alike for layer in layers]
    return Seen(run, names, E, now.numpy()[here, :E] * E, rows[..., 2:], rows[..., 1], end)


# -- the rules -----------------------------------------------------------------------------------------------------------
def _dropped(seen: Seen) -> list[str]:
    capacity = seen.run.knobs.get("capacity_factor")
    if capacity is None:  # where experts choose tokens, one without an expert was not dropped
        return []
    empty = seen.empty[:, -NOW:].sum(1)
    share = empty / np.maximum(empty + seen.counts[:, -NOW:].sum((1, 2)), 1)
    layer = int(share.argmax())
    if share[layer] < DROPPED:
        return []
    more = 2 if capacity < 2 else min(2 * capacity, seen.E)
    return [
        f"In {seen.names[layer]}, {share[layer]:.0%} of the tokens find their expert full and get none: only the residual "
        f"stream carries them on. Raise capacity_factor from {capacity:g} to {more:g}{_or_balance(seen)}."
    ]


def _swing(seen: Seen) -> list[str]:
    load = seen.times_fair(COURSE)
    if load.shape[1] < COURSE or seen.E < 2:
        return []
    swing = np.sqrt(np.square(load - load.mean(1, keepdims=True)).mean((1, 2)))
    top = load.argmax(-1)
    changes = (top[:, 1:] != top[:, :-1]).mean(1)
    layer = int(np.where(changes >= CHANGES, swing, 0.0).argmax())
    if changes[layer] < CHANGES or swing[layer] < max(SWING, ABOVE_NOISE * _noise(seen, layer)):
        return []
    peak = float(load[layer].max(-1).mean())
    return [
        f"The loads of {seen.names[layer]} swing: in the last {COURSE} steps the busiest expert changed "
        f"{int((top[layer, 1:] != top[layer, :-1]).sum())} times, and whichever it was held {peak:.1f} times its fair share, "
        f"{swing[layer] / _noise(seen, layer):.0f} times as much to and fro as chance.",
        f"The tokens move as one herd from expert to expert: {_calm(seen)}.",
    ]


def _collapse(seen: Seen) -> list[str]:
    load = seen.now
    layer = int(load.max(1).argmax())
    top, starved = float(load[layer].max()), int((load[layer] < 0.1).sum())
    if top < min(CROWDED, 0.75 * seen.E) or _spread(load[layer]) > FEW:
        return []
    others = f", and {starved} of {seen.E} get next to nothing" if starved else ""
    return [
        f"Collapse in {seen.names[layer]}: expert {int(load[layer].argmax())} takes {top:.1f} times its fair share{others}.",
        f"Who gets no tokens does not learn, and is chosen even less.{_raise_balance(seen)}",
    ]


def _spread(load_E: np.ndarray) -> float:
    """How many experts an even load would need to be as varied as this one, as a share of all: 1/E to 1."""
    share = load_E / max(load_E.sum(), 1e-9)
    return float(np.exp(-(share * np.log(np.maximum(share, 1e-12))).sum()) / len(load_E))


def _dead(seen: Seen) -> list[str]:
    idle = _idle(seen)
    dead = idle >= IDLE
    if not dead.any():
        return []
    layer = int(dead.sum(1).argmax())
    who = dead[layer].nonzero()[0].tolist()
    steps = int(idle[layer].max())
    subject = f"expert {who[0]} has" if len(who) == 1 else f"experts {_listed(who)} have"
    most = "" if len(who) == 1 else "up to "
    return [
        f"In {seen.names[layer]}, {subject} taken nothing for {most}{steps} steps, while the busiest takes "
        f"{float(seen.now[layer].max()):.1f} times its fair share: without tokens there is no learning.{_raise_balance(seen)}"
    ]


def _uneven(seen: Seen) -> list[str]:
    load = seen.now
    layer = int(load.max(1).argmax())
    top = float(load[layer].max())
    if top < UNEVEN or bool((_idle(seen) >= IDLE).any()):
        return []
    return [
        f"In {seen.names[layer]} the busiest expert, {int(load[layer].argmax())}, takes {top:.1f} times its fair share, the "
        f"idlest {float(load[layer].min()):.2f} times: uneven, but no collapse."
    ]


def _over_balanced(seen: Seen) -> list[str]:
    weight = float(seen.run.knobs.get("aux_loss", 0.0))
    pull = weight * len(seen.names)  # an even load has an auxiliary loss of 1 a layer
    even = float(seen.now.max()) < UNEVEN
    if not even or pull < AT_LEAST or (undecided := _undecided(seen)) < UNDECIDED:
        return []
    loss = float(seen.run.losses()[: seen.end][-NOW:].mean())
    if pull < loss:
        return []
    return [
        f"The loads are even, at a price: the balancing loss counts {pull:.3g} where the task's loss is {loss:.2g}, and "
        f"the router hardly tells experts apart (token entropy {undecided:.2f}; 1 is a coin toss), so they cannot specialise.",
        "Lower aux_loss to 0.01, and watch loss and token entropy fall.",
    ]


# -- what they share -----------------------------------------------------------------------------------------------------
def _undecided(seen: Seen) -> float:
    """Mean token entropy of the newest steps in all layers; 0.5, which says nothing, where no probabilities were recorded."""
    series = seen.run.recording.series["routing"].values()
    return float(np.mean([one.rows()[: seen.end][-NOW:, 1].mean() for one in series])) if series else 0.5


def _idle(seen: Seen) -> np.ndarray:
    """(L, E): steps since each expert got a token, at most PAST."""
    S = seen.counts.shape[1]
    taken = seen.counts[:, ::-1] > 0  # the newest step first
    return np.where(taken.any(1), taken.argmax(1), S)


def _noise(seen: Seen, layer: int) -> float:
    """Standard deviation of one expert's load, 1 being its fair share, if tokens were thrown at random."""
    filled = float(seen.counts[layer, -COURSE:].sum(-1).mean())
    k = min(seen.E, max(1.0, float(seen.run.knobs.get("k", 1))))
    return math.sqrt(max(1e-9, seen.E - k) / max(1.0, filled))


def _raise_balance(seen: Seen) -> str:
    if "aux_loss" not in seen.run.knobs:
        return ""
    weight = float(seen.run.knobs["aux_loss"])
    if weight >= 1:
        return " The balancing loss is strong: give it some more steps."
    return f" Raise aux_loss to {_stronger(seen):g} while it trains and watch the lines come together."


def _or_balance(seen: Seen) -> str:
    weight = float(seen.run.knobs.get("aux_loss", 1.0))
    return f", or aux_loss to {_stronger(seen):g} for an evener choice" if weight < 0.1 else ""


def _stronger(seen: Seen) -> float:
    """0.1 is enough for a router that can still be moved; the task on points, or a softmax near 0 and 1, takes 1."""
    stubborn = seen.run.data.kind == "vectors" or _undecided(seen) < SETTLED
    return 1.0 if stubborn or float(seen.run.knobs["aux_loss"]) >= 0.1 else 0.1


def _calm(seen: Seen) -> str:
    weight = float(seen.run.knobs.get("aux_loss", 0.0))
    less = f"aux_loss to {0.1 if weight > 0.1 else 0.01:g}, so that it pulls less"
    if weight <= 0.01:
        return f"lower learning_rate from {seen.run.settings['learning_rate']:g} to a tenth"
    if float(seen.run.knobs.get("z_loss", 0.0)) > 0.01:
        return f"lower z_loss to 0.001, so that scores may differ, and {less}"
    return f"lower {less}"


def _listed(numbers: list[int], most: int = 6) -> str:
    if len(numbers) > most:
        return f"{', '.join(map(str, numbers[:most]))} and {len(numbers) - most} more"
    return f"{', '.join(map(str, numbers[:-1]))} and {numbers[-1]}"
