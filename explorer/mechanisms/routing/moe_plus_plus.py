"""MoE++: beside the usual experts stand some that compute nothing, and a token that needs little work chooses those.

Jin et al. (arXiv:2410.07348). A zero expert adds nothing, a copy expert adds the token itself, a constant expert a learned
blend of the token and a learned vector. The balancing loss asks for less load on the working experts by the factor tau,
and each router sees what the router of the layer below thought of the token (gating residual).
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from explorer.catalogue import Claim, Knob, Paper, mechanism
from explorer.errors import BadValue
from explorer.kernels.experts import choose, experts
from explorer.mechanisms.routing import _moe_plus_plus_claims as tiny
from explorer.taps import Instrumented


@mechanism(
    "moe-plus-plus",
    title="Experts that compute nothing",
    family="routing",
    slot="feed-forward",
    paper=Paper("MoE++: Accelerating Mixture-of-Experts Methods with Zero-Computation Experts",
                "P. Jin, B. Zhu, L. Yuan, S. Yan", 2024, "2410.07348"),
    lab="Peking University, Skywork AI",
    summary="Some experts only drop, copy or replace: a token that needs little work is sent there and costs little.",
    equation=r"z^{j} = W_r^{j} x + W_g^{j} z^{j-1}, \quad p = \operatorname{softmax}(z^{j}), \qquad "
    r"y = \sum_{e \in \operatorname{top}_{\knob{k}{k}}(p)} \frac{p_e}{\sum p}\, E_e(x), \quad "
    r"E_e(x) \in \{ \mathrm{FFN}_e(x),\; \alpha_1 x + \alpha_2 v,\; x,\; 0 \}, \qquad "
    r"\mathcal{L} = \knob{aux_loss}{\beta}\, E \sum_e \eta_e f_e P_e, \quad "
    r"\eta_e = \begin{cases} 1 & \text{FFN} \\ \knob{tau}{\tau} & \text{else} \end{cases}",
    knobs={
        "n_experts": Knob(12, "experts of all kinds together", low=2, high=256),
        "k": Knob(2, "how many experts each token gets", low=1, high=64, live=True),
        "constant": Knob(2, "constant experts among them", low=0, high=64),
        "copy": Knob(1, "copy experts among them", low=0, high=64),
        "zero": Knob(1, "zero experts among them", low=0, high=64),
        "width": Knob(64, "hidden width of an expert that works", low=1, high=8192),
        "tau": Knob(0.75, "what load on a cheap expert costs; less: more go there", low=0, above=True, high=1, live=True),
        "aux_loss": Knob(0.01, "weight of the balancing loss (0: none)", low=0, high=10, live=True),
        "gating_residual": Knob(True, "the router sees the logits of the layer below", live=True),
    },
    pitfalls=(
        "A zero expert fills a slot: chosen beside a working one it takes its share of the weight away.",
        "Weights are renormalised; the paper has raw ones, its code leaves the zero expert out and doubles all inputs.",
        "W_g starts at zero, and exists above another such layer only: a random one lets logits grow with depth.",
        "A constant expert is not only v: it keeps a part of the token. Copy on top of the residual stream doubles it.",
        "No capacity here (the paper: 1.1 fair shares), and scores are linear (released code: with a layer of tanh).",
    ),
    reference="none packaged; the tests hold it to a float64 reading of the paper's equations",
    claims=(
        Claim(
            "tau-buys-compute",
            "A smaller tau sends tokens to the cheap experts.",
            source="arXiv:2410.07348, load balance loss", reported="", metric="working experts a token after 300 steps",
            measure=tiny.working_experts, control_is="tau 1", effect="ratio", threshold=0.8,
            why="by the loss alone the ratio would be 0.57: f proportional to 1 / eta",
        ),
        Claim(
            "saved-at-no-loss",
            "What is saved costs no quality.",
            source="arXiv:2410.07348, abstract", reported="better, and 1.1 to 2.1 times as fast", metric="held_out_loss",
            setup={"steps": 300, "horizon": 300, "tau": 0.25}, control={"tau": 1.0}, control_is="tau 1",
            effect="difference", threshold=0.03, why="two seeds of one model differ by as much",
        ),
        Claim(
            "easy-tokens-are-cheap",
            "Tokens that are easy choose fewer working experts.",
            source="arXiv:2410.07348, analysis by word", reported="word fragments below 1.5 of 2, verbs up to 1.77",
            metric="working experts a point: kinds whose target is 0 or the point itself, and kinds with a map of their own",
            measure=tiny.easy_and_hard, control_is="points that need work",
            effect="ratio", threshold=0.6, why="the easy ones save four in ten",
        ),
    ),
)  # fmt: skip
class MoEPlusPlus(Instrumented):
    """x_BTD -> y_BTD. The experts in this order: working, constant, copy, zero."""

    taps = {"logits": "B T E", "probs": "B T E", "weights": "B T K", "index": "B T K"}
    scores = "probabilities"
    carried: Tensor | None = None  # this layer's logits, for the one above
    kernel = "auto"

    def __init__(
        self, d_model: int, n_experts: int = 12, k: int = 2, constant: int = 2, copy: int = 1, zero: int = 1, width: int = 64,
        tau: float = 0.75, aux_loss: float = 0.01, gating_residual: bool = True,
    ) -> None:  # fmt: skip
        super().__init__()
        self.working = n_experts - (constant + copy + zero)
        if self.working < 1:
            raise BadValue(f"n_experts={n_experts}: it must be above constant + copy + zero = {constant + copy + zero}")
        self.n_experts, self.k, self.constant, self.copy, self.zero = n_experts, k, constant, copy, zero
        self.width, self.tau, self.aux_loss, self.gating_residual = width, tau, aux_loss, gating_residual
        self.score = nn.Linear(d_model, n_experts, bias=False)
        nn.init.normal_(self.score.weight, std=d_model**-0.5)
        self.up = nn.Parameter(torch.randn(self.working, d_model, 2 * width) * d_model**-0.5)
        self.down = nn.Parameter(torch.randn(self.working, width, d_model) * width**-0.5)
        self.blend = nn.Parameter(torch.randn(constant, d_model, 2) * d_model**-0.5)
        self.vector = nn.Parameter(torch.randn(constant, d_model))
        self.residual: nn.Linear | None = None
        self.below: tuple[MoEPlusPlus, ...] = ()  # in a tuple: not a part of this layer

    def follow(self, below: "MoEPlusPlus") -> None:
        """Read the logits of the layer below from now on."""
        self.below, self.residual = (below,), nn.Linear(self.n_experts, self.n_experts, bias=False)
        nn.init.zeros_(self.residual.weight)

    def __getstate__(self) -> dict[str, object]:
        return {**super().__getstate__(), "carried": None}  # a copy has not run yet

    @property
    def slots(self) -> float:
        return float(self.k)

    def forward(self, x_BTD: Tensor) -> Tensor:
        logits_BTE = F.linear(x_BTD.float(), self.score.weight.float())
        if self.gating_residual and self.residual is not None and self.below[0].carried is not None:
            logits_BTE = logits_BTE + F.linear(self.below[0].carried, self.residual.weight.float())
        self.carried = self.tap("logits", logits_BTE)
        probs_BTE = self.tap("probs", self.carried.softmax(-1))
        weights_BTK, index_BTK = probs_BTE.topk(self.k, dim=-1)
        share_E = F.one_hot(index_BTK, self.n_experts).float().mean((0, 1, 2))
        price_E = torch.where(torch.arange(self.n_experts, device=share_E.device) < self.working, 1.0, self.tau)
        uneven = (price_E * share_E * probs_BTE.mean((0, 1))).sum()
        self.auxiliary = self.aux_loss * self.n_experts * uneven if self.aux_loss else None
        weights_BTK = weights_BTK / weights_BTK.sum(-1, keepdim=True)
        weights_NK = self.tap("weights", weights_BTK.to(x_BTD.dtype)).reshape(-1, self.k)
        index_NK, x_ND = self.tap("index", index_BTK).reshape(-1, self.k), x_BTD.reshape(-1, x_BTD.shape[-1])
        self.kernel = choose("auto", x_ND, self.up, self.down)
        at_work_NK = torch.where(index_NK < self.working, index_NK, -1)
        y_ND = experts(x_ND, at_work_NK, weights_NK, self.up, self.down, "swiglu", self.kernel)
        for c in range(self.constant):
            keep_N1, replace_N1 = (x_ND @ self.blend[c]).softmax(-1).split(1, dim=-1)
            own_N1 = (weights_NK * (index_NK == self.working + c)).sum(-1, keepdim=True)
            y_ND = y_ND + own_N1 * (keep_N1 * x_ND + replace_N1 * self.vector[c])
        copied_NK = (index_NK >= self.working + self.constant) & (index_NK < self.n_experts - self.zero)
        return (y_ND + (weights_NK * copied_NK).sum(-1, keepdim=True) * x_ND).view_as(x_BTD)

    def at_work(self) -> float:
        """Working experts a token where the balancing loss has its way: f proportional to 1 / eta."""
        return self.k * self.tau * self.working / (self.tau * self.working + self.n_experts - self.working)

    def flops(self, _T: int) -> float:
        """Of a token's working experts and of all blends."""
        return 2.0 * (self.at_work() * (self.up[0].numel() + self.down[0].numel()) + self.blend.numel())

    def idle(self) -> float:
        """How many parameters a token does not meet."""
        return max(0.0, 1 - self.at_work() / self.working) * (self.up.numel() + self.down.numel())
