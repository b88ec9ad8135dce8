"""An Experiment: a mechanism in a tiny host on a toy task, with a seed. It can be stepped, forked, counted and matched."""

import copy
import math
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from explorer.catalogue import Knob, Spec, build, spec
from explorer.counting import Count, count
from explorer.errors import BadValue, Diverged, unknown
from explorer.models import Experts, LanguageModel, MixtureOfExperts, VectorModel
from explorer.recording import Recorder, Recording, record
from explorer.tasks import Batch, task as find_task
from explorer.training.adamw import AdamW, Group

if TYPE_CHECKING:
    import pandas as pd

# The host and its training. A mechanism's own knobs come first where a name is in both.
SETTINGS = {
    "layers": Knob(2, "how many blocks", low=1, high=16),
    "d_model": Knob(64, "width of the model", low=8, high=1024),
    "heads": Knob(4, "attention heads", low=1, high=32),
    "expert_width": Knob(64, "hidden width of an expert, or of the feed-forward network", low=1, high=8192),
    "attention": Knob("softmax-attention", "the mechanism in the attention socket"),
    "feed_forward": Knob("glu", "the mechanism in the feed-forward socket, or none"),
    "tied": Knob(True, "the output head shares the embedding's weights"),
    "kernel": Knob("auto", "how experts are computed", choices=("auto", "grouped_mm", "loop", "dense")),
    "batch": Knob(8, "sequences (or 32 points each) a step", low=1, high=1024, live=True),
    "learning_rate": Knob(3e-3, "of AdamW, after the warm-up", low=0, high=10, live=True),
    "router_rate": Knob(1.0, "the router's learning rate as a multiple of the others'", low=0, high=1000),
    "router_scale": Knob(1.0, "multiplies the router's initial weights", low=0, high=100),
    "warmup": Knob(20, "steps over which the learning rate rises", low=0, high=100_000),
    "horizon": Knob(0, "steps over which it falls to a tenth along a cosine (0: it stays)", low=0, high=10_000_000),
    "clip": Knob(1.0, "largest gradient norm (0: no limit)", low=0, high=1e9, live=True),
    "weight_decay": Knob(0.0, "of AdamW", low=0, high=10),
}
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
        **knobs: Any,
    ) -> None:
        if isinstance(seed, bool) or not isinstance(seed, int) or not 0 <= seed < 2**32:
            raise BadValue(f"seed={seed!r}: it must be a whole number from 0 to 4294967295")
        if match not in (None, "parameters", "flops"):
            raise BadValue(f"match={match!r}: it must be 'parameters', 'flops' or None")
        self.spec, self.task, self.seed, self.device = spec(mechanism), find_task(task), seed, torch.device(device)
        self.knobs, self.settings = split(self.spec, knobs)
        self.given = dict(knobs)
        self.data = self.task.build(seed)
        if match is not None:
            self.given |= {width_knob(self.spec): matched_width(self, match)}
            self.knobs, self.settings = split(self.spec, self.given)
        self._rng = _fresh_rng(seed)
        with self._own_randomness():
            self.model = assemble(self.spec, self.knobs, self.settings, self.data).to(self.device)
        self.optimizer = AdamW(groups(self.model, self.spec, self.settings), betas=(0.9, 0.99))
        self.step = 0
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
        with self._own_randomness():
            self.model.train()
            outputs = self.model(batch.inputs)
        loss = self.data.loss(outputs, batch)
        auxiliary = auxiliary_loss(self.model)
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
            self.recorder.recording.annotate("/labels", "B T" if batch.labels.ndim == 2 else "B", batch.labels, self.step)
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
                raise BadValue(f"{name} cannot change in the middle of a run: it shapes the model or its start; reset first")
        self.knobs, self.settings = split(self.spec, {**self.knobs, **self.settings, **changes})
        for module in self.model.modules():
            if isinstance(module, self.spec.cls):
                for name, value in self.knobs.items():
                    setattr(module, name, value)
        self.given |= changes
        for name, value in changes.items():
            if self.recorder is not None:
                self.recorder.recording.event(f"{name}={value}")

    def fork(self, **changes: Any) -> "Experiment":
        """A copy of the run at this step, with its own model, optimizer, randomness and recording, and live knobs changed."""
        twin = copy.copy(self)
        twin.model, twin.optimizer = copy.deepcopy((self.model, self.optimizer))
        twin.knobs, twin.settings, twin.given = dict(self.knobs), dict(self.settings), dict(self.given)
        twin._rng, twin._history = self._rng.clone(), list(self._history)
        if self.recorder is not None:
            twin.model._forward_hooks.clear()  # of the recorder that still listens to the original
            taken = self.recorder.recording.copy()
            old = self.recorder
            twin.recorder = Recorder(twin.model, self._watch or "*", old.every, taken.keep, old.tensors_every, taken, old.next_step)
            taken.event(f"forked at step {self.step}")
            twin.recorder.start()
        twin.set(**changes)
        return twin

    def examine(self, batch: Batch | None = None, watch: str | list[str] = "*") -> tuple[float, Recording]:
        """(loss, recording) of the model as it is now on the held-out data (or a batch); the run itself notices nothing."""
        batch = self._to_device(self.data.held_out() if batch is None else batch)
        training = self.model.training
        self.model.eval()
        try:
            with self._aside(), torch.no_grad(), record(self.model, watch, keep=1) as seen:
                loss = self.data.loss(self.model(batch.inputs), batch).item()
        finally:
            self.model.train(training)
        seen.annotate("/labels", "B T" if batch.labels.ndim == 2 else "B", batch.labels, 0)
        return loss, seen

    def count(self) -> Count:
        """Parameters (all, and active for a token) and active FLOPs a token."""
        return count(self.model, getattr(self.task, "sequence", 1))

    def recipe(self) -> dict[str, Any]:
        """The arguments that make this very experiment again."""
        return {"mechanism": self.spec.name, "task": self.task, "seed": self.seed, **self.given}

    def close(self) -> None:
        """Stop recording: the model is left as if nobody had ever watched."""
        if self.recorder is not None:
            self.recorder.stop()

    # -- its own business ------------------------------------------------------------------------------------------
    def _to_device(self, batch: Batch) -> Batch:
        return batch if self.device.type == "cpu" else Batch(*(part.to(self.device) for part in batch))

    def _own_randomness(self) -> "_Randomness":
        return _Randomness(self)

    def _aside(self) -> Any:
        from contextlib import nullcontext

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


