"""Top-k activation: a feed-forward layer in which a token keeps its k largest hidden units and drops the others.

The simplest of the approximations that Csordas, Irie and Schmidhuber compare (arXiv:2310.10837). A two-layer network is a
sum over its hidden units, each the value row it adds times how far its key row agrees with the token. Most terms are small
or, behind ReLU, zero: top-k leaves them out. All keys are compared, so only the second matrix product gets cheaper.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from explorer.catalogue import Claim, Knob, Paper, mechanism
from explorer.errors import BadValue
from explorer.taps import Instrumented

CLUSTERS = {"task": "clusters", "steps": 600, "horizon": 600, "learning_rate": 1e-2, "width": 256}


@mechanism(
    "topk-activation",
    title="Top-k activation",
    family="routing",
    slot="feed-forward",
    paper=Paper(
        "Approximating Two-Layer Feedforward Networks for Efficient Transformers",
        "R. Csordas, K. Irie, J. Schmidhuber",
        2023,
        "2310.10837",
    ),
    lab="IDSIA",
    summary="A feed-forward layer whose every hidden unit is an expert: a token keeps the k that it excites most.",
    equation=r"u = \operatorname{ReLU}(W_1 x) \in \mathbb{R}^{\knob{width}{F}}, \qquad "
    r"y = \sum_{i \in \operatorname{top}_{\knob{k}{k}}(u)} u_i\, W_{2, i}",
    knobs={
        "width": Knob(256, "hidden units: the targets among which a token chooses (the paper: about 1650)",
                      low=1, high=8192),
        "k": Knob(64, "how many hidden units each token keeps (the paper: 64 to 512)", low=1, high=8192, live=True),
        "rank": Knob("activation", "what the largest is judged by: u, or u times the length of the row it adds",
                     choices=("activation", "contribution"), live=True),
    },
    pitfalls=(
        "Only the second product shrinks: which units are largest is known after all have been computed.",
        "The choice is not differentiated; a unit that was left out gets no gradient from that token.",
        "Top-k comes after ReLU: a token with fewer than k positive units leaves slots empty (index -1).",
        "A unit that never is among the k best never learns: look for dead ones at small k.",
        "The published runs rank by u; by contribution u * |W2_i| approximates a given layer better.",
        "In a trained model k cannot exceed the width: a larger one keeps every unit.",
    ),
    reference="torch: nn.Linear and ReLU at k = width; below, a float64 reading of the equations (none packaged)",
    claims=(
        Claim(
            "few-units-matter",
            "In a language model that was trained whole, a quarter of the units per token does nearly all of the work.",
            source="arXiv:2310.10837, section on top-k activation",
            reported="",
            metric="held_out_loss",
            setup={"steps": 400, "horizon": 400, "width": 256, "k": 256, "after": {"k": 64}},
            control={"after": {}},
            control_is="the same model, all units",
            effect="difference",
            threshold=0.03,
            why="the smallest paired difference of losses that is more than noise",
        ),
        Claim(
            "more-than-its-flops",
            "A layer of 256 units of which a token keeps 64 learns more than a dense one of equal FLOPs.",
            source="arXiv:2310.10837, tables of top-k beside dense layers",
            reported="",
            metric="held_out_loss",
            setup={**CLUSTERS, "k": 64},
            control={"mechanism": "glu", "activation": "relu", "width": 160, "k": None},
            control_is="a dense layer of 160 units",
            effect="ratio",
            threshold=0.85,
            why="the distance asked of sigma-MoE on the same task",
        ),
        Claim(
            "learned-not-cut",
            "Where every unit is needed it matters that the layer learned with top-k, and was not cut down afterwards.",
            source="the comparison is ours; the paper's layers learn with top-k",
            reported="",
            metric="held_out_loss",
            setup={**CLUSTERS, "k": 64},
            control={"k": 256, "after": {"k": 64}},
            control_is="trained whole, cut to 64 units",
            effect="ratio",
            threshold=0.3,
            why="a difference in kind",
        ),
    ),
)  # fmt: skip
class TopKActivation(Instrumented):
    """x_BTD -> y_BTD. The hidden units are the targets: `n_experts` is the width, `weights` are their activations."""

    taps = {"logits": "B T E", "probs": "B T E", "weights": "B T K", "index": "B T K"}
    scores = "independent"

    def __init__(self, d_model: int, width: int = 256, k: int = 64, rank: str = "activation") -> None:
        super().__init__()
        if k > width:
            raise BadValue(f"k={k}: it must be at most the number of hidden units, width={width}")
        self.width, self.k, self.rank = width, k, rank
        self.keys = nn.Parameter(torch.randn(width, d_model) * d_model**-0.5)  # W1, a row a unit
        self.values = nn.Parameter(torch.randn(width, d_model) * width**-0.5)  # W2, a row a unit

    @property
    def n_experts(self) -> int:
        return self.width

    @property
    def slots(self) -> float:
        return float(min(self.k, self.width))

    def forward(self, x_BTD: Tensor) -> Tensor:
        logits_BTE = self.tap("logits", F.linear(x_BTD, self.keys))
        units_BTE = self.tap("probs", logits_BTE.float().relu())
        ranked_BTE = units_BTE.detach()
        if self.rank == "contribution":
            ranked_BTE = ranked_BTE * self.values.detach().float().norm(dim=-1)
        index_BTK = ranked_BTE.topk(min(self.k, self.width), dim=-1).indices
        weights_BTK = self.tap("weights", units_BTE.gather(-1, index_BTK).to(x_BTD.dtype))
        index_BTK = self.tap("index", torch.where(weights_BTK == 0, -1, index_BTK))
        kept_BTK = torch.where(index_BTK < 0, 0.0, weights_BTK)
        sparse_BTE = torch.zeros_like(units_BTE).scatter_add(-1, index_BTK.clamp(min=0), kept_BTK.to(units_BTE.dtype))
        return sparse_BTE.to(x_BTD.dtype) @ self.values

    def flops(self, _: int) -> float:
        """A token: all keys, and the values of the units it keeps."""
        return 2.0 * self.keys.shape[1] * (self.width + self.slots)

    def idle(self) -> float:
        """Parameters that a token does not meet: the values of the units that it leaves out."""
        return (1 - self.slots / self.width) * self.values.numel()
