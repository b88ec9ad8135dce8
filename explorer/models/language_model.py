"""A small decoder: pre-norm blocks of an attention and a feed-forward mechanism; positions are the attention's business."""

from collections.abc import Iterable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from explorer.errors import BadValue
from explorer.kernels.rms_norm import RMSNorm
from explorer.taps import Instrumented


class Block(nn.Module):
    """x + attention(norm(x)), then x + ffn(norm(x))."""

    def __init__(self, d_model: int, attention: nn.Module, ffn: nn.Module) -> None:
        super().__init__()
        self.norm_attention, self.attention = RMSNorm(d_model), attention
        self.norm_ffn, self.ffn = RMSNorm(d_model), ffn

    def forward(self, x_BTD: Tensor, tokens_BT: Tensor | None = None) -> Tensor:
        """tokens_BT: the ids behind the vectors, for a feed-forward mechanism that `reads_tokens`."""
        x_BTD = x_BTD + self.attention(self.norm_attention(x_BTD))
        ids = (tokens_BT,) if getattr(self.ffn, "reads_tokens", False) else ()
        return x_BTD + self.ffn(self.norm_ffn(x_BTD), *ids)


def stream(host: Instrumented, blocks: Iterable[nn.Module], x_BTD: Tensor, *more: Tensor) -> Tensor:
    """The residual stream through the blocks; tap `residual` shows it in front of the first and behind each."""
    seen = [x_BTD] if host.watched("residual") else None
    for block in blocks:
        x_BTD = block(x_BTD, *more)
        if seen is not None:
            seen.append(x_BTD)
    if seen is not None:
        host.tap("residual", torch.stack(seen))
    return x_BTD


class LanguageModel(Instrumented):
    """tokens_BT -> logits (B, T, vocab). `layers` is a sequence of (attention, feed-forward) pairs, one a layer."""

    taps = {"tokens": "B T", "residual": "L B T D"}
    only_by_name = frozenset({"residual"})  # (layers + 1) times as large as an input

    def __init__(
        self, vocab: int, d_model: int, layers: Sequence[tuple[nn.Module, nn.Module | None]], tied: bool = True
    ) -> None:
        super().__init__()
        if vocab < 2 or not layers:
            raise BadValue(
                f"a language model needs a vocabulary of at least 2 and one layer, not {vocab} and {len(layers)}"
            )
        self.embed = nn.Embedding(vocab, d_model)
        nn.init.normal_(self.embed.weight, std=0.02)  # so that an untrained model predicts every token alike
        self.blocks = nn.ModuleList(
            AttentionBlock(d_model, attention) if ffn is None else Block(d_model, attention, ffn)
            for attention, ffn in layers
        )
        self.norm = RMSNorm(d_model)
        self.head = None if tied else nn.Linear(d_model, vocab, bias=False)
        if self.head is not None:
            nn.init.normal_(self.head.weight, std=0.02)

    def forward(self, tokens_BT: Tensor) -> Tensor:
        tokens_BT = self.tap("tokens", tokens_BT)
        x_BTD = stream(self, self.blocks, self.embed(tokens_BT), tokens_BT)
        return F.linear(self.norm(x_BTD), self.embed.weight if self.head is None else self.head.weight)


class AttentionBlock(nn.Module):
    """x + attention(norm(x)): a layer without a feed-forward network, as the smallest attention-sink experiments have."""

    def __init__(self, d_model: int, attention: nn.Module) -> None:
        super().__init__()
        self.norm_attention, self.attention = RMSNorm(d_model), attention

    def forward(self, x_BTD: Tensor, tokens_BT: Tensor | None = None) -> Tensor:  # noqa: ARG002 (a block's signature)
        return x_BTD + self.attention(self.norm_attention(x_BTD))
