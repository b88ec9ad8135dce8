"""A class comes in: N pages opened within five seconds, then all train at once, then everybody presses Pause.

python -m tests.classroom load --people 30       the table of a server for a class
python -m tests.classroom load --people 30 --plain    the same without kernels that are forked: the baseline
python -m tests.classroom load --one             single warm pages, one after the other

Visitors speak the protocol without a browser, and run on the same machine: what they take is told too.
"""

import argparse
import asyncio
import math
import os
import time
from dataclasses import dataclass, field

import psutil

from tests.classroom.client import Gone, Page
from tests.classroom.room import Server, percentile

ARRIVAL = 5.0  # seconds within which all come in
PATIENCE = 180.0  # seconds that a visitor waits for the page
TRAINING = 12.0  # seconds that all train
UPDATES = 3.0  # of them are left out before updates are counted
PRIVATE = {"forked": 100.0, "plain": 350.0}  # megabytes a student may take
ROWS = (0.5, 0.95, 1.0)
UNIT = {"s": "{:.2f}", "MB": "{:.0f}", "/s": "{:.1f}", "s/s": "{:.2f}", "": "{:.0f}"}


@dataclass
class Row:
    """One line of the table; `goal`: what `worst` must not be above (or, with `least`, below)."""

    name: str
    values: list[float]
    unit: str = ""
    goal: float | None = None
    share: float = 0.95  # the percentile that the goal is about
    least: bool = False
    lost: int = 0  # visitors that have no value: each is as bad as can be

    def verdict(self) -> str:
        if self.goal is None:
            return ""
        worst = math.inf if not self.least else -math.inf
        measured = percentile([*self.values, *[worst] * self.lost], self.share)
        good = measured >= self.goal if self.least else measured <= self.goal
        sign = ">=" if self.least else "<="
        which = {1.0: "max", 0.5: "p50"}.get(self.share, f"p{100 * self.share:.0f}")
        return f"{'met' if good else 'SHORT'} ({which} {sign} {self.goal:g}{' ' * bool(self.unit)}{self.unit})"

    def line(self) -> tuple[str, ...]:
        numbers = [UNIT[self.unit].format(percentile(self.values, share)) for share in ROWS]
        if len(self.values) < 2:
            numbers = ["", "", numbers[-1]]
        return (self.name, *(one if one != "nan" else "-" for one in numbers), self.unit, self.verdict())


@dataclass
class Visit:
    """What one visitor saw."""

    page: Page
    problem: str = ""
    took: dict[str, float] = field(default_factory=dict)
    pause: str = ""

    async def come(self, delay: float, patience: float = PATIENCE) -> "Visit":
        """Open the page and wait until its buttons are there."""
        await asyncio.sleep(delay)
        begun = time.perf_counter()
        try:
            await self.page.open(patience)
            await self.page.find("Train", patience)
            self.pause = await self.page.find("Pause", patience)
            self.took |= {**self.page.times, "ready": time.perf_counter() - begun}
        except (Gone, TimeoutError, OSError) as problem:
            self.problem = f"{type(problem).__name__}: {problem}"
        return self

    async def press(self, button: str, patience: float = 60) -> None:
        """Press Train or Pause, and note how long the page took to show it."""
        off = button == "Pause"
        try:
            states = self.page.states
            answered = await self.page.press(button, lambda: states[self.pause].get("disabled") is off, patience)
            self.took[button] = answered
        except (Gone, TimeoutError, OSError) as problem:
            self.problem = f"{button}: {type(problem).__name__}: {problem}"

    def step(self) -> int:
        """The step that the page shows."""
        sliders = self.page.having(description="step shown")
        return max((int(self.page.states[one].get("max", 0)) for one in sliders), default=0)


def seconds(visits: list[Visit], name: str, label: str, goal: float | None = None) -> Row:
    """A row of how long it took."""
    values = [one.took[name] for one in visits if name in one.took]
    return Row(label, values, "s", goal, lost=len(visits) - len(values))


async def lesson(server: Server, people: int, path: str) -> tuple[list[Row], list[str]]:
    """All of it; returns the table, and what went wrong in words."""
    visits = [Visit(Page(server.url, path)) for _ in range(people)]
    before, mine = server.seconds(), psutil.Process().cpu_times()
    await asyncio.gather(*(one.come(ARRIVAL * number / people) for number, one in enumerate(visits)))
    opened = server.seconds()
    usable = [one for one in visits if "ready" in one.took]
    rows = [
        Row("pages usable", [float(len(usable))], "", float(people), 1.0, least=True),
        seconds(visits, "page", "page sent"),
        seconds(visits, "socket", "connected"),
        seconds(visits, "ready", "ready to use", 20.0),
    ]
    rows += [
        Row(f"processor time of the {kind} to open all", [opened[kind] - before.get(kind, 0.0)], "s") for kind in opened
    ]
    used = psutil.Process().cpu_times()
    rows.append(Row("processor time of the visitors", [used.user + used.system - mine.user - mine.system], "s"))
    rows += await training(server, usable, path)
    problems = sorted({one.problem for one in visits if one.problem})
    await asyncio.gather(*(one.page.leave() for one in visits if one.page.kernel), return_exceptions=True)
    return rows, problems


