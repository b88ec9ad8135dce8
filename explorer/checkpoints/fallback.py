"""The trace of a checkpoint that is not streamed: transformers runs it, and explorer.record listens.

As many windows are run at once as make some thousand tokens; what was heard of them is put together by layer at the end.
"""

import inspect
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from explorer.checkpoints.files import CheckpointError
from explorer.checkpoints.layouts import LAYER
from explorer.checkpoints.loading import first_line, load, needs_disk, place_of, quiet, scratch
from explorer.checkpoints.streaming.engine import LayerDone, Progress
from explorer.checkpoints.tokens import Windows
from explorer.errors import ExplorerError, RecordingError

if TYPE_CHECKING:
    from explorer.checkpoints.checkpoint import Checkpoint
    from explorer.checkpoints.trace import Run, Wanted
    from explorer.recording import Recording

AT_ONCE = 4096  # tokens of one forward pass, padding included
RATE = 200e6  # bytes a second that loading takes at least, for the estimate alone
DECISIONS = ("index", "weights", "logits", "probs")
STATISTICS = ("first", "elsewhere", "entropy", "received")


class Stopped(Exception):
    """Leaves a forward pass that is under way."""


class Clock(NamedTuple):
    """Tells how far it is, and asks whether to go on. `size`: bytes of the weights."""

    wanted: "Wanted"
    size: int
    began: float

    def loading(self, how: str) -> None:
        """It begins."""
        self._tell(0, 0, self.size, self.size / RATE, how)

    def running(self, layer: int, layers: int, share: float, what: str) -> None:
        """share: how much of all forward passes is done; `began` is when the first did."""
        seconds = time.perf_counter() - self.began
        self._tell(layer, layers, 0, seconds * (1 - share) / share if share else self.size / RATE, what)

    def _tell(self, layer: int, layers: int, left: int, seconds_left: float, what: str) -> None:
        if self.wanted.progress is not None:
            seconds = time.perf_counter() - self.began
            self.wanted.progress(Progress(layer, layers, self.size - left, left, seconds, seconds_left, what))

    def stopped(self) -> bool:
        """Whether somebody said so."""
        return self.wanted.stop is not None and self.wanted.stop()


class Heard:
    """What one module said in all passes: a router's taps as rows of real tokens, attention's as rows of windows.

    sums: (tokens, entropy, margin) of each pass.
    """

    def __init__(self, experts: int = 0, kind: str = "", about: dict[str, Any] | None = None) -> None:
        self.experts, self.kind, self.about = experts, kind, about or {}
        self.taps: dict[str, list[Tensor]] = {}
        self.sums: list[tuple[int, float, float]] = []

    def mean(self, column: int) -> float:
        """Over all tokens."""
        return sum(one[0] * one[column] for one in self.sums) / sum(one[0] for one in self.sums)


def run(seen: "Checkpoint", given: Windows, why: str, wanted: "Wanted") -> "Run":
    """Load the model, run all windows, and hand out what was heard, layer by layer."""
    from explorer.checkpoints.trace import Run

    where, on_disk = place_of(seen), needs_disk(seen)
    method = "transformers, layers on disk" if on_disk else "transformers"
    Clock(wanted, seen.weights.bytes, time.perf_counter()).loading(f"loading all of it with {method}: {why}")
    with ExitStack() as stack:
        folder = stack.enter_context(scratch(seen)) if on_disk else None
        stack.enter_context(quiet())
        model = load(seen, where, folder)
        heard, done = _listen(model, given, Clock(wanted, seen.weights.bytes, time.perf_counter()))
        del model
    if not done:
        raise CheckpointError("stopped before the first windows were done")
    covered = given._replace(ids=given.ids[:done], text=given.text[:done], domain=given.domain[:done])
    names = names_in_files(seen, [path for path, one in heard.items() if one.experts], list(heard))
    routed = {names[path]: one for path, one in heard.items() if one.experts}
    return Run(
        method, why, _layers(heard, names, covered.longest, seen.weights.bytes), covered,
        {path: one.about for path, one in routed.items()}, {path: one.experts for path, one in routed.items()},
        {path: one.kind for path, one in routed.items()}, done < len(given.ids),
    )  # fmt: skip


# -- listening ---------------------------------------------------------------------------------------------------------


def _listen(model: Any, given: Windows, clock: Clock) -> tuple[dict[str, Heard], int]:
    """Path -> what was heard there, in the order of the model, and how many windows that covers."""
    from explorer.checkpoints.live import LiveModel
    from explorer.recorder import record

    watched = LiveModel(model)
    insist(watched, clock.wanted.attention)
    taps = {tap for ear in watched.ears.values() for tap in ear.taps}
    wanted = {*DECISIONS, *(STATISTICS if clock.wanted.attention else ())}
    wanted -= set() if clock.wanted.scores else {"logits"}
    patterns = ["/valid", *(f"*/{tap}" for tap in (*DECISIONS, *STATISTICS) if tap in wanted & taps)]
    done, end, heard = 0, 0, dict[str, Heard]()
    with torch.no_grad(), record(model, patterns, keep=1) as recording:
        header = recording.header
        for path, E in header["experts"].items():
            kind = header["scores"].get(f"{path}/probs", "independent").partition(":")[0]
            heard[path] = Heard(E, kind, header["routers"][path])
        with _between(model, list(heard), clock, lambda part: (done + part * (end - done)) / len(given.ids)):
            for end in passes(given):
                try:
                    _pass(model, given.ids[done:end])
                except Stopped:
                    break
                except ExplorerError:
                    raise
                except Exception as error:  # of code of anybody's
                    raise CheckpointError(f"transformers cannot run the model: {first_line(error)}") from error
                _take(heard, recording, clock.wanted.scores)
                done = end
    return {path: one for path, one in heard.items() if one.taps}, done


