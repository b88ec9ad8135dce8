"""Lesson 7, sinks and gates: how much goes to the first token, a gate on what a head says, a sink that is no token."""

import torch
from torch import Tensor

from explorer import metrics
from explorer.lessons.exercise import Exercise, Wrong
from explorer.lessons.exercises.asking import Candidate, ask, numbers, rule_out, same, tensor


def _maps(seed: int, B: int = 2, H: int = 3, T: int = 5) -> Tensor:
    """(B, H, T, T): causal maps of attention, whose rows sum to one."""
    scores = 2 * numbers(seed, B, H, T, T)
    return scores.masked_fill(~torch.ones(T, T).tril().bool(), -torch.inf).softmax(-1)


def _first(candidate: Candidate) -> None:
    attention = _maps(0)
    given = ask(candidate, attention)
    if isinstance(given, Tensor) and given.dim() == 0:
        raise Wrong("One number came back. Heads differ: return one for each head.")
    given = tensor(given, (3,))
    rule_out(
        given,
        (attention[..., 0].mean((0, 2)), "The first query is in your mean. It can see nothing but itself, so its 1 "
         "says nothing: leave it out."),
        (attention[:, :, 0, 1:].mean((0, 2)), "You took the first row, which is where the first token looks. Asked is "
         "the column: who looks at the first token?"),
        (attention.mean((0, 2, 3)), "Your number is one over the length, for every head: the mean over all keys of a "
         "row that sums to one. Only the first key counts."),
        (attention[:, :, 1:, 0].amax(2).mean(0), "You took the query that looks there most. Asked is the mean over "
         "the queries."),
        (attention[:, :, -1, 0].mean(0), "You looked at the last query alone. Asked is the mean over the queries."),
    )  # fmt: skip
    if not same(given, metrics.first_token_share(attention)):
        raise Wrong(
            "In a map, a row is a query that looks and a column a key that is looked at; rows from the second on count."
        )


def _gated(candidate: Candidate) -> None:
    attention, values, x, W = _maps(1)[0], numbers(2, 3, 5, 4), numbers(3, 5, 6), numbers(4, 6, 3)
    given = tensor(ask(candidate, attention, values, x, W), (3, 5, 4))
    score = (x @ W).T[..., None]
    gate, heads = score.sigmoid(), attention @ values
    rule_out(
        given,
        (attention @ (gate * values), "You gated the values, so each token decides how loud *it* is for all who ask. "
         "The token that asks should decide how much it takes."),
        (score.softmax(0) * heads, "Your gates sum to one over the heads, so one of them must always be open. That is "
         "what the gate should make unnecessary."),
        (score * heads, "Your gate is the bare score, which may be negative or larger than one. Squash it first."),
        (gate + heads, "You added the gate. A gate of 0 should silence the head: what operation does that?"),
        (heads, "The gate is not used."),
        ((x @ W).softmax(0).T[..., None] * heads, "Your gates sum to one over the tokens. A head may be needed by all "
         "of them, or by none: each gate is for itself."),
    )  # fmt: skip
    if not same(given, gate * heads):
        raise Wrong(
            "For each head and query: one number between 0 and 1, from the query's own x, times all that the head "
            "found."
        )


def _sink(candidate: Candidate) -> None:
    scores, sink = 2 * numbers(5, 3, 4, 6), torch.tensor([0.5, -1.0, 2.0])
    given = ask(candidate, scores, sink)
    if isinstance(given, Tensor) and given.shape == (3, 4, 7):
        raise Wrong(
            "The sink's own column is still there. It has no value to give, so it is dropped after it took its part."
        )
    given = tensor(given, (3, 4, 6))
    column = sink[:, None, None].expand(3, 4, 1)
    right = torch.cat([scores, column], -1).softmax(-1)[..., :-1]
    rule_out(
        given,
        (scores.softmax(-1), "Your rows still sum to one. If you added the sink to all scores, the softmax does not "
         "notice; if you divided again at the end, you undid its work."),
        (torch.cat([scores, torch.zeros(3, 4, 1)], -1).softmax(-1)[..., :-1], "Your sink's score is 0 for every head. "
         "Each head has its own."),
        (scores.exp() / (sink[:, None, None] + scores.exp().sum(-1, keepdim=True)), "The sink is a score like the "
         "others: it has to go through the exponential as they do."),
        (scores.softmax(-1) - sink[:, None, None].softmax(0), "You took something off each weight. The sink takes part "
         "in the softmax, so that weights stay positive."),
        (scores.softmax(-1) * sink[:, None, None].sigmoid(), "You scaled every row of a head by the same number. The "
         "sink should take much where no score is large, and little where one is."),
    )  # fmt: skip
    if not same(given, right):
        raise Wrong(
            "One more entry in each row of scores, the head's own number; softmax over all; then forget that entry."
        )
    _large(candidate, sink)


def _large(candidate: Candidate, sink: Tensor) -> None:
    """As scores get large, a softmax written by hand overflows."""
    given = ask(candidate, torch.full((3, 1, 2), 200.0), sink)
    if bool(torch.as_tensor(given).isnan().any()):
        raise Wrong("Right for small scores, and not a number for large ones: the exponential of 200 is too large. Let "
                    "`torch.softmax` do it.")  # fmt: skip


EXERCISES = (
    Exercise(
        "7.1", "first_share", "How much goes to the first token?",
        "Write `first_share(attention)`. `attention` is `(B, H, T, T)`: sequences, heads, queries, keys. Row `t` says "
        "how query `t` spreads its attention over the tokens up to `t`. For each head, return the mean share that goes "
        "to the first token, over all sequences and all queries but the first, which has no choice. A tensor `(H,)`.",
        "def first_share(attention):\n    return ...  # (H,)\n",
        (_first,),
    ),
    Exercise(
        "7.2", "gated", "A gate on what a head says",
        "Write `gated(attention, values, x, W)`. `attention` is `(H, T, T)`, `values` `(H, T, d)`: what a head finds "
        "is `attention @ values`. `x` is `(T, D)`, the tokens, and `W` is `(D, H)`. For each token and head, the "
        "sigmoid of `x @ W` multiplies what the head found *for that token*. Return `(H, T, d)`.",
        "def gated(attention, values, x, W):\n"
        "    gate = ...  # one number for each token and head\n"
        "    return ...  # (H, T, d)\n",
        (_gated,),
    ),
    Exercise(
        "7.3", "with_sink", "A place to look at nothing",
        "Write `with_sink(scores, sink)`. `scores` is `(H, T, S)`, before the softmax; `sink` is `(H,)`, one learned "
        "score for each head. Give every row one more entry, its head's sink, take the softmax, and drop that entry "
        "again. Return `(H, T, S)`: rows that sum to less than one.",
        "def with_sink(scores, sink):\n    return ...  # (H, T, S)\n",
        (_sink,),
    ),
)  # fmt: skip
