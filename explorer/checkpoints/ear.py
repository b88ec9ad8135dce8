"""An ear: what stands in for a module of somebody else's model, so that the recorder can listen to it as to our own."""

from typing import Any, ClassVar

from torch import nn

from explorer.checkpoints.batch import Batch
from explorer.errors import RecordingError
from explorer.taps import Instrumented


class Pass:
    """The forward pass that a model is in. None: it is in none (a checkpointed layer may be computed again after it)."""

    batch: Batch | None = None


class Ear(Instrumented):
    """Shows under `path` what `module` does. It computes nothing of the model, and holds none of its parameters.

    A layer that runs without its ear hearing anything is an error: silence would look like a model that decides nothing.
    """

    missing: ClassVar[str] = ""

    def __init__(self, path: str, module: nn.Module, now: Pass) -> None:
        super().__init__()
        self.path, self.now = path, now
        self._of = (module,)  # in a tuple: no child, whose parameters would count as ours
        self.heard = False

    @property
    def module(self) -> nn.Module:
        """The module of the model."""
        return self._of[0]

    def listened(self) -> bool:
        """Whether somebody wants anything of this ear in the pass that is under way."""
        return self.now.batch is not None and any(self.watched(tap) for tap in self.taps)

    def begin(self, *_: Any) -> None:
        """Hook: the layer begins."""
        self.heard = False

    def end(self, *_: Any) -> None:
        """Hook: the layer is done, and must have been heard."""
        if not self.heard and self.listened():
            raise RecordingError(f"{self.path or 'the model'} ({type(self.module).__name__}) ran, but {self.missing}")
