"""A callback of transformers.Trainer that records how the model in training routes, at a bounded cost."""

import os
from pathlib import Path
from typing import Any

from explorer.checkpoints.pace import Pace
from explorer.checkpoints.training import TrainingRecorder, push
from explorer.errors import RecordingError
from explorer.recording import Recording

try:
    from transformers import TrainerCallback
except ImportError as error:
    raise RecordingError(
        "RecordingCallback needs transformers: install it with `pip install 'gating-explorer[checkpoints]'`"
    ) from error

FILE = "gating-explorer.safetensors"  # beside the weights in a checkpoint of the Trainer


class RecordingCallback(TrainerCallback):
    """Records the routers of the model in training: `Trainer(..., callbacks=[RecordingCallback()])`.

    budget: share of the training time that recording may take on average; recorded steps are spaced to keep it, and the
    header's `training` says how. attention: also where each head looks. keep: of how many recorded steps the decisions
    are held (loads are of all). path: where the recording is written at the end. Scalars by layer (max_violation,
    load_entropy, dead_experts, first_token_share) go to `trainer.log` after `callback.trainer = trainer`, and to `writer`,
    a SummaryWriter. A step has the number that the Trainer logs it under.

    Each checkpoint of the Trainer holds the recording so far; training that is resumed from there goes on with it.
    """

    def __init__(
        self,
        budget: float = 0.02,
        attention: bool = False,
        keep: int | None = 8,
        path: str | os.PathLike[str] | None = None,
        trainer: Any = None,
        writer: Any = None,
    ) -> None:
        self.pace = Pace(budget)
        self.attention, self.keep, self.path = attention, keep, path
        self.trainer, self.writer = trainer, writer
        self._of: TrainingRecorder | None = None

    @property
    def recording(self) -> Recording:
        """What was recorded; it grows while training goes on."""
        if self._of is None:
            raise RecordingError("nothing is recorded yet: training has not begun, or this is not its first process")
        return self._of.recording

    def on_train_begin(self, args: Any, state: Any, _control: Any, model: Any = None, **_: Any) -> None:
        """Begin, or go on where the checkpoint that training is resumed from left off."""
        self.close()
        if not state.is_world_process_zero:
            return
        if getattr(args, "torch_compile", False):
            raise RecordingError(
                "torch_compile=True: the model would be compiled anew for each recorded step; leave it off"
            )
        kept, earlier = None, Path(args.output_dir) / f"checkpoint-{state.global_step}" / FILE
        if state.global_step and earlier.is_file():
            kept = Recording.load(earlier)
            self.pace.resume(kept.header.get("training", {}).get("account", {}))
        self._of = TrainingRecorder(model, self.attention, self.keep, self.pace, kept)
        if state.global_step:
            self._of.recording.event(f"training resumed at step {state.global_step}")

    def on_step_begin(self, _args: Any, state: Any, _control: Any, **_: Any) -> None:
        """Listen to the step, if it is due."""
        if self._of is not None:
            self._of.begin(state.global_step + 1)

    def on_step_end(self, _args: Any, state: Any, _control: Any, **_: Any) -> None:
        """Push what was heard."""
        if self._of is None:
            return
        scalars = self._of.end()
        if scalars and self.trainer is not None:
            self.trainer.log(dict(scalars))
        push(self.writer, scalars, state.global_step)

    def on_save(self, args: Any, state: Any, _control: Any, **_: Any) -> None:
        """Put the recording into the checkpoint."""
        folder = Path(args.output_dir) / f"checkpoint-{state.global_step}"
        if self._of is not None and folder.is_dir():
            self._of.note()
            self._of.recording.save(folder / FILE)

    def on_train_end(self, _args: Any, _state: Any, _control: Any, **_: Any) -> None:
        """Leave the model alone, and write the recording."""
        self.close()
        if self._of is not None:
            self._of.note()
        if self._of is not None and self.path is not None:
            self._of.recording.save(self.path)

    def close(self) -> None:
        """Take everything off the model; needed only after training that broke off by an error."""
        if self._of is not None:
            self._of.close()
