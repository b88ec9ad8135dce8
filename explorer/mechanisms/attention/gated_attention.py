"""Gated attention: softmax attention with a gate, in any of the places and forms that its paper compares.

The winner of arXiv:2505.06708 is the default: at position G1 a sigmoid of the query's own normed input multiplies each
head's output, in front of the output projection. A head with nothing to add closes its gate, and no longer needs the
first token to dump its attention on. The knobs make the paper's other variants and its controls; the rest is
`softmax-attention`.
"""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from explorer.catalogue import Knob, Paper, mechanism
from explorer.errors import BadValue
from explorer.kernels.rotary import rotary
from explorer.mechanisms.attention._gated_attention_claims import CLAIMS
from explorer.mechanisms.attention.watching import TAPS, attend
from explorer.taps import Instrumented

PLACES = {"G4": 0, "G3": 1, "G2": 2}  # queries, keys, values: which third of the joint projection
ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "sigmoid": torch.sigmoid,
    "silu": F.silu,
    "ns-sigmoid": lambda score: 0.5 + 0.5 * score.sigmoid(),  # not sparse: it never falls below a half
    "identity": lambda score: score,
}


@mechanism(
    "gated-attention",
    title="Gated attention (G1 to G5)",
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
        "position": Knob("G1", "what is gated: G1 each head's output, G2 the values, G3 the keys, G4 the queries, "
                         "G5 what comes out of the output projection", choices=("G1", "G2", "G3", "G4", "G5")),
        "granularity": Knob("elementwise", "one value a channel of a head (the paper's best), one a head, the mean over "
                            "the heads, constants that see no token; 'self' (the gated signal is its own score) and "
                            "'norm' (one over its root mean square) are the paper's controls SDPA SiLU and SDPA norm",
                            choices=("elementwise", "headwise", "head-shared", "input-independent", "self", "norm")),
        "activation": Knob("sigmoid", "from score to gate; ns-sigmoid is 1/2 + sigmoid/2, which cannot shut; identity "
                           "leaves the score", choices=tuple(ACTIVATIONS), live=True),
        "combine": Knob("multiply", "the gate multiplies what it gates, or is added to it (the paper adds a SiLU)",
                        choices=("multiply", "add"), live=True),
        "rope_base": Knob(1e4, "RoPE: the slowest pair turns by 1/base of a radian a token, nearly",
                          low=1, high=1e9, above=True, live=True),
        "causal": Knob(True, "a token asks itself and those before it, or all", live=True),
    },
    pitfalls=(
        "The gate multiplies each head before the output projection; after it (G5) the paper finds next to no gain.",
        "It reads the query's own normed input, not what attention found: it decides before anything was looked at.",
        "A sigmoid of small logits is 1/2: at the start of training the layer says half of what its ungated twin says.",
        "Elementwise adds d_model^2 parameters, and so does head-shared: a fair comparison takes them from elsewhere.",
        "On toys of a few hundred steps one value a head is the steadier of the two: it closes further.",
        "A gate on the values (G2) closes for keys, whoever asks: here it makes the first token a perfect sink.",
    ),
    reference="transformers: Qwen3NextAttention (G1)",
    claims=CLAIMS,
)  # fmt: skip
class GatedAttention(Instrumented):
    """x_BTD -> y_BTD. All projections start at N(0, 1/d_model): a normed token's gates spread around 1/2. No biases.

    The tap `gate` is what multiplies, or is added: B T H d; d = 1 where a head has one value, and at G5, behind the heads,
    one "head" as wide as the model.
    """

    taps = {"gate": "B T H d", **TAPS}

    def __init__(
        self, d_model: int, n_heads: int = 4, position: str = "G1", granularity: str = "elementwise",
        activation: str = "sigmoid", combine: str = "multiply", rope_base: float = 1e4, causal: bool = True,
    ) -> None:  # fmt: skip
        super().__init__()
        if d_model % (2 * n_heads):
            raise BadValue(f"n_heads={n_heads}: it must split d_model={d_model} into heads of an even width, for RoPE")
        if position == "G5" and granularity in ("headwise", "head-shared"):
            raise BadValue(
                f"granularity={granularity!r}: behind the output projection (G5) are no heads; it must be another"
            )
        if granularity == "norm" and (activation, combine) != ("identity", "multiply"):
            raise BadValue("granularity='norm': it must go with activation='identity' and combine='multiply'")
        self.n_heads, self.position, self.granularity, self.kernel = n_heads, position, granularity, "sdpa"
        self.activation, self.combine, self.rope_base, self.causal = activation, combine, rope_base, causal
        heads = 1 if position == "G5" else n_heads
        self.qkv = nn.Linear(d_model, 3 * d_model, bias=False)
        if granularity == "input-independent":
            self.constant = nn.Parameter(torch.zeros(heads, d_model // heads))
        elif granularity == "norm":
            self.gain = nn.Parameter(torch.ones(d_model // heads))
        elif granularity != "self":
            self.gate = nn.Linear(d_model, heads if granularity == "headwise" else d_model, bias=False)
        self.out = nn.Linear(d_model, d_model, bias=False)
        for matrix in self.children():
            assert isinstance(matrix, nn.Linear)
            nn.init.normal_(matrix.weight, std=d_model**-0.5)

    def score(self, signal_BTHd: Tensor, x_BTD: Tensor) -> Tensor:
        """What the activation makes a gate of, (B, T, H, d) or (B, T, H, 1)."""
        if self.granularity == "input-independent":
            return self.constant.expand_as(signal_BTHd)
        if self.granularity == "self":
            return signal_BTHd
        if self.granularity == "norm":
            return self.gain * (signal_BTHd.square().mean(-1, keepdim=True) + 1e-6).rsqrt()
        score_BTHd = self.gate(x_BTD).view(*signal_BTHd.shape[:-1], -1)
        if self.granularity == "head-shared":
            return score_BTHd.mean(2, keepdim=True).expand_as(signal_BTHd)
        return score_BTHd

    def gated(self, signal_BTHd: Tensor, x_BTD: Tensor) -> Tensor:
        gate_BTHd = self.tap("gate", ACTIVATIONS[self.activation](self.score(signal_BTHd, x_BTD)))
        return signal_BTHd * gate_BTHd if self.combine == "multiply" else signal_BTHd + gate_BTHd

    def forward(self, x_BTD: Tensor) -> Tensor:
        B, T, D, H = *x_BTD.shape, self.n_heads
        heads_BTHd = self.qkv(x_BTD).view(B, T, 3 * H, D // H)
        if self.position in PLACES:
            thirds, place = list(heads_BTHd.chunk(3, dim=2)), PLACES[self.position]
            thirds[place] = self.gated(
                thirds[place], x_BTD
            )  # before the rotation, which would mix channels i and i + d/2
            heads_BTHd = torch.cat(thirds, dim=2)
        qk, v_BHTd = heads_BTHd.transpose(1, 2).split((2 * H, H), dim=1)
        q_BHTd, k_BHTd = rotary(qk, self.rope_base).chunk(2, dim=1)
        y_BTHd = attend(self, q_BHTd, k_BHTd, v_BHTd, causal=self.causal).transpose(1, 2)
        y_BTD = self.out((self.gated(y_BTHd, x_BTD) if self.position == "G1" else y_BTHd).reshape(B, T, D))
        return self.gated(y_BTD[:, :, None], x_BTD)[:, :, 0] if self.position == "G5" else y_BTD

    def flops(self, T: int) -> float:
        """Of the scores and of the mean of the values, a token: two a multiply-add, (T + 1) / 2 keys on average, or T."""
        return 2 * 2.0 * self.out.in_features * ((T + 1) / 2 if self.causal else T)
