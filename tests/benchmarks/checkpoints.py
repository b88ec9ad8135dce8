"""What a trained model's files say, beside reading all of them and beside loading the model; from a cold disk."""

import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.benchmarks.rounds import Row, faster

ROUNDS = 5
READERS = {
    "ours": """
import explorer.checkpoints.checkpoint as c, torch
def read(folder):
    seen = c.open_checkpoint(folder)
    return [seen.router(layer) for layer in seen.layers]
""",
    "safe_open, routers": """
import torch
from safetensors import safe_open
def read(folder):
    held = []
    for file in sorted(folder.glob("*.safetensors")):
        with safe_open(file, framework="pt") as one:
            held += [one.get_tensor(name).float() for name in one.keys() if name.endswith("gate.weight")]
    return held
""",
    "safe_open, everything": """
import torch
from safetensors import safe_open
def read(folder):
    for file in sorted(folder.glob("*.safetensors")):
        with safe_open(file, framework="pt") as one:
            for name in one.keys():
                one.get_tensor(name).sum()
""",
    "from_pretrained": """
import torch, transformers
from transformers import OlmoeForCausalLM
def read(folder):
    return OlmoeForCausalLM.from_pretrained(folder, dtype=torch.bfloat16)
""",
}
TIMED = """
import os, resource, sys, time
from pathlib import Path
folder = Path(sys.argv[1])
for file in folder.glob("*"):
    handle = os.open(file, os.O_RDONLY)
    if hasattr(os, "posix_fadvise"):
        os.posix_fadvise(handle, 0, 0, os.POSIX_FADV_DONTNEED)
    os.close(handle)
def memory():
    for line in open("/proc/self/status") if os.path.exists("/proc/self/status") else ():
        if line.startswith("RssAnon"):
            return int(line.split()[1]) / 1024
    return 0.0
before, began = memory(), time.perf_counter()
held = read(folder)
print(time.perf_counter() - began, memory() - before)
"""


def rows(quick: bool) -> Iterator[Row]:
    """Router weights of a cold checkpoint of 4 GB in the OLMoE layout, and what the usual ways take to get there."""
    with checkpoint(quick) as folder:
        size = sum(file.stat().st_size for file in folder.iterdir()) / 1e9
        kinds = [kind for kind in READERS if kind != "from_pretrained" or not quick]
        measured: dict[str, list[tuple[float, float]]] = {kind: [] for kind in kinds}
        for turn in range(1 if quick else ROUNDS):
            for kind in kinds:
                if turn == 0 or kind in ("ours", "safe_open, routers"):  # the others take a minute, and are far away
                    measured[kind].append(once(kind, folder))
    ours = [seconds for seconds, _ in measured["ours"]]
    middle = sorted(ours)[len(ours) // 2]
    yield Row(
        f"routers of {size:.2g} GB, cold: seconds",
        f"{1e3 * middle:.0f} ms",
        "",
        middle,
        (min(ours), max(ours)),
        "<= 0.05",
    )
    for kind in kinds[1:]:
        theirs = [seconds for seconds, _ in measured[kind]]
        yield faster(f"... beside {kind}", ours[: len(theirs)], theirs)
        memory = [max(megabytes for _, megabytes in measured[one]) for one in ("ours", kind)]
        yield Row("... MiB held", *(f"{one:.0f} MiB" for one in memory))


def once(kind: str, folder: Path) -> tuple[float, float]:
    """(seconds, MiB of memory of its own) of one reading, in a process of its own, imports done."""
    command = [sys.executable, "-c", READERS[kind] + TIMED, str(folder)]
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).resolve().parents[2])}
    printed = subprocess.run(command, capture_output=True, text=True, check=True, env=environment).stdout
    seconds, memory = printed.split()[-2:]
    return float(seconds), float(memory)


@contextmanager
def checkpoint(quick: bool) -> Iterator[Path]:
    """A folder with every byte written, as holes of a file cost nothing to read; deleted afterwards."""
    import torch
    from safetensors.torch import save_file

    layers, experts, width = (2, 8, 64) if quick else (10, 64, 1024)
    folder = Path(tempfile.mkdtemp(prefix="gating-explorer-"))
    places = {}
    try:
        for i in range(layers):
            block, file = f"model.layers.{i}", f"model-{i + 1:05}-of-{layers + 1:05}.safetensors"
            square = torch.randn(width, width).bfloat16() / width**0.5
            names = [f"self_attn.{one}_proj.weight" for one in "qkvo"]
            names += [f"mlp.experts.{j}.{one}_proj.weight" for j in range(experts) for one in ("gate", "up", "down")]
            made = {f"{block}.{name}": square.clone() for name in names}
            made[f"{block}.mlp.gate.weight"] = torch.randn(experts, width).bfloat16()
            norms = ("input_layernorm", "post_attention_layernorm", "self_attn.q_norm", "self_attn.k_norm")
            made |= {f"{block}.{norm}.weight": torch.ones(width).bfloat16() for norm in norms}
            places |= _written(folder / file, made, save_file)
        ends = {
            "model.embed_tokens.weight": torch.randn(1000, width).bfloat16(),
            "model.norm.weight": torch.ones(width),
        }
        ends["lm_head.weight"] = torch.randn(1000, width).bfloat16()
        places |= _written(folder / f"model-{layers + 1:05}-of-{layers + 1:05}.safetensors", ends, save_file)
        (folder / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": places}))
        config = {
            "architectures": ["OlmoeForCausalLM"], "model_type": "olmoe", "hidden_size": width, "intermediate_size": width,
            "num_hidden_layers": layers, "num_attention_heads": 8, "num_experts": experts, "num_experts_per_tok": 8,
            "vocab_size": 1000, "torch_dtype": "bfloat16",
        }  # fmt: skip
        (folder / "config.json").write_text(json.dumps(config))
        os.sync()  # what is not on the disk yet cannot be dropped from memory
        yield folder
    finally:
        shutil.rmtree(folder)


def _written(path: Path, tensors: "dict[str, object]", save_file: "object") -> dict[str, str]:
    save_file(tensors, path)  # type: ignore[operator]
    return dict.fromkeys(tensors, path.name)
