"""The layers of a trained model on an axis: their numbers where the names differ by nothing else, short names where they do."""

import re
from collections.abc import Sequence
from typing import Any

from widgets.figures.layout import row_names
from widgets.figures.text import clean

UNTRACED = "Nothing to show yet: trace some text."
NUMBER = re.compile(r"\d+")


def layer_labels(names: Sequence[object]) -> tuple[list[str], str]:
    """Labels and the word before them: (["3", "4"], "layer") of "model.layers.3.mlp" and "model.layers.4.mlp".

    Names that differ by more than one number, or a single name, are cut to 18 characters, and the word is "".
    """
    cleaned = [clean(name) for name in names]
    found = [NUMBER.findall(name) for name in cleaned]
    same = {NUMBER.sub("#", name) for name in cleaned}
    if len(cleaned) > 1 and len(same) == 1 and found[0]:
        differing = [column for column in zip(*found, strict=True) if len(set(column)) > 1]
        if len(differing) == 1 and len(set(differing[0])) == len(cleaned):
            return list(differing[0]), "layer"
    return row_names(cleaned), ""


def told(label: str, word: str) -> str:
    """A layer in a sentence: "layer 3"."""
    return f"{word} {label}".strip()


def layer_axis(labels: Sequence[str], word: str) -> dict[str, Any]:
    """The axis across, one place for each layer; many labels are thinned and stand upright."""
    axis: dict[str, Any] = {"type": "category", "title": {"text": word}, "range": [-0.5, len(labels) - 0.5]}
    every = -(-len(labels) // 12)
    return {**axis, "dtick": every, "tick0": 0, "tickangle": 0} if word else axis


def layer_rows(word: str) -> dict[str, Any]:
    """The axis downwards, the first layer on top."""
    return {"type": "category", "autorange": "reversed", "title": {"text": word}, "nticks": 24}
