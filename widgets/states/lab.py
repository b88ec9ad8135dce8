"""The state of a lab's page, which is also its link: which run, which run beside it, and how the page shows them.

A lab's own state says what can be chosen (mechanisms, tasks, settings shown, presets); the rules are the same for all.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import traitlets as t

import explorer
from explorer.assembly import SETTINGS, split
from explorer.catalogue import Knob, Spec
from explorer.errors import BadValue, ExplorerError, unknown
from explorer.experiment import Experiment
from widgets.states import links

MOST_STEPS = 2000  # that a link may ask for: a minute or two
SPEEDS = (0, 30, 10, 3, 1)  # steps a second; 0: as many as there is time for
MOST_MEMORY = 10**9  # bytes for one run: a link must not take the memory of everybody's machine
SEED = Knob(0, "seed", low=0, high=2**32 - 1)
STEPS = Knob(0, "steps", low=0, high=MOST_STEPS)


@dataclass(frozen=True)
class Side:
    """One run as it is set: the mechanism, and its knobs and the host's settings by name."""

    mechanism: str
    values: Mapping[str, Any]


@dataclass(frozen=True)
class OwnTask:
    """The task that makes a mechanism's effect visible, and what to watch there."""

    task: str
    watch: str


@dataclass(frozen=True)
class Change:
    """What was done in the middle of a run, before step `step`: a live knob of A or B moved, or A forked into B."""

    step: int
    side: str  # "a" or "b"
    name: str  # a knob, or "fork"
    value: Any = None

    def __str__(self) -> str:
        if self.name == "fork":
            return f"{self.step}:fork"
        return f"{self.step}:{'b.' if self.side == 'b' else ''}{self.name}={self.value}"


