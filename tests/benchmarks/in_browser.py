"""The page while it trains: how often each picture is redrawn, what that costs the training, how soon Pause is answered.

The pictures are counted by their own answers: a view tells the kernel the number of every frame it drew.
"""

import json
import os
import re
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from tests.benchmarks.rounds import Row

# beginning of a view's name -> what the table calls it, and its goal; any other view is a chart that follows the steps
VIEWS = {
    "Which expert the router gives": ("decision map", ">= 30"),
    "Tokens coloured": ("token strip (as its share of the time allows)", ""),
    "Specialisation": ("specialisation (as its share of the time allows)", ""),
}
HIDDEN = {"text": "Which expert the router gives", "clusters": "Tokens coloured"}
LAB = "voila/render/labs/routing.ipynb"
SERVE = "from explorer.serving import serve; raise SystemExit(serve(port=0, browser=False))"
ALONE = """
import sys, time, torch
from widgets.states.routing import RoutingState
torch.set_num_threads(1)
run = RoutingState(sys.argv[1]).experiment()
run.run(20)
for line in sys.stdin:
    began, processor, step = time.perf_counter(), time.process_time(), run.step
    while time.perf_counter() - began < float(line):
        run.advance()
    taken = run.step - step
    print(taken / (time.perf_counter() - began), (time.process_time() - processor) / taken, flush=True)
"""
PAUSE = """() => new Promise(done => {
    const find = name => [...document.querySelectorAll('button')].find(b => b.textContent.trim() === name);
    const began = performance.now();
    find('Pause').click();
    const look = () => find('Train').disabled ? setTimeout(look, 2) : done((performance.now() - began) / 1000);
    look();
})"""


def rows(quick: bool) -> list[Row]:
    """Text and clusters, each in turns with the same run without a page."""
    from playwright.sync_api import sync_playwright

    from tests.browser.chromium import find_chromium
    from tests.browser.conftest import ARGUMENTS

    path = find_chromium()
    if path is None:
        return [Row("in the browser: no Chromium was found", "-")]
    turns, seconds = (1, 2.0) if quick else (4, 6.0)
    server = subprocess.Popen([sys.executable, "-c", SERVE], stdout=subprocess.PIPE, text=True)
    made: list[Row] = []
    try:
        assert server.stdout
        url = re.search(r"http://\S+", server.stdout.readline())
        assert url
        with sync_playwright() as playwright:
            browser = playwright.chromium.launch(executable_path=path, args=ARGUMENTS)
            for task in ("text", "clusters"):
                made += Visit(browser, url[0], server.pid, task).rows(turns, seconds)
            browser.close()
    finally:
        server.terminate()
        server.wait(30)
    return made


class Traffic:
    """What goes over the page's websocket: bytes received, and the frames that each view says it drew."""

    def __init__(self, page: Any) -> None:
        self.received = 0
        self.labels: dict[str, str] = {}  # a view's ident -> its accessible name
        self.drawn: dict[str, set[int]] = {}
        page.on("websocket", self._listen)

    def _listen(self, socket: Any) -> None:
        socket.on("framereceived", self._take)
        socket.on("framesent", self._sent)

    def _take(self, frame: str | bytes) -> None:
        self.received += len(frame)
        if b'"ident"' in (raw := frame if isinstance(frame, bytes) else frame.encode()):
            self._name(_content(raw))

    def _sent(self, frame: str | bytes) -> None:
        raw = frame if isinstance(frame, bytes) else frame.encode()
        if b'"drawn"' in raw:
            for ident, answer in _content(raw)["data"]["content"]["frames"].items():
                self.drawn.setdefault(ident, set()).add(answer[0])

    def _name(self, content: Any) -> None:
        """Anywhere in a message the state of a widget may stand that has both an ident and a label."""
        if isinstance(content, dict):
            if "ident" in content and "label" in content:
                self.labels[content["ident"]] = content["label"]
            for inner in content.values():
                self._name(inner)

    def counts(self) -> dict[str, int]:
        """Frames drawn so far, by the name of the view."""
        return {self.labels.get(ident, ident): len(numbers) for ident, numbers in self.drawn.items()}


