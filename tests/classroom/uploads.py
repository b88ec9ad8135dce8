"""`python -m tests.classroom uploads`: files of every bad kind, given to every field that takes files, in Chromium.

The page itself says what is wrong, within a second, and sends nothing: what a websocket carries is watched.
"""

import argparse
import gzip
import io
import random
import tempfile
import time
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

from playwright.sync_api import Browser, Page

from tests.classroom.hostile import Ear, Row, table
from tests.classroom.payloads import PATIENCE, chromium, watched
from tests.classroom.room import Server

SECONDS = 1.0  # within which the page says something
MEBIBYTE = 2**20
SMALL = 20_000  # bytes over the websocket that are no upload


class Bad(NamedTuple):
    """A file, and a word of what the page has to say; "": it may be taken, as it is text."""

    name: str
    content: bytes
    word: str


def bad_files(seed: int = 7) -> Iterator[Bad]:
    """Every kind."""
    noise = random.Random(seed).randbytes
    yield Bad("just too large.txt", b"x" * (5 * MEBIBYTE + 1), "at most")
    yield Bad("fifteen.txt", b"word " * (3 * MEBIBYTE), "at most")
    yield Bad("forty.txt", b"word " * (8 * MEBIBYTE), "at most")
    yield Bad("one line.txt", b"x" * 10_000_000, "at most")
    yield Bad("noise.txt", noise(50_000), "not a text file")
    yield Bad("picture.png.txt", b"\x89PNG\r\n\x1a\n" + noise(3000), "not a text file")
    yield Bad("nul.txt", b"some words\x00" * 100, "NUL")
    yield Bad("latin.txt", "déjà vu ".encode("latin-1") * 100, "UTF-8")
    yield Bad("utf16.txt", ("some words " * 100).encode("utf-16"), "not a text file")
    yield Bad("surrogate.txt", "\ud800 words ".encode(errors="surrogatepass") * 50, "UTF-8")
    yield Bad("archive.zip", _zip(), "not a text file")
    yield Bad("bomb.gz", gzip.compress(bytes(50 * MEBIBYTE)), "not a text file")
    yield Bad("cut recording.safetensors", (10**6).to_bytes(8, "little") + b'{"a": ' * 40, "not a text file")
    yield Bad("cut table.parquet", b"PAR1" + noise(500), "not a text file")
    yield Bad("nothing.txt", b"", "at least")
    yield Bad("\u202egnp.txt", "\u202e\u2066 words turned round \u2069".encode() * 20, "")
    yield Bad("../../etc/passwd", b"a name that climbs " * 20, "")
    yield Bad("<img src=x onerror=pwn()>.txt", b"a name with markup " * 20, "")


