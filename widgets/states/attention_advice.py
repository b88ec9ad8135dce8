"""What to look at in the attention lab now: a sentence or two, from the numbers of the step that is looked at."""

import torch

from widgets.states import attention_special as special
from widgets.states.attention_view import Scene

SINK = 0.3  # of a head's attention on the first token: the eps of arXiv:2410.10781
QUIET = 0.6  # of the usual length of a value: looking there says little
KNOWS = 0.9  # AUC of a gate that is a detector


def advice(s: Scene) -> str:
    """Sink, learned sink or none; and what the gate knows."""
    if s.step == 0:
        return "Press Train. Every head begins by looking at all tokens alike; watch which of them stop doing so."
    said = [*_of_the_answers(s), *_of_the_mechanism(s), *([_of_the_sink(s)] if s.has_a_first else []), *_of_the_gate(s)]
    return (
        " ".join(said)
        or "Watch the map of a head change: each row is a position, and its colours say where that one looks."
    )


def _of_the_answers(s: Scene) -> list[str]:
    if s.moment.right is None or special.has_tasks(s):
        return []
    return [f"{s.moment.right:.0%} of {special.PICTURES} held-out digits are read correctly (guessing: 10%)."]


def _of_the_sink(s: Scene) -> str:
    m, name = s.moment, s.names[s.strongest]
    share = float(m.first[s.strongest])
    nowhere = float(m.elsewhere.nan_to_num(0).max())
    if nowhere > SINK:
        where = s.names[int(m.elsewhere.argmax())]
        return (
            f"{where.capitalize()} gives {nowhere:.0%} of its attention to nobody, and no head gives more than {share:.0%} "
            "to the first token: where attention may go nowhere, no token has to be the place for it."
        )
    if share <= max(SINK, 2 * s.even):
        grown = "Not a sink, or not yet" if share > 2 * s.even else "No sink"
        return (
            f"{grown}: the head that looks most at the first token gives it {share:.0%}, where even attention would give "
            f"{s.even:.0%}."
        )
    found = f"A sink: where {name} has nothing to look for, it spends {share:.0%} of its attention on the first token."
    ratio = value_ratio(s, s.strongest)
    if ratio < QUIET:
        found += f" The value it finds there is {ratio:.2f} times as long as the others: looking there says little."
    return found


def _of_the_mechanism(s: Scene) -> list[str]:
    """What is special about the mechanism, as it stands."""
    if special.leaves_its_place(s):
        gate, far = special.places(s)
        low, most = int(gate[-1].argmin()), int(far[-1].argmax())
        return [
            f"Gates began at {float(gate[0].max()):.2f}: looking by place. That of {s.names[low]} is now at "
            f"{float(gate[-1].min()):.2f} (0 is by content alone). {s.names[most].capitalize()} looks farthest, "
            f"{float(far[-1, most]):.1f} patches on average."
        ]
    if special.has_tasks(s):
        accuracy, names = special.learnt(s)
        return [
            f"{len(accuracy)} of {len(names)} tasks have begun. Of their digits {float(accuracy[-1].nanmean()):.0%} are right "
            f"if one says which task a digit is of, and {s.moment.right:.0%} if nobody does."
        ]
    if special.has_blocks(s):
        one = special.blocks(s)
        return [
            f"The blocks that the gate of {s.head.name} chose, {one.density:.0%} of each row, hold {one.recall:.0%} of its "
            "attention."
        ]
    if special.has_near_and_far(s):
        near, far = (float(torch.cat(s.own(tap)).mean()) for tap in ("near", "far"))
        return [f"{far / (near + far):.0%} of what a position gets comes from far away, the rest from its own group."]
    if special.is_memory(s):
        size = float(torch.cat(s.own("metastable")).median())
        return [f"In the model a query mixes {size:.0f} keys, as a rule: the fewest that hold 90 % of its attention."]
    return []


def _of_the_gate(s: Scene) -> list[str]:
    if s.moment.gate is None or len(s.probe.kinds) < 2:
        return []
    best = int(s.detectors.nan_to_num(0.5).argmax())
    auc, kind = float(s.detectors[best]), s.probe.kinds[-1]
    if auc < KNOWS:
        return [f"No gate tells {kind} tokens from the others yet (AUC {auc:.2f} at best; 0.5 is a coin)."]
    return [
        f"The gate of {s.names[best]} knows when it is needed: it tells {kind} tokens from the others with AUC {auc:.2f}."
    ]


def value_ratio(s: Scene, head: int) -> float:
    """Length of the first token's value beside the mean of the others'."""
    values = s.moment.values
    if values is None or values.shape[1] < 2:
        return 1.0
    return float(values[head, 0] / values[head, 1:].mean().clamp(min=1e-12))
