"""A question with choices or a number, as a form of the browser's own: keys, screen readers and both themes work in it."""

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import anywidget
import traitlets as t

from explorer.errors import ExplorerError
from widgets.labs.formula import escaped
from widgets.labs.frame import explain
from widgets.lessons.prose import inline
from widgets.views.framed import script

HERE = Path(__file__).parent
KINDS = ("one", "many", "number")
Answer = list[int] | float


class Form(anywidget.AnyWidget):
    """form = Form(legend, options=[...]); form.on_answer(hear) calls hear([0]) or hear(0.4), which says it with `say`.

    legend, options, unit: HTML that prose.py made. kind: "one" choice, "many", or a "number". What is right is not in the
    page: Python judges.
    """

    _esm = script() + "\n" + (HERE / "form.js").read_text(encoding="utf-8")
    _css = (HERE / "form.css").read_text(encoding="utf-8")
    theme = t.Enum(["auto", "light", "dark"], "auto").tag(sync=True)
    scale = t.Float(1.0).tag(sync=True)
    legend = t.Unicode().tag(sync=True)
    kind = t.Enum(KINDS, "one").tag(sync=True)
    options = t.List(t.Unicode()).tag(sync=True)
    unit = t.Unicode().tag(sync=True)
    button = t.Unicode("Check").tag(sync=True)
    enabled = t.Bool(True).tag(sync=True)
    said = t.Unicode(help="HTML of what is said about the answer").tag(sync=True)
    tone = t.Enum(["", "right", "wrong", "kept"], "").tag(sync=True)
    value = t.Any(help="the answer that stands in the form: a list of choices or a number; None: none yet").tag(
        sync=True
    )

    def __init__(self, **traits: Any) -> None:
        self._hears: list[Callable[[Any], object]] = []
        super().__init__(**traits)
        self.on_msg(self._heard)

    def on_answer(self, hear: Callable[[Any], object]) -> None:
        """Call `hear` with every answer that can be one: choices by number, or a number."""
        self._hears.append(hear)

    def say(self, tone: str, *sentences: str) -> None:
        """Show sentences (markdown of one line) about the answer."""
        self.tone, self.said = tone, " ".join(inline(one) for one in sentences if one)

    def _heard(self, _widget: Any, content: Any, _buffers: list[Any]) -> None:
        """The page sends an answer; anything that cannot be one is ignored, since any client may send anything."""
        if not self.enabled or not isinstance(content, dict) or content.get("kind") != "answer":
            return
        answer = self.read(content.get("value"))
        if answer is None:
            return
        self.answer(answer)

    def answer(self, answer: Answer) -> None:
        """Take an answer as if it had come from the page."""
        try:
            self.value = answer
            for hear in self._hears:
                hear(answer)
        except ExplorerError as error:
            self.say("wrong", escaped(str(error)))
        except Exception as error:  # noqa: BLE001  shown where the person is
            self.say("wrong", explain(error)["message"])

    def read(self, value: Any) -> Answer | None:
        """The answer in what a page sent; None if there is none."""
        if self.kind == "number":
            number = isinstance(value, int | float) and not isinstance(value, bool)
            return float(value) if number and math.isfinite(value) and abs(value) < 1e15 else None
        if not isinstance(value, list) or not value or len(value) > len(self.options):
            return None
        if any(type(one) is not int or not 0 <= one < len(self.options) for one in value):
            return None
        chosen = sorted(set(value))
        return chosen if self.kind == "many" or len(chosen) == 1 else None
