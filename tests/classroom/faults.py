"""Things break while a class works: what is lost, how soon is it said in plain words, and does the page come back?

python -m tests.classroom faults                      the whole table
python -m tests.classroom faults --only kernels disk  some of its rows; --kills N and --restarts N for fewer of each
"""

import argparse
import asyncio
import tempfile
import time
from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress
from pathlib import Path

import psutil
from tornado.httpclient import HTTPClientError

from explorer.lessons.progress import Progress
from tests.classroom import onlooker
from tests.classroom.broken_pages import write_pages
from tests.classroom.client import Gone, Page
from tests.classroom.room import Server

WORDS = 5.0  # seconds within which a page has to say what happened
NEWEST = 10.0  # seconds of a run that may be lost
SHORT = 10.0  # seconds after which idle and orphaned kernels end here
BLINK = 2.5  # seconds that a network is away without anybody noticing

EMPTY: Mapping[str, str] = {}
Row = tuple[str, str, str, bool]  # what, measured, goal, met
Fault = Callable[["Place"], Awaitable[list[Row]]]


class Place:
    """Where a fault is tried: a folder of its own, with the pages, the progress, and what pages keep."""

    def __init__(self, folder: Path, options: argparse.Namespace, chromium: str | None) -> None:
        self.folder, self.options, self.chromium = folder, options, chromium
        self.pages, self.kept, self.notes = folder / "pages", folder / "kept", folder / "progress.sqlite"
        write_pages(self.pages)

    def serve(self, port: int = 0, environment: Mapping[str, str] = EMPTY) -> Server:
        """A server for a class with these pages."""
        own = {"GATING_EXPLORER_KEPT": str(self.kept), "GATING_EXPLORER_PROGRESS": str(self.notes)}
        return Server(4, environment={**own, **environment}, pages=str(self.pages), port=port)

    def rows_of(self, student: str) -> set[int]:
        """The numbers that were noted for a student."""
        return {int(one.item) for one in Progress(self.notes).rows(student=student)}


async def said(page: Page, seconds: float = 30) -> tuple[float, str]:
    """(seconds until the server tells a page that has lost its kernel what happened, the words)."""
    begun = time.monotonic()
    while time.monotonic() - begun < seconds:
        with suppress(Gone):
            answer = await page.fetch(f"voila/session/{page.kernel}", 5)
            if answer.code == 200 and b'"said"' in answer.body:
                return time.monotonic() - begun, answer.body.decode()
        await asyncio.sleep(0.1)
    return float("inf"), ""


async def writing(server: Server, student: str) -> tuple[Page, str]:
    """A page that notes one result after the other, and shows each that was acknowledged; (page, the widget that does)."""
    page = await Page(server.url, f"writer.ipynb?student={student}").open()
    shown = await page.find("acknowledged", 60)
    await page.until(lambda: page.states[shown].get("value", 0) > 3, 60)
    return page, shown


async def kernels(place: Place) -> list[Row]:
    """`kill -9` of kernels while they write progress."""
    lost, slowest, back = 0, 0.0, 0
    with place.serve() as server:
        await server.warm()
        for number in range(place.options.kills):
            page, shown = await writing(server, f"S{number}")
            await asyncio.sleep(0.05 * (number % 7))  # at another moment of a write each time
            for one in server.kinds()["kernel"]:
                one.kill()
            took, _ = await said(page)
            slowest = max(slowest, took)
            acknowledged = page.states[shown]["value"]
            lost += len(set(range(acknowledged)) - place.rows_of(f"S{number}"))
            page.close()
            again, _ = await writing(server, f"S{number}")
            back += 1
            await again.leave()
    count = place.options.kills
    return [
        (f"{count} kernels killed while they write: acknowledged results lost", str(lost), "0", lost == 0),
        ("  the reason is told after, at most", f"{slowest:.1f} s", f"<= {WORDS:g} s", slowest <= WORDS),
        ("  pages that work after a reload", f"{back} of {count}", "all", back == count),
    ]


async def servers(place: Place) -> list[Row]:
    """`kill -9` of the server while kernels write; another is started where it was."""
    lost, left, back, count = 0, 0, 0, place.options.restarts
    server = place.serve()
    try:
        for number in range(count):
            await server.warm()
            page, shown = await writing(server, f"T{number}")
            family = server.processes()
            server.kinds()["server"][0].kill()
            with suppress(Gone):
                await page.until(lambda: False, 5)
            acknowledged = page.states[shown]["value"]
            _, running = await asyncio.to_thread(psutil.wait_procs, family, 15)
            left += len(running)
            port = server.port
            server.stop()
            lost += len(set(range(acknowledged)) - place.rows_of(f"T{number}"))
            server = place.serve(port)
            again, _ = await writing(server, f"T{number}")
            back += 1
            await again.leave()
    finally:
        server.stop()
    return [
        (f"{count} servers killed while kernels write: acknowledged results lost", str(lost), "0", lost == 0),
        ("  processes left behind after 15 s", str(left), "0", left == 0),
        ("  pages that work after a reload", f"{back} of {count}", "all", back == count),
    ]


