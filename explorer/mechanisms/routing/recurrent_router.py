"""Recurrent routing: a router remembers what it made of the same token one layer below.

RMoE (arXiv:2408.06793). A GRU runs over the depth of the model, not over time: its state h of a token passes from one layer's
router to the next, each layer projects the token into it and reads its scores from it. The GRU is one for all layers, the
projections and the scores are each layer's own. As every token goes its own way up, training stays parallel in the tokens.
"""

from itertools import pairwise
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from explorer.catalogue import Claim, Knob, Paper, mechanism
from explorer.metrics import load_balancing_loss, nmi
from explorer.taps import Instrumented

DEEP: dict[str, Any] = {"layers": 4, "expert_width": 32, "aux_loss": 0.01, "horizon": 300}


@mechanism(
    "recurrent-router",
    title="Recurrent router over depth",
    family="routing",
    slot="router",
    paper=Paper("Layerwise Recurrent Router for Mixture-of-Experts", "Z. Qiu et al.", 2024, "2408.06793"),
    lab="Alibaba, University of Edinburgh",
    summary="The routers of all layers share one GRU, which carries each token's state from layer to layer.",
    equation=r"r = P_l\, x, \qquad h_l = \mathrm{GRU}(r,\, h_{l-1}), \quad h_0 = 0, \qquad "
    r"g = \operatorname{softmax}\big(\operatorname{top}_{\knob{k}{k}}(Q_l\, h_l)\big)",
    knobs={
        "n_experts": Knob(8, "how many experts there are to choose from", low=1, high=256),
        "k": Knob(2, "how many experts each token gets", low=1, high=64, live=True),
        "hidden": Knob(32, "width of the state that is carried (the paper: 256)", low=1, high=4096),
        "carry": Knob(True, "start from the state of the layer below (False: from zero)", live=True),
        "aux_loss": Knob(0.001, "weight of the loss that asks for an even load (0: none)", low=0, high=10, live=True),
    },
    pitfalls=(
        "The recurrence is over depth; over time it would be another model, and slow to train.",
        "One GRU for all layers, but a projector and scores for each: sharing the projector is another model too.",
        "The gradient flows down through h: cutting it leaves the lower routers blind to what the upper ones need.",
        "In the first layer, and in a host of one layer, h starts at 0, and gru.weight_hh gets no gradient.",
        "A gain over a plain router may be the GRU's nonlinearity: the control is the same router with carry = False.",
        "The balancing loss is each layer's own here; the authors' code pools the tokens of all layers first.",
    ),
    reference="torch: nn.GRUCell, with softmax over the kept scores (none packaged)",
    claims=(
        Claim(
            "layers-agree",
            "Neighbouring layers decide more alike.",
            source="arXiv:2408.06793, cross-layer mutual information", reported="",
            metric="NMI of a token's first expert in one layer and in the next, mean over the pairs",
            measure=lambda seed: agreement(seed),  # noqa: PLW0108 (it stands below the class)
            control_is="topk-softmax", effect="ratio", relation=">=", threshold=1.2,
            why="more than the seeds differ by",
        ),
        Claim(
            "state-is-used",
            "The trained routers need what the layers below remembered.",
            source="arXiv:2408.06793, ablation of the recurrence", reported="",
            metric="held_out_loss",
            setup={**DEEP, "steps": 300, "after": {"carry": False}},
            control={"after": {}}, control_is="the same model with its state",
            effect="difference", relation=">=", threshold=0.02,
            why="no change at all would say that the state is idle",
        ),
        Claim(
            "lower-loss",
            "Carrying the state makes a better model.",
            source="arXiv:2408.06793, language modelling",
            reported="better than every router beside it, on Enwik8, WikiText-103 and in pre-training",
            metric="held_out_loss",
            setup={**DEEP, "steps": 300},
            control={"carry": False}, control_is="the same GRU, from zero in every layer",
            effect="difference", threshold=-0.03,
            why="two seeds of one model differ by as much",
        ),
    ),
)  # fmt: skip
class RecurrentRouter(Instrumented):
    """x_BTD -> (weights_BTK, index_BTK). `follow` tells a layer's router which one is below it."""

    taps = {
        "gate": "B T F", "state": "B T F", "logits": "B T E", "probs": "B T E", "weights": "B T K", "index": "B T K",
    }  # fmt: skip
    scores = "probabilities"
    only_by_name = frozenset({"state"})
    carried: Tensor | None = None  # this layer's h, for the one above

    def __init__(
        self,
        d_model: int,
        n_experts: int = 8,
        k: int = 2,
        hidden: int = 32,
        carry: bool = True,
        aux_loss: float = 0.001,
    ) -> None:
        super().__init__()
        self.n_experts, self.k, self.hidden, self.carry, self.aux_loss = n_experts, k, hidden, carry, aux_loss
        self.project = nn.Linear(d_model, hidden, bias=False)
        self.gru = nn.GRUCell(hidden, hidden)
        self.score = nn.Linear(hidden, n_experts, bias=False)
        nn.init.normal_(self.project.weight, std=d_model**-0.5)
        self.below: tuple[RecurrentRouter, ...] = ()  # in a tuple: not a part of this router

    def follow(self, below: "RecurrentRouter") -> None:
        """Go on from the state of the router below, with its GRU."""
        self.below, self.gru = (below,), below.gru

    def __getstate__(self) -> dict[str, object]:
        return {**super().__getstate__(), "carried": None}  # a copy has not run yet

    @property
    def slots(self) -> float:
        return float(self.k)

    def forward(self, x_BTD: Tensor) -> tuple[Tensor, Tensor]:
        r_BTF = F.linear(x_BTD.float(), self.project.weight.float())
        h_BTF = self.below[0].carried if self.below and self.carry else None
        h_BTF = torch.zeros_like(r_BTF) if h_BTF is None else h_BTF
        given = F.linear(r_BTF, self.gru.weight_ih.float(), self.gru.bias_ih.float()).chunk(3, dim=-1)
        kept = F.linear(h_BTF, self.gru.weight_hh.float(), self.gru.bias_hh.float()).chunk(3, dim=-1)
        reset_BTF = (given[0] + kept[0]).sigmoid()
        update_BTF = self.tap("gate", (given[1] + kept[1]).sigmoid())  # 1: stay as the layer below left it
        new_BTF = (given[2] + reset_BTF * kept[2]).tanh()
        self.carried = self.tap("state", (1 - update_BTF) * new_BTF + update_BTF * h_BTF)
        logits_BTE = self.tap("logits", F.linear(self.carried, self.score.weight.float()))
        probs_BTE = self.tap("probs", logits_BTE.softmax(-1))
        weights_BTK, index_BTK = probs_BTE.topk(self.k, dim=-1)
        weights_BTK = weights_BTK / weights_BTK.sum(-1, keepdim=True)
        self.auxiliary = self.aux_loss * load_balancing_loss(probs_BTE, index_BTK) if self.aux_loss else None
        return self.tap("weights", weights_BTK.to(x_BTD.dtype)), self.tap("index", index_BTK)

    def flops(self, _T: int) -> float:
        """Of the GRU, which every layer runs."""
        return 2.0 * (self.gru.weight_ih.numel() + self.gru.weight_hh.numel())


def agreement(seed: int) -> tuple[float, float]:
    """Mean NMI of neighbouring layers' first experts after 300 steps on text: of this router, and of topk-softmax."""
    from explorer.experiment import Experiment

    found = []
    for name in ("recurrent-router", "topk-softmax"):
        seen = Experiment(name, seed=seed, watch=None, **DEEP).run(300).examine(watch="*/index")[1]
        first = [seen.last(f"{layer}/index")[..., 0] for layer in seen.layers()]
        found.append(torch.stack([nmi(a, b, "min") for a, b in pairwise(first)]).mean().item())
    return found[0], found[1]
