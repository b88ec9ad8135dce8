"""Tracing: where a checkpoint sends the tokens of given texts, as a Recording of one step.

A sequence of the recording is a window of a text. The forward pass is streamed from the files layer by layer where the
architecture is known to explorer.checkpoints.streaming, and transformers' own otherwise: the recording looks the same.
"""

import math
import time
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor

from explorer.checkpoints.files import CheckpointError
from explorer.checkpoints.streaming.engine import LayerDone, Progress
from explorer.checkpoints.tokenizer import pieces
from explorer.checkpoints.tokens import Windows, windows_of
from explorer.recording import Recording, Series
from explorer.taps import SCORES

if TYPE_CHECKING:
    from explorer.checkpoints.checkpoint import Checkpoint

METHODS = ("auto", "stream", "transformers")
KEPT = 128 << 20  # bytes of scores that are kept where nobody says
AXES = {
    "index": "B T K", "weights": "B T K", "logits": "B T E", "probs": "B T E",
    "first": "B H", "elsewhere": "B H", "entropy": "B H", "received": "B H S",
}  # fmt: skip
PADDING = {"index": -1, "weights": 0.0, "logits": math.nan, "probs": 0.0}
Tell = Callable[[Progress], None]
Stop = Callable[[], bool]


class Run(NamedTuple):
    """A forward pass, under way while `layers` is read. `windows`: those it covers, which a stopped one may cut.

    routers: path -> {"router": its name, "scores": "softmax" or "sigmoid" (or another word), "shared": experts that every
    token gets}; experts: path -> E; kinds: path -> what its probabilities are, a word of explorer.taps.SCORES.
    """

    method: str
    why: str
    layers: Iterator[LayerDone]
    windows: Windows
    routers: dict[str, dict[str, Any]]
    experts: dict[str, int]
    kinds: dict[str, str]
    cut: bool = False


class Wanted(NamedTuple):
    """What is to be kept, and who is told and asked meanwhile."""

    attention: bool
    scores: bool
    progress: Tell | None
    stop: Stop | None


def trace(
    seen: "Checkpoint",
    texts: str | Sequence[str | bytes] | None = None,
    tokens: Sequence[Sequence[int]] | None = None,
    domains: str | Sequence[str] | None = None,
    *,
    window: int | None = None,
    attention: bool = False,
    scores: bool | None = None,
    method: str = "auto",
    progress: Tell | None = None,
    stop: Stop | None = None,
    memory: int | None = None,
) -> Recording:
    """See Checkpoint.trace."""
    began = time.perf_counter()
    if method not in METHODS:
        raise CheckpointError(f"method = {method!r} should be one of {', '.join(METHODS)}")
    if not seen.blocks:
        raise CheckpointError(f"{seen.name!r} routes nothing to experts: there is nothing to trace")
    given, tokenizer = windows_of(seen, texts, tokens, domains, window)
    keep = _room(seen, given, attention, scores, seen.weights.memory if memory is None else _bytes(memory))
    run = _begin(seen, given, method, Wanted(attention, keep, progress, stop))
    recording = Recording(_header(seen, run, keep))
    read = _collect(recording, seen, run, keep)
    header, windows = recording.header, run.windows
    done = len(header["experts"])
    if done == 0:
        raise CheckpointError("stopped before the first layer was done")
    header["routers"] = {path: about for path, about in run.routers.items() if path in header["experts"]}
    header["scores"] = {name: kind for name, kind in header["scores"].items() if name in header["axes"]}
    header["trace"] = {
        "checkpoint": seen.name, "architecture": seen.architecture, "rule": seen.rule,
        "method": run.method, "why": run.why,
        "window": windows.window, "domains": windows.domains, "domain": windows.domain, "text": windows.text,
        "tokens": windows.tokens, "added": windows.added, "layers": len(run.experts), "done": done,
        "cut": run.cut or done < len(run.experts), "bytes_read": read, "seconds": time.perf_counter() - began,
        "scores_kept": keep, "dtype": "float32",
    }  # fmt: skip
    if tokenizer is not None:
        header["trace"]["vocabulary"] = pieces(tokenizer, torch.cat(windows.ids).unique().tolist())
    return recording


# -- before it begins --------------------------------------------------------------------------------------------------


def _bytes(memory: object) -> int:
    if type(memory) is not int or memory < 1:
        raise CheckpointError(f"memory = {memory!r} should be a whole number of bytes from 1")
    return memory


def _room(seen: "Checkpoint", given: Windows, attention: bool, scores: bool | None, memory: int) -> bool:
    """Whether scores are kept; raises, before anything is read, where not even the decisions fit into memory."""
    places, chosen = len(given.ids) * given.longest, seen.chosen or 1
    each = 17 + sum(12 * min(chosen, block.experts) for block in seen.blocks)
    if attention:
        heads = seen.settings.whole(("num_attention_heads", "n_heads", "n_head"), 1) or 1
        layers = seen.settings.whole(("num_hidden_layers", "n_layers", "n_layer"), 1) or len(seen.blocks)
        each += 4 * heads * layers
    more = 8 * sum(block.experts for block in seen.blocks)
    if scores is None:
        scores = more * places <= KEPT and (each + more) * places <= memory
    need = each + more if scores else each
    if need * places > memory:
        padded = f" (in windows of {given.longest:,}, padding included)" if places > given.tokens else ""
        less = "give fewer, leave the scores out" if scores else "give fewer"
        raise CheckpointError(
            f"a trace of {given.tokens:,} tokens would take {need * places:,} bytes of memory{padded}, and {memory:,} are "
            f"allowed, room for {memory // need:,}: {less} or set another limit (memory=..., --memory)"
        )
    return scores


