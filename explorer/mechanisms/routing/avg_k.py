"""Avg-K: a block of hidden units is scored by the mean of its own keys, so that the router has no weights of its own.

Liu et al. (arXiv:2305.13999) see every sparse feed-forward layer as a memory of cells, each a key row and a value row, cut
into blocks of which a token uses a few. Between a mixture of experts (few large blocks, a learned router) and a plain top-k
(blocks of one cell) lies Avg-K: the token goes to the blocks whose cells it excites most on average.
"""

import torch
from torch import Tensor, nn

from explorer.catalogue import Claim, Knob, Paper, mechanism
from explorer.kernels.experts import choose, experts
from explorer.taps import Instrumented

CLUSTERS = {"task": "clusters", "steps": 600, "horizon": 600, "learning_rate": 1e-2}


@mechanism(
    "avg-k",
    title="Avg-K blocks",
    family="routing",
    slot="feed-forward",
    paper=Paper(
        "Towards A Unified View of Sparse Feed-Forward Network in Pretraining Large Language Model",
        "Z. L. Liu, T. Dettmers, X. V. Lin, V. Stoyanov, X. Li",
        2023,
        "2305.13999",
    ),
    lab="Meta AI",
    summary="Each token uses the k blocks of hidden units whose mean key suits it best: a router without weights.",
    equation=r"\bar K_e = \frac{1}{\knob{width}{g}} \sum_{j \in e} K_j, \qquad y = \sum_{e \in "
    r"\operatorname{top}_{\knob{k}{k}}(x \cdot \bar K)}\ \sum_{j \in e} \operatorname{ReLU}(x \cdot K_j)\, V_j",
    knobs={
        "n_experts": Knob(16, "blocks of cells", low=1, high=1024),
        "k": Knob(4, "blocks that each token uses", low=1, high=1024, live=True),
        "width": Knob(16, "cells of a block, g (the paper: 1 to 4096)", low=1, high=8192),
    },
    pitfalls=(
        "The mean key follows its cells: computed anew at every step, never stored.",
        "To normalise the mean keys changes the ranking: a block of long, agreeing keys is meant to win.",
        "Scores are means before ReLU; after it, all cells would have to be computed to choose among them.",
        "No weight on the blocks and no gradient through the choice: keys learn as cells of the blocks in use.",
        "Tapped `probs` are the softmax of the scores, for the figures: the layer does not use them.",
        "A loss that balances would hide the point, that none is needed.",
    ),
    reference="none packaged; the tests hold it to a float64 reading of the equations, and to torch's at k = n_experts",
    claims=(
        Claim(
            "more-than-its-flops",
            "A quarter of the blocks per token beats a dense layer of equal FLOPs.",
            source="arXiv:2305.13999, abstract: better than Switch and hash layers at matched FLOPs",
            reported="2 in perplexity better than Switch, as recalled",
            metric="held_out_loss",
            setup=CLUSTERS,
            control={"mechanism": "glu", "activation": "relu", "width": 72, "n_experts": None, "k": None},
            control_is="a dense layer of equal FLOPs",
            effect="ratio",
            threshold=0.5,
            why="as much as sigma-MoE is asked for against a dense layer of its FLOPs",
        ),
        Claim(
            "alive-without-balancing",
            "No block dies, without any balancing loss.",
            source="arXiv:2305.13999, section on Avg-K",
            reported="no load balancing needed",
            metric="dead_experts",
            setup={"steps": 400, "horizon": 400, "n_experts": 16, "k": 1, "width": 64},
            control={"mechanism": "topk-softmax-raw", "aux_loss": 0.0, "z_loss": 0.0, "expert_width": 64, "width": None},
            control_is="a learned router without balancing loss",
            threshold=0.02,
            why="less than one of 32 blocks",
        ),
        Claim(
            "small-blocks-are-better",
            "For the same number of active cells, smaller blocks are better.",
            source="arXiv:2305.13999, figure of perplexity over block size",
            reported="perplexity falls with the block size",
            metric="held_out_loss",
            setup={**CLUSTERS, "n_experts": 64, "k": 16, "width": 4},
            control={"n_experts": 4, "k": 1, "width": 64},
            control_is="blocks of 64 cells instead of 4",
            effect="ratio",
            threshold=0.9,
            why="a tenth less error; seeds differ by some 10 %",
        ),
    ),
)  # fmt: skip
class AvgK(Instrumented):
    """x_BTD -> y_BTD: blocks are chosen by their own cells and computed, without weights on them."""

    taps = {"logits": "B T E", "probs": "B T E", "weights": "B T K", "index": "B T K"}
    scores = "probabilities"

    def __init__(self, d_model: int, n_experts: int = 16, k: int = 4, width: int = 16) -> None:
        super().__init__()
        self.n_experts, self.k, self.width = n_experts, k, width
        self.kernel = "auto"  # which path ran last
        self.keys = nn.Parameter(torch.randn(n_experts, d_model, width) * d_model**-0.5)  # E D F
        self.values = nn.Parameter(torch.randn(n_experts, width, d_model) * (n_experts * width) ** -0.5)  # E F D

    @property
    def slots(self) -> float:
        return float(self.k)

    def forward(self, x_BTD: Tensor) -> Tensor:
        logits_BTE = self.tap("logits", x_BTD.float() @ self.keys.float().mean(-1).T)
        if self.watched("probs"):
            self.tap("probs", logits_BTE.softmax(-1))
        index_BTK = self.tap("index", logits_BTE.topk(self.k, dim=-1).indices)
        weights_BTK = self.tap("weights", torch.ones_like(index_BTK, dtype=x_BTD.dtype))
        x_ND = x_BTD.flatten(0, -2)
        self.kernel = choose("auto", x_ND, self.keys, self.values)
        index_NK, weights_NK = index_BTK.flatten(0, -2), weights_BTK.flatten(0, -2)
        return experts(x_ND, index_NK, weights_NK, self.keys, self.values, "relu", self.kernel).view_as(x_BTD)

    def flops(self, _: int) -> float:
        """A token: the mean keys, and the cells of the blocks it uses."""
        return 2.0 * self.keys.shape[1] * (self.n_experts + 2 * self.k * self.width)

    def idle(self) -> float:
        """Parameters that a token does not meet: the values of the other blocks (their keys choose, so all are read)."""
        return (1 - self.k / self.n_experts) * self.values.numel()
