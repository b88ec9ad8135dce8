"""The page while it trains: how often each picture is redrawn, what that costs the training, and how soon Pause is answered."""

import os
import re
import statistics
import subprocess
import sys
import time
from typing import Any

from tests.benchmarks.rounds import Row

LAB = "voila/render/labs/routing.ipynb"
SERVE = "from explorer.serving import serve; raise SystemExit(serve(port=0, browser=False))"
ALONE = """
import time, torch
from widgets.states.routing import RoutingState
torch.set_num_threads(1)
run = RoutingState({query!r}).experiment()
run.run(20)
began = time.perf_counter()
while time.perf_counter() - began < {seconds}:
    run.advance()
print((run.step - 20) / (time.perf_counter() - began))
"""
COUNT = """() => { window.drawn = {}; document.querySelectorAll('.js-plotly-plot').forEach((plot, i) => {
    window.drawn[i] = 0; plot.on('plotly_afterplot', () => window.drawn[i]++) }) }"""


def rows(quick: bool) -> list[Row]:
    """Text and clusters, each beside the same run without a page."""
    from playwright.sync_api import sync_playwright

    from tests.browser.chromium import find_chromium
    from tests.browser.conftest import ARGUMENTS

    seconds = 3 if quick else 15
    server = subprocess.Popen([sys.executable, "-c", SERVE], stdout=subprocess.PIPE, text=True)
    made: list[Row] = []
    try:
        assert server.stdout
        url = re.search(r"http://\S+", server.stdout.readline())
        assert url
        with sync_playwright() as playwright:
            browser = playwright.chromium.launch(executable_path=find_chromium(), args=ARGUMENTS)
            for query in ("task=text", "task=clusters"):
                made += _watch(browser, url[0], query, seconds)
            browser.close()
    finally:
        server.terminate()
        server.wait(30)
    return made


def _watch(browser: Any, url: str, query: str, seconds: float) -> list[Row]:
    page = browser.new_context(viewport={"width": 1280, "height": 2000}).new_page()
    traffic = [0]
    page.on("websocket", lambda socket: socket.on("framereceived", lambda frame: _add(traffic, frame)))
    page.goto(f"{url}{LAB}?{query}")
    page.get_by_role("button", name="Train", exact=True).wait_for(timeout=90_000)
    page.wait_for_function("document.querySelectorAll('.js-plotly-plot').length >= 6", timeout=90_000)
    page.get_by_role("button", name="Train", exact=True).click()
    page.wait_for_timeout(3000)
    page.evaluate(COUNT)
    began, at, bytes_at = time.perf_counter(), _step(page), traffic[0]
    page.wait_for_timeout(seconds * 1000)
    passed = time.perf_counter() - began
    rate = (_step(page) - at) / passed
    drawn = [count / passed for count in page.evaluate("window.drawn").values()]
    received = (traffic[0] - bytes_at) / passed / 1e6
    waits = [_pause(page) for _ in range(5)]
    page.close()
    alone = float(
        subprocess.run([sys.executable, "-c", ALONE.format(query=query, seconds=seconds)], capture_output=True, text=True,
                       check=True, env={**os.environ, "OMP_NUM_THREADS": "1"}).stdout
    )  # fmt: skip
    slow, fast = min(drawn), max(drawn)
    return [
        Row(
            f"{query}: redraws a second of the slowest chart",
            f"{slow:.1f}",
            f"{fast:.1f} max",
            slow,
            (slow, fast),
            ">= 8",
        ),
        Row(
            f"{query}: steps/s without a page / with it",
            f"{rate:.1f}",
            f"{alone:.1f}",
            alone / rate,
            (alone / rate,) * 2,
            "<= 1.1",
        ),
        Row(f"{query}: Pause answered, seconds", "", "", statistics.median(waits), (min(waits), max(waits)), "<= 0.15"),
        Row(f"{query}: websocket, MB/s", "", "", received, (received, received), "<= 1"),
    ]


def _add(traffic: list[int], frame: Any) -> None:
    payload = frame if isinstance(frame, str | bytes) else getattr(frame, "body", b"") or getattr(frame, "text", "")
    traffic[0] += len(payload)


def _step(page: Any) -> int:
    return int(page.locator(".ge-status b").first.inner_text())


def _pause(page: Any) -> float:
    """From the click to the page's own answer: the Train button can be pressed again."""
    script = """() => new Promise(done => {
        const find = name => [...document.querySelectorAll('button')].find(b => b.textContent.trim() === name)
        const began = performance.now(); find('Pause').click()
        const look = () => find('Train').disabled ? setTimeout(look, 2) : done((performance.now() - began) / 1000); look() })"""
    waited = page.evaluate(script)
    page.get_by_role("button", name="Train", exact=True).click()
    page.wait_for_timeout(1000)
    return float(waited)
