"""Hash experts: a gate cuts the plane into regions, and each region is painted by an expert with a hash grid of its own.

Switch-NeRF++ (arXiv:2505.02005), in two dimensions. A hash grid (Instant-NGP, arXiv:2201.05989) is a pyramid of lattices
whose corners look their features up in small tables, through a hash where a table has no room for all of them. The gate
reads a grid too; the experts' pyramids differ: coarse ones cannot follow detail, fine ones cannot help but.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from explorer.catalogue import Knob, Paper, mechanism
from explorer.errors import BadValue
from explorer.kernels.experts import choose, experts
from explorer.mechanisms.routing._hash_experts_claims import CLAIMS
from explorer.metrics import load_balancing_loss
from explorer.taps import Instrumented

CORNERS = torch.tensor([[0, 0], [1, 0], [0, 1], [1, 1]])
PRIME = 2654435761  # the second coordinate's, as in Instant-NGP; the first has 1


def hash_grid(table_ELSF: Tensor, cells_EL: Tensor, place_N2: Tensor, expert_N: Tensor) -> Tensor:
    """(N, L F): what the pyramid of its own expert says of each place of [0, 1]^2; beyond it, the lattices go on.

    Level l of expert e has cells_EL[e, l] cells along each side and S entries in its table.
    """
    _, L, S, width = table_ELSF.shape
    cells_NL = cells_EL[expert_N]
    scaled_NL2 = place_N2[:, None] * cells_NL[..., None]
    corner_NL42 = scaled_NL2.floor().long()[:, :, None] + CORNERS.to(place_N2.device)
    u, v = corner_NL42.unbind(-1)
    side = cells_NL[..., None] + 1
    entry_NL4 = torch.where(side * side <= S, u + v * side, u ^ (v * PRIME)) % S  # one entry a corner where they fit
    row_NL4 = entry_NL4 + S * (L * expert_N[:, None, None] + torch.arange(L, device=expert_N.device)[:, None])
    rest_NL12 = (scaled_NL2 - scaled_NL2.floor())[:, :, None]
    share_NL4 = torch.where(CORNERS.to(place_N2.device) > 0, rest_NL12, 1 - rest_NL12).prod(-1)
    features_NL4F = F.embedding(row_NL4, table_ELSF.reshape(-1, width))
    return (share_NL4[..., None] * features_NL4F.float()).sum(2).flatten(1)


def pyramid(levels: int, coarsest: int, finest: Tensor) -> Tensor:
    """(E, L) whole numbers of cells, growing by a constant factor from `coarsest` to each expert's `finest`."""
    step_L = torch.linspace(0, 1, levels) if levels > 1 else torch.ones(1)
    return (coarsest * (finest[:, None] / coarsest) ** step_L + 1e-3).long()


class HashGate(Instrumented):
    """place_BT2 of [-1, 1]^2 -> (weights_BT1, index_BT1): a coarse hash grid, one hidden layer, softmax, the best one."""

    taps = {"logits": "B T E", "probs": "B T E", "weights": "B T K", "index": "B T K"}
    scores = "probabilities"
    slots = 1.0

    def __init__(self, n_experts: int) -> None:
        super().__init__()
        self.n_experts = n_experts
        self.cells: Tensor
        self.register_buffer("cells", pyramid(3, 2, torch.tensor([16.0])))
        self.table = nn.Parameter(torch.empty(1, 3, 512, 2).uniform_(-1, 1))
        self.hidden, self.score = nn.Linear(6, 16, bias=False), nn.Parameter(torch.randn(16, n_experts) / 2)

    def forward(self, place_BT2: Tensor) -> tuple[Tensor, Tensor]:
        place_N2 = (place_BT2.float().reshape(-1, 2) + 1) / 2
        own_N = torch.zeros(len(place_N2), dtype=torch.long, device=place_N2.device)
        features_NF = hash_grid(self.table.float(), self.cells, place_N2, own_N)
        hidden_NF = F.linear(features_NF, self.hidden.weight.float()).relu()
        logits_NE = hidden_NF @ self.score.float()
        logits_BTE = self.tap("logits", logits_NE.view(*place_BT2.shape[:2], -1))
        probs_BTE = self.tap("probs", logits_BTE.softmax(-1))
        weights_BT1, index_BT1 = probs_BTE.max(-1, keepdim=True)
        self.auxiliary = load_balancing_loss(probs_BTE, index_BT1)  # the layer takes it from here, with its weight
        return self.tap("weights", weights_BT1.to(place_BT2.dtype)), self.tap("index", index_BT1)