async def browser(place: Place) -> list[Row]:
    """What a person sees when the kernel, then the server, is killed, and when the network is away for a moment."""
    rows: list[Row] = []
    server = place.serve()
    try:
        await server.warm()
        async with onlooker.Wire(server.port) as wire, onlooker.onlooker(place.chromium) as page:
            at = await onlooker.open_lab(page, f"http://127.0.0.1:{wire.port}/", 40)
            server.kinds()["kernel"][0].kill()
            rows += await _lost(page, "kernel killed", "ended from outside (signal 9)", at)
            wire.cut()
            await asyncio.sleep(BLINK)
            shouted = await page.locator(onlooker.BANNER).count()
            wire.mend()
            await page.get_by_role("button", name="Train", exact=True).click(timeout=60_000)
            worked = True
            try:
                await onlooker.reach(page, at + 20, 60)
            except onlooker.TooLate:
                worked = False
            await page.get_by_role("button", name="Pause", exact=True).click(timeout=60_000)
            await asyncio.sleep(2)
            rows.append((f"connection away for {BLINK:g} s: banners", str(shouted), "0", shouted == 0))
            rows.append(("  the page goes on by itself", str(worked), "True", worked))
            at, port = await onlooker.step(page), server.port
            server.kinds()["server"][0].kill()
            took, text = await onlooker.words(page, "does not answer")
            rows.append(("server killed: seen after", f"{took:.1f} s: {text}", f"<= {WORDS:g} s", took <= WORDS))
            server.stop()
            server = place.serve(port)
            rows += await _lost(page, "  server started again", "was started anew", at)
    finally:
        server.stop()
    return rows


async def _lost(page: onlooker.Page, name: str, containing: str, at: int) -> list[Row]:
    """The banner comes, its button is pressed, and the run is there again."""
    took, text = await onlooker.words(page, containing)
    again, step = await onlooker.reopen(page, at)
    return [
        (f"{name}: seen after", f"{took:.1f} s: {text}", f"<= {WORDS:g} s", took <= WORDS),
        (f"  the run is there again, to step {at}", f"step {step} after {again:.1f} s", f">= {at}", step >= at),
    ]


async def training(place: Place) -> list[Row]:
    """A kernel is killed in the middle of a run: how much of it is gone?"""
    with place.serve() as server:
        await server.warm()
        page = await Page(server.url, "labs/routing.ipynb?layers=2&batch=2").open()
        train = await page.find("Train")
        page.click(train)
        await asyncio.sleep(14)
        newest = max((file.stat().st_mtime for file in place.kept.glob("*.json")), default=0.0)
        for one in server.kinds()["kernel"]:
            one.kill()
        age = time.time() - newest
        page.close()
    return [("kernel killed while it trains: age of what is kept", f"{age:.1f} s", f"<= {NEWEST:g} s", age <= NEWEST)]


async def zygote(place: Place) -> list[Row]:
    """The process that forks kernels is killed: pages then get plain kernels, until there is another."""
    with place.serve() as server:
        await server.warm()
        page = await Page(server.url, "facts.ipynb").open()
        for one in server.kinds()["zygote"]:
            one.kill()
        took, text = await said(page)
        page.close()
        begun = time.monotonic()
        plain = await Page(server.url, "facts.ipynb").open()
        await plain.find("acknowledged", 60)
        opened = time.monotonic() - begun
        kind = (await server.health())["kernels"]["kind"]
        await plain.leave()
        while time.monotonic() - begun < 200 and (await server.health())["kernels"]["kind"] != "forked":
            await (await Page(server.url, "facts.ipynb").open()).leave()  # who asks for a page has it started again
            await asyncio.sleep(3)
        revived = time.monotonic() - begun
    return [
        ("zygote killed: its pages are told after", f"{took:.1f} s", f"<= {WORDS:g} s", took <= WORDS and bool(text)),
        ("  the next page works, with a plain kernel", f"{opened:.1f} s", "works", kind != "forked"),
        ("  kernels are forked again after", f"{revived:.0f} s", "<= 180 s", revived <= 180),
    ]


async def disk(place: Place) -> list[Row]:
    """The disk is full, and the folder of what is kept cannot be written."""
    rows: list[Row] = []
    with place.serve() as server:
        await server.warm()
        async with Page(server.url, "full.ipynb") as page:
            note = await page.find("note", 60)
            await page.until(lambda: page.states[note].get("value"), 30)
            text = page.states[note]["value"]
            rows.append(("disk full, progress: told", text, "a sentence", "the disk is full" in text))
            rows.append(await _complains(page, "disk full, runs: told"))
    place.kept.rename(place.folder / "before") if place.kept.exists() else None
    place.kept.write_text("")  # nobody, not even root, makes a folder of it
    with place.serve() as server:
        await server.warm()
        async with Page(server.url, "labs/routing.ipynb?layers=2&batch=2") as page:
            rows.append(await _complains(page, "folder that cannot be written: told"))
    return rows


