"""Product-key memory: a token looks up k of m * m value rows, and finds them by comparing with only 2 m keys.

Lample et al. (arXiv:1907.05242); here as Csordas, Irie and Schmidhuber (arXiv:2310.10837) recommend it, with ReLU in place
of softmax and initial values as in a dense layer. The key of a slot is a pair (i, j): its score is that of half-key i for one
half of the query plus that of half-key j for the other. The k best sums lie among the k best i and the k best j, so the
search is exact, though it looks at 2 m scores and k * k sums instead of m * m.
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from explorer.catalogue import Claim, Knob, Paper, mechanism
from explorer.errors import BadValue
from explorer.taps import Instrumented


@mechanism(
    "product-key-memory",
    title="Product-key memory",
    family="routing",
    slot="feed-forward",
    paper=Paper("Large Memory Layers with Product Keys", "G. Lample et al.", 2019, "1907.05242"),
    lab="Facebook AI Research",
    summary="A layer of many memory slots: each token finds its k best among m * m of them by comparing with 2 m keys.",
    equation=r"s_{ij} = q_a \cdot a_i + q_b \cdot b_j, \quad (q_a, q_b) = x W_q, \qquad "
    r"y = \sum_{\knob{heads}{H}\ \text{heads}} \sum_{(i,j) \in \operatorname{top}_{\knob{k}{k}}(s)} \phi(s_{ij})\, "
    r"V_{i \sqrt{\knob{memories}{N}} + j}, \qquad \phi = \operatorname{ReLU}\ \text{or}\ \operatorname{softmax}",
    knobs={
        "memories": Knob(256, "value rows, a square number m * m (the papers: 3844, 262144)", low=1, high=65536),
        "heads": Knob(4, "independent look-ups of a token in the same memory", low=1, high=32),
        "k": Knob(8, "slots that each head of a token reads (the papers: 128, 32)", low=1, high=1024, live=True),
        "activation": Knob("relu", "what a score goes through", choices=("relu", "softmax"), live=True),
    },
    pitfalls=(
        "The two-stage search is exact because scores add; for products of half-scores it would miss slots.",
        "Each half must keep k candidates (or all its m): with k/2 each, a tenth to a third of the best are lost.",
        "With softmax the k slots of a head compete; with ReLU each counts by itself, as in a dense layer.",
        "With ReLU a chosen slot whose score is negative adds nothing: it shows as an empty slot (index -1).",
        "Several heads may read the same slot, so a token can have the same index more than once.",
        "Values are shared by the heads, half-keys are not.",
        "Values start with variance 1/N, as the second matrix of a layer of width N, not 1/d_model.",
        "The first paper normalises the queries over the batch, which breaks causality: not done here.",
        "Slots nobody reads get no gradient: look at the dead ones among the values.",
        "In a trained model k cannot exceed the memories: a larger one reads them all.",
    ),
    reference="product-key-memory on PyPI, a torch module, without its normalisation of the queries",
    claims=(
        Claim(
            "search-is-exact",
            "The k best of all slots are found by looking at the k best of each half.",
            source="arXiv:1907.05242, section 3.2",
            reported="exact",
            metric="share of the k best slots found, 1000 queries, 1024 slots, k = 8",
            measure=lambda seed: recall(seed),  # noqa: PLW0108 (it stands below the class)
            control_is="half as many candidates of each half",
            relation="==",
            threshold=1.0,
            why="by construction",
        ),
        Claim(
            "relu-beats-softmax",
            "Slots that do not compete learn more than slots that do.",
            source="arXiv:2310.10837, table of PKM variants",
            reported="lower perplexity with ReLU than with softmax",
            metric="held_out_loss",
            setup={"steps": 400, "horizon": 400},
            control={"activation": "softmax"},
            control_is="softmax over the k slots of a head",
            effect="difference",
            threshold=-0.03,
            why="the smallest paired difference of losses that is more than noise",
        ),
    ),
)  # fmt: skip
class ProductKeyMemory(Instrumented):
    """x_BTD -> y_BTD. The slots are the targets; slot n is the pair (n // m, n % m). K = heads * k."""

    taps = {"probs": "B T E", "weights": "B T K", "index": "B T K"}  # probs: how much of each slot is read, 0 for most
    scores = "independent"

    def __init__(self, d_model: int, memories: int = 256, heads: int = 4, k: int = 8, activation: str = "relu") -> None:
        super().__init__()
        m = math.isqrt(memories)
        if m * m != memories:
            raise BadValue(f"memories={memories}: it must be a square number, such as {m * m} or {(m + 1) ** 2}")
        if k > memories:
            raise BadValue(f"k={k}: it must be at most the number of slots, memories={memories}")
        self.memories, self.heads, self.k, self.activation = memories, heads, k, activation
        half = -(-d_model // 2)
        self.query = nn.Linear(d_model, 2 * heads * half, bias=False)
        nn.init.normal_(self.query.weight, std=d_model**-0.5)
        self.half_keys = nn.Parameter(torch.randn(2, heads, m, half) * d_model**-0.5)
        self.values = nn.Parameter(torch.randn(memories, d_model) * memories**-0.5)

    @property
    def n_experts(self) -> int:
        return self.memories

    @property
    def slots(self) -> float:
        return float(self.heads * min(self.k, self.memories))

    def forward(self, x_BTD: Tensor) -> Tensor:
        halves_BTPHd = self.query(x_BTD).unflatten(-1, (2, self.heads, -1))  # P: the two halves
        scores_PBTHM = torch.einsum("btphd,phmd->pbthm", halves_BTPHd, self.half_keys)
        a_BTHM, b_BTHM = scores_PBTHM.detach()
        index_BTHK = best_pairs(a_BTHM, b_BTHM, min(self.k, self.memories))
        pair = torch.stack([index_BTHK // scores_PBTHM.shape[-1], index_BTHK % scores_PBTHM.shape[-1]])
        best_BTHK = scores_PBTHM.gather(-1, pair).sum(0).float()
        read_BTHK = best_BTHK.relu() if self.activation == "relu" else best_BTHK.softmax(-1)
        weights_BTK = self.tap("weights", read_BTHK.flatten(-2).to(x_BTD.dtype))
        index_BTK = self.tap("index", torch.where(weights_BTK == 0, -1, index_BTHK.flatten(-2)))
        weights_BTK, slot_BTK = torch.where(index_BTK < 0, 0.0, weights_BTK), index_BTK.clamp(min=0)
        if self.watched("probs"):
            nothing_BTE = weights_BTK.new_zeros(*x_BTD.shape[:-1], self.memories, dtype=torch.float32)
            self.tap("probs", nothing_BTE.scatter_add(-1, slot_BTK, weights_BTK.float()))
        y_ND = F.embedding_bag(
            slot_BTK.flatten(0, -2), self.values, mode="sum", per_sample_weights=weights_BTK.flatten(0, -2)
        )
        return y_ND.view_as(x_BTD)

    def flops(self, _: int) -> float:
        """A token, besides the query: all half-keys, and the values it reads."""
        return 2.0 * (self.half_keys.numel() + self.slots * self.values.shape[1])

    def idle(self) -> float:
        """Parameters that a token does not meet: the values of the slots that none of its heads reads."""
        return max(0.0, 1 - self.slots / self.memories) * self.values.numel()


def best_pairs(a_XM: Tensor, b_XM: Tensor, k: int, candidates: int = 0) -> Tensor:
    """(..., k): the numbers i * M + j of the pairs with the largest a_i + b_j, best first."""
    M = a_XM.shape[-1]
    keep = min(candidates or k, M)
    (a_XK, i_XK), (b_XK, j_XK) = a_XM.topk(keep, dim=-1), b_XM.topk(keep, dim=-1)
    best_XK = (a_XK[..., :, None] + b_XK[..., None, :]).flatten(-2).topk(min(k, keep * keep), dim=-1).indices
    return i_XK.gather(-1, best_XK // keep) * M + j_XK.gather(-1, best_XK % keep)


def recall(seed: int, m: int = 32, k: int = 8) -> tuple[float, float]:
    """Share of the k best of m * m slots that the search finds: with k candidates of each half, and with k / 2."""
    a_NM, b_NM = torch.randn(2, 1000, m, generator=torch.Generator().manual_seed(seed))
    true_NK = (a_NM[:, :, None] + b_NM[:, None, :]).flatten(1).topk(k).indices
    found = [best_pairs(a_NM, b_NM, k, candidates) for candidates in (k, k // 2)]
    own, fewer = ((one[:, :, None] == true_NK[:, None]).any(1).float().mean().item() for one in found)
    return own, fewer
