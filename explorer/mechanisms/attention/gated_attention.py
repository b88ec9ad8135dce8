"""Gated attention: softmax attention whose heads can be turned down, token by token, before they are mixed.

Position G1 of arXiv:2505.06708: a sigmoid gate, read off the same normed input as the queries, multiplies each head's
output in front of the output projection. A head with nothing to add closes its gate, and no longer needs the first
token to dump its attention on. The rest is `softmax-attention`.
"""

import torch.nn.functional as F
from torch import Tensor, nn

from explorer.catalogue import Claim, Knob, Paper, mechanism
from explorer.errors import BadValue
from explorer.kernels.rotary import rotary
from explorer.mechanisms.attention.watching import TAPS, watch
from explorer.taps import Instrumented

BACKCOPY = {  # the smallest run known to grow a sink: one layer of two heads, copying the last token but one after a trigger
    "task": "bigram-backcopy", "steps": 700, "horizon": 700, "warmup": 50, "learning_rate": 0.01, "batch": 16,
    "layers": 1, "n_heads": 2, "feed_forward": "none", "tied": False, "attention_scale": 0.16,  # N(0, 0.02) as in GPT-2
}  # fmt: skip
UNGATED = {"mechanism": "softmax-attention", "granularity": None}


@mechanism(
    "gated-attention",
    title="Gated attention (G1)",
    family="attention",
    slot="attention",
    paper=Paper("Gated Attention for Large Language Models: Non-linearity, Sparsity, and Attention-Sink-Free",
                "Z. Qiu et al.", 2025, "2505.06708"),
    lab="Alibaba (Qwen)",
    summary="A sigmoid of the token itself turns each head's output down before the heads are mixed.",
    equation=r"g_t = \sigma(x_t W_g), \qquad "
    r"y_t = \Big[ g^h_t \odot \textstyle\sum_{s \le t} A^h_{ts} v^h_s \Big]_{h=1}^{H} W_O",
    knobs={
        "n_heads": Knob(4, "how many heads share the width d_model", low=1, high=64),
        "granularity": Knob("elementwise", "one gate value a channel of a head (the paper's best), or one a head",
                            choices=("elementwise", "headwise")),
        "rope_base": Knob(1e4, "RoPE: the slowest pair turns by 1/base of a radian a token, nearly",
                          low=1, high=1e9, above=True, live=True),
    },
    pitfalls=(
        "The gate multiplies each head before the output projection; after it (G5) the paper finds next to no gain.",
        "It reads the query's own normed input, not what attention found: it decides before anything was looked at.",
        "A sigmoid of small logits is 1/2: at the start of training the layer says half of what its ungated twin says.",
        "Elementwise adds d_model^2 parameters: a fair comparison takes them from elsewhere.",
        "On toys of a few hundred steps one value a head is the steadier of the two: it closes further.",
    ),
    reference="transformers: Qwen3NextAttention",
    claims=(
        Claim(
            "no-sink-headwise", "With one gate value a head, heads stop parking their attention on the first token.",
            source="arXiv:2505.06708, table 4", reported="0.073 / 0.467 = 0.16x",
            metric="sink_share", setup={**BACKCOPY, "granularity": "headwise"},
            control=UNGATED, control_is="softmax-attention", effect="ratio", threshold=0.35,
            why="a third of what is there without a gate; the paper finds a sixth",
        ),
        Claim(
            "no-sink-elementwise", "With one gate value a channel, heads stop parking their attention on the first token.",
            source="arXiv:2505.06708, table 4", reported="0.048 / 0.467 = 0.10x",
            metric="sink_share", setup={**BACKCOPY, "granularity": "elementwise"},
            control=UNGATED, control_is="softmax-attention", effect="ratio", threshold=0.6,
            why="many channels close less sharply than one value a head; 0.6 is beyond the spread of seeds",
        ),
        Claim(
            "no-loss-headwise", "The headwise gate costs no loss.",
            source="arXiv:2505.06708, table 4", reported="perplexity 5.792 / 6.026",
            metric="held_out_loss", setup={**BACKCOPY, "granularity": "headwise"},
            control=UNGATED, control_is="softmax-attention", effect="ratio", threshold=1.02,
            why="2 %: more than twin runs differ by",
        ),
        Claim(
            "no-loss-elementwise", "The elementwise gate costs no loss.",
            source="arXiv:2505.06708, table 4", reported="perplexity 5.761 / 6.026",
            metric="held_out_loss", setup={**BACKCOPY, "granularity": "elementwise"},
            control=UNGATED, control_is="softmax-attention", effect="ratio", threshold=1.02,
            why="2 %: more than twin runs differ by",
        ),
        Claim(
            "gate-knows-when", "The gate opens for the tokens at which its head is needed, and stays shut for others.",
            source="arXiv:2505.06708 (sparse gates that depend on the query)", reported="mean gate 0.172",
            metric="gate_auc", setup={**BACKCOPY, "granularity": "headwise"},
            control={"steps": 0}, control_is="before training", relation=">=", threshold=0.95,
            why="as a detector of triggers: nearly without fault",
        ),
    ),
)  # fmt: skip
class GatedAttention(Instrumented):
    """x_BTD -> y_BTD. All projections start at N(0, 1/d_model): a normed token's gates spread around 1/2. No biases.

    The tap `gate` is B T H d for both granularities; headwise has d = 1, one value that the whole head shares.
    """

    taps = {"gate": "B T H d", **TAPS}

    def __init__(
        self, d_model: int, n_heads: int = 4, granularity: str = "elementwise", rope_base: float = 1e4
    ) -> None:
        super().__init__()
        if d_model % (2 * n_heads):
            raise BadValue(f"n_heads={n_heads}: it must split d_model={d_model} into heads of an even width, for RoPE")
        self.n_heads, self.granularity, self.rope_base, self.kernel = n_heads, granularity, rope_base, "sdpa"
        self.qkv = nn.Linear(d_model, 3 * d_model, bias=False)
        self.gate = nn.Linear(d_model, n_heads if granularity == "headwise" else d_model, bias=False)
        self.out = nn.Linear(d_model, d_model, bias=False)
        for projection in (self.qkv, self.gate, self.out):
            nn.init.normal_(projection.weight, std=d_model**-0.5)

    def forward(self, x_BTD: Tensor) -> Tensor:
        B, T, D, H = *x_BTD.shape, self.n_heads
        heads = self.qkv(x_BTD).view(B, T, 3 * H, D // H).transpose(1, 2)
        qk, v_BHTd = heads.split((2 * H, H), dim=1)
        q_BHTd, k_BHTd = rotary(qk, self.rope_base).chunk(2, dim=1)
        y_BHTd = F.scaled_dot_product_attention(q_BHTd, k_BHTd, v_BHTd, is_causal=True)
        y_BHTd = watch(self, q_BHTd, k_BHTd, v_BHTd, y_BHTd)
        gate_BTHd = self.tap("gate", self.gate(x_BTD).sigmoid().view(B, T, H, self.gate.out_features // H))
        return self.out((y_BHTd.transpose(1, 2) * gate_BTHd).reshape(B, T, D))

    def flops(self, T: int) -> float:
        """Of the scores and of the mean of the values, a token: two a multiply-add, (T + 1) / 2 keys on average."""
        return 2 * 2.0 * self.out.in_features * (T + 1) / 2
