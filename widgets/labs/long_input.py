"""The page's part "Long inputs": the trained model reads thousands of tokens on a thread, and the page stays free."""

import asyncio
from typing import TYPE_CHECKING, Any

import ipywidgets as W

from widgets import figures as f
from widgets.labs.controls import button, dropdown
from widgets.labs.frame import escape, explain
from widgets.states import long_input as long
from widgets.states.attention_view import SETTLED
from widgets.views import Chart

if TYPE_CHECKING:
    from widgets.labs.attention import AttentionLab

HELP = (
    "Does the sink stay when the input is far longer than those it learned from? What each token receives is summed up block "
    "by block; a map of all pairs is never made."
)


class LongInputPart:
    """A menu of lengths, a button, a picture and a sentence."""

    def __init__(self, lab: "AttentionLab") -> None:
        self.lab = lab
        self._task: asyncio.Task[None] | None = None
        self.length = dropdown("tokens", [(f"{one:,}", one) for one in long.LENGTHS], long.LENGTHS[-1])
        self.go = button("Read a long input", "run the model as it is now over so many tokens")
        self.go.on_click(lab.safe(lambda _: self.start()))
        self.said = W.HTML().add_class("ge-text")
        self.chart = Chart(label="What each token of a long input receives")
        self.chart.layout.display = "none"
        row = W.HBox([self.length, self.go]).add_class("ge-row")
        self.widget = W.VBox([W.HTML(f"<p>{escape(HELP)}</p>"), row, self.said, self.chart])

    def begin(self) -> None:
        """A fresh run: what was found is not of this one."""
        self.chart.layout.display = "none"
        reason = long.cannot(self.lab.runs.a.experiment)
        self.go.disabled, self.said.value = bool(reason), f"<p>{escape(reason)}</p>" if reason else ""

    def start(self) -> "asyncio.Task[None] | None":
        """Begin reading; the page goes on. Returns the task, or None where one is under way."""
        if self._task is not None and not self._task.done():
            return None
        run = self.lab.runs.a.experiment
        model = long.frozen(run)
        self.go.disabled = True
        self._say(f"Reading {self.length.value:,} tokens with the model of step {run.step}.")
        self._task = asyncio.get_event_loop().create_task(self._read(run, model, self.length.value))
        return self._task

    async def _read(self, run: Any, model: Any, length: int) -> None:
        try:
            found = await asyncio.get_running_loop().run_in_executor(None, long.read, run, model, length)
        except Exception as error:  # noqa: BLE001  shown in the page's card
            self.lab.state.error = explain(error)
            self._say("It did not work; the reason stands at the top of the page.")
        else:
            if run is self.lab.runs.a.experiment:
                self.show(found)
        finally:
            self.go.disabled = bool(long.cannot(self.lab.runs.a.experiment))

    def show(self, found: long.LongLook) -> None:
        """The picture and the sentence of what was read."""
        self._say(long.sentence(found))
        self.chart.layout.display = ""
        seen = found.length - SETTLED  # the last keys are seen by too few for a mean
        self.chart.show(f.received_mass.as_dict(found.received[:, :seen], found.tokens[:seen], found.names))
        self.chart.stamp = self.lab.stamp()

    def _say(self, sentence: str) -> None:
        self.said.value = f'<p role="status">{escape(sentence)}</p>'
