"""Heterogeneous experts: experts of different widths, so that a token costs what the expert it is sent to costs.

AutoMoE (arXiv:2210.07535) searches the number of experts of each layer and the width of each of them, and finds that they
should differ. Here the widths are given: the widest expert is so many times as wide as the narrowest, the others lie between,
and a layer may have fewer experts than the one below. A wide expert is computed as several blocks of the narrowest width.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from explorer.catalogue import Claim, Knob, Paper, mechanism
from explorer.kernels.experts import choose, experts
from explorer.mechanisms.routing import _heterogeneous_experts_claims as tiny
from explorer.metrics import load_balancing_loss
from explorer.taps import Instrumented


@mechanism(
    "heterogeneous-experts",
    title="Experts of different widths",
    family="routing",
    slot="feed-forward",
    paper=Paper("AutoMoE: Heterogeneous Mixture-of-Experts with Adaptive Computation for Efficient Neural Machine Translation",
                "G. Jawahar et al.", 2022, "2210.07535"),
    lab="University of British Columbia, Microsoft",
    summary="Experts are of different widths, and layers of different numbers: what a token costs depends on its expert.",
    equation=r"p = \operatorname{softmax}(x W_r + b_r), \qquad y = \sum_{e \in \operatorname{top}_{\knob{k}{k}}(p)} p_e\, "
    r"\mathrm{ReLU}(x U_e)\, V_e, \qquad U_e \in \mathbb{R}^{D \times F_e}, \quad "
    r"F_e \in \{ 1, \dots, \knob{widest}{m} \} \cdot \knob{width}{F}",
    knobs={
        "n_experts": Knob(8, "experts, from narrow to wide (the paper: up to 6 or 16 a layer)", low=1, high=256),
        "k": Knob(1, "how many experts each token gets", low=1, high=64, live=True),
        "width": Knob(32, "hidden width of the narrowest expert (the paper: 1024)", low=1, high=8192),
        "widest": Knob(3, "how many times as wide the widest is (1: all alike)", low=1, high=64),
        "fewer": Knob(0, "experts that a layer has less than the one below, the widest first", low=0, high=255),
        "aux_loss": Knob(0.01, "weight of the loss that asks for an even load (0: none)", low=0, high=10, live=True),
    },
    pitfalls=(
        "An even load in tokens is not an even load in FLOPs: the balancing loss knows nothing of widths.",
        "Nothing tells the router that a wide expert is expensive, nor that it can do more: it has to find out.",
        "An expert that a layer does not have is masked before the softmax; left in, it would take its share of p.",
        "The weights are raw probabilities, not renormalised, also for k above 1.",
        "The search for widths and numbers is left out, and so are the biases of the experts and their dropout.",
        "Compare with alike experts of the same mean width: equal parameters, and equal FLOPs at an even load.",
    ),
    reference="none packaged; the tests hold it to a float64 reading, and alike experts to transformers' Switch",
    claims=(
        Claim(
            "wide-for-the-hard",
            "Tokens that need more get the wider experts.",
            source="arXiv:2210.07535, adaptive computation", reported="",
            metric="width of the expert that a point gets: kinds with a wavy target, and kinds with a linear one",
            measure=tiny.width_by_kind, control_is="kinds with a linear target",
            effect="ratio", relation=">=", threshold=1.2, why="a fifth more width",
        ),
        Claim(
            "better-than-alike",
            "At equal size, experts of different widths do better than alike ones where kinds differ in difficulty.",
            source="arXiv:2210.07535, what the search prefers", reported="",
            metric="error after 1000 steps on kinds with wavy and with linear targets, MSE / Var(y)",
            measure=tiny.errors, control_is="eight experts of the mean width",
            effect="ratio", threshold=0.9, why="a tenth less error",
        ),
        Claim(
            "as-good-for-less",
            "Experts of which only some are wide do as well as experts that are all wide.",
            source="arXiv:2210.07535, results", reported="BLEU 28.2 at 2.9 GFLOPs, dense 28.4 at 10.6 (WMT14 En-De)",
            metric="held_out_loss",
            setup={"steps": 400, "horizon": 400, "width": 16},
            control={"width": 48, "widest": 1}, control_is="all experts as wide as the widest",
            effect="difference", threshold=None, why="reported only: so early, all experts narrow might do as well",
        ),
    ),
)  # fmt: skip
class HeterogeneousExperts(Instrumented):
    """x_BTD -> y_BTD. `sizes` are the experts' widths in blocks. `follow` tells a layer which one is below it."""

    taps = {"logits": "B T E", "probs": "B T E", "weights": "B T K", "index": "B T K", "cost": "B T"}
    scores = "probabilities"
    kernel = "auto"
    blocks: Tensor

    def __init__(
        self, d_model: int, n_experts: int = 8, k: int = 1, width: int = 32, widest: int = 3, fewer: int = 0,
        aux_loss: float = 0.01,
    ) -> None:  # fmt: skip
        super().__init__()
        self.n_experts, self.k, self.width, self.widest, self.fewer = n_experts, k, width, widest, fewer
        self.aux_loss, self.present = aux_loss, n_experts
        self.sizes = [
            1 + (2 * e * (widest - 1) + n_experts - 1) // max(1, 2 * (n_experts - 1)) for e in range(n_experts)
        ]
        self.score = nn.Linear(d_model, n_experts)
        nn.init.normal_(self.score.weight, std=d_model**-0.5)
        nn.init.zeros_(self.score.bias)
        self.up = nn.Parameter(torch.randn(sum(self.sizes), d_model, width) * (2 / d_model) ** 0.5)
        size_of_block = torch.tensor([size for size in self.sizes for _ in range(size)])
        self.down = nn.Parameter(
            torch.randn(sum(self.sizes), width, d_model) * (width * size_of_block)[:, None, None] ** -0.5
        )
        first = [sum(self.sizes[:e]) for e in range(n_experts)]
        table = [
            [start + m if m < size else -1 for m in range(widest)]
            for start, size in zip(first, self.sizes, strict=True)
        ]
        self.register_buffer(
            "blocks", torch.tensor(table), persistent=False
        )  # of each expert; -1: narrower than the widest

    def follow(self, below: "HeterogeneousExperts") -> None:
        """Have so many experts less than the layer below, but as many as a token gets."""
        self.present = max(self.k, below.present - self.fewer)

    @property
    def slots(self) -> float:
        return float(self.k)

    def forward(self, x_BTD: Tensor) -> Tensor:
        logits_BTE = F.linear(x_BTD.float(), self.score.weight.float(), self.score.bias.float())
        absent_E = torch.arange(self.n_experts, device=x_BTD.device) >= self.present
        probs_BTE = self.tap("probs", self.tap("logits", logits_BTE.masked_fill(absent_E, -torch.inf)).softmax(-1))
        weights_BTK, index_BTK = probs_BTE.topk(self.k, dim=-1)
        index_BTK = torch.where(index_BTK < self.present, index_BTK, -1)  # k is live
        self.auxiliary = self.aux_loss * load_balancing_loss(probs_BTE, index_BTK) if self.aux_loss else None
        weights_BTK, index_BTK = self.tap("weights", weights_BTK.to(x_BTD.dtype)), self.tap("index", index_BTK)
        block_BTKM = self.blocks[index_BTK.clamp(min=0)].masked_fill(index_BTK[..., None] < 0, -1)
        self.tap("cost", self.width * (block_BTKM >= 0).sum((-2, -1)))
        x_ND, weights_BTKM = x_BTD.reshape(-1, x_BTD.shape[-1]), weights_BTK[..., None].expand_as(block_BTKM)
        self.kernel = choose("auto", x_ND, self.up, self.down)
        per_token = (len(x_ND), self.k * self.widest)
        y_ND = experts(
            x_ND,
            block_BTKM.reshape(per_token),
            weights_BTKM.reshape(per_token),
            self.up,
            self.down,
            "relu",
            self.kernel,
        )
        return y_ND.view_as(x_BTD)

    def flops(self, _T: int) -> float:
        """Of a token's experts where all have the same load."""
        mean = sum(self.sizes[: self.present]) / self.present
        return 2.0 * self.k * mean * (self.up[0].numel() + self.down[0].numel())

    def idle(self) -> float:
        """How many parameters a token does not meet."""
        return self.up.numel() + self.down.numel() - self.flops(1) / 2
