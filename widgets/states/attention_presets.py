"""Runs of the attention lab worth seeing, ready-made: what is set, and what to watch."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class AttentionPreset:
    """`settings` are those of a lab's link: mechanism, task, knobs, and with "b" and "b." the run beside."""

    title: str
    watch: str
    settings: Mapping[str, Any]


PRESETS = {
    "sink": AttentionPreset(
        "A sink is born",
        "The pattern is learned within 200 steps. Watch the first column of the map go on growing after that, until step 1000 "
        "or so: where a head has nothing to copy, it looks at the first token, whose value is nearly nothing.",
        {"mechanism": "softmax-attention", "task": "bigram-backcopy"},
    ),
    "gate": AttentionPreset(
        "A gate makes the sink unnecessary",
        "A and B learn the same pattern as well as each other. B's heads have a gate each: it opens for triggers and shuts for "
        "the rest. A shut head says nothing wherever it looks, so B needs no sink.",
        {
            "mechanism": "softmax-attention",
            "task": "bigram-backcopy",
            "b": "gated-attention",
            "b.granularity": "headwise",
        },
    ),
    "learned": AttentionPreset(
        "A sink of its own",
        "B's heads have a learned sink: a place that takes attention and gives nothing. Watch the attention go there, and the "
        "first token stay an ordinary one.",
        {"mechanism": "softmax-attention", "task": "bigram-backcopy", "b": "sink-logit"},
    ),
    "sigmoid": AttentionPreset(
        "No sum, no sink",
        "B's weights are sigmoids, one for each pair of tokens. They need not sum to one, so a head with nothing to do simply "
        "looks nowhere.",
        {"mechanism": "softmax-attention", "task": "bigram-backcopy", "b": "sigmoid-attention"},
    ),
    "nothing-to-do": AttentionPreset(
        "Control: nothing to copy, no sink",
        "Without triggers a head is never needed, so nothing teaches it when to be quiet. Attention stays even: no sink grows.",
        {"mechanism": "softmax-attention", "task": "no-triggers"},
    ),
    "no-first-token": AttentionPreset(
        "Control: no token that is always first",
        "Here the first token is an ordinary one, another in every sequence. Watch whether a sink grows all the same.",
        {"mechanism": "softmax-attention", "task": "no-bos"},
    ),
}
