"""ReLU routing: an expert works for a token if its score is positive, and a penalty that adapts sets how many do.

ReMoE (arXiv:2412.14711). No top-k and no softmax: the weight is the ReLU of the score itself, so routing is
differentiable everywhere, and easy tokens may use fewer experts than hard ones. The mean number is held at k by an L1
penalty whose strength grows by a factor after every batch with too many active experts, and shrinks after one with too few.
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from explorer.catalogue import Claim, Knob, Paper, mechanism
from explorer.taps import Instrumented

STEPS = {"steps": 400, "horizon": 400}
WEAKEST, STRONGEST = 1e-8, 1e4  # beyond them the strength would need hundreds of steps to be felt, or to let go, again


@mechanism(
    "relu-routing",
    title="ReLU routing (ReMoE)",
    family="routing",
    slot="router",
    paper=Paper(
        "ReMoE: Fully Differentiable Mixture-of-Experts with ReLU Routing",
        "Z. Wang, J. Zhu, J. Chen",
        2024,
        "2412.14711",
    ),
    lab="Tsinghua University",
    summary="Every expert with a positive score works; an adaptive penalty holds their mean number at k.",
    equation=r"r = \operatorname{ReLU}(x W_r), \quad y = \sum_e r_e\, E_e(x), \qquad "
    r"L = \lambda\, \frac{\knob{n_experts}{E}}{\knob{k}{k}\, T^2} \sum_e \Big(\sum_t r_{te}\Big)\, "
    r"\big|\{t : r_{te} > 0\}\big|, \qquad "
    r"\lambda \leftarrow \lambda \cdot \knob{rate}{\alpha}^{\operatorname{sign}("
    r"\text{active a token} - \knob{k}{k})}",
    knobs={
        "n_experts": Knob(8, "how many experts there are", low=1, high=256),
        "k": Knob(2, "how many experts a token shall use in the mean", low=1, high=64, live=True),
        "rate": Knob(
            1.2, "factor of the penalty's strength from batch to batch (1: it stays)", low=1, high=10, live=True
        ),
    },
    pitfalls=(
        "A token may use no expert at all, or every one: index is -1 in the slots of experts that do not work.",
        "The weights are not normalised and have no upper limit: they carry the scale of the scores.",
        "The count in the penalty carries no gradient; without it this is a plain L1, which does not balance.",
        "Here each layer steers its own penalty. The authors average the sparsity over the layers, so that some layers "
        + "use many experts and others few.",
        "Without a limit the strength falls to 1e-26 while too few experts are active, and is then helpless for long.",
        "An expert that is negative for every token gets no gradient any more: the ReLU's death.",
    ),
    reference="none packaged; the tests hold it to a float64 reading of the paper's equations",
    claims=(
        Claim(
            "reaches-the-target",
            "The adaptive penalty brings the mean number of active experts down to k.",
            source="arXiv:2412.14711, section 3.3 and figure 4",
            reported="sparsity 1 - k/E after some hundred steps",
            metric="distance of the active experts a token from k = 2, worst layer",
            measure=lambda seed: distance_from_target(seed),  # noqa: PLW0108 (it stands below the class)
            control_is="a penalty that stays at its initial strength",
            threshold=0.4,
            why="a batch of 512 tokens is steered by its own mean, the held-out text has another",
        ),
        Claim(
            "number-varies",
            "How many experts work differs from token to token.",
            source="arXiv:2412.14711, section 5.1",
            reported="rare tokens use more experts",
            metric="standard deviation over tokens of the active experts, least layer",
            measure=lambda seed: spread_over_tokens(seed),  # noqa: PLW0108
            control_is="topk-softmax (exactly 0)",
            relation=">=",
            threshold=0.5,
            why="one token in four has one expert more or less",
        ),
        Claim(
            "as-good-as-top-k",
            "It learns as well as top-k routing with the same mean number of experts.",
            source="arXiv:2412.14711, table 1",
            reported="consistently better than top-k",
            metric="held_out_loss",
            setup=STEPS,
            control={"mechanism": "topk-softmax", "aux_loss": 0.01},
            control_is="topk-softmax",
            effect="difference",
            threshold=0.0,
            why="better means lower",
        ),
    ),
)
class ReLURouting(Instrumented):
    """x_BTD -> (weights_BTE, index_BTE): slot e of a token holds the expert e where it works, or -1 and the weight 0."""

    taps = {"logits": "B T E", "probs": "B T E", "strength": "1", "weights": "B T K", "index": "B T K"}
    scores = "independent"
    strength: Tensor

    def __init__(self, d_model: int, n_experts: int = 8, k: int = 2, rate: float = 1.2) -> None:
        super().__init__()
        self.n_experts, self.k, self.rate = n_experts, k, rate
        self.score = nn.Linear(d_model, n_experts, bias=False)
        nn.init.normal_(self.score.weight, std=d_model**-0.5)  # logits of unit variance for a normed token
        self.register_buffer("strength", torch.tensor([WEAKEST]))

    @property
    def slots(self) -> float:
        return float(self.k)

    def forward(self, x_BTD: Tensor) -> tuple[Tensor, Tensor]:
        logits_BTE = self.tap("logits", F.linear(x_BTD.float(), self.score.weight.float()))
        gate_BTE = self.tap("probs", logits_BTE.relu())
        active_BTE = ~(gate_BTE <= 0)  # a NaN is not silently skipped
        strength = self.tap("strength", self.strength.float())
        share_E = active_BTE.float().mean((0, 1)) / self.k
        self.auxiliary = strength[0] * self.n_experts * torch.dot(share_E, gate_BTE.mean((0, 1)))
        if self.training:
            steps = (share_E.sum() - 1).sign()
            self.strength = (strength * self.rate**steps).clamp(WEAKEST, STRONGEST)  # for the next batch
        experts_E = torch.arange(self.n_experts, device=x_BTD.device)
        weights_BTE = self.tap("weights", torch.where(active_BTE, gate_BTE, 0.0).to(x_BTD.dtype))
        return weights_BTE, self.tap("index", torch.where(active_BTE, experts_E, -1))


def active(mechanism: str, seed: int, **knobs: Any) -> Tensor:
    """(L, tokens): how many experts each held-out token uses after 400 steps."""
    from explorer.experiment import Experiment

    seen = Experiment(mechanism, seed=seed, watch=None, horizon=400, **knobs).run(400).examine(watch="*/index")[1]
    return torch.stack([(seen.last(f"{layer}/index") >= 0).sum(-1).flatten().float() for layer in seen.layers()])


def distance_from_target(seed: int) -> tuple[float, float]:
    """Largest distance of a layer's mean from k: with the adaptive penalty, and with one that stays."""
    own, fixed = (active("relu-routing", seed, rate=rate).mean(1) for rate in (1.2, 1.0))
    return (own - 2).abs().max().item(), (fixed - 2).abs().max().item()


def spread_over_tokens(seed: int) -> tuple[float, float]:
    """Smallest standard deviation over a layer's tokens; top-k always gives k."""
    return active("relu-routing", seed).std(1).min().item(), active("topk-softmax", seed).std(1).min().item()