def insist(watched: Any, attention: bool) -> None:
    """Raise where what is asked for cannot be heard. watched: a LiveModel."""
    for path, (kind, tap) in watched.deaf.items():
        if tap == "index":
            raise CheckpointError(f"{path} ({kind}) routes in a way that is not known here: it cannot be traced")
        if attention:
            raise CheckpointError(f"{path} ({kind}) computes attention in a way of its own: trace it without attention")
    if attention and not any("first" in ear.taps for ear in watched.ears.values()):
        raise CheckpointError("the model has no attention that can be watched: trace it without attention")


def passes(given: Windows) -> Iterator[int]:
    """Behind which windows a forward pass ends: as many at once as AT_ONCE allows, one at least."""
    first, longest = 0, 0
    for i, ids in enumerate(given.ids):
        longest = max(longest, len(ids))
        if i > first and longest * (i + 1 - first) > AT_ONCE:
            yield i
            first, longest = i, len(ids)
    yield len(given.ids)


def _pass(model: Any, ids: list[Tensor]) -> None:
    known = inspect.signature(model.forward).parameters
    more = {name: value for name, value in (("use_cache", False), ("logits_to_keep", 1)) if name in known}
    real = pad_sequence([torch.ones_like(one) for one in ids], batch_first=True)
    model(input_ids=pad_sequence(ids, batch_first=True), attention_mask=real, **more)


@contextmanager
def _between(model: Any, paths: list[str], clock: Clock, share: Callable[[float], float]) -> Iterator[None]:
    """Before each routed layer: tell, and leave the pass where somebody said stop."""
    with ExitStack() as stack:
        for i, path in enumerate(paths):

            def before(*_: Any, i: int = i, path: str = path) -> None:
                clock.running(i, len(paths), share(i / len(paths)), path)
                if clock.stopped():
                    raise Stopped

            stack.callback(model.get_submodule(path).register_forward_pre_hook(before).remove)
        yield


def _take(heard: dict[str, Heard], recording: "Recording", scores: bool) -> None:
    """What the newest pass said."""
    recording.settle()
    valid = recording.last("/valid")
    for name in recording.paths():
        path, tap = name.rsplit("/", 1)
        if not path or (tap in DECISIONS[2:] and not scores):
            continue
        try:
            value = recording.last(name)
        except RecordingError:  # a part for images, say, which no text reaches
            continue
        if path in recording.header["experts"] and tap in DECISIONS:
            if value.shape[:2] != valid.shape:
                raise CheckpointError(f"{path} routes other things than the tokens of the texts: it cannot be traced")
            value = value[valid]
        heard.setdefault(path, Heard()).taps.setdefault(tap, []).append(value)
    for path, series in recording.series["routing"].items():
        _, entropy, margin, _ = series.rows()[-1].tolist()
        heard[path].sums.append((int(valid.sum()), entropy, margin))


# -- what comes of it --------------------------------------------------------------------------------------------------


def names_in_files(seen: "Checkpoint", routed: list[str], paths: list[str]) -> dict[str, str]:
    """Path in memory -> as the files name it, so that recordings of both ways compare.

    Where layers and numbers agree one to one; elsewhere a path stays as it is.
    """
    here, there = {_number(path): path for path in routed}, {block.layer: block.path for block in seen.blocks}
    alike = len(here) == len(routed) and len(there) == len(seen.blocks) and set(here) <= set(there) and None not in here
    if not alike or not here:
        return {path: path for path in paths}
    known = {here[number]: there[number] for number in here}
    stem, other = (_stem(path) for path in next(iter(known.items())))
    return {path: known.get(path, other + path.removeprefix(stem) if path.startswith(stem) else path) for path in paths}


def _number(path: str) -> int | None:
    found = LAYER.search(f"{path}.")
    return None if found is None else int(found[1])


def _stem(path: str) -> str:
    """Of model.layers.3.mlp: model.layers."""
    found = LAYER.search(f"{path}.")
    assert found is not None
    return path[: found.start(1)]


def _layers(heard: dict[str, Heard], names: dict[str, str], longest: int, read: int) -> Iterator[LayerDone]:
    """One after the other, forgotten as soon as it is taken."""
    for i, path in enumerate(list(heard)):
        one = heard.pop(path)
        if one.experts:
            taps = {name: torch.cat(one.taps[name]) for name in DECISIONS if name in one.taps}
            yield LayerDone(
                i, names[path], taps["index"], taps.get("weights"), taps.get("logits"), taps.get("probs"),
                one.mean(1), one.mean(2), {}, "", read,
            )  # fmt: skip
        else:
            maps = {name: torch.cat([_wide(part, longest) for part in parts]) for name, parts in one.taps.items()}
            yield LayerDone(i, None, None, None, None, None, 0.0, 0.0, maps, names[path], read)


def _wide(value: Tensor, S: int) -> Tensor:
    """received (B', H, S') of one pass -> (B', H, S), NaN behind; the others (B', H) as they are."""
    return value if value.ndim < 3 else torch.nn.functional.pad(value, (0, S - value.shape[-1]), value=torch.nan)
