"""Soft MoE: nothing is chosen. Experts work on slots, each a mixture of all tokens; tokens get a mixture of all slots.

Puigcerver et al. (arXiv:2308.00951). The same scores serve twice: their softmax over the tokens fills the slots, their
softmax over the slots hands the results back. Every step is differentiable, no token is dropped and every expert is equally
loaded, but a slot of a language model mixes in what comes later: NOT CAUSAL. Made for images.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from explorer.catalogue import Claim, Knob, Paper, mechanism
from explorer.kernels.experts import ACTIVATIONS, choose, experts
from explorer.taps import Instrumented

CLUSTERS = {
    "task": "clusters", "steps": 400, "learning_rate": 1e-2, "slots_per_expert": 32, "activation": "linear", "width": 16,
}  # fmt: skip
PLAIN = {"slots_per_expert": None, "activation": None, "width": None}  # what another mechanism has no knob for


@mechanism(
    "soft-moe",
    title="Soft mixture of experts",
    family="routing",
    slot="feed-forward",
    paper=Paper("From Sparse to Soft Mixtures of Experts", "J. Puigcerver, C. Riquelme, B. Mustafa, N. Houlsby",
                2023, "2308.00951"),
    lab="Google DeepMind",
    summary="Experts work on mixtures of all tokens, and each token gets a mixture of all results: no choice, no drop.",
    equation=r"L = s\, \hat{X} \hat{\Phi}, \quad D = \operatorname{softmax}_T(L), \quad "
    r"C = \operatorname{softmax}_{\knob{n_experts}{E} \times \knob{slots_per_expert}{p}}(L), \qquad "
    r"\tilde{x}_{ej} = \sum_t D_{tej}\, x_t, \qquad y_t = \sum_{e,j} C_{tej}\, E_e(\tilde{x}_{ej})",
    knobs={
        "n_experts": Knob(8, "how many experts there are (the paper: 128)", low=1, high=256),
        "slots_per_expert": Knob(8, "mixtures that each expert works on (the paper: so many that E p = T)", low=1, high=256),
        "scale": Knob(10.0, "initial size of the scores, learned from there on (the paper: 1)", low=0, above=True, high=1000),
        "width": Knob(64, "hidden width of an expert", low=1, high=8192),
        "activation": Knob("swiglu", "of the experts (the paper: GELU)", choices=ACTIVATIONS),
    },
    pitfalls=(
        "NOT CAUSAL: a slot mixes all tokens of the sequence, later ones too: a language model trained with it cheats.",
        "X and Phi are normalised for the scores alone; the slots mix the tokens as they are.",
        "Scores lie between -scale and scale: at scale 1 the softmax over tokens is nearly even, and all slots alike.",
        "With a fixed number of slots the cost is fixed, and a longer sequence gets less for each token.",
        "Every token meets every expert, so loads are even by construction; what differs is in `probs`.",
        "NaN in one token becomes NaN in its whole sequence.",
    ),
    reference="soft-moe-pytorch (torch): SoftMoE, whose RMS norms make s = d_model",
    claims=(
        Claim(
            "beats-one-layer",
            "Soft experts fit what one layer of their shape cannot.",
            source="arXiv:2308.00951, abstract: better than dense models of equal cost",
            reported="",
            metric="training_loss",
            setup=CLUSTERS,
            control={"mechanism": "topk-softmax", "n_experts": 1, "k": 1, "aux_loss": 0.0, **PLAIN},
            control_is="one linear layer for all points",
            effect="ratio", threshold=0.5,
            why="half the error; fresh points every step, so the loss in training is an honest one",
        ),
        Claim(
            "beats-token-choice",
            "Soft mixing is better than letting tokens choose.",
            source="arXiv:2308.00951, abstract",
            reported="better, on images",
            metric="training_loss",
            setup=CLUSTERS,
            control={"mechanism": "topk-softmax-raw", "k": 1, "aux_loss": 0.1, **PLAIN},
            control_is="one expert a token, chosen",
            effect="ratio", threshold=1.0,
            why="better means lower; but where each point needs its own map, what was mixed cannot be told apart again",
        ),
        Claim(
            "sees-the-future",
            "A prediction depends on tokens that come after it.",
            source="arXiv:2308.00951, limitations",
            reported="",
            metric="future_flips",
            setup={"steps": 200, "horizon": 200},
            control={"mechanism": "topk-softmax"},
            control_is="topk-softmax (exactly 0)",
            relation=">=", threshold=0.05,
            why="one prediction in twenty changes, where a causal model changes none",
        ),
    ),
)  # fmt: skip
class SoftMoE(Instrumented):
    """x_BTD -> y_BTD, each sequence by itself. `probs` are combine weights, summed over the slots of an expert."""

    taps = {"logits": "B T E", "probs": "B T E", "weights": "B T K", "index": "B T K"}  # K = E
    scores = "probabilities"

    def __init__(
        self, d_model: int, n_experts: int = 8, slots_per_expert: int = 8, scale: float = 10.0, width: int = 64,
        activation: str = "swiglu",
    ) -> None:  # fmt: skip
        super().__init__()
        self.n_experts, self.slots_per_expert, self.scale, self.width = n_experts, slots_per_expert, scale, width
        self.activation, self.kernel = activation, "auto"
        self.phi = nn.Parameter(torch.randn(d_model, n_experts * slots_per_expert) * d_model**-0.5)  # expert by expert
        self.size = nn.Parameter(torch.tensor(float(scale)))
        hidden = width * (2 if activation in ("swiglu", "geglu") else 1)
        self.up = nn.Parameter(torch.randn(n_experts, d_model, hidden) * d_model**-0.5)
        self.down = nn.Parameter(torch.randn(n_experts, width, d_model) * width**-0.5)

    @property
    def slots(self) -> float:
        return float(self.n_experts)

    def forward(self, x_BTD: Tensor) -> Tensor:
        B, T, D = x_BTD.shape
        E, P = self.n_experts, self.slots_per_expert
        scores_BTS = F.normalize(x_BTD.float(), dim=-1) @ (self.size * F.normalize(self.phi.float(), dim=0))
        dispatch_BTS = scores_BTS.softmax(1).to(x_BTD.dtype)
        mixed_ND = (dispatch_BTS.transpose(1, 2) @ x_BTD).reshape(-1, D)  # of each sequence, the slots expert by expert
        index_N1 = torch.arange(E, device=x_BTD.device).repeat_interleave(P).repeat(B)[:, None]
        self.kernel = choose("auto", mixed_ND, self.up, self.down)
        one_N1 = torch.ones_like(mixed_ND[:, :1])
        out_ND = experts(mixed_ND, index_N1, one_N1, self.up, self.down, self.activation, self.kernel)
        # softmax over all slots = softmax over the experts, of their slots' logsumexp, times softmax within the expert
        scores_BTEP = scores_BTS.view(B, T, E, P)
        probs_BTE = self.tap("probs", self.tap("logits", scores_BTEP.logsumexp(-1)).softmax(-1))
        weights_BTE = self.tap("weights", probs_BTE.to(x_BTD.dtype))
        self.tap("index", torch.arange(E, device=x_BTD.device).expand(B, T, E))  # slot e of a token: expert e
        combine_BTEP = weights_BTE[..., None] * scores_BTEP.softmax(-1).to(x_BTD.dtype)
        return combine_BTEP.reshape(B, T, E * P) @ out_ND.view(B, E * P, D)

    def flops(self, T: int) -> float:
        """Of a token: scores, two mixtures, and its share of the work on the slots."""
        S = self.n_experts * self.slots_per_expert
        return 6.0 * self.phi.numel() + 2.0 * S / T * (self.up[0].numel() + self.down[0].numel())
