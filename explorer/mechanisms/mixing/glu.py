"""Gated linear units: a feed-forward layer whose hidden channels are each multiplied by a gate read off the same token.

The family of "GLU Variants Improve Transformer" (arXiv:2002.05202; the unit itself is arXiv:1612.08083). Its members
differ in one function only, the gate's activation. `relu` is the layer they replaced, for comparison: its gate has no
weights of its own, it asks whether the channel itself is positive.
"""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from explorer.catalogue import Claim, Knob, Paper, mechanism
from explorer.taps import Instrumented

GATES: dict[str, Callable[[Tensor], Tensor]] = {  # the gate's values lie in ...
    "swiglu": F.silu,  # -0.28 and above
    "geglu": F.gelu,  # -0.17 and above; the exact GELU
    "reglu": F.relu,  # 0 and above
    "glu": torch.sigmoid,  # between 0 and 1
    "bilinear": lambda gate: gate,  # anywhere
}


@mechanism(
    "glu",
    title="Gated linear units",
    family="mixing",
    slot="feed-forward",
    paper=Paper("GLU Variants Improve Transformer", "N. Shazeer", 2020, "2002.05202"),
    lab="Google",
    summary="A feed-forward layer computes its hidden channels twice, and lets one copy gate the other.",
    equation=r"y = \big( \phi(x W_{\text{gate}}) \odot x W_{\text{up}} \big) W_{\text{down}}, \qquad "
    r"\phi \in \{ \mathrm{SiLU}, \mathrm{GELU}, \mathrm{ReLU}, \sigma, \mathrm{id} \}",
    knobs={
        "activation": Knob("swiglu", "what the gate goes through (relu: the plain layer, no gate of its own)",
                           choices=(*GATES, "relu")),
        "width": Knob(172, "hidden channels; 2/3 of a plain layer's 4 d_model costs the same (three matrices, not two)",
                      low=1, high=8192),
    },
    pitfalls=(
        "Equal parameters need 2/3 of a plain layer's width (`relu`: 3/2 of a gated one's), or the gate wins for free.",
        "SiLU and GELU gates have no ceiling and dip below zero: only glu's sigmoid is a gate between shut and open.",
        "Which branch carries the activation is a convention: here the first half of `up`, as Llama's gate_proj.",
        "Bilinear, not squashed at all, already beats the sigmoid in the paper: the product matters most.",
        "Some checkpoints (T5 v1.1) approximate GELU by a tanh: up to 5e-4 away from the exact one used here.",
    ),
    reference="transformers: LlamaMLP (swiglu), T5DenseGatedActDense (geglu)",
    claims=(
        Claim(
            "products-for-free",
            "A gate multiplies, and products are what a plain layer is bad at.",
            source="arXiv:2002.05202, table 1: even the bilinear unit, without any squashing, beats ReLU",
            reported="1.960 against 1.997 nats a token",
            metric="error of y = Ax * Bx at equal parameters, MSE / Var(y)",
            measure=lambda seed: errors_on_products(seed),  # noqa: PLW0108 (it stands below the class)
            control_is="relu",
            effect="ratio",
            threshold=0.2,
            why="a difference in kind, not in degree: five times less error",
        ),
        Claim(
            "better-on-text",
            "A gated layer predicts text better than a plain one of equal size.",
            source="arXiv:2002.05202, table 1 (65,536 steps)",
            reported="SwiGLU 1.944, ReLU 1.997 nats a token",
            metric="held_out_loss",
            setup={"steps": 400, "horizon": 400, "activation": "swiglu", "width": 172},
            control={"activation": "relu", "width": 258},
            control_is="relu, width 258",
            effect="difference",
            threshold=None,
            why="reported only: after 400 steps the size of the feed-forward layers hardly matters yet",
        ),
    ),
)  # fmt: skip
class GatedLinearUnit(Instrumented):
    """x (..., D) -> y (..., D). Matrices start at N(0, 1/width of their input); no biases.

    SwiGLU by default: within the paper's spread of GEGLU, its best (1.636 against 1.633 nats a token), and what PaLM,
    Llama, Mixtral and most language models since have taken from it.
    """

    taps = {"gate": "B T F", "hidden": "B T F"}
    only_by_name = frozenset({"hidden"})  # as large as the gate, and not a decision

    def __init__(self, d_model: int, activation: str = "swiglu", width: int = 172) -> None:
        super().__init__()
        self.activation, self.width = activation, width
        self.up = nn.Linear(d_model, width if activation == "relu" else 2 * width, bias=False)  # gate first, then up
        self.down = nn.Linear(width, d_model, bias=False)
        nn.init.normal_(self.up.weight, std=d_model**-0.5)
        nn.init.normal_(self.down.weight, std=width**-0.5)

    def forward(self, x_BTD: Tensor) -> Tensor:
        up_BTF = self.up(x_BTD)
        if self.activation == "relu":
            gate_BTF = (up_BTF > 0).to(up_BTF.dtype)
        else:
            gate_BTF, up_BTF = up_BTF.chunk(2, dim=-1)
            gate_BTF = GATES[self.activation](gate_BTF)
        hidden_BTF = self.tap("hidden", self.tap("gate", gate_BTF) * up_BTF)
        return self.down(hidden_BTF)


def errors_on_products(seed: int) -> tuple[float, float]:
    """MSE / Var(y) on new points of y = Ax * Bx after 600 steps of Adam: of the bilinear unit, and of a relu layer as large."""
    random = torch.Generator().manual_seed(seed)
    D, errors = 16, []
    A, B = (torch.randn(D, D, generator=random) / D**0.5 for _ in range(2))
    for activation, width in (("bilinear", 32), ("relu", 48)):
        layer = GatedLinearUnit(D, activation, width)
        adam = torch.optim.Adam(layer.parameters(), lr=1e-2)
        for _ in range(601):
            x_BD = torch.randn(256, D, generator=random)
            y_BD = (x_BD @ A) * (x_BD @ B)
            error = (layer(x_BD[None])[0] - y_BD).square().mean() / y_BD.var()
            adam.zero_grad()
            error.backward()
            adam.step()
        errors.append(error.item())
    return errors[0], errors[1]
