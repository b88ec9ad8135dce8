"""A page whose kernel or server is gone says so in plain words, and comes back as it was kept; no test waits for a time."""

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
from playwright.sync_api import Browser, Page, expect

from tests.browser.conftest import SERVE
from tests.browser.test_routing_lab import LAB, button, step

PATIENCE = 90_000
BANNER = "#ge-lost"
SMALL = "layers=1&batch=2&expert_width=8"


class Server:
    """One of its own, below a prefix, which a test may kill and start again where it was."""

    def __init__(self, folder: Path) -> None:
        self.environment = {**os.environ, "GATING_EXPLORER_KEPT": str(folder / "kept")}
        self.port = 0
        self.start()

    def start(self) -> None:
        call = SERVE.replace("port=0", f"port={self.port}, base_url='/behind/a/proxy'")
        self.process = subprocess.Popen(
            [sys.executable, "-c", call], stdout=subprocess.PIPE, text=True, env=self.environment
        )
        assert self.process.stdout
        address = re.search(r"http://\S+:(\d+)/\S*", line := self.process.stdout.readline())
        assert address, f"the server did not start; it printed {line!r}"
        self.url, self.port = address[0], int(address[1])

    def family(self) -> list[psutil.Process]:
        return psutil.Process(self.process.pid).children(recursive=True)

    def kernels(self) -> list[psutil.Process]:
        return [one for one in self.family() if "ipykernel_launcher" in one.cmdline()]

    def kill(self) -> None:
        """Without a chance to say or to do anything more; what started it ends too."""
        psutil.Process(self.process.pid).children()[0].kill()
        self.process.wait(60)

    def stop(self) -> None:
        self.process.terminate()
        self.process.wait(60)


@pytest.fixture(scope="module")
def server(chromium: Browser, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    running = Server(tmp_path_factory.mktemp("kept"))
    yield running
    running.stop()


def train(page: Page, server: Server, steps: int, query: str = "") -> None:
    page.goto(f"{server.url}{LAB}?{SMALL}&{query}")
    expect(button(page, "Train")).to_be_enabled(timeout=PATIENCE)
    for taken in range(1, steps + 1):
        button(page, "Step").click()
        page.wait_for_function(f"document.querySelector('.ge-status b').textContent === '{taken}'", timeout=PATIENCE)


def reopen(page: Page, steps: int) -> None:
    with page.expect_navigation(timeout=PATIENCE):
        page.locator(BANNER).get_by_role("button").click()
    page.wait_for_function(f"document.querySelector('.ge-status b')?.textContent === '{steps}'", timeout=PATIENCE)
    expect(page.get_by_text(f"This is the run that was kept, at step {steps}")).to_be_visible(timeout=PATIENCE)


def test_a_killed_kernel_is_told_and_the_run_comes_back(page: Page, server: Server) -> None:
    train(page, server, 3, "seed=7&theme=dark")
    expect(page.locator(BANNER)).to_be_hidden()
    (kernel,) = server.kernels()
    kernel.kill()
    banner = page.get_by_role("alert").and_(page.locator(BANNER))
    expect(banner).to_contain_text("its process was ended from outside (signal 9)", timeout=PATIENCE)
    expect(banner).to_contain_text("What was kept is kept")
    assert server.kernels() == [], "an empty kernel in its place would be of no use"
    reopen(page, 3)
    assert "/behind/a/proxy/voila/render/" in page.url and "theme=dark" in page.url
    assert re.search(r"[?&]kept=[A-Za-z0-9_-]{22}(&|$)", page.url)
    expect(page.get_by_label("seed")).to_have_value("7")
    expect(page.locator(BANNER)).to_be_hidden()
    button(page, "Step").click()
    page.wait_for_function("document.querySelector('.ge-status b').textContent === '4'", timeout=PATIENCE)
    page.reload()  # the same key: as it is now
    page.wait_for_function("document.querySelector('.ge-status b')?.textContent === '4'", timeout=PATIENCE)


def test_a_killed_server_is_told_and_the_run_comes_back_when_there_is_one_again(page: Page, server: Server) -> None:
    train(page, server, 2)
    server.kill()
    expect(page.locator(BANNER)).to_contain_text("The server does not answer", timeout=PATIENCE)
    server.start()
    expect(page.locator(BANNER)).to_contain_text("the server was started anew", timeout=PATIENCE)
    reopen(page, 2)


def test_a_connection_that_comes_back_is_nobodys_business(page: Page, server: Server) -> None:
    """The page's own connection is closed from its side; it connects anew, and nothing is lost."""
    page.add_init_script(
        "const Plain = WebSocket; window.sockets = [];"
        "window.WebSocket = class extends Plain { constructor(...given) { super(...given); sockets.push(this); } };"
    )
    train(page, server, 1)
    before = page.evaluate("sockets.length")
    page.evaluate(
        "window.shown = 0; new MutationObserver(() => { shown += 1; })"
        f".observe(document.querySelector('{BANNER}'), {{ attributes: true, childList: true }});"
        "sockets.forEach(one => one.close())"
    )
    page.wait_for_function("before => sockets.slice(before).some(one => one.readyState === 1)", arg=before)
    button(page, "Step").click()
    page.wait_for_function("document.querySelector('.ge-status b').textContent === '2'", timeout=PATIENCE)
    assert page.evaluate("shown") == 0
    assert step(page) == 2


def test_a_page_that_was_never_trained_opens_again_fresh(page: Page, server: Server) -> None:
    train(page, server, 0)
    for kernel in server.kernels():
        kernel.kill()
    expect(page.locator(BANNER)).to_contain_text("has lost its session", timeout=PATIENCE)
    with page.expect_navigation(timeout=PATIENCE):
        page.get_by_role("button", name="Open the page again").click()
    expect(button(page, "Train")).to_be_enabled(timeout=PATIENCE)
    expect(page.locator(BANNER)).to_be_hidden()
