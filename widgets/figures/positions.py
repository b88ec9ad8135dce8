"""Long axes made short: positions in stretches with the first one by itself, and of many heads those that tell most."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from widgets.figures.series import stride
from widgets.figures.text import clean, plain, visible

MOST_CELLS = 128
MOST_HEADS = 64
LONGEST_TOKEN = 8
LETTER = 7  # px that a letter of a label is wide


@dataclass(frozen=True)
class Stretches:
    """A text of `length` positions in cells of `every` positions; the first token, where sinks form, has its own cell."""

    length: int
    every: int
    starts: np.ndarray  # the first position of each cell

    def peaks(self, values: np.ndarray, axis: int = -1) -> np.ndarray:
        """The largest value of each cell along `axis`; NaN counts as missing."""
        return values if self.every == 1 else np.fmax.reduceat(values, self.starts, axis=axis)

    def means(self, values_XS: np.ndarray) -> np.ndarray:
        """The mean of each cell along the last axis; NaN counts as missing, and is left where nothing else is."""
        if self.every == 1:
            return values_XS
        known = np.isfinite(values_XS)
        total = np.add.reduceat(np.where(known, values_XS, 0), self.starts, axis=-1)
        number = np.add.reduceat(known.astype(np.float32), self.starts, axis=-1)
        return np.where(number > 0, total / np.maximum(number, 1), np.nan).astype(np.float32)

    def names(self, tokens: Sequence[str] = ()) -> list[str]:
        """What stands at the axis for each cell: position and token, or first and last position. Harmless and distinct."""
        ends = [*(self.starts[1:] - 1).tolist(), self.length - 1]
        return [
            f"{start} {plain(visible(tokens[start]), LONGEST_TOKEN)}" if start == end and start < len(tokens)
            else f"{start}–{end}" if start < end
            else str(start)
            for start, end in zip(self.starts.tolist(), ends, strict=True)
        ]  # fmt: skip


def stretches(length: int, most: int = MOST_CELLS) -> Stretches:
    """At most `most` cells of one power of two of positions each, and the first token's; up to `most` positions singly."""
    every = stride(length, most)
    starts = np.arange(0, length, every)
    return Stretches(length, every, starts if every == 1 else np.insert(starts[starts > 0], 0, [0, 1]))


def token_axis(title: str, labels: Sequence[str], room: int = 280) -> dict[str, object]:
    """An axis of positions with as many upright labels as stand apart on `room` px, a phone's; the rest is told on hover."""
    widest = LETTER * (1 + max(map(len, labels), default=0))
    return {"type": "category", "title": {"text": title}, "nticks": int(np.clip(room / widest, 2, 8)), "tickangle": 0}


def telling(score_H: np.ndarray, most: int = MOST_HEADS) -> np.ndarray:
    """The places of the `most` heads with the largest score, in their old order; NaN comes last."""
    order = np.argsort(-np.nan_to_num(score_H, nan=-np.inf), kind="stable")[:most]
    return np.sort(order)


def percent(value: float) -> str:
    """A share in words: "57%", "0.4%", or "an unknown share" for NaN."""
    if not np.isfinite(value):
        return "an unknown share"
    return f"{value:.0%}" if value >= 0.0995 or value == 0 else f"{value:.1%}"


def first_word(tokens: Sequence[str]) -> str:
    """How a sentence names the first token."""
    return f"the first token (“{clean(visible(tokens[0]), LONGEST_TOKEN)}”)" if len(tokens) else "the first token"
