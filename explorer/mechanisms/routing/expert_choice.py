"""Expert choice: tokens do not choose experts, each expert chooses the C tokens that want it most. NOT CAUSAL.

Zhou et al. (arXiv:2202.09368). Every expert takes exactly C = tokens * k / E tokens: the load is even by construction
and needs no auxiliary loss; a token may get no expert, or several. Who is chosen depends on all tokens of the group,
later ones too: in a language model the future leaks into the past.
"""

import torch
from torch import Tensor, nn

from explorer.catalogue import Claim, Knob, Paper, mechanism
from explorer.taps import Instrumented


@mechanism(
    "expert-choice",
    title="Expert choice routing",
    family="routing",
    slot="router",
    paper=Paper("Mixture-of-Experts with Expert Choice Routing", "Y. Zhou et al.", 2022, "2202.09368"),
    lab="Google",
    summary="Each expert takes the tokens that want it most, the same number for all: perfectly even, but not causal.",
    equation=r"S = \operatorname{softmax}_E(X W_r) \in \mathbb{R}^{T \times \knob{n_experts}{E}}, \quad "
    r"\mathcal{I}_e = \operatorname{top}_C(S_{\cdot e}), \quad C = T\, \knob{k}{k} / \knob{n_experts}{E}, \qquad "
    r"y_t = \sum_{e :\, t \in \mathcal{I}_e} S_{te}\, E_e(x_t)",
    knobs={
        "n_experts": Knob(8, "how many experts there are to choose (the paper: 16 to 128)", low=1, high=256),
        "k": Knob(
            2.0, "how many experts a token gets on average (the paper's capacity factor)",
            low=0, above=True, high=64, live=True,
        ),
        "group": Knob("batch", "which tokens an expert chooses among", choices=("batch", "sequence"), live=True),
    },
    pitfalls=(
        "NOT CAUSAL: which experts a token gets depends on tokens that come after it, so the training loss of a "
        + "language model comes out too good, and generating token by token gives other choices than training saw.",
        "With group = batch the leak is diluted, not gone. With group = sequence it is plain, and every sequence has "
        + "to use every expert equally, which erases specialisation by domain.",
        "Some tokens get no expert at all (index -1 in every slot): that is the rule at work, not a drop.",
        "An expert takes at least one token, so a group of a single token goes to all experts.",
        "An even load is no achievement of training here: it cannot be otherwise.",
    ),
    reference="none packaged; the tests hold it to a float64 reading of the paper's equations",
    claims=(
        Claim(
            "even-without-a-loss",
            "Every expert gets the same number of tokens, without any balancing loss.",
            source="arXiv:2202.09368, section 3",
            reported="perfect load balance",
            metric="max_violation",
            setup={"steps": 400, "horizon": 400, "group": "sequence"},
            control={"mechanism": "topk-softmax", "aux_loss": 0.0, "group": None},
            control_is="topk-softmax without balancing loss",
            relation="==",
            threshold=0.0,
            why="by construction",
        ),
        Claim(
            "sees-the-future",
            "A prediction depends on tokens that come after it.",
            source="arXiv:2202.09368, limitations",
            reported="not for text generation as it is",
            metric="future_flips",
            setup={"steps": 400, "horizon": 400, "group": "sequence"},
            control={"mechanism": "topk-softmax", "aux_loss": 0.0, "group": None},
            control_is="topk-softmax (exactly 0)",
            relation=">=",
            threshold=0.05,
            why="one prediction in twenty changes, where a causal model changes none",
        ),
    ),
)  # fmt: skip
class ExpertChoice(Instrumented):
    """x_BTD -> (weights_BTE, index_BTE): slot e of a token holds the expert e that took it, or -1 and the weight 0."""

    taps = {"logits": "B T E", "probs": "B T E", "weights": "B T K", "index": "B T K"}  # as many slots as experts
    scores = "probabilities"

    def __init__(self, d_model: int, n_experts: int = 8, k: float = 2.0, group: str = "batch") -> None:
        super().__init__()
        self.n_experts, self.k, self.group = n_experts, k, group
        self.score = nn.Linear(d_model, n_experts, bias=False)
        nn.init.normal_(self.score.weight, std=d_model**-0.5)  # logits of unit variance for a normed token

    @property
    def slots(self) -> float:
        return float(self.k)

    def forward(self, x_BTD: Tensor) -> tuple[Tensor, Tensor]:
        logits_BTE = self.tap("logits", self.score(x_BTD))
        probs_BTE = self.tap("probs", logits_BTE.float().softmax(-1))
        taken_BTE = self.taken(probs_BTE)
        experts_E = torch.arange(self.n_experts, device=x_BTD.device)
        weights_BTE = self.tap("weights", torch.where(taken_BTE, probs_BTE, 0.0).to(x_BTD.dtype))
        return weights_BTE, self.tap("index", torch.where(taken_BTE, experts_E, -1))

    def taken(self, probs_BTE: Tensor) -> Tensor:
        """Which tokens are among the C that an expert scores highest: (B, T, E) of bool."""
        groups_GNE = probs_BTE.reshape(1 if self.group == "batch" else len(probs_BTE), -1, self.n_experts)
        N = groups_GNE.shape[1]
        capacity = min(N, max(1, round(N * self.k / self.n_experts)))
        best_GCE = groups_GNE.topk(capacity, dim=1).indices
        return torch.zeros_like(groups_GNE, dtype=torch.bool).scatter(1, best_GCE, True).view_as(probs_BTE)
