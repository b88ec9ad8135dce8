"""Lesson 4, who chooses: the queue of an expert with little room, experts that choose, and what that gives away."""

from collections.abc import Callable

import torch
from torch import Tensor

from explorer.lessons.exercise import Exercise, Wrong
from explorer.lessons.exercises.asking import Candidate, ask, numbers, rule_out, tensor
from explorer.mechanisms.routing.expert_choice import ExpertChoice
from explorer.mechanisms.routing.switch import Switch

Rule = Callable[[Tensor], Tensor]


def _keep(candidate: Candidate) -> None:
    choice = torch.tensor([1, 1, 0, 1, 2, 1, 0, 1, 0, 0])
    E, capacity = 4, 2
    given = tensor(ask(candidate, choice, E, capacity), (10,))
    if given.dtype != torch.bool:
        raise Wrong("Return True or False for each token, a tensor of bool.")
    mine = torch.nn.functional.one_hot(choice, E)
    place = (mine.cumsum(0) * mine).sum(-1)  # 1 for the first in its queue
    left = (mine.flip(0).cumsum(0).flip(0) * mine).sum(-1)
    rule_out(
        given,
        (torch.arange(10) < capacity, "You let in the first tokens of the batch, whomever they want. Each expert has a "
         "queue of its own."),
        (torch.arange(10) < capacity * E, "You let in as many tokens as all experts together have room for. An expert "
         "that is full cannot use the room of another."),
        (left <= capacity, "You keep the last of each queue. Who comes first is served first."),
        (place <= capacity + 1, "One token too many gets in: how many are in front of the last one that still finds "
         "room?"),
        (place <= capacity - 1, "One token too few gets in: an expert takes exactly as many as it has room for."),
        (mine.sum(0)[choice] <= capacity, "An expert with too long a queue turns everybody away. It should still serve "
         "those who came first."),
    )  # fmt: skip
    right = _switch_keeps(choice, E, capacity)
    if bool((given != right).any()):
        first = int((given != right).nonzero()[0])
        raise Wrong(
            f"For the choices {choice.tolist()} and room for {capacity} each, your answer for token {first} is not "
            "right: count who wants the same expert before it."
        )


def _switch_keeps(choice: Tensor, n_experts: int, capacity: int) -> Tensor:
    """The library's own answer: Switch with a factor that gives this room."""
    router = Switch(d_model=4, n_experts=n_experts, capacity_factor=capacity * n_experts / len(choice))
    return router.in_time(choice[None, :, None])[0, :, 0]


def _taken(candidate: Candidate) -> None:
    probs, C = (2 * numbers(3, 8, 4)).softmax(-1), 3
    given = tensor(ask(candidate, probs, C), (8, 4))
    if given.dtype != torch.bool:
        raise Wrong("Return True or False for each token and expert, a tensor of bool.")
    nothing = torch.zeros_like(probs, dtype=torch.bool)
    once, free = nothing.clone(), torch.ones(8, dtype=torch.bool)
    for e in range(4):
        best = probs[:, e].masked_fill(~free, -1).topk(min(C, int(free.sum()))).indices
        once[best, e], free[best] = True, False
    rule_out(
        given,
        (nothing.scatter(1, probs.topk(C, dim=1).indices, True), "Each token chose its best experts: that is token "
         "choice. Here it is the experts who choose."),
        (nothing.scatter(0, probs.topk(C, dim=0, largest=False).indices, True), "Your experts take the tokens that "
         "want them least."),
        (once, "In your answer a token is gone once an expert has it. Experts do not ask each other: a token may have "
         "several, or none."),
        (probs > 1 / 4, "You compare with a threshold, so an expert may get any number of tokens. Each takes exactly "
         "C."),
        (nothing.index_fill(0, torch.arange(C), True), "Every expert takes the first C tokens. It should take the C "
         "that want it most."),
    )  # fmt: skip
    router = ExpertChoice(d_model=4, n_experts=4, k=C * 4 / 8)
    if bool((given != router.taken(probs[None])[0]).any()):
        raise Wrong(
            "Look at one column: it belongs to one expert. Exactly C of its entries are True, those of its largest "
            "numbers."
        )


