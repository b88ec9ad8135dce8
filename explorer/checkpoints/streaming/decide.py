"""How a router's logits become a choice and weights, as transformers 5.23 does it, in float32."""

from typing import NamedTuple

import torch
from torch import Tensor

from explorer import metrics


class Decision(NamedTuple):
    """index (N, K) int64 and weights (N, K); probs (N, E): the scores that they were taken from."""

    index: Tensor  # type: ignore[assignment]  # a tuple has a method of this name
    weights: Tensor
    probs: Tensor


class Rule(NamedTuple):
    """One family's way. score: "softmax", "sigmoid", or "chosen": softmax over the logits of the chosen alone.

    norm: the weights are divided by their sum. groups: experts lie in so many groups, of which the best `kept` may be chosen
    from; a group is as good as the sum of its `best` largest scores. scale: a factor of all weights. bias: the name of what
    is added to the scores for the choice alone.
    """

    chosen: int
    score: str = "softmax"
    norm: bool = False
    groups: int = 1
    kept: int = 1
    best: int = 2
    scale: float = 1.0
    bias: str | None = None
    sort: bool = True  # the K from the largest on; where transformers leaves it open, so do we

    def decide(self, logits_NE: Tensor, bias_E: Tensor | None) -> Decision:
        """For each token on its own."""
        probs_NE = logits_NE.sigmoid() if self.score == "sigmoid" else logits_NE.softmax(-1)
        if self.score == "chosen":
            best_NK, index_NK = logits_NE.topk(self.chosen, dim=-1)
            return Decision(index_NK, best_NK.softmax(-1), probs_NE)
        ranked_NE = probs_NE if bias_E is None else probs_NE + bias_E
        index_NK = self._allowed(ranked_NE).topk(self.chosen, dim=-1, sorted=self.sort).indices
        weights_NK = probs_NE.gather(1, index_NK)
        if self.norm:
            total = weights_NK.sum(-1, keepdim=True)
            weights_NK = weights_NK / (total + 1e-20 if self.score == "sigmoid" else total)
        return Decision(index_NK, weights_NK * self.scale if self.scale != 1 else weights_NK, probs_NE)

    def _allowed(self, ranked_NE: Tensor) -> Tensor:
        """Scores of experts in groups that are not good enough are out of the question."""
        if self.groups == 1:
            return ranked_NE
        N, E = ranked_NE.shape
        parts_NGe = ranked_NE.view(N, self.groups, E // self.groups)
        good_NG = parts_NGe.topk(self.best, dim=-1)[0].sum(-1)
        kept_Ng = good_NG.topk(self.kept, dim=-1, sorted=False).indices
        in_kept_NG1 = torch.zeros_like(good_NG, dtype=torch.bool).scatter_(1, kept_Ng, value=True)[..., None]
        outside = -torch.inf if self.score == "sigmoid" else 0.0
        return parts_NGe.masked_fill(~in_kept_NG1, outside).view(N, E)


class Sums(NamedTuple):
    """Of some tokens: their number, and the sums of their entropies and margins, as a recording's routing table has them."""

    n: int = 0
    entropy: float = 0.0
    margin: float = 0.0

    def plus(self, probs_NE: Tensor, chosen: int) -> "Sums":
        """With some tokens more."""
        n, E = probs_NE.shape
        k = max(1, min(chosen, E - 1))
        entropy = float(metrics.token_entropy(probs_NE)) * n
        margin = float(metrics.margin(probs_NE, k).mean()) * n if E > 1 else float("nan")
        return Sums(self.n + n, self.entropy + entropy, self.margin + margin)
