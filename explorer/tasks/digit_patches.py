"""Digit patches: the 8 x 8 handwritten digits, cut into square patches that stand in a row, line by line.

A picture for mechanisms that attend: 16 patches of 2 x 2 pixels, say, and one answer for all of them. With few pictures to
learn from (`n_train=100`) it shows what a built-in sense of neighbourhood is worth. The data are those of `digits`.
"""

from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from explorer.errors import BadValue
from explorer.tasks.data import Batch, Stream, settle, whole
from explorer.tasks.digits import CLASSES, HELD_OUT, read

SIDE, TRAINING = 8, 1437
SIZES = (1, 2, 4)


@dataclass(frozen=True)
class DigitPatches:
    """`patch`: pixels along the side of one, 1, 2 or 4. `n_train`: how many digits there are to learn from, at most 1437."""

    patch: int = 2
    n_train: int = TRAINING

    def __post_init__(self) -> None:
        settle(self, patch=patch_size(self.patch), n_train=whole("n_train", self.n_train, CLASSES, TRAINING))

    def build(self, seed: int) -> "DigitPatchesData":
        return DigitPatchesData(self, seed)


class DigitPatchesData:
    """Inputs (B,T,width): patches of grey values with mean 0 and deviation 1. The seed decides which digits are trained on.

    Held out are 360 digits, the same as in `digits` for every seed.
    """

    kind, outputs, pooled, unit = "sequences", CLASSES, True, "nats/digit"
    label_names = [f"digit {c}" for c in range(CLASSES)]

    def __init__(self, config: DigitPatches, seed: int) -> None:
        self.config, self.seed, self.width, self.length = config, seed, config.patch**2, (SIDE // config.patch) ** 2
        pictures, labels, self.sha256 = shuffled()
        chosen = torch.randperm(len(labels) - HELD_OUT, generator=Stream(seed, "digit-patches/chosen").at(0))
        self._chosen = HELD_OUT + chosen[: config.n_train]
        self._pictures, self._labels = standardised(pictures, self._chosen), labels
        self._stream = Stream(seed, "digit-patches/train")

    def batch(self, step: int, size: int) -> Batch:
        """`size` of the digits to learn from, drawn with replacement."""
        generator = self._stream.at(whole("step", step, 0))
        picked = torch.randint(len(self._chosen), (whole("size", size, 1),), generator=generator)
        return self._batch(self._chosen[picked])

    def held_out(self) -> Batch:
        """360 digits that training never shows."""
        return self._batch(torch.arange(HELD_OUT))

    def loss(self, outputs: Tensor, batch: Batch) -> Tensor:
        """Cross entropy in nats a digit; uniform guessing costs ln 10."""
        return F.cross_entropy(outputs, batch.targets)

    def describe(self) -> dict[str, Any]:
        return {
            "task": "digit-patches", "kind": self.kind, "installation_dependent": True, "seed": self.seed,
            **asdict(self.config), "held_out": HELD_OUT, "sha256": self.sha256,
        }  # fmt: skip

    def _batch(self, picked_B: Tensor) -> Batch:
        labels_B = self._labels[picked_B]
        return Batch(patches(self._pictures[picked_B], self.config.patch), labels_B, labels_B)


def patch_size(value: Any) -> int:
    """`value` if an 8 x 8 picture falls into patches of that side, else BadValue."""
    if isinstance(value, bool) or value not in SIZES:
        raise BadValue(f"patch must be 1, 2 or 4 pixels, not {value!r}")
    return int(value)


def shuffled() -> tuple[Tensor, Tensor, str]:
    """(pictures (1797, 8, 8), labels (1797,), sha256 of the file) in the order of `digits`: the first 360 are held out."""
    pictures, labels, sha256 = read()
    order = torch.randperm(len(labels), generator=Stream(0, "digits/split").at(0))
    return pictures[order].view(-1, SIDE, SIDE), labels[order], sha256


def standardised(pictures: Tensor, chosen: Tensor) -> Tensor:
    """Shifted and scaled, all pixels alike, to mean 0 and deviation 1 over the chosen pictures."""
    return (pictures - pictures[chosen].mean()) / pictures[chosen].std()


def patches(pictures_BYX: Tensor, side: int) -> Tensor:
    """(B, 8, 8) -> (B, T, side * side): the patches line by line, and so are the pixels of each."""
    n = SIDE // side
    return pictures_BYX.reshape(-1, n, side, n, side).transpose(2, 3).reshape(-1, n * n, side * side).contiguous()
