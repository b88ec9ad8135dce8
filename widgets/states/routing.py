"""The state of the routing lab: what can be chosen in it."""

from collections.abc import Mapping
from typing import Any

import traitlets as t

import explorer
from explorer.catalogue import Knob
from explorer.tasks import Clusters, Digits, Field, OdeFamilies, Text
from widgets.states.compare import CompareState
from widgets.states.lab import LabState, OwnTask
from widgets.states.presets import PRESETS

SETTINGS = ("learning_rate", "batch", "layers", "expert_width", "router_rate")  # of the host: as controls
OF_THE_LANGUAGE_MODEL = ("layers", "expert_width")  # the host of vectors has one layer of linear experts
OF_A_ROUTER = ("expert_width", "router_rate")  # what is more than a choice brings experts of its own,
OF_THE_LAYERS = ("layers",)  # and a stack its own depth
FASTER = {"learning_rate": 1e-2}  # a linear problem bears more


OWN_TASKS = {
    "mixture-of-modules": OwnTask(
        "text",
        "This mechanism is a whole stack of layers, with a depth of its own: that is why there is no control for layers. "
        "In the first picture a column is a token and a row a step: do all tokens take the same way through the modules? "
        "Click a token further down to see another text.",
    ),
    "moeut": OwnTask(
        "text",
        "This mechanism is a whole stack of layers, with a depth of its own: that is why there is no control for layers. "
        "In the first picture a column is a token and a row a step; steps of the same letter share their experts: does a "
        "token take the same expert again when it comes back?",
    ),
    "kmeans-gating": OwnTask(
        "ode-families",
        "This mechanism is shown on its own task, pieces of motion of three kinds of systems: watch in the first picture "
        "whether each kind gets experts that no other kind has.",
    ),
    "hash-experts": OwnTask(
        "field",
        "This mechanism is shown on its own task, a picture on the plane: watch in the first picture how the painting comes "
        "nearer to the picture, and who paints the grain.",
    ),
    "adversarial-moe": OwnTask(
        "digits",
        "This mechanism is shown on its own task, handwritten digits that an attacker changes a little: watch in the first "
        "picture how many are still right under attack, and whether it is the router or the experts that is fooled.",
    ),
}


class RoutingState(LabState):
    """One page of the routing lab."""

    MECHANISM = "topk-softmax"
    TASK = "text"
    TASKS = {
        "text": ("real text: English, Python, markup, data", Text),
        "clusters": ("8 clusters in the plane", lambda: Clusters(dimensions=2)),
        "clusters-16": ("8 clusters in 16 dimensions", Clusters),
        "field": ("a picture on the plane: smooth left, grained right", Field),
        "digits": ("handwritten digits: which one is it?", Digits),
        "ode-families": ("pieces of motion: three kinds of systems", lambda: OdeFamilies(window=30)),
    }
    OWN_TASKS = OWN_TASKS
    TASK_SETTINGS = {
        "clusters": FASTER,
        "clusters-16": FASTER,
        "field": {"learning_rate": 2e-2, "batch": 16},  # tables are filled place by place
        "digits": {**FASTER, "batch": 2},
        "ode-families": {**FASTER, "n_experts": 10},  # a family has several phases
    }
    PARTS = {
        "mechanism": "the menu of mechanisms", "task": "the menu of tasks", "seed": "the seed", "layer": "the layer shown",
        "buttons": "Train, Pause, Step, Reset", "speed": "the speed", "scrub": "the step shown", "presets": "the presets",
        "knobs": "all knobs", "beside": "the run beside", "whatif": "what if", "data": "one's own data", "export": "saving",
        "comparing": "comparing routers", "code": "the mechanism's file", "about": "the mechanism", "advice": "what to look at",
        **dict.fromkeys((
            "loss", "load", "balance", "entropy", "map", "percentiles", "drops", "bias", "specialisation", "coactivation",
            "cosine", "plane", "margins", "path", "strip", "decisions", "both", "difference", "usage", "field", "families",
            "attack"), "a picture"),
    }  # fmt: skip

    comparison = t.Instance(CompareState, ())

    def mechanisms(self) -> list[str]:
        return explorer.names("routing")

    def settings(self) -> list[str]:
        return [name for name in SETTINGS if self.task == "text" or name not in OF_THE_LANGUAGE_MODEL]

    def knobs(self, mechanism: str | None = None) -> dict[str, Knob]:
        """Without the host's settings that mean nothing to this mechanism."""
        card = explorer.spec(mechanism or self.mechanism)
        idle = {"router": (), "stack": (*OF_A_ROUTER, *OF_THE_LAYERS)}.get(card.slot, OF_A_ROUTER)
        return {name: knob for name, knob in super().knobs(card.name).items() if name in card.knobs or name not in idle}

    def defaults(self, mechanism: str) -> dict[str, Any]:
        """How many experts a task asks for is meant for routers, not for what brings experts of its own."""
        found, card = super().defaults(mechanism), explorer.spec(mechanism)
        if card.slot != "router" and "n_experts" in found:
            found["n_experts"] = card.knobs["n_experts"].default
        return found

    def link(self) -> str:
        return "&".join(filter(None, [super().link(), self.comparison.link()]))

    def _read(self, query: str) -> None:
        query, notices = self.comparison.read(query, self.mechanisms())
        super()._read(query)
        self.notices = [*self.notices, *notices]

    def presets(self) -> Mapping[str, Mapping[str, Any]]:
        return {name: preset.settings for name, preset in PRESETS.items()}

    def make_task(self) -> Any:
        if self.task == "text" and (self.domains or self.own):
            return Text(domains=self.domains or None, texts=dict(self.own) or None)
        return super().make_task()


TASKS = RoutingState.TASKS
