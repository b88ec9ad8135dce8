"""Top-k softmax routing, not renormalised: the k best experts, each weighted by its probability among all experts.

The router of OLMoE (arXiv:2409.02060), one line away from Mixtral's: the kept weights sum to less than one, so that an
unsure router turns its layer down, and even k = 1 leaves it a gradient. No token is ever dropped.
"""

from torch import Tensor, nn

from explorer.catalogue import Claim, Knob, Paper, mechanism
from explorer.metrics import load_balancing_loss, z_loss
from explorer.taps import Instrumented


@mechanism(
    "topk-softmax-raw",
    title="Top-k softmax routing, not renormalised",
    family="routing",
    slot="router",
    paper=Paper("OLMoE: Open Mixture-of-Experts Language Models", "N. Muennighoff et al.", 2024, "2409.02060"),
    lab="Allen Institute for AI",
    summary="Each token goes to its k best-scoring experts, each weighted by its probability among all of them.",
    equation=r"p(x) = \operatorname{softmax}(x W_r), \qquad "
    r"y = \sum_{e \in \operatorname{top}_{\knob{k}{k}} p(x)} p_e(x)\, E_e(x)",
    knobs={
        "n_experts": Knob(8, "how many experts there are to choose from (OLMoE: 64)", low=1, high=256),
        "k": Knob(2, "how many experts each token gets (OLMoE: 8)", low=1, high=64, live=True),
        "aux_loss": Knob(0.01, "weight of the loss that asks for an even load (0: none)", low=0, high=10, live=True),
        "z_loss": Knob(0.001, "weight of the loss that keeps the logits small (0: none)", low=0, high=10, live=True),
    },
    pitfalls=(
        "The weights of a token sum to k/E while the router is undecided: at first the layer is that much quieter.",
        "Renormalising is one flag of a checkpoint (norm_topk_prob); read wrongly, it loads without an error.",
        "Very sure logits underflow: a chosen expert can have weight 0, so weight 0 does not mean an empty slot.",
        "Both losses are means over the tokens of one layer, and a host adds up its layers. OLMoE's training code "
        + "divides both by the number of layers, and the z-loss by k as well: its coefficients mean less there.",
    ),
    reference="transformers: OlmoeTopKRouter",
    claims=(
        Claim(
            "routing-settles-early",
            "After 40 % of training most tokens already have the experts they end with.",
            source="arXiv:2409.02060, section 5 (router saturation)",
            reported="up to about 80 %, later layers",
            metric="saturation",
            setup={"steps": 400, "horizon": 400},
            control_metric="saturation_by_chance",
            control_is="the same loads, tokens at random",
            relation=">=",
            threshold=0.5,
            why="k/E = 0.25 is chance at an even load; twice that cannot be chance",
        ),
        Claim(
            "later-layers-settle-first",
            "Later layers settle earlier than the first one.",
            source="arXiv:2409.02060, section 5 (router saturation)",
            reported="layer 0 is the slowest of 16",
            metric="saturation_last_layer",
            setup={"steps": 400, "horizon": 400},
            control_metric="saturation_first_layer",
            control_is="the first layer",
            effect="difference",
            relation=">=",
            threshold=0.0,
            why="the sign is the claim",
        ),
        Claim(
            "settled-after-one-percent",
            "After 1 % of training, much of the routing is final.",
            source="arXiv:2409.02060, section 5 (router saturation)",
            reported="up to about 60 %",
            metric="saturation_early",
            setup={"steps": 400, "horizon": 400},
            control_metric="saturation_early_by_chance",
            control_is="the same loads, tokens at random",
            relation=">=",
            threshold=None,
            why="reported only: 1 % of 400 steps are four, of theirs some ten thousand",
        ),
    ),
)
class TopKSoftmaxRaw(Instrumented):
    """x_BTD -> (weights_BTK, index_BTK); the weights are the probabilities of the chosen experts."""

    taps = {"logits": "B T E", "probs": "B T E", "weights": "B T K", "index": "B T K"}
    scores = "probabilities"

    def __init__(
        self, d_model: int, n_experts: int = 8, k: int = 2, aux_loss: float = 0.01, z_loss: float = 0.001
    ) -> None:
        super().__init__()
        self.n_experts, self.k, self.aux_loss, self.z_loss = n_experts, k, aux_loss, z_loss
        self.score = nn.Linear(d_model, n_experts, bias=False)
        nn.init.normal_(self.score.weight, std=d_model**-0.5)  # logits of unit variance for a normed token

    @property
    def slots(self) -> float:
        return float(self.k)

    def forward(self, x_BTD: Tensor) -> tuple[Tensor, Tensor]:
        logits_BTE = self.tap("logits", self.score(x_BTD))
        probs_BTE = self.tap("probs", logits_BTE.float().softmax(-1))
        weights_BTK, index_BTK = probs_BTE.topk(self.k, dim=-1)
        losses = [self.aux_loss * load_balancing_loss(probs_BTE, index_BTK)] if self.aux_loss else []
        losses += [self.z_loss * z_loss(logits_BTE)] if self.z_loss else []
        self.auxiliary = sum(losses[1:], losses[0]) if losses else None
        return self.tap("weights", weights_BTK.to(x_BTD.dtype)), self.tap("index", index_BTK)
