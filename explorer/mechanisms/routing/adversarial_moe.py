"""AdvMoE: an image takes one pathway through a convolutional network, and router and experts are hardened in turns.

Zhang et al. (arXiv:2308.10110). One small router looks at the whole image and picks an expert: a group of channels, the
same in every layer. An attacker can then fool the expert, or flip the router. So both learn from attacks, in turns.
"""

from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from explorer.catalogue import Knob, Paper, mechanism
from explorer.kernels.ascent import ascend, divergence
from explorer.mechanisms.routing._adversarial_moe_claims import CLAIMS
from explorer.metrics import load_balancing_loss
from explorer.taps import Instrumented

ALL: tuple[str, ...] = ("router", "experts")


def shape_of(width: int) -> tuple[int, int]:
    """(rows, columns) of an image of so many pixels, as square as they go: 64 -> (8, 8), 24 -> (4, 6)."""
    rows = max(r for r in range(1, int(width**0.5) + 1) if width % r == 0)
    return rows, width // rows


def pool(image_NCHW: Tensor, side: int) -> Tensor:
    """Means over patches: at most `side` rows and columns of them."""
    return F.adaptive_avg_pool2d(image_NCHW, (min(side, image_NCHW.shape[2]), min(side, image_NCHW.shape[3])))


def straight_through(logits_BTE: Tensor, index_BT1: Tensor | None = None, weights_BT1: Tensor | float = 1.0) -> Tensor:
    """1 at the chosen expert, else 0; its gradient is handed to the probabilities as it is."""
    probs_BTE, E = logits_BTE.softmax(-1), logits_BTE.shape[-1]
    index_BT1 = logits_BTE.argmax(-1, keepdim=True) if index_BT1 is None else index_BT1
    chosen_BTE = (index_BT1 == torch.arange(E, device=logits_BTE.device)) * weights_BT1
    return chosen_BTE + (probs_BTE - probs_BTE.detach())  # exactly 0, so that 1 stays 1


class Router(Instrumented):
    """x_BTD -> (weights_BT1, index_BT1): a convolution and a matrix score the image; the best expert takes it, weight 1."""

    taps = {"logits": "B T E", "probs": "B T E", "weights": "B T K", "index": "B T K"}
    scores = "probabilities"
    slots = 1.0

    def __init__(self, d_model: int, n_experts: int) -> None:
        super().__init__()
        self.n_experts, self.shape = n_experts, shape_of(d_model)
        self.look = nn.Parameter(torch.randn(8, 1, 3, 3) / 3)
        self.score = nn.Parameter(torch.randn(8 * min(2, self.shape[0]) * min(2, self.shape[1]), n_experts) * 8**-0.5)

    def logits(self, x_BTD: Tensor) -> Tensor:
        seen_NFHW = F.conv2d(x_BTD.float().reshape(-1, 1, *self.shape), self.look.float(), padding=1).relu()
        pooled_BTF = pool(seen_NFHW, 2).reshape(*x_BTD.shape[:2], -1)
        return F.layer_norm(pooled_BTF, pooled_BTF.shape[-1:]) @ self.score.float()

    def forward(self, x_BTD: Tensor, logits_BTE: Tensor | None = None) -> tuple[Tensor, Tensor]:
        logits_BTE = self.tap("logits", self.logits(x_BTD) if logits_BTE is None else logits_BTE)
        index_BT1 = self.tap("probs", logits_BTE.softmax(-1)).argmax(-1, keepdim=True)
        return self.tap("weights", torch.ones_like(x_BTD[..., :1])), self.tap("index", index_BT1)


