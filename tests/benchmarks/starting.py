"""What a fresh process pays: `import torch` alone, against import explorer and the first training step."""

import os
import statistics
import subprocess
import sys

from tests.benchmarks.rounds import Row

USED = """
import resource, sys
def used():
    now = resource.getrusage(resource.RUSAGE_SELF)
    return now.ru_utime + now.ru_stime
def report(*stages):
    print(*stages, used(), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)
"""
TORCH = f"{USED}\nimport torch\nreport()"
FIRST = f"""{USED}
import torch
at = [used()]
import explorer.experiment, explorer.mechanisms
at.append(used())
run = explorer.Experiment("topk-softmax")
at.append(used())
run.advance()
unwanted = {{"pandas", "joblib", "transformers", "torch._dynamo", "plotly", "ipywidgets"}} & set(sys.modules)
assert not unwanted, unwanted
report(*(later - sooner for sooner, later in zip(at, [*at[1:], used()])))
"""


def run(code: str) -> list[float]:
    """The numbers that a fresh process prints; it may keep compiled modules, as on any machine but the first time."""
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=environment)
    return [float(number) for number in done.stdout.split()]


def rows(quick: bool) -> list[Row]:
    """Processor time and memory of both, and where ours goes."""
    if not quick:
        run(FIRST)  # compiles what has changed
    pairs = [(run(TORCH), run(FIRST)) for _ in range(1 if quick else 9)]
    made = []
    for i, (what, unit) in enumerate((("processor time", "s"), ("memory at most", "MB"))):
        ratios = [first[i - 2] / torch[i - 2] for torch, first in pairs]
        ours, alone = (statistics.median(pair[j][i - 2] for pair in pairs) for j in (1, 0))
        spread = (min(ratios), max(ratios))
        name = f"import and first step beside `import torch`: {what}"
        made.append(
            Row(name, f"{ours:.2f} {unit}", f"{alone:.2f} {unit}", statistics.median(ratios), spread, "<= 1.15")
        )
    for i, stage in enumerate(("our modules", "model and text", "first step")):
        made.append(Row(f"... of the time: {stage}", f"{statistics.median(pair[1][i] for pair in pairs):.2f} s"))
    return made
