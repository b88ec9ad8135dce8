"""Experts that keep company: which serve the same tokens, more often than they would by chance."""

import math
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from explorer import metrics
from explorer.analyses.held import Tokens, experts
from explorer.errors import BadValue
from explorer.metrics.matching import co_assignment
from explorer.metrics.spread import lift
from explorer.recording import Recording

if TYPE_CHECKING:
    import pandas as pd

COLUMNS = ["layer", "a", "b", "together", "lift"]


def company(rec: Recording, layer: str) -> Tensor:
    """(E, E) float64 lift N N_ab / (N_a N_b): how much more often two experts serve one token than by chance (1).

    Symmetric; NaN on the diagonal and for an expert that no token used. See metrics.co_activation_lift.
    """
    together, alone, tokens = _meetings(Tokens(rec), layer)
    return lift(together.double(), alone.double(), tokens)


def pairs(rec: Recording, most: int = 100, least: int | None = None) -> "pd.DataFrame":
    """layer, a, b (a < b), together (tokens that both served), lift: the pairs of all layers, highest lift first.

    least=None: only pairs that met so often that, of as many independent pairs, less than one would (Chernoff's bound for
    a Poisson number), so that rare pairs do not lead by chance; neighbouring tokens are alike, so that it is a low bar, and
    a short text may still have no pair above it. least=n: every pair that met n times.
    """
    import pandas as pd

    for name, value, low in (("most", most, 0), ("least", 1 if least is None else least, 1)):
        if isinstance(value, bool) or not isinstance(value, int) or value < low:
            raise BadValue(f"{name}={value!r}: it must be a whole number of at least {low}")
    tokens = Tokens(rec)
    if tokens.layers and not tokens.steps:
        raise tokens.missing("this recording")
    sizes = [experts(rec, layer) for layer in tokens.layers]
    surprise = math.log(max(1, sum(E * (E - 1) // 2 for E in sizes)))
    found = [_best(tokens, layer, most, least, surprise) for layer in tokens.layers]
    parts = [part for part in found if len(part)]
    table = pd.concat(parts, ignore_index=True) if parts else pd.DataFrame(columns=COLUMNS)
    return table.sort_values(["lift", "together"], ascending=False, kind="stable").head(most).reset_index(drop=True)


def _meetings(tokens: Tokens, layer: str) -> tuple[Tensor, Tensor, int]:
    """Tokens that both experts served (E, E) and each (E,), as int64; and how many tokens had any expert."""
    index, E = tokens.index(layer).flatten(0, 1), experts(tokens.rec, layer)
    K, some = index.shape[1], int((index >= 0).any(1).sum())
    alone = metrics.counts(index, E)
    if K > 16:  # so many pairs of slots are counted both ways round, by a faster way
        return co_assignment(index, index, E, E), alone, some
    first, second = torch.triu_indices(K, K, 1)
    slots_KN = index.T.int().contiguous()
    met = co_assignment(slots_KN[first].view(-1, 1), slots_KN[second].view(-1, 1), E, E)
    return met + met.T, alone, some


def _best(tokens: Tokens, layer: str, most: int, least: int | None, surprise: float) -> Any:
    """The pairs of one layer, at most `most`, as a table."""
    import pandas as pd

    together, alone, N = _meetings(tokens, layer)
    E = len(alone)
    a, b = torch.triu_indices(E, E, 1)
    met, by_chance = together[a, b], alone[a].double() * alone[b] / max(1, N)
    enough = evidence(met, by_chance) > surprise if least is None else met >= least
    a, b, met, by_chance = a[enough], b[enough], met[enough], by_chance[enough]
    found = met / by_chance
    order = found.argsort(descending=True, stable=True)[:most]
    columns = (a[order], b[order], met[order], found[order])
    return pd.DataFrame({"layer": layer, **dict(zip(COLUMNS[1:], (one.numpy() for one in columns), strict=True))})


def evidence(seen: Tensor, expected: Tensor) -> Tensor:
    """How surprising a count is that is above a Poisson expectation: -ln of Chernoff's bound of P(at least as many).

    x ln(x / m) - x + m, in nats; 0 where the count is not above it.
    """
    x, m = seen.double(), expected.double()
    return torch.where(x > m, torch.xlogy(x, x / m) - x + m, 0.0)
