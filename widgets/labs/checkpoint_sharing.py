"""The checkpoint lab's part "Save and share": link, recordings, tables, and the page as one file; and the lines of Python."""

import io
import tempfile
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import ipywidgets as W

from explorer.errors import BadValue
from widgets.labs.code import listing
from widgets.labs.controls import Folded, button
from widgets.labs.frame import escape
from widgets.labs.sharing import about_copying
from widgets.states.checkpoint_code import script
from widgets.states.checkpoint_view import Seen
from widgets.views import Courier

if TYPE_CHECKING:
    import pandas as pd

    from widgets.labs.checkpoint import CheckpointLab

HELP = {
    "Copy link": "opens this page with the same model",
    "Page as HTML": "one file with the pictures, which needs no network",
    "Recording": "everything that was traced: explorer.Recording.load reads it",
    "Recording of B": "the same of B",
    "Tables": "CSV files in a ZIP: loads, utilisation, specialisation, vocabulary, pairs, every decision",
}
MOST_DECISIONS = 400_000  # rows of the largest table


class SharingPart:
    """Buttons, and what they said."""

    def __init__(self, lab: "CheckpointLab") -> None:
        self.lab, self.courier = lab, Courier()
        actions = {
            "Copy link": self.copy_link, "Page as HTML": self.save_page, "Recording": lambda: self.save_recording("a"),
            "Recording of B": lambda: self.save_recording("b"), "Tables": self.save_tables,
        }  # fmt: skip
        self.buttons = {name: button(name, HELP[name]) for name in actions}
        for name, action in actions.items():
            self.buttons[name].on_click(lab.safe(lambda _, action=action: action()))
        self.said, self.python = W.HTML().add_class("ge-text"), W.VBox()
        self.courier.observe(lambda event: self._say_link(event["new"]), names=["copied"])
        row = W.HBox(list(self.buttons.values())).add_class("ge-row")
        self.widget = Folded("Save and share", row, self.said, self.courier)
        self.code = Folded("Show the code: the same in Python", self.python)
        self.code.toggle.observe(lab.safe(lambda _: self.show_code()), names=["value"])

    def follow(self) -> None:
        """What can be saved now."""
        there = {
            "Recording": self.lab.seen is not None, "Tables": self.lab.seen is not None,
            "Recording of B": self.lab.beside.comparison is not None,
        }  # fmt: skip
        for name, shown in there.items():
            self.buttons[name].layout.display = "" if shown else "none"
        self.show_code()

    def copy_link(self) -> None:
        """Put the link on the clipboard; the page says so, or shows it to be copied by hand."""
        self.courier.copy_link(self.lab.state.link())
        if self.lab.state.own:
            self._say("The link cannot carry your own texts: whoever opens it gives them again.")

    def save_page(self) -> None:
        """The page as one file."""
        page = self.lab.as_html()
        self.courier.download(f"{self._name()}.html", page.encode(), "text/html")
        self._say(f"{self._name()}.html, {len(page) / 1e6:.1f} MB: it opens in any browser, without a network.")

    def save_recording(self, side: str) -> None:
        """The file that Recording.load reads."""
        seen = self._seen(side)
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "trace.safetensors"
            seen.recording.save(path)
            content = path.read_bytes()
        name = f"{self._name()}{'-b' if side == 'b' else ''}.safetensors"
        self.courier.download(name, content, "application/octet-stream")
        self._say(f'{name}, {len(content) / 1e6:.1f} MB: explorer.Recording.load("{name}") reads it.')

    def save_tables(self) -> None:
        """All tables of A, and the comparison."""
        from widgets.export.tables import to_csv

        file = io.BytesIO()
        with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
            for name, table in self._tables(self._seen("a")):
                archive.writestr(f"{name}.csv", to_csv(table, self.lab.stamp()))
        self.courier.download(f"{self._name()}-tables.zip", file.getvalue(), "application/zip")
        self._say(f"{self._name()}-tables.zip, {len(file.getvalue()) / 1e6:.1f} MB of CSV files.")

    def show_code(self) -> None:
        """The lines that give what is shown."""
        if not self.code.toggle.value:
            return
        state, beside = self.lab.state, self.lab.beside
        opened = self.lab.opened
        given = beside.given if beside.comparison is not None else ""
        is_recording_b = beside.comparison is not None and self.lab.runs.recorded_b
        layer = state.shown(len(self.lab.layers))
        lines = script(state, layer, opened is not None and opened.checkpoint is None, given, is_recording_b)
        copy = button("Copy the lines", "put them on the clipboard")
        copy.on_click(self.lab.safe(lambda _: self.courier.copy(lines)))
        self.python.children = (listing(lines, state.theme), copy)

    def _tables(self, seen: Seen) -> Iterator[tuple[str, "pd.DataFrame"]]:
        import pandas as pd

        yield "loads", seen.recording.loads()
        yield "utilisation", seen.utilisation
        if seen.has_sinks:
            yield "sinks", seen.sinks
        if seen.has_tokens:
            yield "specialisation", seen.specialisation
            yield "pairs", seen.pairs
            yield "decisions", seen.recording.decisions().head(MOST_DECISIONS)
        if seen.has_vocabulary:
            parts = [seen.words(i).assign(layer=layer) for i, layer in enumerate(seen.layers)]
            yield "vocabulary", pd.concat(parts, ignore_index=True)
        comparison = self.lab.beside.comparison
        if comparison is not None:
            yield "side-by-side", comparison.sides
            if comparison.table is not None:
                yield "difference", comparison.table

    def _seen(self, side: str) -> Seen:
        comparison = self.lab.beside.comparison
        seen = self.lab.seen if side == "a" else comparison.b if comparison is not None else None
        if seen is None:
            raise BadValue("there is nothing to save yet: press Trace first")
        return seen

    def _name(self) -> str:
        opened = self.lab.opened
        name = "demo" if opened is None or opened.is_demo else opened.name
        return "".join(c if c.isalnum() or c in "-_." else "-" for c in name)[:60].strip("-.") or "checkpoint"

    def _say_link(self, copied: dict[str, Any]) -> None:
        if copied:
            self.said.value = about_copying(copied)

    def _say(self, sentence: str) -> None:
        self.said.value = f'<div role="status">{escape(sentence)}</div>'
