"""Loading a checkpoint with transformers, once it is clear that it can and may be: all of it, float32, on the CPU.

A model that does not fit into the free memory has its layers on the disk, which takes accelerate. Code that a checkpoint
brings along is run only where open_checkpoint was told to trust it, and no pickle is ever opened.
"""

import importlib.util
import logging
import math
import os
import shutil
import tempfile
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from explorer.checkpoints.files import CheckpointError
from explorer.checkpoints.tokenizer import INSTALL, place

if TYPE_CHECKING:
    from explorer.checkpoints.checkpoint import Checkpoint

OLDEST = (4, 57)
USED = 0.8  # share of the free memory that weights may take
GROUP = Path("/sys/fs/cgroup")


def place_of(seen: "Checkpoint") -> tuple[str, str]:
    """(folder or hub id, revision) of what transformers is to load; raises where it cannot, or must not."""
    library = _library(seen)
    local = Path(seen.name).expanduser()
    if local.is_file() and local.name != "model.safetensors":
        raise CheckpointError(f"{seen.name!r} is one file, and transformers loads folders: give the folder it lies in")
    if "://" in seen.name and not local.exists():
        raise CheckpointError(f"transformers loads nothing from an address: copy {seen.name!r} into a folder first")
    _known(seen, library)
    return place(seen.name)


def _library(seen: "Checkpoint") -> Any:
    try:
        import transformers
    except ImportError as error:
        raise CheckpointError(
            f"{seen.name!r} is not streamed, and running it whole takes transformers: {INSTALL}"
        ) from error
    version = tuple(int(part) for part in transformers.__version__.split(".")[:2] if part.isdecimal())
    if version < OLDEST:
        raise CheckpointError(
            f"transformers {transformers.__version__} is too old to be listened to, {OLDEST[0]}.{OLDEST[1]} is the first that "
            "can be: pip install -U transformers"
        )
    return transformers


def _known(seen: "Checkpoint", library: Any) -> None:
    """Raise unless transformers has the model's code, or may run the code that the checkpoint brings along."""
    config = seen.weights.config
    if config is None:
        raise CheckpointError(f"{seen.name!r} has no config.json, without which transformers cannot load it")
    kind = str(config.get("model_type", ""))[:60]
    if kind in library.CONFIG_MAPPING or (seen.settings.code and seen.trust_remote_code):
        return
    if seen.settings.code:
        raise CheckpointError(
            f"{seen.name!r} needs code of its own (auto_map), which is run only if you say so: "
            "open_checkpoint(..., trust_remote_code=True), --trust-remote-code"
        )
    raise CheckpointError(
        f"transformers {library.__version__} does not know the model type {kind!r} of {seen.name!r}: a newer one may "
        "(pip install -U transformers)"
    )


# -- room --------------------------------------------------------------------------------------------------------------


def free_memory() -> int:
    """Bytes that may be taken: what the machine, or the control group that this runs in, has left."""
    free = _available()
    try:
        most, used = (int((GROUP / name).read_text()) for name in ("memory.max", "memory.current"))
        stat = dict(line.split() for line in (GROUP / "memory.stat").read_text().splitlines())
    except (OSError, ValueError):
        return free
    return max(0, min(free, most - used + int(stat.get("inactive_file", 0))))


def _available() -> int:
    """Of the whole machine; half of what is built in where the system does not say."""
    try:
        told = dict(line.split(":") for line in Path("/proc/meminfo").read_text().splitlines())
        return int(told["MemAvailable"].split()[0]) * 1024
    except (OSError, LookupError, ValueError):
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // 2


def size_of(seen: "Checkpoint") -> int:
    """Bytes of all numbers in float32; two of MXFP4 lie in one byte."""
    tensors = seen.weights.tensors
    return sum(4 * math.prod(one.shape) * (2 if name.endswith("_blocks") else 1) for name, one in tensors.items())