def _top(probs: Tensor) -> Tensor:
    """Each token takes its best two: what comes later does not matter."""
    return torch.zeros_like(probs, dtype=torch.bool).scatter(1, probs.topk(2).indices, True)


def _experts_choose(probs: Tensor) -> Tensor:
    """Each expert takes the half of the tokens that wants it most."""
    best = probs.topk(max(1, len(probs) // 2), dim=0).indices
    return torch.zeros_like(probs, dtype=torch.bool).scatter(0, best, True)


def _queue(probs: Tensor) -> Tensor:
    """Each token takes its best expert, which has room for two: what came before matters, what comes later does not."""
    mine = torch.nn.functional.one_hot(probs.argmax(-1), probs.shape[-1])
    return (mine.cumsum(0) <= 2) & mine.bool()


def _late(probs: Tensor) -> Tensor:
    """Only the third token looks ahead, and only at the fifth."""
    out = _top(probs)
    if len(probs) > 4:
        out[2] = _top(probs[[4]])[0]
    return out


def _leaks(candidate: Candidate) -> None:
    probs = (2 * numbers(4, 9, 4)).softmax(-1)
    for rule, right, hint in (
        (_top, False, "You call a rule a leak in which every token decides for itself. Cut the batch behind a token: "
         "does that token's own row change?"),
        (_queue, False, "You call a rule a leak in which tokens only wait for those before them. To depend on the past "
         "is no leak: change or cut what comes later, not what came before."),
        (_experts_choose, True, "You call expert choice safe. Look at the tokens before the cut, and not at the last "
         "one alone."),
        (_late, True, "A rule got through in which one early token looks two places ahead. Cut in more than one place, "
         "and look at every row before the cut."),
    ):  # fmt: skip
        given = ask(candidate, rule, probs)
        if not isinstance(given, bool | Tensor) or (isinstance(given, Tensor) and given.numel() != 1):
            raise Wrong("Return True or False.")
        if bool(given) != right:
            raise Wrong(hint)


EXERCISES = (
    Exercise(
        "4.1", "keep", "The queue in front of an expert",
        "Write `keep(choice, n_experts, capacity)`. `choice` is `(N,)`: the one expert that each token wants, in the "
        "order of the tokens. Each expert has room for `capacity` tokens, and who comes first is served first. Return "
        "a tensor `(N,)` of bool: True where the token finds room.",
        "def keep(choice, n_experts, capacity):\n"
        "    kept = torch.zeros(len(choice), dtype=torch.bool)\n"
        "    ...\n"
        "    return kept\n",
        (_keep,),
    ),
    Exercise(
        "4.2", "experts_choose", "The experts choose",
        "Write `experts_choose(probs, capacity)`. `probs` is `(N, E)`: how much each token wants each expert. Now "
        "every expert takes the `capacity` tokens that want it most. Return a tensor `(N, E)` of bool: True where the "
        "expert took the token.",
        "def experts_choose(probs, capacity):\n"
        "    taken = torch.zeros(probs.shape, dtype=torch.bool)\n"
        "    ...\n"
        "    return taken\n",
        (_taken,),
    ),
    Exercise(
        "4.3", "leaks", "Does a rule see the future?",
        "Write `leaks(rule, probs)`. `rule` takes scores `(n, E)`, for any `n`, and returns which expert takes which "
        "token, `(n, E)` of bool. Tokens stand in the order of the text. Return True if what the rule decides about a "
        "token depends on tokens that come after it. Try it: give the rule only the first tokens, and compare with "
        "what it said about them before.",
        "def leaks(rule, probs):\n"
        "    whole = rule(probs)\n"
        "    for n in range(1, len(probs)):\n"
        "        ...\n"
        "    return ...\n",
        (_leaks,),
    ),
)  # fmt: skip
