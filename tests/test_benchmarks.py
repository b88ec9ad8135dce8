"""The benchmark runs and prints every row; its numbers are nobody's test."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.benchmarks.__main__ import PARTS
from tests.benchmarks.routers import GOAL, NEEDS, SETTLED, SIZES, RouterRow, names
from tests.browser.chromium import find_chromium

ROOT = Path(__file__).resolve().parent.parent


def table(part: str) -> list[list[str]]:
    """The cells of every row of one part, made here: a process of its own would spend its time on imports."""
    return [row.cells() for row in PARTS[part](True)]


def printed_table(part: str) -> list[list[str]]:
    """The cells of every row that one part prints."""
    command = [sys.executable, "-m", "tests.benchmarks", "--quick", "--only", part]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    printed = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, env=environment)
    assert printed.returncode == 0, printed.stderr
    return [line.split("|")[1:] for line in printed.stdout.splitlines() if line.startswith("| ")][2:]


@pytest.mark.parametrize(
    ("part", "rows"), [("training", 9), ("recording", 7), ("floor", 3), ("checkpoints", 5), ("streaming", 4)]
)
def test_each_part_has_its_rows(part, rows):
    found = table(part)
    assert len(found) == rows
    assert all(float(row[1].split()[0]) > 0 or "MiB" in row[1] for row in found)  # a small checkpoint holds no MiB


def test_the_command_prints_a_part():
    printed = printed_table("start")
    assert len(printed) == 5
    assert all(float(row[1].split()[0]) > 0 for row in printed)


def test_without_a_gpu_its_part_says_so():
    printed = table("gpu")
    assert [row[0].strip() for row in printed] == ["no CUDA device here"] or len(printed) == 4


def test_every_router_of_the_catalogue_is_measured_at_every_size():
    printed = table("routers")
    assert all(float(cell.split()[0]) > 0 for row in printed for cell in row[1:4])
    whats = [row[0].strip() for row in printed]
    held = [what.split(", ")[:2] for what in whats if what.endswith("experts a token")]
    assert held == [[name, f"E = {size}"] for size in SIZES for name in names()]
    for beside in ("... beside Mixtral's layer, k = 2", "... recorded beside not"):
        assert whats.count(beside) == len(held)
    assert [row[5].strip() for row in printed if row[0].strip().endswith("experts a token")] == [GOAL] * len(held)


@pytest.mark.parametrize(
    ("value", "needs", "verdict"),
    [(1.05, "", "reached"), (1.05, "a GRU", "reached"), (1.2, "a GRU", "needs a GRU"), (1.2, "", "SHORT")],
)
def test_a_slow_router_falls_short_unless_its_mathematics_needs_more(value, needs, verdict):
    assert RouterRow("", "24 ms", "20 ms", value, (1.0, 1.3), GOAL, needs).verdict == verdict


def test_reasons_and_settings_are_those_of_routers_that_exist():
    assert {*NEEDS, *SETTLED} <= set(names())


@pytest.mark.slow
@pytest.mark.skipif(not find_chromium(), reason="it opens the page in a Chromium")
def test_the_page_prints_its_rows():
    printed = {row[0].strip(): row[1].strip() for row in printed_table("page")}
    groups = {"cold page": 6, "while training": 3, "paused": 1, "standalone": 1}
    assert {group: sum(what.startswith(group) for what in printed) for group in groups} == groups
    assert all(float(shown.split()[0]) > 0 for shown in printed.values())
    if Path("/proc/self/status").exists():
        assert "kernel with the lab training: MiB resident" in printed