async def training(server: Server, visits: list[Visit], path: str) -> list[Row]:
    """All press Train, one more comes in, all press Pause."""
    await asyncio.gather(*(one.press("Train") for one in visits))
    await asyncio.sleep(UPDATES)
    frames, steps = [one.page.counts["frame"] for one in visits], [one.step() for one in visits]
    used, begun = {**server.seconds(), "visitors": sum(psutil.Process().cpu_times()[:2])}, time.perf_counter()
    await asyncio.sleep(TRAINING - UPDATES)
    passed = time.perf_counter() - begun
    now = {**server.seconds(), "visitors": sum(psutil.Process().cpu_times()[:2])}
    late = Visit(Page(server.url, path))
    await late.come(0)
    memory = server.memory()
    rows = [
        seconds(visits, "Train", "Train answered"),
        Row("updates of a page", rates([one.page.counts["frame"] for one in visits], frames, passed), "/s"),
        Row("steps of a run", rates([one.step() for one in visits], steps, passed), "/s"),
        *(Row(f"cores that the {kind} takes meanwhile", [(now[kind] - used[kind]) / passed], "s/s") for kind in now),
        seconds([late], "ready", "a page opened while all train", 10.0),
    ]
    await asyncio.gather(*(one.press("Pause") for one in visits))
    rows.append(seconds(visits, "Pause", "Pause answered", 2.0))
    health = await server.health()
    kind = "forked" if health.get("kernels", {}).get("kind") == "forked" else "plain"
    rows.append(Row("memory of a student's kernel", memory.pop("kernel", []), "MB", PRIVATE[kind], 1.0))
    rows += [Row(f"memory of the {name}", [sum(found)], "MB") for name, found in memory.items()]
    if late.page.kernel:
        await late.page.leave()
    return rows


def rates(now: list[int], before: list[int], passed: float) -> list[float]:
    return [(one - other) / passed for one, other in zip(now, before, strict=True)]


async def single(server: Server, pages: int, path: str) -> tuple[list[Row], list[str]]:
    """Warm pages, one after the other: each trains for a moment and is paused."""
    visits = []
    for _ in range(pages):
        visits.append(await Visit(Page(server.url, path)).come(0))
        await visits[-1].press("Train")
        await asyncio.sleep(2)
        await visits[-1].press("Pause")
        if visits[-1].page.kernel:
            await visits[-1].page.leave()
        await asyncio.sleep(1)
    rows = [
        seconds(visits, "page", "page sent"),
        seconds(visits, "ready", "ready to use", 3.0),
        seconds(visits, "Train", "Train answered"),
        seconds(visits, "Pause", "Pause answered", 0.5),
    ]
    return rows, sorted({one.problem for one in visits if one.problem})


def show(title: str, rows: list[Row], problems: list[str]) -> bool:
    """Print it; whether every goal was met."""
    print(f"\n{title}")
    lines = [("", "p50", "p95", "max", "", "goal"), *(row.line() for row in rows)]
    widths = [max(len(line[column]) for line in lines) for column in range(len(lines[0]))]
    for line in lines:
        cells = [
            cell.ljust(w) if n in (0, 4, 5) else cell.rjust(w)
            for n, (cell, w) in enumerate(zip(line, widths, strict=True))
        ]
        print("  ".join(cells).rstrip())
    for one in problems[:5]:
        print(f"problem: {one}")
    return not any(row.verdict().startswith("SHORT") for row in rows)


async def run(given: argparse.Namespace) -> int:
    people = 0 if given.plain else given.people
    options = {"processes": given.processes} if given.processes > 1 else {}
    load = ", ".join(f"{one:.1f}" for one in os.getloadavg())
    with Server(people, **options) as server:
        warm = await server.warm()
        kind = "plain kernels, no room" if given.plain else f"serve --class {people}"
        more = f" --processes {given.processes}" if given.processes > 1 else ""
        what = "single warm pages" if given.one else f"{given.people} people within {ARRIVAL:.0f} s"
        title = f"{what}; {kind}{more}, warm after {warm:.1f} s; {os.cpu_count()} cores, load before: {load}"
        play = single(server, given.pages, given.path) if given.one else lesson(server, given.people, given.path)
        rows, problems = await play
        if given.log:
            print(server.log.read_text())
        return 0 if show(title, rows, problems) else 1


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.classroom load", description=__doc__.splitlines()[0])
    parser.add_argument("--people", type=int, default=30, metavar="N")
    parser.add_argument("--plain", action="store_true", help="a server without a room, whose kernels start cold")
    parser.add_argument("--one", action="store_true", help="single warm pages instead of a class")
    parser.add_argument("--pages", type=int, default=5, help="how many single pages")
    parser.add_argument("--processes", type=int, default=1, metavar="P", help="Voila processes behind one address")
    parser.add_argument("--path", default="labs/routing.ipynb", help="the page")
    parser.add_argument("--log", action="store_true", help="print the server's log too")
    return asyncio.run(run(parser.parse_args(arguments)))
