"""What the machine gives: a second thread, and a C library that keeps freed memory instead of returning it."""

import statistics
import subprocess
import sys
import time
from typing import Any

import torch

from tests.benchmarks.peers import explorer_step
from tests.benchmarks.rounds import Row, faster, measure

CHOICE = "from explorer.training import calibrate_threads; print(calibrate_threads())"
WORKER = """
import ctypes, resource, sys, time
if sys.argv[1] == "keep":  # M_MMAP_THRESHOLD and M_TRIM_THRESHOLD of glibc
    libc = ctypes.CDLL(None)
    assert libc.mallopt(-3, 1 << 30) and libc.mallopt(-1, 2**31 - 1)
import torch
torch.set_num_threads(1)
from tests.benchmarks.peers import explorer_step
advance = explorer_step(int(sys.argv[2]))
for _ in range(15):
    advance()
for line in sys.stdin:
    began = time.process_time()
    for _ in range(int(line)):
        advance()
    seconds = (time.process_time() - began) / int(line)
    print(seconds, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024, flush=True)
"""


def threads(quick: bool) -> list[Row]:
    """Wall time, as threads are for that; what the calibration chooses here and now."""
    import os

    environment = {name: value for name, value in os.environ.items() if name != "OMP_NUM_THREADS"}
    choices = [
        subprocess.run(
            [sys.executable, "-c", CHOICE], capture_output=True, text=True, check=True, env=environment
        ).stdout
        for _ in range(1 if quick else 3)
    ]
    made = [Row("threads that the calibration chooses", ", ".join(one.strip() for one in choices))]
    for batch in (8, 32):
        advance = explorer_step(batch)

        def on(count: int, advance: Any = advance) -> None:
            torch.set_num_threads(count)
            advance()

        candidates = {"1": lambda: on(1), "2": lambda: on(2)}
        try:
            seconds = measure(candidates, 2 if quick else 15, 3 if quick else 8, time.perf_counter)
        finally:
            torch.set_num_threads(1)
        made.append(faster(f"training step on 2 threads beside 1, batch {batch}: wall", seconds["2"], seconds["1"]))
    return made


def malloc(quick: bool) -> list[Row]:
    """The lab's step in two processes that take turns, one of them told to keep the memory it frees."""
    if not sys.platform.startswith("linux"):
        return []
    made = []
    for batch in (8, 16):
        workers = {kind: _worker(kind, batch) for kind in ("as it is", "keep")}
        try:
            turns = [
                {kind: _turn(one, 2 if quick else 15) for kind, one in workers.items()}
                for _ in range(1 if quick else 12)
            ]
        finally:
            for one in workers.values():
                one.communicate()
        plain, kept = ([turn[kind] for turn in turns] for kind in workers)
        made.append(
            faster(f"malloc that keeps what is freed, batch {batch}", [s for s, _ in kept], [s for s, _ in plain])
        )
        memory = [statistics.median(m for _, m in side) for side in (kept, plain)]
        made.append(Row("... memory at most", *(f"{m:.0f} MB" for m in memory), memory[0] / memory[1]))
    return made


def _worker(kind: str, batch: int) -> "subprocess.Popen[str]":
    command = [sys.executable, "-c", WORKER, kind, str(batch)]
    return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)


def _turn(worker: "subprocess.Popen[str]", steps: int) -> tuple[float, float]:
    assert worker.stdin and worker.stdout
    worker.stdin.write(f"{steps}\n")
    worker.stdin.flush()
    seconds, memory = map(float, worker.stdout.readline().split())
    return seconds, memory
