"""`python -m tests.classroom payloads`: sixty-four payloads in every text sink, in Chromium; none of them may run.

Told apart from text that is shown: a call of `pwn()`, a dialog, a request to pwn.example or for `x`, an element with
`data-pwn`, a handler in an attribute, a link to a script.
"""

import argparse
import csv
import io
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlencode

import nbformat
from playwright.sync_api import Browser, BrowserContext, Error, Page, sync_playwright

from tests.browser.chromium import find_chromium
from tests.browser.conftest import ARGUMENTS, leave
from tests.classroom.hostile import Row, table
from tests.classroom.payload_texts import PAYLOADS
from tests.classroom.room import Server
from tests.classroom.sinks import READY

PATIENCE = 90_000
AT_ONCE = 8  # payloads on one page
CELL = "from tests.classroom import sinks\n\nsinks.show()"
TRAP = """
(() => {
  const caught = (what) => { (window.__caught ||= []).push(what); console.error("PWNED: " + what); };
  window.pwn = () => caught("a script ran");
  for (const name of ["alert", "confirm", "prompt", "print"]) window[name] = () => caught(name);
})();
"""
LOOK = """
() => {
  const found = [...(window.__caught || [])];
  const tell = (what, one) => found.push(what + ": " + one.outerHTML.slice(0, 200));
  for (const one of document.querySelectorAll("*")) {
    for (const { name, value } of one.attributes) {
      if (name === "data-pwn") tell("an element", one);
      if (name.startsWith("on") && value.includes("pwn")) tell("a handler", one);
      if (/href|src|action|data$/.test(name) && /^\\s*(javascript|data:text\\/html)/i.test(value)) tell("a link", one);
      if (/href|src|action/.test(name) && /^(https?:)?\\/\\/pwn/i.test(value)) tell("an address", one);
    }
  }
  return found.slice(0, 5);
}
"""


class Watched:
    """A browser's context in which whatever a payload does is noticed."""

    def __init__(self, browser: Browser) -> None:
        self.caught: list[str] = []
        self.drawn = 0  # charts over which the pointer went
        self.context: BrowserContext = browser.new_context(viewport={"width": 1280, "height": 900})
        self.context.add_init_script(TRAP)
        self.page: Page = self.context.new_page()
        self.page.on("dialog", self._dialog)
        self.page.on("request", lambda request: self._address(request.url))
        self.page.on("console", lambda said: "PWNED" in said.text and self.caught.append(said.text))
        self.page.on("popup", lambda popup: self.caught.append(f"a window: {popup.url}"))

    def _dialog(self, dialog: Any) -> None:
        self.caught.append(f"a dialog: {dialog.message}")
        dialog.dismiss()

    def _address(self, url: str) -> None:
        path = url.partition("?")[0]
        if "pwn.example/" in path or path.endswith(("/x", "/x.png", "/x.css")):
            self.caught.append(f"a request: {url[:200]}")

    def look(self) -> None:
        """At what stands in the page now."""
        self.caught += self.page.evaluate(LOOK)

    def hover(self) -> None:
        """The pointer goes over every picture."""
        for place in self.page.locator(".ge-chart, .ge-strip, .ge-map").all():
            with suppress(Error):
                place.scroll_into_view_if_needed(timeout=2000)
                if "ge-chart" in str(place.get_attribute("class")):  # drawn when it is on the screen
                    place.locator(".main-svg").first.wait_for(timeout=20_000)
                    self.drawn += 1
                box = place.bounding_box()
                for across in (0.2, 0.5, 0.8) if box else ():
                    for down in (0.3, 0.5, 0.75):
                        self.page.mouse.move(box["x"] + across * box["width"], box["y"] + down * box["height"])  # type: ignore[index]


@contextmanager
def chromium() -> Iterator[Browser]:
    """The browser of the tests."""
    path = find_chromium()
    assert path, "no Chromium was found: install one, or name it with CHROMIUM=/path/to/it"
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=ARGUMENTS)
        yield browser
        browser.close()


@contextmanager
def watched(browser: Browser) -> Iterator[Watched]:
    """A fresh context, left as a visitor leaves."""
    one = Watched(browser)
    try:
        yield one
    finally:
        leave(one.context)


def folder_of_sinks() -> Path:
    """A folder with the one notebook that fills all sinks."""
    folder = Path(tempfile.mkdtemp(prefix="classroom-"))
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(CELL)])
    notebook.metadata.kernelspec = {"name": "python3", "display_name": "Python 3", "language": "python"}
    nbformat.write(notebook, folder / "sinks.ipynb")
    return folder


# -- where they go -----------------------------------------------------------------------------------------------------


