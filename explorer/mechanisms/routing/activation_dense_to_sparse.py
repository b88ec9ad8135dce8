"""Activation dense-to-sparse gating: a nonlinearity before the temperature makes both of them identifiable.

"Is Temperature Sample Efficient for Softmax Gaussian Mixture of Experts?" (arXiv:2401.13875) shows that softmax(linear / tau)
cannot be estimated well, because weights and temperature can stand in for each other, and proposes
softmax((activation(x W) + b) / tau) instead. Here tau falls in training, as in `dense-to-sparse`.
"""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from explorer.catalogue import Claim, Knob, Paper, mechanism
from explorer.taps import Instrumented

ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {"tanh": torch.tanh, "sigmoid": torch.sigmoid, "gelu": F.gelu}
ANNEALED = {"steps": 300, "horizon": 300, "anneal_steps": 240}
CONSTANT = {"start": 1.0, "end": 1.0}


@mechanism(
    "activation-dense-to-sparse",
    title="Activation dense-to-sparse gating",
    family="routing",
    slot="router",
    paper=Paper("Is Temperature Sample Efficient for Softmax Gaussian Mixture of Experts?",
                "H. Nguyen, P. Akbarian, N. Ho", 2024, "2401.13875"),
    lab="University of Texas at Austin",
    summary="Dense-to-sparse gating with bounded scores: a nonlinearity stands between the router and the temperature.",
    equation=r"g(x) = \operatorname{softmax}\!\left(\frac{\sigma(x W_r) + b}{\tau_t}\right), \quad "
    r"\tau_t = \knob{start}{\tau_0} \left(\frac{\knob{end}{\tau_1}}{\knob{start}{\tau_0}}\right)^{"
    r"\min(1,\, t / \knob{anneal_steps}{S})}, \quad \sigma = \knob{activation}{\tanh}, \qquad "
    r"y = \sum_{e :\, g_e \geq \knob{threshold}{\theta}\ \text{or best}} \frac{g_e}{\sum g}\, E_e(x)",
    knobs={
        "n_experts": Knob(8, "how many experts there are to choose from", low=1, high=256),
        "activation": Knob("tanh", "what a score goes through before the bias and the temperature",
                           choices=("tanh", "sigmoid", "gelu"), live=True),
        "start": Knob(1.0, "temperature of the first step", low=0, above=True, high=1000, live=True),
        "end": Knob(0.03, "temperature after the last step of the descent", low=0, above=True, high=1000, live=True),
        "anneal_steps": Knob(240, "training steps over which it falls", low=1, high=1_000_000, live=True),
        "threshold": Knob(0.01, "experts with less weight are left out, except the best (1: top-1; 0: none is)",
                          low=0, high=1, live=True),
    },
    pitfalls=(
        "The nonlinearity stands before bias and temperature; after them it would only bend the probabilities.",
        "A linear `activation` is excluded by the theory: (c W, c b, c tau) would be the same gate for every c.",
        "Scores are bounded, by 1 for tanh: start and end are lower than those of an unbounded gate.",
        "Where tanh saturates, weights in the router grow without effect: their gradient vanishes.",
        "That estimation is slow without it is a worst case of theory, not a rate that training shows.",
        "In the paper the temperature is estimated; here it falls on a schedule, as in EvoMoE (arXiv:2112.14397).",
        "The step count is state: training forward passes advance it, evaluation reads it, a state_dict keeps it.",
        "The threshold is for computation, and none of the theory's; what is kept is scaled to sum to one.",
    ),
    reference="torch: softmax over scaled logits; the schedule against a float64 reading (none packaged)",
    claims=(
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
            "temperature-can-be-told",
            "Behind a nonlinearity the data tell temperature and weights apart; behind a linear score no data can.",
            source="arXiv:2401.13875: rates of the two gates; this check is ours",
            reported="rates as the root of the sample, instead of slower than any polynomial",
            metric="smallest over largest eigenvalue of the gate's Fisher information",
            measure=lambda seed: (flatness(seed, torch.tanh), flatness(seed)),
            control_is="no nonlinearity: a flat direction",
            relation=">=",
            threshold=1e-5,
            why="float64 can invert it; the flat one is 0 but for rounding, 1e-16",
        ),
    ),
)  # fmt: skip
class ActivationDenseToSparse(Instrumented):
    """x_BTD -> (weights_BTE, index_BTE), the best expert first; weights sum to one, experts below the threshold are -1."""

    taps = {"logits": "B T E", "probs": "B T E", "weights": "B T K", "index": "B T K"}  # as many slots as experts
    scores = "probabilities"
    steps: Tensor

    def __init__(
        self, d_model: int, n_experts: int = 8, activation: str = "tanh", start: float = 1.0, end: float = 0.03,
        anneal_steps: int = 240, threshold: float = 0.01,
    ) -> None:  # fmt: skip
        super().__init__()
        self.n_experts, self.activation, self.start, self.end = n_experts, activation, start, end
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
        inner_BTE = ACTIVATIONS[self.activation](F.linear(x_BTD.float(), self.score.weight.float()))
        logits_BTE = self.tap("logits", inner_BTE + self.score.bias.float())
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


def flatness(seed: int, activation: Callable[[Tensor], Tensor] = torch.clone) -> float:
    """Smallest over largest eigenvalue of the Fisher information of (w, b, tau) in sigmoid((activation(w x) + b) / tau)."""
    x_N = torch.linspace(-2, 2, 1000, dtype=torch.float64)
    w_b_tau = 0.5 + torch.rand(3, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)

    def score(theta: Tensor) -> Tensor:
        return (activation(theta[0] * x_N) + theta[1]) / theta[2]

    gradient_N3, p_N = torch.autograd.functional.jacobian(score, w_b_tau), score(w_b_tau).sigmoid()
    fisher = gradient_N3.T @ (gradient_N3 * (p_N * (1 - p_N))[:, None]) / len(x_N)
    eigenvalues = torch.linalg.eigvalsh(fisher).abs()
    return (eigenvalues.min() / eigenvalues.max()).item()
