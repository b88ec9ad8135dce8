"""Attention with a place to look at nothing: an extra entry in the softmax that takes weight and gives no value.

The learned sink of gpt-oss (arXiv:2508.10925) is one number a head, added to the scores of every query as one more column
and dropped after the softmax, so that a row sums to less than one. With the number held at zero it is "softmax off by
one". A key of its own with a value of zero (the K-bias of arXiv:2410.10781) lets the query decide how much goes there.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from explorer.catalogue import Knob, Paper, mechanism
from explorer.errors import BadValue
from explorer.kernels.rotary import rotary
from explorer.mechanisms.attention._sink_logit_claims import CLAIMS
from explorer.mechanisms.attention.watching import TAPS, watch
from explorer.taps import Instrumented


@mechanism(
    "sink-logit",
    title="Attention with a learned sink",
    family="attention",
    slot="attention",
    paper=Paper("gpt-oss-120b & gpt-oss-20b Model Card", "OpenAI", 2025, "2508.10925"),
    lab="OpenAI",
    summary="One more entry in every softmax, without a value: a head that needs nothing looks there.",
    equation=r"A^h_{ts} = \frac{e^{q^h_t \cdot k^h_s / \sqrt{d}}}{e^{z^h} + \sum_{j \le t} e^{q^h_t \cdot k^h_j / \sqrt{d}}}, "
    r"\qquad y_t = \Big[ \textstyle\sum_s A^h_{ts} v^h_s \Big]_{h=1}^{H} W_O",
    knobs={
        "n_heads": Knob(4, "how many heads share the width d_model (gpt-oss: 64 heads of width 64)", low=1, high=64),
        "kind": Knob("learned", "the sink's score: a number learned for each head (gpt-oss), 0 (softmax off by one), or "
                     "that of a learned key which is not turned by position (K-bias)",
                     choices=("learned", "off-by-one", "key")),
        "rope_base": Knob(1e4, "RoPE: the slowest pair turns by 1/base of a radian a token, nearly (gpt-oss: 150000)",
                          low=1, high=1e9, above=True, live=True),
        "causal": Knob(True, "a token asks itself and those before it, or all", live=True),
    },
    pitfalls=(
        "The sink's score is not divided by sqrt(d): it joins the others after they are scaled and masked.",
        "The sink's column is dropped after the softmax and nothing is divided again: rows sum to less than one.",
        "Its mass is the tap `elsewhere`; `first` is what the first token still gets. Never add the two up unsaid.",
        "A zero that cannot be learned loses to a first token whose scores grow: off-by-one often keeps its sink.",
        "A score for each head cannot follow the query; the key of its own can, and wins in more settings.",
    ),
    reference="transformers: GptOssAttention",
    claims=CLAIMS,
)  # fmt: skip
class SinkLogit(Instrumented):
    """x_BTD -> y_BTD. Projections start at N(0, 1/d_model), the learned score at 0, the learned key at N(0, 0.02^2)."""

    taps = TAPS

    def __init__(
        self, d_model: int, n_heads: int = 4, kind: str = "learned", rope_base: float = 1e4, causal: bool = True
    ) -> None:
        super().__init__()
        if d_model % (2 * n_heads):
            raise BadValue(f"n_heads={n_heads}: it must split d_model={d_model} into heads of an even width, for RoPE")
        self.n_heads, self.kind, self.rope_base, self.causal, self.kernel = n_heads, kind, rope_base, causal, "sdpa"
        self.qkv = nn.Linear(d_model, 3 * d_model, bias=False)
        self.out = nn.Linear(d_model, d_model, bias=False)
        for projection in (self.qkv, self.out):
            nn.init.normal_(projection.weight, std=d_model**-0.5)
        if kind == "learned":
            self.sink_H = nn.Parameter(torch.zeros(n_heads))
        elif kind == "key":
            self.key_Hd = nn.Parameter(0.02 * torch.randn(n_heads, d_model // n_heads))

    def forward(self, x_BTD: Tensor) -> Tensor:
        B, T, D, H = *x_BTD.shape, self.n_heads
        heads = self.qkv(x_BTD).view(B, T, 3 * H, D // H).transpose(1, 2)
        qk, v_BHTd = heads.split((2 * H, H), dim=1)
        q_BHTd, k_BHTd = rotary(qk, self.rope_base).chunk(2, dim=1)
        if self.kind == "key":  # a softmax does not see a constant of its row: q.k - q.k', and 0 for the key k' itself
            k_BHTd = k_BHTd - self.key_Hd[:, None]
        sink_H = self.sink_H if self.kind == "learned" else q_BHTd.new_zeros(H)
        y_BHTd = with_sink(q_BHTd, k_BHTd, v_BHTd, sink_H, self.causal)
        y_BHTd = watch(self, q_BHTd, k_BHTd, v_BHTd, y_BHTd, causal=self.causal, sink_H=sink_H)
        return self.out(y_BHTd.transpose(1, 2).reshape(B, T, D))

    def flops(self, T: int) -> float:
        """Of the scores and of the mean of the values, a token: two a multiply-add, (T + 1) / 2 keys on average, or T."""
        return 2 * 2.0 * self.out.in_features * ((T + 1) / 2 if self.causal else T)


def with_sink(q_BHTd: Tensor, k_BHTd: Tensor, v_BHTd: Tensor, sink_H: Tensor, causal: bool) -> Tensor:
    """Softmax attention (B, H, T, d) with one more score a row, sink_H, whose value is zero.

    The sink is a token in front of the others that only says its score, through a channel of its own in which every query
    has a 1. So torch's fused attention does the work, and the map is never formed.
    """
    B, H, _, d = q_BHTd.shape
    score_BH11 = (sink_H * d**0.5).view(1, H, 1, 1).expand(B, H, 1, 1)  # what is divided by sqrt(d) below
    sink_BH1d = torch.cat([q_BHTd.new_zeros(B, H, 1, d), score_BH11], dim=-1)
    q = F.pad(torch.cat([q_BHTd, torch.ones_like(q_BHTd[..., :1])], dim=-1), (0, 0, 1, 0))
    k = torch.cat([sink_BH1d, F.pad(k_BHTd, (0, 1))], dim=2)
    v = F.pad(v_BHTd, (0, 1, 1, 0))
    return F.scaled_dot_product_attention(q, k, v, is_causal=causal, scale=d**-0.5)[:, :, 1:, :d]
