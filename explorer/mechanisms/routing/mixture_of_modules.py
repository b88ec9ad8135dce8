"""Mixture of modules: the layers of a transformer lose their places, and every token assembles its own network from them.

Gong et al. (arXiv:2407.06677). There is a pool of attention modules and a pool of feed-forward modules. At each assembly
step a router picks for every token which of the one and then which of the other come next; a module may come twice, or
never. The routers are recurrent over the steps: what a token has been through decides what it needs now.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from explorer.catalogue import Knob, Paper, mechanism
from explorer.errors import BadValue
from explorer.kernels.experts import choose, experts
from explorer.kernels.rotary import rotary
from explorer.mechanisms.routing._stack_claims import MIXTURE_OF_MODULES
from explorer.metrics import load_balancing_loss
from explorer.taps import Instrumented


class Choice(Instrumented):
    """logits_BTE -> (probs_BTE, weights_BTK, index_BTK): the choice of one step, with its taps."""

    taps = {"logits": "B T E", "probs": "B T E", "weights": "B T K", "index": "B T K"}
    scores = "probabilities"

    def __init__(self, n_experts: int, k: int) -> None:
        super().__init__()
        self.n_experts, self.slots = n_experts, float(k)

    def forward(self, logits_BTE: Tensor, k: int, temperature: float) -> tuple[Tensor, Tensor, Tensor]:
        probs_BTE = self.tap("probs", (self.tap("logits", logits_BTE) / temperature).softmax(-1))
        weights_BTK, index_BTK = probs_BTE.topk(k, dim=-1)
        weights_BTK = self.tap("weights", weights_BTK / weights_BTK.sum(-1, keepdim=True))
        return probs_BTE, weights_BTK, self.tap("index", index_BTK)


class Router(nn.Module):
    """One recurrent cell and one matrix for all steps: (x, state) -> (logits_BTE, state), both in float32."""

    def __init__(self, d_model: int, n_experts: int, width: int = 32) -> None:
        super().__init__()
        self.cell, self.score = nn.GRUCell(d_model, width), nn.Parameter(torch.randn(n_experts, width) * width**-0.5)

    def forward(self, x_BTD: Tensor, state_NF: Tensor | None) -> tuple[Tensor, Tensor]:
        x_ND, cell = x_BTD.float().flatten(0, 1), self.cell
        state_NF = x_ND.new_zeros(len(x_ND), self.score.shape[1]) if state_NF is None else state_NF
        own = [weight.float() for weight in (cell.weight_ih, cell.weight_hh, cell.bias_ih, cell.bias_hh)]
        state_NF = torch.gru_cell(x_ND, state_NF, *own)
        return F.linear(state_NF, self.score.float()).view(*x_BTD.shape[:2], -1), state_NF


@mechanism(
    "mixture-of-modules",
    title="Mixture of modules (MoM)",
    family="routing",
    slot="stack",
    paper=Paper(
        "Mixture-of-Modules: Reinventing Transformers as Dynamic Assemblies of Modules", "Z. Gong et al.", 2024, "2407.06677"
    ),
    lab="Peking University",
    summary="At each step every token picks the attention and then the feed-forward modules that come next for it.",
    equation=r"s_i = \operatorname{GRU}(x, s_{i-1}), \quad g = \operatorname{softmax}\big(\operatorname{top}_{\knob{k}{k}}"
    r"(W s_i / \knob{temperature}{\tau})\big), \qquad x \leftarrow x + \sum_m g_m M_m(x), \quad i = 1 \dots \knob{depth}{S}",
    knobs={
        "n_experts": Knob(4, "modules of each pool", low=1, high=64),
        "k": Knob(2, "modules that a token takes at once (the paper: 1 or 2)", low=1, high=64, live=True),
        "depth": Knob(4, "assembly steps (the paper: 8)", low=1, high=32),
        "width": Knob(64, "hidden width of a feed-forward module (the paper: 4 times d_model)", low=1, high=8192),
        "n_heads": Knob(4, "attention heads", low=1, high=64),
        "temperature": Knob(0.2, "of the routers' softmax", low=0, above=True, high=100, live=True),
        "aux_loss": Knob(0.01, "weight of the loss that asks for an even use over all steps", low=0, high=10, live=True),
    },
    pitfalls=(
        "With k = 1 the renormalised weight is 1 and the task sends the routers no gradient (the paper: straight-through).",
        "The norm belongs to the module, not to the place where it is put.",
        "A query meets keys that other modules made: all queries, keys and values are there before anyone attends.",
        "Queries, keys and values of a token's modules are added without weights; the weights come at the output.",
        "Balance is asked of all steps together: asked of each, no step could have modules of its own.",
        "The paper starts from a trained transformer's layers, with layer norms and GELU; here from nothing, RMS and SwiGLU.",
    ),
    reference="none packaged: the equations, read slowly in float64; the order of operations is that of the authors' code",
    claims=MIXTURE_OF_MODULES,
)  # fmt: skip
class MixtureOfModules(Instrumented):
    """x_BTD -> y_BTD, the stream after all steps. Choices are tapped at `attention.0`, `ffn.0`, `attention.1`, ..."""

    taps = {"rms": "B T L"}  # of what each step adds to the stream: how far a token is moved

    def __init__(
        self, d_model: int, n_experts: int = 4, k: int = 2, depth: int = 4, width: int = 64, n_heads: int = 4,
        temperature: float = 0.2, aux_loss: float = 0.01,
    ) -> None:  # fmt: skip
        super().__init__()
        if d_model % (2 * n_heads):
            raise BadValue(f"n_heads={n_heads}: it must split d_model={d_model} into heads of an even width, for RoPE")
        self.n_experts, self.k, self.depth, self.width, self.n_heads = n_experts, k, depth, width, n_heads
        self.temperature, self.aux_loss, self.slots, self.kernel = temperature, aux_loss, float(k), "auto"
        E, D, out = n_experts, d_model, (2 * depth) ** -0.5  # the stream keeps its variance over depth, as in GPT-2
        self.route_attention, self.route_ffn = Router(D, E), Router(D, E)
        self.attention, self.ffn = (nn.ModuleList(Choice(E, k) for _ in range(depth)) for _ in range(2))
        self.norm_attention, self.norm_ffn = (nn.Parameter(torch.ones(E, D, 1)) for _ in range(2))
        self.qkv, self.out = (nn.Parameter(torch.randn(E, D, n * D) * s * D**-0.5) for n, s in ((3, 1.0), (1, out)))
        self.up = nn.Parameter(torch.randn(E, D, 2 * width) * D**-0.5)
        self.down = nn.Parameter(torch.randn(E, width, D) * out * width**-0.5)

    def forward(self, x_BTD: Tensor) -> Tensor:
        qkv, up = self.norm_attention * self.qkv, self.norm_ffn * self.up  # each module's norm gains, folded in
        states: list[Tensor | None] = [None, None]
        said: list[list[Tensor]] = [[], []]
        moved = []
        for choices in zip(self.attention, self.ffn, strict=True):
            before_BTD = x_BTD
            for pool, (router, choice) in enumerate(zip((self.route_attention, self.route_ffn), choices, strict=True)):
                logits_BTE, states[pool] = router(x_BTD, states[pool])
                probs_BTE, weights, index = choice(logits_BTE, self.k, self.temperature)
                said[pool].append(probs_BTE)
                norm_BTD = F.rms_norm(x_BTD, x_BTD.shape[-1:], eps=1e-6)
                if pool == 0:
                    x_BTD = x_BTD + self.attend(norm_BTD, weights, index, qkv)
                else:
                    x_BTD = x_BTD + self.mix(norm_BTD, weights, index, up, self.down, "swiglu")
            moved.append((x_BTD - before_BTD).detach().float().square().mean(-1).sqrt())
        self.tap("rms", torch.stack(moved, -1))
        even = [load_balancing_loss(p, p.argmax(-1, keepdim=True)) for p in (torch.cat(steps, 1) for steps in said)]
        self.auxiliary = self.aux_loss * (even[0] + even[1]) if self.aux_loss else None
        return x_BTD

    def attend(self, norm_BTD: Tensor, weights_BTK: Tensor, index_BTK: Tensor, qkv: Tensor) -> Tensor:
        B, T, D, H = *norm_BTD.shape, self.n_heads
        qkv_BTG = self.mix(norm_BTD, torch.ones_like(weights_BTK), index_BTK, qkv)
        q, k, v = qkv_BTG.view(B, T, 3, H, D // H).permute(2, 0, 3, 1, 4)
        y_BHTd = F.scaled_dot_product_attention(rotary(q), rotary(k), v, is_causal=True)
        return self.mix(y_BHTd.transpose(1, 2).reshape(B, T, D), weights_BTK, index_BTK, self.out)

    def mix(
        self, x: Tensor, weights: Tensor, index: Tensor, up: Tensor, down: Tensor | None = None, kind: str = "linear"
    ) -> Tensor:
        """The weighted sum of what the chosen modules make of each token."""
        x_ND, K = x.flatten(0, 1), index.shape[-1]
        self.kernel = choose("auto", x_ND, up, down)
        weights_NK = weights.reshape(-1, K).to(x.dtype)
        return experts(x_ND, index.reshape(-1, K), weights_NK, up, down, kind, self.kernel).view(*x.shape[:-1], -1)

    def flops(self, T: int) -> float:
        """Of one token through all steps: two a multiply-add, matrices only."""
        modules = self.k * sum(one[0].numel() for one in (self.qkv, self.out, self.up, self.down))
        routers = sum(weight.numel() for one in (self.route_attention, self.route_ffn) for weight in one.parameters())
        return 2.0 * self.depth * (modules + routers + self.out.shape[1] * (T + 1))
