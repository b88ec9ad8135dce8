"""Prints the table. Ratios are medians over interleaved rounds; the smallest and the largest stand beside them."""

import argparse
import os

os.environ.setdefault("OMP_NUM_THREADS", "1")  # both sides of every ratio run on one thread

import torch

from explorer.taps import Instrumented
from tests.benchmarks import checkpoints, in_browser, machine, page_start, routers, sinks, starting, streaming
from tests.benchmarks.peers import explorer_step, floor, mixtral
from tests.benchmarks.rounds import Row, cost, faster, measure

HEADER = ("", "this", "beside", "ratio", "min..max", "goal", "")
WIDTHS = (64, 11, 11, 5, 12, 7, 7)


def training(quick: bool) -> list[Row]:
    """The lab's default model with recording on, beside Mixtral of the same shape on the same batches."""
    rows = []
    for batch, goal in ((1, ">= 1.5"), (4, ">= 1.5"), (16, ">= 1.3")):
        candidates = {
            "ours": explorer_step(batch),
            "theirs": mixtral(batch),
            "fused": mixtral(batch, fused=True),
            "ours, no auxiliary": explorer_step(batch, aux_loss=0.0),
            "theirs, no auxiliary": mixtral(batch, auxiliary=False),
        }
        seconds = measure(candidates, 2 if quick else 21, 2 if quick else max(10, 40 // batch))
        ours, bare = seconds["ours"], seconds["ours, no auxiliary"]
        rows += [
            faster(f"training step beside Mixtral, batch {batch}", ours, seconds["theirs"], goal),
            faster("... beside Mixtral with fused AdamW", ours, seconds["fused"]),
            faster("... neither with an auxiliary loss", bare, seconds["theirs, no auxiliary"]),
        ]
    return rows


def experts(quick: bool) -> list[Row]:
    """Which of transformers' ways to compute experts is the fastest here, so that the peer is not a straw man."""
    rows = []
    for batch in (1, 4):
        candidates = {name: mixtral(batch, experts=name) for name in ("grouped_mm", "eager", "batched_mm")}
        seconds = measure(candidates, 2 if quick else 7, 2)
        rows += [
            faster(f"Mixtral's experts, grouped_mm beside {name}, batch {batch}", seconds["grouped_mm"], seconds[name])
            for name in ("eager", "batched_mm")
        ]
    return rows


def recording(quick: bool) -> list[Row]:
    """Loads every step and all tensors every tenth, beside nobody watching; and taps beside no taps at all."""
    rows = []
    for batch in (1, 8, 16):
        candidates = {
            "on": explorer_step(batch),
            "off": explorer_step(batch, watch=None),
            "again": explorer_step(batch, watch=None),
        }
        seconds = measure(candidates, 2 if quick else 31, 3 if quick else 20)
        rows.append(cost(f"recording on beside off, batch {batch}", seconds["on"], seconds["off"], "<= 1.03"))
        rows.append(cost("... off beside off: the noise", seconds["again"], seconds["off"]))
    tapped, bare = explorer_step(4, watch=None), explorer_step(4, watch=None)
    tap = Instrumented.tap

    def without_taps() -> None:
        Instrumented.tap = lambda self, name, value: value  # type: ignore[method-assign]
        try:
            bare()
        finally:
            Instrumented.tap = tap  # type: ignore[method-assign]

    seconds = measure({"taps": tapped, "none": without_taps}, 2 if quick else 31, 3 if quick else 20)
    return [*rows, cost("taps nobody listens to beside none, batch 4", seconds["taps"], seconds["none"])]


def distance(quick: bool) -> list[Row]:
    """How far a step is from its bare matrix products and attention."""
    rows = []
    for batch in (1, 4, 16):
        candidates = {"step": explorer_step(batch), "floor": floor(batch)}
        seconds = measure(candidates, 2 if quick else 15, 3 if quick else 10)
        rows.append(cost(f"training step beside its bare products, batch {batch}", seconds["step"], seconds["floor"]))
    return rows


PARTS = {
    "training": training,
    "experts": experts,
    "recording": recording,
    "floor": distance,
    "routers": routers.rows,
    "sinks": sinks.rows,
    "gpu": sinks.gpu,
    "start": starting.rows,
    "checkpoints": checkpoints.rows,
    "streaming": streaming.rows,
    "threads": machine.threads,
    "malloc": machine.malloc,
    "browser": in_browser.rows,
    "page": page_start.rows,
}


def main() -> None:
    """Run all parts, or one, and print the table."""
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks", description=__doc__)
    parser.add_argument("--only", choices=PARTS, help="one part of the table")
    parser.add_argument("--quick", action="store_true", help="see that it runs; the numbers mean nothing")
    given = parser.parse_args()
    torch.set_num_threads(1)
    print(f"torch {torch.__version__}, 1 thread, {os.cpu_count()} cores, load {os.getloadavg()[0]:.1f} at the start\n")
    print(_line(HEADER), _line(["-" * width for width in WIDTHS]), sep="\n")
    for name in [given.only] if given.only else PARTS:
        for row in PARTS[name](given.quick):
            print(_line(row.cells()), flush=True)
    print(f"\nload {os.getloadavg()[0]:.1f} at the end")


def _line(cells: "list[str] | tuple[str, ...]") -> str:
    padded = [
        cell.ljust(width) if i == 0 else cell.rjust(width)
        for i, (cell, width) in enumerate(zip(cells, WIDTHS, strict=True))
    ]
    return f"| {' | '.join(padded)} |"


if __name__ == "__main__":
    main()
