"""Forgetting attention: softmax attention in which every token may let its head forget what came before it.

A forget gate f_t in (0, 1), a sigmoid of the token, is multiplied into the weight of every earlier key each time the
sequence moves past it (the Forgetting Transformer, FoX, arXiv:2503.02130). The products tell near from far, so that no
position embedding is needed; with a constant gate they are a penalty that grows by the same step a token (ALiBi).
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from explorer.catalogue import Knob, Paper, mechanism
from explorer.errors import BadValue
from explorer.kernels.rotary import rotary
from explorer.mechanisms.attention._forgetting_attention_claims import CLAIMS
from explorer.mechanisms.attention.watching import TAPS, watch
from explorer.taps import Instrumented


@mechanism(
    "forgetting-attention",
    title="Forgetting attention (FoX)",
    family="attention",
    slot="attention",
    paper=Paper("Forgetting Transformer: Softmax Attention with a Forget Gate", "Z. Lin et al.", 2025, "2503.02130"),
    lab="Mila",
    summary="A gate of each token fades all that came before it: attention decays by what was read, not by distance.",
    equation=r"f^h_t = \sigma(x_t w^h + b^h), \qquad A^h_{ts} = \operatorname*{softmax}_{s \le t} "
    r"\Big( \frac{q^h_t \cdot k^h_s}{\sqrt{d}} + \textstyle\sum_{l=s+1}^{t} \ln f^h_l \Big)",
    knobs={
        "n_heads": Knob(4, "how many heads share the width d_model (the paper at 125M: 12)", low=1, high=64),
        "rope": Knob(False, "turn queries and keys by their position as well (the paper: no, it is not needed)"),
    },
    pitfalls=(
        "The gate of a token forgets what is before it, never the token itself: the sum begins behind the key.",
        "Forgetting moves weight, it does not take it away: a row still sums to one, and the newest token gets the rest.",
        "The sums are kept in float32 at least: in half precision thousands of small logarithms drown.",
        "A gate that says 0.9 at every token keeps a third of a weight after ten tokens: 'open' is very near 1.",
        "The paper's Pro block (norms of queries and keys, output gate, shifted keys and values) is left out.",
    ),
    reference="none packaged: the naive torch reading in fla-core (fla.ops.forgetting_attn)",
    claims=CLAIMS,
)  # fmt: skip
class ForgettingAttention(Instrumented):
    """x_BTD -> y_BTD. Projections start at N(0, 1/d_model), the gate's bias at 0, so that gates spread around 1/2.

    The tap `decay` is f: 1 keeps everything before the token, 0 forgets it.
    """

    taps = {"decay": "B T H", **TAPS}

    def __init__(self, d_model: int, n_heads: int = 4, rope: bool = False) -> None:
        super().__init__()
        if d_model % n_heads or (rope and d_model % (2 * n_heads)):
            shape = "heads of an even width, for RoPE" if rope else "heads of equal width"
            raise BadValue(f"n_heads={n_heads}: it must split d_model={d_model} into {shape}")
        self.n_heads, self.rope, self.kernel = n_heads, rope, "sdpa"
        self.qkv = nn.Linear(d_model, 3 * d_model, bias=False)
        self.forget = nn.Linear(d_model, n_heads)
        self.out = nn.Linear(d_model, d_model, bias=False)
        for projection in (self.qkv, self.forget, self.out):
            nn.init.normal_(projection.weight, std=d_model**-0.5)
        nn.init.zeros_(self.forget.bias)

    def forward(self, x_BTD: Tensor) -> Tensor:
        B, T, D, H = *x_BTD.shape, self.n_heads
        heads = self.qkv(x_BTD).view(B, T, 3, H, D // H).permute(2, 0, 3, 1, 4)
        q_BHTd, k_BHTd, v_BHTd = heads.to(torch.promote_types(heads.dtype, torch.float32))
        if self.rope:
            q_BHTd, k_BHTd = rotary(q_BHTd), rotary(k_BHTd)
        log_BHT = self.log_forget(x_BTD).transpose(1, 2).cumsum(-1)
        y_BHTd = fading(q_BHTd, k_BHTd, v_BHTd, log_BHT)
        y_BHTd = watch(self, q_BHTd, k_BHTd, v_BHTd, y_BHTd, key_bias_BHS=-log_BHT)
        return self.out(y_BHTd.transpose(1, 2).reshape(B, T, D).to(x_BTD.dtype))

    def log_forget(self, x_BTD: Tensor) -> Tensor:
        """ln f (B, T, H), from the logits: a gate that shuts has no logarithm any more."""
        logit_BTH = self.forget(x_BTD)
        log_BTH = F.logsigmoid(logit_BTH.to(torch.promote_types(logit_BTH.dtype, torch.float32)))
        if not self.watched("decay"):
            return log_BTH
        decay_BTH = log_BTH.exp()
        shown_BTH = self.tap("decay", decay_BTH)
        return log_BTH if shown_BTH is decay_BTH else shown_BTH.clamp(min=1e-30).log()

    def flops(self, T: int) -> float:
        """Of the scores and of the mean of the values, a token: two a multiply-add, (T + 1) / 2 keys on average."""
        return 2 * 2.0 * self.out.in_features * (T + 1) / 2


def fading(q_BHTd: Tensor, k_BHTd: Tensor, v_BHTd: Tensor, c_BHT: Tensor) -> Tensor:
    """Causal softmax attention (B, H, T, d) of the scores q.k / sqrt(d) + c_t - c_s.

    A softmax does not see c_t, the same in all of a row. What is left, -c_s, belongs to the key, and enters through one
    more channel in which every query has a 1: torch's fused attention does the rest, and the map is never formed.
    """
    d = q_BHTd.shape[-1]
    q = torch.cat([q_BHTd, torch.ones_like(q_BHTd[..., :1])], dim=-1)
    k = torch.cat([k_BHTd, -c_BHT[..., None] * d**0.5], dim=-1)
    return F.scaled_dot_product_attention(q, k, F.pad(v_BHTd, (0, 1)), is_causal=True, scale=d**-0.5)[..., :d]
