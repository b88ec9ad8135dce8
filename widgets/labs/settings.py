"""The page's part that says which runs: mechanism, task, seed, the knobs of A, and what runs beside it."""

from typing import TYPE_CHECKING, Any

import ipywidgets as W

import explorer
from widgets.labs.controls import Folded, button, control, dropdown, fix, whole_number
from widgets.labs.frame import text

if TYPE_CHECKING:
    from widgets.labs.lab import Lab

MATCHES = [("as it is set", "none"), ("the parameters of A", "parameters"), ("the FLOPs a token of A", "flops")]


class SettingsPart:
    """Menus and knobs of A; their values are the state's."""

    def __init__(self, lab: "Lab") -> None:
        self.lab = lab
        state = lab.state
        titles = [(explorer.spec(name).title, name) for name in state.mechanisms()]
        self.preset = dropdown(
            "preset", [("-", ""), *lab.preset_titles()], state.preset, "ready-made runs worth seeing"
        )
        self.mechanism = dropdown("mechanism", titles, state.mechanism)
        self.task = dropdown("task", [(label, name) for name, (label, _) in state.TASKS.items()], state.task)
        self.seed = whole_number("seed", state.seed, 0, 2**32 - 1)
        self.layer = dropdown(lab.SHOWN, [], None)
        for one, change in (
            (self.preset, lab.choose_preset),
            (self.mechanism, lambda value: lab.choose(mechanism=value)),
            (self.task, lambda value: lab.choose(task=value)),
            (self.seed, lab.choose_seed),
            (self.layer, lab.choose_layer),
        ):
            one.observe(lab.safe(lambda event, change=change: change(event["new"])), names=["value"])
        self.knobs = W.VBox().add_class("ge-knobs")
        self.controls: dict[str, W.ValueWidget] = {}
        self.parts = {
            "presets": self.preset, "mechanism": self.mechanism, "task": self.task, "seed": self.seed,
            "layer": self.layer, "knobs": W.VBox([text("Knobs", "h2"), self.knobs]),
        }  # fmt: skip

    def fill(self) -> None:
        """Controls for what is set."""
        self.controls = _knobs(self.lab, "a")
        self.knobs.children = tuple(self.controls.values())
        self.mechanism.value, self.task.value = self.lab.state.mechanism, self.lab.state.task
        self.seed.value, self.preset.value = self.lab.state.seed, self.lab.state.preset

    def show_layers(self, names: list[str]) -> None:
        layer = self.lab.state.layer
        options = [(name, i) for i, name in enumerate(names)]
        if list(self.layer.options) != options:
            self.layer.options = options
        self.layer.value = layer

    def follow(self) -> None:
        """While a run is under way, what cannot change says so."""
        _follow(self.lab, "a", self.controls)


class BesidePart:
    """What runs beside A, its knobs, and how its size is matched."""

    def __init__(self, lab: "Lab") -> None:
        self.lab, self._quiet = lab, False
        titles = [(explorer.spec(name).title, name) for name in lab.state.mechanisms()]
        self.menu = dropdown("run beside (B)", [("nothing", ""), *titles], "", "the same task and seed, step by step")
        self.match = dropdown(
            "B's size", MATCHES, lab.state.match, "fits B's expert width, so that the comparison is fair"
        )
        self.knobs = W.VBox().add_class("ge-knobs")
        self.swap = button("Remove B", "go on with A alone")
        self.controls: dict[str, W.ValueWidget] = {}
        self.menu.observe(lab.safe(lambda event: self._chosen(event["new"])), names=["value"])
        self.match.observe(lab.safe(lambda event: lab.set_match(event["new"])), names=["value"])
        self.swap.on_click(lab.safe(lambda _: lab.beside(None)))
        self.about = W.HTML().add_class("ge-text")
        self.inside = W.VBox([self.about, self.match, self.knobs, self.swap])
        self.widget = Folded("A beside B", self.menu, self.inside, unfolded=lab.state.b is not None)

    def _chosen(self, name: str) -> None:
        if not self._quiet:
            self.lab.beside(name or None)

    def fill(self) -> None:
        """Controls for B as it is set, or none."""
        state = self.lab.state
        self._quiet = True
        try:
            self.menu.value = state.b.mechanism if state.b else ""
        finally:
            self._quiet = False
        self.controls = _knobs(self.lab, "b") if state.b else {}
        self.knobs.children = tuple(self.controls.values())
        self.inside.layout.display = "" if state.b else "none"
        if state.b:
            self.widget.toggle.value = True

    def follow(self) -> None:
        state = self.lab.state
        forked = state.forked_at
        self.match.disabled = forked is not None
        said = "" if forked is None else f"B is A, forked at step {forked}: change one thing in it and train on."
        if self.about.value != said:
            self.about.value = said
        _follow(self.lab, "b", self.controls)


def _knobs(lab: "Lab", side: str) -> dict[str, W.ValueWidget]:
    one = lab.state.side(side)
    prefix = "B: " if side == "b" else ""
    made = {
        name: control(name, knob, one.values[name], prefix) for name, knob in lab.state.knobs(one.mechanism).items()
    }
    for name, widget in made.items():

        def changed(event: dict[str, Any], name: str = name) -> None:
            lab.set_knob(name, event["new"], side)

        widget.observe(lab.safe(changed), names=["value"])
    return made


def _follow(lab: "Lab", side: str, controls: dict[str, W.ValueWidget]) -> None:
    if not controls:
        return
    state_of = lab.state.side(side)
    knobs = lab.state.knobs(state_of.mechanism)
    started = lab.state.running or lab.state.step > 0
    for name, one in controls.items():
        fix(one, knobs[name], started and not knobs[name].live)
        if one.value != state_of.values[name]:
            one.value = state_of.values[name]  # a link's plan moved it
