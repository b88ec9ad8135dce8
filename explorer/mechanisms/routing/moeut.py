"""MoEUT: a few layers used again and again, with experts in the feed-forward network and in the attention.

Csordas et al. (arXiv:2405.16039). A group of layers is repeated over depth (A B A B ...), so parameters are shared; many
small experts give back the parameters that sharing takes away, at no more work for a token. Layer norms stand only before
what chooses or attends, never in the stream that carries the content: "peri-layernorm".
"""

import math
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from explorer.catalogue import Knob, Paper, mechanism
from explorer.errors import BadValue
from explorer.kernels.experts import choose, experts
from explorer.kernels.rotary import rotary
from explorer.mechanisms.routing._stack_claims import MOEUT
from explorer.taps import Instrumented


class Choice(Instrumented):
    """logits_BTE -> (weights_BTK, index_BTK): sigma-MoE's choice, one such watch-post for every layer of every repeat."""

    taps = {"logits": "B T E", "probs": "B T E", "weights": "B T K", "index": "B T K"}
    scores: ClassVar[str | None] = "independent"

    def __init__(self, n_experts: int, k: int) -> None:
        super().__init__()
        self.n_experts, self.slots = n_experts, float(k)

    def forward(self, logits_BTE: Tensor, k: int) -> tuple[Tensor, Tensor]:
        probs_BTE = self.tap("probs", self.tap("logits", logits_BTE).sigmoid())
        weights_BTK, index_BTK = probs_BTE.topk(k, dim=-1)  # a sigmoid each, not renormalised
        return self.tap("weights", weights_BTK), self.tap("index", index_BTK)


class Maps(Choice):
    """The watch-post of the attention: the weights of each head's value and output maps, 0 for those not chosen."""

    taps, scores = {"value_gate": "B T H E", "output_gate": "B T H E"}, None

    def forward(self, probs_BTHE: Tensor, k: int, tap: str) -> tuple[Tensor, Tensor]:  # type: ignore[override]
        weights, index = probs_BTHE.topk(k, dim=-1)
        return self.tap(tap, torch.zeros_like(probs_BTHE).scatter(-1, index, weights)).gather(-1, index), index


def selector(targets: int, d_model: int, std: float) -> nn.Parameter:
    """Rows of one length: a token's angle to a row decides, not how long the row happened to be drawn."""
    return nn.Parameter(F.normalize(torch.randn(targets, d_model), dim=1) * std * d_model**0.5)


def unevenness(logits: list[Tensor]) -> Tensor:
    """Minus the entropy of the mean softmax over positions AND repeats of a sequence (B T ... E), mean over the rest."""
    mean = torch.stack([one.softmax(-1) for one in logits]).mean((0, 2))
    return torch.special.xlogy(mean, mean).sum(-1).mean()


