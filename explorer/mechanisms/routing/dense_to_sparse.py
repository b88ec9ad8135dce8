"""Dense-to-sparse gating: at first every expert gets every token; a falling temperature narrows it down to one.

The gate is softmax(logits / tau), whose statistics "Is Temperature Sample Efficient for Softmax Gaussian Mixture of
Experts?" studies (arXiv:2401.13875); to let tau fall in training is the recipe of EvoMoE (arXiv:2112.14397). All experts learn
before the router commits itself, and in the end almost nothing is lost if only the best expert is computed.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from explorer.catalogue import Claim, Knob, Paper, mechanism
from explorer.taps import Instrumented

ANNEALED = {"steps": 300, "horizon": 300, "anneal_steps": 240}
CONSTANT = {"start": 1.0, "end": 1.0}


@mechanism(
    "dense-to-sparse",
    title="Dense-to-sparse gating",
    family="routing",
    slot="router",
    paper=Paper(
        "Is Temperature Sample Efficient for Softmax Gaussian Mixture of Experts?",
        "H. Nguyen, P. Akbarian, N. Ho",
        2024,
        "2401.13875",
    ),
    lab="University of Texas at Austin",
    summary="All experts take part, mixed by a softmax whose falling temperature makes the gate sparse in the end.",
    equation=r"g(x) = \operatorname{softmax}\!\left(\frac{x W_r + b}{\tau_t}\right), \quad \tau_t = \knob{start}{\tau_0} "
    r"\left(\frac{\knob{end}{\tau_1}}{\knob{start}{\tau_0}}\right)^{\min(1,\, t / \knob{anneal_steps}{S})}, \qquad "
    r"y = \sum_{e :\, g_e \geq \knob{threshold}{\theta}\ \text{or best}} \frac{g_e}{\sum g}\, E_e(x)",
    knobs={
        "n_experts": Knob(8, "how many experts there are to choose from", low=1, high=256),
        "start": Knob(4.0, "temperature of the first step", low=0, above=True, high=1000, live=True),
        "end": Knob(0.1, "temperature after the last step of the descent", low=0, above=True, high=1000, live=True),
        "anneal_steps": Knob(240, "training steps over which it falls", low=1, high=1_000_000, live=True),
        "threshold": Knob(0.01, "experts with less weight are left out, except the best (1: top-1; 0: none is)",
                          low=0, high=1, live=True),
    },
    pitfalls=(
        "Dense at first: until the temperature has fallen, a step costs as much as all experts do.",
        "At temperature 1 an untrained router is not dense: five or six of eight experts have weight.",
        "Part of the fall is division by tau; that leaving out the others costs nothing is what was learned.",
        "Too small a temperature saturates the gate: its gradient is zero and the choice is final.",
        "Weights and temperature are one too many: (c W, c b, c tau) is the same gate for every c above 0, and no data "
        + "can tell which; the paper's remedy is `activation-dense-to-sparse`.",
        "The step count is state: training forward passes advance it, evaluation reads it, a state_dict keeps it.",
        "The threshold is for computation, and none of the theory's; what is kept is scaled to sum to one.",
    ),
    reference="torch: softmax over scaled logits; the schedule against a float64 reading (none packaged)",
    claims=(
        Claim(
            "dense-at-first",
            "At the first step nearly all experts take part in every token.",
            source="arXiv:2112.14397",
            reported="all experts",
            metric="token_entropy",
            setup={**ANNEALED, "steps": 0},
            control=CONSTANT,
            control_is="temperature 1",
            relation=">=",
            threshold=0.936,
            why="seven of eight experts in effect: ln 7 / ln 8",
        ),
        Claim(
            "sparse-in-the-end",
            "In the end a token has hardly more than one expert.",
            source="arXiv:2112.14397",
            reported="one expert",
            metric="token_entropy",
            setup=ANNEALED,
            control=CONSTANT,
            control_is="temperature 1 all along",
            threshold=0.226,
            why="1.6 of eight experts in effect: ln 1.6 / ln 8",
        ),
        Claim(
            "truncation-is-free",
            "After the descent one expert a token is enough: to leave out the others costs almost nothing.",
            source="arXiv:2112.14397",
            reported="",
            metric="held_out_loss",
            setup={**ANNEALED, "after": {"threshold": 1.0}},
            control={"after": {}},
            control_is="the same model, all experts",
            effect="difference",
            threshold=0.05,
            why="within the spread of the loss between seeds",
        ),
        Claim(
            "truncation-costs-without",
            "At a constant temperature the others are needed.",
            source="the counterpart of the claim before",
            reported="",
            metric="held_out_loss",
            setup={**ANNEALED, **CONSTANT, "after": {"threshold": 1.0}},
            control={"after": {}},
            control_is="the same model, all experts",
            effect="difference",
            relation=">=",
            threshold=0.08,
            why="beyond the spread of the loss between seeds",
        ),
    ),
)  # fmt: skip
class DenseToSparse(Instrumented):
    """x_BTD -> (weights_BTE, index_BTE), the best expert first; weights sum to one, experts below the threshold are -1."""

    taps = {"logits": "B T E", "probs": "B T E", "weights": "B T K", "index": "B T K"}  # as many slots as experts
    scores = "probabilities"
    steps: Tensor

    def __init__(
        self, d_model: int, n_experts: int = 8, start: float = 4.0, end: float = 0.1, anneal_steps: int = 240,
        threshold: float = 0.01,
    ) -> None:  # fmt: skip
        super().__init__()
        self.n_experts, self.start, self.end = n_experts, start, end
        self.anneal_steps, self.threshold = anneal_steps, threshold
        self.score = nn.Linear(d_model, n_experts)
        nn.init.normal_(self.score.weight, std=d_model**-0.5)  # logits of unit variance for a normed token
        nn.init.zeros_(self.score.bias)
        self.register_buffer("steps", torch.zeros((), dtype=torch.int64))

    @property
    def slots(self) -> float:
        return float(self.n_experts)  # dense, until the temperature has fallen

    def temperature(self) -> Tensor:
        """Of the next forward pass."""
        done = (self.steps.float() / self.anneal_steps).clamp(max=1)
        return self.start * (self.end / self.start) ** done

    def forward(self, x_BTD: Tensor) -> tuple[Tensor, Tensor]:
        logits_BTE = self.tap("logits", F.linear(x_BTD.float(), self.score.weight.float(), self.score.bias.float()))
        probs_BTE = self.tap("probs", (logits_BTE / self.temperature()).softmax(-1))
        if self.training:
            self.steps.add_(1)
        weights_BTE, index_BTE = probs_BTE.sort(dim=-1, descending=True)
        out_BTE = weights_BTE < self.threshold
        out_BTE[..., 0] = False
        weights_BTE = weights_BTE.masked_fill(out_BTE, 0)
        weights_BTE = weights_BTE / weights_BTE.sum(-1, keepdim=True)
        index_BTE = index_BTE.masked_fill(out_BTE, -1)
        return self.tap("weights", weights_BTE.to(x_BTD.dtype)), self.tap("index", index_BTE)
