"""Digits: 1797 handwritten digits of 8 x 8 pixels, real ones; a picture is a vector of 64 grey values.

From scikit-learn's bundled copy of the UCI test set (E. Alpaydin, C. Kaynak, 1998). The file is read, the library is not
imported; where it is not installed, building this task says so. A fifth of the digits is held out, the same for all seeds.
"""

import gzip
import hashlib
import importlib.util
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from explorer.errors import BadValue, ExplorerError
from explorer.tasks.data import Batch, Stream, real, settle, whole

HELD_OUT = 360
PIXELS, CLASSES = 64, 10


@dataclass(frozen=True)
class Digits:
    """Pixels from 0 (paper) to 1 (ink), with `noise` of this standard deviation added to those that are trained on."""

    noise: float = 0.0

    def __post_init__(self) -> None:
        settle(self, noise=real("noise", self.noise, 0, 10))

    def build(self, seed: int) -> "DigitsData":
        return DigitsData(self, seed)


class DigitsData:
    """The digits, shuffled once for all seeds; the seed decides the batches. Outputs 0 to 9 of the 64 are the classes'."""

    kind, width, height, unit = "vectors", PIXELS, 8, "nats/digit"
    label_names = [f"digit {c}" for c in range(CLASSES)]

    def __init__(self, config: Digits, seed: int) -> None:
        self.config, self.seed = config, seed
        images, labels, self.sha256 = read()
        order = torch.randperm(len(labels), generator=Stream(0, "digits/split").at(0))
        self._images, self._labels = images[order], labels[order]
        self._stream = Stream(seed, "digits/train")

    def batch(self, step: int, size: int) -> Batch:
        """`size` digits drawn from those that are not held out, with replacement."""
        generator = self._stream.at(whole("step", step, 0))
        among = len(self._labels) - HELD_OUT
        picked = HELD_OUT + torch.randint(among, (whole("size", size, 1),), generator=generator)
        images = self._images[picked]
        return self._batch(images + self.config.noise * torch.randn(images.shape, generator=generator), picked)

    def held_out(self) -> Batch:
        """360 digits that training never shows, without noise."""
        return self._batch(self._images[:HELD_OUT], torch.arange(HELD_OUT))

    def loss(self, outputs: Tensor, batch: Batch) -> Tensor:
        """Cross entropy in nats a digit over all 64 outputs, of which 54 are never right; uniform guessing costs ln 64."""
        return F.cross_entropy(outputs, batch.labels)

    def describe(self) -> dict[str, Any]:
        return {
            "task": "digits", "kind": self.kind, "installation_dependent": True, "seed": self.seed,
            "noise": self.config.noise, "digits": len(self._labels), "held_out": HELD_OUT, "sha256": self.sha256,
        }  # fmt: skip

    def _batch(self, images_BD: Tensor, picked_B: Tensor) -> Batch:
        labels_B = self._labels[picked_B]
        return Batch(images_BD.contiguous(), F.one_hot(labels_B, PIXELS).float(), labels_B.contiguous())


@lru_cache(maxsize=1)
def read() -> tuple[Tensor, Tensor, str]:
    """(images (1797, 64) from 0 to 1, labels (1797,), sha256 of the file)."""
    found = importlib.util.find_spec("sklearn")  # looks, and does not import it: that would take a second
    if found is None or found.origin is None:
        raise ExplorerError("the digits come with scikit-learn, which is not installed: pip install scikit-learn")
    place = Path(found.origin).parent / "datasets" / "data" / "digits.csv.gz"
    try:
        raw = place.read_bytes()
        rows = [[float(cell) for cell in line.split(",")] for line in gzip.decompress(raw).decode("ascii").split()]
        table = torch.tensor(rows)
    except (OSError, EOFError, ValueError) as error:
        raise ExplorerError(f"scikit-learn's digits cannot be read from {place}: {error}") from error
    if table.ndim != 2 or table.shape[1] != PIXELS + 1 or len(table) <= HELD_OUT:
        raise BadValue(f"{place} should hold rows of {PIXELS} pixels and a class, not a table of {tuple(table.shape)}")
    return table[:, :PIXELS] / 16, table[:, PIXELS].long(), hashlib.sha256(raw).hexdigest()
