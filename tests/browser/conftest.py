"""A real server, a real Chromium: `base_url` is the running explorer, `page` a fresh page at 1280 x 800."""

import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest
from playwright.sync_api import Browser, BrowserContext, ConsoleMessage, Error, Page, Request, Response, sync_playwright

from tests.browser.chromium import find_chromium

SERVE = "from explorer.serving import serve; raise SystemExit(serve(port=0, browser=False))"
ARGUMENTS = ["--no-sandbox", "--disable-gpu", "--disable-background-networking", "--no-first-run"]


@pytest.fixture(scope="session")
def base_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of the explorer with the real notebooks, as `make explore` serves them; what it keeps is gone afterwards."""
    folder = tmp_path_factory.mktemp("kept")
    kept = {"GATING_EXPLORER_KEPT": str(folder), "GATING_EXPLORER_PROGRESS": str(folder / "progress.sqlite")}
    server = subprocess.Popen([sys.executable, "-c", SERVE], stdout=subprocess.PIPE, text=True, env=os.environ | kept)
    try:
        assert server.stdout
        # the line comes when the server answers
        address = re.search(r"http://\S+", line := server.stdout.readline())
        assert address, f"the server did not start; it printed {line!r}"
        yield address[0]
    finally:
        server.terminate()
        server.wait(60)


@pytest.fixture(scope="session")
def chromium() -> Iterator[Browser]:
    path = find_chromium()
    if path is None:
        message = "no Chromium was found: install one, or name it with CHROMIUM=/path/to/it"
        # at a desk the other tests still count; in CI a missing browser is a failure
        pytest.fail(message) if os.environ.get("CI") else pytest.skip(message)
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=ARGUMENTS)
        yield browser
        browser.close()


@pytest.fixture(scope="session")
def screenshots() -> Path:
    """Where the pictures of failed tests go."""
    return Path(tempfile.mkdtemp(prefix="gating-explorer-browser-"))


@pytest.fixture
def page(chromium: Browser, screenshots: Path, request: pytest.FixtureRequest) -> Iterator[Page]:
    """A page that remembers in `page.errors` what the console, the network and its scripts complained about."""
    context = chromium.new_context(viewport={"width": 1280, "height": 800})
    page = context.new_page()
    page.errors = _watch(page)  # type: ignore[attr-defined]
    yield page
    if getattr(request.node, "failed", False):
        picture = screenshots / (re.sub(r"\W+", "-", request.node.name).strip("-") + ".png")
        page.screenshot(path=picture, full_page=True)
        complaints = page.errors  # type: ignore[attr-defined]
        request.node.add_report_section("call", "browser", "\n".join([f"screenshot: {picture}", *complaints]))
        print(f"\nscreenshot: {picture}", *complaints, sep="\n")
    leave(context)


def leave(context: BrowserContext) -> None:
    """Close it as a visitor would: a page that is cut off says no goodbye, and its kernel trains on beside all later tests.

    The goodbye alone, without going anywhere: to close a context in the middle of a navigation can hang for ever.
    """
    for page in context.pages:
        with suppress(Error):  # a page that has crashed has nothing to say
            page.evaluate("dispatchEvent(new Event('beforeunload'))")
            page.wait_for_timeout(100)
    context.close()


def _watch(page: Page) -> list[str]:
    errors: list[str] = []

    def on_console(message: ConsoleMessage) -> None:
        if message.type == "error":
            errors.append(f"console: {message.text}")

    def on_failure(request: Request) -> None:
        errors.append(f"request failed: {request.url} ({request.failure})")

    def on_response(response: Response) -> None:
        if response.status >= 400:
            errors.append(f"HTTP {response.status}: {response.url}")

    page.on("console", on_console)
    page.on("requestfailed", on_failure)
    page.on("response", on_response)
    page.on("pageerror", lambda error: errors.append(f"script: {error}"))
    return errors


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Iterator[None]:
    """Tell the fixtures of a test, which end after it, whether it failed."""
    report = yield
    if report.when == "call":
        item.failed = report.failed  # type: ignore[attr-defined]
    return report


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    here = Path(__file__).parent
    for item in items:
        if here in item.path.parents:
            item.add_marker(pytest.mark.browser)
