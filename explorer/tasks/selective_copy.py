"""Selective copying: write down the few tokens that matter, in order, after a long stretch of noise.

    noise  7  noise noise  3  noise  9  |  marker marker marker   ->   7 3 9 at the markers

`data` tokens stand at random places among noise tokens; then come as many markers, and the j-th marker is to be answered
with the j-th data token. Where the data stand is different every time, so that no fixed pattern of attention can find
them. The task of Mamba (arXiv:2312.00752, section 4.1.1; there T = 4096, 16 ids, 16 data tokens).
"""

from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor

from explorer.tasks.data import UNSCORED, Batch, Stream, settle, token_loss, whole

NOISE, MARKER, FIRST = 0, 1, 2  # the ids; data tokens are those from FIRST on
HELD_OUT_SEQUENCES = 80


@dataclass(frozen=True)
class SelectiveCopy:
    """`data` tokens of `vocab` - 2 kinds in a sequence of `sequence`, of which the last `data` tokens are markers."""

    vocab: int = 16
    data: int = 8
    sequence: int = 64

    def __post_init__(self) -> None:
        data = whole("data", self.data, 1, 1024)
        settle(
            self,
            vocab=whole("vocab", self.vocab, 4, 1024),
            data=data,
            sequence=whole("sequence", self.sequence, 2 * data, 8192),
        )

    def build(self, seed: int) -> "SelectiveCopyData":
        return SelectiveCopyData(self, seed)


class SelectiveCopyData:
    """Sequences of one seed. Labels say what a token is: noise, data or marker."""

    kind = "tokens"
    label_names = ["noise", "data", "marker"]

    def __init__(self, config: SelectiveCopy, seed: int) -> None:
        self.config, self.seed, self.sequence, self.vocab = config, seed, config.sequence, config.vocab
        self._stream = Stream(seed, "selective-copy/train")
        self._held_out = self._draw(HELD_OUT_SEQUENCES, Stream(seed, "selective-copy/held-out").at(0))

    def batch(self, step: int, size: int) -> Batch:
        """`size` fresh sequences."""
        return self._draw(whole("size", size, 1), self._stream.at(whole("step", step, 0)))

    def held_out(self) -> Batch:
        """80 fixed sequences."""
        return self._held_out

    def loss(self, outputs: Tensor, batch: Batch) -> Tensor:
        """Cross entropy in nats a marker; 0 is possible, and guessing among the data tokens costs ln(vocab - 2)."""
        return token_loss(outputs, batch)

    def accuracy(self, outputs: Tensor, batch: Batch) -> float:
        """Share of the markers whose answer is right; 1 / (vocab - 2) by chance."""
        asked = batch.targets != UNSCORED
        return (outputs.argmax(-1) == batch.targets)[asked].float().mean().item()

    def decode(self, tokens: Tensor | list[int]) -> list[str]:
        """A dot for noise, ? for a marker, a number from 1 for each data token."""
        names = [".", "?", *(str(i) for i in range(1, self.vocab - 1))]
        return [names[int(i)] if 0 <= int(i) < self.vocab else "\N{REPLACEMENT CHARACTER}" for i in tokens]

    def describe(self) -> dict[str, Any]:
        return {
            "task": "selective-copy", "kind": self.kind, "installation_dependent": False, "seed": self.seed,
            **asdict(self.config), "held_out_sequences": HELD_OUT_SEQUENCES, "best_loss": 0.0,
        }  # fmt: skip

    def _draw(self, size: int, generator: torch.Generator) -> Batch:
        K, T = self.config.data, self.sequence
        data_BK = torch.randint(FIRST, self.vocab, (size, K), generator=generator)
        place_BK = torch.rand(size, T - K, generator=generator).argsort(-1)[:, :K].sort(-1).values
        inputs_BT = torch.full((size, T), NOISE).scatter(1, place_BK, data_BK)
        inputs_BT[:, T - K :] = MARKER
        targets_BT = torch.full((size, T), UNSCORED)
        targets_BT[:, T - K :] = data_BK
        labels_BT = (inputs_BT >= FIRST).long() + 2 * (inputs_BT == MARKER)
        return Batch(inputs_BT, targets_BT, labels_BT)
