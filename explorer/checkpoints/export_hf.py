"""A trained tiny language model as a folder that transformers loads: config.json, model.safetensors, a tokenizer, README.md.

The folder appears whole or not at all. Nothing of transformers is needed to write it.
"""

import json
import math
import os
import shutil
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from explorer.checkpoints.byte_tokenizer import tokenizer, tokenizer_config
from explorer.checkpoints.export_layouts import architecture, config, tensors
from explorer.checkpoints.files import CheckpointError
from explorer.errors import BadValue
from explorer.recording_file import reason, versions

if TYPE_CHECKING:
    from explorer.experiment import Experiment

FILES = ("config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json", "README.md")
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}
__all__ = ["FILES", "architecture", "export_hf", "free_folder"]


def export_hf(
    experiment: "Experiment", folder: str | os.PathLike[str], *, force: bool = False, dtype: str = "float32"
) -> Path:
    """Write the model as it is now; `transformers.AutoModelForCausalLM.from_pretrained(folder)` then computes the same.

    force: replace an earlier export. dtype: "float32" is exact, "bfloat16" takes half the room and rounds. CheckpointError
    where the model has no exact counterpart in transformers, or the folder holds anything else.
    """
    if dtype not in DTYPES:
        raise BadValue(f"dtype={dtype!r}: choose one of {', '.join(map(repr, DTYPES))}")
    made, target = config(experiment, dtype), free_folder(folder, force)
    try:
        with _appearing(target) as beside:
            _write(experiment, made, beside, dtype)
    except Exception as error:  # safetensors' own class derives from Exception alone
        what = f"cannot export to {str(target)!r}: {reason(error)}"
        raise CheckpointError(f"{what}; nothing was changed there") from error
    return target


def free_folder(folder: str | os.PathLike[str], force: bool = False) -> Path:
    """Where an export may go: nothing is there yet, or an empty folder, or with `force` an earlier export."""
    path = Path(folder).expanduser()
    if path.is_symlink() or path.name in ("", ".."):
        path = path.resolve()
    if not path.parent.is_dir():
        raise CheckpointError(f"cannot export to {str(path)!r}: there is no folder {str(path.parent)!r}")
    if not os.access(path.parent, os.W_OK | os.X_OK):
        raise CheckpointError(
            f"cannot export to {str(path)!r}: the folder {str(path.parent)!r} is not yours to write to"
        )
    if not path.exists():
        return path
    if not path.is_dir():
        raise CheckpointError(f"cannot export to {str(path)!r}: it is a file, and an export is a folder")
    held = sorted(entry.name for entry in path.iterdir())
    if others := [name for name in held if name not in FILES or not (path / name).is_file()]:
        raise CheckpointError(
            f"{str(path)!r} holds {others[0]!r}, which is no part of an export; choose another folder"
        )
    if held and not force:
        raise CheckpointError(
            f"{str(path)!r} holds an export already; choose another folder, or replace it with --force"
        )
    return path


@contextmanager
def _appearing(target: Path) -> Iterator[Path]:
    """A new folder to write to, which takes the place of `target` at the end, or vanishes on an error or Ctrl-C."""
    mark = f".{target.name}.{uuid.uuid4().hex[:8]}"
    beside, old = target.with_name(mark), target.with_name(f"{mark}.old")
    beside.mkdir()
    try:
        yield beside
        if target.exists():
            target.rename(old)
        beside.rename(target)
    finally:
        if old.exists() and not target.exists():
            old.rename(target)
        for folder in (beside, old):
            with suppress(OSError):
                shutil.rmtree(folder)


def _write(experiment: "Experiment", made: dict[str, Any], folder: Path, dtype: str) -> None:
    from safetensors.torch import save

    model: Any = experiment.model
    stored = {
        name: value.to("cpu", DTYPES[dtype]).contiguous()
        for name, value in tensors(model, made["architectures"][0]).items()
    }
    (folder / "model.safetensors").write_bytes(save(stored, metadata={"format": "pt"}))
    _write_json(folder / "config.json", made)
    if experiment.data.describe()["task"] == "text":
        _write_json(folder / "tokenizer.json", tokenizer())
        _write_json(folder / "tokenizer_config.json", tokenizer_config(made["max_position_embeddings"]))
    (folder / "README.md").write_text(_readme(experiment, made), encoding="utf-8")


def _write_json(file: Path, content: dict[str, Any]) -> None:
    file.write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


# -- README.md ---------------------------------------------------------------------------------------------------------

README = """\
# A tiny language model with {title}

`{kind}`: {parameters:,} parameters ({active:,.0f} active for a token), {layers} layers of {experts} experts, of which a
token gets {k}. It was trained to show how a router decides, and is of no other use.

```python
import transformers

model = transformers.AutoModelForCausalLM.from_pretrained("this folder", dtype="float32")
{load_tokenizer}```
{about_tokenizer}
## How it was made

`gating-explorer train {mechanism} --export-hf ...`: {steps} steps with seed {seed}, learning from windows of {sequence} tokens.
Weights are stored as {dtype}{rounding}.

| | {unit} |
|---|---|
| training loss, mean of the last {last} steps | {train:.4f} |
| held-out loss | {held_out:.4f} |

The same seed gives the same bits on the same machine. Another processor, number of threads or release of torch rounds
differently, and other versions of Python or of installed packages change the text that the task reads: compare the sha256.

```json
{provenance}
```
"""
TOKENIZER = """
A token is a byte: ids 0 to 126 are ASCII, 127 is every other byte, two or more for one character. Those are lost: they are
read back as U+FFFD. `\\r\\n` becomes `\\n`. There are no special tokens.
"""


def _readme(experiment: "Experiment", made: dict[str, Any]) -> str:
    from explorer.assembly import split
    from explorer.tasks.data import unit

    losses, count, data = experiment.losses(), experiment.count(), experiment.data.describe()
    last, text = math.ceil(len(losses) / 10), data["task"] == "text"
    for domain in data.get("domains", {}).values():
        domain.pop("path", None)  # the folder is made to be passed on
    knobs, settings = split(experiment.spec, experiment.start)
    provenance = {
        "mechanism": experiment.spec.name, "knobs": knobs, "settings": settings,
        "changed at step": experiment.changes, "seed": experiment.seed, "data": data,
        "versions": versions(),
    }  # fmt: skip
    return README.format(
        title=experiment.spec.title[:1].lower() + experiment.spec.title[1:], kind=made["architectures"][0],
        parameters=count.parameters, active=count.active, layers=made["num_hidden_layers"],
        experts=made.get("num_experts", made.get("num_local_experts")), k=made["num_experts_per_tok"],
        load_tokenizer='tokenizer = transformers.AutoTokenizer.from_pretrained("this folder")\n' if text else "",
        about_tokenizer=TOKENIZER if text else "\nIt has no tokenizer: the task makes its tokens itself.\n",
        mechanism=experiment.spec.name, steps=experiment.step, seed=experiment.seed,
        sequence=made["max_position_embeddings"], dtype=made["torch_dtype"],
        rounding="" if made["torch_dtype"] == "float32" else "; the losses are those of the weights before rounding",
        unit=unit(experiment.data), last=last, train=losses[-last:].mean().item() if last else math.nan,
        held_out=experiment.evaluate(), provenance=json.dumps(provenance, indent=1, ensure_ascii=False, default=str),
    )  # fmt: skip
