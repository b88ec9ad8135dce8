"""Where tokens went: load maps, utilisation, a token's path, how sure each decision was; and which experts keep company.

All held steps of a recording count together, prefill and decode alike, unless a step or a phase is chosen.
"""

import math
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from explorer import metrics
from explorer.analyses.company import company, pairs
from explorer.analyses.held import PHASES, Tokens, experts, only, phases
from explorer.errors import BadValue, RecordingError, unknown
from explorer.recording import Recording

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["company", "load_map", "margins", "pairs", "path", "phase", "select", "utilisation"]

ROWS = 2**22  # numbers worked on at once
SPREAD = ("min", "p10", "median", "p90", "max")


def select(rec: Recording, step: int | None = None, phase: str | None = None) -> Recording:
    """Only one step, or only the steps of one phase, as a recording that shares its tensors: for every analysis here.

    Of a training run, `select(rec, step=rec.step)` is the newest step; its tensors are held if it was one that keeps them.
    """
    named = _phases(rec)
    if phase is not None and phase not in PHASES:
        raise unknown("phase", str(phase), PHASES)
    if step is not None and step not in named:
        some = [str(one) for one in list(named)[:20]] + (["..."] if len(named) > 20 else [])
        raise RecordingError(f"no step {step} in this recording; it has: {', '.join(some) or 'none'}")
    return only(rec, lambda one: step in (None, one) and phase in (None, named.get(one)))


def phase(rec: Recording) -> "pd.DataFrame":
    """step, phase, tokens: of every recorded step.

    phase: "prefill" (later steps go on with its texts), "decode" (goes on itself, or begins inside a text), "whole"
    (neither, or both at once, or not known). tokens: the real ones; NaN where a step's tensors are not held.
    """
    import pandas as pd

    tokens = Tokens(rec)
    counted = {step: float(tokens.grid.cut(tokens.valid, step).sum()) for step in tokens.steps}
    named = _phases(rec)
    return pd.DataFrame(
        {"step": list(named), "phase": list(named.values()), "tokens": [counted.get(step, math.nan) for step in named]}
    )


def load_map(
    rec: Recording, where: Tensor | None = None, *, step: int | None = None, phase: str | None = None
) -> tuple[list[str], Tensor]:
    """(layers, LE float64): each expert's share of its layer's assignments; rows sum to 1, NaN behind the last expert.

    where: bool (B, T), only these tokens, of the held steps; without it every recorded step counts, held or not. step,
    phase: only these steps (and `where` is of their tokens then). A row of NaN where nothing was assigned.
    """
    if step is not None or phase is not None:
        rec = select(rec, step, phase)
    layers = rec.layers()
    if where is None:
        counts = [rec.counts(layer)[1].sum(0) for layer in layers]
    else:
        tokens = Tokens(rec)
        counts = [_counted(tokens, layer, where) for layer in layers]
    if not layers:
        return [], torch.zeros(0, 0, dtype=torch.float64)
    rows = [metrics.load_fraction(count.double()) for count in counts]
    return layers, torch.nn.utils.rnn.pad_sequence(rows, batch_first=True, padding_value=torch.nan)


def utilisation(rec: Recording) -> "pd.DataFrame":
    """layer, experts, min, p10, median, p90, max, dead, effective, token_entropy, margin: one row a layer.

    min .. max: percentiles over the experts of load over fair share (1: its fair share, 0: idle). dead: how many experts
    have less than 1 % of it. effective: how many experts with even load would be as spread, 1 .. experts.
    token_entropy (0 sure .. 1 even) and margin (probability) are means over the tokens, NaN where no scores were recorded.
    """
    import pandas as pd

    rows = []
    for layer in rec.layers():
        steps, counts_SE = rec.counts(layer)
        counts = counts_SE.sum(0)
        spread = metrics.utilisation_percentiles(counts).tolist()
        dead = float(metrics.dead_experts(counts)) * len(counts)
        row = {"layer": layer, "experts": len(counts), **dict(zip(SPREAD, spread, strict=True))}
        row |= {"dead": 0 if math.isnan(dead) else round(dead), "effective": float(metrics.effective_experts(counts))}
        entropy, margin = _sureness(rec, layer, steps)
        rows.append(row | {"token_entropy": entropy, "margin": margin})
    return pd.DataFrame(rows, columns=["layer", "experts", *SPREAD, "dead", "effective", "token_entropy", "margin"])


