"""Lesson 5, sigmoid scores and a bias: choose with it and weigh without, move it, limit a token to some groups."""

import torch
from torch import Tensor

from explorer.lessons.exercise import Exercise, Wrong
from explorer.lessons.exercises.asking import Candidate, ask, numbers, pair, rule_out, same, spread, tensor
from explorer.mechanisms.routing.loss_free_bias import LossFreeBias


def _chosen(candidate: Candidate) -> None:
    """Who is chosen: the bias counts."""
    scores, bias, k = numbers(0, 8, 6).sigmoid(), 0.4 * numbers(1, 6), 2
    _, index = pair(ask(candidate, scores, bias, k), (8, k))
    chosen = index.sort(-1).values
    rule_out(
        chosen,
        (scores.topk(k).indices.sort(-1).values, "The bias changes nothing in your choice. It is there to make idle "
         "experts more attractive: where should it come in?"),
        ((scores - bias).topk(k).indices.sort(-1).values, "A positive bias makes your experts less attractive."),
        ((scores * bias).topk(k).indices.sort(-1).values, "You multiplied by the bias. A bias of 0 should leave an "
         "expert as it is."),
    )  # fmt: skip
    if not same(chosen, (scores + bias).topk(k).indices.sort(-1).values):
        raise Wrong(
            "These are not the k experts with the largest score plus bias: look at one row, and find them by eye."
        )


def _weighed(candidate: Candidate) -> None:
    """What they weigh: the bias does not."""
    scores, bias, k = numbers(0, 8, 6).sigmoid(), 0.4 * numbers(1, 6), 2
    weights, index = pair(ask(candidate, scores, bias, k), (8, k))
    index = index.long()
    own, biased = scores.gather(1, index), (scores + bias).gather(1, index)
    rule_out(
        weights,
        (biased / biased.sum(-1, keepdim=True), "The bias got into your weights. It may say who works, but not how "
         "much an answer is worth."),
        (biased, "The bias got into your weights, and they do not sum to one."),
        (own, "Your weights are the bare scores: a token's weights should sum to one."),
        (own.softmax(-1), "You sent sigmoid scores through a softmax as well. They are positive already: a simpler "
         "step makes them sum to one."),
        (own / scores.sum(-1, keepdim=True), "You divide by the scores of all experts, those included that were not "
         "chosen."),
    )  # fmt: skip
    router = LossFreeBias(d_model=6, n_experts=6, k=k, bias_rate=0.0)
    with torch.no_grad():
        router.score.weight.copy_(torch.eye(6))
        router.bias.copy_(bias)
        right_weights, right_index = (one[0] for one in router(numbers(0, 8, 6)[None]))
    if not same(spread(weights, index, 6), spread(right_weights, right_index, 6)):
        raise Wrong(
            "The experts are right, their weights are not: for chosen scores of 0.6 and 0.2 they are 0.75 and 0.25."
        )


def _moved(candidate: Candidate) -> None:
    bias, load, rate = 0.1 * numbers(2, 5), torch.tensor([12.0, 3.0, 0.0, 6.0, 9.0]), 0.01
    given = tensor(ask(candidate, bias, load, rate), (5,))
    mean = load.mean()
    step = (mean - load).sign()
    rule_out(
        given,
        (bias - rate * step, "Your busy experts become more attractive still, and the idle ones less: that is how a "
         "collapse begins."),
        (bias + rate * (mean - load), "Your step is larger, the larger the imbalance. This rule is blunter: each bias "
         "moves by the same small amount, up or down."),
        (bias + rate * (mean - load) / mean, "Your step is larger, the larger the imbalance. This rule is blunter: "
         "each bias moves by the same small amount, up or down."),
        (bias + rate * (load == 0), "Only an expert without any token is helped. One with less than its fair share "
         "should rise as well, and one with more should fall."),
        (bias + rate * (load < mean), "Your biases only ever rise. What about experts with more than their fair "
         "share?"),
        (rate * step, "You returned the step, and forgot the bias that was there before. It adds up over the batches."),
        (bias + step, "Your step is 1, whatever the rate."),
    )  # fmt: skip
    if not same(given, _library(bias, load, rate)):
        raise Wrong(
            "With the loads 4, 1, 1 the first bias falls by the rate, the others rise by it; at exactly the mean it "
            "stays."
        )


