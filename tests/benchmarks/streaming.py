"""A checkpoint traced from its files, beside loading it; from a cold disk, in processes of their own, imports done."""

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from tests.benchmarks.checkpoints import checkpoint
from tests.benchmarks.rounds import Row, faster

TURNS = 2
TOKENS, MANY = 32, 4096
ALLOWED = 60  # MiB above torch, besides the attention weights of one layer
OURS = """
import torch
import explorer.checkpoints.checkpoint as c, explorer.checkpoints.streaming.engine, explorer.checkpoints.trace
def trace(folder, ids):
    seen = c.open_checkpoint(folder)
    windows = [ids[i : i + 512].tolist() for i in range(0, len(ids), 512)]
    return seen.trace(tokens=windows, method="stream", scores=len(ids) < 512)  # what is asked for is not counted against it
"""
THEIRS = """
import torch, transformers
from transformers import OlmoeForCausalLM
def trace(folder, ids):
    model = OlmoeForCausalLM.from_pretrained(folder, dtype=torch.bfloat16, **more(folder))
    with torch.no_grad():
        return model(ids[None], output_router_logits=True).router_logits
"""
IN_MEMORY = """
def more(folder):
    return {}
"""
ON_DISK = """
import atexit, json, shutil, tempfile
import accelerate
def more(folder):
    place = tempfile.mkdtemp(prefix="gating-explorer-")
    atexit.register(shutil.rmtree, place)
    layers = json.loads((folder / "config.json").read_text())["num_hidden_layers"]
    ends = ("model.embed_tokens", "model.norm", "model.rotary_emb", "lm_head")
    where = {f"model.layers.{i}": "disk" for i in range(layers)} | dict.fromkeys(ends, "cpu")
    return {"device_map": where, "offload_folder": place}
"""
KINDS = {
    "ours": OURS,
    "from_pretrained and a forward pass": IN_MEMORY + THEIRS,
    "accelerate, layers on disk": ON_DISK + THEIRS,
}
TIMED = """
import os, sys, time
from pathlib import Path
folder = Path(sys.argv[1])
ids = torch.randint(0, 1000, (int(sys.argv[2]),), generator=torch.Generator().manual_seed(0))
torch.nn.functional.linear(torch.zeros(8, 8), torch.zeros(8, 8))
for file in folder.glob("*"):
    handle = os.open(file, os.O_RDONLY)
    if hasattr(os, "posix_fadvise"):
        os.posix_fadvise(handle, 0, 0, os.POSIX_FADV_DONTNEED)
    os.close(handle)
def memory(which):
    for line in open("/proc/self/status") if os.path.exists("/proc/self/status") else ():
        if line.startswith(which):
            return int(line.split()[1]) / 1024
    return 0.0
if os.path.exists("/proc/self/clear_refs"):
    open("/proc/self/clear_refs", "w").write("5")  # the peak is now what is held now
before, began, busy = memory("VmRSS"), time.perf_counter(), time.process_time()
held = trace(folder, ids)
print(time.perf_counter() - began, time.process_time() - busy, memory("VmHWM") - before)
"""


def rows(quick: bool) -> Iterator[Row]:
    """32 tokens through 4 GB in the OLMoE layout, and through what is usual; then the memory that 4,096 tokens take."""
    with checkpoint(quick) as folder:
        size = sum(file.stat().st_size for file in folder.iterdir()) / 1e9
        kinds = [kind for kind in KINDS if kind == "ours" or not quick]
        measured: dict[str, list[Once]] = {kind: [] for kind in kinds}
        for _ in range(1 if quick else TURNS):
            for kind in kinds:
                measured[kind].append(once(kind, folder, TOKENS))
        many = once("ours", folder, 64 if quick else MANY)
        attention = sum(width * width * 2 for width in (64 if quick else 1024,) * 4) / 2**20
    ours = [one.seconds for one in measured["ours"]]
    what = f"{TOKENS} tokens through {size:.2g} GB, cold"
    yield Row(f"{what}: seconds", f"{min(ours):.2f} s", "", min(ours), (min(ours), max(ours)))
    for kind, goal in zip(kinds[1:], (">= 8", ">= 10"), strict=False):
        yield faster(f"... beside {kind}", ours, [one.seconds for one in measured[kind]], goal)
        busy = [[one.processor for one in measured[which]] for which in ("ours", kind)]
        yield faster("... of the processor alone, which a busy machine disturbs less", *busy)
    goal = f"<= {ALLOWED + attention:.0f}"
    for kind in kinds:
        peak = max(one.mebibytes for one in measured[kind])
        yield Row(
            f"... MiB above the imports, {kind}", f"{peak:.0f} MiB", "", peak, None, goal if kind == "ours" else ""
        )
    yield Row(
        f"{64 if quick else MANY} tokens: MiB above the imports",
        f"{many.mebibytes:.0f} MiB",
        "",
        many.mebibytes,
        None,
        goal,
    )
    yield Row("... seconds", f"{many.seconds:.2f} s", "", many.seconds)


class Once(NamedTuple):
    """Seconds, those of the processor, and MiB resident at the peak above what was there before, of one trace."""

    seconds: float
    processor: float
    mebibytes: float


def once(kind: str, folder: Path, tokens: int) -> Once:
    """In a process of its own."""
    command = [sys.executable, "-c", KINDS[kind] + TIMED, str(folder), str(tokens)]
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).resolve().parents[2])}
    printed = subprocess.run(command, capture_output=True, text=True, check=True, env=environment).stdout
    return Once(*map(float, printed.split()[-3:]))
