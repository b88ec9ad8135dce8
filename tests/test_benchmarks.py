"""The benchmark runs and prints every row; its numbers are nobody's test."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent


@pytest.mark.parametrize(("part", "rows"), [("training", 6), ("recording", 5), ("floor", 2), ("start", 2)])
def test_each_part_prints_its_rows(part, rows):
    command = [sys.executable, "-m", "tests.benchmarks", "--quick", "--only", part]
    printed = subprocess.run(
        command, cwd=ROOT, capture_output=True, text=True, env={**os.environ, "PYTHONPATH": str(ROOT)}
    )
    assert printed.returncode == 0, printed.stderr
    lines = printed.stdout.splitlines()[2:]
    assert len(lines) == rows
    assert all(float(line[84:92]) > 0 for line in lines)