def _library(bias: Tensor, load: Tensor, rate: float) -> Tensor:
    """What the library's router makes of its bias after a batch that loads its experts like this, k = 1."""
    router = LossFreeBias(d_model=5, n_experts=5, k=1, bias_rate=rate)
    with torch.no_grad():
        router.score.weight.copy_(20 * torch.eye(5))
        router.bias.copy_(bias)
        router(torch.eye(5).repeat_interleave(load.long(), dim=0)[None])
    return router.bias


def _groups(candidate: Candidate) -> None:
    scores, groups, kept = numbers(5, 10, 8).sigmoid(), 4, 2
    given = tensor(ask(candidate, scores, groups, kept), (10, 8))
    if given.dtype != torch.bool:
        raise Wrong("Return True or False for each token and expert, a tensor of bool.")
    parts = scores.unflatten(-1, (groups, 2))
    strided = scores.unflatten(-1, (2, groups)).transpose(1, 2)
    rule_out(
        given,
        (_open(parts.amax(-1), kept, 2), "You judge a group by its one best expert. A token takes several experts of a "
         "group: judge it by its two best."),
        (_open(strided.sum(-1), kept, 2).unflatten(-1, (groups, 2)).transpose(1, 2).flatten(1), "Your groups are made "
         "of every fourth expert. A group is a stretch of neighbours, as they stand on one machine: experts 0 and 1 "
         "here."),
        (_open(-parts.sum(-1), kept, 2), "You opened the worst groups."),
        (torch.zeros_like(given).scatter(1, scores.topk(2 * kept).indices, True), "You opened the best experts, "
         "wherever they are. A group is open or closed as a whole."),
        (_open(parts.sum(-1).mean(0, keepdim=True), kept, 2).expand(10, 8), "The same groups are open for all tokens. "
         "Each token has its own best groups."),
    )  # fmt: skip
    if not same(given, _open(parts.sum(-1), kept, 2)):
        raise Wrong(
            "For groups of two, a group's score is the sum of both; the groups with the largest are open, with all "
            "experts."
        )


def _groups_of_four(candidate: Candidate) -> None:
    scores, groups, kept = numbers(6, 40, 12).sigmoid(), 3, 1
    given = tensor(ask(candidate, scores, groups, kept), (40, 12))
    parts = scores.unflatten(-1, (groups, 4))
    rule_out(
        given,
        (_open(parts.sum(-1), kept, 4), "You add up all experts of a group. Only the two best count: a token does not "
         "care how many poor ones stand beside them."),
    )  # fmt: skip
    if not same(given, _open(parts.topk(2).values.sum(-1), kept, 4)):
        raise Wrong("Right for groups of two experts, not for groups of four: how many of a group count for its score?")


def _open(score_NG: Tensor, kept: int, size: int) -> Tensor:
    """(N, E) of bool: the experts of the best groups."""
    best = torch.zeros_like(score_NG, dtype=torch.bool).scatter(1, score_NG.topk(kept).indices, True)
    return best.repeat_interleave(size, dim=1)


EXERCISES = (
    Exercise(
        "5.1", "choose", "Choose with the bias, weigh without it",
        "Write `choose(scores, bias, k)`. `scores` is `(N, E)`, between 0 and 1, each expert's own sigmoid; `bias` is "
        "`(E,)`. Return `weights, index`, both `(N, k)`. The `k` experts with the largest `scores + bias` are chosen. "
        "The weights are their scores *without* the bias, each divided by the sum over the chosen.",
        "def choose(scores, bias, k):\n    index = ...\n    weights = ...\n    return weights, index\n",
        (_chosen, _weighed),
    ),
    Exercise(
        "5.2", "move", "Turn the bias after a batch",
        "Write `move(bias, load, rate)`. `bias` and `load` are `(E,)`; `load` says how many tokens of the last batch "
        "each expert got. Return the new bias `(E,)`: an expert below the mean load rises by `rate`, one above it "
        "falls by `rate`, and one exactly at the mean stays.",
        "def move(bias, load, rate):\n    return ...\n",
        (_moved,),
    ),
    Exercise(
        "5.3", "open_groups", "Only some groups are open",
        "Write `open_groups(scores, groups, kept)`. `scores` is `(N, E)`. The experts fall into `groups` stretches of "
        "`E / groups` neighbours, one for each machine. A group's score, for a token, is the sum of its two best "
        "experts' scores. The `kept` best groups are open to the token. Return `(N, E)` of bool: True for every expert "
        "of an open group.",
        "def open_groups(scores, groups, kept):\n    size = scores.shape[-1] // groups\n    return ...  # (N, E)\n",
        (_groups, _groups_of_four),
    ),
)  # fmt: skip
