"""The checkpoint lab's part that traces: texts, how they are read, Trace and Stop, how far it is, how it was done."""

from typing import TYPE_CHECKING, Any

import ipywidgets as W

from widgets.labs.checkpoint_texts import TextsPart
from widgets.labs.controls import button
from widgets.labs.frame import escape, text
from widgets.states.checkpoint import WINDOWS, Text
from widgets.states.checkpoint_trace import Job, Request

if TYPE_CHECKING:
    from widgets.labs.checkpoint import CheckpointLab

NARROW = {"description_width": "64px"}
WINDOW_HELP = "tokens: a longer text is cut into pieces that do not see each other; by itself at most 512"
HELP = (
    "Each box is a text with the name of its domain, the kind of text it is; boxes of one domain are counted together. "
    "Change them, add your own: they stay on the computer that runs this page."
)
IDS = (
    "No tokenizer lies beside this model, so texts cannot be cut into its tokens: write token ids, whole numbers with blanks "
    "between them. Those below are samples without a meaning."
)


class Progress:
    """A bar and a sentence for a job; what was said last stays."""

    def __init__(self) -> None:
        self.bar, self.said = W.HTML().add_class("ge-progress"), W.HTML().add_class("ge-text")
        self.widget = W.VBox([self.bar, self.said])

    def show(self, job: Job) -> None:
        """How far it is."""
        self.bar.value = (
            f'<progress aria-label="done" max="1" value="{job.share:.3f}"></progress><p>{escape(job.words())}</p>'
        )

    def say(self, sentence: str) -> None:
        """It is over, in words."""
        self.bar.value = ""
        self.said.value = f'<p role="status">{escape(sentence)}</p>' if sentence else ""


class TracingPart:
    """What it asks for is `request`; the lab does the work."""

    def __init__(self, lab: "CheckpointLab") -> None:
        self.lab = lab
        state = lab.state
        self.texts = TextsPart(lab, self._changed)
        self.texts.again.on_click(lab.safe(lambda _: lab.fill_texts(own=False)))
        names = [("as long as the model can", 0), *((str(n), n) for n in WINDOWS if n)]
        self.window = W.Dropdown(
            options=names, value=state.window, description="window", style=NARROW, tooltip=WINDOW_HELP
        )
        self.attention = W.Checkbox(value=state.attention, description="also record attention sinks", indent=False)
        self.ids = W.Checkbox(value=state.ids, description="the boxes hold token ids", indent=False)
        self.trace = button("Trace", "send the texts through the model", button_style="primary")
        self.stop = button("Stop", "end it; layers that are finished stay", disabled=True)
        self.progress = Progress()
        self.help = W.HTML().add_class("ge-text")
        for widget, name in ((self.window, "window"), (self.attention, "attention"), (self.ids, "ids")):
            widget.observe(lab.safe(lambda event, name=name: setattr(state, name, event["new"])), names=["value"])
        self.trace.on_click(lab.safe(lambda _: lab.runs.trace()))
        self.stop.on_click(lab.safe(lambda _: lab.runs.stop()))
        buttons = W.HBox([self.trace, self.stop]).add_class("ge-buttons")
        self.controls = W.VBox(
            [text("Trace", "h2"), buttons, self.progress.widget, self.window, self.attention, self.ids]
        )
        self.widget = W.VBox([text("Texts to send through it", "h2"), self.help, self.texts.widget])

    @property
    def request(self) -> Request:
        """What Trace would do."""
        return self.request_of(self.texts.texts)

    def request_of(self, texts: tuple[Text, ...]) -> Request:
        """The same with other texts."""
        return Request(texts, self.ids.value, self.window.value, self.attention.value)

    def fill(self, texts: tuple[Text, ...], ids: bool) -> None:
        """These texts; whether they are token ids."""
        self.texts.fill(texts)
        self.ids.value = ids
        self.help.value = f"<p>{escape(IDS if ids else HELP)}</p>"

    def follow(self) -> None:
        """Buttons in line with what goes on."""
        busy = self.lab.runs.running
        for one, disabled in ((self.trace, busy), (self.stop, not busy)):
            if one.disabled != disabled:
                one.disabled = disabled

    def _changed(self, texts: Any) -> None:
        self.lab.state.texts, self.lab.state.own = texts, True
