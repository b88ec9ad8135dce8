"""Single tokens of a recording: the rows of the token strip, and the way of one token through the layers."""

from dataclasses import dataclass

import numpy as np

from widgets.states.checkpoint_view import Place, Seen, Window

TOGETHER, LONGEST = 64, 400  # tokens of a window in the strip: where several are shown, and where it is alone
MOST_ROWS = 6


@dataclass(frozen=True)
class Strip:
    """What the token strip shows: `sequences` of the recording, the first tokens of each; axes L = 1 B T K."""

    sequences: list[int]
    texts: list[list[str]]
    experts: np.ndarray
    weights: np.ndarray
    margins: np.ndarray
    names: list[str]


def strip(seen: Seen, i: int, sequence: int, domain: str = "") -> Strip:
    """One window, or (sequence = -1) the beginnings of the first window of every domain."""
    chosen = _sequences(seen, sequence, domain)
    shortest = min(seen.lengths[b] for b in chosen)
    T = min(shortest, LONGEST if len(chosen) == 1 else TOGETHER)
    layer = seen.layers[i]
    index = seen.recording.last(f"{layer}/index")[chosen, :T].numpy()
    weights = seen.held(f"{layer}/weights")
    weights = np.ones(index.shape) if weights is None else weights[chosen, :T].float().numpy()
    order = np.argsort(np.where(index >= 0, -np.nan_to_num(weights), np.inf), axis=-1, kind="stable")
    index, weights = (np.take_along_axis(one, order, -1)[None] for one in (index, weights))
    margins = seen.margins(i)[chosen, :T][None]
    label = {one.sequence: one.domain or f"sequence {one.sequence}" for one in seen.windows}
    texts = [seen.text(b, T) for b in chosen]
    return Strip(chosen, texts, index, weights, margins, [label[b] for b in chosen])


def _sequences(seen: Seen, sequence: int, domain: str) -> list[int]:
    """The windows of the strip; ones that are much shorter than the others do not cut these."""
    if any(one.sequence == sequence for one in seen.windows):
        return [sequence]
    found: dict[str, Window] = {}
    for one in seen.windows:
        if domain not in seen.domains or one.domain == domain:
            found.setdefault(one.domain or one.label, one)
    enough = [one for one in found.values() if one.length >= 8] or list(found.values())
    return [one.sequence for one in enough[:MOST_ROWS]]


def way(seen: Seen, place: Place) -> tuple[np.ndarray, np.ndarray]:
    """(L, K) experts (-1: empty slot) and weights of one token in every layer."""
    b, t = place
    found = []
    for layer in seen.layers:
        index, weights = seen.recording.last(f"{layer}/index")[b, t], seen.held(f"{layer}/weights")
        found.append((index.numpy(), np.ones(len(index)) if weights is None else weights[b, t].float().numpy()))
    K = max(len(index) for index, _ in found)
    padded = [(_to(K, index, -1), _to(K, weights, 0.0)) for index, weights in found]
    return np.stack([index for index, _ in padded]), np.stack([weights for _, weights in padded])


def probabilities(seen: Seen, place: Place) -> np.ndarray | None:
    """(L, E) of one token, where they were kept and the layers are alike."""
    b, t = place
    rows = [seen.held(f"{layer}/probs") for layer in seen.layers]
    if any(row is None or row.ndim != 3 for row in rows) or len({row.shape[-1] for row in rows}) != 1:
        return None
    return np.stack([row[b, t].float().numpy() for row in rows])


def _to(length: int, values: np.ndarray, filling: float) -> np.ndarray:
    return np.concatenate([values, np.full(length - len(values), filling, values.dtype)])
