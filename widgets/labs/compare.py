"""The page's part "Compare routers": a sweep in the background, its ranked table and its pictures as the rows arrive."""

import asyncio
import os
from typing import TYPE_CHECKING, Any

import ipywidgets as W

import explorer
from explorer.errors import BadValue, ExplorerError
from explorer.recording_file import versions
from explorer.sweep import Sweep
from widgets import figures as f
from widgets.labs.code import listing
from widgets.labs.compare_table import table, title_of
from widgets.labs.controls import STYLE, Folded, button, dropdown, whole_number
from widgets.labs.frame import escape, text
from widgets.states.compare import (
    COLUMNS,
    MOST_SEEDS,
    MOST_STEPS,
    CompareState,
    Line,
    progress_words,
    ranked,
    seed_words,
    verdict,
)
from widgets.views import Chart, Courier

if TYPE_CHECKING:
    from widgets.labs.routing import RoutingLab

LOOK = 0.25  # seconds between two looks at the sweep
HELP = (
    "Which router is better? Choose some: each is trained anew with several seeds, on the task and with the settings of this "
    "page, and one table ranks them. It goes on in the background, and the run of this page comes first: pause that, and the "
    "comparison is faster. Close the page, and the comparison ends with it."
)
MATCHES = [("nothing: as they are set", "none"), ("parameters", "parameters"), ("FLOPs a token", "flops")]
PLACES = [("the cores of this computer", "here"), ("a Dask cluster", "dask")]
# Whoever names a scheduler may run code in this kernel. Where Voila serves the page, that is who started it, by the
# variable that Dask itself reads, and not who visits.
SERVED = os.environ.get("SERVER_SOFTWARE", "").startswith("voila/")
SCHEDULER = os.environ.get("DASK_SCHEDULER_ADDRESS", "")
PANELS = {  # measure -> (title, what the figure says of it)
    "max_violation": ("Imbalance (MaxVio)", "how far the busiest expert is above its fair share"),
    "tokens_without_expert": ("Tokens without an expert", "for want of room, or because no expert chose them"),
    "load_entropy": ("Entropy of the load", "1: every expert has the same share"),
    "nmi": ("Specialisation (NMI)", "how much the expert tells about the label"),
}


