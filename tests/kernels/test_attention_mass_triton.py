"""Runs attention_mass_interpreted.py in a process whose Triton interprets, and says which of its tests failed."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

HERE = Path(__file__).resolve().parent


@pytest.mark.slow
def test_the_gpu_kernels_in_the_interpreter():
    pytest.importorskip("triton", reason="the GPU kernels run in the interpreter of the package triton (extra: test)")
    command = [sys.executable, "-m", "pytest", "-q", "-rf", str(HERE / "attention_mass_interpreted.py")]
    environment = {**os.environ, "TRITON_INTERPRET": "1", "OMP_NUM_THREADS": "1"}
    ran = subprocess.run(command, cwd=HERE.parents[1], capture_output=True, text=True, env=environment)
    assert ran.returncode == 0, ran.stdout[-6000:] + ran.stderr[-1000:]
    assert " passed" in ran.stdout and "skipped" not in ran.stdout
