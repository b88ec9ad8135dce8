"""The state of the attention lab: what can be chosen in it."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import explorer
from explorer.catalogue import Knob
from explorer.experiment import Experiment
from explorer.tasks import BigramBackcopy, Text, task
from widgets.states.attention_presets import PRESETS
from widgets.states.lab import MOST_MEMORY, LabState, OwnTask, Side

SETTINGS = ("learning_rate", "batch", "layers", "feed_forward")  # of the host: as controls
FEED_FORWARD = Knob("glu", "what stands between two layers of attention", choices=("glu", "none"))
BACKCOPY = {"learning_rate": 1e-2, "batch": 16, "layers": 1, "n_heads": 2, "feed_forward": "none"}
# What the smallest runs that grow a sink need besides, and nobody needs to turn: heads that begin silent (N(0, 0.02), as
# in GPT-2), and a head of the model with weights of its own.
SILENT = {"tied": False, "attention_scale": 0.16, "warmup": 50}
PICTURES = {"learning_rate": 2e-3, "batch": 32, "layers": 3}

PATTERN = (
    "The task: every token hints at the next one, and after a trigger (marked !) the token before the trigger comes again. "
    "So a head is needed at triggers, where it has to look back by one, and nowhere else."
)
ABOUT_TASKS = {
    "bigram-backcopy": PATTERN,
    "no-triggers": "The task: every token hints at the next one, and nothing else. There is nothing to look back for.",
    "no-bos": PATTERN + " Sequences begin with any token here, not with one (BOS) that is always first.",
    "selective-copy": "The task: a few tokens stand among noise (dots), and the model has to write them down at the end, in "
    "order. Where they stand is different every time.",
    "text": "The task: the next byte of pieces of English, Python, markup and data.",
    "digit-patches": "The task: which digit is it? The model sees a picture of 8 x 8 points as 16 patches in a row; r0 c1 is "
    "the patch in row 0, column 1.",
    "split-digits": "The task: which digit is it? First come 0 and 1, 200 steps later 2 and 3 instead, and so on.",
    "two-tones": "The task: which two sounds is this mixture made of? At its beginning the first one is heard alone.",
}  # for who has never seen them


def _named(name: str, **settings: Any) -> Any:
    """How a task of the catalogue is made, which is looked up when it is."""
    return lambda: replace(task(name), **settings)


OWN_TASKS = {
    "gated-positional": OwnTask(
        "digit-patches",
        "This mechanism is shown on handwritten digits cut into patches. Every head begins by looking at one neighbouring "
        "patch, like a convolution. Watch in the first picture which gates leave that place, and in which layer.",
    ),
    "class-attention-gate": OwnTask(
        "split-digits",
        "This mechanism is shown on digits that come two classes at a time; what is past never comes back. Watch in the "
        "first picture how much of the earlier tasks is still known.",
    ),
    "joint-gated-attention": OwnTask(
        "two-tones",
        "This mechanism is shown on a mixture of two sounds, which it has to take apart. Watch in the first picture what it "
        "looks at nearby and what it takes from far away.",
    ),
    "block-gate": OwnTask(
        "selective-copy",
        "This mechanism learns, beside the model, which blocks of the attention map are worth computing. Watch in the first "
        "picture how its guess comes nearer to the true map.",
    ),
}


class AttentionState(LabState):
    """One page of the attention lab."""

    MECHANISM = "softmax-attention"
    TASK = "bigram-backcopy"
    TASKS = {
        "bigram-backcopy": ("pattern with triggers", BigramBackcopy),
        "no-triggers": ("pattern, no triggers", lambda: BigramBackcopy(trigger_share=0)),
        "no-bos": ("pattern, no first token", lambda: BigramBackcopy(bos=False)),
        "selective-copy": ("selective copying", _named("selective-copy")),
        "text": ("text in four languages", Text),
        "digit-patches": ("digits in patches", _named("digit-patches")),
        "split-digits": ("digits, two by two", _named("split-digits")),
        "two-tones": ("two sounds in one", _named("two-tones")),
    }
    TASK_SETTINGS = {
        "bigram-backcopy": BACKCOPY,
        "no-triggers": BACKCOPY,
        "no-bos": BACKCOPY,
        "selective-copy": {"batch": 16},
        "digit-patches": PICTURES,
        "split-digits": PICTURES,
        "two-tones": {"layers": 1, "feed_forward": "none"},
    }
    OWN_TASKS = OWN_TASKS
    PARTS = {
        "mechanism": "the menu of mechanisms", "task": "the menu of tasks", "seed": "the seed", "layer": "the head shown",
        "buttons": "Train, Pause, Step, Reset", "speed": "the speed", "scrub": "the step shown", "presets": "the presets",
        "knobs": "all knobs", "beside": "the run beside", "whatif": "what if", "long": "long inputs", "export": "saving",
        "code": "the mechanism's file", "about": "the mechanism", "advice": "what to look at",
        **dict.fromkeys((
            "loss", "birth", "shares", "map", "received", "entropy", "gates", "kinds", "values", "massive", "locality",
            "blocks", "energy", "regimes", "tasks", "joint", "paper", "both"), "a picture"),
    }  # fmt: skip

    def mechanisms(self) -> list[str]:
        return explorer.names("attention")

    def settings(self) -> list[str]:
        return list(SETTINGS)

    def knobs(self, mechanism: str | None = None) -> dict[str, Knob]:
        """Without `causal`, which the task decides."""
        found = super().knobs(mechanism)
        return {
            name: FEED_FORWARD if name == "feed_forward" else knob for name, knob in found.items() if name != "causal"
        }

    def presets(self) -> Mapping[str, Mapping[str, Any]]:
        return {name: preset.settings for name, preset in PRESETS.items()}

    def _fits(self, one: Side, values: Mapping[str, Any]) -> bool:
        """Nor may a value of the host's be one that this lab does not offer."""
        knobs, asked = self.knobs(one.mechanism), dict(values)
        offered = all(
            knobs[name].choices is None or asked[name] in knobs[name].choices for name in asked if name in knobs
        )
        return offered and super()._fits(one, asked)

    def _experiment(self, side: Side) -> Experiment:
        hidden = SILENT if self.task in ("bigram-backcopy", "no-triggers", "no-bos") else {}
        return Experiment(
            side.mechanism,
            task=self.make_task(),
            seed=self.seed,
            most_memory=MOST_MEMORY,
            **{**hidden, **side.values},
        )


TASKS = AttentionState.TASKS
