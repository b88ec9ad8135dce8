"""Joint gated attention: near things by a full map, far things by a summary, and two streams that gate each other.

The block of MossFormer (arXiv:2302.11824), made for separating voices. Positions are cut into groups. Within its group a
position looks by squared ReLU of scores, everywhere else by linear attention, which costs the same however long the row. Both
ways share one narrow projection z of the input and move two wide ones, u and v, whose attended versions u' and v' then
gate each other three times over: `(u' v) * sigmoid(v' u)`.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from explorer.catalogue import Knob, Paper, mechanism
from explorer.errors import BadValue
from explorer.kernels.rotary import rotary
from explorer.mechanisms.attention._joint_gated_attention_claims import CLAIMS
from explorer.taps import Instrumented


@mechanism(
    "joint-gated-attention",
    title="Joint gated attention (MossFormer)",
    family="attention",
    slot="attention",
    paper=Paper("MossFormer: Pushing the Performance Limit of Monaural Speech Separation using Gated Single-Head Transformer "
                "with Convolution-Augmented Joint Self-Attentions", "S. Zhao, B. Ma", 2023, "2302.11824"),
    lab="Alibaba (DAMO)",
    summary="Squared-ReLU attention within groups plus linear attention beyond, between two streams that gate each other.",
    equation=r"s' = \operatorname{relu}\Big(\frac{Q K^\top}{\knob{group}{g}}\Big)^2_{\text{own group}} s + "
    r"\frac{1}{T}\, \tilde Q\, (\tilde K^\top s), \quad s \in \{u, v\}, \qquad "
    r"y = \operatorname{ConvM}\big((u' \odot v) \odot \sigma(v' \odot u)\big)",
    knobs={
        "group": Knob(16, "positions in a group (the paper: 256)", low=1, high=1024),
        "width": Knob(32, "width of z, and so of all queries and keys (the paper: 128)", low=2, high=1024),
        "expansion": Knob(4, "u and v together are so many times as wide as the model (the paper: 4)", low=2, high=8),
        "conv": Knob(17, "length of the depthwise convolutions, odd (the paper: 17)", low=1, high=129),
        "joint": Knob(True, "look beyond the group as well, by linear attention (the paper: on)", live=True),
        "gating": Knob("triple", "how u' and v' become the output; none: their sum", choices=("triple", "none"), live=True),
        "causal": Knob(True, "see nothing that comes later (the paper: off, whole recordings)"),
    },
    pitfalls=(
        "Squared ReLU is not softmax: rows sum to anything, so the scores are divided by the group's size before the square.",
        "Linear attention is divided by T; causal, it sums whole groups before one's own, each divided by the group's size.",
        "One map serves both streams: u and v are moved alike, and only the gates tell them apart.",
        "Pad the last group after scale, offset and turn: a padded key must be zero, or its offset would enter the sum.",
        "Scales start at N(0, 0.3^2): the paper's N(0, 0.02^2) gives first weights of 1e-10, and the near branch would sleep.",
        "Causal convolutions look back only; the authors' code pads both sides even then, which shows the future.",
        "The norm stands inside each ConvM, and there is no dropout here (the paper: 0.1).",
    ),
    reference="none packaged as a block: FLASH-pytorch for the attention, float64 loops for the whole",
    claims=CLAIMS,
)  # fmt: skip
class JointGatedAttention(Instrumented):
    """x_BTD -> y_BTD, without the residual. Linear maps start at N(0, 1/(their inputs)), offsets and biases at 0.

    gate: sigmoid(v' u), 0 shut to 1 open. near, far: length of what a position gets from its group, and from elsewhere.
    attention: the map within groups, zero between them, not normalised; an edit of it is obeyed. linear: the far weights.
    """

    taps = {"gate": "B T F", "near": "B T", "far": "B T", "attention": "B 1 T S", "linear": "B 1 T S"}
    only_by_name = frozenset({"attention", "linear"})

    def __init__(
        self, d_model: int, group: int = 16, width: int = 32, expansion: int = 4, conv: int = 17, joint: bool = True,
        gating: str = "triple", causal: bool = True,
    ) -> None:  # fmt: skip
        super().__init__()
        if conv % 2 == 0 or width % 2 or expansion % 2:
            raise BadValue(f"conv={conv}, width={width}, expansion={expansion}: they must be odd, even and even")
        self.group, self.width, self.expansion, self.conv = group, width, expansion, conv
        self.joint, self.gating, self.causal = joint, gating, causal
        self.to_vu = ConvM(d_model, expansion * d_model, conv, causal)
        self.to_z = ConvM(d_model, width, conv, causal)
        self.scale = nn.Parameter(0.3 * torch.randn(4, width))
        self.offset = nn.Parameter(torch.zeros(4, width))
        self.out = ConvM(expansion * d_model // 2, d_model, conv, causal)

    def forward(self, x_BTD: Tensor) -> Tensor:
        shifted, kept = x_BTD.chunk(2, dim=-1)
        x_BTD = torch.cat([F.pad(shifted, (0, 0, 1, -1)), kept], dim=-1)  # half the channels come from the token before
        vu_BTF = self.to_vu(x_BTD)
        v_BTF, u_BTF = vu_BTF.chunk(2, dim=-1)
        moved_v, moved_u = self.attend(self.to_z(x_BTD), vu_BTF).chunk(2, dim=-1)
        gate_BTF = self.tap("gate", (moved_v * u_BTF).sigmoid())
        return self.out(moved_u * v_BTF * gate_BTF if self.gating == "triple" else moved_u + moved_v)

    def attend(self, z_BTW: Tensor, s_BTF: Tensor) -> Tensor:
        """What every position gets of s: from its group by the full map, from everywhere by the linear one."""
        T, g = z_BTW.shape[1], self.group
        each = z_BTW[:, None] * self.scale[:, None] + self.offset[:, None]
        each = torch.cat([rotary(each[..., :32]), each[..., 32:]], -1)  # turned are 32 channels, as in the paper
        near_q, far_q, near_k, far_k = F.pad(each, (0, 0, 0, -T % g)).unflatten(2, (-1, g)).unbind(1)
        s_BMgF = F.pad(s_BTF, (0, 0, 0, -T % g)).unflatten(1, (-1, g))
        map_BMgg = (near_q @ near_k.transpose(-1, -2) / g).relu().square()
        if self.causal:
            map_BMgg = map_BMgg.tril()
        near_BTF = self._watched(map_BMgg, s_BTF, (map_BMgg @ s_BMgF).flatten(1, 2)[:, :T])
        sums_BMWF = far_k.transpose(-1, -2) @ s_BMgF
        if self.causal:
            sums_BMWF = F.pad(sums_BMWF.cumsum(1)[:, :-1] / g, (0, 0, 0, 0, 1, 0))
        else:
            sums_BMWF = sums_BMWF.sum(1, keepdim=True) / T
        far_BTF = (far_q @ sums_BMWF).flatten(1, 2)[:, :T] * self.joint
        if self.watched("linear"):
            self.tap("linear", self.linear_map(far_q, far_k, T))
        self.tap("near", near_BTF.norm(dim=-1))
        self.tap("far", far_BTF.norm(dim=-1))
        return near_BTF + far_BTF

    def linear_map(self, far_q: Tensor, far_k: Tensor, T: int) -> Tensor:
        """(B, 1, T, S): the weights, of any sign, that the linear attention comes to; it never makes them itself."""
        group_T = torch.arange(T, device=far_q.device) // self.group
        scores_BTT = (far_q.flatten(1, 2) @ far_k.flatten(1, 2).transpose(-1, -2))[:, :T, :T]
        before_TT = group_T < group_T[:, None]
        return self.joint * (scores_BTT * before_TT / self.group if self.causal else scores_BTT / T)[:, None]

    def _watched(self, map_BMgg: Tensor, s_BTF: Tensor, near_BTF: Tensor) -> Tensor:
        """near_BTF, or what an edit of the whole map makes of it."""
        if not self.watched("attention"):
            return near_BTF
        T, M = s_BTF.shape[1], map_BMgg.shape[1]
        own_M1M1 = torch.eye(M, dtype=map_BMgg.dtype, device=map_BMgg.device)[:, None, :, None]
        whole = (map_BMgg[:, :, :, None] * own_M1M1).flatten(3).flatten(1, 2)[:, None, :T, :T]
        edited = self.tap("attention", whole)
        return near_BTF if edited is whole else (edited @ s_BTF[:, None])[:, 0]

    def flops(self, T: int) -> float:  # noqa: ARG002 (groups are what counts, not the row)
        """Of both attentions and the convolutions, a token: two a multiply-add, every position of its group counted."""
        (D, half), W = self.out.linear.weight.shape, self.width
        return 2.0 * (self.group * (W + 2 * half) + 4 * W * half * self.joint + self.conv * (2 * half + W + D))


class ConvM(nn.Module):
    """w + conv(w) along the row, channel by channel, of w = SiLU(x / rms(x) g W + b), with one gain g."""

    def __init__(self, d_in: int, d_out: int, length: int, causal: bool) -> None:
        super().__init__()
        self.gain = nn.Parameter(torch.ones(1))
        self.linear = nn.Linear(d_in, d_out)
        nn.init.normal_(self.linear.weight, std=d_in**-0.5)
        nn.init.zeros_(self.linear.bias)
        self.conv = nn.Conv1d(d_out, d_out, length, groups=d_out, bias=False)
        self.before = length - 1 if causal else length // 2

    def forward(self, x_BTD: Tensor) -> Tensor:
        wide = x_BTD.to(torch.promote_types(x_BTD.dtype, torch.float32))
        rms = torch.linalg.vector_norm(wide, dim=-1, keepdim=True) * wide.shape[-1] ** -0.5
        w_BTF = F.silu(self.linear((wide / rms.clamp(min=1e-5)).to(x_BTD.dtype) * self.gain))
        row = F.pad(w_BTF.transpose(1, 2), (self.before, self.conv.kernel_size[0] - 1 - self.before))
        return w_BTF + self.conv(row).transpose(1, 2)
