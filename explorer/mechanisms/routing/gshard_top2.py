"""GShard routing: two experts a token with limited room, and the second is called only as often as it matters.

Lepikhin et al. (arXiv:2006.16668). The two largest probabilities, divided by their sum, are the weights. In training the
second expert is dispatched with probability min(1, 2 g_2). An expert takes at most C = ceil(2 tokens / E * factor)
tokens: first all first choices in order of position, then the second choices, as long as there is room.
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
    "gshard-top2",
    title="GShard top-2 gating",
    family="routing",
    slot="router",
    paper=Paper(
        "GShard: Scaling Giant Models with Conditional Computation and Automatic Sharding",
        "D. Lepikhin et al.",
        2020,
        "2006.16668",
    ),
    lab="Google",
    summary="Two experts a token with limited room; in training the second is called as often as its weight deserves.",
    equation=r"p = \operatorname{softmax}(x W_r), \quad g_i = \frac{p_{e_i}}{p_{e_1} + p_{e_2}}, \quad "
    r"y = g_1\, E_{e_1}(x) + r\, g_2\, E_{e_2}(x), \quad r \sim \operatorname{Bernoulli}(\min(1, 2 g_2)), \qquad "
    r"C = \lceil 2\, T \cdot \knob{capacity_factor}{c} / \knob{n_experts}{E} \rceil",
    knobs={
        "n_experts": Knob(8, "how many experts there are to choose from (GShard: 128 to 2048)", low=2, high=256),
        "capacity_factor": Knob(1.0, "an expert's room, in fair shares", low=0, above=True, high=256, live=True),
        "group": Knob("batch", "which tokens compete for room", choices=("batch", "sequence"), live=True),
        "second": Knob(
            "random", "in training, the second expert by chance, or for all", choices=("random", "all"), live=True
        ),
        "aux_loss": Knob(0.01, "weight of the loss that asks for an even load (0: none)", low=0, high=10, live=True),
    },
    pitfalls=(
        "The weights are normalised before anything is dropped: a token that loses its second expert keeps g_1 < 1.",
        "All first choices are served before any second one: with little room it is the second choices that vanish.",
        "The balancing loss counts first choices only; the load of the second ones is evened out by nothing but chance.",
        "The chance 2 g_2 is taken of the normalised weight; some libraries take p_2, or compare with 5 g_2.",
        "Evaluation calls every second expert, so that its outputs are not random.",
        "With group = batch the last sequences lose most, and an earlier one's future decides who is dropped.",
    ),
    reference="transformers: NllbMoeTop2Router (second = all); mixture-of-experts 0.2.3: Top2Gating (second = random)",
    claims=(
        Claim(
            "loss-balances",
            "The loss on the first choices balances the load.",
            source="arXiv:2006.16668, section 2.2",
            reported="",
            metric="max_violation",
            setup={**ROOMY, "aux_loss": 0.1},
            control={"aux_loss": 0.0},
            control_is="no balancing loss",
            threshold=0.5,
            why="no expert at more than one and a half times its share",
        ),
        Claim(
            "random-second-saves-room",
            "Calling the second expert by chance leaves slots free: fewer tokens are computed at no loss of quality.",
            source="arXiv:2006.16668, section 2.2",
            reported="",
            metric="held_out_loss",
            setup={**ROOMY, "aux_loss": 0.1},
            control={"second": "all"},
            control_is="the second expert for every token",
            effect="difference",
            threshold=0.03,
            why="seeds differ by as much",
        ),
        Claim(
            "balance-saves-tokens",
            "With room for the fair share alone, a balanced router drops few of its choices.",
            source="arXiv:2006.16668, section 2.2",
            reported="",
            metric="empty_slots",
            setup={**ROOMY, "aux_loss": 0.1, "after": {"capacity_factor": 1.0}},
            control={"aux_loss": 0.0},
            control_is="no balancing loss",
            threshold=0.15,
            why="an even random router drops 3 % of a batch of 512; neighbours in a text are alike, and drop more",
        ),
    ),
)
class GShardTop2(Instrumented):
    """x_BTD -> (weights_BT2, index_BT2); -1 and the weight 0 where the second was not called or the expert was full."""

    taps = {"logits": "B T E", "probs": "B T E", "choice": "B T K", "weights": "B T K", "index": "B T K"}
    scores = "probabilities"
    slots = 2.0

    def __init__(
        self, d_model: int, n_experts: int = 8, capacity_factor: float = 1.0, group: str = "batch",
        second: str = "random", aux_loss: float = 0.01,
    ) -> None:  # fmt: skip
        super().__init__()
        self.n_experts, self.capacity_factor, self.group = n_experts, capacity_factor, group
        self.second, self.aux_loss = second, aux_loss
        self.score = nn.Linear(d_model, n_experts, bias=False)
        nn.init.normal_(self.score.weight, std=d_model**-0.5)  # logits of unit variance for a normed token

    def forward(self, x_BTD: Tensor) -> tuple[Tensor, Tensor]:
        logits_BTE = self.tap("logits", F.linear(x_BTD.float(), self.score.weight.float()))
        probs_BTE = self.tap("probs", logits_BTE.softmax(-1))
        weights_BT2, best_BT2 = probs_BTE.topk(2, dim=-1)
        weights_BT2 = weights_BT2 / weights_BT2.sum(-1, keepdim=True)
        if self.training and self.second == "random":
            idle_BT = 2 * weights_BT2[..., 1] <= torch.rand_like(weights_BT2[..., 1])
            best_BT2 = torch.stack([best_BT2[..., 0], best_BT2[..., 1].masked_fill(idle_BT, -1)], -1)
        choice_BT2 = self.tap("choice", best_BT2)
        self.auxiliary = self.aux_loss * load_balancing_loss(probs_BTE, choice_BT2[..., :1]) if self.aux_loss else None
        kept_BT2 = self.in_time(choice_BT2)
        weights_BT2 = torch.where(kept_BT2, weights_BT2, 0.0)
        return self.tap("weights", weights_BT2.to(x_BTD.dtype)), self.tap(
            "index", torch.where(kept_BT2, choice_BT2, -1)
        )

    def in_time(self, choice_BT2: Tensor) -> Tensor:
        """Which choices find room, first choices before second ones, each in order of position: (B, T, 2) of bool."""
        groups_GN2 = choice_BT2.reshape(1 if self.group == "batch" else len(choice_BT2), -1, 2)
        queue_GM = groups_GN2.transpose(1, 2).flatten(1)  # all first choices, then all second ones
        M = queue_GM.shape[1]
        capacity = max(1, math.ceil(M * self.capacity_factor / self.n_experts - 1e-9))  # in floats 640 * 1.1 / 8 > 88
        queues_GM, order_GM = queue_GM.sort(stable=True)  # those of -1, then one behind the other, each in its order
        early_GM = torch.arange(M, device=queues_GM.device) - torch.searchsorted(queues_GM, queues_GM) < capacity
        kept_GM = early_GM.scatter(1, order_GM, early_GM & (queues_GM >= 0))  # back in the order of the group
        return kept_GM.unflatten(1, (2, -1)).transpose(1, 2).reshape(choice_BT2.shape)
