"""Pages are opened, trained on and closed, again and again: what is left behind?

python -m tests.classroom leaks --cycles 200
python -m tests.classroom leaks --cycles 20 --hard     every second page is cut off and never says goodbye

Counted are kernels, threads, open files and memory of the server and of the process that forks kernels, and the files of
connections in the folders for such. The first cycles do not count: everything is imported and cached in them, and a timer
of each connection holds what belonged to its page for a minute, so that the heap grows to what a minute's pages need.
"""

import argparse
import asyncio
import os
import tempfile
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from tests.classroom.client import Gone, Page
from tests.classroom.room import Server, private_megabytes

WARM, WARM_SECONDS = 40, 75.0  # before the first count: at least so many cycles, and for longer than a minute
STEPS = 12.0  # seconds that a page waits for its first steps
SHARE = 0.05  # of memory may be left behind
QUIET = 30.0  # seconds within which kernels have to be gone
SLACK = 2.0  # megabytes that the allocator may keep of a small process


@dataclass
class Count:
    """What there is at one moment."""

    kernels: int
    things: dict[str, float] = field(default_factory=dict)


def left(server: Server, runtime: Path) -> Count:
    """Count."""
    kinds = server.kinds()
    things: dict[str, float] = {}
    for kind in ("server", "zygote"):
        for one in kinds.get(kind, [])[:1]:
            things[f"threads of the {kind}"] = one.num_threads()
            things[f"files of the {kind}"] = one.num_fds()
            things[f"children of the {kind}, ended and not"] = len(one.children())
            things[f"memory of the {kind}, MB"] = sum(private_megabytes([one]))
            things[f"resident memory of the {kind}, MB"] = one.memory_info().rss / 2**20
    things["files in the folder of connections"] = sum(len(files) for _, _, files in os.walk(runtime))
    return Count(len(kinds.get("kernel", [])), things)


async def cycle(server: Server, path: str, cut_off: bool) -> str:
    """One visitor: opens a page, trains until something has moved, and goes. Returns what went wrong, or ""."""
    page = Page(server.url, path)
    try:
        await page.open(60)
        pause = await page.find("Pause", 60)
        await page.press("Train", lambda: page.states[pause].get("disabled") is False, 60)
        seen = page.counts["frame"]
        await page.until(lambda: page.counts["frame"] > seen + 3, STEPS)
    except (Gone, TimeoutError, OSError) as problem:
        return f"{type(problem).__name__}: {problem}"
    finally:
        if cut_off:
            page.close()
        else:
            with suppress(Gone, OSError):
                await page.leave()
    return ""


async def quiet(server: Server, seconds: float = QUIET) -> float:
    """Wait until no page has a kernel; how long that took."""
    begun = time.monotonic()
    while time.monotonic() - begun < seconds:
        kernels = (await server.health()).get("kernels", {})
        if kernels.get("running") == 0 and not kernels.get("filling"):
            break
        await asyncio.sleep(0.2)
    await asyncio.sleep(1.0)  # sockets and files go a moment after their processes
    return time.monotonic() - begun


async def cycles(server: Server, count: int, options: argparse.Namespace) -> list[str]:
    """So many, as many at a time as asked for; returns what went wrong."""
    problems: list[str] = []
    for first in range(0, count, options.together):
        group = range(first, min(count, first + options.together))
        found = await asyncio.gather(*(cycle(server, options.page, options.hard and one % 2 == 1) for one in group))
        problems += [one for one in found if one]
    return problems


def verdicts(before: Count, after: Count, count: int) -> list[tuple[str, str, str, str, bool]]:
    """(what, before, after, goal, met) for each thing that was counted."""
    rows = [
        ("kernels", f"{before.kernels}", f"{after.kernels}", f"<= {before.kernels}", after.kernels <= before.kernels)
    ]
    for name, was in before.things.items():
        now = after.things.get(name, float("nan"))
        if "memory" in name:
            most = was * (1 + SHARE) + SLACK
            each = f"<= {most:.1f} ({(now - was) / count * 1024:+.1f} kB a cycle)"
            rows.append((name, f"{was:.1f}", f"{now:.1f}", each, now <= most))
        else:
            rows.append((name, f"{was:.0f}", f"{now:.0f}", f"<= {was:.0f}", now <= was))
    return rows


async def run(options: argparse.Namespace, say: Callable[[str], None] = print) -> bool:
    """All of it; whether nothing was left behind."""
    with tempfile.TemporaryDirectory(prefix="leaks-") as folder:
        runtime = Path(folder) / "r"
        runtime.mkdir()
        away = {"GATING_EXPLORER_ALONE_SECONDS": "3"} if options.hard else {}
        places = {"JUPYTER_RUNTIME_DIR": str(runtime), "GATING_EXPLORER_KEPT": str(Path(folder) / "kept")}
        with Server(options.people, environment={**away, **places}) as server:
            await server.warm()
            warmed, begun, problems = 0, time.monotonic(), list[str]()
            while warmed < WARM or time.monotonic() - begun < WARM_SECONDS:
                problems += await cycles(server, options.together, options)
                warmed += options.together
            await quiet(server)
            await asyncio.sleep(options.rest)
            before, begun = left(server, runtime), time.monotonic()
            problems += await cycles(server, options.cycles, options)
            took = time.monotonic() - begun
            ended = await quiet(server)
            await asyncio.sleep(options.rest)
            after = left(server, runtime)
            health = (await server.health()).get("kernels", {})
    rows = verdicts(before, after, options.cycles)
    rows.append(("pages that did not work", "0", str(len(problems)), "<= 0", not problems))
    say(f"{options.cycles} cycles in {took:.0f} s; the last kernel was gone {ended:.1f} s after the last page")
    say(f"ends by reason, first {warmed} cycles included: {health.get('ended')}")
    say(f"{'':44} {'before':>9} {'after':>9}  goal")
    for name, was, now, goal, met in rows:
        say(f"{name:44} {was:>9} {now:>9}  {'met' if met else 'SHORT'} ({goal})")
    for problem in sorted(set(problems)):
        say(f"  {problems.count(problem)} x {problem}")
    return all(met for *_, met in rows)


def main(argv: list[str]) -> int:
    """See the top of this file."""
    parser = argparse.ArgumentParser(prog="python -m tests.classroom leaks")
    parser.add_argument("--cycles", type=int, default=200)
    parser.add_argument("--people", type=int, default=8, help="the class that the server is for; 0: a plain server")
    parser.add_argument("--together", type=int, default=2, help="visitors at a time")
    parser.add_argument("--page", default="labs/routing.ipynb?layers=2&batch=2")
    parser.add_argument("--rest", type=float, default=65, help="seconds before a count: timers end within a minute")
    parser.add_argument("--hard", action="store_true", help="every second page is cut off without a goodbye")
    options = parser.parse_args(argv)
    return 0 if asyncio.run(run(options)) else 1
