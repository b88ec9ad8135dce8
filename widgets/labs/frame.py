"""What every lab shares: the look, the error card, notices, and callbacks whose errors reach the person at the screen."""

import functools
import html
import logging
import os
import tempfile
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any

import ipywidgets as W
import traitlets as t

from explorer.errors import ExplorerError
from widgets.views import Landmarks, TextLimit

STYLE = (Path(__file__).parent / "frame.css").read_text(encoding="utf-8")
HEADLESS = bool(
    os.environ.get("GATING_EXPLORER_HEADLESS")
)  # the one place: notebooks run without a browser, training is short
NO_MEMORY = ("can't allocate memory", "not enough memory", "out of memory")  # within what torch says
LESS = "try fewer or narrower experts, a smaller batch or a shorter text"
log = logging.getLogger("gating-explorer")


def text(content: str, tag: str = "p", role: str = "", css: str = "") -> W.HTML:
    """A paragraph of plain text: everything in it is escaped, `$` too, so that no formula reader picks it up."""
    extra = f' role="{role}"' if role else ""
    return W.HTML(f"<{tag}{extra}>{escape(content)}</{tag}>").add_class(css or "ge-text")


def page(title: str, introduction: str, *parts: W.Widget) -> W.Widget:
    """A lab's page: the look, a heading, what this is about, then its parts."""
    head = [W.HTML(f"<style>{STYLE}</style>"), text(title, "h1"), text(introduction)]
    return W.VBox([*head, *parts, Landmarks(), TextLimit()]).add_class("ge-page")


def escape(content: str) -> str:
    """Text as HTML that means nothing else, to a browser or to a formula reader."""
    whole = content.encode("utf-8", "replace").decode()  # half of a surrogate pair cannot be sent to a page
    return html.escape(whole).replace("$", "&#36;")


def log_file() -> Path:
    """Where tracebacks go: never to the page."""
    return Path(tempfile.gettempdir()) / f"gating-explorer-{os.getuid() if hasattr(os, 'getuid') else 0}.log"


def explain(error: Exception) -> dict[str, str]:
    """An error as the page says it: our own in its own words, a foreign one by its kind and the number it is logged under."""
    if isinstance(error, ExplorerError):
        return {"title": "This cannot be done", "message": str(error)}
    if is_want_of_memory(error):
        return {
            "title": "There is not enough memory for this",
            "message": f"{_allowed()}. The page still works: {LESS}.",
        }
    number = uuid.uuid4().hex[:8]
    if not log.handlers:
        log.addHandler(logging.FileHandler(log_file(), delay=True, encoding="utf-8", errors="replace"))
    log.error("error %s", number, exc_info=error)
    return {
        "title": "Something went wrong",
        "message": f"{type(error).__name__}; it was logged as {number}. The page still works.",
    }


def is_want_of_memory(error: BaseException) -> bool:
    """Whether memory was asked for and refused, by Python or by torch, which has no class of its own for that."""
    return isinstance(error, MemoryError) or (
        isinstance(error, RuntimeError) and any(said in str(error) for said in NO_MEMORY)
    )


def _allowed() -> str:
    """How much this process may have, where a server for a class has set a ceiling."""
    try:
        import resource  # not on Windows

        ceiling = resource.getrlimit(resource.RLIMIT_DATA)[0]
    except (ImportError, OSError):
        return "the machine has no more"
    return "the machine has no more" if ceiling < 0 else f"a page here may take {ceiling / 2**30:.3g} GiB"


def guarded(state: Any) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Decorator for callbacks: an error becomes the state's `error`, which the page shows as a card."""

    def wrap(callback: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(callback)
        def safe(*args: Any, **kwargs: Any) -> Any:
            try:
                return callback(*args, **kwargs)
            except Exception as error:  # noqa: BLE001  a widget callback's error would otherwise vanish in the kernel's log
                state.error = explain(error)
                return None

        return safe

    return wrap


def error_card(state: Any) -> W.Widget:
    """Shows `state.error` until it is dismissed."""
    message = W.HTML()
    close = W.Button(description="Dismiss", tooltip="hide this message")
    card = W.HBox([message, close]).add_class("ge-error")

    def show(_: Any = None) -> None:
        error = state.error
        card.layout.display = "flex" if error else "none"
        if error:
            message.value = f'<div role="alert"><b>{escape(error["title"])}</b><br>{escape(error["message"])}</div>'

    close.on_click(lambda _: setattr(state, "error", None))
    state.observe(show, names=["error"])
    show()
    return card


def notices(state: Any) -> W.Widget:
    """What the link said that was not understood."""
    box = W.HTML().add_class("ge-notice")

    def show(_: Any = None) -> None:
        box.layout.display = "" if state.notices else "none"
        lines = "".join(f"<li>{escape(one)}</li>" for one in state.notices)
        box.value = f'<div role="status"><b>Part of the link was not used</b><ul>{lines}</ul></div>' if lines else ""

    state.observe(show, names=["notices"])
    show()
    return box


def instead_of_the_recorded() -> W.Widget:
    """Where this appears, the recorded run goes."""
    return W.HTML("<style>.ge-recorded { display: none; }</style>")


class Failed(t.HasTraits):
    """A page that could not be made."""

    error = t.Dict(allow_none=True, default_value=None)


def failed(title: str, error: Exception) -> W.Widget:
    """The page of a lab that could not be made: it says why."""
    return page(title, "This page could not be made; reload it, or open it without its settings.",
                error_card(Failed(error=explain(error))))  # fmt: skip
