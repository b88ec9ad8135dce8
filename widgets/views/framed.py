"""Back-pressure for live views: one frame in flight, the newest wins.

A view draws a frame at most once per animation frame and answers "drawn". Until that answer (or `PATIENCE` seconds, for
a view that nobody looks at) nothing more is sent; what is shown meanwhile replaces what waits. So a slow browser sees
fewer frames, never later ones, and a Pause button is never queued behind pictures.

The views of a page answer together, in one message through one of them: a message from the page costs the kernel about
a millisecond, and eight views at their full rates would send a hundred a second.

The trait `frame` always holds the newest frame, sent or not: a page that is opened later starts with it.
"""

import itertools
import logging
import os
import re
import secrets
import time
import weakref
from pathlib import Path
from typing import TYPE_CHECKING, Any

import anywidget
import traitlets

from explorer.errors import BadValue, ExplorerError
from widgets.figures.palette import BACKGROUND, COLOURS, ink

if TYPE_CHECKING:
    import pandas as pd

HERE = Path(__file__).parent
log = logging.getLogger("gating-explorer")
PATIENCE = 2.0
_COMMENTS = re.compile(r"^[ ]*(//.*|/\*\*[\s\S]*?\*/)\n", re.MULTILINE)
_HOME = secrets.token_hex(8)
_NUMBERS = itertools.count()
_VIEWS: "weakref.WeakValueDictionary[str, Framed]" = weakref.WeakValueDictionary()


def script(*stems: str) -> str:
    """The ES module of a view: the shared functions of framed.js before its own, since anywidget loads one module.

    Every widget carries its module to the page, so it travels without the comments that have lines of their own.
    """
    parts = "\n".join((HERE / f"{name}.js").read_text(encoding="utf-8") for name in ("framed", *stems))
    return _COMMENTS.sub("", parts)


def styles(*stems: str) -> str:
    """The style sheet of a view, from the files it is made of."""
    return "".join((HERE / f"{name}.css").read_text(encoding="utf-8") for name in stems)


def as_bytes(values: Any, dtype: str) -> bytes:
    """A tensor, array or sequence as the little-endian bytes of `dtype`: a copy, safe while training goes on."""
    import numpy as np

    if hasattr(values, "detach"):
        values = values.detach().cpu().numpy()
    return np.asarray(values).astype(np.dtype(dtype).newbyteorder("<"), order="C").tobytes()