@mechanism(
    "moeut",
    title="Mixture-of-experts universal transformer (MoEUT)",
    family="routing",
    slot="stack",
    paper=Paper("MoEUT: Mixture-of-Experts Universal Transformers", "R. Csordas et al.", 2024, "2405.16039"),
    lab="Stanford / KAUST",
    summary="A group of layers is repeated over depth; experts in its attention and its feed-forward give it its size.",
    equation=r"v_h = \sum_{a \in \operatorname{top}_{\knob{attention_k}{2}}} \sigma(P_h \bar x)_a V^{h,a} x, \quad "
    r"x' = x + \sum_{h,\, a \in \operatorname{top}_{\knob{attention_k}{2}}} \sigma(Q_h \bar x)_a\, O^{h,a} "
    r"\operatorname{att}_h(\bar x, v_h), \quad y = x' + \sum_{e \in \operatorname{top}_{\knob{k}{k}}} \sigma(W \bar x')_e\, "
    r"W^e_2 \operatorname{ReLU}(W^e_1 x')",
    knobs={
        "n_experts": Knob(16, "feed-forward experts of a layer (the paper: 155 to 565)", low=1, high=1024),
        "k": Knob(4, "of them, how many a token gets (the paper: 12 to 24)", low=1, high=64, live=True),
        "width": Knob(32, "hidden width of an expert (the paper: 128)", low=1, high=8192),
        "n_heads": Knob(4, "attention heads (the paper: 4 to 6, few)", low=1, high=64),
        "attention_experts": Knob(4, "value and output maps of a head (the paper: 8 to 13)", low=1, high=64),
        "attention_k": Knob(2, "of them, how many a token gets", low=1, high=64, live=True),
        "group": Knob(2, "layers with weights of their own (the paper: 2 to 4)", low=1, high=16),
        "repeats": Knob(2, "how often the group is run (the paper: 8 or 9)", low=1, high=32),
        "aux_loss": Knob(0.01, "weight of the feed-forward choice's negative entropy", low=0, high=10, live=True),
        "attention_loss": Knob(0.001, "the same of the attention's choices", low=0, high=10, live=True),
    },
    pitfalls=(
        "Balance is asked of all repeats together; asked of each, every depth would have to use the experts alike.",
        "The values, and what the experts read, are the bare stream: only queries, keys and choices see a layer norm.",
        "Chosen sigmoids are not divided by their sum, and the initial scale goes by the width of all experts together.",
        "It is a stack with residuals of its own: a host that adds its input once more doubles it; it wants a last norm.",
    ),
    reference="none packaged: the equations, read slowly in float64; the authors' code needs a GPU",
    claims=MOEUT,
)  # fmt: skip
class MoEUT(Instrumented):
    """x_BTD -> y_BTD, the stream after all repeats. Choices are tapped at `choice.0` ... in the order they are made."""

    taps = {"rms": "B T L"}  # of the stream after each layer: without a norm in it, it grows

    def __init__(
        self, d_model: int, n_experts: int = 16, k: int = 4, width: int = 32, n_heads: int = 4, attention_experts: int = 4,
        attention_k: int = 2, group: int = 2, repeats: int = 2, aux_loss: float = 0.01, attention_loss: float = 0.001,
    ) -> None:  # fmt: skip
        super().__init__()
        if d_model % (2 * n_heads):
            raise BadValue(f"n_heads={n_heads}: it must split d_model={d_model} into heads of an even width, for RoPE")
        if attention_k > attention_experts:
            raise BadValue(f"attention_k={attention_k}: it must be at most attention_experts={attention_experts}")
        self.n_experts, self.k, self.width, self.slots, self.kernel = n_experts, k, width, float(k), "auto"
        self.n_heads, self.attention_experts, self.attention_k = n_heads, attention_experts, attention_k
        self.group, self.repeats, self.aux_loss, self.attention_loss = group, repeats, aux_loss, attention_loss
        H, A, G, d, scale = n_heads, attention_experts, group, d_model // n_heads, math.sqrt(2 / (group * repeats))

        def normal(*shape: int, fan_in: int) -> nn.ParameterList:
            return nn.ParameterList(torch.randn(shape) * scale * fan_in**-0.5 for _ in range(G))

        self.norm_attention, self.norm_ffn = (nn.ModuleList(nn.LayerNorm(d_model) for _ in range(G)) for _ in range(2))
        self.qk = normal(2 * d_model, d_model, fan_in=d_model)
        self.value, self.output = normal(H * A, d_model, d, fan_in=d_model), normal(H * A, d, d_model, fan_in=H * d)
        self.up = normal(n_experts, d_model, width, fan_in=d_model)
        self.down = normal(n_experts, width, d_model, fan_in=n_experts * width)
        self.pick = nn.ParameterList(selector(n_experts, d_model, scale * d_model**-0.5) for _ in range(G))
        self.pick_maps = nn.ParameterList(selector(2 * H * A, d_model, scale * d_model**-0.5) for _ in range(G))
        self.choice = nn.ModuleList(Choice(n_experts, k) for _ in range(G * repeats))
        self.maps = nn.ModuleList(Maps(A, attention_k) for _ in range(G * repeats))

    def forward(self, x_BTD: Tensor) -> Tensor:
        picks: list[list[Tensor]] = [[] for _ in range(self.group)]  # logits of each layer, over its repeats
        maps: list[list[Tensor]] = [[] for _ in range(self.group)]
        rms = []
        for i, choice in enumerate(self.choice):
            g = i % self.group
            norm_BTD = self.norm_attention[g](x_BTD)
            maps[g].append(F.linear(norm_BTD.float(), self.pick_maps[g].float()).unflatten(-1, (2, self.n_heads, -1)))
            x_BTD = x_BTD + self.attend(g, x_BTD, norm_BTD, maps[g][-1].sigmoid(), self.maps[i])
            picks[g].append(F.linear(self.norm_ffn[g](x_BTD).float(), self.pick[g].float()))
            weights_BTK, index_BTK = choice(picks[g][-1], self.k)
            x_BTD = x_BTD + self.mix(x_BTD, weights_BTK, index_BTK, self.up[g], self.down[g])
            rms.append(x_BTD.detach().float().square().mean(-1).sqrt())
        self.tap("rms", torch.stack(rms, -1))
        losses = [self.aux_loss * unevenness(picks[g]) for g in range(self.group) if self.aux_loss]
        losses += [2 * self.attention_loss * unevenness(maps[g]) for g in range(self.group) if self.attention_loss]
        self.auxiliary = torch.stack(losses).sum() if losses else None
        return x_BTD

    def attend(self, g: int, x_BTD: Tensor, norm_BTD: Tensor, probs_BT2HA: Tensor, maps: nn.Module) -> Tensor:
        B, T, D, H = *x_BTD.shape, self.n_heads
        qk = F.linear(norm_BTD, self.qk[g]).view(B, T, 2 * H, D // H).transpose(1, 2)
        turned = max(2, D // H // 4 * 2)
        q_BHTd, k_BHTd = torch.cat([rotary(qk[..., :turned]), qk[..., turned:]], -1).chunk(2, dim=1)
        first_H1 = self.attention_experts * torch.arange(H, device=x_BTD.device)[:, None]  # a head's maps lie together
        value_weights, value = maps(probs_BT2HA[:, :, 0], self.attention_k, "value_gate")
        output_weights, output = maps(probs_BT2HA[:, :, 1], self.attention_k, "output_gate")
        x_BTHD = x_BTD[:, :, None].expand(B, T, H, D)
        v_BTHd = self.mix(x_BTHD, value_weights, value + first_H1, self.value[g])
        y_BHTd = F.scaled_dot_product_attention(q_BHTd, k_BHTd, v_BTHd.transpose(1, 2), is_causal=True)
        return self.mix(y_BHTd.transpose(1, 2), output_weights, output + first_H1, self.output[g]).sum(2)

    def mix(self, x: Tensor, weights: Tensor, index: Tensor, up: Tensor, down: Tensor | None = None) -> Tensor:
        """The chosen experts' weighted sum for each row (..., D); experts with a `down` have a ReLU before it."""
        x_ND, K, activation = x.reshape(-1, x.shape[-1]), index.shape[-1], "linear" if down is None else "relu"
        self.kernel = choose("auto", x_ND, up, down)
        weights_NK, index_NK = weights.reshape(-1, K).to(x.dtype), index.reshape(-1, K)
        return experts(x_ND, index_NK, weights_NK, up, down, activation, self.kernel).view(*x.shape[:-1], -1)

    def flops(self, T: int) -> float:
        """Of one token through all repeats: two a multiply-add, matrices only."""
        dense = self.qk[0].numel() + self.pick_maps[0].numel() + self.pick[0].numel() + self.qk[0].shape[1] * (T + 1)
        chosen = 2 * self.attention_k * self.n_heads * self.value[0][0].numel() + 2 * self.k * self.up[0][0].numel()
        return 2.0 * len(self.choice) * (dense + chosen)