@mechanism(
    "hash-experts",
    title="Heterogeneous hash experts",
    family="routing",
    slot="feed-forward",
    paper=Paper(
        "Learning Heterogeneous Mixture of Scene Experts for Large-scale Neural Radiance Fields", "Z. Mi et al.", 2025,
        "2505.02005",
    ),
    lab="HKUST",
    summary="A hash grid gates each place to one expert, whose own hash grid is as fine as that expert is meant to be.",
    equation=r"p(x) = \operatorname{softmax}\big(\operatorname{MLP}(h_0(x))\big), \quad e = \operatorname{argmax} p, \quad "
    r"y = p_e(x) \operatorname{MLP}_e(h_e(x)), \quad h_e = \Big[\textstyle\sum_{c} w_c\, \theta^{e}_{l,\, "
    r"(c_1 \oplus \pi c_2) \bmod \knob{entries}{S}}\Big]_{l=1}^{\knob{levels}{L}}",
    knobs={
        "n_experts": Knob(4, "how many experts share the plane (Switch-NeRF: 8)", low=1, high=64),
        "smoothest": Knob(8, "cells along each side in the finest lattice of expert 0", low=1, high=1024),
        "finest": Knob(64, "the same of the last expert; those between grow by a constant factor", low=1, high=1024),
        "levels": Knob(4, "lattices of a pyramid (Instant-NGP: 16)", low=1, high=16),
        "entries": Knob(1024, "entries of a lattice's table (Instant-NGP: 2^14 to 2^24)", low=1, high=65536),
        "width": Knob(32, "hidden width of an expert (Instant-NGP: 64)", low=1, high=8192),
        "aux_loss": Knob(0.01, "weight of the loss for an even load (Switch-NeRF: 0.0005)", low=0, high=10, live=True),
    },
    pitfalls=(
        "The balancing loss fights heterogeneity: regions are as large as the picture wants them, so keep it small.",
        "Capacity leaves holes in the picture where an expert is full: nothing is dropped here, training or not.",
        "Two corners that share an entry of the table look like an expert's taste; enlarge `entries` to tell.",
        "Tables that start at 1e-4, as the experts' do, give a blind gate; the gate's start at 1, and are coarse.",
        "An input that is not of the plane (d_model other than 2) is first led there by a learned linear map, `place`.",
        "Grid tables want a larger learning rate than networks do (Instant-NGP: 1e-2).",
    ),
    reference="none packaged: the equations, read slowly in float64; no code of Switch-NeRF++ is public",
    claims=CLAIMS,
)  # fmt: skip
class HashExperts(Instrumented):
    """x_BTD -> y_BTD: x is a place of [-1, 1]^2 where D is 2. The gate's choice is tapped at `gate`."""

    taps = {"place": "B T F"}

    def __init__(
        self, d_model: int, n_experts: int = 4, smoothest: int = 8, finest: int = 64, levels: int = 4,
        entries: int = 1024, width: int = 32, aux_loss: float = 0.01,
    ) -> None:  # fmt: skip
        super().__init__()
        if smoothest > finest:
            raise BadValue(f"smoothest={smoothest}: it must be at most finest={finest}")
        self.n_experts, self.smoothest, self.finest, self.levels = n_experts, smoothest, finest, levels
        self.entries, self.width, self.aux_loss, self.slots, self.kernel = entries, width, aux_loss, 1.0, "auto"
        self.place = nn.Identity() if d_model == 2 else nn.Linear(d_model, 2)
        self.gate = HashGate(n_experts)
        finest_E = smoothest * (finest / smoothest) ** torch.linspace(0, 1, n_experts)
        self.cells: Tensor
        self.register_buffer("cells", pyramid(levels, min(4, smoothest), finest_E))
        self.table = nn.Parameter(torch.empty(n_experts, levels, entries, 2).uniform_(-1e-4, 1e-4))
        self.up = nn.Parameter(torch.randn(n_experts, 2 * levels, width) * levels**-0.5)  # 2/fan-in: relu halves it
        self.down = nn.Parameter(torch.randn(n_experts, width, d_model) * width**-0.5)

    def forward(self, x_BTD: Tensor) -> Tensor:
        place_BT2 = self.tap("place", self.place(x_BTD))
        weights_BT1, index_BT1 = self.gate(place_BT2)
        even, self.gate.auxiliary = self.gate.auxiliary, None
        self.auxiliary = self.aux_loss * even if self.aux_loss and even is not None else None
        index_N1 = index_BT1.reshape(-1, 1)
        features_NF = hash_grid(self.table, self.cells, (place_BT2.float().reshape(-1, 2) + 1) / 2, index_N1[:, 0]).to(
            x_BTD.dtype
        )
        self.kernel = choose("auto", features_NF, self.up, self.down)
        y_ND = experts(features_NF, index_N1, weights_BT1.reshape(-1, 1), self.up, self.down, "relu", self.kernel)
        return y_ND.view_as(x_BTD)

    def flops(self, T: int) -> float:  # noqa: ARG002 (every mechanism's signature)
        """Of the chosen expert and of the gate, a token: two a multiply-add, matrices only; a look-up costs nothing."""
        return 2.0 * (self.up[0].numel() + self.down[0].numel())
