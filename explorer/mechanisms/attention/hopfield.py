"""Hopfield attention: each token is a state that falls towards stored patterns, the keys, before it reads their values.

The layer of "Hopfield Networks is All You Need" (arXiv:2008.02217), causal, with RoPE. A query moves in the space of the
keys: every update replaces it by the mean of the keys, weighted by how much they look like it. The last set of weights mixes
the values instead. With one update this is softmax attention, to the bit; the paper's point is that attention *is* one
update of an associative memory, whose energy only falls.
"""

import torch.nn.functional as F
from torch import Tensor, nn

from explorer.catalogue import Claim, Knob, Paper, mechanism
from explorer.errors import BadValue
from explorer.kernels.hopfield import causal, energy, metastable_size
from explorer.kernels.rotary import rotary
from explorer.mechanisms.attention.watching import TAPS, watch
from explorer.taps import Instrumented


def _measure(name: str, seed: int) -> tuple[float, float]:
    from explorer.mechanisms.attention import _hopfield_claims

    value, baseline = getattr(_hopfield_claims, name)(seed)
    return float(value), float(baseline)


@mechanism(
    "hopfield",
    title="Hopfield attention",
    family="attention",
    slot="attention",
    paper=Paper("Hopfield Networks is All You Need", "H. Ramsauer et al.", 2020, "2008.02217"),
    lab="JKU Linz",
    summary="A query falls, update by update, towards the keys it resembles; then it reads their values.",
    equation=r"\xi_0 = q_t, \qquad \xi_{i+1} = \textstyle\sum_{s \le t} A^i_{ts} k_s, \qquad "
    r"A^i_t = \operatorname*{softmax}_{s \le t} \frac{\knob{beta}{\beta}\, \xi_i \cdot k_s}{\sqrt{d}}, \qquad "
    r"y_t = \textstyle\sum_{s \le t} A^{n-1}_{ts} v_s\, W_O, \quad n = \knob{updates}{n}",
    knobs={
        "n_heads": Knob(4, "how many heads share the width d_model: memories of their own", low=1, high=64),
        "updates": Knob(1, "retrieval steps; the last one reads values (the paper: 1, or until nothing moves)",
                        low=1, high=64, live=True),
        "beta": Knob(1.0, "inverse temperature in units of 1/sqrt(d), d the width of a head (the paper: 1)",
                     low=0, above=True, high=1000, live=True),
        "rope_base": Knob(1e4, "RoPE: the slowest pair turns by 1/base of a radian a token, nearly",
                          low=1, high=1e9, above=True, live=True),
    },
    pitfalls=(
        "Beta selects the regime: small, every query gets the mean of all; large, the one nearest key; between, a cluster.",
        "Beta must fit the length of the patterns: for patterns of length 1, 1/sqrt(d) is far too small to retrieve anything.",
        "Updates happen among the keys; the value and output projections come once, at the end.",
        "The token's own key is among the patterns: with a large beta a query can simply find itself.",
        "More updates make the choice sharper, and gradients smaller: they pass through every softmax.",
        "The authors' layer also norms queries, keys and values; here the block's norm stands in front of all three.",
        "Energies before and after compare as they are; between queries they do not, because each knows other patterns.",
    ),
    reference="torch: scaled_dot_product_attention for one update; hflayers, as packed in difflayers, for several",
    claims=(
        Claim(
            "one-update-retrieves", "One update finds the stored pattern, for far more patterns than a classical net can hold.",
            source="arXiv:2008.02217, theorems 3 and 4", reported="",
            metric="share of 100 random patterns (d = 64) found from a copy with 20 % of the signs flipped",
            measure=lambda seed: _measure("random_patterns", seed),
            control_is="Hebbian net of 64 neurons, 20 updates", relation=">=", threshold=0.85,
            why="a few copies of a hundred end up nearer to another pattern",
        ),
        Claim(
            "one-update-completes-digits", "One update completes half a digit, when beta fits the length of the patterns.",
            source="arXiv:2008.02217, section 2 (large beta: single patterns; small beta: their mean)", reported="",
            metric="median distance to the stored digit after one update, 50 digits of length 1, beta 40",
            measure=lambda seed: _measure("digits", seed),
            control_is="beta 5", relation="<=", threshold=0.05, why="a twentieth of the digit's length",
        ),
        Claim(
            "metastable-states", "As beta grows, states settle at the mean of all, then of a cluster, then at single patterns.",
            source="arXiv:2008.02217, section 2 (global, metastable and single-pattern fixed points)", reported="",
            metric="share of beta = 1, 8, 64 with exactly 1, 4, 32 fixed points, for 4 clusters of 8 patterns",
            measure=lambda seed: _measure("fixed_points", seed),
            control_is="32 patterns without clusters", relation=">=", threshold=1.0, why="all three, exactly",
        ),
        Claim(
            "energy-never-rises", "No update makes the energy larger.",
            source="arXiv:2008.02217, theorem 1", reported="it converges",
            metric="largest rise of the energy in an update, over nine values of beta",
            measure=lambda seed: _measure("energy_rise", seed),
            control_is="steps of the same length in random directions", relation="<=", threshold=1e-9, why="rounding",
        ),
        Claim(
            "more-updates-at-work", "Inside a language model further updates change little.",
            source="arXiv:2008.02217, section 2 (one update as a rule suffices)", reported="",
            metric="held_out_loss",
            setup={"task": "bigram-backcopy", "steps": 300, "horizon": 300, "warmup": 50, "learning_rate": 0.01, "batch": 16,
                   "layers": 1, "n_heads": 2, "feed_forward": "none", "tied": False, "attention_scale": 0.16, "updates": 3},
            control={"updates": 1}, control_is="one update", effect="ratio", threshold=None,
            why="the paper says as a rule, and gives no figure to hold it to",
        ),
    ),
)  # fmt: skip
class Hopfield(Instrumented):
    """x_BTD -> y_BTD. All four projections start at N(0, 1/d_model); no biases.

    energy_before, energy_after: of the query and of the state behind the last update, each among the patterns that query
    knows. metastable: how many patterns hold 90 % of the last weights, from 1 to the number known.
    """

    taps = {"energy_before": "B H T", "energy_after": "B H T", "metastable": "B H T", **TAPS}

    def __init__(
        self, d_model: int, n_heads: int = 4, updates: int = 1, beta: float = 1.0, rope_base: float = 1e4
    ) -> None:
        super().__init__()
        if d_model % (2 * n_heads):
            raise BadValue(f"n_heads={n_heads}: it must split d_model={d_model} into heads of an even width, for RoPE")
        self.n_heads, self.updates, self.beta, self.rope_base = n_heads, updates, beta, rope_base
        self.kernel = "sdpa"
        self.qkv = nn.Linear(d_model, 3 * d_model, bias=False)
        self.out = nn.Linear(d_model, d_model, bias=False)
        for projection in (self.qkv, self.out):
            nn.init.normal_(projection.weight, std=d_model**-0.5)

    def forward(self, x_BTD: Tensor) -> Tensor:
        B, T, D, H = *x_BTD.shape, self.n_heads
        beta = self.beta * (D // H) ** -0.5
        heads = self.qkv(x_BTD).view(B, T, 3 * H, D // H).transpose(1, 2)
        qk, v_BHTd = heads.split((2 * H, H), dim=1)
        q_BHTd, k_BHTd = rotary(qk, self.rope_base).chunk(2, dim=1)
        state_BHTd = q_BHTd
        for _ in range(self.updates - 1):
            state_BHTd = F.scaled_dot_product_attention(state_BHTd, k_BHTd, k_BHTd, is_causal=True, scale=beta)
        y_BHTd = F.scaled_dot_product_attention(state_BHTd, k_BHTd, v_BHTd, is_causal=True, scale=beta)
        y_BHTd = watch(self, state_BHTd, k_BHTd, v_BHTd, y_BHTd, scale=beta)
        if self.watched("energy_before"):
            self.tap("energy_before", causal(energy, q_BHTd, k_BHTd, beta))
        if self.watched("energy_after"):
            found_BHTd = F.scaled_dot_product_attention(state_BHTd, k_BHTd, k_BHTd, is_causal=True, scale=beta)
            self.tap("energy_after", causal(energy, found_BHTd, k_BHTd, beta))
        if self.watched("metastable"):
            self.tap("metastable", causal(metastable_size, state_BHTd, k_BHTd, beta))
        return self.out(y_BHTd.transpose(1, 2).reshape(B, T, D))

    def flops(self, T: int) -> float:
        """Of the scores and of the mean of keys or values, a token and an update: (T + 1) / 2 keys on average."""
        return self.updates * 2 * 2.0 * self.out.in_features * (T + 1) / 2
