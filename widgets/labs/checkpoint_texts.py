"""The checkpoint lab's part with the texts to trace: a box each, with the name of its domain; more from files."""

from typing import TYPE_CHECKING, Any

import ipywidgets as W

from explorer.errors import BadValue
from widgets.labs.controls import Folded, button
from widgets.states.checkpoint import MOST_TEXTS, Text
from widgets.views import OwnText

if TYPE_CHECKING:
    from widgets.labs.checkpoint import CheckpointLab

MOST_BYTES = 150_000  # of all files together
WIDE = {"description_width": "64px"}


class Row:
    """A domain's name, its text, and a button that takes both away."""

    def __init__(self, part: "TextsPart", number: int, text: Text) -> None:
        self.domain = W.Text(value=text[0], description="domain", style=WIDE, continuous_update=False)
        self.text = W.Textarea(value=text[1], description=f"text {number}", rows=4, style=WIDE, continuous_update=False)
        self.remove = button(f"Remove text {number}", "take this text away")
        self.remove.on_click(part.lab.safe(lambda _: part.without(self)))
        for one in (self.domain, self.text):
            one.observe(part.lab.safe(lambda _: part.changed()), names=["value"])
        head = W.HBox([self.domain, self.remove]).add_class("ge-row")
        self.widget = W.VBox([head, self.text]).add_class("ge-given")

    @property
    def value(self) -> Text:
        """As it stands in the page."""
        return self.domain.value, self.text.value


class TextsPart:
    """Rows of texts; `heard(texts)` is called when a person changed them."""

    def __init__(self, lab: "CheckpointLab", heard: Any) -> None:
        self.lab, self._heard = lab, heard
        self.rows: list[Row] = []
        self.box = W.VBox().add_class("ge-texts")
        self.add = button("Add a text", "an empty box for one more text")
        self.again = button("Sample texts", "the texts that came along, in place of these")
        self.add.on_click(lab.safe(lambda _: self.more([(f"text {len(self.rows) + 1}", "")])))
        self.files = OwnText(most_bytes=MOST_BYTES, fewest_bytes=1).add_class("ge-files")
        self.files.on_texts(self._from_files)
        self.folded = Folded("Texts from files", self.files)
        self.widget = W.VBox([self.box, W.HBox([self.add, self.again]).add_class("ge-row"), self.folded])

    @property
    def texts(self) -> tuple[Text, ...]:
        """As they stand in the page."""
        return tuple(row.value for row in self.rows)

    def fill(self, texts: tuple[Text, ...]) -> None:
        """These in place of those that are there; nobody is told."""
        self.rows = [Row(self, i, text) for i, text in enumerate(texts, 1)]
        self._show()

    def more(self, texts: list[Text]) -> None:
        """These besides; boxes that are empty make room."""
        kept = [row.value for row in self.rows if row.text.value.strip() or not texts[0][1]]
        if len(kept) + len(texts) > MOST_TEXTS:
            raise BadValue(f"this page traces {MOST_TEXTS} texts at most: remove one first")
        self.fill((*kept, *texts))
        self.changed()

    def without(self, row: Row) -> None:
        """Take one away; the last one is only emptied."""
        left = [one.value for one in self.rows if one is not row]
        self.fill(tuple(left or [("text 1", "")]))
        self.changed()

    def changed(self) -> None:
        """A person changed something."""
        self._heard(self.texts)

    def _from_files(self, texts: list[Text]) -> None:
        """Errors are shown where the files were chosen: the view hears them."""
        self.more([(name.rsplit(".", 1)[0] or name, text) for name, text in texts])

    def _show(self) -> None:
        self.box.children = tuple(row.widget for row in self.rows)
