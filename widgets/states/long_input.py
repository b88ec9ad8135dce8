"""A long input: what every head's sink comes to when the trained model reads thousands of tokens, without a T x T map."""

import copy
import time
from dataclasses import dataclass

import torch
from torch import Tensor

from explorer.errors import BadValue
from explorer.experiment import Experiment
from explorer.recorder import record
from explorer.taps import instrumented
from widgets.states.attention_view import attending, heads

LENGTHS = (512, 2048, 8192)


@dataclass(frozen=True)
class LongLook:
    """received (R, S): what each key receives, of every head; first, elsewhere (R,): emergent and learned sinks.

    map_bytes: what all maps would have taken; kernel: what computed the statistics.
    """

    length: int
    received: Tensor
    first: Tensor
    elsewhere: Tensor
    names: list[str]
    tokens: list[str]
    seconds: float
    map_bytes: int
    kernel: str


def cannot(experiment: Experiment) -> str:
    """Why this run cannot read a long input; "" if it can."""
    if experiment.data.kind != "tokens":
        return "This task's inputs have a fixed length."
    return ""


def frozen(experiment: Experiment) -> torch.nn.Module:
    """The model as it is now, for another thread: training may go on meanwhile."""
    return copy.deepcopy(experiment.model).eval()


def inputs(experiment: Experiment, length: int) -> Tensor:
    """(1, length): held-out sequences one after another, the first token of the first in front."""
    tokens = experiment.data.held_out().inputs
    if length < 2:
        raise BadValue(f"length={length}: a long input has at least 2 tokens")
    row = torch.cat([tokens[0, :1], tokens[:, 1:].reshape(-1)])
    return row.repeat(-(-length // len(row)))[:length][None]


def read(experiment: Experiment, model: torch.nn.Module, length: int) -> LongLook:
    """Run the copied model over a long input, listening to its statistics only."""
    tokens = inputs(experiment, length)
    taps = ["*/received", "*/first", "*/elsewhere"]
    began = time.perf_counter()
    with torch.no_grad(), record(model, taps, keep=1) as seen:
        model(tokens)
    seconds = time.perf_counter() - began
    paths = [path for path, _ in attending(experiment)]
    every = heads(experiment)
    received, first, elsewhere = (
        torch.cat([seen.last(f"{path}/{tap}")[0] for path in paths]) for tap in ("received", "first", "elsewhere")
    )
    kernels = sorted({getattr(one, "kernel", "") for one in instrumented(model).values()} - {""})
    return LongLook(
        length, received, first, elsewhere, [one.name for one in every], experiment.data.decode(tokens[0]), seconds,
        len(every) * length * length * 4, ", ".join(kernels),
    )  # fmt: skip


def sentence(one: LongLook) -> str:
    """What was found, in words."""
    best = int(one.first.nan_to_num(-1).argmax())
    nowhere = float(one.elsewhere.max())
    learned = f"; at most {nowhere:.0%} goes to no token" if nowhere > 0.01 else ""
    return (
        f"{one.length:,} tokens read in {one.seconds:.1f} s: {one.names[best]} gives {float(one.first[best]):.0%} of its "
        f"attention to the first token{learned}. Maps would have taken {_size(one.map_bytes)}; none was made ({one.kernel})."
    )


def _size(count: int) -> str:
    return f"{count / 2**30:.1f} GiB" if count >= 2**30 else f"{count / 2**20:.0f} MiB"
