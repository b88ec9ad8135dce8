"""What it costs to know where attention goes: time and memory beside plain attention, which tells nothing.

One batch of 8 heads of width 64, causal, as the sheet of goals has it. The map is the obvious way, kept for comparison.
"""

import subprocess
import sys
from collections.abc import Callable

import torch
import torch.nn.functional as F

from explorer import metrics
from explorer.kernels.attention_mass import Rule, attention_map, triton_path
from explorer.mechanisms.attention.watching import TAPS, attend, sample
from explorer.taps import Instrumented, Listener, attach
from tests.benchmarks.rounds import Row, cost, measure

LENGTHS = (512, 2048, 8192)
LONGEST_MAP = 2048  # beyond, the map of 8 heads takes gigabytes
MEMORY = """
import resource, sys
from tests.benchmarks.sinks import ways
torch_ready = ways(64)[sys.argv[1]]()
call = ways(int(sys.argv[2]))[sys.argv[1]]
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
call()
print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024)
"""


class Attention(Instrumented):
    """Nothing but attention, watched for some of its taps."""

    taps = TAPS

    def __init__(self, *watched: str, stride: int = 1) -> None:
        super().__init__()
        self.kernel = "sdpa"
        self.heard: list[tuple[str, str, torch.Tensor]] = []
        if watched:
            attach(self, "", listener=Listener(frozenset(watched), self.heard))
        sample(self, stride)

    def forward(self, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
        self.heard.clear()
        return attend(self, q, k, v)


def inputs(T: int, H: int = 8, d: int = 64, **options: object) -> list[torch.Tensor]:
    """q, k and v, B = 1."""
    return [torch.randn(1, H, T, d, **options) for _ in "qkv"]  # type: ignore[arg-type]


def ways(T: int) -> dict[str, Callable[[], object]]:
    """Forward passes without gradients: name -> call."""
    q, k, v = inputs(T)
    modules = {
        "first key": Attention("first"),
        "any key": Attention("received"),
        "any key and row entropy": Attention("received", "entropy"),
        "one query in 8": Attention("received", stride=8),
    }
    plain = {
        "plain": lambda: F.scaled_dot_product_attention(q, k, v, is_causal=True),
        "map": lambda: (metrics.received_mass(A := attention_map(q, k)), A @ v),
    }
    watched = {name: lambda module=module: module(q, k, v) for name, module in modules.items()}
    return {name: torch.no_grad()(call) for name, call in {**plain, **watched}.items()}


GOALS = {
    "first key": "<= 1.1",
    "any key": "<= 1.8",
    "any key and row entropy": "",
    "one query in 8": "<= 1.35",
    "map": "",
}


def rows(quick: bool) -> list[Row]:
    """Forward, forward and backward, and the memory at most."""
    made: list[Row] = []
    for T in (128,) if quick else LENGTHS:
        calls = {name: call for name, call in ways(T).items() if name != "map" or T <= LONGEST_MAP}
        seconds = measure(calls, 2 if quick else max(5, 20_000 // T), 1)
        for name in calls:
            if name != "plain":
                what = f"forward with {name}, beside plain, T = {T}"
                made.append(cost(what, seconds[name], seconds["plain"], GOALS[name]))
        made.append(_training(T, quick))
        made += _memory(T, list(calls))
    return made


def _training(T: int, quick: bool) -> Row:
    tensors = [one.requires_grad_() for one in inputs(T)]

    def both(module: Attention) -> Callable[[], object]:
        return lambda: torch.autograd.grad(module(*tensors).sum(), tensors)

    calls = {"watched": both(Attention("received")), "plain": both(Attention())}
    seconds = measure(calls, 2 if quick else max(3, 12_000 // T), 1)
    what = f"forward + backward with any key, beside neither, T = {T}"
    return cost(what, seconds["watched"], seconds["plain"], "<= 1.3")


def _memory(T: int, names: list[str]) -> list[Row]:
    """MiB that a process of its own needs beyond its inputs."""
    seen = {name: _at_most(name, T) for name in names}
    plain = max(seen.pop("plain"), 1.0)
    return [
        Row(f"... memory with {name}, beside plain, T = {T}", f"{mib:.1f} MiB", f"{plain:.1f} MiB", mib / plain)
        for name, mib in seen.items()
        if name in ("any key", "map")
    ]


def _at_most(name: str, T: int) -> float:
    ran = subprocess.run([sys.executable, "-c", MEMORY, name, str(T)], capture_output=True, text=True, check=True)
    return max(0.1, float(ran.stdout))


# -- with a GPU ----------------------------------------------------------------------------------------------------------


def gpu(quick: bool) -> list[Row]:
    """The Triton kernels beside torch's flash attention, bfloat16; the goals of a forward pass are for d = 128."""
    if not torch.cuda.is_available():
        return [Row("no CUDA device here", "-")]
    made: list[Row] = []
    for T, d in ((512, 64),) if quick else ((2048, 64), (2048, 128), (8192, 128)):
        seconds = measure(_on_gpu(T, d), 3 if quick else 15, 2 if quick else 10, _gpu_clock)
        for name, beside, goal in (
            ("output and first key", "flash", "<= 1.05"),
            ("output and any key", "flash", "<= 1.7"),
            ("training", "flash, training", ""),
            ("training and any key", "training", "<= 1.05"),
        ):
            made.append(cost(f"GPU: {name}, beside {beside}, T = {T}, d = {d}", seconds[name], seconds[beside], goal))
    return made


def _on_gpu(T: int, d: int) -> dict[str, Callable[[], object]]:
    q, k, v = inputs(T, 16, d, device="cuda", dtype=torch.bfloat16)
    leaves = [one.clone().requires_grad_() for one in (q, k, v)]
    heard: list[torch.Tensor] = []
    rule = Rule()

    def any_key() -> object:
        y, lse, first = triton_path.attention(q, k, v, rule)
        return y, triton_path.mass(q, k, lse, first, rule)

    def training(attention: Callable[..., torch.Tensor]) -> object:
        return torch.autograd.grad(attention(*leaves).sum(), leaves)

    def fused(*tensors: torch.Tensor) -> torch.Tensor:
        return F.scaled_dot_product_attention(*tensors, is_causal=True)

    def ours(*tensors: torch.Tensor) -> torch.Tensor:
        return triton_path.attention(*tensors, rule)[0]

    def listening(*tensors: torch.Tensor) -> torch.Tensor:
        heard.clear()
        return triton_path.attention(*tensors, rule, on_mass=heard.append)[0]

    return {
        "flash": lambda: fused(q, k, v),
        "output and first key": lambda: triton_path.attention(q, k, v, rule),
        "output and any key": any_key,
        "flash, training": lambda: training(fused),
        "training": lambda: training(ours),
        "training and any key": lambda: training(listening),
    }


def _gpu_clock() -> float:
    import time

    torch.cuda.synchronize()
    return time.perf_counter()
