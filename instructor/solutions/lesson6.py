"""Solutions of lesson 6."""

import torch


def domain_share(expert, domain, n_experts, n_domains):
    """Count the pairs; each row over its sum."""
    table = torch.zeros(n_domains, n_experts)
    for e, c in zip(expert.tolist(), domain.tolist(), strict=True):
        table[c, e] += 1
    return table / table.sum(1, keepdim=True)


def information(table):
    """Mutual information over the entropy of the domains; what never occurs adds nothing."""
    p = table / table.sum()
    p_expert, p_domain = p.sum(1, keepdim=True), p.sum(0, keepdim=True)
    apart = p_expert * p_domain
    seen = p > 0
    known = (p[seen] * (p[seen] / apart[seen]).log()).sum()
    there_is = -(p_domain[p_domain > 0] * p_domain[p_domain > 0].log()).sum()
    return known / there_is


def chance(measure, expert, domain, draws):
    """The mean of the measure over shuffled labels."""
    values = [float(measure(expert, domain[torch.randperm(len(domain))])) for _ in range(draws)]
    return sum(values) / draws
