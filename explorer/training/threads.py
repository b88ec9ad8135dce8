"""How many threads pay: measured, because a container's core count lies and a second thread on a busy machine costs tenfold."""

import os
import time

import torch


def calibrate_threads(seconds: float = 0.3) -> int:
    """Set torch to one thread, or to more where a short interleaved trial shows at least 1.2x; returns the choice.

    The trial is a few matrix products of the size of a tiny model's step. OMP_NUM_THREADS, where set, is obeyed untried.
    """
    if os.environ.get("OMP_NUM_THREADS", "").isdigit():
        torch.set_num_threads(max(1, int(os.environ["OMP_NUM_THREADS"])))
        return torch.get_num_threads()
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    candidates = [1, *(n for n in (2, 4) if n <= cores)]
    best = dict.fromkeys(candidates, float("inf"))
    a, b = torch.ones(512, 64), torch.ones(64, 256)
    until = time.perf_counter() + seconds
    while len(candidates) > 1 and time.perf_counter() < until:
        for threads in candidates:
            torch.set_num_threads(threads)
            start = time.perf_counter()
            for _ in range(10):
                ((a @ b).relu() @ b.T).sum()
            best[threads] = min(best[threads], time.perf_counter() - start)
    gain = [n for n in candidates if best[n] * 1.2 <= best[1]]
    torch.set_num_threads(min(gain, key=lambda n: best[n]) if gain else 1)
    return torch.get_num_threads()
