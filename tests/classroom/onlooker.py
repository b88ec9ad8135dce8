"""What a person sees when something breaks: pages in a real Chromium, reached through a wire that can be cut."""

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator
from typing import Self

from playwright.async_api import Page, async_playwright
from playwright.async_api import TimeoutError as TooLate

from tests.browser.chromium import find_chromium
from tests.browser.conftest import ARGUMENTS

BANNER = "#ge-lost:not([hidden])"
STEP = ".ge-status b"


class Wire:
    """Between a browser and a server: passes everything on, unless it is cut."""

    def __init__(self, port: int) -> None:
        self.target, self.port, self.whole = port, 0, True
        self._ends: set[asyncio.StreamWriter] = set()

    async def __aenter__(self) -> Self:
        self._listening = await asyncio.start_server(self._pass_on, "127.0.0.1", 0)
        self.port = self._listening.sockets[0].getsockname()[1]
        return self

    async def __aexit__(self, *_: object) -> None:
        self._listening.close()
        self.cut()

    def cut(self) -> None:
        """End every connection, and refuse new ones until it is mended."""
        self.whole = False
        for end in self._ends:
            end.transport.abort()

    def mend(self) -> None:
        self.whole = True

    async def _pass_on(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        ends = {writer}
        try:
            if not self.whole:
                return
            there, back = await asyncio.open_connection("127.0.0.1", self.target)
            ends.add(back)
            self._ends |= ends
            await asyncio.gather(_copy(reader, back), _copy(there, writer))
        except OSError:
            pass
        finally:
            self._ends -= ends
            for end in ends:
                end.transport.abort()


async def _copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with contextlib.suppress(OSError):
        while content := await reader.read(2**16):
            writer.write(content)
            await writer.drain()
    writer.close()


@contextlib.asynccontextmanager
async def onlooker(path: str | None = None) -> AsyncIterator[Page]:
    """A fresh page; when it is left, it says goodbye as a closed page does."""
    async with async_playwright() as playwright:
        browser = await playwright.chromium.launch(executable_path=path, args=ARGUMENTS)
        context = await browser.new_context(viewport={"width": 1280, "height": 800})
        page = await context.new_page()
        try:
            yield page
        finally:
            with contextlib.suppress(Exception):
                await page.evaluate("dispatchEvent(new Event('beforeunload'))")
                await page.wait_for_timeout(100)
            await browser.close()


def chromium() -> str | None:
    """The path of one that runs; to be asked for before a loop runs."""
    return find_chromium()


async def open_lab(page: Page, url: str, steps: int) -> int:
    """Open the routing lab there, train so many steps, pause; returns the step."""
    await page.goto(f"{url}voila/render/labs/routing.ipynb?layers=2&batch=2")
    train = page.get_by_role("button", name="Train", exact=True)
    await page.wait_for_function(f"document.querySelector('{STEP}')", timeout=120_000)
    await train.click()
    await reach(page, steps)
    await page.get_by_role("button", name="Pause", exact=True).click()
    await page.wait_for_function(
        "[...document.querySelectorAll('button')].some(one => one.textContent.trim() == 'Train' && !one.disabled)",
        timeout=60_000,
    )
    return await step(page)


async def step(page: Page) -> int:
    """That the page shows."""
    return int(await page.evaluate(f"Number(document.querySelector('{STEP}')?.textContent || -1)"))


async def reach(page: Page, steps: int, seconds: float = 120) -> None:
    """Wait until the page shows this step, or a later one."""
    script = f"steps => Number(document.querySelector('{STEP}')?.textContent || -1) >= steps"
    await page.wait_for_function(script, arg=steps, timeout=1000 * seconds)


async def words(page: Page, containing: str = "", seconds: float = 30) -> tuple[float, str]:
    """(seconds until the banner is there with these words, what it says); what it says is "" if it never came."""
    begun = time.monotonic()
    script = "([where, words]) => document.querySelector(where)?.textContent.includes(words)"
    try:
        await page.wait_for_function(script, arg=[BANNER, containing], timeout=1000 * seconds)
    except TooLate:
        return float("inf"), ""
    return time.monotonic() - begun, " ".join((await page.inner_text(BANNER)).split())


async def reopen(page: Page, steps: int) -> tuple[float, int]:
    """Press the banner's button; (seconds until the page shows the step that it was at, the step)."""
    begun = time.monotonic()
    async with page.expect_navigation(timeout=120_000):
        await page.click(f"{BANNER} button")
    with contextlib.suppress(TooLate):
        await reach(page, steps)
    return time.monotonic() - begun, await step(page)
