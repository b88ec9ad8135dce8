"""Prints the table. Ratios are medians over interleaved rounds, with the smallest and the largest beside them."""

import argparse
import os

os.environ.setdefault("OMP_NUM_THREADS", "1")  # both sides of every ratio run on one thread

import torch

from explorer.taps import Instrumented
from tests.benchmarks import in_browser, starting
from tests.benchmarks.peers import explorer_step, floor, mixtral
from tests.benchmarks.rounds import Row, measure, versus


def training(quick: bool) -> list[Row]:
    """The lab's default model with recording on, against Mixtral of the same shape."""
    rows = []
    for batch, goal in ((1, ">= 1.5"), (4, ">= 1.5"), (16, ">= 1.3")):
        candidates = {"ours": explorer_step(batch), "theirs": mixtral(batch), "fused": mixtral(batch, fused=True)}
        seconds = measure(candidates, 2 if quick else 15, 3 if quick else max(5, 40 // batch))
        rows.append(versus(f"training step, batch {batch}: Mixtral / ours", seconds, "theirs", "ours", goal))
        rows.append(versus(f"training step, batch {batch}: Mixtral with fused AdamW / ours", seconds, "fused", "ours"))
    return rows


def experts(quick: bool) -> list[Row]:
    """Which of transformers' ways to compute experts is the fastest here, so that the peer is not a straw man."""
    seconds = measure(
        {name: mixtral(4, experts=name) for name in ("grouped_mm", "eager", "batched_mm")}, 2 if quick else 6, 2
    )
    return [
        versus(f"Mixtral's experts: {name} / grouped_mm", seconds, name, "grouped_mm")
        for name in ("eager", "batched_mm")
    ]


def recording(quick: bool) -> list[Row]:
    """Loads every step and all tensors every tenth, against nobody watching; and taps against no taps at all."""
    rows = []
    for batch in (4, 16):
        candidates = {
            "on": explorer_step(batch),
            "off": explorer_step(batch, watch=None),
            "again": explorer_step(batch, watch=None),
        }
        seconds = measure(candidates, 2 if quick else 21, 3 if quick else 20)
        rows.append(versus(f"recording on / off, batch {batch}", seconds, "on", "off", "<= 1.03"))
        rows.append(versus(f"off / off again, batch {batch} (noise)", seconds, "again", "off"))
    tapped, bare = explorer_step(4, watch=None), explorer_step(4, watch=None)
    tap = Instrumented.tap

    def without_taps() -> None:
        Instrumented.tap = lambda self, name, value: value  # type: ignore[method-assign]
        try:
            bare()
        finally:
            Instrumented.tap = tap  # type: ignore[method-assign]

    seconds = measure({"taps": tapped, "none": without_taps}, 2 if quick else 21, 3 if quick else 20)
    return [*rows, versus("taps nobody listens to / no taps, batch 4", seconds, "taps", "none")]


def distance(quick: bool) -> list[Row]:
    """How far a step is from its bare matrix products."""
    rows = []
    for batch in (4, 16):
        seconds = measure({"step": explorer_step(batch), "floor": floor(batch)}, 2 if quick else 15, 3 if quick else 10)
        rows.append(versus(f"training step / bare matrix products, batch {batch}", seconds, "step", "floor"))
    return rows


def start(quick: bool) -> list[Row]:
    """A fresh process."""
    return starting.rows(1 if quick else 7)


PARTS = {
    "training": training,
    "experts": experts,
    "recording": recording,
    "floor": distance,
    "start": start,
    "browser": in_browser.rows,
}


def main() -> None:
    """Run all parts, or one, and print the table."""
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks", description=__doc__)
    parser.add_argument("--only", choices=PARTS, help="one part of the table")
    parser.add_argument("--quick", action="store_true", help="see that it runs; the numbers mean nothing")
    given = parser.parse_args()
    torch.set_num_threads(1)
    print(f"torch {torch.__version__}, 1 thread, load {os.getloadavg()[0]:.1f}")
    print(f"{'':62}{'ours':>11}{'other':>11}{'ratio':>8}  {'min..max':12}{'goal':9}")
    for name in [given.only] if given.only else PARTS:
        for row in PARTS[name](given.quick):
            spread = f"{row.spread[0]:.2f}..{row.spread[1]:.2f}"
            print(
                f"{row.name:62}{row.ours:>11}{row.other:>11}{row.ratio:8.2f}  {spread:12}{row.goal:9}{row.verdict}",
                flush=True,
            )


if __name__ == "__main__":
    main()
