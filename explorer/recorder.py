"""The recorder: listens to the taps of one model and fills a Recording, step by step."""

import sys
from collections.abc import Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from explorer.errors import BadValue
from explorer.recording import GATES, Recording
from explorer.taps import SCORES, Instrumented, Listener, attach, detach, full_name, instrumented, resolve


class Recorder:
    """Listens to a model on behalf of a Recording; `record` is the usual way to have one.

    A step is one forward pass of the watched model: a hook on it ends the step. Where that hook cannot fire (a compiled
    model whose original is watched, or a part of the model called by itself) what was heard waits until it is read,
    and is then cut into passes wherever the first tap comes again.
    """

    def __init__(
        self,
        model: nn.Module,
        pattern: str | list[str] = "*",
        every: int = 1,
        keep: int | None = None,
        tensors_every: int = 1,
        recording: Recording | None = None,
        start_step: int = 0,
    ) -> None:
        for name, value in {
            "every": every,
            "tensors_every": tensors_every,
            "keep": 1 if keep is None else keep,
        }.items():
            if isinstance(value, bool) or not isinstance(value, int) or value < 1:
                raise BadValue(f"{name}={value!r}: it must be a whole number of at least 1")
        self.model, self.every, self.tensors_every = model, every, tensors_every
        self.chosen, self.modules = resolve(model, pattern), instrumented(model)
        self._choosing = [module for module in model.modules() if hasattr(module, "kernel")]
        self.recording = Recording(describe(model, self.chosen), keep) if recording is None else recording
        self.heard: list[tuple[str, str, Tensor]] = []
        self.listeners = {path: Listener(frozenset(), self.heard) for path in self.chosen}
        self.next_step = start_step
        self.muted, self._cadence = False, -1
        self._listen()

    def _due(self) -> tuple[bool, bool]:
        """Whether the next step is recorded at all, and whether with its tensors."""
        record = self.next_step % self.every == 0
        return record, record and self.next_step // self.every % self.tensors_every == 0

    def _listen(self) -> None:
        record, tensors = self._due()
        cadence = 0 if self.muted or not record else 2 if tensors else 1
        if cadence != self._cadence:
            self._cadence = cadence
            for path, taps in self.chosen.items():
                cheap = [tap for tap in taps if tap in ("index", "probs", "valid", *GATES)]
                self.listeners[path].wanted = frozenset(((), cheap, taps)[cadence])

    def routers(self) -> list[str]:
        """The paths of the watched modules that choose, in the order of the model."""
        return [path for path, taps in self.chosen.items() if "index" in taps]

    def start(self) -> None:
        """Begin to listen."""
        for path, listener in self.listeners.items():
            attach(self.modules[path], path, listener=listener)
        self._hook = self.model.register_forward_hook(StepEnd.of(self))
        self.recording._settle = self.settle

    def stop(self) -> None:
        """Take in the rest and leave the model as if nobody had listened."""
        self._hook.remove()
        for path, listener in self.listeners.items():
            detach(self.modules[path], listener=listener)
        self.settle()
        self.recording._settle = None

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Forward passes in here (an evaluation, say) are not steps of the recording."""
        self.settle()
        self.muted = True
        self._listen()
        try:
            yield
        finally:
            self.muted = False
            self._listen()

    def _ended(self) -> None:
        if not self.muted:
            self._take(self.heard)
            self.heard.clear()

    def settle(self) -> None:
        """Take in what was heard and not yet ended by the hook."""
        if not self.heard:
            return
        waiting, first, cut = list(self.heard), self.heard[0][:2], 0
        self.heard.clear()
        for i in range(1, len(waiting) + 1):
            if i == len(waiting) or waiting[i][:2] == first:
                self._take(waiting[cut:i])
                cut = i

    def _take(self, heard: list[tuple[str, str, Tensor]]) -> None:
        record, tensors = self._due()
        if record:
            self.recording.add(self.next_step, heard, tensors)
        if tensors:
            self.recording.header["kernel"] = kernels(self._choosing)
        self.next_step += 1
        self._listen()


class StepEnd:
    """The forward hook that ends a step. A copy of the model carries a copy of it along: that one does nothing."""

    def __init__(self, recorder: Recorder | None = None) -> None:
        self.recorder = recorder

    def __call__(self, *_: Any) -> None:
        if self.recorder is not None:
            self.recorder._ended()

    def __reduce__(self) -> tuple[Any, ...]:
        return StepEnd, ()

    @classmethod
    def of(cls, recorder: Recorder) -> "StepEnd":
        """A hook that torch.compile leaves alone: traced, it would be compiled anew at every step, eight times at most.

        Only where something was compiled: to import torch._dynamo for it would cost everybody else two seconds.
        """
        if "torch._dynamo" in sys.modules and not hasattr(cls.__call__, "_torchdynamo_disable"):
            cls.__call__ = torch.compiler.disable(cls.__call__)  # type: ignore[method-assign]
        return cls(recorder)


def describe(model: nn.Module, chosen: Mapping[str, list[str]]) -> dict[str, Any]:
    """The header of a recording of these taps of a model: what each number is and what computed it."""
    modules = instrumented(model)
    header: dict[str, Any] = {"scores": {}, "axes": {}, "experts": {}}
    for path, taps in chosen.items():
        module: Instrumented = modules[path]
        for tap in taps:
            header["axes"][full_name(path, tap)] = module.taps[tap]
            kind = "logits" if tap == "logits" else module.scores if tap == "probs" else None
            if kind is not None:
                header["scores"][full_name(path, tap)] = f"{kind}: {SCORES[kind]}"
        if "index" in taps and isinstance(getattr(module, "n_experts", None), int):
            header["experts"][path] = module.n_experts
    weight = next(model.parameters(), torch.zeros(0))
    header |= {
        "device": str(weight.device),
        "dtype": str(weight.dtype).removeprefix("torch."),
        "threads": torch.get_num_threads(),
    }
    header["kernel"] = kernels(model.modules())
    return header | getattr(model, "_about", {})


def kernels(modules: Iterable[nn.Module]) -> list[str]:
    """The names of the paths that ran last, of all modules that have a choice."""
    return sorted({str(module.kernel) for module in modules if hasattr(module, "kernel")})


@contextmanager
def record(
    model: nn.Module, pattern: str | list[str] = "*", every: int = 1, keep: int | None = None, tensors_every: int = 1
) -> Iterator[Recording]:
    """Record what the taps of `model` that match `pattern` say while inside.

    every: of every so many forward passes one is a step of the recording. tensors_every: of those, one in so many keeps
    its tensors (the others only leave their loads and summaries). keep: how many of the newest such steps are held;
    None: as many as fit into 256 MiB. Recording changes neither outputs nor gradients by a single bit. A model may be
    compiled, but before this begins, and is read from the thread that runs it.

    A model of transformers shows the same taps: of each attention layer where its attention goes, of each router what it
    decides. It must not be compiled.
    """
    with ExitStack() as stack:
        if "transformers" in sys.modules:
            from explorer.checkpoints import is_foreign, live

            if is_foreign(model):
                model = stack.enter_context(live(model, pattern))
                pattern = model.with_valid(pattern)
        recorder = Recorder(model, pattern, every, keep, tensors_every)
        recorder.start()
        try:
            yield recorder.recording
        finally:
            recorder.stop()
