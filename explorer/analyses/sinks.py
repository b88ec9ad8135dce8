"""Attention sinks of a recording: emergent (on the first token) and learned (on no token at all), told apart."""

from typing import TYPE_CHECKING

from explorer.errors import BadValue, RecordingError
from explorer.recording import Recording

if TYPE_CHECKING:
    import pandas as pd


def sinks(rec: Recording) -> "pd.DataFrame":
    """layer, head, emergent, learned, entropy: one row a head, means over the recorded steps.

    emergent: share of the attention that the first token got (0 .. 1; even attention over T tokens gives about ln(T) / T).
    learned: share that no token got (0 for plain softmax, NaN where it was not watched). entropy: of a query's row, in nats.
    """
    table = rec.attention()
    if table.empty and rec.layers():
        raise RecordingError(
            "this recording holds no attention: trace with attention=True, or record with '*' or '*/first'"
        )
    columns = {"first_token_share": "emergent", "elsewhere": "learned", "entropy": "entropy"}
    mean = table.groupby(["layer", "head"], sort=False)[list(columns)].mean()
    return mean.rename(columns=columns).reset_index()


def rate(rec: Recording, eps: float = 0.3) -> "pd.DataFrame":
    """layer, emergent, learned: share of the layer's heads whose sink of that kind is above eps, 0 .. 1.

    NaN where it was not watched in any head. Sink rates depend on the length of the texts: arXiv 2410.10781 takes 64 tokens
    and eps = 0.3, and averages over the first query too, which is left out here.
    """
    if isinstance(eps, bool) or not isinstance(eps, int | float) or not 0 <= eps <= 1:
        raise BadValue(f"eps={eps!r}: it must be a share from 0 to 1")
    table = sinks(rec)
    kinds = table[["emergent", "learned"]].astype("float64")
    above = (kinds > eps).astype("float64").where(kinds.notna())
    above.insert(0, "layer", table["layer"])
    return above.groupby("layer", sort=False).mean().reset_index()
