"""Block gate: a small gate learns which blocks of keys a block of queries will look at, so that the rest can be skipped.

SeerAttention (arXiv:2410.13276), causal, with RoPE. Queries and keys are pooled, block by block, before they are turned; a
linear map a head and a score tell each block of queries how much it will want of each block of keys. What it should have
said is known in training: the attention map, of which the largest weight of every block is kept. The gate learns to
say that (distillation), the model learns as if there were no gate. With `sparse` only the best blocks are computed.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from explorer.catalogue import Knob, Paper, mechanism
from explorer.errors import BadValue
from explorer.kernels.block_attention import block_maps, block_recall, choose_blocks, tokens_of
from explorer.kernels.rotary import rotary
from explorer.mechanisms.attention._block_gate_claims import CLAIMS
from explorer.mechanisms.attention.watching import TAPS, watch
from explorer.taps import Instrumented


@mechanism(
    "block-gate",
    title="Block gate (SeerAttention)",
    family="attention",
    slot="attention",
    paper=Paper("SeerAttention: Learning Intrinsic Sparse Attention in Your LLMs", "Y. Gao et al.", 2024, "2410.13276"),
    lab="Microsoft Research",
    summary="A gate on pooled queries and keys learns which blocks of the attention map are worth computing.",
    equation=r"p^h_{mn} = \operatorname*{softmax}_{n \le m} \frac{\bar q^h_m U^h \cdot [\max k^h_n; \min k^h_n; \bar k^h_n] "
    r"W^h}{\sqrt{g}}, \qquad \mathcal{L} = \operatorname{KL}\Big(\frac{G_{mn}}{\sum_{n'} G_{mn'}} \,\|\, p_{mn}\Big), \quad "
    r"G_{mn} = \max_{t \in m, s \in n} A_{ts}",
    knobs={
        "n_heads": Knob(4, "how many heads share the width d_model", low=1, high=64),
        "block": Knob(4, "positions in a block (the paper: 64)", low=1, high=64),
        "gate_width": Knob(16, "width of the gate's scores (the paper: 128, that of a head)", low=2, high=256),
        "density": Knob(0.25, "share of the blocks to keep, the last two rows apart (the paper: 0.1 to 0.5)",
                        low=0, above=True, high=1, live=True),
        "sparse": Knob(False, "compute the kept blocks only (the paper: off while the gate learns)", live=True),
        "rope_base": Knob(1e4, "RoPE: the slowest pair turns by 1/base of a radian a token, nearly",
                          low=1, high=1e9, above=True, live=True),
    },
    pitfalls=(
        "Pool first, turn afterwards, each block by the place of its first token: the mean of turned queries is a blur.",
        "The largest weights of a row of blocks do not sum to one: the row is divided by its sum before it is a target.",
        "The gate reads copies: its loss moves gate_key and gate_query only, and these get no gradient from the task.",
        "Each block of queries keeps its own block, and the last two rows keep everything, as in the authors' code.",
        "A choice serves a whole block: with `sparse`, what a token may see hangs a little on the tokens behind it in its "
        + "block. That is right for reading a prompt, and wrong for writing one token after another.",
        "Where a gate is as wide as a head there is no gate_query: queries are compared as they are.",
        "The mask is computed with torch's masked attention here, so that fewer blocks do not yet mean less time.",
        "The loss is a mean over rows; the authors' is ten times a mean over all entries, hence smaller.",
        "The first quarter of the rows, which have little to choose, does not enter the loss.",
    ),
    reference="none packaged: a float64 reading with loops in the test",
    claims=CLAIMS,
)  # fmt: skip
class BlockGate(Instrumented):
    """x_BTD -> y_BTD. Projections start at N(0, 1/d_model), the gate's at N(0, 1/(their inputs)); no biases.

    block_scores: the gate's p, rows sum to 1; block_truth: its target; block_mass: how much attention goes where;
    block_kept: 1 for the blocks to keep; an edit of it is obeyed. recall: share of the attention within the kept blocks,
    over the rows that leave some out (1 where none does).
    """

    taps = {
        "block_scores": "B H M M", "block_truth": "B H M M", "block_mass": "B H M M", "block_kept": "B H M M",
        "recall": "B H", **TAPS,
    }  # fmt: skip

    def __init__(
        self, d_model: int, n_heads: int = 4, block: int = 4, gate_width: int = 16, density: float = 0.25,
        sparse: bool = False, rope_base: float = 1e4,
    ) -> None:  # fmt: skip
        super().__init__()
        if d_model % (2 * n_heads):
            raise BadValue(f"n_heads={n_heads}: it must split d_model={d_model} into heads of an even width, for RoPE")
        if gate_width % 2:
            raise BadValue(f"gate_width={gate_width}: it must be even, for RoPE")
        self.n_heads, self.block, self.gate_width, self.density = n_heads, block, gate_width, density
        self.sparse, self.rope_base, self.kernel = sparse, rope_base, "sdpa"
        self.qkv = nn.Linear(d_model, 3 * d_model, bias=False)
        self.out = nn.Linear(d_model, d_model, bias=False)
        for projection in (self.qkv, self.out):
            nn.init.normal_(projection.weight, std=d_model**-0.5)
        d = d_model // n_heads
        self.gate_query = None if gate_width == d else nn.Parameter(torch.randn(n_heads, d, gate_width) * d**-0.5)
        self.gate_key = nn.Parameter(torch.randn(n_heads, 3 * d, gate_width) * (3 * d) ** -0.5)

    def forward(self, x_BTD: Tensor) -> Tensor:
        B, T, D, H = *x_BTD.shape, self.n_heads
        heads = self.qkv(x_BTD).view(B, T, 3 * H, D // H).transpose(1, 2)
        qk, v_BHTd = heads.split((2 * H, H), dim=1)
        q_BHTd, k_BHTd = rotary(qk, self.rope_base).chunk(2, dim=1)
        may = self._gate(qk.detach(), q_BHTd.detach(), k_BHTd.detach())
        y_BHTd = F.scaled_dot_product_attention(q_BHTd, k_BHTd, v_BHTd, attn_mask=may, is_causal=may is None)
        y_BHTd = watch(self, q_BHTd, k_BHTd, v_BHTd, y_BHTd, mask=may)
        return self.out(y_BHTd.transpose(1, 2).reshape(B, T, D))

    def _gate(self, qk: Tensor, q_BHTd: Tensor, k_BHTd: Tensor) -> Tensor | None:
        """What tokens may see, (B, H, T, T), or None for everything so far; the gate's loss, and what is watched of it."""
        self.auxiliary = None
        asked = any(map(self.watched, ("block_scores", "block_truth", "block_mass", "block_kept", "recall")))
        if not (self.training or self.sparse or asked):
            return None
        logits_BHMM = self.block_logits(*qk.chunk(2, dim=1))
        self.tap("block_scores", logits_BHMM.softmax(-1))
        kept_BHMM = self.tap("block_kept", choose_blocks(logits_BHMM, self.density).to(logits_BHMM.dtype)) > 0
        if self.training or asked:
            truth_BHMM, mass_BHMM = block_maps(q_BHTd, k_BHTd, self.block)
            self.tap("block_truth", truth_BHMM)
            self.tap("block_mass", mass_BHMM)
            self.tap("recall", block_recall(mass_BHMM, kept_BHMM))
            if self.training:
                self.auxiliary = distance(truth_BHMM, logits_BHMM)
        return tokens_of(kept_BHMM, self.block, q_BHTd.shape[2]) if self.sparse else None

    def block_logits(self, q_BHTd: Tensor, k_BHTd: Tensor) -> Tensor:
        """(B, H, M, M), float32 at least: the gate's scores of queries and keys not yet turned; -inf for later blocks."""
        precision, block = torch.promote_types(q_BHTd.dtype, torch.float32), (self.block, 1)
        q, k = q_BHTd.to(precision), k_BHTd.to(precision)
        query = F.avg_pool2d(q, block, ceil_mode=True)
        largest, smallest = F.max_pool2d(k, block, ceil_mode=True), -F.max_pool2d(-k, block, ceil_mode=True)
        key = torch.cat([largest, smallest, F.avg_pool2d(k, block, ceil_mode=True)], -1) @ self.gate_key.to(precision)
        if self.gate_query is not None:
            query = query @ self.gate_query.to(precision)
        query, key = (self._turned(one) for one in (query, key))
        logits_BHMM = query @ key.transpose(-1, -2) * self.gate_width**-0.5
        later = torch.ones(logits_BHMM.shape[-2:], dtype=torch.bool, device=logits_BHMM.device).triu(1)
        return logits_BHMM.masked_fill(later, -torch.inf)

    def _turned(self, pooled_BHMg: Tensor) -> Tensor:
        """RoPE, each block by the place of its first token."""
        return rotary(pooled_BHMg.repeat_interleave(self.block, 2), self.rope_base)[:, :, :: self.block]

    def flops(self, T: int) -> float:
        """Of the scores and of the mean of the values, a token: (T + 1) / 2 keys on average, or `density` of them."""
        return 2 * 2.0 * self.out.in_features * (T + 1) / 2 * (self.density if self.sparse else 1)


def distance(truth_BHMM: Tensor, logits_BHMM: Tensor) -> Tensor:
    """KL(truth || softmax(logits)) in nats a row, without the first quarter of the rows; 0: the gate knows the map."""
    first = truth_BHMM.shape[-2] // 4
    log_BHMM = logits_BHMM.log_softmax(-1).masked_fill(logits_BHMM.isneginf(), 0)
    return F.kl_div(log_BHMM, truth_BHMM, reduction="none")[:, :, first:].sum(-1).mean()
