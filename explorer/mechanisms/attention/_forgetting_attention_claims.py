"""What forgetting_attention.py claims, on rows of segments: each has its own few symbols, and a reset begins the next one.

What is imported here is imported only when a claim is measured.
"""

from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor

from explorer.catalogue import Claim
from explorer.mechanisms.attention._backcopy import BACKCOPY

RESET, SYMBOLS, CHOSEN, CHANCE = 0, 16, 3, 0.08
STEPS = 400
SETUP: dict[str, Any] = {
    "horizon": STEPS, "learning_rate": 0.01, "batch": 16, "layers": 1, "d_model": 32, "n_heads": 2,
    "feed_forward": "none", "tied": False, "watch": None,
}  # fmt: skip


@dataclass(frozen=True)
class Segments:
    """Token 0 resets; up to the next one every symbol is one of three, drawn anew for each segment.

    To predict well is to count what has been seen since the reset, and nothing before it.
    """

    sequence: int = 64

    def build(self, seed: int) -> "SegmentsData":
        return SegmentsData(self.sequence, seed)


class SegmentsData:
    kind, vocab = "tokens", SYMBOLS + 1
    label_names = ("symbol", "reset")

    def __init__(self, sequence: int, seed: int) -> None:
        self.sequence, self.seed = sequence, seed

    def batch(self, step: int, size: int) -> Any:
        from explorer.tasks import UNSCORED, Batch
        from explorer.tasks.data import Stream

        random, T = Stream(self.seed, "segments").at(step), self.sequence + 1
        is_reset_BT = torch.rand(size, T, generator=random) < CHANCE
        themes_BTK = torch.rand(size, T, SYMBOLS, generator=random).topk(CHOSEN).indices + 1
        place_BT = torch.arange(T).expand(size, T).where(is_reset_BT, 0).cummax(1).values  # of the newest reset
        pick_BT1 = torch.randint(CHOSEN, (size, T, 1), generator=random)
        symbol_BT = themes_BTK.gather(1, place_BT[..., None].expand(-1, -1, CHOSEN)).gather(2, pick_BT1)[..., 0]
        tokens_BT = symbol_BT.masked_fill(is_reset_BT, RESET)
        inputs, targets = tokens_BT[:, :-1], tokens_BT[:, 1:]
        return Batch(inputs, targets.masked_fill(targets == RESET, UNSCORED), (inputs == RESET).long())

    def held_out(self) -> Any:
        return self.batch(2**31, 100)

    def loss(self, outputs: Tensor, batch: Any) -> Tensor:
        from explorer.tasks.data import token_loss

        return token_loss(outputs, batch)

    def describe(self) -> dict[str, Any]:
        return {"task": "segments", "sequence": self.sequence, "seed": self.seed}


@lru_cache(maxsize=8)
def trained(mechanism: str, seed: int) -> Any:
    """The experiment of a mechanism on segments; several claims read it."""
    from explorer.experiment import Experiment

    return Experiment(mechanism, task=Segments(), seed=seed, **SETUP).run(STEPS)


def decay_at_resets(seed: int) -> tuple[float, float]:
    """Mean ln f at resets and at symbols, of the head whose gate does more."""
    experiment = trained("forgetting-attention", seed)
    seen = experiment.examine()[1]
    log_BTH, is_reset_BT = seen.last("blocks.0.attention/decay").clamp(min=1e-30).log(), seen.last("/labels") == 1
    head = log_BTH[is_reset_BT].mean(0).argmin()
    return log_BTH[is_reset_BT][:, head].mean().item(), log_BTH[~is_reset_BT][:, head].mean().item()


def losses(seed: int) -> tuple[float, float]:
    """Held-out loss of forgetting attention, and of softmax attention with RoPE."""
    return trained("forgetting-attention", seed).examine()[0], trained("softmax-attention", seed).examine()[0]


def losses_on_longer(seed: int) -> tuple[float, float]:
    """What is lost on sequences four times as long as any in training: forgetting attention, softmax with RoPE."""
    longer = Segments(256).build(seed).held_out()
    runs = trained("forgetting-attention", seed), trained("softmax-attention", seed)
    forgetting, softmax = (one.examine(longer)[0] - one.examine()[0] for one in runs)
    return forgetting, softmax


CLAIMS = (
    Claim(
        "forgets-at-resets", "The gate learns where to forget: at the tokens that make everything before them worthless.",
        source="arXiv:2503.02130", reported="", metric="mean ln f at resets, and elsewhere", measure=decay_at_resets,
        control_is="at ordinary symbols", threshold=-2.0, why="less than a seventh of what came before is kept",
    ),
    Claim(
        "better-with-resets", "Where the past must be dropped, it does better than softmax attention with RoPE.",
        source="arXiv:2503.02130", reported="perplexity 23.04 / 24.12 (Wikitext, 760M, Pro blocks)",
        metric="held-out loss on segments", measure=losses, control_is="softmax-attention", effect="ratio", threshold=1.0,
        relation="<", why="its loss must be lower",
    ),
    Claim(
        "longer-than-trained", "It goes on beyond the length of its training better than softmax attention with RoPE.",
        source="arXiv:2503.02130", reported="figures only", metric="loss added at four times the length",
        measure=losses_on_longer, control_is="softmax-attention", effect="difference", threshold=0.0, relation="<",
        why="it must lose less",
    ),
    Claim(
        "no-sink", "A head that may forget what is before a token does not park its attention on the first one.",
        source="arXiv:2503.02130", reported="", metric="sink_share", setup=BACKCOPY,
        control={"mechanism": "softmax-attention"}, control_is="softmax-attention", effect="ratio", threshold=None,
        why="the paper says nothing of it: what is forgotten cannot be a sink",
    ),
)  # fmt: skip
