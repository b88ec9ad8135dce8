"""Lesson 2, top-k routing: choose and weigh, combine what the chosen say, and how near a token is to another choice."""

import torch
from torch import Tensor

from explorer import metrics
from explorer.kernels.experts import experts as run_experts
from explorer.lessons.exercise import Exercise, Wrong
from explorer.lessons.exercises.asking import (
    Candidate,
    ask,
    expert_functions,
    numbers,
    pair,
    rule_out,
    same,
    spread,
    tensor,
)


def _chosen(candidate: Candidate) -> None:
    """The right experts, whatever their weights."""
    logits, k = numbers(0, 6, 5), 2
    given = ask(candidate, logits, k)
    if isinstance(given, tuple | list) and len(given) == 2 and all(isinstance(one, Tensor) for one in given):
        if given[0].shape == (k, 5):
            raise Wrong(
                "You chose the best tokens of each expert: k along the first axis. Each token should choose its "
                "experts."
            )
        if given[0].shape == (6, 5):
            raise Wrong("There is a weight for all five experts: keep only k of them for each token.")
    _, index = pair(given, (6, k))
    chosen = index.sort(-1).values
    rule_out(
        chosen,
        (logits.topk(k, largest=False).indices.sort(-1).values, "You chose the experts with the lowest scores: a sort "
         "runs upwards unless told otherwise."),
    )  # fmt: skip
    if not same(chosen, logits.topk(k).indices.sort(-1).values):
        raise Wrong(
            "These are not the k best experts of each token: look at a single row and find its two largest by eye."
        )


def _weighed(candidate: Candidate) -> None:
    """The right weights for them, in the order of the experts."""
    logits, k = numbers(1, 6, 5), 2
    weights, index = pair(ask(candidate, logits, k), (6, k))
    best = logits.topk(k)
    right, order = best.values.softmax(-1), best.indices.argsort(-1)
    raw = logits.softmax(-1).gather(-1, index.long())
    rule_out(
        weights,
        (raw, "A token's weights sum to less than one: the share of the experts that were not chosen is still missing. "
         "Give it to the chosen."),
        (logits.gather(-1, index.long()), "Your weights are bare scores, some of them negative. Turn them into "
         "shares first."),
        (torch.full_like(raw, 1 / k), "All chosen experts weigh the same. The router said more than yes or no."),
        (logits.gather(-1, index.long()).softmax(0), "Your weights sum to one down the tokens. It is a token's own "
         "experts that share it."),
    )  # fmt: skip
    if (
        same(index, best.indices.sort(-1).values)
        and same(weights, right)
        and not bool((order == torch.arange(k)).all())
    ):
        raise Wrong("The experts stand in the order of their numbers, the weights in the order of their size: slot by "
                    "slot, they must belong together.")  # fmt: skip
    if not same(spread(weights, index, 5), spread(right, best.indices, 5)):
        raise Wrong(
            "The experts are right, their weights are not: for the scores 3, 1, 1 and k = 2 they are about 0.88 and "
            "0.12."
        )


def _combine(candidate: Candidate) -> None:
    x, up_EDG, best = numbers(2, 6, 3), numbers(3, 4, 3, 6), numbers(4, 6, 4).topk(2)
    experts, weights, index = expert_functions(up_EDG), best.values.softmax(-1), best.indices
    given = tensor(ask(candidate, x, weights, index, experts), (6, 3))
    by_expert = torch.stack([expert(x) for expert in experts], dim=1)
    out = by_expert.gather(1, index[..., None].expand(-1, -1, 3))
    weighed = weights[..., None] * out
    scaled = [[experts[e](w * x[[n]])[0] for w, e in zip(weights[n], index[n].tolist(), strict=True)] for n in range(6)]
    rule_out(
        given,
        ((weights[..., None] * by_expert[:, :2]).sum(1), "You asked experts 0 and 1 for every token. The number of the "
         "slot is not the number of the expert: who stands in `index`?"),
        (out.sum(1), "The outputs are added up, but the router's weights are not used."),
        (weighed[:, 1], "Only the second slot is left: it overwrote the first. A token's experts add up."),
        (weighed[:, 0], "Only the first expert of each token answers: what about the second slot?"),
        (torch.stack([a + b for a, b in scaled]), "You weighed what goes into the experts. They are not linear, so "
         "that is something else: weigh what comes out."),
    )  # fmt: skip
    if not same(given, run_experts(x, index, weights, up_EDG, torch.eye(3).expand(4, 3, 3), kernel="loop")):
        raise Wrong(
            "Compute one token by hand: for each of its slots, the expert named there, times the weight beside it."
        )


def _margin(candidate: Candidate) -> None:
    scores, k = numbers(5, 7, 6), 3
    given = ask(candidate, scores, k)
    if isinstance(given, float) or (isinstance(given, Tensor) and given.dim() == 0):
        raise Wrong("One number came back. Each token has a margin of its own: return one for each.")
    given = tensor(given, (7,))
    best = scores.sort(-1, descending=True).values
    rule_out(
        given,
        (best[:, 0] - best[:, 1], "That is the gap between the best and the second. With k = 3 those two are both "
         "chosen, and may swap places without any consequence."),
        (best[:, k - 2] - best[:, k - 1], "Both of your experts are among the k chosen. Where does the line between "
         "chosen and not chosen run?"),
        (best[:, k - 1] - best[:, -1], "You compare with the worst expert of all. Who would be the first to move up?"),
        (best[:, k] - best[:, k - 1], "Your margins are negative: the chosen one has the larger score."),
        (best[:, k] - best[:, k + 1], "Both of your experts are among those not chosen: the first place has the "
         "number 0."),
    )  # fmt: skip
    if not same(given, metrics.margin(scores, k)):
        raise Wrong("For the scores 5, 4, 2, 1 and k = 2 the margin is 2, and for k = 1 it is 1.")


EXERCISES = (
    Exercise(
        "2.1", "route", "Choose k experts and weigh them",
        "Write `route(logits, k)`. `logits` is `(N, E)`: each token's score for each expert. Return `weights, index`, "
        "both `(N, k)`: `index` holds the numbers of the `k` experts with the highest scores, and `weights` their "
        "weights, which are the softmax over these `k` scores alone. Slot by slot, weight and expert belong together.",
        "def route(logits, k):\n    weights, index = ...\n    return weights, index\n",
        (_chosen, _weighed),
    ),
    Exercise(
        "2.2", "combine", "Ask the chosen experts",
        "Write `combine(x, weights, index, experts)`. `x` is `(N, D)`; `weights` and `index`, both `(N, K)`, are what "
        "a router gives; `experts` is a list of functions from `(n, D)` to `(n, D)`. Return `(N, D)`: for each token "
        "the sum, over its slots, of the weight times the output of the expert named in that slot. A loop is fine.",
        "def combine(x, weights, index, experts):\n"
        "    y = torch.zeros_like(x)\n"
        "    for n in range(len(x)):\n"
        "        ...\n"
        "    return y\n",
        (_combine,),
    ),
    Exercise(
        "2.3", "margin", "How near is another choice?",
        "Write `margin(scores, k)`. `scores` is `(N, E)`. For each token, how far would the scores have to move until "
        "another *set* of `k` experts is chosen? That is the lowest score among the chosen, less the highest among the "
        "others. Return a tensor `(N,)`; `k` is smaller than `E`.",
        "def margin(scores, k):\n    best = scores.sort(-1, descending=True).values\n    return ...  # (N,)\n",
        (_margin,),
    ),
)  # fmt: skip
