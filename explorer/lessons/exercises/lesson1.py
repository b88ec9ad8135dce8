"""Lesson 1, what is a gate: a gate on a signal, a gated linear unit, a mixture where a gate weighs whole networks."""

import torch

from explorer.kernels.experts import experts as run_experts
from explorer.lessons.exercise import Exercise, Wrong
from explorer.lessons.exercises.asking import Candidate, ask, expert_functions, numbers, rule_out, same, tensor
from explorer.mechanisms.mixing.glu import GATES


def _gate(candidate: Candidate) -> None:
    x, signal, w = numbers(0, 5, 3), numbers(1, 5, 4), numbers(2, 3)
    given = tensor(ask(candidate, signal, x, w), (5, 4))
    score, valve = (x @ w)[:, None], GATES["glu"]((x @ w)[:, None])
    rule_out(
        given,
        (signal * (score > 0), "Your gate is open or shut and nothing between. A hard step has no slope to learn from: "
         "which smooth function runs from 0 to 1?"),
        (signal * score, "Your gate is the bare score, which may be negative or larger than one: it flips and "
         "amplifies the signal. Squash it into the range from 0 to 1 first."),
        (signal + valve, "You add the gate to the signal. Then a gate of 0 lets everything pass: what operation does a "
         "valve do?"),
        (signal * torch.softmax(score, 0), "Your gates sum to one over the tokens, so they compete. Each token's gate "
         "should depend on that token alone."),
        (signal * (1 - valve), "Your gate shuts where it should open: a large score must let the signal through."),
    )  # fmt: skip
    if not same(given, signal * valve):
        raise Wrong(
            "With a score of 0 each number of the signal should be halved, and with a score of 100 unchanged: try both."
        )


def _unit(candidate: Candidate) -> None:
    x, gate_DF, up_DF, down_FD = numbers(3, 6, 4), numbers(4, 4, 5), numbers(5, 4, 5), numbers(6, 5, 4)
    given = tensor(ask(candidate, x, gate_DF, up_DF, down_FD), (6, 4))
    gate, up, silu = x @ gate_DF, x @ up_DF, GATES["swiglu"]
    rule_out(
        given,
        ((gate * silu(up)) @ down_FD, "You bent the branch that carries the signal. The activation belongs on the "
         "other branch, the gate's."),
        (silu(gate * up) @ down_FD, "You multiplied first and bent the product. The gate is made before the two "
         "branches meet."),
        ((silu(gate) + up) @ down_FD, "You added the two branches. A sum of two layers is what a plain network can do "
         "anyway: a gate needs another operation."),
        ((torch.sigmoid(gate) * up) @ down_FD, "Your gate is a plain sigmoid, the oldest member of the family. This "
         "one asks for SiLU, which has no ceiling."),
        (silu(gate) @ down_FD, "W_up is never used: this is a plain layer. What does the gate multiply?"),
    )  # fmt: skip
    if not same(given, (silu(gate) * up) @ down_FD):
        raise Wrong(
            "Follow one channel: two numbers are read off the token, one is bent, they are multiplied, and W_down "
            "mixes."
        )


def _mixture(candidate: Candidate) -> None:
    x, router, up_EDG = numbers(7, 5, 3), numbers(8, 3, 4), numbers(9, 4, 3, 6)
    experts = expert_functions(up_EDG)
    given = tensor(ask(candidate, x, router, experts), (5, 3))
    score, out_NDE = x @ router, torch.stack([expert(x) for expert in experts], dim=-1)
    shares = score.softmax(-1)
    best = torch.nn.functional.one_hot(score.argmax(-1), 4).float()
    scaled = [expert(shares[:, [e]] * x) for e, expert in enumerate(experts)]
    rule_out(
        given,
        ((score.softmax(0)[:, None] * out_NDE).sum(-1), "Your weights sum to one down the tokens. It is the experts "
         "that share a token, so each row should sum to one."),
        (out_NDE.mean(-1), "Every token gets the same mixture. Where does the router say who is asked more?"),
        (out_NDE.sum(-1), "The experts are simply added up. Where does the router say who is asked more?"),
        ((score[:, None] * out_NDE).sum(-1), "Your weights are bare scores: some are negative, and they sum to "
         "anything. What turns scores into shares?"),
        ((best[:, None] * out_NDE).sum(-1), "Only the best expert answers. That comes in the next lesson: here all "
         "experts take part, each with its share."),
        (torch.stack(scaled).sum(0), "You weighed what goes into the experts. They are not linear, so that is "
         "something else: weigh what comes out."),
    )  # fmt: skip
    if not same(
        given, run_experts(x, torch.arange(4).expand(5, 4), shares, up_EDG, torch.eye(3).expand(4, 3, 3), kernel="loop")
    ):
        raise Wrong(
            "Take one token and two experts with equal scores: the answer should be the mean of their two outputs."
        )


EXERCISES = (
    Exercise(
        "1.1", "gate", "A gate on a signal",
        "Write `gate(signal, x, w)`. Each token has a `signal` (`N` tokens, `F` numbers each) and a vector `x` (`N, "
        "D`). Compute one score for each token, `x @ w` with `w` of shape `(D,)`, squash it into the range from 0 to 1 "
        "with a sigmoid, and let that number gate all `F` numbers of the token's signal. Return a tensor `(N, F)`.",
        "def gate(signal, x, w):\n    score = ...  # (N,): one number for each token\n    return ...  # (N, F)\n",
        (_gate,),
    ),
    Exercise(
        "1.2", "gated_unit", "A gated linear unit",
        "Write `gated_unit(x, W_gate, W_up, W_down)`, the feed-forward layer of most language models today (SwiGLU). "
        "`x` is `(N, D)`, `W_gate` and `W_up` are `(D, F)`, `W_down` is `(F, D)`. One branch is `x @ W_up`. The other "
        "is `x @ W_gate`, sent through `torch.nn.functional.silu`: that is the gate. The gate acts on the first "
        "branch, channel by channel, and `W_down` leads back to `(N, D)`.",
        "def gated_unit(x, W_gate, W_up, W_down):\n"
        "    gate = ...  # (N, F)\n"
        "    hidden = ...  # (N, F)\n"
        "    return ...  # (N, D)\n",
        (_unit,),
    ),
    Exercise(
        "1.3", "mixture", "A mixture of experts, all of them at work",
        "Write `mixture(x, router, experts)`. `experts` is a list of `E` functions, each takes `(N, D)` and returns "
        "`(N, D)`. `router` is a matrix `(D, E)`: `x @ router` scores the experts for each token. Turn a token's `E` "
        "scores into shares that sum to one with a softmax, and return the experts' outputs mixed by these shares, "
        "`(N, D)`.",
        "def mixture(x, router, experts):\n    shares = ...  # (N, E)\n    return ...  # (N, D)\n",
        (_mixture,),
    ),
)  # fmt: skip
