"""A callback of Lightning that records how the model in training routes, at a bounded cost."""

import os
import sys
import tempfile
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from explorer.checkpoints.live import is_foreign
from explorer.checkpoints.pace import Pace
from explorer.checkpoints.training import TrainingRecorder, push
from explorer.errors import RecordingError
from explorer.recording import Recording
from explorer.taps import Instrumented

try:
    old = "pytorch_lightning" in sys.modules and "lightning.pytorch" not in sys.modules  # one library under two names
    Callback: Any = import_module("pytorch_lightning" if old else "lightning.pytorch").Callback
except ImportError as error:
    raise RecordingError("LightningRecordingCallback needs Lightning: `pip install lightning`") from error


class LightningRecordingCallback(Callback):
    """Records the routers of the model in training: `Trainer(callbacks=[LightningRecordingCallback()])`.

    As RecordingCallback for the Trainer of transformers: budget, attention, keep, path and writer mean the same. part: the
    attribute of the LightningModule that holds the model, where there are several. Scalars go to the loggers of the
    Trainer. A step has the number of optimizer steps before it; the recording is a part of each checkpoint.
    """

    def __init__(
        self,
        budget: float = 0.02,
        attention: bool = False,
        keep: int | None = 8,
        path: str | os.PathLike[str] | None = None,
        part: str | None = None,
        writer: Any = None,
    ) -> None:
        self.pace = Pace(budget)
        self.attention, self.keep, self.path, self.part, self.writer = attention, keep, path, part, writer
        self._of: TrainingRecorder | None = None
        self._earlier: Recording | None = None
        self._last = -1  # the optimizer step that was recorded last: of its batches one is enough

    @property
    def recording(self) -> Recording:
        """What was recorded; it grows while training goes on."""
        if self._of is None:
            raise RecordingError("nothing is recorded yet: training has not begun, or this is not its first process")
        return self._of.recording

    def on_train_start(self, trainer: Any, pl_module: Any) -> None:
        """Begin, or go on where the checkpoint left off."""
        self.close()
        if not trainer.is_global_zero:
            return
        kept, self._earlier = self._earlier, None
        if kept is not None:
            self.pace.resume(kept.header.get("training", {}).get("account", {}))
        self._of = TrainingRecorder(model_in(pl_module, self.part), self.attention, self.keep, self.pace, kept)
        if kept is not None:
            self._last = kept.step
            kept.event(f"training resumed at step {trainer.global_step}")

    def on_train_batch_start(self, trainer: Any, _pl_module: Any, _batch: Any, _batch_idx: int) -> None:
        """Listen to the batch, if it is due."""
        if self._of is not None:
            self._of.begin(trainer.global_step, wanted=trainer.global_step > self._last)
            self._step = trainer.global_step

    def on_train_batch_end(self, trainer: Any, _pl_module: Any, _outputs: Any, _batch: Any, _batch_idx: int) -> None:
        """Push what was heard."""
        if self._of is None:
            return
        scalars = self._of.end()
        if scalars:
            self._last = self._step
            for logger in trainer.loggers:
                logger.log_metrics(scalars, step=self._step)
            push(self.writer, scalars, self._step)

    def on_exception(self, _trainer: Any, _pl_module: Any, _exception: BaseException) -> None:
        """Leave the model alone."""
        self.close()

    def on_train_end(self, _trainer: Any, _pl_module: Any) -> None:
        """Leave the model alone, and write the recording."""
        self.close()
        if self._of is not None:
            self._of.note()
        if self._of is not None and self.path is not None:
            self._of.recording.save(self.path)

    def close(self) -> None:
        """Take everything off the model."""
        if self._of is not None:
            self._of.close()

    def state_dict(self) -> dict[str, Any]:
        """The recording so far, as the bytes of its file."""
        if self._of is None:
            return {}
        self._of.note()
        return {"recording": _packed(self._of.recording)}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take the recording of an earlier run, before training begins."""
        packed = state_dict.get("recording")
        if isinstance(packed, Tensor):
            self._earlier = _unpacked(packed)


def _packed(recording: Recording) -> Tensor:
    with tempfile.TemporaryDirectory() as folder:
        recording.save(Path(folder) / "recording")
        return torch.from_numpy(np.fromfile(Path(folder) / "recording", np.uint8))


def _unpacked(packed: Tensor) -> Recording:
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "recording").write_bytes(packed.cpu().numpy().tobytes())
        return Recording.load(Path(folder) / "recording")


def model_in(module: nn.Module, part: str | None) -> nn.Module:
    """The model that a LightningModule trains: its outermost one of transformers, or what holds all our own mechanisms."""
    if part is not None:
        try:
            return module.get_submodule(part)
        except AttributeError as error:
            raise RecordingError(f"{type(module).__name__} has no part {part!r}") from error
    children = dict(module.named_children())
    holding = [name for name, child in children.items() if is_foreign(child) or _ours(child)]
    if len(holding) == 1:
        return children[holding[0]]
    if not holding:
        raise RecordingError(f"{type(module).__name__} holds no model that can be recorded")
    raise RecordingError(f"{type(module).__name__} holds several models: name one of {', '.join(holding)} with part=")


def _ours(module: nn.Module) -> bool:
    return any(isinstance(one, Instrumented) for one in module.modules())
