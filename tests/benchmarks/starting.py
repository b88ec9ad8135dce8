"""What a fresh process pays: `import torch` alone, against import explorer and the first training step."""

import statistics
import subprocess
import sys

from tests.benchmarks.rounds import Row

REPORT = (
    "import resource; u = resource.getrusage(resource.RUSAGE_SELF); print(u.ru_utime + u.ru_stime, u.ru_maxrss / 1024)"
)
TORCH = f"import torch; {REPORT}"
FIRST = f"""
import explorer, sys
explorer.Experiment("topk-softmax").advance()
unwanted = {{"pandas", "joblib", "transformers", "torch._dynamo", "plotly", "ipywidgets"}} & set(sys.modules)
assert not unwanted, unwanted
{REPORT}"""


def run(code: str) -> tuple[float, float]:
    """(processor seconds, MB resident at most) of a fresh process."""
    printed = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    return float(printed[0]), float(printed[1])


def rows(rounds: int) -> list[Row]:
    """Processor time and memory of both."""
    pairs = [(run(TORCH), run(FIRST)) for _ in range(rounds)]
    made = []
    for i, (what, unit) in enumerate((("processor time", "s"), ("memory", "MB"))):
        ratios = [first[i] / torch[i] for torch, first in pairs]
        ours, alone = (statistics.median(pair[j][i] for pair in pairs) for j in (1, 0))
        spread = (min(ratios), max(ratios))
        name = f"import and first step / import torch: {what}"
        made.append(
            Row(name, f"{ours:.2f} {unit}", f"{alone:.2f} {unit}", statistics.median(ratios), spread, "<= 1.15")
        )
    return made
