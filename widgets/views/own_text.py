"""A reader's own texts: a paste box and a file picker, bounded in the browser before anything is sent, and here again."""

import logging
from collections.abc import Callable, Sequence
from typing import Any

import anywidget
import traitlets

from explorer.errors import BadValue, ExplorerError
from widgets.figures.text import clean
from widgets.views.framed import script, styles

log = logging.getLogger("gating-explorer")
Texts = list[tuple[str, str]]


class OwnText(anywidget.AnyWidget):
    """own = OwnText(); own.on_texts(use) calls use([(name, text), ...]) when the reader presses the button.

    texts: the last that were accepted. An ExplorerError of a callback is shown where the texts were given, and the texts
    stay in the page, to be changed.
    """

    _esm = script("own_text")
    _css = styles("own_text")
    theme = traitlets.Enum(["auto", "light", "dark"], "auto", help="auto: the page's own").tag(sync=True)
    scale = traitlets.Float(1.0, min=0.5, max=3.0, help="size of the letters").tag(sync=True)
    most_bytes = traitlets.Int(400_000, min=1, help="of all texts together").tag(sync=True)
    fewest_bytes = traitlets.Int(130, min=1, help="of each text").tag(sync=True)
    most_texts = traitlets.Int(8, min=1).tag(sync=True)

    def __init__(self, **traits: Any) -> None:
        self.texts: Texts = []
        self._callbacks: list[Callable[[Texts], object]] = []
        super().__init__(**traits)
        self.on_msg(self._heard)

    def on_texts(self, callback: Callable[[Texts], object]) -> None:
        """Call `callback` with [(name, text), ...] whenever texts were accepted."""
        self._callbacks.append(callback)

    def _heard(self, _widget: Any, content: Any, buffers: list[Any]) -> None:
        """The page hands texts over; it is told what became of them."""
        if not isinstance(content, dict) or content.get("kind") != "texts":
            return
        try:
            texts = self.accept(content.get("names"), buffers)
            for callback in self._callbacks:
                callback(list(texts))
            self.texts = texts
        except ExplorerError as error:
            said = str(error).encode("utf-8", "replace").decode()  # half of a surrogate pair cannot be sent to a page
            self.send({"kind": "answer", "error": f"{said}{'' if said.endswith('.') else '.'}", "done": ""})
        except Exception as error:  # the page waits for an answer, whatever went wrong
            log.exception("texts could not be used")
            said = f"The text could not be used: Python failed with a {type(error).__name__}."
            self.send({"kind": "answer", "error": said, "done": ""})
        else:
            size = sum(len(buffer) for buffer in buffers)
            done = f"In use: {len(texts)} {'text' if len(texts) == 1 else 'texts'}, {size:,} bytes"
            self.send({"kind": "answer", "error": "", "done": done})

    def accept(self, names: Any, buffers: Sequence[Any]) -> Texts:
        """[(name, text), ...] of what a page sent: sizes checked, UTF-8 decoded, names cleaned and made distinct."""
        contents = [bytes(buffer) for buffer in buffers]
        if not isinstance(names, list) or len(names) != len(contents) or not contents:
            raise BadValue("the page sent no texts, or not as many names as texts")
        if len(contents) > self.most_texts:
            raise BadValue(f"{len(contents)} texts were sent; at most {self.most_texts} can be used")
        if (total := sum(map(len, contents))) > self.most_bytes:
            raise BadValue(f"the texts have {total:,} bytes; at most {self.most_bytes:,} can be used")
        shown = distinct([clean(name) or "text" for name in names])
        return [(name, self._decoded(name, content)) for name, content in zip(shown, contents, strict=True)]

    def _decoded(self, name: str, content: bytes) -> str:
        if len(content) < self.fewest_bytes:
            raise BadValue(f"{name} has {len(content):,} bytes; a text needs at least {self.fewest_bytes:,}")
        try:
            text = content.decode("utf-8-sig")
        except UnicodeDecodeError:
            raise BadValue(f"{name} is not a text file: it is not UTF-8") from None
        if "\0" in text:
            raise BadValue(f"{name} is not a text file: it holds NUL bytes")
        return text


def distinct(names: Sequence[str]) -> list[str]:
    """The names, with a number behind each that was there before.

    >>> distinct(["a.txt", "a.txt", "b.txt", "a.txt"])
    ['a.txt', 'a.txt (2)', 'b.txt', 'a.txt (3)']
    """
    made: list[str] = []
    for name in names:
        numbered = (f"{name} ({i})" for i in range(2, len(names) + 2))
        made.append(next(one for one in (name, *numbered) if one not in made))
    return made