def _zip() -> bytes:
    made = io.BytesIO()
    with zipfile.ZipFile(made, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("../slip.txt", bytes(MEBIBYTE))
    return made.getvalue()


class Sent:
    """Bytes that the page sends over its websockets."""

    def __init__(self, page: Page, ear: Ear) -> None:
        self.bytes, self.ear = 0, ear
        page.on("websocket", self._watch)

    def _watch(self, socket: object) -> None:
        on: Callable[..., None] = socket.on  # type: ignore[attr-defined]
        on("framesent", self._count)
        on("framereceived", lambda data: self.ear.hear(data, "websocket"))

    def _count(self, data: bytes | str) -> None:
        self.bytes += len(data)


WHERE = {
    "routing": ("Your own data", "Use this text"),
    "checkpoint": ("Texts from files", "Use this text"),
}


def given(page: Page, files: str, bad: Bad, sent: Sent) -> str:
    """Give it to the field; "" if all is well, else what is not."""
    before = sent.bytes
    root = page.locator(files).first
    alarm, listed = root.locator(".ge-own-alert"), root.locator("li")
    begun = time.perf_counter()
    if len(bad.content) > MEBIBYTE:  # so much takes its time on the way to the browser
        path = Path(tempfile.mkdtemp(prefix="classroom-")) / bad.name
        path.write_bytes(bad.content)
        root.locator("input[type=file]").set_input_files(path)
    else:
        content = {"name": bad.name, "mimeType": "text/plain", "buffer": bad.content}
        root.locator("input[type=file]").set_input_files([content])
    handed = time.perf_counter() - begun
    try:
        (alarm if bad.word else listed.first).filter(has_text=bad.word or None).wait_for(timeout=5000)
    except Exception:  # noqa: BLE001  it did not come
        return f"{bad.name!r}: the page said {alarm.inner_text()[:200]!r}, not {bad.word!r}"
    took = time.perf_counter() - begun - handed
    for button in listed.locator("button").all():
        button.click()
    if took > SECONDS:
        return f"{bad.name!r}: it took {took:.1f} s"
    if sent.bytes - before > SMALL:
        return f"{bad.name!r}: {sent.bytes - before:,} bytes were sent before anybody pressed a button"
    return ""


def pasted(page: Page, files: str, sent: Sent) -> str:
    """Fifteen mebibytes into the box for pasting."""
    before, root = sent.bytes, page.locator(files).first
    root.locator("textarea").evaluate(
        """(area) => {
          const data = new DataTransfer();
          data.setData("text/plain", "word ".repeat(3 * 2 ** 20));
          area.focus();
          area.dispatchEvent(new ClipboardEvent("paste", { clipboardData: data, bubbles: true, cancelable: true }));
        }"""
    )
    root.locator(".ge-own-alert").filter(has_text="at most").wait_for(timeout=5000)
    return "15 MiB pasted were sent" if sent.bytes - before > SMALL else ""


POUR = """(area, pasted) => {
  const [text, data] = ["word ".repeat(3 * 2 ** 20), new DataTransfer()];
  area.focus();
  if (pasted) {
    data.setData("text/plain", text);
    area.dispatchEvent(new ClipboardEvent("paste", { clipboardData: data, bubbles: true, cancelable: true }));
  } else {
    area.value = text;
    area.dispatchEvent(new Event("input", { bubbles: true }));
    area.dispatchEvent(new Event("change", { bubbles: true }));
  }
}"""


def boxes(page: Page, sent: Sent) -> list[str]:
    """Fifteen mebibytes into the checkpoint lab's own boxes, whose texts travel as they are typed; then a few words."""
    wrong, alarm = [], page.locator(".ge-limit-alert")
    page.get_by_label("text 1", exact=True).wait_for(timeout=PATIENCE)
    for label, pasted in [("text 1", True), ("text 1", False), ("domain", True), ("domain", False)]:
        what, area, before = f"15 MiB in the box {label!r}", page.get_by_label(label, exact=True).first, sent.bytes
        held, begun = area.input_value(), time.perf_counter()
        area.evaluate(POUR, pasted)
        took = time.perf_counter() - begun
        page.wait_for_timeout(500)
        if not alarm.filter(has_text="Nothing was sent").count():
            wrong.append(f"{what}: nothing was said")
        if took > SECONDS:
            wrong.append(f"{what}: it took {took:.1f} s")
        if sent.bytes - before > SMALL:
            wrong.append(f"{what}: {sent.bytes - before:,} bytes were sent")
        if area.input_value() != held:
            wrong.append(f"{what}: the box is not as it was")
        area.press("End")
        area.press("a")  # whoever writes on is not told of it any longer
        area.press("Backspace")
        if alarm.filter(has_text="Nothing was sent").count():
            wrong.append(f"{what}: it is said for ever")
    area, before = page.get_by_label("text 1", exact=True), sent.bytes
    area.fill("a few words")
    area.blur()
    page.wait_for_timeout(500)
    return wrong if sent.bytes > before else [*wrong, "the boxes send nothing any more"]


def try_page(browser: Browser, base: str, lab: str, ear: Ear, files: list[Bad]) -> list[str]:
    """What went wrong in this lab."""
    with watched(browser) as one:
        one.page.set_default_timeout(20_000)
        sent = Sent(one.page, ear)
        one.page.goto(f"{base}voila/render/labs/{lab}.ipynb", timeout=PATIENCE)
        part = one.page.get_by_text(WHERE[lab][0]).first
        part.wait_for(timeout=PATIENCE)
        one.page.wait_for_timeout(3000)
        part.click()
        one.page.locator(".ge-own input[type=file]").first.wait_for(timeout=PATIENCE)
        wrong = [given(one.page, ".ge-own", bad, sent) for bad in files]
        wrong.append(pasted(one.page, ".ge-own", sent))
        if lab == "checkpoint":
            wrong += boxes(one.page, sent)
        one.look()
        return [*filter(None, wrong), *one.caught]


def main(argv: list[str]) -> int:
    """The table; 1 if something fell short."""
    parser = argparse.ArgumentParser(prog="uploads", description=__doc__)
    parser.parse_args(argv)
    ear, rows, examples = Ear(), list[Row](), list[str]()
    files = list(bad_files())
    with chromium() as browser, Server(people=0) as server:
        for lab in WHERE:
            try:
                wrong = try_page(browser, server.base, lab, ear, files)
            except Exception as error:  # noqa: BLE001  told in the table
                wrong = [f"{lab}: {type(error).__name__}: {error}"]
            rows.append(
                Row(f"{lab} lab: {len(files)} files and a paste", f"{len(wrong)} not as they should", "0", not wrong)
            )
            examples += wrong
    rows.append(ear.row())
    return table("Uploads", rows, [*examples, *ear.leaks])
