"""Gated positional self-attention: heads that begin as a convolution, and may learn to look elsewhere.

ConViT (arXiv:2103.10697). Every head has two maps: one of content, and one of position, a bump at an offset of its own. One
number a head, a gate, mixes them. At the start the gate is nearly all for position and the bumps make the small window of
a convolution, which is a good guess for pictures. Where it is not, the gates close.
"""

from math import isqrt

import torch
from torch import Tensor, nn

from explorer.catalogue import Knob, Paper, mechanism
from explorer.errors import BadValue
from explorer.mechanisms.attention._gated_positional_claims import CLAIMS
from explorer.mechanisms.attention.watching import TAPS, watch_map
from explorer.taps import Instrumented


def places(T: int, causal: bool) -> Tensor:
    """(T, 2) row and column of each token: on a line where it is causal, else on the most nearly square rectangle."""
    rows = 1 if causal else max(r for r in range(1, isqrt(T) + 1) if T % r == 0)
    return torch.stack([torch.arange(T) // (T // rows), torch.arange(T) % (T // rows)], 1)


def window(n_heads: int) -> Tensor:
    """(k*k, 2) the offsets of a window of k x k around a patch, in reading order; k is the largest that the heads allow.

    k = 3: -1, 0 and 1 either way. k = 2: -1/2 and 1/2, so that each head looks at four patches at once.
    """
    k = isqrt(n_heads)
    return torch.cartesian_prod(torch.arange(k), torch.arange(k)).float() - (k - 1) / 2


@mechanism(
    "gated-positional",
    title="Gated positional attention (ConViT)",
    family="attention",
    slot="attention",
    paper=Paper("ConViT: Improving Vision Transformers with Soft Convolutional Inductive Biases", "S. d'Ascoli et al.",
                2021, "2103.10697"),
    lab="Facebook AI Research",
    summary="Each head mixes a map of content and a map of position by a gate, and starts as a piece of a convolution.",
    equation=r"A^h_{ij} = \big(1 - \sigma(\lambda_h)\big) \operatorname*{softmax}_j \frac{q^h_i \cdot k^h_j}{\sqrt{d}} "
    r"+ \sigma(\lambda_h) \operatorname*{softmax}_j \big(v^h \cdot r_{ij}\big), \qquad "
    r"r_{ij} = (\|\delta\|^2, \delta), \quad v^h = -\knob{locality}{\alpha} (1, -2\Delta^h), \quad "
    r"\lambda_h = \knob{start}{\lambda}",
    knobs={
        "n_heads": Knob(4, "heads: the largest k x k of them make a window (the paper: 4, 9 or 16)", low=1, high=64),
        "locality": Knob(1.0, "alpha, how narrow the bumps start (0: even over all patches)", low=0, high=100),
        "start": Knob(1.0, "where every lambda starts (the paper: 1; -20: content alone, 20: position alone)",
                      low=-20, high=20),
        "gate_rate": Knob(20.0, "how many times as fast as other weights lambda learns. Ours: the paper has 1, and a "
                          "thousand times our steps", low=1, high=1000),
        "causal": Knob(True, "for text: tokens stand on a line and look back only (a picture: False)", live=True),
    },
    pitfalls=(
        "The gate mixes two maps, each behind its own softmax; inside one softmax a large score would drown the other.",
        "A gate is one free number for each head: lambda reads no input, so a gate is a habit of its head, not a decision.",
        "Start lambda large and the head never leaves its window: the gradient of a saturated sigmoid is zero.",
        "The offset delta is the key's place minus the query's; with the other sign the window is a mirror image of itself.",
        "A window of even k has its heads between patches: only odd k becomes an exact shift when alpha grows.",
    ),
    reference="timm: GPSA (the class of its ConViT)",
    claims=CLAIMS,
)  # fmt: skip
class GatedPositional(Instrumented):
    """x_BTD -> y_BTD. Values start as the identity, the other projections at N(0, 1/d_model), without biases.

    `gate` holds lambda / gate_rate, so that an optimizer whose steps have one size moves lambda that much faster. The tap
    `nonlocality` is the mean distance, in patches, from a query to where its head looks. Heads beyond k x k start at random.
    The paper divides each row by its sum, and so drops nothing here: a mixture of two distributions sums to one.
    """

    taps = {"gate": "H", "positional": "H T S", "content": "B H T S", "nonlocality": "H", **TAPS}
    only_by_name = frozenset({"attention", "positional", "content"})

    def __init__(
        self, d_model: int, n_heads: int = 4, locality: float = 1.0, start: float = 1.0, gate_rate: float = 20.0,
        causal: bool = True,
    ) -> None:  # fmt: skip
        super().__init__()
        if d_model % n_heads:
            raise BadValue(f"n_heads={n_heads}: it must split d_model={d_model} into heads of equal width")
        self.n_heads, self.locality, self.start = n_heads, locality, start
        self.gate_rate, self.causal = gate_rate, causal
        self.kernel = "map"
        self.qk = nn.Linear(d_model, 2 * d_model, bias=False)
        self.v = nn.Linear(d_model, d_model, bias=False)
        self.out = nn.Linear(d_model, d_model, bias=False)
        self.gate = nn.Parameter(torch.full((n_heads,), start / gate_rate))
        self.v_pos = nn.Parameter(torch.empty(n_heads, 3).uniform_(-(3**-0.5), 3**-0.5))  # H (square, row, column)
        for projection in (self.qk, self.out):
            nn.init.normal_(projection.weight, std=d_model**-0.5)
        with torch.no_grad():
            nn.init.eye_(self.v.weight)
            offsets = window(n_heads).to(self.v_pos)
            self.v_pos[: len(offsets), 0] = -1
            self.v_pos[: len(offsets), 1:] = 2 * offsets
            self.v_pos.mul_(locality)

    def forward(self, x_BTD: Tensor) -> Tensor:
        B, T, D, H = *x_BTD.shape, self.n_heads
        q_BHTd, k_BHSd = self.qk(x_BTD).view(B, T, 2 * H, D // H).transpose(1, 2).chunk(2, dim=1)
        v_BHSd = self.v(x_BTD).view(B, T, H, D // H).transpose(1, 2)
        wide = torch.promote_types(x_BTD.dtype, torch.float32)  # squared distances overflow in half precision
        at_T2 = places(T, self.causal).to(x_BTD.device, wide)
        delta_TS2 = at_T2[None] - at_T2[:, None]
        square_TS1 = delta_TS2.square().sum(-1, keepdim=True)
        scores_HTS = torch.einsum("hr,tsr->hts", self.v_pos.to(wide), torch.cat([square_TS1, delta_TS2], -1))
        scores_BHTS = q_BHTd.to(wide) @ k_BHSd.to(wide).transpose(-1, -2) * (D // H) ** -0.5
        if self.causal:
            ahead_TS = torch.ones(T, T, dtype=torch.bool, device=x_BTD.device).triu(1)
            scores_HTS, scores_BHTS = (one.masked_fill(ahead_TS, -torch.inf) for one in (scores_HTS, scores_BHTS))
        positional_HTS = self.tap("positional", scores_HTS.softmax(-1))
        content_BHTS = self.tap("content", scores_BHTS.softmax(-1))
        gate_H = self.tap("gate", (self.gate_rate * self.gate.to(wide)).sigmoid())
        map_BHTS = content_BHTS.lerp(positional_HTS.expand_as(content_BHTS), gate_H[:, None, None])
        map_BHTS = watch_map(self, map_BHTS, v_BHSd, causal=self.causal)
        if self.watched("nonlocality"):
            self.tap("nonlocality", (map_BHTS * square_TS1[..., 0].sqrt()).sum(-1).mean((0, 2)))
        return self.out((map_BHTS.to(v_BHSd.dtype) @ v_BHSd).transpose(1, 2).reshape(B, T, D))

    def flops(self, T: int) -> float:
        """Of the scores and of the mean of the values, a token: two a multiply-add, over the keys that it may see."""
        return 2 * 2.0 * self.out.in_features * ((T + 1) / 2 if self.causal else T)
