"""The state of the routing lab: what is set, what runs, and what is to be said about it."""

from collections.abc import Callable
from typing import Any

import traitlets as t

import explorer
from explorer.assembly import SETTINGS, split
from explorer.catalogue import Knob, Spec
from explorer.errors import ExplorerError, unknown
from explorer.experiment import Experiment
from explorer.tasks import Clusters, Text
from widgets.states import links

TASKS: dict[str, tuple[str, Callable[[], Any]]] = {
    "text": ("real text: English, Python, markup, data", Text),
    "clusters": ("8 clusters in the plane", lambda: Clusters(dimensions=2)),
    "clusters-16": ("8 clusters in 16 dimensions", Clusters),
}
SHOWN_SETTINGS = ("learning_rate", "batch", "layers", "expert_width", "router_rate")  # of the host: as controls
OF_THE_LANGUAGE_MODEL = ("layers", "expert_width")  # the host of vectors has one layer of linear experts
TASK_SETTINGS = {
    "clusters": {"learning_rate": 1e-2},
    "clusters-16": {"learning_rate": 1e-2},
}  # a linear problem bears more


class RoutingState(t.HasTraits):
    """One page. `mechanism`, `task`, `seed` and `values` (knobs and settings by name) say which run; the rest is its course."""

    mechanism = t.Unicode("topk-softmax")
    task = t.Unicode("text")
    seed = t.Int(0)
    values = t.Dict()

    running = t.Bool(False)
    step = t.Int(0)
    layer = t.Int(0)  # whose loads, specialisation and tokens are shown
    error = t.Dict(allow_none=True, default_value=None)  # {"title", "message"}
    notices = t.List(t.Unicode())
    theme = t.Enum(("light", "dark"), "light")

    def __init__(self, query: str = "") -> None:
        super().__init__()
        self.values = self.defaults()
        self._read(query)

    # -- which run ---------------------------------------------------------------------------------------------------
    @property
    def spec(self) -> Spec:
        return explorer.spec(self.mechanism)

    def knobs(self) -> dict[str, Knob]:
        """Every control of the page by name: the mechanism's knobs, then those of the host's settings that matter here."""
        shown = [name for name in SHOWN_SETTINGS if self.task == "text" or name not in OF_THE_LANGUAGE_MODEL]
        return {**self.spec.knobs, **{name: SETTINGS[name] for name in shown}}

    def defaults(self) -> dict[str, Any]:
        own = {name: knob.default for name, knob in self.knobs().items()}
        return own | TASK_SETTINGS.get(self.task, {})

    def experiment(self) -> Experiment:
        """A fresh run of what is set."""
        return Experiment(self.mechanism, task=TASKS[self.task][1](), seed=self.seed, **self.values)

    def choose(self, mechanism: str | None = None, task: str | None = None) -> None:
        """Change mechanism or task; values that both know are kept, the others take their defaults."""
        if mechanism is not None and mechanism not in explorer.names("routing"):
            raise unknown("mechanism of the routing lab", mechanism, explorer.names("routing"))
        if task is not None and task not in TASKS:
            raise unknown("task", task, TASKS)
        old, kept = self.defaults(), dict(self.values)
        with self.hold_trait_notifications():
            self.mechanism, self.task = mechanism or self.mechanism, task or self.task
            fresh = self.defaults()
            changed = {name: value for name, value in kept.items() if name in fresh and value != old.get(name)}
            self.values = fresh | changed

    def assign(self, name: str, value: Any) -> None:
        """One knob or setting, checked; the others stay."""
        knobs = self.knobs()
        if name not in knobs:
            raise unknown(f"knob of {self.mechanism}", name, knobs)
        merged = {**self.values, name: knobs[name].check(name, value)}
        self.spec.check({key: one for key, one in merged.items() if key in self.spec.knobs})
        self.values = merged

    # -- its link ----------------------------------------------------------------------------------------------------
    def link(self) -> str:
        """The query string that opens this page in this state."""
        state = {"mechanism": self.mechanism, "task": self.task, "seed": self.seed, **self.values}
        return links.write(state, {"mechanism": "topk-softmax", "task": "text", "seed": 0, **self.defaults()})

    def _read(self, query: str) -> None:
        given, notices = links.read(query)
        for name, change in (
            ("mechanism", lambda v: self.choose(mechanism=v)),
            ("task", lambda v: self.choose(task=v)),
        ):
            if name in given:
                notices += self._try(name, given.pop(name), change)
        if "seed" in given:
            notices += self._try("seed", given.pop("seed"), self._set_seed)
        typed = {name: _typed(value) for name, value in given.items()}
        if self._fits(typed):  # all at once: k=1 and n_experts=1 are right together, and wrong one after the other
            self.values = {**self.values, **typed}
        else:
            for name, value in typed.items():
                notices += self._try(name, value, lambda one, name=name: self.assign(name, one))
        self.notices = notices

    def _fits(self, values: dict[str, Any]) -> bool:
        try:
            split(self.spec, {**self.values, **values})
        except ExplorerError:
            return False
        return values.keys() <= self.knobs().keys()

    def _set_seed(self, value: Any) -> None:
        self.seed = Knob(0, "seed", low=0, high=2**32 - 1).check("seed", _typed(value))

    def _try(self, name: str, value: Any, change: Callable[[Any], None]) -> list[str]:
        try:
            change(value)
        except ExplorerError as error:
            return [f"{links.short(name)}={links.short(str(value))} was ignored: {links.short(str(error), 300)}"]
        return []


def _typed(text: Any) -> Any:
    """Of a link: "2" -> 2, "0.5" -> 0.5, "true" -> True, anything else as it is."""
    for kind in (int, float):
        try:
            return kind(text)
        except (TypeError, ValueError):
            continue
    return {"true": True, "false": False}.get(str(text).lower(), text)