async def _complains(page: Page, name: str) -> Row:
    """The page says that it cannot keep its run, and trains on."""
    page.click(await page.find("Step"))
    told = [""]

    def has_told() -> bool:
        texts = [str(one.get("value")) for one in page.states.values() if "cannot be kept now" in str(one.get("value"))]
        told[:] = texts[:1] or told
        return bool(texts)

    with suppress(TimeoutError):
        await page.until(has_told, 30)
    return (name, told[0][:110], "a sentence", "The page works" in told[0])


async def away(place: Place) -> list[Row]:
    """Idle and orphaned kernels are ended, and their pages told."""
    rows: list[Row] = []
    for name, variable, why in (("idle", "IDLE", "nothing had been done"), ("orphaned", "ALONE", "had not heard")):
        with place.serve(0, {f"GATING_EXPLORER_{variable}_SECONDS": f"{SHORT:g}"}) as server:
            await server.warm()
            page = await Page(server.url, "facts.ipynb").open()
            if variable == "ALONE":
                page.close()
            took, text = await said(page, 30)
            with suppress(TimeoutError):
                async with asyncio.timeout(WORDS):  # it is told before its process has ended
                    while server.kinds().get("kernel"):
                        await asyncio.sleep(0.1)
            left = len(server.kinds().get("kernel", []))
            page.close()
        limit = SHORT * 1.25 + WORDS  # the manager looks four times in that time
        rows.append(
            (f"{name} kernels end after {SHORT:g} s: ended after", f"{took:.1f} s", f"<= {limit:g} s", took <= limit)
        )
        rows.append(
            ("  it is told why, and none is left", f"{why in text}, {left}", "True, 0", why in text and not left)
        )
    return rows


async def memory(place: Place) -> list[Row]:
    """A callback asks for more than a page may have."""
    with place.serve() as server:
        await server.warm()
        async with Page(server.url, "greedy.ipynb") as page:
            greedy = await page.find("greedy", 60)
            begun = time.monotonic()
            page.click(greedy)

            def told() -> bool:
                return any("not enough memory" in str(one.get("value")) for one in page.states.values())

            with suppress(TimeoutError):
                await page.until(told, 30)
            took, good = time.monotonic() - begun, told()
            counted = await page.find("count", 10)
            page.click(counted)
            alive = True
            try:
                await page.until(lambda: page.states[counted].get("tooltip") == "1", 10)
            except TimeoutError:
                alive = False
    return [
        ("more memory than allowed: told after", f"{took:.1f} s", f"<= {WORDS:g} s", good and took <= WORDS),
        ("  the page goes on", str(alive), "True", alive),
    ]


async def room(place: Place) -> list[Row]:
    """The room is full; who waits comes in when a place is free."""
    with place.serve() as server:
        await server.warm()
        places = (await server.health())["kernels"]["places"]
        pages = [await Page(server.url, "facts.ipynb").open() for _ in range(places)]
        async with onlooker.onlooker(place.chromium) as page:
            await page.goto(f"{server.base}voila/render/labs/routing.ipynb?layers=2&batch=2")
            waits = "You are first in line" in await page.inner_text("body")
            await pages.pop().leave()
            begun = time.monotonic()
            await page.wait_for_function(f"document.querySelector('{onlooker.STEP}')", timeout=120_000)
            took = time.monotonic() - begun
        for one in pages:
            await one.leave()
    return [
        ("room full: who comes waits", str(waits), "True", waits),
        ("  and is in after a place is free", f"{took:.1f} s", "<= 30 s", took <= 30),
    ]


FAULTS: dict[str, Fault] = {
    one.__name__: one for one in (kernels, servers, browser, training, zygote, disk, away, memory, room)
}
SEEN = ("browser", "room")  # by a browser


async def run(options: argparse.Namespace, chromium: str | None) -> bool:
    """All that was asked for; whether every goal was met."""
    met = True
    for name in options.only or FAULTS:
        if name in SEEN and chromium is None:
            print(f"SHORT  {name}: no Chromium was found")
            met = False
            continue
        with tempfile.TemporaryDirectory(prefix="faults-") as folder:
            try:
                rows = await FAULTS[name](Place(Path(folder), options, chromium))
            except (Gone, TimeoutError, onlooker.TooLate, OSError, psutil.Error, HTTPClientError) as problem:
                rows = [(name, f"{type(problem).__name__}: {problem}"[:150], "no error", False)]
        for what, measured, goal, good in rows:
            print(f"{'met  ' if good else 'SHORT'}  {what:68} {measured}  (goal: {goal})", flush=True)
            met = met and good
    return met


def main(argv: list[str]) -> int:
    """See the top of this file."""
    parser = argparse.ArgumentParser(prog="python -m tests.classroom faults")
    parser.add_argument("--only", nargs="+", choices=FAULTS)
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--restarts", type=int, default=3)
    options = parser.parse_args(argv)
    return 0 if asyncio.run(run(options, onlooker.chromium())) else 1
