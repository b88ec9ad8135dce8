"""Lesson 3, collapse and balance: the load of the experts, how uneven it is, and a loss that evens it out."""

import torch
from torch import Tensor

from explorer import metrics
from explorer.lessons.exercise import Exercise, Wrong
from explorer.lessons.exercises.asking import Candidate, ask, numbers, one_number, rule_out, same, tensor

E = 5


def _load(candidate: Candidate) -> None:
    index = torch.tensor([[0, 1], [1, 0], [3, 1], [0, -1], [-1, -1], [1, 3]])  # expert 2 is dead, so is the last, 4
    given = ask(candidate, index, E)
    if isinstance(given, Tensor) and given.dim() == 1 and len(given) < E:
        raise Wrong(f"There are {len(given)} numbers for {E} experts. An expert that no token chose has a load too: 0.")
    given = tensor(given, (E,))
    counts = metrics.counts(index, E)
    wrapped = torch.bincount(index.flatten() % E, minlength=E).double()
    rule_out(
        given,
        (counts, "These are counts. A share says which part of all assignments an expert got: what do the shares sum "
         "to?"),
        (wrapped / wrapped.sum(), "The empty slots, -1, went to the last expert, as negative numbers count from the "
         "end. Leave them out."),
        (counts / len(index), "Your shares do not sum to one: you divided by the number of tokens, but a token with "
         "two experts counts twice."),
        (counts / index.numel(), "Your shares do not sum to one: empty slots are no assignments, and do not count "
         "below the line either."),
        (counts / counts.max(), "You divided by the busiest expert. That says who is busier than whom, but not who "
         "gets which part."),
    )  # fmt: skip
    if not same(given, metrics.load_fraction(counts)):
        raise Wrong(
            "Count by hand how often each number occurs in a small index, and divide by how many numbers there are."
        )


def _violation(candidate: Candidate) -> None:
    counts = torch.tensor([30.0, 10.0, 1.0, 25.0, 14.0])
    given = one_number(ask(candidate, counts))
    mean, most = counts.mean(), counts.max()
    rule_out(
        given,
        (most / mean, "An even load should give 0, and yours gives 1: what is the busiest expert's load *above* its "
         "fair share?"),
        (most - mean, "That is a number of tokens: twice as many tokens would double it. Measure in fair shares."),
        (most / counts.sum(), "That is the share of the busiest expert. Whether it is much depends on how many experts "
         "there are."),
        (most / counts.sum() - 1, "That is never positive: the whole is no fair share of one expert."),
        (counts.std() / mean, "That is the coefficient of variation, the spread of all experts. Here only the "
         "busiest counts."),
        (counts.std(correction=0) / mean, "That is the coefficient of variation, the spread of all experts. Here only "
         "the busiest counts."),
        (1 - counts.min() / mean, "That is how far the idlest expert falls short. The one who slows a batch down is "
         "the other."),
        (most / counts.median() - 1, "You compare with the median expert. The fair share is what each had "
         "if all had the same."),
    )  # fmt: skip
    if not same(given, metrics.max_violation(counts)):
        raise Wrong("For the counts 20, 10, 10, 0 the fair share is 10 and the answer 1; for four times 10 it is 0.")


def _loss_value(candidate: Candidate) -> None:
    probs = (2 * numbers(0, 12, E)).softmax(-1)
    index = probs.topk(2).indices
    given = one_number(ask(candidate, probs, index))
    load, mean = metrics.load_fraction(metrics.counts(index, E)), probs.double().mean(0)
    kept = torch.zeros_like(probs).scatter(1, index, probs.gather(1, index)).double()
    rule_out(
        given,
        ((load * mean).sum(), "An even load should give 1, whatever the number of experts. Yours gives one over that "
         "number."),
        (2 * E * (load * mean).sum(), "Your loads sum to k, as each token counts k times: an even load should give 1 "
         "for any k."),
        (E * (load * load).sum(), "You multiplied the load with itself. Counting has no slope, so nothing can learn "
         "from it: where do the probabilities come in?"),
        (E * (mean * mean).sum(), "You multiplied the mean probability with itself. What the tokens really chose is "
         "not in it."),
        (E * (load * probs.double().sum(0)).sum(), "You took the sum over the tokens, so a larger batch has a larger "
         "loss: take their mean."),
        (E * (load * kept.mean(0)).sum(), "You left the probabilities of the experts that were not chosen out. They "
         "are the ones that should rise: the mean is over all tokens."),
    )  # fmt: skip
    if not same(given, metrics.load_balancing_loss(probs, index)):
        raise Wrong(
            "If all tokens are certain of one expert (k = 1), the answer is the number of experts; if all is even, 1."
        )


def _loss_slope(candidate: Candidate) -> None:
    probs, index = numbers(1, 12, E).softmax(-1).requires_grad_(), numbers(1, 12, E).topk(2).indices
    given = candidate(probs, index)
    if not (isinstance(given, Tensor) and given.requires_grad):
        raise Wrong("The value is right, but no gradient reaches the probabilities, so nobody learns from this loss: "
                    "stay with tensors, and do not detach `probs`.")  # fmt: skip
    slope, right = (
        torch.autograd.grad(given, probs)[0],
        torch.autograd.grad(metrics.load_balancing_loss(probs, index), probs)[0],
    )
    if not same(slope, right):
        raise Wrong("The value is right, and its gradient is not: only the mean probabilities should carry one.")


EXERCISES = (
    Exercise(
        "3.1", "load", "Who got how much?",
        "Write `load(index, n_experts)`. `index` is `(N, K)`: the experts of each token, and -1 where a slot is empty. "
        "Return a tensor `(n_experts,)`: the share of all filled slots that each expert got. The shares sum to one.",
        "def load(index, n_experts):\n    counts = ...  # (n_experts,)\n    return ...\n",
        (_load,),
    ),
    Exercise(
        "3.2", "max_violation", "How uneven is it?",
        "Write `max_violation(counts)`. `counts` is `(E,)`: how many tokens each expert got. The fair share is what "
        "each would get if all got the same. Return one number: by which part of a fair share the busiest expert is "
        "above its fair share. 0 means even; 1 means that somebody does the work of two.",
        "def max_violation(counts):\n    return ...\n",
        (_violation,),
    ),
    Exercise(
        "3.3", "balancing_loss", "A loss that asks for an even load",
        "Write `balancing_loss(probs, index)`. `probs` is `(N, E)`, each token's probabilities; `index` is `(N, K)`, "
        "the experts it chose. Let $f_e$ be the share of all slots that expert $e$ got, and $P_e$ the mean over the "
        "tokens of its probability. Return $E \\sum_e f_e P_e$. The gradient must reach `probs`.",
        "def balancing_loss(probs, index):\n"
        "    n_experts = probs.shape[-1]\n"
        "    f = ...  # (E,)\n"
        "    P = ...  # (E,)\n"
        "    return ...\n",
        (_loss_value, _loss_slope),
    ),
)  # fmt: skip