class Visit:
    """One page, and beside it a process with the same run and nothing to draw."""

    def __init__(self, browser: Any, url: str, server: int, task: str) -> None:
        self.task = task
        before = set(_kernels(server))
        self.page = browser.new_context(viewport={"width": 1280, "height": 4000}).new_page()
        self.traffic = Traffic(self.page)
        self.page.goto(f"{url}{LAB}?task={task}")
        self._button("Train").wait_for(timeout=90_000)
        self.page.wait_for_function("document.querySelectorAll('.js-plotly-plot').length >= 6", timeout=90_000)
        self.kernel = next(iter(set(_kernels(server)) - before), None)
        self.alone = subprocess.Popen(
            [sys.executable, "-c", ALONE, f"task={task}"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
            env={**os.environ, "OMP_NUM_THREADS": "1"},
        )  # fmt: skip

    def rows(self, turns: int, seconds: float) -> list[Row]:
        """Train and pause in turns with the run alone; the first turn only warms up."""
        self._turn(min(3.0, seconds))
        seen = [self._turn(seconds) for _ in range(turns)]
        memory = _status(self.kernel, "VmHWM")
        self.page.close()
        self.alone.communicate()
        rates, processor, alone_rates, alone_processor, waits, sizes, drawn = zip(*seen, strict=True)
        pictures = self._pictures(drawn)
        lost = [alone / rate for rate, alone in zip(rates, alone_rates, strict=True)]
        extra = [page / alone for page, alone in zip(processor, alone_processor, strict=True)]
        return [
            *pictures,
            Row(f"{self.task}: steps/s with the page beside without", f"{statistics.median(rates):.1f}",
                f"{statistics.median(alone_rates):.1f}", statistics.median(lost), (min(lost), max(lost)), "<= 1.1"),
            Row("... processor time of the kernel a step", f"{1e3 * statistics.median(processor):.2f} ms",
                f"{1e3 * statistics.median(alone_processor):.2f} ms", statistics.median(extra), (min(extra), max(extra))),
            Row(f"{self.task}: Pause answered, seconds", f"{statistics.median(waits):.3f}", "", statistics.median(waits),
                (min(waits), max(waits)), "<= 0.15"),
            Row(f"{self.task}: websocket, MB/s", f"{statistics.median(sizes):.2f}", "", statistics.median(sizes),
                (min(sizes), max(sizes)), "<= 1"),
            Row(f"{self.task}: the kernel's memory at most", f"{memory / 1024:.0f} MB" if memory else "unknown"),
        ]  # fmt: skip

    def _turn(self, seconds: float) -> tuple[float, float, float, float, float, float, dict[str, float]]:
        """(steps/s, processor s a step) with the page, the same alone, s until Pause is answered, MB/s, redraws/s."""
        self._button("Train").click()
        self.page.wait_for_timeout(1500)
        drawn, step, used, received = self.traffic.counts(), self._step(), self._processor(), self.traffic.received
        began = time.perf_counter()
        self.page.wait_for_timeout(1000 * seconds)
        passed, taken = time.perf_counter() - began, self._step() - step
        each = {name: (count - drawn.get(name, 0)) / passed for name, count in self.traffic.counts().items()}
        megabytes = (self.traffic.received - received) / passed / 1e6
        processor = (self._processor() - used) / max(1, taken)
        waited = float(self.page.evaluate(PAUSE))
        self.page.wait_for_timeout(500)
        assert self.alone.stdin and self.alone.stdout
        self.alone.stdin.write(f"{seconds}\n")
        self.alone.stdin.flush()
        alone_rate, alone_processor = map(float, self.alone.stdout.readline().split())
        return taken / passed, processor, alone_rate, alone_processor, waited, megabytes, each

    def _button(self, name: str) -> Any:
        return self.page.get_by_role("button", name=name, exact=True)

    def _step(self) -> int:
        return int(self.page.locator(".ge-status b").first.inner_text())

    def _processor(self) -> float:
        if self.kernel is None:
            return float("nan")
        fields = Path(f"/proc/{self.kernel}/stat").read_text().rsplit(")", 1)[1].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def _pictures(self, drawn: tuple[dict[str, float], ...]) -> list[Row]:
        """The slowest of the charts that follow the steps, and every other view, in redraws a second."""
        rates = {name: [turn.get(name, 0.0) for turn in drawn] for name in {name for turn in drawn for name in turn}}
        made, charts = [], {}
        for name, seen in sorted(rates.items()):
            known = next((view for view in VIEWS if name.startswith(view)), None)
            if known is None:
                charts[name] = seen
            elif known != HIDDEN[self.task]:
                made.append(self._rate(*VIEWS[known], seen))
        slowest = min(charts.values(), key=statistics.median)
        return [self._rate(f"slowest of {len(charts)} charts", ">= 8", slowest), *made]

    def _rate(self, what: str, goal: str, seen: list[float]) -> Row:
        middle = statistics.median(seen)
        return Row(f"{self.task}: {what}, redraws/s", f"{middle:.1f}", "", middle, (min(seen), max(seen)), goal)


def _content(raw: bytes) -> Any:
    """The content of a message in the protocol v1.kernel.websocket.jupyter.org, or of one in plain JSON."""
    if raw[:1] == b"{":
        return json.loads(raw)["content"]
    count = int.from_bytes(raw[:8], "little")
    offsets = [int.from_bytes(raw[8 * (i + 1) : 8 * (i + 2)], "little") for i in range(count)]
    return json.loads(raw[offsets[4] : offsets[5]])


def _kernels(server: int) -> list[int]:
    """The server's processes that run a page; none where there is no /proc."""
    parents = {}
    for command in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            kernel = b"ipykernel_launcher" in command.read_bytes()
            parent = int((command.parent / "stat").read_text().rsplit(")", 1)[1].split()[1])
        except OSError:
            continue
        parents[int(command.parent.name)] = (parent, kernel)

    def ours(process: int) -> bool:
        return process == server or (process in parents and ours(parents[process][0]))

    return [process for process, (_, kernel) in parents.items() if kernel and ours(process)]


def _status(process: int | None, field: str) -> float:
    """A field of /proc/PID/status in kB, 0 if unknown."""
    if process is None:
        return 0.0
    found = re.search(rf"^{field}:\s+(\d+)", Path(f"/proc/{process}/status").read_text(), re.MULTILINE)
    return float(found[1]) if found else 0.0
