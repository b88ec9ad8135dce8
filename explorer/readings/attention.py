"""Readings of attention: where it goes when there is nothing to look for, and what its gates know.

The queries that count are those with nothing to look for (label 0), from the 8th token on: earlier ones see too few keys
to be told from a sink. Heads are those of all layers.
"""

import math

import torch
from torch import Tensor

from explorer import metrics
from explorer.readings.run import Run, reads
from explorer.recording import Recording
from explorer.taps import edit
from explorer.tasks import UNSCORED, Batch

SETTLED = 8
EVICTED_FROM, SCORED_FROM = 3, 10  # the first queries keep what they have little else beside


def _maps(run: Run) -> tuple[list[Tensor], Tensor]:
    """The map (B, H, T, S) of each layer, and which queries (B, T) have nothing to look for."""
    seen = run.experiment.examine(watch="*/attention")[1]
    return _taps(seen, "attention"), seen.last("/labels") == 0


def _taps(seen: Recording, name: str) -> list[Tensor]:
    return [seen.last(path) for path in seen.paths() if path.endswith(f"/{name}")]


# -- sinks -----------------------------------------------------------------------------------------------------------------


@reads()
def sink_share(run: Run) -> float:
    """Attention on the first token by the queries with nothing to look for: the strongest head's."""
    maps, idle = _maps(run)
    return max(metrics.first_token_share(one, skip=SETTLED, valid=idle).max().item() for one in maps)


@reads()
def proxy_sink_share(run: Run) -> float:
    """As `sink_share`, each row of the map divided by its sum first: for attention without normalisation."""
    maps, idle = _maps(run)
    rows = (metrics.proxy_scores(one) for one in maps)
    return max(metrics.first_token_share(one, skip=SETTLED, valid=idle).max().item() for one in rows)


@reads()
def mass_on_nothing(run: Run) -> float:
    """What the map's rows lack of one, of the queries with nothing to look for: the weakest head's. 0 for plain softmax."""
    maps, idle = _maps(run)
    late = idle & (torch.arange(idle.shape[1]) >= SETTLED)
    return min((1 - one.sum(-1)).transpose(1, 2)[late].mean(0).min().item() for one in maps)


@reads()
def sink_rate(run: Run) -> float:
    """Share of the heads whose first token receives more than 0.3 of the attention (Sink_1 of arXiv:2410.10781)."""
    first = [one[..., 0] for one in _taps(run.look()[1], "received")]
    return metrics.sink_rate(torch.stack(first)).item()


@reads()
def first_value(run: Run) -> float:
    """The norm of the first token's value over the mean of the others': the smallest of all heads."""
    ratios = [one[..., 0].mean(0) / one[..., 1:].mean((0, 2)) for one in _taps(run.look()[1], "values")]
    return torch.stack(ratios).min().item()


@reads()
def eviction_cost(run: Run) -> float:
    """Loss, in nats a token, of a trained softmax model that may no longer see the first token: what the sink is worth."""
    return _eviction_cost(run, 0)


@reads()
def eviction_cost_of_another(run: Run) -> float:
    """The same for the fourth token, which is nothing special."""
    return _eviction_cost(run, 3)


def _eviction_cost(run: Run, key: int) -> float:
    inputs, targets, labels = run.experiment.data.held_out()
    targets = targets.clone()
    targets[:, :SCORED_FROM] = UNSCORED
    batch = Batch(inputs, targets, labels)

    def evicted(map_BHTS: Tensor) -> Tensor:
        """The weights of the other keys, as the softmax would have them without this one."""
        late = torch.arange(map_BHTS.shape[2], device=map_BHTS.device)[:, None] >= max(EVICTED_FROM, key + 1)
        is_key = torch.arange(map_BHTS.shape[3], device=map_BHTS.device) == key
        rest = (1 - map_BHTS[..., key : key + 1]).clamp(min=1e-6)
        return torch.where(late, (map_BHTS / rest).masked_fill(is_key, 0.0), map_BHTS)

    with edit(run.experiment.model, "*/attention", evicted):
        without = run.experiment.examine(batch)[0]
    return without - run.experiment.examine(batch)[0]


# -- gates -----------------------------------------------------------------------------------------------------------------


def _gates(run: Run) -> tuple[list[Tensor], Tensor]:
    """Each head's gate (B, T), a mean over its channels, and the labels (B, T), both from the 8th token on."""
    seen = run.look()[1]
    paths = [path for path in seen.paths() if path.endswith("/gate") and seen.header["axes"][path] == "B T H d"]
    heads = [gate.contiguous() for path in paths for gate in seen.last(path)[:, SETTLED:].mean(-1).unbind(-1)]
    return heads, seen.last("/labels")[:, SETTLED:].contiguous()


@reads()
def gate_auc(run: Run) -> float:
    """How well an attention gate tells tokens of label 1 from the others (0.5: not at all, 1: always): the worst head's."""
    heads, labels = _gates(run)
    return min((metrics.gate_auc(gate, labels).item() for gate in heads), default=math.nan)


@reads()
def gate_when_idle(run: Run) -> float:
    """Mean gate at tokens with nothing to look for: the most open head's."""
    heads, labels = _gates(run)
    return max((gate[labels == 0].mean().item() for gate in heads), default=math.nan)


@reads()
def gate_when_needed(run: Run) -> float:
    """Mean gate at tokens of label 1: the most shut head's."""
    heads, labels = _gates(run)
    return min((gate[labels == 1].mean().item() for gate in heads), default=math.nan)