def sinks(browser: Browser, base: str, which: Sequence[int]) -> list[str]:
    """These payloads in every sink of sinks.py."""
    with watched(browser) as one:
        one.page.goto(f"{base}voila/render/sinks.ipynb?which={','.join(map(str, which))}", timeout=PATIENCE)
        one.page.get_by_text(READY).wait_for(timeout=PATIENCE)
        one.page.wait_for_timeout(2000)
        one.look()
        one.hover()
        one.look()
        return one.caught + ([] if one.drawn else ["no chart was drawn: nothing can be said of them"])


def links(browser: Browser, base: str, texts: Sequence[str], labs: Sequence[str] = ()) -> list[str]:
    """As values and keys of the gallery's link, one after the other, and of each lab's, together."""
    with watched(browser) as one:
        for text in texts:
            query = urlencode({"q": text, "family": text, "x" + text: text, "theme": text}, errors="replace")
            one.page.goto(f"{base}voila/render/index.ipynb?{query}", timeout=PATIENCE)
            one.page.get_by_role("heading", name="Gating explorer").wait_for(timeout=PATIENCE)
            one.look()
        for lab, names in ((lab, LABS[lab]) for lab in labs):
            pairs = [(name, text) for name, text in zip(names * len(texts), texts, strict=False)]
            pairs += [(text, text) for text in texts]
            query = "&".join(f"{quote(a, errors='replace')}={quote(b, errors='replace')}" for a, b in pairs[:95])
            one.page.goto(f"{base}voila/render/labs/{lab}.ipynb?{query}", timeout=PATIENCE)
            one.page.get_by_text("Part of the link was not used").wait_for(timeout=PATIENCE)
            one.page.wait_for_timeout(1000)
            one.look()
            one.hover()
        return one.caught


LABS = {
    "routing": ["mechanism", "task", "b", "preset", "do", "hide", "domains", "seed", "compare", "compare.by", "k"],
    "attention": ["mechanism", "task", "b", "preset", "do", "hide", "seed", "n_heads", "qk_norm"],
    "checkpoint": ["checkpoint", "beside", "domain", "layer", "window", "trace"],
}  # fmt: skip


def typed(browser: Browser, base: str, texts: Sequence[str]) -> list[str]:
    """As the name of a student, and as texts and names of files in the labs."""
    with watched(browser) as one:
        one.page.goto(f"{base}voila/render/lessons/2_top_k_routing.ipynb", timeout=PATIENCE)
        name = one.page.get_by_label("your name")
        name.wait_for(timeout=PATIENCE)
        for text in texts:
            name.fill(_writable(text))
            name.press("Tab")
            one.page.wait_for_timeout(150)
        one.look()
        one.page.goto(f"{base}voila/render/labs/checkpoint.ipynb", timeout=PATIENCE)
        one.page.get_by_text("Texts from files").first.wait_for(timeout=PATIENCE)
        one.page.get_by_text("Texts from files").first.click()
        given = one.page.locator("input[type=file]").first
        for text in texts:
            given.set_input_files([{"name": _writable(text)[:200], "mimeType": "text/plain", "buffer": b"some words"}])
            one.page.wait_for_timeout(100)
        one.look()
        one.page.locator(".ge-own-use").first.click()
        one.page.wait_for_timeout(1500)
        one.look()
        return one.caught


def _writable(text: str) -> str:
    return text.encode(errors="replace").decode().replace("\x00", "")


def saved_pages(browser: Browser, texts: Sequence[str]) -> list[str]:
    """In the pages that are saved: of their own, of a trace, of a checkpoint's files."""
    folder = Path(tempfile.mkdtemp(prefix="classroom-"))
    with watched(browser) as one:
        for number, content in enumerate(_pages(texts)):
            path = folder / f"{number}.html"
            path.write_text(content, encoding="utf-8", errors="replace")
            one.page.goto(path.as_uri(), timeout=PATIENCE)
            one.page.wait_for_timeout(500)
            one.look()
            one.hover()  # waits until each chart is drawn
            one.look()
        return one.caught + ([] if one.drawn else ["no chart was drawn: nothing can be said of them"])


