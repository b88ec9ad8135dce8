"""A language model around whole stacks: mechanisms that bring attention, feed-forward and residuals of their own."""

from collections.abc import Sequence

import torch.nn.functional as F
from torch import Tensor, nn

from explorer.errors import BadValue
from explorer.kernels.rms_norm import RMSNorm
from explorer.models.language_model import LanguageModel, stream
from explorer.taps import Instrumented


class StackModel(LanguageModel):
    """tokens_BT -> logits (B, T, vocab): embedding, the stacks one after another, a norm, the head.

    A stack maps the stream x_BTD to the stream y_BTD; nothing is added around it, and no norm stands before it.
    """

    def __init__(self, vocab: int, d_model: int, stacks: Sequence[nn.Module], tied: bool = True) -> None:
        Instrumented.__init__(self)
        if vocab < 2 or not stacks:
            raise BadValue(
                f"a stack model needs a vocabulary of at least 2 and one stack, not {vocab} and {len(stacks)}"
            )
        self.embed = nn.Embedding(vocab, d_model)
        nn.init.normal_(self.embed.weight, std=0.02)  # so that an untrained model predicts every token alike
        self.blocks = nn.ModuleList(stacks)
        self.norm = RMSNorm(d_model)
        self.head = None if tied else nn.Linear(d_model, vocab, bias=False)
        if self.head is not None:
            nn.init.normal_(self.head.weight, std=0.02)

    def forward(self, tokens_BT: Tensor) -> Tensor:
        x_BTD = stream(self, self.blocks, self.embed(self.tap("tokens", tokens_BT)))
        return F.linear(self.norm(x_BTD), self.embed.weight if self.head is None else self.head.weight)
