"""Sigmoid attention: each weight is a sigmoid of its own score, so a query may look at many tokens, or at none.

Without a softmax no row has to sum to one, and no token has to take what is left over (arXiv:2409.04431). The bias
-ln(n) lets n keys without a preference sum to about one, as a softmax over them would.
"""

import math
from typing import Any

import torch
from torch import Tensor, nn

from explorer.catalogue import Knob, Paper, mechanism
from explorer.errors import BadValue
from explorer.kernels.rotary import rotary
from explorer.mechanisms.attention._sigmoid_attention_claims import CLAIMS
from explorer.mechanisms.attention.watching import TAPS, watch
from explorer.taps import Instrumented

ROWS = 512  # queries whose weights exist at one time


@mechanism(
    "sigmoid-attention",
    title="Sigmoid attention",
    family="attention",
    slot="attention",
    paper=Paper("Theory, Analysis, and Best Practices for Sigmoid Self-Attention", "J. Ramapuram et al.", 2024, "2409.04431"),
    lab="Apple",
    summary="Each query weighs each key by itself, between 0 and 1; the weights of a row need not sum to one.",
    equation=r"A^h_{ts} = \sigma\!\Big( \frac{q^h_t \cdot k^h_s}{\sqrt{d}} - \ln \knob{length}{n} \Big), \quad s \le t, \qquad "
    r"y_t = \Big[ \textstyle\sum_s A^h_{ts} v^h_s \Big]_{h=1}^{H} W_O",
    knobs={
        "n_heads": Knob(4, "how many heads share the width d_model", low=1, high=64),
        "length": Knob(64, "n of the bias -ln n: how many keys a row is meant for (the paper: the length of the training "
                       "sequences)", low=1, high=1_000_000, live=True),
        "rope_base": Knob(1e4, "RoPE: the slowest pair turns by 1/base of a radian a token, nearly",
                          low=1, high=1e9, above=True, live=True),
        "causal": Knob(True, "a token asks itself and those before it, or all", live=True),
    },
    pitfalls=(
        "Weights near zero everywhere are 'nothing': the raw share of the first token is small by construction.",
        "To compare with softmax, divide each row by its sum first (the proxy share); where all weights are tiny, so is "
        "what it says.",
        "Without the bias the first rows of training sum to T/2: outputs far too large.",
        "The bias belongs to one length: n is a knob and not the length of the input, so that no token sees how many "
        "come after it.",
        "No fused kernel is used here (the paper has one for GPUs): 512 queries at a time, slower than a softmax.",
    ),
    reference="none packaged: a float64 reading of the equations in the test",
    claims=CLAIMS,
)  # fmt: skip
class SigmoidAttention(Instrumented):
    """x_BTD -> y_BTD. All projections start at N(0, 1/d_model); no biases but the one constant."""

    taps = TAPS

    def __init__(
        self, d_model: int, n_heads: int = 4, length: int = 64, rope_base: float = 1e4, causal: bool = True
    ) -> None:
        super().__init__()
        if d_model % (2 * n_heads):
            raise BadValue(f"n_heads={n_heads}: it must split d_model={d_model} into heads of an even width, for RoPE")
        self.n_heads, self.length, self.rope_base, self.causal, self.kernel = n_heads, length, rope_base, causal, "rows"
        self.qkv = nn.Linear(d_model, 3 * d_model, bias=False)
        self.out = nn.Linear(d_model, d_model, bias=False)
        for projection in (self.qkv, self.out):
            nn.init.normal_(projection.weight, std=d_model**-0.5)

    def forward(self, x_BTD: Tensor) -> Tensor:
        B, T, D, H = *x_BTD.shape, self.n_heads
        heads = self.qkv(x_BTD).view(B, T, 3 * H, D // H).transpose(1, 2)
        qk, v_BHTd = heads.split((2 * H, H), dim=1)
        q_BHTd, k_BHTd = rotary(qk, self.rope_base).chunk(2, dim=1)
        blocks = (self.rows(q_BHTd, k_BHTd, v_BHTd, start) for start in range(0, T, ROWS))
        y_BHTd = torch.cat(list(blocks), dim=2)
        rule: dict[str, Any] = {"causal": self.causal, "weights": "sigmoid", "bias": -math.log(self.length)}
        y_BHTd = watch(self, q_BHTd, k_BHTd, v_BHTd, y_BHTd, **rule)
        return self.out(y_BHTd.transpose(1, 2).reshape(B, T, D))

    def rows(self, q_BHTd: Tensor, k_BHTd: Tensor, v_BHTd: Tensor, start: int) -> Tensor:
        """What ROWS queries find, (B, H, ROWS or fewer, d); of a long sequence the weights are made again for the backward."""
        block = q_BHTd[:, :, start : start + ROWS]
        seen = start + block.shape[2] if self.causal else k_BHTd.shape[2]
        given = (block, k_BHTd[:, :, :seen], v_BHTd[:, :, :seen], start)
        if seen <= ROWS or not torch.is_grad_enabled():
            return self.look(*given)
        from torch.utils.checkpoint import (
            checkpoint,
        )  # imports the compiler: two seconds that a small page cannot spare

        found: Tensor = checkpoint(self.look, *given, use_reentrant=False)
        return found

    def look(self, q_BHrd: Tensor, k_BHSd: Tensor, v_BHSd: Tensor, start: int) -> Tensor:
        scores_BHrS = (q_BHrd * q_BHrd.shape[-1] ** -0.5) @ k_BHSd.transpose(-1, -2)
        weights_BHrS = (scores_BHrS - math.log(self.length)).sigmoid()
        return (weights_BHrS.tril(start) if self.causal else weights_BHrS) @ v_BHSd

    def flops(self, T: int) -> float:
        """Of the scores and of the mean of the values, a token: two a multiply-add, all keys that a block reads."""
        return 2 * 2.0 * self.out.in_features * ((T + min(T, ROWS)) / 2 if self.causal else T)
