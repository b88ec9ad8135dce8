"""The routing lab: a tiny mixture of experts trains live, and every decision of its routers is on the page."""

import os
import time
from collections.abc import Callable
from typing import Any

import ipywidgets as W
import torch

import explorer
from explorer.experiment import Experiment
from explorer.tasks import Batch
from explorer.training import calibrate_threads
from explorer.training.live import LiveTrainer
from widgets.figures import balance, entropy, load_map, load_over_steps, loss_curve, specialisation
from widgets.labs.code import show_the_code
from widgets.labs.controls import control, dropdown, whole_number
from widgets.labs.frame import HEADLESS, error_card, escape, guarded, notices, page, text, theme_of
from widgets.states import routing_view as view
from widgets.states.routing import TASKS, RoutingState
from widgets.views import Chart, DecisionMap, TokenStrip

CHART_SECONDS = 0.118  # charts are redrawn eight and a half times a second
CANVAS_SECONDS = 1 / 30
PROBE_SHARE = 0.03  # of the time may go into looking at the probe, however slow the machine,
HELD_OUT_SHARE = 0.01  # and into the loss on the held-out data,
HELD_OUT_SECONDS = 3.0  # which is measured no more often than this
ALONE_SECONDS = (
    60.0  # a run that nobody has looked at for so long is paused: its page was closed, and the server has others
)
CHARTS = {
    "loss": "Loss",
    "load": "Load of each expert over the steps",
    "balance": "Imbalance",
    "entropy": "Entropy of the load and of a token's choice",
    "map": "Utilisation of every expert in every layer",
    "specialisation": "Specialisation: which domain goes to which expert",
}
BUTTONS = {
    "Train": "train until paused",
    "Pause": "stop after the step under way",
    "Step": "take one training step",
    "Reset": "go back to step 0 with the same seed",
}
INTRODUCTION = (
    "Who gets the token? A tiny mixture of experts learns in front of you: for every token, a router picks a few of its "
    "experts. Press Train, then move a knob."
)


def dashboard(state: RoutingState | None = None) -> W.Widget:
    """The whole page as one widget; without a state, that of the link the page was opened by."""
    if state is None:
        query = os.environ.get("QUERY_STRING", "")
        state = RoutingState(query)
        state.theme = theme_of(query)
    if HEADLESS:
        lab = RoutingLab(state)
        lab.experiment.run(3)
        lab.draw()
        return lab.widget
    lab_or_none = guarded(state)(RoutingLab)(state)
    return lab_or_none.widget if lab_or_none else page("Routing lab", INTRODUCTION, error_card(state))