class ComparePart:
    """Controls, progress, table, pictures; what is chosen is `state`, what runs is `sweep`."""

    def __init__(self, lab: "RoutingLab", state: CompareState) -> None:
        self.lab, self.state = lab, state
        self.sweep: Sweep | None = None
        self._task: asyncio.Task[None] | None = None
        self._about: dict[str, Any] = {}  # of the sweep that is shown: the page may be set otherwise by now
        self.charts: dict[str, Chart] = {}
        self.widget = W.VBox()
        self.folded = Folded("Compare routers", self.widget, unfolded=state.asked)
        self.folded.toggle.observe(lab.safe(lambda _: self.unfold()), names=["value"])
        if state.asked:
            self.unfold()

    def unfold(self) -> None:
        """Made when it is first looked at: a page is ready sooner without so many controls."""
        if self.widget.children:
            return
        self.courier = Courier()
        self._make_controls()
        self.plan, self.said = W.HTML().add_class("ge-text"), W.HTML().add_class("ge-text")
        self.progress, self.table, self.python = W.HTML(), W.HTML().add_class("ge-steps"), W.VBox()
        self.pictures = W.VBox().add_class("ge-charts")
        self.pictures.layout.display = "none"
        rows = [W.HBox(row).add_class("ge-row") for row in self._rows()]
        self.widget.children = [
            text(HELP), text("Routers", "h3"), rows[0], self.choice, *rows[1:3], self.plan, rows[3], self.progress,
            self.said, rows[4], self.table, self.pictures, self.python, self.courier,
        ]  # fmt: skip
        self.lab.state.observe(lambda _: self.describe(), names=["a", "task", "seed", "domains", "own"])
        self.lab.state.observe(lambda event: self._scale(event["new"]), names=["large"])
        self.describe()
        self._show_buttons()

    # -- controls ------------------------------------------------------------------------------------------------------
    def _make_controls(self) -> None:
        state, act = self.state, self.lab.safe
        self.boxes = {
            name: W.Checkbox(value=name in state.mechanisms, description=explorer.spec(name).title, indent=False)
            for name in self.lab.state.mechanisms()
        }
        layout = W.Layout(
            max_height="246px", overflow="auto", border="1px solid var(--jp-border-color2, #ccc)", padding="4px"
        )
        self.choice = W.HBox(list(self.boxes.values()), layout=layout).add_class("ge-row")
        self.seeds = whole_number("seeds", state.seeds, 1, MOST_SEEDS)
        self.steps = whole_number("steps", state.steps, 1, MOST_STEPS)
        self.match = dropdown(
            "same for all", MATCHES, state.match, "fits the expert width, so that the comparison is fair"
        )
        self.by = dropdown("rank by", [(one.title, name) for name, one in COLUMNS.items()], state.by)
        state.address = state.address or SCHEDULER
        self.where = dropdown("run on", PLACES if SCHEDULER or not SERVED else PLACES[:1], state.where)
        self.address = W.Text(
            value=state.address, description="scheduler", placeholder="tcp://10.0.0.5:8786", style=STYLE, disabled=SERVED,
            tooltip="that of whoever serves this page" if SERVED else "the address that `dask scheduler` prints",
        )  # fmt: skip
        self.buttons = {
            "Start": button("Start", "train them all, in the background", button_style="primary"),
            "Stop": button("Stop", "end it now; what has finished stays"),
            "All": button("All", "tick every router"),
            "None": button("None", "tick no router"),
            "Table": button("Table as CSV", "every run with its numbers, for a spreadsheet"),
            "Python": button("Python", "the lines that make the same table in a script"),
        }
        for name, action in (
            ("Start", self.start), ("Stop", self.stop), ("All", lambda: self.tick(self.boxes)), ("None", lambda: self.tick(())),
            ("Table", self.save), ("Python", self.show_python),
        ):  # fmt: skip
            self.buttons[name].on_click(act(lambda _, action=action: action()))
        for name, one in (
            *((None, box) for box in self.boxes.values()), ("seeds", self.seeds), ("steps", self.steps), ("match", self.match),
            ("by", self.by), ("where", self.where), ("address", self.address),
        ):  # fmt: skip
            one.observe(act(lambda event, name=name: self._set(name, event["new"])), names=["value"])

    def _rows(self) -> list[list[W.Widget]]:
        b = self.buttons
        return [
            [b["All"], b["None"]], [self.seeds, self.steps], [self.match, self.where, self.address],
            [b["Start"], b["Stop"], b["Table"], b["Python"]], [self.by],
        ]  # fmt: skip

    def _set(self, name: str | None, value: Any) -> None:
        """A control was moved."""
        if name == "address" and SERVED:
            raise BadValue("the scheduler is chosen by whoever serves this page: set DASK_SCHEDULER_ADDRESS there")
        if name is None:
            self.state.mechanisms = tuple(one for one, box in self.boxes.items() if box.value)
        else:
            setattr(self.state, name, value)
        if name == "by":
            self.show()
        self.describe()

    def tick(self, names: Any) -> None:
        """These routers and no others."""
        for name, box in self.boxes.items():
            box.value = name in names

    def describe(self) -> None:
        """What Start would do, in words; or why it cannot."""
        self.address.layout.display = "" if self.state.where == "dask" else "none"
        page, state = self.lab.state, self.state
        try:
            state.check(page.mechanisms())
        except ExplorerError as error:
            self.plan.value = f"<p>{escape(str(error).capitalize())}.</p>"
            return
        seeds = state.seed_numbers(page)
        routers = len(state.mechanisms)
        said = f"{routers} routers with {seed_words(seeds)}: {routers * len(seeds)} runs of {state.steps} steps on "
        said += f"{self._task_words()}, with the knobs of A on this page."
        if state.match != "none":
            what = {"parameters": "parameters", "flops": "FLOPs a token"}[state.match]
            said += f" All get the width at which they have the {what} of the first, {title_of(state.mechanisms[0])}."
        self.plan.value = f"<p>{escape(said)}</p>"

    def _task_words(self) -> str:
        page = self.lab.state
        chosen = [*page.domains, *(name for name, _ in page.own)]
        return page.TASKS[page.task][0] + (f" ({', '.join(chosen)})" if chosen and page.task == "text" else "")

    # -- the sweep -------------------------------------------------------------------------------------------------------
    def start(self) -> None:
        """A fresh sweep of what is chosen; the one before is gone."""
        page, state = self.lab.state, self.state
        sweep = state.sweep(page)
        if self.sweep is not None:
            self.sweep.stop()
        state.asked = True
        self._about = {"stamp": self._stamp(), "script": state.script(page), "unit": self._unit(), "match": state.match}
        self.sweep = sweep.start()
        self.python.children = ()
        self.show()
        self._task = asyncio.get_event_loop().create_task(self._follow(self.sweep))

    def stop(self) -> None:
        """At once; what has finished stays."""
        if self.sweep is not None:
            self.sweep.stop()
            self._show_buttons()
            self._show_progress()  # the answer; table and pictures follow

    async def _follow(self, sweep: Sweep) -> None:
        """Show what has come, as long as this is the sweep of the page."""
        seen, left = -1, ""
        while self.sweep is sweep and sweep.running:
            if sweep.finished != seen:
                seen = sweep.finished
                self.lab.safe(self.show)()
            elif (now := progress_words(sweep)) != left:
                left = now
                self._show_progress()
            await asyncio.sleep(LOOK)
        if self.sweep is sweep:
            self.lab.safe(self.show)()

    def _stamp(self) -> str:
        page, state = self.lab.state, self.state
        match = "" if state.match == "none" else f" · same {state.match} as {state.mechanisms[0]}"
        made = " · ".join(f"{name} {version}" for name, version in versions().items())
        return (
            f"comparison · {page.task} · {seed_words(state.seed_numbers(page))} · {state.steps} steps{match} · {made}"
        )

    def _unit(self) -> str:
        return self.lab.scene(self.lab.runs.a).unit

    # -- what is shown -----------------------------------------------------------------------------------------------------
    def show(self) -> None:
        """Progress, table and pictures of the rows that have come."""
        self._show_buttons()
        sweep = self.sweep
        if sweep is None:
            return
        self._show_progress()
        lines = ranked(sweep.rows, self.state.by)
        said = [verdict(lines, self.state.by)] if lines else []
        said += [sweep.error] if sweep.error else []
        self.said.value = f'<div role="status">{"".join(f"<p>{escape(one)}</p>" for one in said if one)}</div>'
        self.table.value = table(lines, self.state.by, len(sweep.seeds), self._about["match"]) if lines else ""
        self._draw(lines)

    def _show_buttons(self) -> None:
        running = self.sweep is not None and self.sweep.running
        rows = self.sweep is not None and self.sweep.finished > 0
        for name, disabled in (
            ("Start", running),
            ("Stop", not running),
            ("Table", not rows),
            ("Python", not self._about),
        ):
            if self.buttons[name].disabled != disabled:
                self.buttons[name].disabled = disabled

    def _show_progress(self) -> None:
        sweep = self.sweep
        if sweep is not None:
            bar = f'<progress aria-label="runs finished" max="{sweep.of}" value="{sweep.finished}" style="width:100%">'
            self.progress.value = f"{bar}</progress><p>{escape(progress_words(sweep))}</p>"

    def _draw(self, lines: list[Line]) -> None:
        lines = [line for line in lines if line.spreads]
        self.pictures.layout.display = "" if lines else "none"
        if not lines or self.sweep is None:
            return
        if not self.charts:
            titles = {
                "quality": "Held-out loss against active FLOPs",
                **{name: title for name, (title, _) in PANELS.items()},
            }
            self.charts = {name: Chart(label=title) for name, title in titles.items()}
            self.pictures.children = tuple(self.charts.values())
            self._scale(self.lab.state.large)
        names = [line.mechanism for line in lines]
        values = {name: self._by_router(names, name) for name in ("held_out_loss", *PANELS)}
        flops = [line.spreads["flops"].mean for line in lines]
        self.charts["quality"].show(
            f.quality_by_flops.as_dict(names, flops, values["held_out_loss"], self._about["unit"])
        )
        for name, (title, meaning) in PANELS.items():
            column = COLUMNS[name]
            drawn = f.measure_by_router.as_dict(names, values[name], title, meaning, column.better, column.form)
            self.charts[name].show(drawn)
        for chart in self.charts.values():
            chart.stamp = self._about["stamp"]

    def _by_router(self, names: list[str], measure: str) -> list[list[float]]:
        rows = self.sweep.rows if self.sweep else ()
        return [[row.values[measure] for row in rows if row.mechanism == name and row.values] for name in names]

    def _scale(self, large: bool) -> None:
        from widgets.labs.lab import LARGE

        for chart in self.charts.values():
            chart.scale = LARGE if large else 1.0

    # -- what leaves the page ------------------------------------------------------------------------------------------
    def save(self) -> None:
        """The runs that have finished as a CSV file, stamped."""
        from widgets.export.tables import to_csv

        if self.sweep is not None:
            content = to_csv(self.sweep.frame(), self._about["stamp"])
            self.courier.download(f"comparison-{len(self.sweep.recipes)}-routers.csv", content, "text/csv")

    def show_python(self) -> None:
        """The lines of the table that is shown."""
        lines = self._about["script"]
        copy = button("Copy the lines", "put them on the clipboard")
        copy.on_click(self.lab.safe(lambda _: self.courier.copy(lines)))
        self.python.children = (listing(lines, self.lab.state.theme), copy)
