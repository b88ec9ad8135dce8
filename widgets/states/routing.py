"""The state of the routing lab: what can be chosen in it."""

from collections.abc import Mapping
from typing import Any

import explorer
from explorer.tasks import Clusters, Text
from widgets.states.lab import LabState
from widgets.states.presets import PRESETS

SETTINGS = ("learning_rate", "batch", "layers", "expert_width", "router_rate")  # of the host: as controls
OF_THE_LANGUAGE_MODEL = ("layers", "expert_width")  # the host of vectors has one layer of linear experts
FASTER = {"learning_rate": 1e-2}  # a linear problem bears more


class RoutingState(LabState):
    """One page of the routing lab."""

    MECHANISM = "topk-softmax"
    TASK = "text"
    TASKS = {
        "text": ("real text: English, Python, markup, data", Text),
        "clusters": ("8 clusters in the plane", lambda: Clusters(dimensions=2)),
        "clusters-16": ("8 clusters in 16 dimensions", Clusters),
    }
    TASK_SETTINGS = {"clusters": FASTER, "clusters-16": FASTER}
    PARTS = {
        "mechanism": "the menu of mechanisms", "task": "the menu of tasks", "seed": "the seed", "layer": "the layer shown",
        "buttons": "Train, Pause, Step, Reset", "speed": "the speed", "scrub": "the step shown", "presets": "the presets",
        "knobs": "all knobs", "beside": "the run beside", "whatif": "what if", "data": "one's own data", "export": "saving",
        "code": "the mechanism's file", "about": "the mechanism", "advice": "what to look at",
        **dict.fromkeys((
            "loss", "load", "balance", "entropy", "map", "percentiles", "drops", "bias", "specialisation", "coactivation",
            "cosine", "plane", "margins", "path", "strip", "decisions", "both", "difference"), "a picture"),
    }  # fmt: skip

    def mechanisms(self) -> list[str]:
        return explorer.names("routing")

    def settings(self) -> list[str]:
        return [name for name in SETTINGS if self.task == "text" or name not in OF_THE_LANGUAGE_MODEL]

    def presets(self) -> Mapping[str, Mapping[str, Any]]:
        return {name: preset.settings for name, preset in PRESETS.items()}

    def make_task(self) -> Any:
        if self.task == "text" and (self.domains or self.own):
            return Text(domains=self.domains or None, texts=dict(self.own) or None)
        return super().make_task()


TASKS = RoutingState.TASKS
