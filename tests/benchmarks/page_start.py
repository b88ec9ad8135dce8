"""The page of the routing lab from a cold start: when a reader sees what, how soon controls answer, what a kernel weighs.

Each visit is a browser without a cache and a kernel of its own. Times are taken inside the page, by its own clock, from
the moment the address was entered or the key was pressed; how long Playwright takes is not in them.
"""

import re
import statistics
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from tests.benchmarks.rounds import Row

LAB = "voila/render/labs/routing.ipynb"
SERVE = "from explorer.serving import serve; raise SystemExit(serve(port=0, browser=False))"
# what a reader sees, in order -> its name in the table, and its goal in seconds
MARKS = {
    "bytes": ("first bytes", ""),
    "paint": ("first paint", ""),
    "content": ("first content of the lab", "<= 4"),
    "train": ("Train can be pressed", ""),
    "chart": ("first chart", ""),
    "step": ("first trained step, Train pressed at once", "<= 12"),
}
# runs before anything else of the page; press Train as soon as it can be, as the most impatient reader would
WATCH = """(() => {
    const marks = (window.geMarks = {});
    const mark = (name, seen) => { if (!(name in marks) && seen) marks[name] = performance.now() / 1000; };
    const visible = (el) => Boolean(el?.getClientRects().length && el.textContent.trim());
    const usable = (name) => [...document.querySelectorAll("button")].find(
        (one) => one.textContent.trim() === name && !one.disabled && visible(one));
    let shown;
    const step = () => Number(document.querySelector(".ge-status b")?.textContent);
    const look = () => {
        mark("bytes", true);
        mark("paint", performance.getEntriesByName("first-contentful-paint").length);
        mark("content", visible(document.querySelector(".ge-recorded figure, .ge-page h1")));
        mark("chart", document.querySelector(".js-plotly-plot .main-svg"));
        const train = usable("Train");
        mark("train", train);
        if (shown === undefined && train) { shown = step(); train.click(); }
        mark("step", shown !== undefined && usable("Pause") && step() > 0 && step() !== shown);
        if (!("step" in marks && "chart" in marks)) setTimeout(look, 20);
    };
    addEventListener("readystatechange", look, { once: true });
    look();
    // when the reader last did something, for the controls
    for (const kind of ["pointerdown", "keydown", "change"])
        addEventListener(kind, (event) => (window.geTouched = event.timeStamp), true);
})()"""
# what a control changes is compared with how it was when this was called
ARM = """(look) => {
    const see = new Function("return " + look);
    const before = see();
    window.geAnswered = null;
    const again = () => {
        if (see() === before) return setTimeout(again, 2);
        requestAnimationFrame(() => { window.geAnswered = (performance.now() - window.geTouched) / 1000; });
    };
    again();
}"""
TITLES = "[...document.querySelectorAll('.js-plotly-plot')].map(plot => plot.layout?.title?.text).join()"
FRAMES = "[...document.querySelectorAll('.js-plotly-plot')].map(plot => plot.dataset.frame).join()"
FLOPS = "[...document.querySelectorAll('.ge-status b')].at(-1).textContent"
SCRUB = "paused: a scrub is drawn"
RUNNING = "[...document.querySelectorAll('button')].find(one => one.textContent.trim() === 'Pause').disabled"


def rows(quick: bool) -> list[Row]:
    """Medians over visits of one server."""
    from playwright.sync_api import sync_playwright

    from tests.browser.chromium import find_chromium
    from tests.browser.conftest import ARGUMENTS

    path = find_chromium()
    if path is None:
        return [Row("the page: no Chromium was found", "-")]
    with serving() as (url, server), sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=ARGUMENTS)
        visits = [Visit(browser, url, server).measured() for _ in range(1 if quick else 5)]
        browser.close()
    starts = [
        _row(f"cold page: {what}", [one.marks[mark] for one in visits], goal) for mark, (what, goal) in MARKS.items()
    ]
    names = visits[0].answers
    answers = [_row(name, [w for one in visits for w in one.answers[name]], "<= 0.15") for name in names]
    return [*starts, *answers, *_memory([one.memory for one in visits]), standalone(2 if quick else 100)]


@contextmanager
def serving(root: Path | None = None) -> Iterator[tuple[str, int]]:
    """(address, process id) of the explorer as `gating-explorer serve` starts it, from another clone if `root` says so."""
    server = subprocess.Popen([sys.executable, "-c", SERVE], stdout=subprocess.PIPE, text=True, cwd=root)
    try:
        assert server.stdout
        address = re.search(r"http://\S+", line := server.stdout.readline())
        assert address, f"the server printed {line!r}"
        yield address[0], server.pid
    finally:
        server.terminate()
        server.wait(60)


