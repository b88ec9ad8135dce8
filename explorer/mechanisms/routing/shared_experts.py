"""Shared experts: some experts work for every token, beside many small ones of which each token chooses a few.

DeepSeekMoE (arXiv:2401.06066). What all tokens need is learned once, in the shared experts, and not again in every routed
one. The routed experts are finely cut: each expert of a coarse layer becomes m of 1/m its width, and m times as many are
chosen, at the same cost but with many more combinations: 2 of 8 are 28 choices, 8 of 32 are ten million.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from explorer.catalogue import Claim, Knob, Paper, mechanism
from explorer.kernels.experts import choose, experts
from explorer.metrics import load_balancing_loss
from explorer.taps import Instrumented


@mechanism(
    "shared-experts",
    title="Shared and fine-grained experts",
    family="routing",
    slot="feed-forward",
    paper=Paper("DeepSeekMoE: Towards Ultimate Expert Specialization in Mixture-of-Experts Language Models",
                "D. Dai et al.", 2024, "2401.06066"),
    lab="DeepSeek",
    summary="A shared expert works for every token; beside it, each token chooses several of many small experts.",
    equation=r"y = \sum_{i=1}^{\knob{shared}{K_s}} S_i(x) + \sum_{e \in \operatorname{top}_{\knob{k}{k}}(p)} "
    r"p_e\, E_e(x), \qquad p = \operatorname{softmax}(x W_r) \in \mathbb{R}^{\knob{n_experts}{E}}",
    knobs={
        "n_experts": Knob(15, "routed experts (the paper: 63 or 64)", low=1, high=256),
        "k": Knob(3, "how many routed experts each token gets (the paper: 7 or 6)", low=1, high=64, live=True),
        "shared": Knob(1, "experts that work for every token (the paper: 1 or 2)", low=0, high=64),
        "width": Knob(32, "hidden width of an expert (the paper: a quarter of a usual expert's)", low=1, high=8192),
        "shared_weight": Knob(1.0, "what the shared output is multiplied by (0: off; not in the paper)",
                              low=0, high=10, live=True),
        "aux_loss": Knob(0.01, "weight of the loss that asks for an even load (0: none)", low=0, high=10, live=True),
    },
    pitfalls=(
        "The weights are raw probabilities, not renormalised: they sum to less than one, the shared experts count fully.",
        "Shared experts have no slot: `index`, loads and the balancing loss know the routed ones alone.",
        "Compare at equal active width: shared + k small experts stand for (shared + k) / m usual ones.",
        "DeepSeek-V2 multiplies the routed weights by a constant, V3 scores by sigmoid and balances by a bias.",
        "The paper's second balancing loss, over devices, is left out: here is only one.",
    ),
    reference="transformers: DeepseekV2Moe (topk_method greedy, routed_scaling_factor 1)",
    claims=(
        Claim(
            "common-knowledge-is-shared",
            "What all tokens need is learned by the shared expert, and not again by the routed ones.",
            source="arXiv:2401.06066, shared expert isolation", reported="",
            metric="cosine of what the routed experts add and the part of the target that all points have in common",
            measure=lambda seed: common_part(seed),  # noqa: PLW0108 (it stands below the class)
            control_is="no shared expert, one more routed expert a token",
            effect="ratio", threshold=0.85,
            why="1 where the routed experts learn it all the same; nothing makes them leave it out (0)",
        ),
        Claim(
            "irreplaceable",
            "A shared expert cannot be replaced by one more routed expert.",
            source="arXiv:2401.06066, analysis of the 2B model",
            reported="Pile loss 1.808, without the shared expert 2.414",
            metric="held_out_loss",
            setup={"steps": 400, "horizon": 400, "after": {"shared_weight": 0.0, "k": 4}},
            control={"after": {"k": 2}},
            control_is="a routed expert switched off instead",
            effect="difference", relation=">=", threshold=0.1,
            why="three times what two seeds differ by",
        ),
        Claim(
            "finer-is-better",
            "At equal size and cost, experts cut four times finer predict better.",
            source="arXiv:2401.06066, fine-grained expert segmentation",
            reported="",
            metric="held_out_loss",
            setup={"steps": 400, "horizon": 400, "n_experts": 31, "k": 7, "width": 16},
            control={"n_experts": 7, "k": 1, "width": 64},
            control_is="7 + 1 experts of width 64, 1 + 1 active",
            effect="difference", threshold=-0.03,
            why="two seeds of one model differ by as much",
        ),
    ),
)  # fmt: skip
class SharedExperts(Instrumented):
    """x_BTD -> y_BTD. SwiGLU experts without biases; the shared ones are kept as one of `shared` times the width."""

    taps = {"logits": "B T E", "probs": "B T E", "weights": "B T K", "index": "B T K"}
    scores = "probabilities"

    def __init__(
        self, d_model: int, n_experts: int = 15, k: int = 3, shared: int = 1, width: int = 32, shared_weight: float = 1.0,
        aux_loss: float = 0.01,
    ) -> None:  # fmt: skip
        super().__init__()
        self.n_experts, self.k, self.shared, self.width = n_experts, k, shared, width
        self.shared_weight, self.aux_loss, self.kernel = shared_weight, aux_loss, "auto"
        self.score = nn.Linear(d_model, n_experts, bias=False)
        self.up = nn.Parameter(torch.randn(n_experts, d_model, 2 * width) * d_model**-0.5)  # gate first, then up
        self.down = nn.Parameter(torch.randn(n_experts, width, d_model) * width**-0.5)
        self.shared_up = nn.Parameter(torch.randn(d_model, 2 * shared * width) * d_model**-0.5)
        self.shared_down = nn.Parameter(torch.randn(shared * width, d_model) * width**-0.5)
        nn.init.normal_(self.score.weight, std=d_model**-0.5)  # logits of unit variance for a normed token

    @property
    def slots(self) -> float:
        return float(self.k)

    def forward(self, x_BTD: Tensor) -> Tensor:
        logits_BTE = self.tap("logits", F.linear(x_BTD.float(), self.score.weight.float()))
        probs_BTE = self.tap("probs", logits_BTE.softmax(-1))
        weights_BTK, index_BTK = probs_BTE.topk(self.k, dim=-1)
        self.auxiliary = self.aux_loss * load_balancing_loss(probs_BTE, index_BTK) if self.aux_loss else None
        weights_NK = self.tap("weights", weights_BTK.to(x_BTD.dtype)).reshape(-1, self.k)
        index_NK, x_ND = self.tap("index", index_BTK).reshape(-1, self.k), x_BTD.reshape(-1, x_BTD.shape[-1])
        self.kernel = choose("auto", x_ND, self.up, self.down)
        routed_ND = experts(x_ND, index_NK, weights_NK, self.up, self.down, "swiglu", self.kernel)
        gate_NF, up_NF = (x_ND @ self.shared_up).chunk(2, dim=-1)
        shared_ND = (F.silu(gate_NF) * up_NF) @ self.shared_down
        return (self.shared_weight * shared_ND + routed_ND).view_as(x_BTD)

    def flops(self, _T: int) -> float:
        """Of the experts that a token meets: two a multiply-add."""
        shared = self.shared_up.numel() + self.shared_down.numel()
        return 2.0 * (self.k * (self.up[0].numel() + self.down[0].numel()) + shared)

    def idle(self) -> float:
        """How many parameters a token does not meet."""
        return (1 - self.k / self.n_experts) * (self.up.numel() + self.down.numel())


def common_part(seed: int) -> tuple[float, float]:
    """Eight kinds of points, y = Ax + B_c x: cosine of Ax and what the routed experts add, with shared expert and without."""
    random = torch.Generator().manual_seed(seed)
    D, C, cosines = 16, 8, []
    A_DD = torch.randn(D, D, generator=random) / D**0.5
    B_CDD = torch.randn(C, D, D, generator=random) / D**0.5
    for knobs in ({"n_experts": 8, "k": 1, "shared": 1}, {"n_experts": 9, "k": 2, "shared": 0}):
        layer = SharedExperts(D, **knobs, aux_loss=0.1)
        adam = torch.optim.Adam(layer.parameters(), lr=1e-2)
        for step in range(401):
            kind_B = torch.randint(C, (256,), generator=random)
            x_BD = 3 * torch.eye(C, D)[kind_B] + torch.randn(256, D, generator=random)
            common_BD = x_BD @ A_DD
            y_BD = common_BD + torch.bmm(x_BD[:, None], B_CDD[kind_B])[:, 0]
            layer.shared_weight = float(step < 400)  # in the end the routed experts alone
            routed_BD = layer(x_BD[None])[0]
            adam.zero_grad()
            ((routed_BD - y_BD).square().mean() + layer.auxiliary).backward()
            adam.step()
        cosines.append(F.cosine_similarity(routed_BD.detach(), common_BD).mean().item())
    return cosines[0], cosines[1]
