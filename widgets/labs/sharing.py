"""The page's part "Save and share": its link, the Python lines, the recordings, and the page as one file."""

import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import ipywidgets as W

from widgets.labs.code import listing
from widgets.labs.controls import button
from widgets.labs.frame import escape
from widgets.views import Courier

if TYPE_CHECKING:
    from widgets.labs.lab import Lab

HELP = {
    "Copy link": "opens this page with the same runs, at the same step",
    "Page as HTML": "one file with all pictures as they are now, which needs no network",
    "Recording": "A's loads, choices and summaries of every step: explorer.Recording.load reads it",
    "Recording of B": "the same of B",
    "Python": "the lines that make this very run in a script",
}


class SharingPart:
    """Buttons, and what they said."""

    def __init__(self, lab: "Lab") -> None:
        self.lab, self.courier = lab, Courier()
        actions = {
            "Copy link": self.copy_link,
            "Page as HTML": self.save_page,
            "Recording": lambda: self.save_recording("a"),
            "Recording of B": lambda: self.save_recording("b"),
            "Python": self.show_python,
        }
        self.buttons = {name: button(name, HELP[name]) for name in actions}
        for name, action in actions.items():
            self.buttons[name].on_click(lab.safe(lambda _, action=action: action()))
        self.said, self.python = W.HTML().add_class("ge-text"), W.VBox()
        self.courier.observe(lambda event: self._say_link(event["new"]), names=["copied"])
        row = W.HBox(list(self.buttons.values())).add_class("ge-row")
        self.widget = W.VBox([row, self.said, self.python, self.courier])

    def follow(self) -> None:
        """B's button is there when B is."""
        self.buttons["Recording of B"].layout.display = "" if self.lab.runs.b else "none"

    def copy_link(self) -> None:
        """Put the link on the clipboard; the page says so, or shows it to be copied by hand."""
        self.courier.copy_link(self.lab.state.link())
        if self.lab.state.own:
            self._say("The link cannot carry your own text: whoever opens it pastes the text again.")

    def save_page(self) -> None:
        from widgets.export.standalone import standalone

        page = standalone(self.lab.TITLE, self.lab.parts_to_save(), stamp=self.lab.stamp(), theme=self.lab.state.theme)
        self.courier.download(f"{self._name()}.html", page.encode(), "text/html")
        self._say(f"{self._name()}.html, {len(page) / 1e6:.1f} MB: it opens in any browser, without a network.")

    def save_recording(self, side: str) -> None:
        recording = self.lab.runs.sides[side].experiment.recording
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "recording.safetensors"
            recording.save(path)
            content = path.read_bytes()
        name = f"{self._name(side)}.safetensors"
        self.courier.download(name, content, "application/octet-stream")
        self._say(f'{name}, {len(content) / 1e6:.1f} MB: explorer.Recording.load("{name}") reads it.')

    def show_python(self) -> None:
        """The lines of A, and of B where there is one."""
        runs = self.lab.runs.sides.items()
        text = "\n".join(
            (f"# {side.upper()}\n" if len(runs) > 1 else "") + run.experiment.script() for side, run in runs
        )
        copy = button("Copy the lines", "put them on the clipboard")
        copy.on_click(self.lab.safe(lambda _: self.courier.copy(text)))
        self.python.children = (listing(text, self.lab.state.theme), copy)

    def _name(self, side: str = "a") -> str:
        run = self.lab.runs.sides[side].experiment
        return f"{run.spec.name}-{self.lab.state.task}-seed{run.seed}-step{run.step}"

    def _say_link(self, copied: dict[str, object]) -> None:
        if copied:
            self.said.value = about_copying(copied)

    def _say(self, sentence: str) -> None:
        self.said.value = f'<div role="status">{escape(sentence)}</div>'


def about_copying(copied: dict[str, object]) -> str:
    """What the browser answered to a wish to copy, as HTML: done, or the link to copy by hand."""
    if copied.get("ok"):
        return f'<div role="status">{"Copied." if "link" not in copied else "Link copied."}</div>'
    link = escape(str(copied.get("link") or copied.get("text") or ""))
    return (
        '<div role="status">The browser did not allow copying; here it is: '
        f'<input readonly aria-label="link to copy" value="{link}" style="width:100%"></div>'
    )
