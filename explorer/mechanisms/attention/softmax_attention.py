"""Softmax attention: every token asks all tokens before it, and takes a weighted mean of their answers.

The attention of "Attention Is All You Need" (arXiv:1706.03762), with positions by rotation (RoPE, arXiv:2104.09864)
where that paper added sinusoids to the embedding. A token's weights sum to one, whether or not there is anything worth
asking: that is why a head that wants nothing parks its attention on the first token.
"""

import torch
from torch import Tensor, nn

from explorer.catalogue import Knob, Paper, mechanism
from explorer.errors import BadValue
from explorer.kernels.rms_norm import RMSNorm
from explorer.kernels.rotary import rotary
from explorer.mechanisms.attention._softmax_attention_claims import CLAIMS
from explorer.mechanisms.attention.watching import TAPS, attend
from explorer.taps import Instrumented


@mechanism(
    "softmax-attention",
    title="Softmax attention",
    family="attention",
    slot="attention",
    paper=Paper("Attention Is All You Need", "A. Vaswani et al.", 2017, "1706.03762"),
    lab="Google",
    summary="Each head mixes the values of the tokens so far by weights that are positive and sum to one.",
    equation=r"A^h_{ts} = \operatorname*{softmax}_{s \le t} \frac{q^h_t \cdot k^h_s}{\sqrt{d}}, \qquad "
    r"y_t = \Big[ \textstyle\sum_s A^h_{ts} v^h_s \Big]_{h=1}^{H} W_O",
    knobs={
        "n_heads": Knob(4, "how many heads share the width d_model (the paper: heads of width 64)", low=1, high=64),
        "rope_base": Knob(1e4, "RoPE: the slowest pair turns by 1/base of a radian a token, nearly",
                          low=1, high=1e9, above=True, live=True),
        "causal": Knob(True, "a token asks itself and those before it, or all", live=True),
        "qk_norm": Knob("none", "RMS norm of queries and keys, over the full width before the heads as in OLMoE "
                        "(arXiv:2409.02060): no score can grow with the length of a vector", choices=("none", "full")),
    },
    pitfalls=(
        "Softmax cannot say 'nothing': a head without a task still spends its weight, often on token 0 (a sink).",
        "The first query can only see itself: its weight of 1 is left out of the first-token share.",
        "RoPE turns queries and keys but not values, and turns each head's channel i together with channel i + d/2.",
        "Editing `attention` changes the output; the statistics are only read off, so editing those does nothing.",
    ),
    reference="transformers: LlamaAttention",
    claims=CLAIMS,
)  # fmt: skip
class SoftmaxAttention(Instrumented):
    """x_BTD -> y_BTD. All four projections start at N(0, 1/d_model), the output's like the others; no biases."""

    taps = TAPS

    def __init__(
        self, d_model: int, n_heads: int = 4, rope_base: float = 1e4, causal: bool = True, qk_norm: str = "none"
    ) -> None:
        super().__init__()
        if d_model % (2 * n_heads):
            raise BadValue(f"n_heads={n_heads}: it must split d_model={d_model} into heads of an even width, for RoPE")
        self.n_heads, self.rope_base, self.causal, self.kernel = n_heads, rope_base, causal, "sdpa"
        self.qk_norm = qk_norm
        self.qkv = nn.Linear(d_model, 3 * d_model, bias=False)
        self.out = nn.Linear(d_model, d_model, bias=False)
        for projection in (self.qkv, self.out):
            nn.init.normal_(projection.weight, std=d_model**-0.5)
        self.norm_q = RMSNorm(d_model) if qk_norm == "full" else None
        self.norm_k = RMSNorm(d_model) if qk_norm == "full" else None

    def forward(self, x_BTD: Tensor) -> Tensor:
        B, T, D, H = *x_BTD.shape, self.n_heads
        qkv_BTG = self.qkv(x_BTD)
        if self.norm_q is not None and self.norm_k is not None:
            q_BTD, k_BTD, v_BTD = qkv_BTG.chunk(3, dim=-1)
            qkv_BTG = torch.cat([self.norm_q(q_BTD), self.norm_k(k_BTD), v_BTD], dim=-1)
        heads = qkv_BTG.view(B, T, 3 * H, D // H).transpose(1, 2)
        qk, v_BHTd = heads.split((2 * H, H), dim=1)
        q_BHTd, k_BHTd = rotary(qk, self.rope_base).chunk(2, dim=1)  # one rotation for both: half the kernel launches
        y_BHTd = attend(self, q_BHTd, k_BHTd, v_BHTd, causal=self.causal)
        return self.out(y_BHTd.transpose(1, 2).reshape(B, T, D))

    def flops(self, T: int) -> float:
        """Of the scores and of the mean of the values, a token: two a multiply-add, (T + 1) / 2 keys on average, or T."""
        return 2 * 2.0 * self.out.in_features * ((T + 1) / 2 if self.causal else T)
