"""Sigma-MoE: every expert is scored by itself, through a sigmoid, and the k best scores weigh their experts as they are.

Csordas, Irie and Schmidhuber (arXiv:2310.10837). Softmax makes experts compete: to raise one weight is to lower the others.
A sum of sigmoid-weighted experts is instead an approximation of one wide feed-forward layer, of which a token computes a
part. Balance comes from two gentle means: a bonus for the entropy of the mean choice, and experts left out at random.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from explorer.catalogue import Claim, Knob, Paper, mechanism
from explorer.kernels.experts import experts
from explorer.taps import Instrumented


@mechanism(
    "sigma-moe",
    title="Sigma-MoE routing",
    family="routing",
    slot="router",
    paper=Paper("Approximating Two-Layer Feedforward Networks for Efficient Transformers",
                "R. Csordas, K. Irie, J. Schmidhuber", 2023, "2310.10837"),
    lab="IDSIA",
    summary="Each token goes to its k best experts, each weighted by its own sigmoid score: experts do not compete.",
    equation=r"s(x) = \sigma(x W_r), \qquad y = \sum_{e \in \operatorname{top}_{\knob{k}{k}} s(x)} s_e(x)\, E_e(x), \qquad "
    r"L = \knob{entropy_loss}{\gamma} \sum_e \bar p_e \ln \bar p_e, \quad \bar p = \operatorname{mean}_x "
    r"\operatorname{softmax}(x W_r)",
    knobs={
        "n_experts": Knob(16, "how many experts there are to choose from", low=1, high=256),
        "k": Knob(4, "how many experts each token gets", low=1, high=64, live=True),
        "expert_dropout": Knob(0.05, "training only: chance that an expert is shut to a token", low=0, high=1, live=True),
        "entropy_loss": Knob(0.001, "weight of the loss that asks for a varied choice (small models: 0.0001)",
                             low=0, high=10, live=True),
    },
    pitfalls=(
        "The chosen scores are not divided by their sum: with it, the experts would compete again.",
        "The entropy is that of the mean softmax(logits), not of the sigmoids, and not the mean of the tokens' entropies: "
        + "that would make every token undecided. The loss is minus it: -ln E at an even load.",
        "An expert is dropped for one token, not for the batch; the rest is not scaled up.",
        "The router's rows start equally long: the angle decides, not a lucky length.",
        "The authors' experts are ReLU layers whose second matrix starts as in one layer of width E * G.",
    ),
    reference="none packaged: the authors' code is no package; the tests hold it to a float64 reading of its equations",
    claims=(
        Claim(
            "dense-quality-at-a-quarter",
            "At equal parameters it is no worse than a dense layer, with a quarter of the computation.",
            source="arXiv:2310.10837, table of WikiText-103 (47M parameters, 25 % of the FLOPs)",
            reported="perplexity 11.59 against 11.81, as recalled",
            metric="error on eight clusters, each with its own linear map, as a multiple of the dense layer's",
            measure=lambda seed: errors_on_clusters(seed),  # noqa: PLW0108 (it stands below the class)
            control_is="a dense layer of equal FLOPs",
            threshold=0.85,
            why="better than equal, where to lose three quarters of the parameters costs twice the error",
        ),
        Claim(
            "no-competition",
            "To raise the score of one chosen expert leaves the weights of the others as they are.",
            source="arXiv:2310.10837, section on the selection function",
            reported="",
            metric="largest slope of another expert's weight in one logit",
            measure=lambda seed: competition(seed),  # noqa: PLW0108
            control_is="softmax over the chosen",
            relation="==", threshold=0.0, why="by construction",
        ),
        Claim(
            "entropy-balances",
            "The entropy term evens out the load.",
            source="arXiv:2310.10837, section on regularisation",
            reported="",
            metric="max_violation",
            setup={"steps": 400, "horizon": 400, "expert_width": 16, "expert_dropout": 0.0, "entropy_loss": 0.1},
            control={"entropy_loss": 0.0},
            control_is="no entropy term",
            effect="ratio",
            threshold=0.7,
            why="nearly a third less overload; with the paper's 0.001 the term is too weak for 400 steps",
        ),
    ),
)  # fmt: skip
class SigmaMoE(Instrumented):
    """x_BTD -> (weights_BTK, index_BTK); weights between 0 and 1, each by itself. A slot left empty by dropout is -1."""

    taps = {"logits": "B T E", "probs": "B T E", "weights": "B T K", "index": "B T K"}
    scores = "independent"

    def __init__(
        self, d_model: int, n_experts: int = 16, k: int = 4, expert_dropout: float = 0.05, entropy_loss: float = 0.001
    ) -> None:
        super().__init__()
        self.n_experts, self.k, self.expert_dropout, self.entropy_loss = n_experts, k, expert_dropout, entropy_loss
        self.score = nn.Linear(d_model, n_experts, bias=False)
        self.score.weight.data = F.normalize(torch.randn(n_experts, d_model), dim=-1)  # variance 1/d_model

    @property
    def slots(self) -> float:
        return float(self.k)

    def forward(self, x_BTD: Tensor) -> tuple[Tensor, Tensor]:
        logits_BTE = self.tap("logits", F.linear(x_BTD.float(), self.score.weight.float()))
        scores_BTE = self.tap("probs", logits_BTE.sigmoid())
        self.auxiliary = self.entropy_loss * negative_entropy(logits_BTE) if self.entropy_loss else None
        shut_BTE = torch.rand_like(scores_BTE) < (self.expert_dropout if self.training else 0.0)
        index_BTK = scores_BTE.masked_fill(shut_BTE, -1).topk(self.k, dim=-1).indices
        empty_BTK = shut_BTE.gather(-1, index_BTK)  # fewer than k experts were open
        weights_BTK = torch.where(empty_BTK, 0.0, scores_BTE.gather(-1, index_BTK))
        index_BTK = torch.where(empty_BTK, -1, index_BTK)
        return self.tap("weights", weights_BTK.to(x_BTD.dtype)), self.tap("index", index_BTK)


def negative_entropy(logits_BTE: Tensor) -> Tensor:
    """sum_e p_e ln p_e of the mean p of softmax(logits) over all tokens: -ln E if even, 0 if all tokens ask for one."""
    mean_E = logits_BTE.softmax(-1).flatten(0, -2).mean(0)
    return (mean_E * mean_E.clamp(min=1e-20).log()).sum()


def competition(seed: int) -> tuple[float, float]:
    """Largest |d weight_f / d logit_e| of two chosen experts: of sigmoid scores, and of softmax over the chosen."""
    router = SigmaMoE(64).eval()
    logits_N = router.score(torch.randn(64, generator=torch.Generator().manual_seed(seed))).topk(router.k).values
    own, softmax = (torch.autograd.functional.jacobian(f, logits_N) for f in (torch.sigmoid, lambda z: z.softmax(-1)))
    return (own - own.diag().diag()).abs().max().item(), (softmax - softmax.diag().diag()).abs().max().item()


def errors_on_clusters(seed: int) -> tuple[float, float]:
    """Error over that of a dense layer of 256 ReLU cells: of four of 16 experts of 16, and of a dense layer of 64."""
    routed, narrow, wide = (error_on_clusters(seed, *size) for size in ((16, 16), (1, 64), (1, 256)))
    return routed / wide, narrow / wide


def error_on_clusters(seed: int, E: int, G: int) -> float:
    """MSE on new points after 600 steps of Adam, of E ReLU experts of width G behind a router (E = 1: none)."""
    random = torch.Generator().manual_seed(seed)
    means_CD, maps_CDD = (torch.randn(8, *size, generator=random) for size in ((16,), (16, 16)))
    up_EDG, down_EGD = (torch.randn(E, *s, generator=random) / n**0.5 for s, n in (((16, G), 16), ((G, 16), E * G)))
    router = SigmaMoE(16, E, min(4, E))
    adam = torch.optim.Adam([*router.parameters(), up_EDG.requires_grad_(), down_EGD.requires_grad_()], lr=1e-2)
    for step in range(601):
        adam.param_groups[0]["lr"] = 0.01 * (1 - step / 601)
        cluster_N, noise_ND = torch.randint(8, (256,), generator=random), torch.randn(256, 16, generator=random)
        x_ND = means_CD[cluster_N] + 0.5 * noise_ND
        y_ND = torch.einsum("nd,ndf->nf", x_ND, maps_CDD[cluster_N] / 4)
        weights, index = router.eval()(x_ND[None]) if step == 600 else router.train()(x_ND[None])
        weights_NK = torch.ones_like(weights[0]) if E == 1 else weights[0]
        error = (experts(x_ND, index[0], weights_NK, up_EDG, down_EGD, "relu") - y_ND).square().mean()
        adam.zero_grad()
        (error + router.auxiliary).backward()  # type: ignore[operator]
        adam.step()
    return error.item()
