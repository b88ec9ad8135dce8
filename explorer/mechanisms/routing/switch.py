"""Switch routing: each token goes to its one best expert, and an expert that is full turns further tokens away.

Switch Transformer (arXiv:2101.03961). An expert takes at most C = ceil(tokens / E * capacity_factor) tokens in order of
position; a token that finds it full gets no expert, and only the residual stream carries it on.
The weight is the raw probability: with a single expert it is the only way in which the task can teach the router.
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from explorer.catalogue import Claim, Knob, Paper, mechanism
from explorer.metrics import load_balancing_loss
from explorer.taps import Instrumented

ROOMY = {"steps": 400, "horizon": 400, "capacity_factor": 8.0}  # an expert could take every token: nothing is dropped


@mechanism(
    "switch",
    title="Switch routing",
    family="routing",
    slot="router",
    paper=Paper(
        "Switch Transformers: Scaling to Trillion Parameter Models with Simple and Efficient Sparsity",
        "W. Fedus, B. Zoph, N. Shazeer",
        2021,
        "2101.03961",
    ),
    lab="Google",
    summary="Each token goes to its one best expert, weighted by the raw probability; a full expert drops latecomers.",
    equation=r"p(x) = \operatorname{softmax}(x W_r), \quad e^* = \operatorname{argmax}_e p_e(x), \qquad "
    r"y = \begin{cases} p_{e^*}(x)\, E_{e^*}(x) & \text{if among the first } "
    r"\lceil \knob{capacity_factor}{c}\, T / \knob{n_experts}{E} \rceil \text{ of } e^* \\ "
    r"0 & \text{otherwise} \end{cases}",
    knobs={
        "n_experts": Knob(8, "how many experts there are to choose from (Switch-Base: 128)", low=1, high=256),
        "capacity_factor": Knob(1.25, "an expert's room, in fair shares", low=0, above=True, high=256, live=True),
        "group": Knob("batch", "which tokens compete for room", choices=("batch", "sequence"), live=True),
        "jitter": Knob(0.01, "training only: random factor 1 +- this on the router's input", low=0, high=1, live=True),
        "aux_loss": Knob(0.01, "weight of the loss that asks for an even load (0: none)", low=0, high=10, live=True),
    },
    pitfalls=(
        "At capacity factor 1 even a perfect router drops tokens, because no real batch is exactly even.",
        "With group = batch the last sequences lose most, and an earlier one's future decides who is dropped.",
        "Loads count the tokens that were kept, and little room makes them look even: `choice` is what was asked for.",
        "More room in evaluation than in training (the authors' code: 2.0 after 1.25) is another model.",
        "The initial scale 0.1 of the paper is a variance: the standard deviation shrinks by its root, 0.32.",
        "Jitter blurs what the router sees, not what the experts compute on; some libraries blur both.",
    ),
    reference="transformers: SwitchTransformersTop1Router (which has group = sequence)",
    claims=(
        Claim(
            "collapse-without-balancing",
            "Without a balancing loss the router keeps choosing the same few experts.",
            source="arXiv:1701.06538, section 4 and its table of balancing losses",
            reported="busiest expert at 17.8 times the mean load (MaxVio 16.8)",
            metric="max_violation",
            setup={**ROOMY, "aux_loss": 0.0},
            control={"aux_loss": 0.01},
            control_is="aux_loss 0.01",
            relation=">=",
            threshold=2.0,
            why="one of eight experts with three times its share: far beyond what sampling or the text explain",
        ),
        Claim(
            "loss-prevents-collapse",
            "A balancing loss of weight 0.01 prevents it.",
            source="arXiv:2101.03961, section 2.2",
            reported="",
            metric="max_violation",
            setup={**ROOMY, "aux_loss": 0.01},
            control={"aux_loss": 0.0},
            control_is="no balancing loss",
            threshold=1.0,
            why="no expert at more than twice its share",
        ),
        Claim(
            "few-drops-when-balanced",
            "At capacity factor 1.25 a balanced router drops few tokens.",
            source="arXiv:2101.03961, section 2.2",
            reported="typically below 1 %",
            metric="empty_slots",
            setup={**ROOMY, "aux_loss": 0.01, "after": {"capacity_factor": 1.25}},
            control={"aux_loss": 0.0},
            control_is="no balancing loss",
            threshold=0.08,
            why="a batch of 512 bytes is less even than theirs of a million tokens; a collapsed router drops a quarter or more",
        ),
        Claim(
            "room-saves-tokens",
            "The more room the experts have, the fewer tokens are dropped.",
            source="arXiv:2101.03961, section 2.2 and figure 3",
            reported="",
            metric="empty_slots",
            setup={**ROOMY, "aux_loss": 0.01, "after": {"capacity_factor": 1.25}},
            control={"after": {"capacity_factor": 1.0}},
            control_is="capacity factor 1",
            effect="ratio",
            threshold=0.5,
            why="a quarter more room at least halves the drops",
        ),
    ),
)
class Switch(Instrumented):
    """x_BTD -> (weights_BT1, index_BT1); a dropped token has the index -1 and the weight 0."""

    taps = {"logits": "B T E", "probs": "B T E", "choice": "B T K", "weights": "B T K", "index": "B T K"}
    scores = "probabilities"
    slots = 1.0

    def __init__(
        self,
        d_model: int,
        n_experts: int = 8,
        capacity_factor: float = 1.25,
        group: str = "batch",
        jitter: float = 0.01,
        aux_loss: float = 0.01,
    ) -> None:
        super().__init__()
        self.n_experts, self.capacity_factor, self.group = n_experts, capacity_factor, group
        self.jitter, self.aux_loss = jitter, aux_loss
        self.score = nn.Linear(d_model, n_experts, bias=False)
        std = math.sqrt(0.1 / d_model)
        nn.init.trunc_normal_(self.score.weight, std=std, a=-2 * std, b=2 * std)

    def forward(self, x_BTD: Tensor) -> tuple[Tensor, Tensor]:
        seen_BTD = x_BTD.float()  # the paper's selective precision: the router in float32, the experts in any
        if self.training and self.jitter:
            seen_BTD = seen_BTD * (1 + self.jitter * (2 * torch.rand_like(seen_BTD) - 1))
        logits_BTE = self.tap("logits", F.linear(seen_BTD, self.score.weight.float()))
        probs_BTE = self.tap("probs", logits_BTE.softmax(-1))
        choice_BT1 = self.tap("choice", probs_BTE.argmax(-1, keepdim=True))
        kept_BT1 = self.in_time(choice_BT1)
        self.auxiliary = self.aux_loss * load_balancing_loss(probs_BTE, choice_BT1) if self.aux_loss else None
        weights_BT1 = torch.where(kept_BT1, probs_BTE.gather(-1, choice_BT1), 0.0)
        index_BT1 = torch.where(kept_BT1, choice_BT1, -1)
        return self.tap("weights", weights_BT1.to(x_BTD.dtype)), self.tap("index", index_BT1)

    def in_time(self, choice_BT1: Tensor) -> Tensor:
        """Which tokens stand early enough in the queue of the expert they chose: (B, T, 1) of bool."""
        groups_GN = choice_BT1.reshape(1 if self.group == "batch" else len(choice_BT1), -1)
        N = groups_GN.shape[1]
        capacity = max(1, math.ceil(N * self.capacity_factor / self.n_experts - 1e-9))  # in floats 640 * 1.1 / 8 > 88
        queues_GN, token_GN = groups_GN.sort(stable=True)  # one behind the other, in each the tokens in their order
        early_GN = torch.arange(N, device=queues_GN.device) - torch.searchsorted(queues_GN, queues_GN) < capacity
        return early_GN.scatter(1, token_GN, early_GN).view_as(choice_BT1)  # back in the order of the group