def needs_disk(seen: "Checkpoint") -> bool:
    """Whether layers must wait on the disk; raises where they cannot."""
    need, free = size_of(seen), free_memory()
    if need <= USED * free:
        return False
    if importlib.util.find_spec("accelerate") is None:
        raise CheckpointError(
            f"{seen.name!r} takes {_gb(need)} in float32, and {_gb(free)} of memory are free: with accelerate its layers can "
            "wait on the disk (pip install accelerate)"
        )
    return True


def _gb(size: int) -> str:
    return f"{size / 1e9:.3g} GB"


@contextmanager
def scratch(seen: "Checkpoint") -> Iterator[Path]:
    """A folder for the layers, which vanishes afterwards."""
    where = tempfile.gettempdir()
    need, free = size_of(seen), shutil.disk_usage(where).free
    if need > free:
        raise CheckpointError(
            f"the layers of {seen.name!r} would take {_gb(need)} on the disk, and {where} has {_gb(free)} left: let TMPDIR "
            "name a folder with more room"
        )
    with tempfile.TemporaryDirectory(prefix="gating-explorer-", ignore_cleanup_errors=True) as folder:
        yield Path(folder)


# -- loading -----------------------------------------------------------------------------------------------------------


@contextmanager
def quiet() -> Iterator[None]:
    """No bars and no advice from libraries meanwhile; what goes wrong is an error."""
    from transformers.utils import logging as library

    level, bars = library.get_verbosity(), library.is_progress_bar_enabled()
    other = logging.getLogger("accelerate")
    before = other.level
    other.setLevel(logging.ERROR)
    library.set_verbosity_error()
    library.disable_progress_bar()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        other.setLevel(before)
        library.set_verbosity(level)
        if bars:
            library.enable_progress_bar()


def load(seen: "Checkpoint", where: tuple[str, str], folder: Path | None) -> Any:
    """The model, ready to be run; with a folder, what does not fit into memory lies there."""
    more: dict[str, Any] = {}
    if folder is not None:
        limit = {"cpu": int(USED * free_memory())}
        more = {"device_map": "auto", "max_memory": limit, "offload_folder": str(folder)}
    try:
        whole = _class(seen, where)
        model, info = whole.from_pretrained(
            where[0], revision=where[1], dtype=torch.float32, trust_remote_code=seen.trust_remote_code,
            use_safetensors=True, output_loading_info=True, **more,
        )  # fmt: skip
    except CheckpointError:
        raise
    except Exception as error:
        raise CheckpointError(f"transformers cannot load {seen.name!r}: {first_line(error)}") from error
    lost = sorted(name for name in info["missing_keys"] if not name.startswith("lm_head"))
    if lost:
        raise CheckpointError(
            f"{seen.name!r} lacks {len(lost)} tensors that transformers needs ({lost[0][:80]}): with random numbers in their "
            "place a trace would mean nothing"
        )
    return model.eval()


def _class(seen: "Checkpoint", where: tuple[str, str]) -> Any:
    """What loads it: as a language model, else as one of images and text, else without a head."""
    import transformers

    config = transformers.AutoConfig.from_pretrained(
        where[0], revision=where[1], trust_remote_code=seen.trust_remote_code
    )
    if getattr(config, "is_encoder_decoder", False):
        raise CheckpointError(
            f"{seen.name!r} has an encoder and a decoder, which a text alone does not feed: load it, and record it while you "
            "run it (explorer.record)"
        )
    known = (
        ("MODEL_FOR_CAUSAL_LM_MAPPING", "AutoModelForCausalLM"),
        ("MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING", "AutoModelForImageTextToText"),
        ("MODEL_MAPPING", "AutoModel"),
    )
    found = (name for mapping, name in known if type(config) in getattr(transformers, mapping, {}))
    return getattr(transformers, next(found, "AutoModelForCausalLM"))


def first_line(error: BaseException) -> str:
    """What a library says, without its advice."""
    return (str(error).strip() or type(error).__name__).splitlines()[0][:300]
