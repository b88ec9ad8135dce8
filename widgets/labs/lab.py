"""What every lab does: runs that are driven, scrubbed and compared, pictures that follow them, and a page around both.

A lab of its own says which pictures there are and what is looked at on the way; routing.py is one.
"""

import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import ipywidgets as W

from explorer.budget import pace
from explorer.errors import ExplorerError
from explorer.training import calibrate_threads
from explorer.training.live import LiveTrainer
from widgets.figures.cursor import with_cursor
from widgets.labs.controls import Folded, as_labelled
from widgets.labs.explain import ExplainPart
from widgets.labs.frame import error_card, escape, explain, guarded, notices, page, text
from widgets.labs.keeping import KeepingPart
from widgets.labs.runs import Run, Runs
from widgets.labs.settings import BesidePart, SettingsPart
from widgets.labs.sharing import SharingPart
from widgets.labs.transport import TransportPart
from widgets.states import about
from widgets.states.lab import LabState
from widgets.views import Chart

CHART_SECONDS = 0.118  # charts are redrawn eight and a half times a second
CANVAS_SECONDS = 1 / 30
MOMENT_SHARE = 0.03  # of the time may go into looking at the probe, however slow the machine,
HELD_OUT_SHARE = 0.03  # and into the loss on the held-out data,
HELD_OUT_SECONDS = 3.0  # which is measured no more often than this
# a run that nobody has looked at for so long is paused: its page was closed, and the server has others.
ALONE_SECONDS = 60.0
LARGE = 1.35  # how much larger the large type is


@dataclass(frozen=True)
class Panel:
    """One picture: `draw(scene)` of each run, or, where it is of `both`, `draw(scene_a, scene_b)`; a plain figure."""

    label: str
    section: str
    draw: Callable[..., Any]
    over_steps: bool = False  # drawn with every frame, and marks the step that is looked at
    both: bool = False  # there only while something runs beside A
    fits: Callable[[Any], bool] = bool


