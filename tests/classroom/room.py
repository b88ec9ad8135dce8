"""A server for a class in a process of its own, and what its processes take: memory, processor time, threads, files.

with Server(people=30) as server:
    await server.warm()
    ... Page(server.url) ...
    print(server.memory())
"""

import asyncio
import json
import os
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, Self
from urllib.parse import urlsplit

import psutil
from tornado.httpclient import AsyncHTTPClient

ROOT = Path(__file__).resolve().parents[2]
MEGABYTE = 1024  # in kilobytes, as /proc counts


class Server:
    """`serve(people=..., **options)` as a subprocess; `people` 0 is the plain server. What it logs is in `log`."""

    def __init__(self, people: int, environment: Mapping[str, str] | None = None, **options: Any) -> None:
        self.people = people
        options = {"port": 0, "browser": False, "people": people, **options}
        call = f"serve(**{options!r})"
        self.log = Path(tempfile.mkdtemp(prefix="classroom-")) / "server.log"
        variables = {**os.environ, "PYTHONPATH": str(ROOT), **(environment or {})}
        with self.log.open("w") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-c", f"from explorer.serving import serve; raise SystemExit({call})"],
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
                env=variables,
                cwd=ROOT,
            )
        assert self.process.stdout
        line = self.process.stdout.readline()
        found = re.search(r"http://\S+", line)
        if not found:
            self.stop()
            raise RuntimeError(f"the server did not start: {self.log.read_text()[-2000:]}")
        self.url = found[0]
        self.base = self.url.partition("?")[0]
        self.port = int(urlsplit(self.url).port or 80)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def stop(self) -> int:
        """As Ctrl-C does; returns the exit code."""
        self.process.terminate()
        try:
            return self.process.wait(60)
        except subprocess.TimeoutExpired:
            self.process.kill()
            return self.process.wait(10)

    # -- from outside --------------------------------------------------------------------------------------------------
    async def health(self) -> dict[str, Any]:
        """What /health says; {} where there is none."""
        answer = await AsyncHTTPClient().fetch(f"{self.base}health", raise_error=False, request_timeout=30)
        found: dict[str, Any] = json.loads(answer.body) if answer.code == 200 else {}
        return found

    async def warm(self, seconds: float = 120) -> float:
        """Wait until the room says that it is ready; returns how long that took. A plain server is ready at once."""
        begun = time.monotonic()
        while self.people and not _is_ready(await self.health()):
            if time.monotonic() - begun > seconds:
                raise TimeoutError(f"the room was not warm within {seconds:.0f} s: {self.log.read_text()[-2000:]}")
            await asyncio.sleep(0.2)
        return time.monotonic() - begun

    # -- from inside ---------------------------------------------------------------------------------------------------
    def processes(self) -> list[psutil.Process]:
        """The server's own processes and its kernels, without the one that started them."""
        with suppress(psutil.NoSuchProcess):
            return list(psutil.Process(self.process.pid).children(recursive=True))
        return []

    def kinds(self) -> dict[str, list[psutil.Process]]:
        """The processes by what they are: "server", "front", "zygote", "kernel"."""
        found: dict[str, list[psutil.Process]] = {}
        for one in self.processes():
            with suppress(psutil.Error):
                found.setdefault(kind_of(one), []).append(one)
        return found

    def memory(self) -> dict[str, list[float]]:
        """Private megabytes of every process, by kind."""
        return {kind: [*private_megabytes(found)] for kind, found in self.kinds().items()}

    def seconds(self) -> dict[str, float]:
        """Processor time that each kind of process has used, of processes that still run."""
        used: dict[str, float] = {}
        for kind, found in self.kinds().items():
            for one in found:
                with suppress(psutil.Error):
                    used[kind] = used.get(kind, 0.0) + sum(one.cpu_times()[:2])
        return used


def _is_ready(health: dict[str, Any]) -> bool:
    """Kernels are forked or known to be plain, and no process warms up or fills its stock."""
    kernels = health.get("kernels", {})
    return bool(kernels) and "warming" not in str(kernels.get("kind")) and not kernels.get("filling", 0)


def kind_of(process: psutil.Process) -> str:
    """What a process of the server's is, by its command line: a fork keeps its zygote's, so the parent tells them apart."""
    command = " ".join(process.cmdline())
    if "explorer.serving.zygote" in command:
        parent = process.parent()
        forked = parent is not None and "explorer.serving.zygote" in " ".join(parent.cmdline())
        return "kernel" if forked else "zygote"
    if "ipykernel_launcher" in command:
        return "kernel"
    return "front" if "several.py" in command else "server"


def private_megabytes(processes: list[psutil.Process]) -> Iterator[float]:
    """Memory that no other process shares, in megabytes."""
    for one in processes:
        with suppress(OSError):
            lines = Path(f"/proc/{one.pid}/smaps_rollup").read_text().splitlines()
            yield sum(int(line.split()[1]) for line in lines if line.startswith("Private_")) / MEGABYTE


def percentile(values: list[float], share: float) -> float:
    """The value that so large a share stays within; nan of none."""
    ranked = sorted(values)
    return ranked[min(len(ranked) - 1, int(share * len(ranked)))] if ranked else float("nan")
