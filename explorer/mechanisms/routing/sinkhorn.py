"""Balanced assignment by Sinkhorn: in training, tokens are spread evenly over the experts at the least loss of score.

BASE layers (arXiv:2103.16716) give every expert exactly tokens / E tokens, by solving an assignment problem. Its solution
is approached here, as in S-BASE (arXiv:2202.01169), by Sinkhorn's iteration: the exponentials of the scores are normalised
over the tokens of each expert, then over the experts of each token, again and again; a token goes to its largest entry.
In evaluation every token simply takes its best expert. No balancing loss; the weight is the sigmoid of the raw score.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from explorer.catalogue import Claim, Knob, Paper, mechanism
from explorer.taps import Instrumented

STEPS = {"steps": 400, "horizon": 400}


@mechanism(
    "sinkhorn",
    title="BASE: balanced assignment by Sinkhorn",
    family="routing",
    slot="router",
    paper=Paper("BASE Layers: Simplifying Training of Large, Sparse Models", "M. Lewis et al.", 2021, "2103.16716"),
    lab="Meta AI",
    summary="In training the whole batch is shared out evenly at the least loss of score; afterwards each takes its best.",
    equation=r"\ell = X W_r, \quad \Pi = \operatorname{Sinkhorn}_{\knob{iterations}{n}}"
    r"\big(e^{\ell / \knob{temperature}{\tau}}\big), \quad "
    r"e_t = \begin{cases} \operatorname{argmax}_e \Pi_{te} & \text{training} \\ "
    r"\operatorname{argmax}_e \ell_{te} & \text{evaluation} \end{cases}, \qquad "
    r"y_t = \sigma(\ell_{t e_t})\, E_{e_t}(x_t)",
    knobs={
        "n_experts": Knob(8, "how many experts there are to choose from (BASE: 128)", low=1, high=256),
        "iterations": Knob(16, "how often rows and columns are normalised in turn", low=1, high=1000, live=True),
        "temperature": Knob(
            0.2, "what scores are divided by: low is close to an assignment", low=0, above=True, high=100, live=True
        ),
        "balanced": Knob(
            "training", "when the batch is shared out evenly", choices=("training", "always", "never"), live=True
        ),
    },
    pitfalls=(
        "Training and evaluation differ: a router that leans on the balancing is uneven as soon as it stands alone.",
        "NOT CAUSAL in training: where a token goes depends on all others of the batch, later ones too.",
        "The plan has even columns, its largest entries need not: BASE solves the assignment, Sinkhorn comes near it.",
        "Tokens that are all alike have equal rows, and the largest entry of equal rows is one expert for all.",
        "The plan chooses and carries no gradient; the router learns through the sigmoid of the chosen score alone.",
        "The temperature has to be small against the spread of the scores: at 1 the plan is nearly uniform and says little.",
    ),
    reference="torch: sinkhorn-router-pytorch 0.0.14, function sinkhorn",
    claims=(
        Claim(
            "even-in-training",
            "Shared out this way, every expert gets about the same number of tokens, without any loss.",
            source="arXiv:2103.16716, section 3.1",
            reported="exactly even (BASE solves the assignment)",
            metric="max_violation",
            setup={**STEPS, "after": {"balanced": "always"}},
            control={"balanced": "never", "after": {}},
            control_is="each token takes its best expert, in training too",
            threshold=0.25,
            why="the plan is even, the largest entries nearly so",
        ),
        Claim(
            "greedy-stays-usable",
            "Trained balanced, the router alone is not balanced, but no expert has more than twice its share.",
            source="arXiv:2103.16716, section 3.2",
            reported="",
            metric="max_violation",
            setup=STEPS,
            control={"balanced": "never"},
            control_is="each token takes its best expert, in training too",
            threshold=1.0,
            why="the limit that a balancing loss of 0.01 keeps in Switch",
        ),
        Claim(
            "costs-no-loss",
            "Balancing costs nothing in what the model learns.",
            source="arXiv:2103.16716, section 5",
            reported="better than Switch at equal compute",
            metric="held_out_loss",
            setup=STEPS,
            control={"balanced": "never"},
            control_is="each token takes its best expert, in training too",
            effect="difference",
            threshold=0.03,
            why="seeds differ by as much",
        ),
    ),
)
class Sinkhorn(Instrumented):
    """x_BTD -> (weights_BT1, index_BT1); `probs` is the plan, each row of which sums to one."""

    taps = {"logits": "B T E", "probs": "B T E", "weights": "B T K", "index": "B T K"}
    scores = "probabilities"
    slots = 1.0

    def __init__(
        self, d_model: int, n_experts: int = 8, iterations: int = 16, temperature: float = 0.2,
        balanced: str = "training",
    ) -> None:  # fmt: skip
        super().__init__()
        self.n_experts, self.iterations, self.temperature, self.balanced = n_experts, iterations, temperature, balanced
        self.score = nn.Linear(d_model, n_experts, bias=False)
        nn.init.normal_(self.score.weight, std=d_model**-0.5)  # logits of unit variance for a normed token

    def forward(self, x_BTD: Tensor) -> tuple[Tensor, Tensor]:
        logits_BTE = self.tap("logits", F.linear(x_BTD.float(), self.score.weight.float()))
        together = self.balanced == "always" or (self.balanced == "training" and self.training)
        plan_BTE = self.plan(logits_BTE.detach(), self.iterations if together else 0)
        index_BT1 = self.tap("probs", plan_BTE).argmax(-1, keepdim=True)
        weights_BT1 = logits_BTE.gather(-1, index_BT1).sigmoid()
        return self.tap("weights", weights_BT1.to(x_BTD.dtype)), self.tap("index", index_BT1)

    def plan(self, logits_BTE: Tensor, iterations: int) -> Tensor:
        """The scores as shares: rows sum to one, columns nearly to tokens / E; without iterations, a plain softmax."""
        scores_NE = logits_BTE.flatten(0, 1).nan_to_num(0.0, 1e4, -1e4) / self.temperature  # one NaN would spoil all
        scores_EN = scores_NE.T.contiguous()  # rows of N: up to nine times as fast as rows of E
        for _ in range(iterations):
            scores_EN = scores_EN.log_softmax(1).log_softmax(0)
        plan_BTE = scores_EN.softmax(0).T.view_as(logits_BTE)
        return torch.where(logits_BTE.isnan(), logits_BTE, plan_BTE)