class RoutingLab:
    """Wires the state, the trainer and the views; nothing is kept in a widget that the state does not hold."""

    experiment: Experiment
    trainer: LiveTrainer | None = None
    started_at = 0.0  # when Train was last pressed, on the clock of time.monotonic

    def __init__(self, state: RoutingState) -> None:
        self.state, self.safe = state, guarded(state)
        self.threads = calibrate_threads()
        self.charts = {name: Chart(label=label) for name, label in CHARTS.items()}
        self.strip, self.map = (
            TokenStrip(),
            DecisionMap(label="Which expert the router gives each point of the plane to"),
        )
        self.due = {"charts": 0.0, "probe": 0.0, "held out": 0.0}  # when each is to be drawn next
        self._make_controls()
        self.widget = self._lay_out()
        self._show_mechanism()
        self.reset()

    # -- the run -------------------------------------------------------------------------------------------------
    def reset(self) -> None:
        """A fresh run of what is set, at step 0, with the same seed."""
        fresh = self.state.experiment()  # first: if it cannot be made, the old run stays
        if self.trainer is not None:
            self.trainer.pause()
            self.experiment.close()
        self.experiment = fresh
        self.trainer = LiveTrainer(fresh, self.draw, self._failed, frame_seconds=CANVAS_SECONDS)
        self.layers = fresh.recorder.routers() if fresh.recorder else []
        self.names = [view.short_layer(path) for path in self.layers]
        self.probe = view.Probe.of(fresh)
        self.points = Batch(
            *(part[:256] for part in self.probe.batch)
        )  # of the decision map: enough to see, few to send
        self.held_out: tuple[list[int], list[float]] = ([], [])
        self.due = dict.fromkeys(self.due, 0.0)
        self.state.layer = min(self.state.layer, len(self.layers) - 1)
        self.layer.options = [(name, i) for i, name in enumerate(self.names)]
        self.layer.value = self.state.layer
        self.strip.layout.display = "" if fresh.data.kind == "tokens" else "none"
        self.map.layout.display = "" if self.is_map else "none"
        self.draw()

    def train(self) -> None:
        """Begin, or go on."""
        self.state.error = None
        self.started_at = time.monotonic()
        self._trainer.start()
        self._follow()

    def pause(self) -> None:
        """Stop after the step under way, and draw everything as it then is."""
        self._trainer.pause()
        self._follow()

    def one_step(self) -> None:
        """Pause, then take one step."""
        self.state.error = None
        self._trainer.pause()
        self.experiment.advance()
        self.draw()

    def set_knob(self, name: str, value: Any) -> None:
        """A control was moved: a live knob acts from the next step on; any other starts the run anew, before its first step."""
        if value == self.state.values.get(name):
            return
        try:
            self.state.assign(name, value)
            if self.experiment.step and self.state.knobs()[name].live:
                self.experiment.set(**{name: value})
            else:
                self.reset()
        finally:
            self.controls[name].value = self.state.values[name]  # as it was, if the value was refused

    def choose(self, **what: str) -> None:
        """Another mechanism or task: a new run."""
        self.state.choose(**what)
        self._fill_knobs()
        self._show_mechanism()
        self.reset()

    def choose_seed(self, seed: int) -> None:
        """Another seed: a new run."""
        self.state.seed = seed
        self.reset()

    def choose_layer(self, layer: int | None) -> None:
        """Which layer the pictures are about; None while the menu is being filled."""
        if layer is not None and layer != self.state.layer:
            self.state.layer = layer
            self.draw()

    @property
    def _trainer(self) -> LiveTrainer:
        assert self.trainer is not None
        return self.trainer

    def _failed(self, error: Exception) -> None:
        """The run ended with an error, outside of any callback: say so in the same card."""

        def fail() -> None:
            raise error

        self.safe(fail)()
        self._follow()

    def _follow(self) -> None:
        """Bring the state, the buttons and what may be changed in line with the run."""
        running = self._trainer.running
        started = running or self.experiment.step > 0
        self.state.running, self.state.step = running, self.experiment.step
        self.buttons["Train"].disabled = self.buttons["Step"].disabled = running
        self.buttons["Pause"].disabled = not running
        for name, one in self.controls.items():
            knob = self.state.knobs()[name]
            one.disabled = started and not knob.live
            one.tooltip = knob.meaning + (
                " (fixed while a run is under way: press Reset first)" if one.disabled else ""
            )

    # -- drawing -------------------------------------------------------------------------------------------------
    @property
    def is_map(self) -> bool:
        """Whether the inputs are points of a plane."""
        return self.experiment.data.kind == "vectors" and self.experiment.data.width == 2

    def draw(self) -> None:
        """Draw what is due, or everything when the run stands still, because nothing would follow."""
        if self._trainer.running and self._alone():
            self.pause()  # which draws everything, for whoever comes back
            return
        everything, now = not self._trainer.running, time.perf_counter()
        if self.is_map and (everything or self.map.ready):
            self._draw_map()
        if everything or now >= self.due["held out"]:
            self._measure_held_out()
        if everything or now >= self.due["probe"]:
            self._draw_probe()
            self.due["probe"] = now + max(CHART_SECONDS, (time.perf_counter() - now) / PROBE_SHARE)
        if everything or now >= self.due["charts"]:
            self.due["charts"] = max(now, self.due["charts"] + CHART_SECONDS)
            self._draw_charts(everything)
        if everything:
            self._follow()

    def _alone(self) -> bool:
        """Whether no view has drawn a frame for a minute."""
        seen = [one.last_acknowledged for one in (*self.charts.values(), self.strip, self.map)]
        newest = max([self.started_at, *(one for one in seen if one is not None)])
        return time.monotonic() - newest > ALONE_SECONDS

    def _draw_charts(self, everything: bool) -> None:
        run, i = self.experiment, self.state.layer
        c, now, layer = view.curves(run), view.recent_load(run.recording), self.layers[i]
        unit = "nats/byte" if run.data.kind == "tokens" else "of the variance"
        load = c.load.get(layer, torch.zeros(0, run.recording.experts(layer)))
        violation = {view.short_layer(path): values for path, values in c.violation.items()}
        pictures: dict[str, Callable[[], Any]] = {
            "loss": lambda: loss_curve.as_dict(c.steps, c.loss, *self.held_out, unit=unit),
            "load": lambda: load_over_steps.as_dict(c.steps, load, title=f"Load of each expert, {self.names[i]}"),
            "balance": lambda: balance.as_dict(c.steps, violation, view.floor(run, layer)),
            "entropy": lambda: entropy.as_dict(c.steps, c.load_entropy.get(layer), c.token_entropy.get(layer)),
            "map": lambda: load_map.as_dict(now * now.shape[-1], self.names, step=run.step),
        }
        for name, picture in pictures.items():
            if everything or self.charts[name].ready:
                self.charts[name].show(picture())
        self.advice.value = f"<p>{escape(view.what_to_look_at(run, now))}</p>"
        values = view.status(run, self._trainer.steps_per_second, self.threads)
        self.status.value = (
            "<p>" + " · ".join(f"{escape(k)} <b>{escape(str(v))}</b>" for k, v in values.items()) + "</p>"
        )

    def _draw_probe(self) -> None:
        """The same held-out sequences again and again: the token strip, and who takes which domain."""
        run, i = self.experiment, self.state.layer
        seen, E = view.routed(run, self.probe.batch), run.recording.experts(self.layers[i])
        share, nmi = view.shares(seen, i, E, len(run.data.label_names))
        self.charts["specialisation"].show(
            specialisation.as_dict(share, run.data.label_names, nmi=nmi, layer=self.names[i])
        )
        if run.data.kind == "tokens":
            self.strip.show(
                self.probe.texts, seen.index, seen.weights, seen.margin,
                names=self.names, sequence_names=self.probe.names, n_experts=E,
            )  # fmt: skip

    def _draw_map(self) -> None:
        grid, margin, bounds = view.decision_map(self.experiment)
        E, clusters = self.experiment.recording.experts(self.layers[0]), self.experiment.data.label_names
        points = self.points
        self.map.show(grid, margin, points.inputs, points.labels, bounds, label_names=clusters, n_experts=E)

    def _measure_held_out(self) -> None:
        """The loss on data that training never sees: every few seconds, and whenever the run stands still."""
        steps, losses = self.held_out
        newest, began = self.experiment.step - 1, time.perf_counter()
        if newest >= 0 and newest not in steps:
            losses.append(self.experiment.examine(watch="*/index")[0])
            steps.append(newest)
        ended = time.perf_counter()
        self.due["held out"] = ended + max(HELD_OUT_SECONDS, (ended - began) / HELD_OUT_SHARE)

    # -- the widgets ---------------------------------------------------------------------------------------------
    def _make_controls(self) -> None:
        titles = [(explorer.spec(name).title, name) for name in explorer.names("routing")]
        self.mechanism = dropdown("mechanism", titles, self.state.mechanism)
        self.task = dropdown("task", [(label, name) for name, (label, _) in TASKS.items()], self.state.task)
        self.seed = whole_number("seed", self.state.seed, 0, 2**32 - 1)
        self.layer = dropdown("layer shown", [], None)
        changes: list[tuple[W.ValueWidget, Callable[[Any], None]]] = [
            (self.mechanism, lambda value: self.choose(mechanism=value)),
            (self.task, lambda value: self.choose(task=value)),
            (self.seed, self.choose_seed),
            (self.layer, self.choose_layer),
        ]
        for one, change in changes:
            one.observe(self.safe(lambda event, change=change: change(event["new"])), names=["value"])
        actions = {"Train": self.train, "Pause": self.pause, "Step": self.one_step, "Reset": self.reset}
        self.buttons = {name: W.Button(description=name, tooltip=BUTTONS[name]) for name in actions}
        self.buttons["Train"].button_style = "primary"
        for name, action in actions.items():
            self.buttons[name].on_click(self.safe(lambda _, action=action: action()))
        self.status, self.advice = W.HTML().add_class("ge-status"), W.HTML().add_class("ge-text")
        self.about, self.code, self.knobs = W.HTMLMath(), W.VBox(), W.VBox().add_class("ge-knobs")
        self._fill_knobs()

    def _fill_knobs(self) -> None:
        knobs = self.state.knobs()
        self.controls = {name: control(name, knob, self.state.values[name]) for name, knob in knobs.items()}
        for name, one in self.controls.items():
            one.observe(self.safe(lambda event, name=name: self.set_knob(name, event["new"])), names=["value"])
        self.knobs.children = tuple(self.controls.values())

    def _show_mechanism(self) -> None:
        spec = self.state.spec
        paper = f"{spec.paper.authors} ({spec.paper.year}), {spec.paper.title}, arXiv {spec.paper.arxiv}"
        heading = f"<h2>{escape(spec.title)}</h2><p>{escape(spec.summary)}</p>"
        self.about.value = f"{heading}<p>$${spec.equation}$$</p><small>{escape(paper)}</small>"
        self.code.children = (show_the_code(spec, self.state.theme),)

    def _lay_out(self) -> W.Widget:
        buttons = W.HBox(list(self.buttons.values())).add_class("ge-buttons")
        menus = [
            self.mechanism,
            self.task,
            self.seed,
            buttons,
            self.status,
            text("Knobs", "h2"),
            self.knobs,
            self.layer,
        ]
        left = W.VBox(menus).add_class("ge-controls")
        pictures = W.VBox([self.map, *self.charts.values(), self.strip]).add_class("ge-charts")
        for wide in (self.map, self.strip):
            wide.add_class("ge-wide")
        right = W.VBox([self.advice, pictures, self.about, self.code]).add_class("ge-main")
        body = W.HBox([left, right]).add_class("ge-columns")
        return page("Routing lab", INTRODUCTION, notices(self.state), error_card(self.state), body)