def split(card: Spec, knobs: dict[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """(the mechanism's knobs, the host's settings), complete and checked; an unknown name is an error."""
    for name in knobs:
        if name not in card.knobs and name not in SETTINGS:
            raise unknown(f"knob of {card.name}", name, [*card.knobs, *SETTINGS])
    own = card.check({name: value for name, value in knobs.items() if name in card.knobs})
    settings = {
        name: knob.check(name, knobs.get(name, knob.default) if name not in card.knobs else knob.default)
        for name, knob in SETTINGS.items()
    }
    return own, settings


def auxiliary_loss(model: nn.Module) -> Tensor | None:
    """The sum of the losses that mechanisms have of their own, over all layers; None where there is none."""
    own = [m.auxiliary for m in model.modules() if getattr(m, "auxiliary", None) is not None]
    return sum(own[1:], own[0]) if own else None


def assemble(card: Spec, knobs: dict[str, Any], settings: dict[str, Any], data: Any) -> nn.Module:
    """The host that suits the data, with the mechanism in its socket and the settings' mechanisms in the others."""
    d_model = settings["d_model"]
    if data.kind == "vectors":
        if card.slot == "attention":
            raise BadValue(f"{card.name} attends over positions: choose a task of tokens, such as 'text'")
        ffn = _feed_forward(card, knobs, settings, data.width, linear=True)
        return VectorModel(ffn)
    layers = []
    for _ in range(settings["layers"]):
        if card.slot == "attention":
            attention = build(card.name, d_model=d_model, **knobs)
            other = settings["feed_forward"]
            ffn = None if other == "none" else _other(other, "feed-forward", d_model, {"width": settings["expert_width"]})
        else:
            attention = _other(settings["attention"], "attention", d_model, {"n_heads": settings["heads"]})
            ffn = _feed_forward(card, knobs, settings, d_model)
        layers.append((attention, ffn))
    return LanguageModel(data.vocab, d_model, layers, tied=settings["tied"])


def _feed_forward(card: Spec, knobs: dict[str, Any], settings: dict[str, Any], d_model: int, linear: bool = False) -> nn.Module:
    module = build(card.name, d_model=d_model, **knobs)
    if card.slot != "router":
        return module
    with torch.no_grad():
        for weight in module.parameters():
            weight *= settings["router_scale"]
    n_experts = int(getattr(module, "n_experts"))  # noqa: B009 (nn.Module's attributes are untyped)
    width, activation = (None, "linear") if linear else (settings["expert_width"], "swiglu")
    scale = (2 * settings["layers"]) ** -0.5  # the residual stream keeps its variance over depth, as in GPT-2
    return MixtureOfExperts(module, Experts(d_model, n_experts, width, activation, kernel=settings["kernel"], out_scale=scale))


def _other(name: str, slot: str, d_model: int, known: dict[str, Any]) -> nn.Module:
    """The mechanism that fills a socket the experiment is not about, with those of the host's sizes it has knobs for."""
    card = spec(name)
    if card.slot != slot:
        raise BadValue(f"{name} is a {card.slot} mechanism: it does not fit the {slot} socket")
    return build(name, d_model=d_model, **{key: value for key, value in known.items() if key in card.knobs})


def groups(model: nn.Module, card: Spec, settings: dict[str, Any]) -> list[Group]:
    """Parameter groups: routers apart (their own rate), norms and single vectors without weight decay."""
    routers = {id(p) for m in model.modules() if isinstance(m, MixtureOfExperts) for p in m.router.parameters()}
    sorted_: dict[tuple[bool, bool], list[Tensor]] = {}
    for p in model.parameters():
        sorted_.setdefault((id(p) in routers, p.ndim > 1), []).append(p)
    return [
        Group(params, settings["router_rate"] if router else 1.0, settings["weight_decay"] if matrix else 0.0)
        for (router, matrix), params in sorted_.items()
    ]


DEFAULTS = {"router": "topk-softmax", "attention": "softmax-attention", "feed-forward": "glu"}  # what `match` compares with


def width_knob(card: Spec) -> str:
    """The knob that `match` turns: a feed-forward mechanism's own width, else that of the host."""
    return "width" if "width" in card.knobs else "expert_width"


def matched_width(experiment: "Experiment", match: str, target: float | None = None) -> int:
    """The width at which the host's parameters or active FLOPs come nearest to `target`.

    Without a target: to those of the same host with the default mechanism in the socket.
    """
    card, settings, data = experiment.spec, experiment.settings, experiment.data
    T = getattr(experiment.task, "sequence", 1)

    def size(one: Spec, knobs: dict[str, Any], width: int) -> float:
        knobs = {**knobs, "width": width} if "width" in one.knobs else knobs
        with torch.device("meta"):
            return float(getattr(count(assemble(one, knobs, {**settings, "expert_width": width}, data), T), match))

    if target is None:
        default = spec(DEFAULTS[card.slot])
        shared = {name: value for name, value in experiment.knobs.items() if name in default.knobs and name != "aux_loss"}
        target = size(default, default.check(shared), settings["expert_width"])
    low, high = 1, 8192
    if not size(card, experiment.knobs, low) <= target <= size(card, experiment.knobs, high):
        raise BadValue(f"{card.name} cannot be matched by its feed-forward width: {match} would have to be {target:g}")
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if size(card, experiment.knobs, middle) <= target else (low, middle)
    return min((low, high), key=lambda width: abs(size(card, experiment.knobs, width) - target))