class LabState(t.HasTraits):
    """One page. `a` and `b` (None: nothing beside A) are the runs as their controls stand; the rest is course and view."""

    MECHANISM: ClassVar[str]  # what an empty link opens
    TASK: ClassVar[str]
    TASKS: ClassVar[Mapping[str, tuple[str, Callable[..., Any]]]]  # name -> (what a menu says, how it is made)
    TASK_SETTINGS: ClassVar[Mapping[str, Mapping[str, Any]]] = {}  # settings that a task asks for
    OWN_TASKS: ClassVar[Mapping[str, OwnTask]] = {}  # of mechanisms that the usual task does not show
    PARTS: ClassVar[Mapping[str, str]] = {}  # what `hide=` may name -> what it is

    _task_is_named = False  # while a link is read that names one

    a = t.Instance(Side)
    b = t.Instance(Side, allow_none=True, default_value=None)
    task = t.Unicode()
    seed = t.Int(0)
    match = t.Enum(("none", "parameters", "flops"), "none")  # what B's width is fitted to equal, of A's
    domains = t.Tuple()  # of the built-in text; (): all
    own = t.Tuple()  # ((name, text), ...) of the user's

    started = t.Tuple()  # (a, b) as they were at step 0
    changes = t.List(t.Instance(Change))  # since then
    planned = t.List(t.Instance(Change))  # what a link asks to be done when its step comes
    steps = t.Int(0)  # that a link asks to be taken at once

    running = t.Bool(False)
    step = t.Int(0)
    cursor = t.Int(-1)  # the step looked at; -1: the newest
    layer = t.Int(0)
    speed = t.Enum(SPEEDS, 0)
    theme = t.Enum(("light", "dark"), "light")
    large = t.Bool(False)
    hide = t.Tuple()
    preset = t.Unicode("")
    error = t.Dict(allow_none=True, default_value=None)  # {"title", "message"}
    notices = t.List(t.Unicode())

    def __init__(self, query: str = "") -> None:
        super().__init__(task=self.TASK, a=Side(self.MECHANISM, {}))
        self.a = Side(self.MECHANISM, self.defaults(self.MECHANISM))
        self._read(query)
        self.begin()

    # -- what can be chosen: a lab's own ----------------------------------------------------------------------------
    def mechanisms(self) -> list[str]:
        """Those that this lab shows."""
        raise NotImplementedError

    def settings(self) -> list[str]:
        """The host's settings that have controls for the task that is set."""
        raise NotImplementedError

    def presets(self) -> Mapping[str, Mapping[str, Any]]:
        """Name -> settings (mechanism, task, knobs; b and b.<knob> of what runs beside)."""
        return {}

    def make_task(self) -> Any:
        """The task that is set."""
        return self.TASKS[self.task][1]()

    # -- which run ---------------------------------------------------------------------------------------------------
    @property
    def mechanism(self) -> str:
        """A's."""
        return self.a.mechanism

    @property
    def values(self) -> Mapping[str, Any]:
        """A's."""
        return self.a.values

    @property
    def spec(self) -> Spec:
        """A's."""
        return explorer.spec(self.a.mechanism)

    def side(self, name: str) -> Side:
        """The run called "a" or "b"."""
        found = {"a": self.a, "b": self.b}.get(name)
        if found is None:
            raise BadValue(f"there is no run {name.upper()} beside A: choose a mechanism for it, or fork")
        return found

    def knobs(self, mechanism: str | None = None) -> dict[str, Knob]:
        """Every control of a run by name: the mechanism's knobs, then those of the host's settings that matter here."""
        own = explorer.spec(mechanism or self.mechanism).knobs
        return {**own, **{name: SETTINGS[name] for name in self.settings() if name not in own}}

    def defaults(self, mechanism: str) -> dict[str, Any]:
        """Of the task that is set."""
        knobs = self.knobs(mechanism)
        asked = self.TASK_SETTINGS.get(self.task, {})
        return {name: asked.get(name, knob.default) for name, knob in knobs.items()}

    def experiments(self) -> tuple[Experiment, Experiment | None]:
        """Fresh runs of what is set: A, and B where there is one."""
        a = self._experiment(self.a)
        if self.b is None:
            return a, None
        return a, self._matched(self._experiment(self.b), a)

    def experiment(self) -> Experiment:
        """A fresh run A of what is set."""
        return self._experiment(self.a)

    def _experiment(self, side: Side) -> Experiment:
        return Experiment(side.mechanism, task=self.make_task(), seed=self.seed, most_memory=MOST_MEMORY, **side.values)

    def _matched(self, b: Experiment, a: Experiment) -> Experiment:
        """B with the feed-forward width at which it has A's size."""
        if self.match == "none":
            return b
        from explorer.assembly import matched_width, width_knob

        width = matched_width(b, self.match, float(getattr(a.count(), self.match)))
        return Experiment(b.spec.name, task=b.task, seed=self.seed, **{**b.given, width_knob(b.spec): width})

    def choose(self, mechanism: str | None = None, task: str | None = None, side: str = "a") -> None:
        """Change mechanism or task; values that both know are kept, the others take their defaults.

        A mechanism that is chosen for A without a task brings its own; the next one does not keep that.
        """
        if mechanism is not None and mechanism not in self.mechanisms():
            raise unknown("mechanism of this lab", mechanism, self.mechanisms())
        if mechanism is not None and task is None and side == "a" and not self._task_is_named:
            task = self._task_of(mechanism)
        if task is not None and task not in self.TASKS:
            raise unknown("task", task, self.TASKS)
        old = {name: self.defaults(one.mechanism) for name, one in (("a", self.a), ("b", self.b)) if one}
        if task is not None:
            self.task = task
        for name, before in old.items():
            one = self.side(name)
            fresh = mechanism if name == side and mechanism else one.mechanism
            setattr(self, name, Side(fresh, _carried(one.values, before, self.defaults(fresh))))

    def _task_of(self, mechanism: str) -> str:
        own, left = self.OWN_TASKS.get(mechanism), self.OWN_TASKS.get(self.mechanism)
        if own is not None:
            return own.task
        return self.TASK if left is not None and left.task == self.task else self.task

    @property
    def own_task(self) -> OwnTask | None:
        """What A is shown on, where it is a task of its own and is set."""
        own = self.OWN_TASKS.get(self.mechanism)
        return own if own is not None and own.task == self.task else None

    def beside(self, mechanism: str | None) -> None:
        """What runs beside A: another mechanism with A's values where it knows them, or nothing."""
        if mechanism is None:
            self.b = None
            return
        if mechanism not in self.mechanisms():
            raise unknown("mechanism of this lab", mechanism, self.mechanisms())
        self.b = Side(mechanism, _carried(self.a.values, self.defaults(self.a.mechanism), self.defaults(mechanism)))

    def assign(self, name: str, value: Any, side: str = "a") -> None:
        """One knob or setting, checked; the others stay."""
        one = self.side(side)
        knobs = self.knobs(one.mechanism)
        if name not in knobs:
            raise unknown(f"knob of {one.mechanism}", name, knobs)
        merged = {**one.values, name: knobs[name].check(name, value)}
        own = explorer.spec(one.mechanism)
        own.check({key: value for key, value in merged.items() if key in own.knobs})
        setattr(self, side, replace(one, values=merged))

    def forget(self, notice: str) -> None:
        """Back to what an empty link opens, and say so."""
        self.task, self.b, self.planned, self.own, self.domains = self.TASK, None, [], (), ()
        self.a = Side(self.MECHANISM, self.defaults(self.MECHANISM))
        self.notices = [*self.notices, notice]

    # -- its course ----------------------------------------------------------------------------------------------------
    def begin(self) -> None:
        """At step 0: what is set now is what the run starts with."""
        self.started, self.changes, self.step = (self.a, self.b), [], 0

    def noted(self, step: int, side: str, name: str, value: Any = None) -> None:
        """Something was done in the middle of the run."""
        self.changes = [*self.changes, Change(step, side, name, value)]

    @property
    def forked_at(self) -> int | None:
        """The step at which B left A; None where B is a run of its own, or is not."""
        return next((one.step for one in reversed(self.changes) if one.name == "fork"), None)

    # -- its link ----------------------------------------------------------------------------------------------------
    def link(self) -> str:
        """The query string that opens this page in this state: the same runs, at the same step."""
        a, b = self.started if self.step else (self.a, self.b)
        if self.forked_at is not None:
            b = None
        own = self.OWN_TASKS.get(a.mechanism)
        state: dict[str, Any] = {"mechanism": a.mechanism, "task": self.task, "seed": self.seed, **a.values}
        plain: dict[str, Any] = {
            "mechanism": self.MECHANISM,
            "task": own.task if own else self.TASK,  # what the mechanism brings need not be named
            "seed": 0,
            **self.defaults(a.mechanism),
        }
        if b is not None:
            state |= {"b": b.mechanism, **{f"b.{name}": value for name, value in b.values.items()}}
            like_a = _carried(a.values, self.defaults(a.mechanism), self.defaults(b.mechanism))
            plain |= {f"b.{name}": value for name, value in like_a.items()}
        view = {"match": self.match, "speed": self.speed, "layer": self.layer, "domains": ",".join(self.domains)}
        view |= {"hide": ",".join(self.hide), "large": int(self.large), "steps": min(self.step, MOST_STEPS)}
        view |= {"cursor": self.cursor, "do": ",".join(map(str, self.changes))}
        nothing = {"match": "none", "speed": 0, "layer": 0, "domains": "", "hide": "", "large": 0, "steps": 0}
        return links.write({**state, **view}, {**plain, **nothing, "cursor": -1, "do": ""})

    def _read(self, query: str) -> None:
        given, notices = links.read(query)
        self._task_is_named = given.get("task") in self.TASKS
        first: list[tuple[str, Callable[[str], None]]] = [
            ("preset", self.set_preset),
            ("task", lambda v: self.choose(task=v)),
            ("mechanism", lambda v: self.choose(mechanism=v)),
        ]
        last: list[tuple[str, Callable[[str], None]]] = [
            ("seed", lambda v: setattr(self, "seed", SEED.check("seed", typed(v)))),
            ("match", lambda v: setattr(self, "match", _one_of("match", v, ("none", "parameters", "flops")))),
            ("speed", lambda v: setattr(self, "speed", _one_of("speed", typed(v), SPEEDS))),
            ("layer", lambda v: setattr(self, "layer", Knob(0, "", low=0, high=1000).check("layer", typed(v)))),
            ("large", lambda v: setattr(self, "large", bool(_one_of("large", typed(v), (0, 1))))),
            ("steps", lambda v: setattr(self, "steps", STEPS.check("steps", typed(v)))),
            ("cursor", lambda v: setattr(self, "cursor", Knob(0, "", low=-1, high=10**9).check("cursor", typed(v)))),
            ("domains", self._set_domains),
            ("hide", self._set_hide),
        ]
        plan = given.pop("do", "")
        own = {name for name, _ in last} | {"b"}
        for name, change in first:
            notices += self._try(name, given.pop(name, None), change)
        later = {name: given.pop(name) for name in list(given) if name in own or name.startswith("b.")}
        notices += self._assign_all({name: typed(value) for name, value in given.items()}, "a")
        notices += self._try("b", later.pop("b", None), self.beside)
        notices += self._assign_all({n[2:]: typed(later.pop(n)) for n in list(later) if n.startswith("b.")}, "b")
        for name, change in last:
            notices += self._try(name, later.pop(name, None), change)
        for one in filter(None, plan.split(",")):
            notices += self._try("do", one, self._plan)
        self._task_is_named, self.notices = False, notices

    def _assign_all(self, values: dict[str, Any], side: str) -> list[str]:
        """All at once where they fit together (k=1 and n_experts=1 are right together), else one after the other."""
        one = self.b if side == "b" else self.a
        if one is not None and values and self._fits(one, values):
            setattr(self, side, replace(one, values={**one.values, **values}))
            return []
        prefix = "b." if side == "b" else ""
        said = [
            self._try(prefix + name, value, lambda new, name=name: self.assign(name, new, side))
            for name, value in values.items()
        ]
        return [line for lines in said for line in lines]

    def _fits(self, one: Side, values: dict[str, Any]) -> bool:
        try:
            split(explorer.spec(one.mechanism), {**one.values, **values})
        except ExplorerError:
            return False
        return values.keys() <= self.knobs(one.mechanism).keys()

    def set_preset(self, name: str) -> None:
        presets = self.presets()
        if name not in presets:
            raise unknown("preset", name, presets)
        settings = dict(presets[name])
        self.b = None
        self.choose(mechanism=settings.pop("mechanism", None), task=settings.pop("task", None))
        self.a = replace(self.a, values=self.defaults(self.a.mechanism))
        self.beside(settings.pop("b", None))
        of_b = {key[2:]: settings.pop(key) for key in list(settings) if key.startswith("b.")}
        if complaints := self._assign_all(settings, "a") + self._assign_all(of_b, "b"):
            raise BadValue(complaints[0])
        self.preset = name

    def _set_domains(self, value: str) -> None:
        from explorer.tasks.sources import DOMAINS

        chosen = tuple(value.split(","))
        for one in chosen:
            if one not in DOMAINS:
                raise unknown("domain", one, DOMAINS)
        self.domains = tuple(name for name in DOMAINS if name in chosen)

    def _set_hide(self, value: str) -> None:
        known = {*self.PARTS, *self.knobs()}
        names = value.split(",")
        self.hide = tuple(name for name in names if name in known)
        if wrong := [name for name in names if name not in known]:
            raise unknown("part of this page", wrong[0], known)

    def _plan(self, text: str) -> None:
        step, _, what = text.partition(":")
        at = STEPS.check("step", typed(step))
        if what == "fork":
            self.planned = [*self.planned, Change(at, "a", "fork")]
            return
        name, _, value = what.partition("=")
        side, name = ("b", name[2:]) if name.startswith("b.") else ("a", name)
        knobs = self.knobs(None if side == "a" or self.b is None else self.b.mechanism)
        if name not in knobs:
            raise unknown("knob", name, knobs)
        if not knobs[name].live:
            raise BadValue(f"{name} cannot change in the middle of a run")
        self.planned = [*self.planned, Change(at, side, name, knobs[name].check(name, typed(value)))]

    def _try(self, name: str, value: Any, change: Callable[[Any], None]) -> list[str]:
        if value is None:
            return []
        try:
            change(value)
        except ExplorerError as error:
            return [f"{links.short(name)}={links.short(str(value))} was ignored: {links.short(str(error), 300)}"]
        return []


def _carried(values: Mapping[str, Any], old: Mapping[str, Any], fresh: Mapping[str, Any]) -> dict[str, Any]:
    """`fresh` defaults, with those values that were changed and that are known here too."""
    return {**fresh, **{name: value for name, value in values.items() if name in fresh and value != old.get(name)}}


def _one_of(name: str, value: Any, choices: tuple[Any, ...]) -> Any:
    return Knob(choices[0], "", choices=choices).check(name, value)


def typed(text: Any) -> Any:
    """Of a link: "2" -> 2, "0.5" -> 0.5, "true" -> True, anything else as it is."""
    for kind in (int, float):
        try:
            return kind(text)
        except (TypeError, ValueError):
            continue
    return {"true": True, "false": False}.get(str(text).lower(), text)
