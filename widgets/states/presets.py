"""Pathologies of routing, ready-made: settings that show each on any seed, what to watch, and what repairs it.

Every sentence and number here was measured on three seeds beside a control; the tests run each once more.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from explorer.errors import unknown


@dataclass(frozen=True)
class Repair:
    """What cures it in the middle of a run: live knobs and their values, and after how many further steps it shows."""

    knobs: Mapping[str, Any]
    steps: int
    words: str


@dataclass(frozen=True)
class Preset:
    """`settings` are those of a lab's link: mechanism, task, knobs. `evidence`: reading -> its value for seeds 0, 1, 2.

    steps: when it shows, and when `evidence` was read. MaxVio and drops are of the worst layer over 20 steps; dead: without
    a token for 30 steps; swing: spread of the loads over 40 steps, in fair shares; loss and NMI on held-out data. There
    "... control" is the same run with `control` instead, at the same step, and "... repaired" the run itself,
    `repair.steps` after its repair.
    """

    name: str
    title: str
    watch: str
    settings: Mapping[str, Any]
    steps: int
    repair: Repair | None = None
    control: Mapping[str, Any] = field(default_factory=dict)
    evidence: Mapping[str, tuple[float, float, float]] = field(default_factory=dict)


def find(name: str) -> Preset:
    """The preset of that name; UnknownName suggests the nearest one."""
    if name not in PRESETS:
        raise unknown("preset", name, PRESETS)
    return PRESETS[name]


_ALL = (
    Preset(
        name="healthy",
        title="Healthy: even loads, low loss",
        watch="In the picture of loads the eight lines come together near the dashed fair share within 150 steps and stay.",
        settings={"mechanism": "topk-softmax", "task": "text", "aux_loss": 0.03},
        steps=200,
        evidence={
            "MaxVio": (0.34, 0.18, 0.29),
            "dead experts": (0, 0, 0),
            "held-out loss": (2.44, 2.47, 2.5),
            "NMI": (0.04, 0.04, 0.05),
        },
    ),
    Preset(
        name="collapse",
        title="Collapse: a few experts take everything",
        watch="In the picture of loads one line per layer climbs to half of all tokens or more within 100 steps, and "
        "most of the others sink to the bottom.",
        settings={
            "mechanism": "switch", "task": "text", "aux_loss": 0.0, "capacity_factor": 8.0, "router_rate": 10.0,
        },
        steps=150,
        repair=Repair({"aux_loss": 1.0}, 60, "Raise aux_loss to 1: within 60 steps the lines are together."),
        control={"aux_loss": 0.1},
        evidence={
            "MaxVio": (6.83, 4.63, 4.98),
            "MaxVio control": (0.07, 0.21, 0.19),
            "MaxVio repaired": (0.13, 0.18, 0.07),
            "dead experts": (6, 2, 3),
            "dead experts control": (0, 0, 0),
            "dead experts repaired": (0, 0, 0),
        },
    ),
    Preset(
        name="dead-expert",
        title="Dead experts: nobody ever asks them",
        watch="After about 150 steps two or three colours are missing on the decision map: these experts get no point "
        "at all, while the others share the eight clusters and the loss falls.",
        settings={"mechanism": "topk-softmax-raw", "task": "clusters", "k": 1, "aux_loss": 0.0, "z_loss": 0.0},
        steps=200,
        repair=Repair({"aux_loss": 1.0}, 100, "Raise aux_loss to 1: within 100 steps every expert has points again."),
        control={"aux_loss": 1.0},
        evidence={
            "dead experts": (3, 2, 3),
            "dead experts control": (0, 0, 0),
            "dead experts repaired": (0, 0, 0),
            "steps without a token": (163, 200, 200),
            "MaxVio": (1.06, 1.13, 1.82),
            "held-out loss": (0.081, 0.129, 0.154),
            "held-out loss control": (0.207, 0.2, 0.191),
        },
    ),
    Preset(
        name="token-dropping",
        title="Token dropping: experts too small for their queue",
        watch="From the first step on more than half of the tokens get no expert (the picture of drops, and the tokens "
        "without a colour in the strip), although the loads look even.",
        settings={"mechanism": "switch", "task": "text", "capacity_factor": 0.5},
        steps=100,
        repair=Repair({"capacity_factor": 2.0}, 20, "Raise capacity_factor to 2: at once over nine tokens in ten are served."),
        control={"capacity_factor": 2.0},
        evidence={
            "dropped": (0.59, 0.59, 0.58),
            "dropped control": (0.03, 0.05, 0.08),
            "dropped repaired": (0.06, 0.06, 0.02),
            "MaxVio": (0.21, 0.22, 0.2),
            "held-out loss": (2.84, 2.86, 2.9),
            "held-out loss control": (2.82, 2.84, 2.87),
        },
    ),
    Preset(
        name="oscillation",
        title="Oscillation: the tokens move as one herd",
        watch="From step 50 on the lines of the loads cross all the time: at every other step another expert has three "
        "times its fair share, though over 50 steps all get the same.",
        settings={"mechanism": "topk-softmax-raw", "task": "text", "k": 1, "aux_loss": 1.0, "z_loss": 1.0},
        steps=120,
        repair=Repair(
            {"z_loss": 0.001, "aux_loss": 0.1}, 80,
            "Lower z_loss to 0.001 and aux_loss to 0.1: within 80 steps the loads swing less than half as far.",
        ),
        control={"aux_loss": 0.1, "z_loss": 0.001},
        evidence={
            "swing": (1.53, 1.51, 1.58),
            "swing control": (0.42, 0.49, 0.46),
            "swing repaired": (0.56, 0.68, 0.57),
            "MaxVio of a step": (3.42, 3.35, 3.49),
            "MaxVio of a step control": (0.67, 0.87, 0.84),
            "autocorrelation at 4 steps": (-0.26, -0.22, -0.22),
            "held-out loss": (3.33, 3.35, 3.3),
            "held-out loss control": (2.74, 2.7, 2.71),
        },
    ),
    Preset(
        name="over-balancing",
        title="Over-balancing: perfectly even, and nobody an expert",
        watch="Up to step 200 the loads are as even as they can be, while specialisation stays near 0.6 and the loss "
        "near 0.13; a balancing loss of 0.01 would by then have 0.85 and half the loss.",
        settings={"mechanism": "topk-softmax", "task": "clusters-16", "aux_loss": 10.0},
        steps=200,
        repair=Repair({"aux_loss": 0.01}, 100, "Lower aux_loss to 0.01: within 100 steps specialisation passes 0.8."),
        control={"aux_loss": 0.01},
        evidence={
            "MaxVio": (0.02, 0.03, 0.02),
            "MaxVio control": (0.65, 0.48, 0.29),
            "NMI": (0.64, 0.62, 0.66),
            "NMI control": (0.83, 0.84, 0.89),
            "NMI repaired": (0.87, 0.87, 0.83),
            "held-out loss": (0.124, 0.136, 0.125),
            "held-out loss control": (0.076, 0.08, 0.065),
            "held-out loss repaired": (0.062, 0.068, 0.066),
        },
    ),
)  # fmt: skip
PRESETS = {preset.name: preset for preset in _ALL}
