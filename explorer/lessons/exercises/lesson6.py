"""Lesson 6, what experts learn: who takes which domain, how much that says, and how much of it is chance."""

import torch
from torch import Tensor

from explorer import metrics
from explorer.lessons.exercise import Exercise, Wrong
from explorer.lessons.exercises.asking import Candidate, ask, one_number, rule_out, same, tensor

EXPERT = torch.tensor([0, 0, 1, 2, 2, 2, 1, 0, 0, 2, 2, 0, 2])
DOMAIN = torch.tensor([0, 0, 0, 0, 1, 1, 1, 1, 1, 1, 1, 0, 1])
MANY, LABELS = torch.arange(90) * 7 % 11 % 4, torch.arange(90) // 7 % 3  # enough for every order to give another number


def _shares(candidate: Candidate) -> None:
    E, C = 4, 2  # nobody chose expert 3
    given = ask(candidate, EXPERT, DOMAIN, E, C)
    if isinstance(given, Tensor) and given.shape == (E, C):
        raise Wrong("Experts down, domains across: asked for is a row for each domain, and a column for each expert.")
    given = tensor(given, (C, E))
    table = metrics.contingency(EXPERT, DOMAIN, E, C).double().T
    rule_out(
        given,
        (table, "These are counts. A domain with more text would look stronger everywhere: make each row a share."),
        (table / table.sum(), "You divided by all tokens. Then a rare domain has small numbers everywhere: each row "
         "should sum to one."),
        (table / table.sum(0), "Each of your columns sums to one: which domains an expert's tokens come from. Asked is "
         "the other question, where a domain's tokens go."),
        (table / table.sum(0).clamp(min=1), "Each of your columns sums to one: which domains an expert's tokens come "
         "from. Asked is the other question, where a domain's tokens go."),
    )  # fmt: skip
    if not same(given, metrics.label_share(EXPERT[:, None], DOMAIN, E, C)):
        raise Wrong("Take domain 0 alone: of its tokens, which part went to expert 0, which to expert 1, and so on?")


def _information(candidate: Candidate) -> None:
    table = metrics.contingency(EXPERT, DOMAIN, 3, 2).double()
    given = one_number(ask(candidate, table))
    p = table / table.sum()
    of_expert, of_domain = p.sum(1), p.sum(0)
    known = (p * (p / (of_expert[:, None] * of_domain)).log()).sum()
    entropy = -(of_domain * of_domain.log()).sum()
    rule_out(
        given,
        (known, "That is the information itself, in nats. Divide it by the most that there is to know, the entropy of "
         "the domains."),
        (known / torch.tensor(2.0).log(), "You divided by the entropy of domains of equal size. These are not of equal "
         "size: use their own shares."),
        (known / -(of_expert * of_expert.log()).sum(), "You divided by the entropy of the experts. The question is how "
         "much of the *domain* is known."),
        (-(p * p.log()).sum() / entropy, "That is how spread the pairs are. Compare each pair with what it would be if "
         "expert and domain had nothing to do with each other."),
        (known / torch.tensor(2.0).log() / entropy, "One logarithm is of base 2 and the other of base e: use the same "
         "for both."),
        (known / (-(p * p.log()).sum()), "You divided by the entropy of the pairs. The most there is to know is the "
         "domain."),
    )  # fmt: skip
    if not same(given, metrics.nmi(EXPERT, DOMAIN)):
        raise Wrong(
            "If each domain has an expert of its own the answer is 1; if the rows of the table are multiples of each "
            "other, 0."
        )


def _empty_cells(candidate: Candidate) -> None:
    given = one_number(ask(candidate, torch.tensor([[6.0, 0.0], [0.0, 3.0], [0.0, 0.0]])))
    if bool(given.isnan()):
        raise Wrong("Right, until a pair never occurs: then 0 times the logarithm of 0 is not a number. What never "
                    "occurs adds nothing.")  # fmt: skip
    if not same(given, 1.0):
        raise Wrong("With an expert for each domain, and a third that nobody uses, the answer should be exactly 1.")


def _chance(candidate: Candidate) -> None:
    torch.manual_seed(0)
    experts, labels, seen = MANY.clone(), LABELS.clone(), []

    def measure(a: Tensor, b: Tensor) -> Tensor:
        seen.append((a.clone(), b.clone()))
        return metrics.nmi(a, b)

    given = one_number(candidate(measure, experts, labels, 50))
    if len(seen) < 50:
        raise Wrong(f"`measure` was asked {len(seen)} times, not {50}: one random order alone may be lucky.")
    if all(same(b, LABELS) and same(a, MANY) for a, b in seen):
        raise Wrong("Nothing was shuffled: every time the measure saw the tokens with their own labels.")
    real = float(metrics.nmi(MANY, LABELS))
    if all(abs(float(metrics.nmi(a, b)) - real) < 1e-9 for a, b in seen):
        raise Wrong(
            "You shuffled experts and labels alike, so that each token kept its own label: the pairs must be torn "
            "apart."
        )
    if any(not same(b.sort().values, LABELS.sort().values) for _, b in seen):
        raise Wrong("Your labels are new ones, drawn at random. Keep those that there are, as often as they are: "
                    "change only their order.")  # fmt: skip
    values = torch.stack([metrics.nmi(a, b) for a, b in seen]).double()
    rule_out(
        given,
        (values.max(), "You return the luckiest of the orders. What chance gives on the average is asked for."),
        (values[-1], "You return the last order's value alone: what became of the others?"),
        (real - values.mean(), "You subtracted the floor from the measure. Return the floor itself."),
        (values.sum(), "You added the values up: chance does not grow with the number of tries."),
    )  # fmt: skip
    if not same(given, values.mean()):
        raise Wrong("Return the mean of what `measure` gave for the shuffled labels.")


EXERCISES = (
    Exercise(
        "6.1", "domain_share", "Where do the tokens of a domain go?",
        "Write `domain_share(expert, domain, n_experts, n_domains)`. `expert` and `domain` are `(N,)`: each token's "
        "expert, and the kind of text it comes from. Return `(n_domains, n_experts)`: row `c`, column `e` holds the "
        "share of domain `c`'s tokens that went to expert `e`.",
        "def domain_share(expert, domain, n_experts, n_domains):\n"
        "    table = torch.zeros(n_domains, n_experts)\n"
        "    ...\n"
        "    return ...\n",
        (_shares,),
    ),
    Exercise(
        "6.2", "information", "How much does the expert say of the domain?",
        "Write `information(table)`. `table` is `(E, C)`: how often each expert met each domain. Let $p_{ec}$ be its "
        "shares, which sum to one, and $p_e$, $p_c$ the sums of its rows and columns. What is known is $I = \\sum_{ec} "
        "p_{ec} \\ln \\frac{p_{ec}}{p_e p_c}$, what there is to know $H = -\\sum_c p_c \\ln p_c$. Return $I / H$. "
        "Pairs that never occur add nothing.",
        "def information(table):\n    p = table / table.sum()\n    ...\n    return ...\n",
        (_information, _empty_cells),
    ),
    Exercise(
        "6.3", "chance", "How much of it is chance?",
        "Write `chance(measure, expert, domain, draws)`. `measure(expert, domain)` gives a number, such as that of "
        "6.2. With few tokens it is above 0 even if there is nothing to find. Shuffle the order of the domains, "
        "`draws` times, and return the mean of the measure over these orders. (`torch.randperm`)",
        "def chance(measure, expert, domain, draws):\n"
        "    values = []\n"
        "    for _ in range(draws):\n"
        "        ...\n"
        "    return ...\n",
        (_chance,),
    ),
)  # fmt: skip
