"""Loss-free balancing: a bias on every expert's score, turned up where the load was low, keeps the load even.

Wang et al. (arXiv:2408.15664), as in the router of DeepSeek-V3 (arXiv:2412.19437). An expert's score is the sigmoid of
its logit; the bias b is added for the choice only, and the weights come from the scores as they are. After a batch, b
rises by a fixed step for every expert with less than its share of the tokens and falls for the others: no gradient and
no balancing loss is involved. Group limits (DeepSeek-V3: 4 of 8) keep a token on few machines.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from explorer.catalogue import Claim, Knob, Paper, mechanism
from explorer.errors import BadValue
from explorer.taps import Instrumented

STEPS = {"steps": 400, "horizon": 400}


@mechanism(
    "loss-free-bias",
    title="Auxiliary-loss-free balancing",
    family="routing",
    slot="router",
    paper=Paper(
        "Auxiliary-Loss-Free Load Balancing Strategy for Mixture-of-Experts", "L. Wang et al.", 2024, "2408.15664"
    ),
    lab="DeepSeek-AI",
    summary="A bias that counts only for the choice rises for idle experts and falls for busy ones: no balancing loss.",
    equation=r"s = \sigma(x W_r), \quad \mathcal{K} = \operatorname{top}_{\knob{k}{k}}(s + b), \quad "
    r"g_e = \knob{scale}{\lambda} \cdot \frac{s_e}{\sum_{j \in \mathcal{K}} s_j}, \quad "
    r"y = \sum_{e \in \mathcal{K}} g_e\, E_e(x), \qquad "
    r"b_e \leftarrow b_e + \knob{bias_rate}{u}\, \operatorname{sign}(\bar{c} - c_e)",
    knobs={
        "n_experts": Knob(8, "how many experts there are to choose from (DeepSeek-V3: 256)", low=1, high=256),
        "k": Knob(2, "how many experts each token gets (DeepSeek-V3: 8)", low=1, high=64, live=True),
        "bias_rate": Knob(0.001, "step of the bias after a batch (0: it stays)", low=0, high=1, live=True),
        "groups": Knob(1, "into how many groups of equal size the experts fall (DeepSeek-V3: 8)", low=1, high=64),
        "top_groups": Knob(1, "from how many groups a token may choose (DeepSeek-V3: 4)", low=1, high=64),
        "scale": Knob(
            1.0, "what a token's weights add up to (DeepSeek-V3: 2.5)", low=0, above=True, high=10, live=True
        ),
    },
    pitfalls=(
        "The weights come from s, not from s + b: taking the biased scores is the common bug of re-implementations.",
        "The bias steps by the sign, whatever the size of the violation: too large a step swings for ever.",
        "It looks at past batches only. The bias of this very batch would tell a token of the tokens after it.",
        "Where the sigmoids saturate all experts tie, the bias moves the whole batch at once, and balancing fails.",
        "The bias is a buffer: the optimizer must not see it, a checkpoint must, and evaluation must not move it.",
        "DeepSeek-V3 adds a tiny loss per sequence (1e-4) and a shared expert; both are left out here.",
        "Groups that are not allowed are masked by -inf: 0, as in some ports, would beat a negative biased score.",
    ),
    reference="transformers: DeepseekV3TopkRouter (which never moves its bias; the step is held to a float64 reading)",
    claims=(
        Claim(
            "bias-balances",
            "The bias alone balances the load, without any loss.",
            source="arXiv:2408.15664, section 4",
            reported="MaxVio 0.04 where a balancing loss has 0.72 (1B model)",
            metric="max_violation",
            setup={**STEPS, "bias_rate": 0.01},
            control={"bias_rate": 0.0},
            control_is="a bias that stays 0",
            threshold=0.25,
            why="an even router shows 0.04 on as many independent tokens, and neighbours in a text are not independent",
        ),
        Claim(
            "large-steps-swing",
            "Too large a step makes the load swing and balances worse.",
            source="arXiv:2408.15664, on the update rate",
            reported="a higher rate fluctuates late in training",
            metric="max_violation",
            setup={**STEPS, "bias_rate": 0.1},
            control={"bias_rate": 0.01},
            control_is="u = 0.01",
            effect="ratio",
            relation=">=",
            threshold=3.0,
            why="three times the violation of the smaller step",
        ),
        Claim(
            "costs-no-loss",
            "Balancing this way does not harm what the model learns.",
            source="arXiv:2408.15664, section 4",
            reported="perplexity 9.50 where a balancing loss has 9.56 (1B model)",
            metric="held_out_loss",
            setup={**STEPS, "bias_rate": 0.01},
            control={"bias_rate": 0.0},
            control_is="no balancing",
            effect="difference",
            threshold=0.03,
            why="seeds differ by as much",
        ),
    ),
)
class LossFreeBias(Instrumented):
    """x_BTD -> (weights_BTK, index_BTK); the weights of a token add up to `scale`."""

    taps = {"logits": "B T E", "probs": "B T E", "bias": "E", "weights": "B T K", "index": "B T K"}
    scores = "independent"
    bias: Tensor

    def __init__(
        self, d_model: int, n_experts: int = 8, k: int = 2, bias_rate: float = 0.001, groups: int = 1,
        top_groups: int = 1, scale: float = 1.0,
    ) -> None:  # fmt: skip
        super().__init__()
        self.n_experts, self.k, self.bias_rate, self.scale = n_experts, k, bias_rate, scale
        self.groups, self.top_groups = groups, top_groups
        self.score = nn.Linear(d_model, n_experts, bias=False)
        nn.init.normal_(self.score.weight, std=d_model**-0.5)  # logits of unit variance for a normed token
        self.register_buffer("bias", torch.zeros(n_experts))
        self.allowed()

    @property
    def slots(self) -> float:
        return float(self.k)

    def forward(self, x_BTD: Tensor) -> tuple[Tensor, Tensor]:
        logits_BTE = self.tap("logits", F.linear(x_BTD.float(), self.score.weight.float()))
        scores_BTE = self.tap("probs", logits_BTE.sigmoid())
        bias_E = self.tap("bias", self.bias.float())
        index_BTK = self.choose(scores_BTE.detach() + bias_E)
        if self.training and self.bias_rate:
            load_E = F.one_hot(index_BTK, self.n_experts).sum((0, 1, 2)).float()
            self.bias = bias_E + self.bias_rate * (load_E.mean() - load_E).sign()  # for the batches to come
        weights_BTK = scores_BTE.gather(-1, index_BTK)
        weights_BTK = self.scale * weights_BTK / (weights_BTK.sum(-1, keepdim=True) + 1e-20)
        return self.tap("weights", weights_BTK.to(x_BTD.dtype)), self.tap("index", index_BTK)

    def choose(self, biased_BTE: Tensor) -> Tensor:
        """The k best biased scores among the groups whose two best add up to most."""
        size = self.allowed()
        if self.top_groups < self.groups:
            groups_BTGE = biased_BTE.unflatten(-1, (self.groups, size))
            best_BTG = groups_BTGE.topk(min(2, size), dim=-1).values.sum(-1).topk(self.top_groups, dim=-1).indices
            open_BTG = torch.zeros_like(groups_BTGE[..., 0], dtype=torch.bool).scatter(-1, best_BTG, True)
            biased_BTE = groups_BTGE.masked_fill(~open_BTG[..., None], -torch.inf).flatten(-2)
        return biased_BTE.topk(self.k, dim=-1).indices

    def allowed(self) -> int:
        """Experts a group; BadValue where the knobs leave a token fewer than k (k may change during a run)."""
        if self.n_experts % self.groups:
            raise BadValue(f"groups={self.groups}: it must divide the number of experts, n_experts={self.n_experts}")
        if self.top_groups > self.groups:
            raise BadValue(f"top_groups={self.top_groups}: it must be at most the number of groups, {self.groups}")
        size = self.n_experts // self.groups
        if self.k > self.top_groups * size:
            raise BadValue(f"k={self.k}: it must be at most the {self.top_groups * size} experts of the groups allowed")
        return size
