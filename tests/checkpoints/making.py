"""Small checkpoints made on the spot: well-formed ones, and files whose header says anything at all."""

import json
import struct
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

MIXTRAL = {
    "architectures": ["MixtralForCausalLM"], "model_type": "mixtral", "num_local_experts": 4, "num_experts_per_tok": 2,
}  # fmt: skip


def mixtral(layers: int = 2, experts: int = 4, width: int = 8, inner: int = 12, seed: int = 0) -> dict[str, Tensor]:
    """Tensors of a Mixtral layout; whole numbers / 64, so that every type of two bytes holds them exactly."""
    random = torch.Generator().manual_seed(seed)

    def draw(*shape: int) -> Tensor:
        return torch.randint(-64, 64, shape, generator=random).float() / 64

    made: dict[str, Tensor] = {"model.embed_tokens.weight": draw(16, width)}
    for i in range(layers):
        block = f"model.layers.{i}.block_sparse_moe"
        made[f"{block}.gate.weight"] = draw(experts, width)
        for j in range(experts):
            made |= {f"{block}.experts.{j}.{w}.weight": draw(inner, width) for w in ("w1", "w3")}
            made[f"{block}.experts.{j}.w2.weight"] = draw(width, inner)
    return made


def save(folder: Path, tensors: dict[str, Tensor], config: Any = MIXTRAL, shards: int = 1) -> Path:
    """A folder as save_pretrained leaves it."""
    folder.mkdir(parents=True, exist_ok=True)
    if config is not None:
        (folder / "config.json").write_text(json.dumps(config))
    names = list(tensors)
    if shards == 1:
        save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
        return folder
    places = {name: f"model-{1 + i % shards:05}-of-{shards:05}.safetensors" for i, name in enumerate(names)}
    for file in sorted(set(places.values())):
        save_file({name: tensors[name] for name in names if places[name] == file}, folder / file)
    index = {"metadata": {}, "weight_map": places}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    return folder


def about(shape: list[Any], start: Any, end: Any, dtype: Any = "F32") -> dict[str, Any]:
    """One entry of a header."""
    return {"dtype": dtype, "shape": shape, "data_offsets": [start, end]}


GATE = "model.layers.0.block_sparse_moe.gate.weight"


def raw(folder: Path, header: Any, data: bytes = b"", length: int | None = None) -> Path:
    """A folder with a file that says what it likes. header: bytes, or what is written as JSON."""
    folder.mkdir(parents=True, exist_ok=True)
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    content = struct.pack("<Q", len(text) if length is None else length) + text + data
    (folder / "model.safetensors").write_bytes(content)
    return folder


def sparse(path: Path, shapes: dict[str, tuple[int, ...]], fill: dict[str, Tensor] | None = None) -> None:
    """A bfloat16 file of any size that takes no room on disk but for the tensors of `fill`."""
    header, at = {}, 0
    for name, shape in shapes.items():
        size = 2 * torch.Size(shape).numel()
        header[name] = about(list(shape), at, at + size, "BF16")
        at += size
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    with open(path, "wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        for name, value in (fill or {}).items():
            file.seek(8 + len(text) + header[name]["data_offsets"][0])
            file.write(value.bfloat16().contiguous().view(torch.uint8).numpy().tobytes())
        file.truncate(8 + len(text) + at)


def olmoe(folder: Path, layers: int, experts: int, width: int, inner: int, shards: int = 1) -> Path:
    """A synthetic OLMoE checkpoint with true routers and experts of zeros that no disk has to hold."""
    folder.mkdir(parents=True)
    random, places = torch.Generator().manual_seed(0), {}
    config = {
        "architectures": ["OlmoeForCausalLM"],
        "model_type": "olmoe",
        "num_experts": experts,
        "num_experts_per_tok": 8,
    }
    (folder / "config.json").write_text(json.dumps(config))
    for shard in range(shards):
        shapes: dict[str, tuple[int, ...]] = {}
        fill = {}
        for i in range(shard, layers, shards):
            block = f"model.layers.{i}.mlp"
            for j in range(experts):
                shapes |= {f"{block}.experts.{j}.{w}_proj.weight": (inner, width) for w in ("gate", "up")}
                shapes[f"{block}.experts.{j}.down_proj.weight"] = (width, inner)
            shapes[f"{block}.gate.weight"] = (experts, width)
            fill[f"{block}.gate.weight"] = torch.randn(experts, width, generator=random)
        file = f"model-{shard + 1:05}-of-{shards:05}.safetensors"
        sparse(folder / file, shapes, fill)
        places |= dict.fromkeys(shapes, file)
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": places}))
    return folder
