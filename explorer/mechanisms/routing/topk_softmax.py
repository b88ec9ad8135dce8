"""Top-k softmax routing: every token scores the experts, keeps the k best, and mixes them by the softmax over those k.

The router of Mixtral (arXiv:2401.04088). Softmax over all experts followed by renormalisation over the kept ones gives
the same weights as softmax over the kept logits alone; it is written the first way, so that `probs` shows every expert.
"""

import torch
from torch import Tensor, nn

from explorer.catalogue import Claim, Knob, Paper, mechanism
from explorer.metrics import load_balancing_loss
from explorer.taps import Instrumented


@mechanism(
    "topk-softmax",
    title="Top-k softmax routing",
    family="routing",
    slot="router",
    paper=Paper("Mixtral of Experts", "A. Q. Jiang et al.", 2024, "2401.04088"),
    lab="Mistral AI",
    summary="Each token goes to its k best-scoring experts, whose outputs are mixed by weights that sum to one.",
    equation=r"g(x) = \operatorname{softmax}\big(\operatorname{top}_{\knob{k}{k}}(x W_r)\big), \qquad "
    r"y = \sum_{e \in \operatorname{top}_{\knob{k}{k}}} g_e(x)\, E_e(x)",
    knobs={
        "n_experts": Knob(8, "how many experts there are to choose from", low=1, high=256),
        "k": Knob(2, "how many experts each token gets", low=1, high=64, live=True),
        "aux_loss": Knob(0.001, "weight of the loss that asks for an even load (0: none)", low=0, high=10, live=True),
    },
    pitfalls=(
        "With k = 1 the weight is always 1, and the task loss sends no gradient to the router; Switch keeps it raw.",
        "What little arrives at k = 1 is the rounding of the division, and Adam still turns it into steps.",
        "Softmax before or after the top-k is the same here, and only because the kept weights are renormalised.",
        "The share of tokens in the auxiliary loss is a count: it carries no gradient, the mean probability does.",
        "The auxiliary loss is 1 at an even load, whatever k; transformers' helper gives k times that.",
    ),
    reference="transformers: MixtralTopKRouter, MixtralSparseMoeBlock",
    claims=(
        Claim(
            "no-gradient-at-k1",
            "With k = 1 and renormalised weights the task teaches the router nothing.",
            source="the equation; arXiv:2101.03961 keeps the raw probability for this reason",
            reported="0",
            metric="gradient of a task's loss in the router, norm",
            measure=lambda seed: gradients_at_k1(seed),  # noqa: PLW0108 (it stands below the class)
            control_is="the same router with the raw probability as its weight",
            effect="ratio",
            threshold=1e-5,
            why="0 in exact arithmetic; dividing in float32 leaves some 1e-7",
        ),
        Claim(
            "aux-loss-balances",
            "A balancing loss of weight 0.1 keeps the experts evenly loaded.",
            source="arXiv:2101.03961, section 2.2, which Mixtral's public training code uses with k = 2",
            reported="",
            metric="max_violation",
            setup={"steps": 400, "horizon": 400, "aux_loss": 0.1},
            control={"aux_loss": 0.0},
            control_is="no balancing loss",
            threshold=0.25,
            why="an even router shows 0.04 on as many independent tokens, and neighbours in a text are not independent",
        ),
        Claim(
            "experts-know-tokens",
            "Which expert a token gets depends on what the token is.",
            source="arXiv:2401.04088, section 5",
            reported="'self' in Python often goes to one expert",
            metric="vocabulary_first_layer",
            setup={"steps": 400, "horizon": 400, "aux_loss": 0.01},
            control={"steps": 0},
            control_is="before training",
            relation=">=",
            threshold=0.6,
            why="more than half of what there is to know of the expert is known from the byte alone",
        ),
    ),
)
class TopKSoftmax(Instrumented):
    """x_BTD -> (weights_BTK, index_BTK); the weights of a token sum to one."""

    taps = {"logits": "B T E", "probs": "B T E", "weights": "B T K", "index": "B T K"}
    scores = "probabilities"

    def __init__(self, d_model: int, n_experts: int = 8, k: int = 2, aux_loss: float = 0.001) -> None:
        super().__init__()
        self.n_experts, self.k, self.aux_loss = n_experts, k, aux_loss
        self.score = nn.Linear(d_model, n_experts, bias=False)
        nn.init.normal_(self.score.weight, std=d_model**-0.5)  # logits of unit variance for a normed token

    @property
    def slots(self) -> float:
        return float(self.k)

    def forward(self, x_BTD: Tensor) -> tuple[Tensor, Tensor]:
        logits_BTE = self.tap("logits", self.score(x_BTD))
        probs_BTE = self.tap("probs", logits_BTE.float().softmax(-1))
        weights_BTK, index_BTK = probs_BTE.topk(self.k, dim=-1)
        weights_BTK = weights_BTK / weights_BTK.sum(-1, keepdim=True)
        self.auxiliary = self.aux_loss * load_balancing_loss(probs_BTE, index_BTK) if self.aux_loss else None
        return self.tap("weights", weights_BTK.to(x_BTD.dtype)), self.tap("index", index_BTK)


def gradients_at_k1(seed: int) -> tuple[float, float]:
    """Norm of a loss's gradient in the router with k = 1: with its own weights, and with the raw probability instead."""
    random = torch.Generator().manual_seed(seed)
    router = TopKSoftmax(64, k=1, aux_loss=0.0)
    x_BTD, wanted_BTK = (torch.randn(1, 256, size, generator=random) for size in (64, 1))
    raw_BTK = router.score(x_BTD).softmax(-1).amax(-1, keepdim=True)
    losses = [(weights_BTK * wanted_BTK).mean() for weights_BTK in (router(x_BTD)[0], raw_BTK)]
    own, raw = (torch.autograd.grad(loss, router.score.weight)[0].norm().item() for loss in losses)
    return own, raw