class Framed(anywidget.AnyWidget):
    """An anywidget that is shown frames; subclasses say what a frame holds."""

    frame = traitlets.Dict({"number": 0}).tag(sync=True)
    theme = traitlets.Enum(["auto", "light", "dark"], "auto", help="auto: the page's own").tag(sync=True)
    label = traitlets.Unicode("", help="the accessible name").tag(sync=True)
    scale = traitlets.Float(1.0, min=0.5, max=3.0, help="size of the letters; 1.35 for a projector").tag(sync=True)
    stamp = traitlets.Unicode("", help="where the numbers come from: seed, step, versions, device, kernel").tag(
        sync=True
    )
    saves = traitlets.List(traitlets.Unicode(), help="what the Save menu offers; empty: no menu").tag(sync=True)

    pictured: tuple[str, ...] = ()  # the traits that its picture needs beside `frame`; see widgets/export/frames.py

    ident = traitlets.Unicode(help="process:number; a page answers each process apart").tag(sync=True)

    @traitlets.validate("label", "stamp")
    def _can_be_sent(self, proposal: Any) -> str:
        """Half of a surrogate pair, as a checkpoint's name may hold, would end the connection with the page."""
        return str(proposal["value"]).encode("utf-8", "replace").decode()

    def __init__(self, **traits: Any) -> None:
        self._sent = self._acknowledged = 0
        self._sent_at = -PATIENCE
        self.last_acknowledged: float | None = None  # time.monotonic() of the last answer of a view
        self.problem = ""  # what a view reported about the last frame it drew; "" if all is well
        # The process number is read now: a kernel may be forked from a process that imported this module.
        super().__init__(ident=f"{os.getpid()}-{_HOME}:{next(_NUMBERS)}", **traits)
        _VIEWS[self.ident] = self
        self.on_msg(self._heard)

    @property
    def ready(self) -> bool:
        """Whether a frame shown now is sent at once: the last one was drawn, or nobody answers."""
        return self._acknowledged >= self._sent or time.monotonic() - self._sent_at > PATIENCE

    def offer(self, **content: Any) -> None:
        """Make `content` the newest frame; it is sent now if the view is ready, else when the view answers."""
        # The number comes first: traitlets compares old and new, and stops at the first difference.
        self.frame = {"number": self.frame["number"] + 1, **content}

    def _should_send_property(self, key: str, value: Any) -> bool:
        """ipywidgets asks before it sends a changed trait; a frame has to wait for its turn.

        A stamp does not travel when it changes, which may be at every step: the page asks for it when it saves.
        """
        if key == "stamp":
            return False
        if key != "frame":
            return bool(super()._should_send_property(key, value))
        if not self.ready or not super()._should_send_property(key, value):
            return False
        self._mark_sent()
        return True

    def _mark_sent(self) -> None:
        self._sent, self._sent_at = self.frame["number"], time.monotonic()

    def _heard(self, _widget: Any, content: Any, buffers: list[Any]) -> None:
        """A message of the view; anything that is not understood is ignored, since any client may send anything."""
        if not isinstance(content, dict):
            return
        kind = content.get("kind")
        if kind == "drawn":
            self._heard_answers(content.get("frames"))
        elif kind == "export":
            self._answer_export(content)
        elif kind == "want-stamp":
            self.send({"kind": "stamp", "request": str(content.get("request"))[:60], "stamp": self.stamp})
        else:
            self.heard(content, buffers)

    def _heard_answers(self, answers: Any) -> None:
        for ident, answer in answers.items() if isinstance(answers, dict) else ():
            view = _VIEWS.get(ident)
            if view is not None and isinstance(answer, list) and answer and isinstance(answer[0], int):
                view._drawn(answer[0], str(answer[1])[:500] if len(answer) > 1 else "")

    def _drawn(self, number: int, problem: str) -> None:
        newest = self.frame["number"]
        self._acknowledged = max(self._acknowledged, min(number, newest))
        self.last_acknowledged, self.problem = time.monotonic(), problem
        if self._sent < newest and self._acknowledged < newest and self.ready:
            self._mark_sent()
            self.send_state("frame")

    def heard(self, content: dict[str, Any], _buffers: list[Any]) -> None:
        """For subclasses: any other message of the view."""

    # -- what can be saved ---------------------------------------------------------------------------------------
    def table(self) -> "pd.DataFrame":
        """The newest frame as a tidy table; the columns are told by widgets/export/tables.py."""
        raise NotImplementedError

    def exported(self, kind: str) -> bytes:
        """The newest frame's table as the bytes of a file, stamped; kind: "csv" or "parquet"."""
        from widgets.export import tables

        writers = {"csv": tables.to_csv, "parquet": tables.to_parquet}
        if kind not in writers:
            raise BadValue(f"no table of the kind {kind[:20]!r}; there are csv and parquet")
        return writers[kind](self.table(), self.stamp)

    def _answer_export(self, content: dict[str, Any]) -> None:
        number = str(content.get("request"))[:60]
        try:
            made = self.exported(str(content.get("format")))
        except ExplorerError as error:
            self.send({"kind": "exported", "request": number, "error": str(error)})
        except Exception as error:  # the page waits for an answer, whatever went wrong
            log.exception("a table could not be made")
            self.send({"kind": "exported", "request": number, "error": f"Python failed with a {type(error).__name__}."})
        else:
            self.send({"kind": "exported", "request": number}, buffers=[made])


def inks() -> dict[str, Any]:
    """What the canvas and text views colour with, for each theme: experts, the ink that is legible on them, the page."""
    return {
        theme: {"experts": list(colours), "inks": [ink(c) for c in colours], "page": BACKGROUND[theme]}
        for theme, colours in COLOURS.items()
    }
