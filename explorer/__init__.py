"""Gating explorer: see what decides in a neural network which expert, head or layer gets a token, while it decides."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from explorer.catalogue import Claim, Knob, Paper, Spec, build, catalogue, names, spec
from explorer.errors import ExplorerError

if TYPE_CHECKING:
    from explorer import analyses, metrics
    from explorer.checkpoints.callbacks import RecordingCallback as RecordingCallback
    from explorer.checkpoints.checkpoint import Checkpoint, open_checkpoint
    from explorer.claims import Verdict, verify
    from explorer.comparison import compare
    from explorer.experiment import Experiment, Step
    from explorer.lessons.checking import check
    from explorer.recorder import record
    from explorer.recording import Recording
    from explorer.taps import Instrumented, edit

__version__ = "0.1.0"

# What needs torch is imported at its first use: the server of a class and `gating-explorer --help` never need it.
# No public name may also be the name of a module of its own here: importing that module would put it over the name.
_LAZY = {
    "Checkpoint": "checkpoints.checkpoint", "Experiment": "experiment", "Instrumented": "taps", "Recording": "recording",
    "RecordingCallback": "checkpoints.callbacks", "Step": "experiment", "Verdict": "claims", "check": "lessons.checking",
    "compare": "comparison", "edit": "taps", "open_checkpoint": "checkpoints.checkpoint", "record": "recorder",
    "verify": "claims",
}  # fmt: skip
_MODULES = (
    "analyses", "claims", "experiment", "kernels", "mechanisms", "metrics", "models", "recording", "taps", "tasks",
    "training",
)  # fmt: skip

__all__ = [
    "Checkpoint", "Claim", "Experiment", "ExplorerError", "Instrumented", "Knob", "Paper", "Recording", "Spec", "Step",
    "Verdict", "build", "catalogue", "check", "compare", "edit", "metrics", "names", "open_checkpoint", "record", "spec",
    "verify",
]  # fmt: skip


def __getattr__(name: str) -> Any:
    if name in _LAZY:
        value = getattr(import_module(f"explorer.{_LAZY[name]}"), name)
    elif name in _MODULES:
        value = import_module(f"explorer.{name}")
    else:
        raise AttributeError(f"module 'explorer' has no attribute {name!r}")
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *_LAZY, *_MODULES})
