"""Hash routing: a fixed table gives every token of the vocabulary its expert, and nothing about the routing is learned.

Roller et al. (arXiv:2106.04426). The hash looks at the id of the input token, in every layer, not at its vector: an
expert gets the same tokens from the first step on. The table is random, or balanced: the most frequent ids first, each to
the expert with least so far. Where a host has no ids (points instead of tokens), the signs of a few fixed random
projections of the vector stand in for them (locality-sensitive hashing), which is not in the paper.
"""

import torch
from torch import Tensor

from explorer.catalogue import Claim, Knob, Paper, mechanism
from explorer.errors import BadValue
from explorer.taps import Instrumented

IDS = 4096  # rows of the table; a larger vocabulary wraps around
SIGNS = 8  # projections of a vector: 256 codes
STEPS = {"steps": 400, "horizon": 400}


@mechanism(
    "hash-routing",
    title="Hash layers",
    family="routing",
    slot="router",
    paper=Paper("Hash Layers For Large Sparse Models", "S. Roller et al.", 2021, "2106.04426"),
    lab="Meta AI",
    summary="A fixed table gives every token id its expert: nothing to learn, and a baseline that is hard to beat.",
    equation=r"y = E_{h(\text{id})}(x), \qquad h : \{1, \dots, V\} \to \{1, \dots, \knob{n_experts}{E}\}"
    r"\ \text{a fixed table}",
    knobs={
        "n_experts": Knob(8, "how many experts there are (the paper: 16 to 128)", low=1, high=256),
        "table": Knob("random", "random, or balanced by the first batch's counts", choices=("random", "balanced")),
    },
    pitfalls=(
        "The id is that of the INPUT token; hashing the target is an oracle, and no model.",
        "A random table spreads ids evenly, not tokens: the expert with the most frequent id is overloaded.",
        "The weight is 1 and the table fixed: no gradient reaches x through the router, and it has no parameters.",
        "No context: a word gets the same expert in every sense and every language.",
        "The probabilities shown are 1 and 0; they are no opinion, and their entropy of 0 no achievement.",
        "Balanced by the first training batch: ids that it lacks keep their random expert.",
    ),
    reference="none packaged; the tests hold it to a float64 reading of the paper's text",
    claims=(
        Claim(
            "beats-learned-routing",
            "Without learning to route, the model learns as well as with a learned router of one expert a token.",
            source="arXiv:2106.04426, section 5.1",
            reported="better than Switch and BASE at 64 experts and more",
            metric="held_out_loss",
            setup=STEPS,
            control={"mechanism": "switch", "capacity_factor": 8.0},
            control_is="switch with its balancing loss and room for all",
            effect="difference",
            threshold=-0.05,
            why="seeds differ by 0.03",
        ),
        Claim(
            "balanced-table",
            "A table dealt by frequency is nearly even.",
            source="arXiv:2106.04426, section 3.1",
            reported="",
            metric="load_entropy",
            setup={"steps": 1, "table": "balanced"},
            control={"table": "random"},
            control_is="a random table",
            relation=">=",
            threshold=0.99,
            why="0.999 where ids follow Zipf's law and 500 of them share 8 experts; at random 0.96",
        ),
        Claim(
            "token-decides",
            "The input token alone decides the expert.",
            source="arXiv:2106.04426, section 3",
            reported="by construction",
            metric="vocabulary_first_layer",
            setup=STEPS,
            control={"mechanism": "switch", "capacity_factor": 8.0},
            control_is="switch",
            relation=">=",
            threshold=0.999,
            why="by construction",
        ),
    ),
)
class HashRouting(Instrumented):
    """x_BTD, and tokens_BT where the host has them -> (weights_BT1 of ones, index_BT1)."""

    taps = {"probs": "B T E", "weights": "B T K", "index": "B T K"}
    scores = "probabilities"
    slots = 1.0
    reads_tokens = True  # asks the host for the ids
    experts: Tensor
    dealt: Tensor
    planes: Tensor

    def __init__(self, d_model: int, n_experts: int = 8, table: str = "random") -> None:
        super().__init__()
        self.n_experts, self.table = n_experts, table
        self.register_buffer("experts", torch.randint(n_experts, (IDS,)))
        self.register_buffer("dealt", torch.tensor(table == "random"))
        self.register_buffer("planes", torch.randn(d_model, SIGNS))

    def forward(self, x_BTD: Tensor, tokens_BT: Tensor | None = None) -> tuple[Tensor, Tensor]:
        code_BT = self.signs(x_BTD) if tokens_BT is None else tokens_BT % IDS
        if code_BT.shape != x_BTD.shape[:2]:
            raise BadValue(f"tokens of shape {tuple(code_BT.shape)} do not fit vectors of shape {tuple(x_BTD.shape)}")
        if self.training and not self.dealt:
            self.deal(code_BT.flatten())
        index_BT1 = self.experts[code_BT][..., None]
        probs_BTE = self.tap("probs", (index_BT1 == torch.arange(self.n_experts, device=x_BTD.device)).float())
        weights_BT1 = probs_BTE.amax(-1, keepdim=True).to(x_BTD.dtype)
        weights_BT1 = weights_BT1.masked_fill(x_BTD.isnan().any(-1, keepdim=True), torch.nan)  # and no silent 1
        return self.tap("weights", weights_BT1), self.tap("index", index_BT1)

    def signs(self, x_BTD: Tensor) -> Tensor:
        """On which side of each plane a vector lies, as a number below 256: (B, T)."""
        bits = (x_BTD.float() @ self.planes.float() > 0).long()
        return (bits << torch.arange(SIGNS, device=x_BTD.device)).sum(-1)

    @torch.no_grad()
    def deal(self, code_N: Tensor) -> None:
        """Deal the codes that were seen, the most frequent first, each to the expert with least so far."""
        ids, times = code_N.unique(return_counts=True)
        table, load = self.experts.clone(), [0] * self.n_experts
        for i in times.argsort(descending=True, stable=True).tolist():
            least = min(range(self.n_experts), key=load.__getitem__)
            table[ids[i]], load[least] = least, load[least] + int(times[i])
        self.experts, self.dealt = table, torch.ones_like(self.dealt)
