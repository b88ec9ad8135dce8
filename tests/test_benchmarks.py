"""The benchmark runs and prints every row; its numbers are nobody's test."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent


@pytest.mark.parametrize(("part", "rows"), [("training", 9), ("recording", 7), ("floor", 3), ("start", 5)])
def test_each_part_prints_its_rows(part, rows):
    command = [sys.executable, "-m", "tests.benchmarks", "--quick", "--only", part]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    printed = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, env=environment)
    assert printed.returncode == 0, printed.stderr
    table = [line.split("|")[1:] for line in printed.stdout.splitlines() if line.startswith("| ")][2:]
    assert len(table) == rows
    assert all(float(row[1].split()[0]) > 0 for row in table)
