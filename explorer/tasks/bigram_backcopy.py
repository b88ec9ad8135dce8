"""Bigram-Backcopy: the smallest task known to grow an attention sink (Guo et al., arXiv:2410.13835).

After an ordinary token the next one is drawn from a fixed bigram row, x_{t+1} ~ P[x_t]; after a trigger it is the
token before the trigger, x_{t+1} = x_{t-1}. A head must look back by one at triggers and has nothing to do elsewhere:
a softmax head then parks its attention on the first token. Two controls
grow no sink: `trigger_share=0` and `bos=False`.
"""

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from explorer.errors import BadValue
from explorer.tasks.data import UNSCORED, Batch, Stream, real, settle, token_loss, whole

BOS = 0
CONCENTRATION = 0.3
HELD_OUT_SEQUENCES = 80


@dataclass(frozen=True)
class BigramBackcopy:
    """Tokens 1 to `vocab`, the first `triggers` of them triggers. Id 0 is BOS, so a model needs vocab + 1 ids."""

    vocab: int = 32
    triggers: int = 3
    trigger_share: float = 0.25
    """Chance p that a trigger follows an ordinary token. None follows a trigger: p / (1 + p) of all tokens are."""
    sequence: int = 64
    bos: bool = True

    def __post_init__(self) -> None:
        settle(
            self,
            vocab=whole("vocab", self.vocab, 3, 1024),
            triggers=whole("triggers", self.triggers, 0, self.vocab - 2),
            trigger_share=real("trigger_share", self.trigger_share, 0, 1, below=True),
            sequence=whole("sequence", self.sequence, 2, 4096),
        )
        if not isinstance(self.bos, bool):
            raise BadValue(f"bos must be True or False, not {self.bos!r}")
        if self.trigger_share > 0 and self.triggers == 0:
            raise BadValue(f"trigger_share {self.trigger_share:g} needs triggers of at least 1, not 0")

    def build(self, seed: int) -> "BigramBackcopyData":
        return BigramBackcopyData(self, seed)


class BigramBackcopyData:
    """One bigram matrix and its sequences. `matrix` (V,V): P[x, y] is the chance that y follows x; V = vocab + 1."""

    kind = "tokens"

    def __init__(self, config: BigramBackcopy, seed: int) -> None:
        self.config, self.seed, self.sequence, self.vocab = config, seed, config.sequence, config.vocab + 1
        self.label_names = ["ordinary", "trigger"]
        self.matrix = _matrix(config, Stream(seed, "bigram-backcopy/world").key)
        self.is_trigger = np.zeros(self.vocab, dtype=bool)
        self.is_trigger[1 : 1 + config.triggers] = True
        # row r of the cumulative matrix shifted by r gives one sorted list: one search draws for all sequences
        rungs = self.matrix.cumsum(1).clip(max=1)
        rungs[:, -1] = 1
        self._ladder = (rungs + np.arange(self.vocab)[:, None]).ravel()
        self._token = np.tile(np.arange(self.vocab), self.vocab)
        self._entropy = torch.from_numpy(_entropy(self.matrix) * ~self.is_trigger)
        self._stream = Stream(seed, "bigram-backcopy/train")
        self._held_out = self._draw(HELD_OUT_SEQUENCES, Stream(seed, "bigram-backcopy/held-out").at(0))

    def batch(self, step: int, size: int) -> Batch:
        """`size` fresh sequences."""
        return self._draw(whole("size", size, 1), self._stream.at(whole("step", step, 0)))

    def held_out(self) -> Batch:
        """80 fixed sequences."""
        return self._held_out

    def loss(self, outputs: Tensor, batch: Batch) -> Tensor:
        """Cross entropy in nats a scored token; compare with `bayes_loss`."""
        return token_loss(outputs, batch)

    def bayes_loss(self, batch: Batch) -> float:
        """The exact expected loss of the best predictor: entropy of P's row, or 0 after a trigger."""
        return float(self._entropy[batch.inputs][batch.targets != UNSCORED].mean())

    def decode(self, tokens: Tensor | list[int]) -> list[str]:
        """BOS, !1 !2 !3 for triggers, a number for each other token."""
        names = ["BOS", *(f"!{i}" if self.is_trigger[i] else str(i) for i in range(1, self.vocab))]
        return [names[int(i)] if 0 <= int(i) < self.vocab else "\N{REPLACEMENT CHARACTER}" for i in tokens]

    def describe(self) -> dict[str, Any]:
        return {
            "task": "bigram-backcopy", "kind": self.kind, "installation_dependent": False, "seed": self.seed,
            **asdict(self.config), "model_vocab": self.vocab, "held_out_sequences": HELD_OUT_SEQUENCES,
            "held_out_bayes_loss": self.bayes_loss(self._held_out),
        }  # fmt: skip

    def _draw(self, size: int, generator: torch.Generator) -> Batch:
        """Walks over T; everything else is vectorised over the sequences."""
        T, bos = self.sequence, self.config.bos
        # float32 draws: adding a row number up to 1024 in float64 is then exact, and no draw spills into the next row
        draws_TB = torch.rand(T + 1, size, generator=generator).numpy().astype(np.float64)
        walk_TB = np.full((T + 1, size), BOS)
        before = now = walk_TB[0]
        for t in range(int(bos), T + 1):
            drawn = self._token[self._ladder.searchsorted(draws_TB[t] + now, "right")]
            before, now = now, np.where(self.is_trigger[now], before, drawn)
            walk_TB[t] = now
        tokens_BT = torch.from_numpy(np.ascontiguousarray(walk_TB.T))
        inputs, targets = tokens_BT[:, :-1].contiguous(), tokens_BT[:, 1:].contiguous()
        if bos:
            targets[:, 0] = UNSCORED
        return Batch(inputs, targets, torch.from_numpy(self.is_trigger)[inputs].long())


def _matrix(config: BigramBackcopy, key: int) -> np.ndarray:
    """Rows ~ Dirichlet(0.3); the triggers' columns are rescaled to sum to `trigger_share`, the others to the rest.

    BOS leads to every token that is no trigger, equally: a trigger in first place would have nothing to copy. A
    trigger's own row is never used.
    """
    V, first = config.vocab + 1, 1 + config.triggers
    random = np.random.default_rng(key)
    matrix = np.zeros((V, V))
    matrix[1:, 1:] = random.dirichlet(np.full(config.vocab, CONCENTRATION), size=config.vocab)
    for columns, share in ((slice(1, first), config.trigger_share), (slice(first, V), 1 - config.trigger_share)):
        if share > 0:
            matrix[1:, columns] *= share / matrix[1:, columns].sum(1, keepdims=True)
        else:
            matrix[1:, columns] = 0
    matrix[BOS, first:] = 1 / (V - first)
    return matrix


def _entropy(matrix: np.ndarray) -> np.ndarray:
    """Entropy of each row in nats."""
    logs = np.log(matrix, where=matrix > 0, out=np.zeros_like(matrix))
    return np.asarray(-(matrix * logs).sum(1))
