"""An Experiment: a mechanism in a tiny host on a toy task, with a seed. It can be stepped, forked, counted and matched."""

import copy
import math
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from functools import reduce
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from explorer.assembly import SETTINGS, assemble, groups, matched_width, memory, split, width_knob
from explorer.catalogue import spec
from explorer.counting import Count, count
from explorer.errors import BadValue, Diverged, unknown
from explorer.recorder import Recorder, record
from explorer.recording import Recording
from explorer.taps import instrumented
from explorer.tasks import Batch
from explorer.tasks import task as find_task
from explorer.training.adamw import AdamW

if TYPE_CHECKING:
    import pandas as pd

POINTS = 32  # vectors that make up one "sequence" of a batch, so that one batch setting suits both kinds of task


@dataclass(frozen=True)
class Step:
    """What one training step reports: loss in the task's unit, metrics by name, and its duration in seconds."""

    step: int
    loss: float
    metrics: dict[str, float]
    seconds: float


class Experiment:
    """One run, deterministic in its seed: the same seed on the same machine gives a bit-identical `history`.

    mechanism: a name of the catalogue. task: a name ("text", "clusters", "bigram-backcopy") or a task object. knobs: those
    of the mechanism's Spec and of SETTINGS. match: fit `expert_width` so that the parameters (or the active FLOPs a token)
    equal those of the same host with the default mechanism in the same socket. watch: which taps to record (None: none),
    every step its loads and summaries, every `tensors_every`-th step its tensors, of which the newest `keep` stay.
    most_memory: refuse what would need more bytes than that, before any of it is taken.
    """

    def __init__(
        self,
        mechanism: str,
        *,
        task: Any = "text",
        seed: int = 0,
        match: str | None = None,
        watch: str | list[str] | None = "*",
        tensors_every: int = 10,
        keep: int = 64,
        device: str = "cpu",
        most_memory: int | None = None,
        **knobs: Any,
    ) -> None:
        if isinstance(seed, bool) or not isinstance(seed, int) or not 0 <= seed < 2**32:
            raise BadValue(f"seed={seed!r}: it must be a whole number from 0 to 4294967295")
        if match not in (None, "parameters", "flops"):
            raise BadValue(f"match={match!r}: it must be 'parameters', 'flops' or None")
        self.spec, self.task, self.seed, self.device = spec(mechanism), find_task(task), seed, torch.device(device)
        self.given, self.data = dict(knobs), self.task.build(seed)
        if self.data.kind == "sequences" and "causal" in self.spec.knobs:  # a picture has no before and after
            self.given.setdefault("causal", False)
        self.knobs, self.settings = split(self.spec, self.given)
        if match is not None:
            self.given |= {width_knob(self.spec): matched_width(self, match)}
            self.knobs, self.settings = split(self.spec, self.given)
        if most_memory is not None and (needed := memory(self)) > most_memory:
            raise BadValue(
                f"these settings need about {needed / 1e9:,.1f} GB of memory, and there is room for"
                f" {most_memory / 1e9:,.1f}: choose a smaller batch, or fewer or smaller layers and experts"
            )
        self.start = dict(self.given)  # what it began with; `given` follows the live knobs
        self._rng = _fresh_rng(seed)
        with self._own_randomness():
            self.model = assemble(self.spec, self.knobs, self.settings, self.data).to(self.device)
        self._instrumented = list(instrumented(self.model).values())
        self.optimizer = AdamW(groups(self.model, self.settings), betas=(0.9, 0.99))
        self.step = 0
        self.changes: list[tuple[int, dict[str, Any]]] = []  # (step, live knobs) set in the middle of the run
        self._history: list[tuple[int, float, float, float]] = []
        self._watch, self._tensors_every = watch, tensors_every
        self.recorder: Recorder | None = None
        if watch is not None:
            self.recorder = Recorder(self.model, watch, tensors_every=tensors_every, keep=keep)
            self.recorder.recording.header |= self._provenance()
            self.recorder.start()

    @property
    def recording(self) -> Recording:
        """What the run's gates decided so far."""
        if self.recorder is None:
            raise BadValue("this experiment was made with watch=None, so nothing is recorded")
        return self.recorder.recording

    @property
    def history(self) -> "pd.DataFrame":
        """step, loss, auxiliary, gradient_norm: one row a step taken."""
        import pandas as pd

        return pd.DataFrame(self._history, columns=["step", "loss", "auxiliary", "gradient_norm"])

    def losses(self) -> Tensor:
        """(S,) the training loss of every step, for a live chart."""
        return torch.tensor([row[1] for row in self._history], dtype=torch.float64)

    def advance(self) -> Step:
        """One training step."""
        began = time.perf_counter()
        size = self.settings["batch"] * (POINTS if self.data.kind == "vectors" else 1)
        batch = self._to_device(self.data.batch(self.step, size))
        self._enter_stage()
        with self._own_randomness():
            if not self.model.training:
                self.model.train()
            outputs = self.model(batch.inputs)
        loss = self.data.loss(outputs, batch)
        auxiliary = auxiliary_loss(self._instrumented)
        (loss if auxiliary is None else loss + auxiliary).backward()
        norm = self.optimizer.gradient_norm()
        value, norm_value = loss.item(), norm.item()
        if not (math.isfinite(value) and math.isfinite(norm_value)):
            self._explain_divergence(value, norm_value)
        clip = self.settings["clip"]
        self.optimizer.step(self.learning_rate(), min(1.0, clip / (norm_value + 1e-6)) if clip else 1.0)
        row = (self.step, value, 0.0 if auxiliary is None else auxiliary.item(), norm_value)
        self._history.append(row)
        if self.recorder is not None:
            self.recorder.recording.annotate(
                "/labels", "B T" if batch.labels.ndim == 2 else "B", batch.labels, self.step
            )
        self.step += 1
        metrics = {"auxiliary": row[2], "gradient_norm": norm_value}
        return Step(row[0], value, metrics, time.perf_counter() - began)

    def stream(self, steps: int) -> Iterator[Step]:
        """`steps` training steps, one at a time; the caller owns progress bar, plot and patience."""
        for _ in range(steps):
            yield self.advance()

    def run(self, steps: int) -> "Experiment":
        """Train for `steps` steps and return self."""
        for _ in self.stream(steps):
            pass
        return self

    def learning_rate(self) -> float:
        """Of the step about to be taken: linear warm-up, then constant or a cosine to a tenth at `horizon`."""
        warmup, horizon, rate = self.settings["warmup"], self.settings["horizon"], self.settings["learning_rate"]
        if self.step < warmup:
            return float(rate * (self.step + 1) / warmup)
        if not horizon:
            return float(rate)
        done = min(1.0, (self.step - warmup) / max(1, horizon - warmup))
        return float(rate * (0.1 + 0.9 * 0.5 * (1 + math.cos(math.pi * done))))

    def set(self, **changes: Any) -> None:
        """Change live knobs in the middle of the run (learning rate, k, capacity, auxiliary coefficient, ...)."""
        for name in changes:
            knob = self.spec.knobs.get(name) or SETTINGS.get(name)
            if knob is None:
                raise unknown(f"knob of {self.spec.name}", name, [*self.spec.knobs, *SETTINGS])
            if not knob.live:
                raise BadValue(
                    f"{name} cannot change in the middle of a run: it shapes the model or its start; reset first"
                )
        self.knobs, self.settings = split(self.spec, {**self.knobs, **self.settings, **changes})
        for module in self.model.modules():
            if isinstance(module, self.spec.cls):
                for name, value in self.knobs.items():
                    setattr(module, name, value)
        self.given |= changes
        if changes:
            self.changes.append((self.step, dict(changes)))
        for name, value in changes.items():
            if self.recorder is not None:
                self.recorder.recording.event(f"{name}={value}")

    def fork(self, **changes: Any) -> "Experiment":
        """A copy of the run at this step, with its own model, optimizer, randomness and recording, and live knobs changed."""
        twin = copy.copy(self)
        own = self.model, self.optimizer, self._instrumented
        twin.model, twin.optimizer, twin._instrumented = copy.deepcopy(own)
        twin.knobs, twin.settings, twin.given = dict(self.knobs), dict(self.settings), dict(self.given)
        twin.changes = list(self.changes)
        twin._rng, twin._history = self._rng.clone(), list(self._history)
        if self.recorder is not None:
            taken = self.recorder.recording.copy()
            old = self.recorder
            twin.recorder = Recorder(
                twin.model, self._watch or "*", old.every, taken.keep, old.tensors_every, taken, old.next_step
            )
            taken.event(f"forked at step {self.step}")
            twin.recorder.start()
        twin.set(**changes)
        return twin

    def evaluate(self, batch: Batch | None = None) -> float:
        """The loss of the model as it is now on the held-out data (or a batch); the run itself notices nothing."""
        batch = self._to_device(self.data.held_out() if batch is None else batch)
        with self._at_rest():
            return float(self.data.loss(self.model(batch.inputs), batch))

    def examine(self, batch: Batch | None = None, watch: str | list[str] = "*") -> tuple[float, Recording]:
        """(loss, recording) of the model as it is now on the held-out data (or a batch); the run itself notices nothing."""
        batch = self._to_device(self.data.held_out() if batch is None else batch)
        with self._at_rest(), record(self.model, watch, keep=1) as seen:
            loss = float(self.data.loss(self.model(batch.inputs), batch))
        seen.annotate("/labels", "B T" if batch.labels.ndim == 2 else "B", batch.labels, 0)
        return loss, seen

    def count(self) -> Count:
        """Parameters (all, and active for a token) and active FLOPs a token."""
        return count(self.model, getattr(self.task, "sequence", 1))

    def recipe(self) -> dict[str, Any]:
        """The arguments that make this very experiment again."""
        return {"mechanism": self.spec.name, "task": self.task, "seed": self.seed, **self.given}

    def script(self) -> str:
        """The Python lines that make this very run, up to the step it is at, live knobs and all."""
        from explorer.script import script

        return script(self)

    def close(self) -> None:
        """Stop recording: the model is left as if nobody had ever watched."""
        if self.recorder is not None:
            self.recorder.stop()

    def _enter_stage(self) -> None:
        """Where the data come in stages: tell the modules that care which one it is, and begin anew with a new one."""
        stage = getattr(self.data, "stage", None)
        if stage is None:
            return
        task, progress = stage(self.step)
        if self.step and stage(self.step - 1)[0] != task:
            self.optimizer.forget()
        for module in self._instrumented:
            enter = getattr(module, "enter", None)
            if enter is not None:
                enter(task, progress)

    # -- its own business ------------------------------------------------------------------------------------------
    def _to_device(self, batch: Batch) -> Batch:
        return batch if self.device.type == "cpu" else Batch(*(part.to(self.device) for part in batch))

    def _own_randomness(self) -> "_Randomness":
        return _Randomness(self)

    @contextmanager
    def _at_rest(self) -> Iterator[None]:
        """While inside, the model is in evaluation, without gradients, and the run's own recorder does not listen."""
        training = self.model.training
        self.model.eval()
        try:
            with self._aside(), torch.no_grad():
                yield
        finally:
            self.model.train(training)

    def _aside(self) -> Any:
        return nullcontext() if self.recorder is None else self.recorder.paused()

    def _provenance(self) -> dict[str, Any]:
        return {
            "mechanism": self.spec.name, "knobs": dict(self.knobs), "settings": dict(self.settings), "seed": self.seed,
            "task": type(self.task).__name__, "data": self.data.describe(), "labels": list(self.data.label_names),
        }  # fmt: skip

    def _explain_divergence(self, loss: float, norm: float) -> None:
        for parameter in self.model.parameters():
            parameter.grad = None  # the weights are still those of the last good step
        what = f"the loss became {loss}" if not math.isfinite(loss) else f"the gradient became {norm}"
        raise Diverged(
            f"{what} at step {self.step} (learning rate {self.learning_rate():g}); the model still has its last good weights: "
            "lower the learning rate, or look for values that are not finite in the data"
        )


class _Randomness:
    """While inside, torch's CPU generator is the experiment's own, so that two runs in turn do not disturb each other."""

    def __init__(self, owner: Experiment) -> None:
        self.owner = owner

    def __enter__(self) -> None:
        self.outside = torch.get_rng_state()
        torch.set_rng_state(self.owner._rng)

    def __exit__(self, *_: object) -> None:
        self.owner._rng = torch.get_rng_state()
        torch.set_rng_state(self.outside)


def _fresh_rng(seed: int) -> Tensor:
    return torch.Generator().manual_seed(seed).get_state()


def auxiliary_loss(modules: Iterable[nn.Module]) -> Tensor | None:
    """The sum of the losses that mechanisms have of their own; None where there is none."""
    own: list[Any] = [module.auxiliary for module in modules if getattr(module, "auxiliary", None) is not None]
    return reduce(torch.add, own) if own else None
