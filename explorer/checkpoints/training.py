"""Recording a model while somebody else's loop trains it: one forward pass now and then, at a bounded cost."""

import math
import time
import warnings
from collections.abc import Callable
from contextlib import ExitStack
from typing import Any

from torch import Tensor, nn

from explorer import metrics
from explorer.checkpoints.live import LiveModel, is_foreign
from explorer.checkpoints.pace import Pace
from explorer.errors import RecordingError
from explorer.recorder import Recorder, describe
from explorer.recording import Recording
from explorer.taps import instrumented, resolve

ROUTERS = ("*/index", "*/probs", "*/weights")
ATTENTION = ("*/first", "*/elsewhere", "*/entropy")
PLACES = ("tokens", "position", "valid")
WHAT = "the first training pass of a recorded step, on the first process; evaluation is never recorded"


class TrainingRecorder:
    """Begins to listen when a step is due, hears one forward pass in training mode, and takes every hook off again.

    Between recorded steps nothing hangs on the model. Outputs and gradients are what they would have been, bit by bit.
    """

    def __init__(
        self, model: nn.Module, attention: bool, keep: int | None, pace: Pace, recording: Recording | None = None
    ) -> None:
        self.model, self.pace = model, pace
        self.watched: nn.Module = LiveModel(model) if is_foreign(model) else model
        self.pattern = _pattern(self.watched, attention)
        if isinstance(self.watched, LiveModel):
            self.watched.insist(self.pattern)
        self.keep = keep
        self.recording = recording or Recording(describe(self.watched, resolve(self.watched, self.pattern)), keep)
        self.note()
        self._ears = ExitStack()
        self._recorder: Recorder | None = None
        self._began, self._step, self._heard = 0.0, 0, False

    def note(self) -> None:
        """Write into the header how the recorded steps are spaced, and the account to go on with."""
        self.recording.header["training"] = {"what": WHAT, **self.pace.about(), "account": self.pace.state()}

    def begin(self, step: int, wanted: bool = True) -> None:
        """A training step begins; `step` is the number under which it would be recorded, if it is wanted and due."""
        self._began, self._step, self._heard = time.perf_counter(), step, False
        if wanted and self.pace.due():
            with self.pace.timed():
                self._listen()

    def end(self) -> dict[str, float]:
        """The step is over: what to plot of it, nothing where it was not recorded."""
        armed = self._recorder is not None
        self.close()
        scalars: dict[str, float] = {}
        with self.pace.timed():
            if self._heard:
                scalars = self.scalars()
        if self._began:
            self.pace.ended(time.perf_counter() - self._began, self._heard)
        self._began = 0.0
        if self._heard:
            self.note()
        elif armed:
            self._complain()
        return scalars

    def _complain(self) -> None:
        what = (
            f"no training pass of {type(self.model).__name__} was heard in step {self._step}: the loop does not call this "
            "model itself (an engine, a copy or a compiled version of it runs)"
        )
        if not self.recording.layers():
            raise RecordingError(what)
        warnings.warn(what, stacklevel=2)

    def close(self) -> None:
        """Take everything off the model; nothing of a pass that was cut short stays in the recording."""
        recorder, self._recorder = self._recorder, None
        if recorder is not None:
            recorder.heard.clear()
            recorder.stop()
        self._ears.close()

    def _listen(self) -> None:
        """Place the ears for one pass. An ear that turns out to be deaf raises at the first recorded step, not later."""
        try:
            if isinstance(self.watched, LiveModel):
                self._timed_ears(self.watched)
                self._ears.enter_context(self.watched.listening())
            recorder = Recorder(
                self.watched, self.pattern, keep=self.keep, recording=self.recording, start_step=self._step
            )
            recorder._ended = self._timed(recorder._ended)  # type: ignore[method-assign]
            recorder.start()
            self._recorder = recorder
            before = self.model.register_forward_pre_hook(self._before, prepend=True)
            after = self.model.register_forward_hook(self._after, always_call=True)  # last: see _after
            self._ears.callback(before.remove)
            self._ears.callback(after.remove)
        except BaseException:
            self.close()
            raise

    def _timed_ears(self, live: LiveModel) -> None:
        """Let every hook of the ears be timed while they hang there."""
        named: list[tuple[nn.Module, str]] = [(live, "begin"), (live, "end")]
        named += [(ear, name) for ear in live.ears.values() for name in ("begin", "decided", "given", "hear", "end")]
        for owner, name in named:
            if hasattr(owner, name):
                setattr(owner, name, self._timed(getattr(owner, name)))
                self._ears.callback(delattr, owner, name)

    def _timed(self, function: Callable[..., Any]) -> Callable[..., Any]:
        def timed(*args: Any, **kwargs: Any) -> Any:
            with self.pace.timed():
                return function(*args, **kwargs)

        return timed

    def _before(self, *_: Any) -> None:
        """A pass in evaluation mode (a generation, say) goes by unheard."""
        if self._recorder is not None:
            self._recorder.muted = not self.model.training
            self._recorder._listen()

    def _after(self, *_: Any) -> None:
        """The pass is over, by its end or by an error: nobody listens to the next ones.

        Called while torch walks over the hooks of a model that raised: only as the last of them may it take them off.
        """
        recorder = self._recorder
        if recorder is None or recorder.muted:
            return
        self._heard = recorder.next_step > self._step
        with self.pace.timed():
            self.close()

    def scalars(self) -> dict[str, float]:
        """Of the newest step, by layer: max_violation, load_entropy, dead_experts, and first_token_share with attention."""
        self.recording.settle()
        found: dict[str, float] = {}
        for layer, series in self.recording.series["loads"].items():
            counts_E = series.rows()[-1, 2:]
            found |= {f"{name}/{layer}": float(getattr(metrics, name)(counts_E)) for name in LOADS}
        for layer, series in self.recording.series["attention"].items():
            found[f"first_token_share/{layer}"] = _mean(series.rows()[-1, 1:].unflatten(0, (3, -1))[0])
        return {name: value for name, value in found.items() if math.isfinite(value)}


LOADS = ("max_violation", "load_entropy", "dead_experts")


def _mean(value: Tensor) -> float:
    return float(value.nanmean())


def _pattern(watched: nn.Module, attention: bool) -> list[str]:
    """What is recorded: the routers where there are any, the attention where asked for, and whose tokens they saw."""
    taps = {f"{path}/{tap}" for path, module in instrumented(watched).items() for tap in module.taps}
    wanted = [*ROUTERS, *(ATTENTION if attention else ())]
    wanted = [one for one in wanted if any(tap.endswith(one[1:]) for tap in taps)]
    if attention and ATTENTION[0] not in wanted:
        if not getattr(watched, "deaf", {}):
            raise RecordingError("attention=True, but the model has no attention that can be heard")
        wanted.append(ATTENTION[0])  # `insist` says which layers cannot be heard
    if not wanted:
        raise RecordingError("the model has no router that is known; attention=True records where its heads look")
    return [*wanted, *(f"/{name}" for name in PLACES if f"/{name}" in taps)]


def push(writer: Any, scalars: dict[str, float], step: int) -> None:
    """Each scalar to a SummaryWriter, or to anything else that has `add_scalar`."""
    add: Callable[..., Any] | None = getattr(writer, "add_scalar", None)
    if add is not None:
        for name, value in scalars.items():
            add(name, value, step)