class Visit:
    """One reader with an empty cache: opens the lab, presses Train, uses the controls, leaves."""

    def __init__(self, browser: Any, url: str, server: int) -> None:
        self.address, self.server = f"{url}{LAB}", server
        self.context = browser.new_context(viewport={"width": 1280, "height": 1000})
        self.page = self.context.new_page()
        self.page.add_init_script(WATCH)
        self.marks: dict[str, float] = {}
        self.answers: dict[str, list[float]] = {}
        self.memory: dict[str, float] = {}

    def measured(self, turns: int = 3) -> "Visit":
        """Everything in its order."""
        before = kernels(self.server)
        self.start()
        self.page.wait_for_timeout(3000)
        self.answers = self._controls(turns)
        for kernel in kernels(self.server) - before:
            self.memory = memory(kernel)
        self.context.close()
        return self

    def start(self) -> "Visit":
        """Open the page and wait until its first step was trained."""
        self.page.goto(self.address, wait_until="commit")
        self.page.wait_for_function("'step' in geMarks && 'chart' in geMarks", timeout=120_000)
        self.marks = self.page.evaluate("geMarks")
        self.marks["bytes"] = self.page.evaluate("performance.getEntriesByType('navigation')[0].responseStart / 1000")
        return self

    def _controls(self, turns: int) -> dict[str, list[float]]:
        """name -> seconds until the page shows the effect, while it trains; the scrub alone is tried on a paused run."""
        k, layer = self.page.get_by_label("k (per token)"), self.page.get_by_label("layer shown")
        seen: dict[str, list[float]] = {}

        def answered(name: str, look: str, act: Callable[[], Any]) -> None:
            seen.setdefault(name, []).append(self._answer(look, act))

        for turn in range(turns):
            k.fill(str(1 + turn % 2))
            answered("while training: a knob's slider answers", FLOPS, lambda: k.press("Enter"))
            answered(
                "while training: a menu answers", TITLES, lambda turn=turn: layer.select_option(index=1 - turn % 2)
            )
            answered(
                "while training: Pause answers",
                RUNNING,
                self.page.get_by_role("button", name="Pause", exact=True).click,
            )
            for _ in range(turns):
                if scrub := self._scrub():
                    answered(SCRUB, FRAMES, scrub)
            self.page.get_by_role("button", name="Train", exact=True).click()
            self.page.wait_for_timeout(700)
        return {SCRUB: [], **seen}

    def _answer(self, look: str, act: Callable[[], Any]) -> float:
        self.page.evaluate(ARM, look)
        act()
        return float(self.page.wait_for_function("geAnswered", timeout=20_000).json_value())

    def _scrub(self) -> Callable[[], Any] | None:
        """Moves the slider of the recorded steps one place to the left; None where the page has none."""
        handle = self.page.locator(".widget-slider", has_text="step shown").get_by_role("slider").first
        return (lambda: handle.press("ArrowLeft")) if handle.count() else None


def kernels(server: int) -> set[int]:
    """Process ids of the kernels below the server's process."""
    import psutil

    children = psutil.Process(server).children(recursive=True)
    return {one.pid for one in children if any("ipykernel" in word for word in one.cmdline())}


def memory(process: int) -> dict[str, float]:
    """MiB that are resident, that were at most, and where the kernel tells: shared fairly, and the process's own."""
    status = Path(f"/proc/{process}/status")
    if not status.is_file():
        return {}
    wanted = {"VmRSS": "resident", "VmHWM": "at most", "Pss": "its fair share", "Private": "its own"}
    pattern = r"^(VmRSS|VmHWM|Pss(?=:)|Private)(?:_Clean|_Dirty)?:\s+(\d+) kB"
    made: dict[str, float] = {}
    text = status.read_text()
    with suppress(OSError):  # not every kernel has it, nor shows it to everyone
        text += Path(f"/proc/{process}/smaps_rollup").read_text()
    for name, size in re.findall(pattern, text, re.MULTILINE):
        made[wanted[name]] = made.get(wanted[name], 0.0) + int(size) / 1024
    return made


def _memory(seen: list[dict[str, float]]) -> list[Row]:
    """Resident memory is what Binder counts; the rest says how much of it others could use too."""
    goals = {"resident": "<= 450"}
    return [
        _row(
            f"kernel with the lab training: MiB {name}", [one[name] for one in seen], goals.get(name, ""), "{:.0f} MiB"
        )
        for name in (seen[0] if seen else {})
    ]


def standalone(steps: int) -> Row:
    """Size of the page that needs no network, after so many steps."""
    what, goal = "standalone HTML", "<= 6"
    try:
        from widgets.export.standalone import standalone as written
        from widgets.labs.routing import RoutingLab
        from widgets.states.routing import RoutingState
    except ImportError:
        return Row(what, "not there", goal=goal)
    lab = RoutingLab(RoutingState(""))
    for _ in range(steps):
        lab.one_step()
    content = written(lab.TITLE, lab.parts_to_save(), stamp=lab.stamp(), theme="light").encode()
    return _row(what, [len(content) / 1e6], goal, "{:.2f} MB")


def _row(what: str, seen: list[float], goal: str = "", shown: str = "{:.3f} s") -> Row:
    if not seen:
        return Row(what, "not there", goal=goal)
    middle = statistics.median(seen)
    return Row(what, shown.format(middle), "", middle, (min(seen), max(seen)), goal)
