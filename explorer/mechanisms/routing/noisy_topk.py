"""Noisy top-k gating: learned noise decides between close experts, so that each of them is tried and the load stays even.

Shazeer et al. (arXiv:1701.06538), the first large mixture of experts between layers of a network. Noise is added to the
logits in training only; the k largest are kept and the softmax over them gives the weights. Two losses even out the
experts: the importance loss their sums of weights, the load loss the number of tokens they may expect, which is smooth
because of the noise. Both matrices start at zero: no signal and some noise.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from explorer.catalogue import Claim, Knob, Paper, mechanism
from explorer.metrics import cv_squared
from explorer.taps import Instrumented

STEPS = {"steps": 400, "horizon": 400}
LEAST_NOISE = 0.01  # of the authors' code: without it the load is 0/0 where the noise has died out


@mechanism(
    "noisy-topk",
    title="Noisy top-k gating",
    family="routing",
    slot="router",
    paper=Paper(
        "Outrageously Large Neural Networks: The Sparsely-Gated Mixture-of-Experts Layer",
        "N. Shazeer et al.",
        2017,
        "1701.06538",
    ),
    lab="Google",
    summary="Learned noise on the scores lets close experts take turns; two losses even out importance and load.",
    equation=r"H = x W_g + \epsilon \odot \big(\operatorname{softplus}(x W_n) + 0.01\big), \quad "
    r"G = \operatorname{softmax}\big(\operatorname{top}_{\knob{k}{k}}(H)\big), \quad y = \sum_e G_e\, E_e(x), \qquad "
    r"L = \knob{importance_loss}{w_i}\, \operatorname{CV}^2\Big(\sum_x G(x)\Big) "
    r"+ \knob{load_loss}{w_l}\, \operatorname{CV}^2\Big(\sum_x P(x)\Big)",
    knobs={
        "n_experts": Knob(8, "how many experts there are to choose from (the paper: up to 131 072)", low=1, high=256),
        "k": Knob(2, "how many experts each token gets (the paper: 4)", low=1, high=64, live=True),
        "importance_loss": Knob(0.1, "weight of the loss on uneven sums of weights", low=0, high=10, live=True),
        "load_loss": Knob(0.1, "weight of the loss on uneven expected loads", low=0, high=10, live=True),
    },
    pitfalls=(
        "The top-k comes first and the softmax after it: a token's weights sum to one.",
        "With k = 1 the weight is always 1, and no gradient of the task reaches score.weight or noise.weight.",
        "At the start all logits are 0: no gradient reaches x through the router, and without noise, as in evaluation, "
        + "a tie sends every token to the same k experts.",
        "Noise is for training only; an evaluation with noise is another, random model.",
        "Equal importance is not equal load: few tokens of large weight weigh as much as many of small weight.",
        "The load asks for the noisy k-th largest of the OTHER experts, which for a kept expert is the (k+1)-th of all.",
    ),
    reference="none packaged; the tests hold it to a float64 reading of the paper's equations",
    claims=(
        Claim(
            "losses-balance",
            "With both losses the load is even.",
            source="arXiv:1701.06538, appendix A and its table 6",
            reported="busiest expert at 1.14 times the mean load (MaxVio 0.14) with w = 0.1",
            metric="load_entropy",
            setup=STEPS,
            control={"importance_loss": 0.0, "load_loss": 0.0},
            control_is="neither loss",
            relation=">=",
            threshold=0.95,
            why="an entropy of 0.95 is that of 7.2 of 8 experts",
        ),
        Claim(
            "collapse-without-losses",
            "Without the losses the router keeps choosing the same few experts.",
            source="arXiv:1701.06538, section 4 and table 6",
            reported="busiest expert at 17.8 times the mean load (MaxVio 16.8 of 255)",
            metric="max_violation",
            setup={**STEPS, "importance_loss": 0.0, "load_loss": 0.0},
            control={"importance_loss": 0.1, "load_loss": 0.1},
            control_is="both losses at 0.1",
            relation=">=",
            threshold=1.2,
            why="far beyond what sampling or the text explain; with two of eight experts a token it cannot exceed 3",
        ),
        Claim(
            "one-loss-suffices",
            "Either loss alone balances the load as well.",
            source="arXiv:1701.06538, table 6",
            reported="MaxVio 0.47 with the importance loss alone, 0.15 with the load loss alone (weights 0.2)",
            metric="max_violation",
            setup={**STEPS, "importance_loss": 0.0, "load_loss": 0.2},
            control={"importance_loss": 0.0, "load_loss": 0.0},
            control_is="neither loss",
            threshold=0.5,
            why="no expert at more than one and a half times its share",
        ),
    ),
)
class NoisyTopK(Instrumented):
    """x_BTD -> (weights_BTK, index_BTK); `noise` is the standard deviation that a token gives each expert's score."""

    taps = {"logits": "B T E", "noise": "B T E", "probs": "B T E", "weights": "B T K", "index": "B T K"}
    scores = "probabilities"

    def __init__(
        self, d_model: int, n_experts: int = 8, k: int = 2, importance_loss: float = 0.1, load_loss: float = 0.1
    ) -> None:
        super().__init__()
        self.n_experts, self.k, self.importance_loss, self.load_loss = n_experts, k, importance_loss, load_loss
        self.score = nn.Linear(d_model, n_experts, bias=False)
        self.noise = nn.Linear(d_model, n_experts, bias=False)
        nn.init.zeros_(self.score.weight)
        nn.init.zeros_(self.noise.weight)

    @property
    def slots(self) -> float:
        return float(self.k)

    def forward(self, x_BTD: Tensor) -> tuple[Tensor, Tensor]:
        seen_BTD = x_BTD.float()
        logits_BTE = self.tap("logits", F.linear(seen_BTD, self.score.weight.float()))
        noise_BTE = self.tap("noise", F.softplus(F.linear(seen_BTD, self.noise.weight.float())) + LEAST_NOISE)
        noisy_BTE = logits_BTE + torch.randn_like(logits_BTE) * noise_BTE if self.training else logits_BTE
        if self.watched("probs"):
            self.tap("probs", noisy_BTE.softmax(-1))
        kept_BTK, index_BTK = noisy_BTE.topk(self.k, dim=-1)
        weights_BTK = kept_BTK.softmax(-1)
        importance_E = torch.zeros_like(noisy_BTE).scatter(-1, index_BTK, weights_BTK).flatten(0, 1).sum(0)
        load_E = self.chance(logits_BTE, noisy_BTE, noise_BTE).flatten(0, 1).sum(0)
        self.auxiliary = self.importance_loss * cv_squared(importance_E) + self.load_loss * cv_squared(load_E)
        return self.tap("weights", weights_BTK.to(x_BTD.dtype)), self.tap("index", index_BTK)

    def chance(self, logits_BTE: Tensor, noisy_BTE: Tensor, noise_BTE: Tensor) -> Tensor:
        """P: the chance that an expert would be among the k best if its own noise, and no other, were drawn anew."""
        if self.k == self.n_experts:
            return torch.ones_like(logits_BTE)
        best = noisy_BTE.topk(self.k + 1, dim=-1).values
        kth_BT1, next_BT1 = best[..., -2:-1], best[..., -1:]
        rival_BTE = torch.where(noisy_BTE > next_BT1, next_BT1, kth_BT1)  # the k-th largest of the others
        return torch.special.ndtr((logits_BTE - rival_BTE) / noise_BTE)
