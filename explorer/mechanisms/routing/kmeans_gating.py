"""K-means gating: the gate is not trained by gradient but fitted, every few steps, to the clusters of what it reads.

The gate of MixER (arXiv:2502.05335), whose experts are models of dynamical systems and whose gate reads a context vector of
each system; here it reads the token. K-means finds as many clusters as there are experts, each cluster gets one expert, and
least squares fits a linear gate to that assignment. The chosen expert counts fully: no gate weight, so no gradient either.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from explorer.catalogue import Claim, Knob, Paper, mechanism
from explorer.taps import Instrumented


@mechanism(
    "kmeans-gating",
    title="K-means gating",
    family="routing",
    slot="router",
    paper=Paper("Towards Foundational Models for Dynamical System Reconstruction: "
                "Hierarchical Meta-Learning via Mixture of Experts",
                "R. D. Nzoyem, G. Stevens, A. Sahota, D. A. W. Barton, T. Deakin", 2025, "2502.05335"),
    lab="University of Bristol",
    summary="Each token goes to the expert of its cluster; the gate is fitted by K-means and least squares, not trained.",
    equation=r"e^* = \operatorname{argmax}_e\, [x; 1] W_{\cdot e}, \quad y = E_{e^*}(x), \qquad W = \operatorname{argmin}_W "
    r"\sum_x \lVert [x; 1] W - \operatorname{onehot}(c(x)) \rVert^2, "
    r"\ \text{fitted every } \knob{every}{n} \text{ steps}, \quad c = \text{K-means}",
    knobs={
        "n_experts": Knob(8, "experts, and clusters to be found", low=1, high=256),
        "every": Knob(5, "training steps from one fit to the next", low=1, high=10_000, live=True),
        "iterations": Knob(20, "K-means iterations at most, in one fit", low=1, high=1000, live=True),
        "tolerance": Knob(1e-3, "centres that move less than this have settled (the authors: 1e-4 or 1e-3)",
                          low=0, above=True, high=10, live=True),
    },
    pitfalls=(
        "The weight is 1, not the gate's probability: anything else would rescale the dynamics that an expert models.",
        "No gradient reaches the gate or, through the choice, its input x: the clusters know nothing of the loss.",
        "A cluster that is empty, or centres that have not settled, cancel the fit: the old gate stays.",
        "Centres start from those of the fit before, else the clusters, and experts, would swap their numbers.",
        "Distances are mean absolute differences, while centres are means: not quite what K-means minimises.",
        "In MixER a cluster gets the expert with the least median loss on it, in order of clusters, greedily; a router "
        + "sees no losses, so that here cluster j keeps expert j.",
        "MixER's gate reads a context: a new system must first learn its own before it can be routed.",
        "Nothing balances the load: a cluster may hold one token or nearly all.",
    ),
    reference="torch: linalg.lstsq; K-means against a float64 reading with loops (none packaged)",
    claims=(
        Claim(
            "recovers-the-families",
            "Fitted to the contexts of systems that are being learned, the gate gives each family of ODEs its own expert.",
            source="arXiv:2502.05335, abstract",
            reported="up to ten families, where gradient-trained gates fail",
            metric="share of 18 systems of three families with their family's expert",
            measure=lambda seed: families_recovered(seed),  # noqa: PLW0108 (it stands below the class)
            control_is="a gate trained by gradient",
            relation=">=",
            threshold=0.95,
            why="one system of eighteen may be wrong in one of three seeds",
        ),
        Claim(
            "clusters-without-gradient",
            "On tokens that form clusters the gate finds them.",
            source="arXiv:2502.05335, section on the gating network; the task is ours",
            reported="",
            metric="nmi",
            setup={"task": "clusters", "steps": 200, "horizon": 200, "learning_rate": 1e-2},
            control={"steps": 0},
            control_is="before training",
            relation=">=",
            threshold=0.8,
            why="K-means may merge two of eight clusters and split another, and still knows 0.9 of them",
        ),
    ),
)  # fmt: skip
class KMeansGating(Instrumented):
    """x_BTD -> (weights_BT1, index_BT1), all weights 1. Gate and centres are state: fitted in training, no parameters."""

    taps = {"logits": "B T E", "probs": "B T E", "weights": "B T K", "index": "B T K"}
    scores = "probabilities"
    slots = 1.0
    weight: Tensor
    bias: Tensor
    centres: Tensor
    steps: Tensor

    def __init__(
        self, d_model: int, n_experts: int = 8, every: int = 5, iterations: int = 20, tolerance: float = 1e-3
    ) -> None:
        super().__init__()
        self.n_experts, self.every, self.iterations, self.tolerance = n_experts, every, iterations, tolerance
        self.register_buffer("weight", torch.randn(n_experts, d_model) * d_model**-0.5)
        self.register_buffer("bias", torch.zeros(n_experts))
        self.register_buffer("centres", 1e-3 * (2 * torch.rand(n_experts, d_model) - 1))
        self.register_buffer("steps", torch.zeros((), dtype=torch.int64))

    def forward(self, x_BTD: Tensor) -> tuple[Tensor, Tensor]:
        if self.training:
            self.learn(x_BTD.detach().flatten(0, -2).float())
        logits_BTE = self.tap("logits", F.linear(x_BTD.float(), self.weight.float(), self.bias.float()))
        probs_BTE = self.tap("probs", logits_BTE.softmax(-1))
        index_BT1 = self.tap("index", probs_BTE.argmax(-1, keepdim=True))
        known_BT1 = probs_BTE.gather(-1, index_BT1).isfinite()  # NaN in, NaN out
        return self.tap("weights", torch.where(known_BT1, 1.0, torch.nan).to(x_BTD.dtype)), index_BT1

    @torch.no_grad()
    def learn(self, x_ND: Tensor) -> None:
        """A step of training: every so many, new centres and, if they are sound, a new gate."""
        due = int(self.steps) % self.every == 0
        self.steps.add_(1)
        if not (due and x_ND.isfinite().all()):
            return
        centres_ED, cluster_N, settled = kmeans(x_ND, self.centres.float(), self.iterations, self.tolerance)
        self.centres.copy_(centres_ED)
        if settled:
            weight_ED, bias_E = least_squares(x_ND, cluster_N, self.n_experts)
            self.weight.copy_(weight_ED)
            self.bias.copy_(bias_E)


def kmeans(x_ND: Tensor, centres_ED: Tensor, iterations: int, tolerance: float) -> tuple[Tensor, Tensor, bool]:
    """(centres, the cluster of each point, whether the centres have settled with no cluster empty)."""
    moved = torch.inf
    for _ in range(iterations):
        cluster_N = torch.cdist(x_ND, centres_ED, p=1).argmin(-1)
        member_NE = F.one_hot(cluster_N, len(centres_ED)).to(x_ND.dtype)
        count_E1 = member_NE.sum(0)[:, None]
        means_ED = torch.where(count_E1 > 0, member_NE.T @ x_ND / count_E1.clamp(min=1), centres_ED)
        moved = float((means_ED - centres_ED).abs().max())
        centres_ED = means_ED
        if moved < tolerance:
            break
    return centres_ED, cluster_N, moved < tolerance and bool((count_E1 > 0).all())


def least_squares(x_ND: Tensor, expert_N: Tensor, n_experts: int) -> tuple[Tensor, Tensor]:
    """(weight (E, D), bias (E,)) of the linear gate that comes nearest to 1 for a point's expert and 0 for the others."""
    noisy_ND = x_ND + 1e-4 * torch.randn_like(x_ND)  # or equal points would leave the fit undetermined
    read_ND = F.pad(
        noisy_ND, (0, 1), value=1.0
    ).double()  # in double precision the rounding of the solver is out of sight
    fitted = torch.linalg.lstsq(read_ND, F.one_hot(expert_N, n_experts).double()).solution.to(x_ND.dtype)
    return fitted[:-1].T, fitted[-1]


def families_recovered(seed: int) -> tuple[float, float]:
    """Share of the systems with the expert of their family: by this gate, and by one trained by gradient."""
    from explorer.mechanisms.routing._kmeans_gating_claims import routing_accuracy

    return routing_accuracy(seed, "least squares"), routing_accuracy(seed, "gradient")