def path(rec: Recording, sequence: int, position: int) -> "pd.DataFrame":
    """layer, slot, expert, weight (NaN where not recorded) of one token, in the order of the layers; empty slots left out.

    position: the token's own place in its text, which differs from its column on the grid where the padding is on the left
    (where an engine's many small passes stand in one row, it is the column). Layers that work on tokens of their own
    (parts of an image) are left out.
    """
    import pandas as pd

    tokens = Tokens(rec)
    if not tokens.steps:
        raise tokens.missing("this recording" if tokens.layers else "an empty recording")
    column = _column(tokens, sequence, position)
    rows = []
    for layer in tokens.layers:
        index = tokens.of(layer, "index", -1)
        if index is None or index.shape[:2] != tokens.grid.shape:
            continue
        weights = tokens.of(layer, "weights", 0)
        known = weights is not None and weights.shape == index.shape
        for slot, expert in enumerate(index[sequence, column].tolist()):
            if expert >= 0:
                weight = float(weights[sequence, column, slot]) if known and weights is not None else math.nan
                rows.append((layer, slot, expert, weight))
    return pd.DataFrame(rows, columns=["layer", "slot", "expert", "weight"])


def margins(rec: Recording, layer: str) -> Tensor:
    """(B, T) float32: probability of the last chosen expert minus that of the best left out; NaN for padding.

    0: a tie; negative where something besides the probability decided (a bias, groups, capacity); inf where no expert is
    left out. NaN too for a token that no expert took.
    """
    tokens = Tokens(rec)
    index, probs = tokens.index(layer), tokens.need(layer, "probs", 0)
    if probs.shape[:2] != index.shape[:2]:
        raise RecordingError(
            f"the probs of {layer} are of {probs.shape[0]} x {probs.shape[1]} tokens, its choices are not"
        )
    size = max(1, ROWS // probs.shape[-1])
    parts = zip(index.flatten(0, 1).split(size), probs.flatten(0, 1).split(size), strict=True)
    return torch.cat([_margin(*part) for part in parts]).view(index.shape[:2])


def _margin(index_NK: Tensor, probs_NE: Tensor) -> Tensor:
    """(N,) of rows."""
    index_NK, probs_NE = index_NK.long(), probs_NE.float()
    chosen = index_NK >= 0
    last = probs_NE.gather(1, index_NK.clamp(min=0)).masked_fill(~chosen, torch.inf).amin(1)
    rest = torch.cat([probs_NE.new_zeros(len(probs_NE), 1), probs_NE], 1)  # column 0 is for the empty slots
    rest[:, 0] = -torch.inf
    best = rest.scatter_(1, index_NK + 1, -torch.inf).amax(1)
    return torch.where(chosen.any(1), last - best, torch.nan)


def _phases(rec: Recording) -> dict[int, str]:
    """Of every recorded step, in order."""
    known = phases(rec, Tokens(rec))
    counted = {int(step) for layer in rec.layers() for step in rec.counts(layer)[0]}
    return {step: known.get(step, "whole") for step in sorted({*counted, *rec.steps()})}


def _counted(tokens: Tokens, layer: str, where: Tensor) -> Tensor:
    """(E,) assignments of the tokens where `where` is true."""
    index = tokens.on_grid(layer, "the load of some tokens")
    if where.dtype != torch.bool or where.shape != index.shape[:2]:
        raise BadValue(
            f"where must be bool {tuple(index.shape[:2])}, the tokens of the recording, not {where.dtype} {tuple(where.shape)}"
        )
    return metrics.counts(index[where], experts(tokens.rec, layer))


def _sureness(rec: Recording, layer: str, steps: Tensor) -> tuple[float, float]:
    """(token entropy, margin): means over the steps, each with the weight of its slots."""
    series = rec.series["routing"].get(layer)
    if series is None or not series.size:
        return math.nan, math.nan
    slots = rec.series["loads"][layer].rows()[:, 1:].sum(1)
    rows = series.rows()
    at = torch.searchsorted(steps.contiguous(), rows[:, 0].long().contiguous()).clamp(max=len(steps) - 1)
    weight = torch.where(steps[at] == rows[:, 0].long(), slots[at], 0.0)
    return _mean(rows[:, 1], weight), _mean(rows[:, 2], weight)


def _mean(values: Tensor, weight: Tensor) -> float:
    """Weighted; values that are NaN (a step without tokens) do not count."""
    known = ~values.isnan() & (weight > 0)
    return float((values[known] * weight[known]).sum() / weight[known].sum())


def _column(tokens: Tokens, sequence: int, position: int) -> int:
    """Of a token on the grid."""
    B, T = tokens.grid.shape
    if not 0 <= sequence < B:
        raise BadValue(f"sequence={sequence}: the recording has {B}, 0 to {B - 1}")
    place = tokens.tap("/position", -1)
    places = torch.arange(T) if place is None else place[sequence]
    places = places.masked_fill(~tokens.valid[sequence], -1)
    if B == 1 and len(tokens.steps) > 1 and not all(one.goes_on for one in list(tokens.grid.places.values())[1:]):
        places = torch.arange(T)  # many texts in one row, where a place of their own is no name
    found = (places == position).nonzero() if position >= 0 else places[:0]
    if not len(found):
        real = places[places >= 0]
        has = f"it has {int(real.min())} to {int(real.max())}" if len(real) else "it has none"
        raise BadValue(f"position={position}: sequence {sequence} has no such token; {has}")
    return int(found[0])
