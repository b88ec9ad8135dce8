"""The parts of a lesson that stand still: its beginning, the question, exercises, formulas and further reading."""

import asyncio
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import ipywidgets as W

from explorer.serving.quiet import in_voila, until_the_page_asks
from widgets.labs.formula import lines, mathml
from widgets.labs.frame import HEADLESS, STYLE, escape, explain
from widgets.lessons.desk import NOBODY, Desk, desk
from widgets.lessons.place import MainPart
from widgets.lessons.prose import blocks, inline
from widgets.views import TextLimit

LOOK = (Path(__file__).parent / "lessons.css").read_text(encoding="utf-8")
IN_LAB = "Write it in the cell below, run the cell (Shift and Enter), and read the hint. Try as often as you like."
IN_VOILA = "No code can be written on this page. To write it, open this lesson in JupyterLab"


def begin(lesson: int, at: Desk | None = None) -> W.Widget:
    """The look of the page, and the student's name, under which predictions, exercises and quizzes are kept."""
    until_the_page_asks()
    at = at or desk
    said = W.HTML().add_class("ge-status")

    def say(sentence: str) -> None:
        said.value = f'<p role="status">{escape(sentence)}</p>'

    main = MainPart(lambda: setattr(at, "here", True))
    parts: list[W.Widget] = [W.HTML(f"<style>{STYLE}{LOOK}</style>"), main, TextLimit()]
    if at.named_by_server:
        say(f"Lesson {int(lesson)}. What you do is kept as {at.student}.")
        return _lesson(*parts, said)
    name = W.Text(
        value=at.student, description="your name", placeholder="as your teacher knows you", continuous_update=False
    )

    def introduce(event: Mapping[str, Any]) -> None:
        try:
            say(at.introduce(event["new"]))
        except Exception as error:  # noqa: BLE001  said where the name was typed
            say(explain(error)["message"])

    name.observe(introduce, names=["value"])
    say(f"Hello {at.student}." if at.student else NOBODY)
    return _lesson(*parts, name, said)


def question(asked: str) -> W.Widget:
    """The question of the lesson (markdown)."""
    return _lesson(W.HTML(blocks(asked)).add_class("ge-question"))


def formula(latex: str) -> W.Widget:
    """A formula that the browser draws itself, without any network."""
    return _lesson(W.HTML("".join(mathml(one) for one in lines(latex))).add_class("ge-equation"))


def exercise(id: str, at: Desk | None = None) -> W.Widget:  # noqa: A002  (it is called an id)
    """The task of an exercise and the code to begin with; what it is written in depends on where the page is open."""
    shown = W.HTML(f'<h3>Exercise {escape(id)}</h3><p role="status">The task is on its way.</p>').add_class("ge-task")

    def fill() -> None:
        from explorer.lessons.exercise import find

        asked = find(id)
        check = escape(f'explorer.check("{asked.id}", {asked.name})')
        shown.value = (
            f"<h3>{escape(f'Exercise {asked.id}: {asked.title}')}</h3>{blocks(asked.task)}"
            f"<pre><code>{escape(asked.starter.strip())}</code></pre><p>{_where()}</p>"
            f"<p>Then check it: <code>{check}</code></p><p>{_standing(at or desk, asked)}</p>"
        )

    later(shown, fill, at or desk)
    return _lesson(shown)


def further(readings: Sequence[tuple[str, str]]) -> W.Widget:
    """Further reading: (words, address of a paper or page) each."""
    items = "".join(f"<li>{inline(f'[{words}]({address})')}</li>" for words, address in readings)
    return _lesson(W.HTML(f"<ul>{items}</ul>"))


def _where() -> str:
    """HTML: where the code is written."""
    if not in_voila():
        return escape(IN_LAB)
    address = _address_in_lab()
    if address:
        return f'{escape(IN_VOILA)}: <a href="{escape(address)}" target="_blank" rel="noopener">open it there</a>.'
    return f"{escape(IN_VOILA)}: <code>gating-explorer lab</code> opens it."


def _address_in_lab() -> str:
    """The page's notebook in JupyterLab; "" where Voila stands alone.

    GATING_EXPLORER_LAB is the address of a JupyterLab that has the same notebooks; on a JupyterHub it is known.
    """
    hub = os.environ.get("JUPYTERHUB_SERVICE_PREFIX", "")
    home = os.environ.get("GATING_EXPLORER_LAB", "") or (f"{hub.rstrip('/')}/lab" if hub else "")
    _, found, path = os.environ.get("SCRIPT_NAME", "").partition("/voila/render/")
    return f"{home.rstrip('/')}/tree/{path}" if home and found and path.endswith(".ipynb") else ""


def _standing(at: Desk, asked: Any) -> str:
    """HTML: how often the student has tried this already, and whether it passed."""
    from explorer.errors import ExplorerError
    from explorer.lessons.progress import Progress

    if not at.student:
        return ""
    try:
        rows = [one for one in Progress().rows(student=at.student, lesson=asked.lesson) if one.item == asked.id]
    except ExplorerError:
        return ""
    tries = [one for one in rows if one.kind == "exercise"]
    if not tries:
        return ""
    passed = any(one.correct for one in tries)
    return escape(
        f"{'✓ Passed' if passed else 'Not passed yet'}, tried {len(tries)} time{'' if len(tries) == 1 else 's'}."
    )


def later(shown: W.HTML, fill: Callable[[], None], at: Desk) -> None:
    """Fill a part whose content needs torch: on a page once the rest is seen, else at once."""
    try:
        loop = asyncio.get_running_loop()
    except RuntimeError:
        loop = None
    if HEADLESS or loop is None:
        fill()
        return

    async def wait() -> None:
        try:
            await at.seen()
            await loop.run_in_executor(None, _import)
            fill()
        except Exception as error:  # noqa: BLE001  shown where the content would be
            said = explain(error)
            shown.value = f'<p role="alert">{escape(said["title"])}: {escape(said["message"])}</p>'

    shown.task = loop.create_task(wait())  # kept, or it might be collected


def _import() -> None:
    import torch  # noqa: F401


def _lesson(*parts: W.Widget) -> W.VBox:
    return W.VBox(list(parts)).add_class("ge-page").add_class("ge-lesson")