@mechanism(
    "adversarial-moe",
    title="Adversarially trained experts (AdvMoE)",
    family="routing",
    slot="feed-forward",
    paper=Paper("Robust Mixture-of-Expert Training for Convolutional Neural Networks", "Y. Zhang et al.", 2023, "2308.10110"),
    lab="Michigan State University",
    summary="One router gives an image its pathway through all layers; router and experts learn in turns from attacks.",
    equation=r"\min_{\text{experts}} \ell \;\leftrightarrow\; \min_{\text{router}} \ell, \qquad "
    r"\ell = \operatorname{CE}(f(x), y) + \knob{robust_loss}{\beta} \max_{\|\delta\|_\infty \le "
    r"\knob{radius}{\epsilon}} \operatorname{KL}\big(f(x) \,\|\, f(x + \delta)\big)",
    knobs={
        "n_experts": Knob(2, "pathways: groups of channels of every layer (the paper: 2)", low=1, high=64),
        "channels": Knob(8, "channels of a pathway (the paper: half of ResNet-18's)", low=1, high=256),
        "robust_loss": Knob(6.0, "beta, the weight of the attacked loss (0: plain training)", low=0, high=100, live=True),
        "radius": Knob(0.1, "how far the attacker may move a pixel (the paper: 8/255)", low=0, high=10, live=True),
        "attack_steps": Knob(2, "steps of the attacker in training", low=1, high=50, live=True),
        "in_turns": Knob(True, "router and experts learn at alternate steps, or together", live=True),
        "aux_loss": Knob(1.0, "weight of the loss that asks for an even load (0: none)", low=0, high=10, live=True),
    },
    pitfalls=(
        "A hard choice has no gradient: without the straight-through one no attack would find a flip of the router.",
        "In turns: `gate.look` and `gate.score` get no gradient in the experts' turn, nor do the experts' weights in theirs.",
        "The attacker needs no labels: he drives the outputs away from what they were, so any task can be trained so.",
        "Left alone all images go one way, and no attack can flip it: here a balancing loss forbids it, in theirs y mod E.",
        "Robust accuracy is accuracy under this very attack; a stronger one leaves less. No batch norm here, unlike theirs.",
    ),
    reference="none packaged: the equations, read slowly in float64; the authors' ResNet code was read for its order",
    claims=CLAIMS,
)  # fmt: skip
class AdversarialMoE(Instrumented):
    """x_BTD -> y_BTD: each x an image of D pixels, y the scores of its classes. The choice is tapped at `gate`."""

    taps = {"features": "B T F"}
    turn: Tensor

    def __init__(
        self, d_model: int, n_experts: int = 2, channels: int = 8, robust_loss: float = 6.0, radius: float = 0.1,
        attack_steps: int = 2, in_turns: bool = True, aux_loss: float = 1.0,
    ) -> None:  # fmt: skip
        super().__init__()
        self.n_experts, self.channels, self.robust_loss, self.radius = n_experts, channels, robust_loss, radius
        self.attack_steps, self.in_turns, self.aux_loss, self.slots = attack_steps, in_turns, aux_loss, 1.0
        rows, columns = self.shape = shape_of(d_model)
        self.gate = Router(d_model, n_experts)
        self.first = nn.Parameter(torch.randn(n_experts * channels, 1, 3, 3) * (2 / 9) ** 0.5)
        self.second = nn.Parameter(torch.randn(n_experts * channels, channels, 3, 3) * (2 / (9 * channels)) ** 0.5)
        self.classes = nn.Linear(channels * min(4, rows) * min(4, columns), d_model)
        self.register_buffer("turn", torch.zeros((), dtype=torch.long))  # even: the experts', odd: the router's

    def forward(self, x_BTD: Tensor) -> Tensor:
        logits_BTE, learn = self.gate.logits(x_BTD), ALL
        weights_BT1, index_BT1 = self.gate(x_BTD, logits_BTE)
        hardened = self.training and self.robust_loss > 0 and torch.is_grad_enabled()
        if hardened and self.in_turns:
            learn = ALL[1:] if self.turn % 2 == 0 else ALL[:1]
            self.turn.add_(1)
        y_BTD = self.pathway(x_BTD, straight_through(logits_BTE, index_BT1, weights_BT1), learn, tapped=True)
        losses = [self.aux_loss * load_balancing_loss(logits_BTE.softmax(-1), index_BT1)] if self.aux_loss else []
        if hardened:
            harm, steps = partial(self.harm, y_BTD.detach(), logits_BTE.detach()), self.attack_steps
            attacked_BTD = ascend(harm, x_BTD, self.radius, steps, 1.25 * self.radius / steps)
            moved_BTE = self.gate.logits(attacked_BTD)
            there_BTD = self.pathway(attacked_BTD, straight_through(moved_BTE), learn)
            losses.append(self.robust_loss * divergence(there_BTD, y_BTD))
            losses += [self.robust_loss * divergence(moved_BTE, logits_BTE)] if "router" in learn else []
        self.auxiliary = torch.stack(losses).sum() if losses else None
        return y_BTD

    def harm(self, y_BTD: Tensor, logits_BTE: Tensor, moved_BTD: Tensor) -> Tensor:
        """How far a moved image is from the clean one's outputs and scores: what the attacker wants more of."""
        moved_BTE = self.gate.logits(moved_BTD)
        there_BTD = self.pathway(moved_BTD, straight_through(moved_BTE))
        return divergence(there_BTD, y_BTD) + divergence(moved_BTE, logits_BTE)

    def pathway(self, x_BTD: Tensor, gate_BTE: Tensor, learn: tuple[str, ...] = ALL, tapped: bool = False) -> Tensor:
        """What its pathway makes of each image; who does not `learn` passes no gradient on to weights of its own."""
        weights = (self.first, self.second, self.classes.weight, self.classes.bias)
        first, second, matrix, bias = weights if "experts" in learn else (weight.detach() for weight in weights)
        gate_BTE = gate_BTE if "router" in learn else gate_BTE.detach()
        h_NCHW = x_BTD.reshape(-1, 1, *self.shape)
        for filters in (first, second):
            groups = F.conv2d(h_NCHW, filters, padding=1).unflatten(1, (self.n_experts, self.channels))
            h_NCHW = (gate_BTE.reshape(-1, self.n_experts, 1, 1, 1).to(x_BTD.dtype) * groups).sum(1).relu()
        features_BTF = pool(h_NCHW, 4).reshape(*x_BTD.shape[:2], -1)
        return F.linear(self.tap("features", features_BTF) if tapped else features_BTF, matrix, bias)