def _begin(seen: "Checkpoint", given: Windows, method: str, wanted: Wanted) -> Run:
    """Streamed where that can be done, or transformers' way, and why."""
    from explorer.checkpoints import fallback

    why = "asked for (method='transformers')"
    if method != "transformers":
        from explorer.checkpoints.streaming.decoders import recognise

        decoder = recognise(seen.weights)
        if not isinstance(decoder, str):
            return _streamed(seen, decoder, given, wanted)
        if method == "stream":
            raise CheckpointError(f"{seen.name!r} cannot be streamed: {decoder}")
        why = decoder
    return fallback.run(seen, given, why, wanted)


def _streamed(seen: "Checkpoint", decoder: Any, given: Windows, wanted: Wanted) -> Run:
    from explorer.checkpoints.streaming.engine import stream

    if decoder.longest is not None and given.longest > decoder.longest:
        raise CheckpointError(
            f"a window of {given.longest:,} tokens is longer than the {decoder.longest:,} that {seen.name!r} can place"
        )
    routed = [layer.routed for layer in decoder.layers if layer.routed is not None]
    names = {block.path: block.router for block in seen.blocks}
    layers = stream(
        seen.weights, decoder, given.ids,
        attention=wanted.attention, scores=wanted.scores, progress=wanted.progress, stop=wanted.stop,
    )  # fmt: skip
    return Run(
        "streamed", "", layers, given,
        {one.path: {"router": names.get(one.path, ""), "scores": one.score, "shared": list(one.shared)} for one in routed},
        {one.path: one.experts for one in routed},
        {one.path: "probabilities" if one.score == "softmax" else "independent" for one in routed},
    )  # fmt: skip


def _header(seen: "Checkpoint", run: Run, keep: bool) -> dict[str, Any]:
    """As a recording of a live model has it; `axes` grow with the layers that are done."""
    about = {f"{path}/probs": f"{kind}: {SCORES[kind]}" for path, kind in run.kinds.items()}
    logits = {f"{path}/logits": f"logits: {SCORES['logits']}" for path in run.kinds}
    return {
        "axes": {}, "experts": {}, "scores": {**about, **logits} if keep else {}, "events": [],
        "device": "cpu", "dtype": "float32", "threads": torch.get_num_threads(), "kernel": [],
        "model": seen.architecture, "routers": run.routers,
    }  # fmt: skip


# -- what comes of it --------------------------------------------------------------------------------------------------


def _collect(recording: Recording, seen: "Checkpoint", run: Run, keep: bool) -> int:
    """Take in one layer after the other; the number of bytes that were read."""
    header, read = recording.header, 0
    padded = run.windows.padded()
    header["axes"] |= {f"/{name}": "B T" for name in padded}
    recording.add(0, [("", name, value) for name, value in padded.items()], tensors=True)
    valid = padded["valid"]
    for layer in run.layers:
        read = layer.bytes_read
        if layer.path is not None:
            _insist(seen, layer)
            header["experts"][layer.path] = run.experts[layer.path]
            _decisions(recording, layer, valid, keep)
        if layer.attention:
            taps = [(layer.attention_path, name, value) for name, value in layer.attention.items() if name in AXES]
            recording.add(0, taps, tensors=False)
            for path, name, value in taps:
                recording.annotate(f"{path}/{name}", AXES[name], value, 0)
    return read


def _insist(seen: "Checkpoint", layer: LayerDone) -> None:
    """Raise where the numbers are none: every decision after that is chance."""
    parts = [part for part in (layer.weights, layer.logits) if part is not None]
    if all(bool(part.isfinite().all()) for part in parts) and not math.isnan(layer.entropy):
        return
    own = next((block for block in seen.blocks if block.path == layer.path), None)
    bad = 0 if own is None else int((~seen.router(own.path).isfinite()).sum())
    what = f"{bad:,} numbers of its router are NaN or infinite" if bad else (
        "what reaches its router is so already: weights before it are damaged, or too large"
    )  # fmt: skip
    raise CheckpointError(f"the scores of {layer.path} in {seen.name!r} are NaN or infinite: {what}")


def _decisions(recording: Recording, layer: LayerDone, valid: Tensor, keep: bool) -> None:
    """The tensors of a layer, padded, and its rows in the series."""
    path = layer.path
    assert path is not None and layer.index is not None
    index = _spread(layer.index, valid, PADDING["index"])
    recording.add(0, [("", "valid", valid), (path, "index", index)], tensors=False)
    recording.settle()  # what waits to be summed up is a copy
    empty = float((layer.index < 0).double().mean())
    row = torch.tensor([[0.0, layer.entropy, layer.margin, empty]], dtype=torch.float64)
    recording.series["routing"][path] = Series(4, row)
    taps = {"index": index, "weights": layer.weights}
    taps |= {"logits": layer.logits, "probs": layer.probs} if keep else {}
    for name, value in taps.items():
        if value is not None:
            whole = value if name == "index" else _spread(value, valid, PADDING[name])
            recording.annotate(f"{path}/{name}", AXES[name], whole, 0)


def _spread(packed: Tensor, valid: Tensor, padding: float) -> Tensor:
    """Rows of real tokens (N, ...) -> (B, T, ...)."""
    whole = packed.new_full((*valid.shape, *packed.shape[1:]), padding)
    whole[valid] = packed
    return whole
