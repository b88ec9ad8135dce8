"""The routing lab: a tiny mixture of experts trains live, and every decision of its routers is on the page."""

import os
import time
from collections.abc import Callable
from typing import Any

import ipywidgets as W
import torch

import explorer
from explorer.errors import ExplorerError
from explorer.experiment import Experiment
from explorer.tasks import Batch
from explorer.training import calibrate_threads
from explorer.training.live import LiveTrainer
from widgets.figures import balance, entropy, load_map, load_over_steps, loss_curve, specialisation
from widgets.labs.code import show_the_code
from widgets.labs.controls import control
from widgets.labs.frame import HEADLESS, STYLE, error_card, escape, guarded, notices, text, theme_of
from widgets.states import routing_view as view
from widgets.states.routing import TASKS, RoutingState
from widgets.views import Chart, DecisionMap, TokenStrip

CHART_SECONDS = 0.1  # charts are redrawn at most ten times a second
CANVAS_SECONDS = 1 / 30
PROBE_SHARE = 0.04  # of the time may go into looking at the probe, however slow the machine


def dashboard(state: RoutingState | None = None) -> W.Widget:
    """The whole page as one widget; without a state, that of the link the page was opened by."""
    query = os.environ.get("QUERY_STRING", "")
    if state is None:
        state = RoutingState(query)
        state.theme = theme_of(query)
    return RoutingLab(state).widget