class Lab:
    """Wires state, trainer and views; nothing is kept in a widget that the state does not hold."""

    TITLE: ClassVar[str]
    INTRODUCTION: ClassVar[str]
    SECTIONS: ClassVar[dict[str, str]]  # name -> heading
    SHOWN: ClassVar[str] = "layer shown"  # what the menu of those chooses that pictures are about
    RECORDED: ClassVar[tuple[str, ...]]  # the pictures that stand on the page before the live ones
    VIEWS_IN: ClassVar[dict[str, tuple[str, ...]]] = {}  # section -> the views in it that are no charts

    runs: Runs[Any]
    trainer: LiveTrainer | None = None
    _wanted = -1  # the step that a link wants looked at, until it is reached
    _with_b = False  # whether the page has room for B
    started_at = 0.0  # when Train was last pressed, on the clock of time.monotonic

    # -- a lab's own -------------------------------------------------------------------------------------------------
    def panels(self) -> dict[str, Panel]:
        """The pictures by name, in the order of the page."""
        raise NotImplementedError

    def begun(self) -> None:
        """A fresh run: `self.layers` and `self.names` are to be set, and whatever else hangs on the experiment."""
        raise NotImplementedError

    def look(self, run: Run[Any]) -> Any:
        """What is to be remembered of a run at this step, with its `step`."""
        raise NotImplementedError

    def scene(self, run: Run[Any]) -> Any:
        """All that the pictures of a run draw from, at the step that is looked at."""
        raise NotImplementedError

    def advice(self, scene: Any) -> str:
        """What to look at now."""
        raise NotImplementedError

    def note(self) -> str:
        """What the ready-made run that is on shows."""
        return ""

    def preset_titles(self) -> list[tuple[str, str]]:
        """(what the menu says, name)."""
        return []

    def views(self, side: str) -> dict[str, Any]:  # noqa: ARG002  (a lab without any)
        """Views of a run besides its charts, by name."""
        return {}

    def fit_views(self) -> None:
        """Show those of them that fit the runs that there are."""

    def draw_views(self, side: str, scene: Any) -> None:
        """Bring them up to date with what is looked at."""

    def draw_live(self, everything: bool) -> None:
        """Views that move with every frame."""

    def more_parts(self) -> dict[str, W.Widget]:
        """Parts of the page besides those of every lab, by name."""
        return {}

    def turned(self) -> None:
        """The run began to go, or stands still and everything else is drawn."""

    # -- the page ------------------------------------------------------------------------------------------------------
    STATE: ClassVar[type[LabState]]
    layers: Sequence[str] = ()
    names: Sequence[str] = ()

    def __init__(self, state: LabState) -> None:
        self.state, self.safe = state, guarded(state)
        self.threads = calibrate_threads()
        self.pictures = self.panels()
        self.charts = {name: Chart(label=one.label) for name, one in self.pictures.items()}
        self.charts_b: dict[str, Chart] = {}  # made when there is a B: a page without it is ready sooner
        self.due = dict.fromkeys(("charts", "moment", "held out"), 0.0)  # when each is to be drawn next
        self.own_views = {"a": self.views("a")}
        self.status_line, self.advice_text = W.HTML().add_class("ge-status"), W.HTML().add_class("ge-advice")
        self.transport, self.settings, self.beside_part = TransportPart(self), SettingsPart(self), BesidePart(self)
        self.sharing, self.explain, self.keeping = SharingPart(self), ExplainPart(self), KeepingPart(self)
        self.more = self.more_parts()
        self.widget = self._lay_out()
        self.set_large(state.large)
        wanted = state.cursor
        try:
            self.reset()
        except ExplorerError as error:  # a mechanism that does not fit the task, say: the page opens all the same
            state.forget(f"These settings do not go together, and the page opened with its own: {error}")
            self.reset()
        if state.steps:
            self.train(state.steps)
        self._wanted = wanted

    # -- the run -----------------------------------------------------------------------------------------------------
    def reset(self) -> None:
        """Fresh runs of what is set, at step 0, with the same seed."""
        fresh: Runs[Any] = Runs(self.state)
        if self.trainer is not None:
            self.trainer.pause()
            self.runs.close()
        self.runs = fresh
        self.state.cursor = -1
        self.trainer = LiveTrainer(fresh, self.draw, self._failed, frame_seconds=CANVAS_SECONDS)
        self.set_speed(self.state.speed)
        self.begun()
        self.due = dict.fromkeys(self.due, 0.0)
        self.state.layer = min(self.state.layer, len(self.layers) - 1)
        self.settings.show_layers(list(self.names))
        self._take_moment()
        self.refill()
        self.draw()

    def train(self, steps: int | None = None) -> None:
        """Begin, or go on; at most for so many steps."""
        self.state.error = None
        self.started_at = time.monotonic()
        self.look_at(-1, draw=False)
        self._trainer.start(steps)
        self._follow()
        self.turned()

    def pause(self) -> None:
        """Stop after the step under way, and draw everything as it then is; the buttons answer before the pictures."""
        self.state.running, self.state.step = False, self.runs.step
        self.keeping.follow()  # first: what is answered is on the disk
        self.transport.follow()
        self._trainer.pause()
        self._follow()

    def one_step(self) -> None:
        """Pause, then take one step."""
        self.state.error = None
        self._trainer.pause()
        self.runs.advance()
        self.look_at(-1, draw=False)
        self.draw()

    def fork(self) -> None:
        """B becomes a copy of A at this step."""
        self._standing(self.runs.fork)

    def beside(self, mechanism: str | None) -> None:
        """Another mechanism beside A, both from step 0; None: A alone, which goes on."""
        if mechanism is None:
            self.state.beside(None)
            self._standing(self.runs.alone)
            return
        before = self.state.b
        self.state.beside(mechanism)
        try:
            self.reset()
        except Exception:
            self.state.b = before
            raise
        finally:
            self.beside_part.fill()

    def set_match(self, match: str) -> None:
        """Fit B's size to A's, or not: both start anew."""
        before = self.state.match
        if match == before:
            return
        self.state.match = match
        try:
            self.reset()
        except Exception:
            self.state.match = before
            self.beside_part.match.value = before
            raise

    def set_knob(self, name: str, value: Any, side: str = "a") -> None:
        """A control was moved: a live knob acts from the next step on; any other starts anew, before the first step."""
        one = self.state.side(side)
        if value == one.values.get(name):
            return
        part = self.settings if side == "a" else self.beside_part
        try:
            if self.runs.step and self.state.knobs(one.mechanism)[name].live:
                self.runs.do(side, name, value)
                self.explain.follow()
            else:
                self.state.assign(name, value, side)
                try:
                    self.reset()
                except Exception:
                    setattr(self.state, side, one)
                    raise
        finally:
            part.controls[name].value = self.state.side(side).values[name]  # as it was, if the value was refused

    def choose(self, **what: str) -> None:
        """Another mechanism or task: a new run."""
        if all(getattr(self.state, name) == value for name, value in what.items()):
            return
        before = self.state.a, self.state.b, self.state.task
        self.state.choose(**what)
        try:
            self.reset()
        except Exception:
            self.state.a, self.state.b, self.state.task = before
            self.settings.fill()
            raise

    def choose_preset(self, name: str) -> None:
        """A ready-made run, which starts at once."""
        if name and name != self.state.preset:
            self.state.set_preset(name)
            self.reset()
            self.train()
        elif not name:
            self.state.preset = ""

    def choose_seed(self, seed: int) -> None:
        """Another seed: a new run."""
        if seed != self.state.seed:
            self.state.seed = seed
            self.reset()

    def choose_layer(self, layer: int | None) -> None:
        """Which layer the pictures are about; None while the menu is being filled."""
        if layer is not None and layer != self.state.layer:
            self.state.layer = layer
            self.show()

    def look_at(self, step: int, draw: bool = True) -> None:
        """Which recorded step the pictures show; -1: the newest. The run itself goes on."""
        if step != self.state.cursor:
            self.state.cursor = step
            if draw:
                self.show()

    def set_speed(self, speed: int) -> None:
        """Steps a second at most; 0: as many as there is time for."""
        self.state.speed = speed
        if self.trainer is not None:
            self.trainer.step_seconds = 1 / speed if speed else 0.0

    def set_large(self, large: bool) -> None:
        """Type for a projector."""
        self.state.large = large
        (self.widget.add_class if large else self.widget.remove_class)("ge-large")
        for view in self._all_views():
            view.scale = LARGE if large else 1.0

    @property
    def _trainer(self) -> LiveTrainer:
        assert self.trainer is not None
        return self.trainer

    def _standing(self, change: Callable[[], None]) -> None:
        """Do something to the runs between two steps, and go on if they were running."""
        running = self._trainer.running
        if running:
            self._trainer.pause()
        change()
        self.refill()
        self.draw()
        if running:
            self.train()

    def _failed(self, error: Exception) -> None:
        """The run ended with an error, outside of any callback: say so in the same card."""
        self.state.error = explain(error)
        self._follow()

    # -- drawing -----------------------------------------------------------------------------------------------------
    def draw(self) -> None:
        """Draw what is due, or everything when the run stands still, because nothing would follow."""
        if self._trainer.running and self._alone():
            self.pause()  # which draws everything, for whoever comes back
            return
        everything, now = not self._trainer.running, time.perf_counter()
        self.keeping.follow()
        if (self.runs.b is not None) != self._with_b:
            self.refill()  # a link's plan forked
        self.draw_live(everything)
        if everything and self._wanted >= 0 and self.runs.step >= self.state.steps:
            self.state.cursor, self._wanted = min(self._wanted, self.runs.step), -1
        if everything or now >= self.due["held out"]:
            self._measure_held_out()
        looked = everything or now >= self.due["moment"]
        if looked:
            self._take_moment()
        if everything or now >= self.due["charts"]:
            self.due["charts"] = max(now, self.due["charts"] + CHART_SECONDS)
            self.show(everything, moments=looked)
        elif looked:
            self.due["moment"] = 0.0  # with the next charts

    def show(self, everything: bool = True, moments: bool = True) -> None:
        """The pictures as of the step looked at; not `everything`: those whose last frame was drawn."""
        scenes = {side: self.scene(run) for side, run in self.runs.sides.items()}
        if moments:
            self._fit_charts(list(scenes.values()))
        for name, panel in self.pictures.items():
            if not (panel.over_steps or moments) or (panel.both and "b" not in scenes):
                continue
            charts = [self.charts[name], *([self.charts_b[name]] if name in self.charts_b else [])]
            given = [tuple(scenes.values())] if panel.both else [(scene,) for scene in scenes.values()]
            for chart, arguments in zip(charts, given, strict=False):
                if (everything or chart.ready) and panel.fits(arguments[0]):
                    plain = panel.draw(*arguments)
                    if "b" in scenes and not panel.both:
                        plain = _of_run(plain, "B" if chart in self.charts_b.values() else "A")
                    chart.show(with_cursor(plain, scenes["a"].marker) if panel.over_steps else plain)
        if moments:
            for side, scene in scenes.items():
                self.draw_views(side, scene)
        self._say(scenes["a"])
        self._follow() if everything else self.transport.follow()
        if everything and not self._trainer.running:
            self.turned()

    def stamp(self) -> str:
        """What everything that leaves the page says about itself."""
        shown = self.runs.step if self.state.cursor < 0 else self.state.cursor
        return " | ".join(about.stamp(run.experiment, shown) for run in self.runs.sides.values())

    def _say(self, scene: Any) -> None:
        """Advice and status; of B's status only what differs from A's."""
        note = self.note()
        said = f"<p><strong>What to look at.</strong> {escape(as_labelled(self.advice(scene)))}</p>"
        self.advice_text.value = (f"<p>{escape(note)}</p>" if note else "") + said
        seen: dict[str, Any] = {}
        lines, speed = [], self._trainer.steps_per_second
        for side, run in self.runs.sides.items():
            values = {k: v for k, v in about.status(run.experiment, speed, self.threads).items() if seen.get(k) != v}
            seen = seen or values
            items = "".join(f"<li>{escape(k)} <b>{escape(str(v))}</b></li>" for k, v in values.items())
            head = f"<li><strong>{side.upper()}:</strong></li>" if self.runs.b else ""
            lines.append(f"<ul>{head}{items}</ul>")
        if shared := pace().said():
            lines.append(f"<ul><li>this server trains <b>{escape(shared)}</b></li></ul>")
        self.status_line.value = "".join(lines)

    def _take_moment(self) -> None:
        """Look at the probe of each run, as often as the share of the time that it may take allows."""
        began = time.perf_counter()
        for run in self.runs.sides.values():
            if not run.timeline.steps or run.timeline.steps[-1] != run.experiment.step:
                run.timeline.add(run.experiment.step, self.look(run))
        ended = time.perf_counter()
        self.due["moment"] = ended + max(CHART_SECONDS, (ended - began) / (MOMENT_SHARE * pace().share))

    def _measure_held_out(self) -> None:
        """Every few seconds, and whenever the run stands still."""
        began = time.perf_counter()
        for run in self.runs.sides.values():
            run.measure_held_out()
        ended = time.perf_counter()
        self.due["held out"] = ended + max(HELD_OUT_SECONDS, (ended - began) / (HELD_OUT_SHARE * pace().share))

    def _alone(self) -> bool:
        """Whether no view has drawn a frame for a minute."""
        seen = [one.last_acknowledged for one in self._all_views()]
        newest = max([self.started_at, *(one for one in seen if one is not None)])
        return time.monotonic() - newest > ALONE_SECONDS

    def _all_views(self) -> Iterable[Any]:
        return [
            *self.charts.values(),
            *self.charts_b.values(),
            *(v for own in self.own_views.values() for v in own.values()),
        ]

    def _follow(self) -> None:
        """Bring the state, the buttons and what may be changed in line with the run."""
        self.state.running, self.state.step = self._trainer.running, self.runs.step
        self.transport.follow()
        self.settings.follow()
        self.beside_part.follow()
        self.sharing.follow()
        self.keeping.follow()
        if not self.state.running:
            stamp = self.stamp()
            for view in self._all_views():
                view.stamp = stamp

    # -- laying out --------------------------------------------------------------------------------------------------
    def refill(self) -> None:
        """Controls, explanations and pictures for the runs that there are now."""
        if self.runs.b is not None and not self.charts_b:
            self._make_room_for_b()
        self.settings.fill()
        self.beside_part.fill()
        self.explain.show()
        self._with_b = self.runs.b is not None
        self.fit_views()
        self._fit_charts([self.scene(run) for run in self.runs.sides.values()])

    def _fit_charts(self, scenes: Sequence[Any]) -> None:
        """Show the pictures that have something to show: of some gates that changes in the course of a run."""
        has_b = self.runs.b is not None
        for name, panel in self.pictures.items():
            fits = [panel.fits(scene) and name not in self.state.hide for scene in scenes]
            _show(self.charts[name], fits[0] and (has_b or not panel.both))
            if name in self.charts_b:
                _show(self.charts_b[name], fits[-1] and has_b)
        for section in self.sections.values():
            inside = section.children[1].children
            _show(section, any(one.layout.display != "none" for one in inside))

    def shown(self) -> dict[str, dict[str, Any]]:
        """Section -> the views that are on the page now, by name, in its order."""
        found: dict[str, dict[str, Any]] = {}
        named = {**self.charts, **self.own_views["a"]}
        named |= {f"{name} b": view for name, view in {**self.charts_b, **self.own_views.get("b", {})}.items()}
        for section, box in self.sections.items():
            inside = [one for one in box.children[1].children if one.layout.display != "none"]
            found[section] = {name: view for one in inside for name, view in named.items() if view is one}
        return found

    def parts_to_save(self) -> list[Any]:
        """What a standalone page holds: advice, pictures by section, the mechanism, and the lines that make the run."""
        from widgets.export.standalone import Heading, Prose, RawHtml

        advice = as_labelled(self.advice(self.scene(self.runs.a)))
        parts: list[Any] = [Prose(self.INTRODUCTION), Prose(advice)]
        for section, views in self.shown().items():
            parts += [Heading(self.SECTIONS[section]), *views.values()] if views else []
        scripts = "".join(f"<pre>{escape(run.experiment.script())}</pre>" for run in self.runs.sides.values())
        about = RawHtml(self.explain.about.value)
        return [*parts, Heading("The mechanism"), about, Heading("The same run in Python"), RawHtml(scripts)]

    def _lay_out(self) -> W.Widget:
        settings, transport = self.settings.parts, self.transport.parts
        self.large = W.Checkbox(value=self.state.large, description="large type", indent=False)
        self.large.observe(self.safe(lambda event: self.set_large(event["new"])), names=["value"])
        left = [
            settings["presets"], settings["mechanism"], settings["task"], settings["seed"], transport["buttons"],
            transport["scrub"], transport["speed"], self.status_line, settings["layer"], settings["knobs"],
            self.beside_part.widget, *self.more.get("left", ()), self.large,
        ]  # fmt: skip
        self.sections = {
            name: W.VBox([text(heading, "h2"), W.VBox(self._inside(name)).add_class("ge-charts")])
            for name, heading in self.SECTIONS.items()
        }
        share = Folded("Save and share", self.sharing.widget)
        right = [self.advice_text, *self.sections.values(), *self.more.get("right", ()), self.explain.widget, share]
        self.parts: dict[str, W.Widget] = {
            **settings, **transport, "beside": self.beside_part.widget, "advice": self.advice_text, "export": share,
            "code": self.explain.code, "about": self.explain.about, **self.own_views["a"], **self.more.get("named", {}),
        }  # fmt: skip
        for name in self.state.hide:
            if name in self.parts:
                self.parts[name].layout.display = "none"
        columns = W.HBox([W.VBox(left).add_class("ge-controls"), W.VBox(right).add_class("ge-main")])
        return page(
            self.TITLE, self.INTRODUCTION, notices(self.state), error_card(self.state), self.keeping.widget,
            columns.add_class("ge-columns"),
        )  # fmt: skip

    def _inside(self, section: str) -> list[W.Widget]:
        """Its pictures, A's and B's beside each other."""
        inside: list[W.Widget] = []
        for name, panel in self.pictures.items():
            if panel.section == section:
                inside += [charts[name] for charts in (self.charts, self.charts_b) if name in charts]
        for view in self.VIEWS_IN.get(section, ()):
            inside += [own[view].add_class("ge-wide") for own in self.own_views.values()]
        return inside

    def _make_room_for_b(self) -> None:
        """Charts and views of a run beside."""
        one_each = [name for name, panel in self.pictures.items() if not panel.both]
        self.charts_b = {name: Chart(label=f"{self.pictures[name].label}, B") for name in one_each}
        self.own_views["b"] = self.views("b")
        for name, section in self.sections.items():
            section.children[1].children = tuple(self._inside(name))
        self.set_large(self.state.large)


def _show(widget: W.Widget, there: bool) -> None:
    display = "" if there else "none"
    if widget.layout.display != display:
        widget.layout.display = display


def _of_run(plain: dict[str, Any], which: str) -> dict[str, Any]:
    """The same picture, whose title says of which of two runs it is."""
    layout = plain["layout"]
    title = layout["title"]
    return {**plain, "layout": {**layout, "title": {**title, "text": f"{which}: {title['text']}"}}}