def _pages(texts: Sequence[str]) -> Iterator[str]:
    import numpy as np

    from tests.checkpoints.making import mixtral, save
    from tests.widgets.traces import trace
    from widgets.export import checkpoint_page, trace_page
    from widgets.export.standalone import Heading, Prose, standalone
    from widgets.figures import load_map
    from widgets.views import Chart, TokenStrip

    chart, strip = Chart(label=texts[0]), TokenStrip(label=texts[0])
    chart.show(load_map.as_dict(np.ones((len(texts), 4)), texts, texts[0]))
    strip.show([list(texts)], np.zeros((1, 1, len(texts), 2), int), np.ones((1, 1, len(texts), 2)), names=[texts[0]])
    parts = [part for text in texts for part in (Heading(text), Prose(text))]
    yield standalone(texts[0], [*parts, chart, strip], stamp=" ".join(texts))
    words = dict(enumerate(texts))
    said = {"checkpoint": texts[0], "architecture": texts[0], "rule": texts[0]}
    tokens = {str(i): words.get(i, "a") for i in range(20)}
    recording = trace(**said, vocabulary=tokens, domains=(*texts, "b")[:2])
    yield trace_page.page(recording, trace(seed=1, checkpoint=texts[0]), texts[0], texts[-1])

    from explorer.checkpoints.checkpoint import open_checkpoint
    from explorer.checkpoints.report import report

    tensors = mixtral()
    shape = next(iter(tensors.values()))
    tensors |= {f"{_named(text)}.{i}": shape.clone() for i, text in enumerate(texts)}
    config = {"architectures": [_writable(texts[0])], "model_type": _writable(texts[-1]), "num_local_experts": 4}
    made = save(Path(tempfile.mkdtemp(prefix="classroom-")), tensors, config)
    with suppress(Exception):  # a checkpoint that is refused has no page
        yield checkpoint_page.page(report(open_checkpoint(str(made)), None))


def _named(text: str) -> str:
    return _writable(text)[:100]


def cells(texts: Sequence[str]) -> list[str]:
    """In tables for a spreadsheet: no cell may begin as a formula does."""
    import pandas as pd

    from explorer.lessons.progress import Progress
    from widgets.export.tables import to_csv

    starts = ["=", "+", "-", "@", "\t=", "\r=", " =", "＝", '"=']
    given = [_writable(text) for text in (*texts, *(f"{start}{text}" for start in starts for text in texts[:8]))]
    made = to_csv(pd.DataFrame({given[0]: given, "b": given}), stamp=given[0]).decode("utf-8", "replace")
    path = Path(tempfile.mkdtemp(prefix="classroom-"))
    progress = Progress(path / "p.sqlite")
    for text in given:
        with suppress(Exception):  # a name that is refused is not in the table
            progress.note(_writable(text), 1, "quiz", _writable(text)[:60] or "x", [text, {"a": text}], True)
    progress.csv(path / "p.csv")
    written = [made, (path / "p.csv").read_text(encoding="utf-8-sig")]
    return [
        f"a formula in a table: {cell[:100]!r}"
        for content in written
        for row in csv.reader(io.StringIO("".join(content.replace("\x00", ""))))
        for cell in row
        if cell[:1] in ("=", "+", "-", "@", "\t", "\r") and not _is_number(cell)
    ]


def _is_number(cell: str) -> bool:
    with suppress(ValueError):
        float(cell)
        return True
    return False


# -- the table ---------------------------------------------------------------------------------------------------------


def _row(what: str, count: int, made: Callable[[], list[str]], examples: list[str]) -> Row:
    begun = time.perf_counter()
    try:
        caught = made()
    except Exception as error:  # noqa: BLE001  told in the table
        caught = [f"{what}: {type(error).__name__}: {error}"]
    examples += caught[:3]
    took = time.perf_counter() - begun
    return Row(f"{what}: {count} payloads, {took:.0f} s", f"{len(caught)} ran or became markup", "0", not caught)


def main(argv: list[str]) -> int:
    """The table; 1 if something fell short."""
    parser = argparse.ArgumentParser(prog="payloads", description=__doc__)
    parser.add_argument("--count", type=int, default=len(PAYLOADS))
    given = parser.parse_args(argv)
    texts, examples, rows = PAYLOADS[: given.count], list[str](), list[Row]()
    rows.append(_row("tables for a spreadsheet", len(texts), lambda: cells(texts), examples))
    with chromium() as browser:
        with Server(people=0, pages=str(folder_of_sinks())) as server:
            for first in range(0, len(texts), AT_ONCE):
                last = min(first + AT_ONCE, len(texts))
                what = f"every sink, payloads {first + 1} to {last}"
                rows.append(
                    _row(what, last - first, lambda a=first, b=last: sinks(browser, server.base, range(a, b)), examples)
                )
        with Server(people=0, environment={"GATING_EXPLORER_PROGRESS": tempfile.mktemp(suffix=".sqlite")}) as server:
            rows.append(
                _row("links of all pages", len(texts), lambda: links(browser, server.base, texts, [*LABS]), examples)
            )
            rows.append(_row("typed and uploaded", len(texts), lambda: typed(browser, server.base, texts), examples))
        for first in range(0, len(texts), AT_ONCE):
            some = texts[first : first + AT_ONCE]
            rows.append(
                _row(
                    f"saved pages, {first + 1} and on",
                    len(some),
                    lambda some=some: saved_pages(browser, some),
                    examples,
                )
            )
    return table("Payloads in text", rows, examples)