class RoutingLab:
    """Wires state, figures and views; `trainer` runs the experiment."""

    def __init__(self, state: RoutingState) -> None:
        self.state, self.safe = state, guarded(state)
        self.threads = calibrate_threads()
        self.charts = {name: Chart(label=label) for name, label in CHARTS.items()}
        self.strip, self.map = TokenStrip(), DecisionMap()
        self.drawn = {"charts": 0.0, "probe": 0.0, "held out": 0.0}  # when it was, or when it is due
        self.experiment: Experiment
        self.trainer: LiveTrainer
        self._build_controls()
        self.widget = self._lay_out()
        self.reset()
        state.observe(self.safe(lambda _: self._relabel()), names=["mechanism"])
        state.observe(self.safe(lambda _: self._draw_charts()), names=["layer"])
        if HEADLESS:
            self.experiment.run(3)
            self.draw(last=True)

    # -- the run -----------------------------------------------------------------------------------------------------
    def reset(self) -> None:
        """A fresh run of what is set, at step 0, with the same seed."""
        if getattr(self, "trainer", None) is not None:
            self.trainer.pause()
            self.experiment.close()
        self.experiment = self.state.experiment()
        self.probe = view.Probe.of(self.experiment)
        self.points = Batch(*(part[::8] for part in self.probe.batch))  # of the decision map: enough to see, few to send
        self.held_out: tuple[list[int], list[float]] = ([], [])
        self.drawn = dict.fromkeys(self.drawn, 0.0)
        self.trainer = LiveTrainer(self.experiment, self.draw, self._failed, frame_seconds=CANVAS_SECONDS)
        layers = self.experiment.recorder.chosen if self.experiment.recorder else {}
        self.layers = [path for path, taps in layers.items() if "index" in taps]
        self.names = [view.short_layer(path) for path in self.layers]
        self.state.layer = min(self.state.layer, len(self.layers) - 1)
        self.layer.options = [(name, i) for i, name in enumerate(self.names)]
        self.layer.value = self.state.layer
        self._follow()
        self.draw(last=True)

    def train(self) -> None:
        self.state.error = None
        self.trainer.start()
        self._follow()

    def pause(self) -> None:
        self.trainer.pause()
        self._follow()

    def one_step(self) -> None:
        self.state.error = None
        self.trainer.pause()
        self.experiment.advance()
        self.draw(last=True)
        self._follow()

    def set_knob(self, name: str, value: Any) -> None:
        """A control was moved: a live knob acts at once; any other only before the first step."""
        if value == self.state.values.get(name):
            return
        try:
            self.state.assign(name, value)
        except ExplorerError:
            self.controls[name].value = self.state.values[name]
            raise
        if self.experiment.step == 0:
            self.reset()
        else:
            self.experiment.set(**{name: value})

    def choose(self, **what: str) -> None:
        """Another mechanism or task: a new run."""
        self.state.choose(**what)
        self._fill_knobs()
        self.reset()

    def choose_seed(self, seed: int) -> None:
        self.state.seed = seed
        self.reset()

    def _failed(self, error: Exception) -> None:
        def fail() -> None:
            raise error

        self.safe(fail)()
        self._follow()

    def _follow(self) -> None:
        """Bring the state, the buttons and what may be changed in line with the run."""
        running, started = self.trainer.running, self.experiment.step > 0
        self.state.running, self.state.step = running, self.experiment.step
        self.buttons["Train"].disabled = self.buttons["Step"].disabled = running
        self.buttons["Pause"].disabled = not running
        for name, one in self.controls.items():
            knob = self.state.knobs()[name]
            one.disabled = started and not knob.live
            one.tooltip = knob.meaning + (" (fixed while a run is under way: press Reset to change it)" if one.disabled else "")

    # -- drawing -----------------------------------------------------------------------------------------------------
    def draw(self, last: bool = False) -> None:
        """Draw what is due; `last` draws everything, because nothing will follow."""
        last = last or not self.trainer.running
        now = time.perf_counter()
        if last or now - self.drawn["charts"] >= CHART_SECONDS:
            self.drawn["charts"] = now
            self._draw_charts(force=last)
        if self.is_map and (last or self.map.ready):
            grid, margin, bounds = view.decision_map(self.experiment)
            self.map.show(grid, margin, self.points.inputs, self.points.labels, bounds, label_names=self.experiment.data.label_names,
                          n_experts=self.experiment.recording.experts(self.layers[0]))  # fmt: skip
        if last or now >= self.drawn["probe"]:
            self._draw_probe()
            spent = time.perf_counter() - now
            self.drawn["probe"] = now + max(CHART_SECONDS, spent / PROBE_SHARE)
        if last or now >= self.drawn["held out"]:
            self._measure_held_out(now)
        if last:
            self._follow()

    def _measure_held_out(self, now: float) -> None:
        """The loss on data that training never sees: every few seconds, and whenever the run stands still."""
        steps, losses = self.held_out
        if self.experiment.step and self.experiment.step not in steps:
            began = time.perf_counter()
            losses.append(self.experiment.examine(watch="*/index")[0])
            steps.append(self.experiment.step - 1)
            self.drawn["held out"] = now + max(3.0, (time.perf_counter() - began) / 0.01)

    @property
    def is_map(self) -> bool:
        return self.state.task == "clusters"

    def _draw_charts(self, force: bool = True) -> None:
        experiment = self.experiment
        recording, layer = experiment.recording, self.layers[self.state.layer]
        c = view.curves(experiment)
        unit = "nats/byte" if experiment.data.kind == "tokens" else "of the variance"
        load = c.load.get(layer, torch.zeros(0, recording.experts(layer)))
        now, floor = view.recent_load(recording), view.floor(experiment, layer)
        pictures: dict[str, Callable[[], Any]] = {
            "loss": lambda: loss_curve.as_dict(c.steps, c.loss, *self.held_out, unit=unit),
            "load": lambda: load_over_steps.as_dict(c.steps, load, title=f"Load of each expert, {self.names[self.state.layer]}"),
            "balance": lambda: balance.as_dict(c.steps, dict(zip(self.names, c.violation.values(), strict=False)), floor),
            "entropy": lambda: entropy.as_dict(c.steps, c.load_entropy.get(layer), c.token_entropy.get(layer)),
            "map": lambda: load_map.as_dict(now * now.shape[-1], self.names, step=experiment.step),
        }
        for name, picture in pictures.items():
            if force or self.charts[name].ready:
                self.charts[name].show(picture())
        self.advice.value = f"<p aria-live='off'>{escape(view.what_to_look_at(experiment, now))}</p>"
        self._draw_status()

    def _draw_probe(self) -> None:
        seen = view.routed(self.experiment, self.probe.batch)
        layer = self.state.layer
        names, E = self.experiment.data.label_names, self.experiment.recording.experts(self.layers[layer])
        share, nmi = view.shares(seen, layer, E, len(names))
        self.charts["specialisation"].show(specialisation.as_dict(share, names, nmi=nmi, layer=self.names[layer]))
        if self.experiment.data.kind == "tokens":
            tokens = [self.experiment.data.decode(row) for row in self.probe.batch.inputs]
            self.strip.show(tokens, seen.index, seen.weights, seen.margin, names=self.names, sequence_names=self.probe.names, n_experts=E)

    def _draw_status(self) -> None:
        values = view.status(self.experiment, self.trainer.steps_per_second, self.threads)
        self.status.value = "<p>" + " · ".join(f"{escape(k)} <b>{escape(str(v))}</b>" for k, v in values.items()) + "</p>"

    # -- the widgets -------------------------------------------------------------------------------------------------
    def _build_controls(self) -> None:
        self.mechanism = W.Dropdown(options=[(explorer.spec(n).title, n) for n in explorer.names("routing")], value=self.state.mechanism,
                                    description="mechanism", style={"description_width": "118px"})  # fmt: skip
        self.task = W.Dropdown(options=[(label, name) for name, (label, _) in TASKS.items()], value=self.state.task, description="task",
                               style={"description_width": "118px"})  # fmt: skip
        self.seed = W.BoundedIntText(value=self.state.seed, min=0, max=2**32 - 1, description="seed", style={"description_width": "118px"})
        self.layer = W.Dropdown(options=[], description="layer shown", style={"description_width": "118px"})
        self.mechanism.observe(self.safe(lambda e: self.choose(mechanism=e["new"])), names=["value"])
        self.task.observe(self.safe(lambda e: self.choose(task=e["new"])), names=["value"])
        self.seed.observe(self.safe(lambda e: self.choose_seed(e["new"])), names=["value"])
        self.layer.observe(self.safe(lambda e: self._choose_layer(e["new"])), names=["value"])
        actions = {"Train": self.train, "Pause": self.pause, "Step": self.one_step, "Reset": self.reset}
        self.buttons = {name: W.Button(description=name, tooltip=TOOLTIPS[name]) for name in actions}
        for name, action in actions.items():
            self.buttons[name].on_click(self.safe(lambda _, act=action: act()))
        self.buttons["Train"].button_style = "primary"
        self.knob_box = W.VBox().add_class("ge-knobs")
        self.status, self.advice = W.HTML().add_class("ge-status"), W.HTML().add_class("ge-text")
        self.about, self.code = W.HTMLMath(), W.VBox()
        self.controls: dict[str, W.ValueWidget] = {}
        self._fill_knobs()

    def _choose_layer(self, layer: int | None) -> None:
        if layer is not None:
            self.state.layer = layer
            self._draw_probe()

    def _fill_knobs(self) -> None:
        self.controls = {name: control(name, knob, self.state.values[name]) for name, knob in self.state.knobs().items()}
        for name, one in self.controls.items():
            one.observe(self.safe(lambda e, name=name: self.set_knob(name, e["new"])), names=["value"])
        self.knob_box.children = tuple(self.controls.values())
        self._relabel()

    def _relabel(self) -> None:
        spec = self.state.spec
        paper = f"{spec.paper.authors} ({spec.paper.year}), {spec.paper.title}, arXiv {spec.paper.arxiv}"
        self.about.value = f"<p>{escape(spec.summary)}</p><p>$${spec.equation}$$</p><p><small>{escape(paper)}</small></p>"
        self.code.children = (show_the_code(spec, self.state.theme),)

    def _lay_out(self) -> W.Widget:
        buttons = W.HBox(list(self.buttons.values())).add_class("ge-buttons")
        left = W.VBox([self.mechanism, self.task, self.seed, buttons, self.status, text("Knobs", "h2"), self.knob_box, self.layer])
        for name in ("map", "strip"):
            getattr(self, name).add_class("ge-wide")
        pictures = W.VBox([self.map, *self.charts.values(), self.strip]).add_class("ge-charts")
        self.state.observe(lambda _: self._only_what_fits(), names=["task"])
        self._only_what_fits()
        right = W.VBox([self.advice, pictures, self.about, self.code]).add_class("ge-main")
        head = [text("Routing lab", "h1"), text("Who gets the token? A tiny mixture of experts learns in front of you; every choice of its routers is recorded.")]
        body = W.HBox([left.add_class("ge-controls"), right]).add_class("ge-columns")
        return W.VBox([W.HTML(f"<style>{STYLE}</style>"), *head, notices(self.state), error_card(self.state), body]).add_class("ge-page")

    def _only_what_fits(self) -> None:
        self.strip.layout.display = "none" if self.state.task.startswith("clusters") else ""
        self.map.layout.display = "" if self.is_map else "none"


CHARTS = {
    "loss": "training loss", "load": "load of each expert over the steps", "balance": "violation of the balance", "entropy": "entropy of loads and tokens",
    "map": "load of every expert in every layer", "specialisation": "which domain goes to which expert",
}  # fmt: skip
TOOLTIPS = {
    "Train": "train until paused", "Pause": "stop after the step under way", "Step": "one training step",
    "Reset": "back to step 0 with the same seed",
}  # fmt: skip
