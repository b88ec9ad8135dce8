"""Wrong answers that students give, by exercise, and words that the hint for each must contain. The tests run them all.

Each is the code of a whole answer; torch, F (torch.nn.functional) and re are there.
"""

WRONG: dict[str, list[tuple[str, str]]] = {
    "1.1": [
        ("def gate(signal, x, w): return signal * ((x @ w) > 0)[:, None]", "open or shut"),
        ("def gate(signal, x, w): return signal * (x @ w)[:, None]", "bare score"),
        ("def gate(signal, x, w): return signal + torch.sigmoid(x @ w)[:, None]", "You add the gate"),
        ("def gate(signal, x, w): return signal * torch.softmax(x @ w, 0)[:, None]", "compete"),
        ("def gate(signal, x, w): return signal * torch.sigmoid(-(x @ w))[:, None]", "shuts where it should open"),
        ("def gate(signal, x, w): return torch.sigmoid(x @ w)", "shape"),
        ("def gate(signal, x, w): torch.sigmoid(x @ w)[:, None] * signal", "return"),
    ],
    "1.2": [
        ("def gated_unit(x, W_gate, W_up, W_down): return ((x @ W_gate) * F.silu(x @ W_up)) @ W_down", "other branch"),
        ("def gated_unit(x, W_gate, W_up, W_down): return F.silu((x @ W_gate) * (x @ W_up)) @ W_down", "bent the "
         "product"),
        ("def gated_unit(x, W_gate, W_up, W_down): return (F.silu(x @ W_gate) + x @ W_up) @ W_down", "added the two"),
        ("def gated_unit(x, W_gate, W_up, W_down): return (torch.sigmoid(x @ W_gate) * (x @ W_up)) @ "
         "W_down", "ceiling"),
        ("def gated_unit(x, W_gate, W_up, W_down): return F.silu(x @ W_gate) @ W_down", "never used"),
    ],
    "1.3": [
        ("def mixture(x, router, experts): return sum((x @ router).softmax(0)[:, [e]] * f(x) for e, f in "
         "enumerate(experts))",
         "down the tokens"),
        ("def mixture(x, router, experts): return sum(f(x) for f in experts) / len(experts)", "same mixture"),
        ("def mixture(x, router, experts): return sum((x @ router)[:, [e]] * f(x) for e, f in enumerate(experts))",
         "bare scores"),
        ("def mixture(x, router, experts):\n    best = (x @ router).argmax(-1)\n"
         "    return torch.stack([experts[e](x[n : n + 1])[0] for n, e in enumerate(best.tolist())])", "Only the best"),
        ("def mixture(x, router, experts):\n    s = (x @ router).softmax(-1)\n"
         "    return sum(f(s[:, [e]] * x) for e, f in enumerate(experts))", "what goes into"),
        ("def mixture(x, router, experts): return sum(f(x) for f in experts)", "simply added up"),
    ],
    "2.1": [
        ("def route(logits, k): return logits.softmax(-1).topk(k)", "less than one"),
        ("def route(logits, k): return logits.topk(k, dim=0)", "best tokens of each expert"),
        ("def route(logits, k): return logits.topk(k)", "bare scores"),
        ("def route(logits, k):\n    index = logits.argsort(-1)[:, :k]\n"
         "    return logits.gather(1, index).softmax(-1), index", "lowest scores"),
        ("def route(logits, k):\n"
         "    best = logits.topk(k)\n"
         "    return best.values.softmax(-1), best.indices.sort(-1).values",
         "belong together"),
        ("def route(logits, k):\n"
         "    best = logits.topk(k)\n"
         "    return torch.full_like(best.values, 1 / k), best.indices",
         "weigh the same"),
        ("def route(logits, k): return logits.softmax(-1), logits.topk(k).indices", "all five experts"),
        ("def route(logits, k):\n"
         "    best = logits.topk(k)\n"
         "    return best.indices, best.values.softmax(-1)", "integers"),
    ],
    "2.2": [
        ("def combine(x, weights, index, experts): return sum(weights[:, [s]] * experts[s](x) for s in "
         "range(index.shape[1]))",
         "number of the slot"),
        ("def combine(x, weights, index, experts):\n    return torch.stack("
         "[sum(experts[e](x[[n]])[0] for e in index[n].tolist()) for n in range(len(x))])", "not used"),
        ("def combine(x, weights, index, experts):\n"
         "    y = torch.zeros_like(x)\n"
         "    for n in range(len(x)):\n"
         "        for w, e in zip(weights[n], index[n].tolist()):\n"
         "            y[n] = w * experts[e](x[[n]])[0]\n"
         "    return y",
         "overwrote"),
        ("def combine(x, weights, index, experts):\n    return torch.stack("
         "[weights[n, 0] * experts[int(index[n, 0])](x[[n]])[0] for n in range(len(x))])", "second slot"),
        ("def combine(x, weights, index, experts):\n    return torch.stack([sum(experts[e](w * x[[n]])[0] "
         "for w, e in zip(weights[n], index[n].tolist())) for n in range(len(x))])", "what goes into"),
    ],
    "2.3": [
        ("def margin(scores, k):\n"
         "    best = scores.sort(-1, descending=True).values\n"
         "    return best[:, 0] - best[:, 1]",
         "best and the second"),
        ("def margin(scores, k):\n"
         "    best = scores.sort(-1, descending=True).values\n"
         "    return best[:, k - 2] - best[:, k - 1]",
         "among the k chosen"),
        ("def margin(scores, k):\n"
         "    best = scores.sort(-1, descending=True).values\n"
         "    return best[:, k - 1] - best[:, -1]",
         "worst expert"),
        ("def margin(scores, k):\n"
         "    best = scores.sort(-1, descending=True).values\n"
         "    return best[:, k] - best[:, k + 1]",
         "among those not chosen"),
        ("def margin(scores, k):\n"
         "    best = scores.sort(-1, descending=True).values\n"
         "    return best[:, k] - best[:, k - 1]",
         "negative"),
        ("def margin(scores, k):\n    best = scores.sort(-1, descending=True).values\n"
         "    return (best[:, k - 1] - best[:, k]).min()", "One number"),
    ],
    "3.1": [
        ("def load(index, n_experts): return torch.bincount(index[index >= 0], minlength=n_experts).float()", "counts"),
        ("def load(index, n_experts):\n    c = torch.bincount(index.flatten() % n_experts, minlength=n_experts)\n"
         "    return c / c.sum()", "last expert"),
        ("def load(index, n_experts): return torch.bincount(index[index >= 0], minlength=n_experts) / len(index)",
         "number of tokens"),
        ("def load(index, n_experts): return torch.bincount(index[index >= 0], minlength=n_experts) / index.numel()",
         "no assignments"),
        ("def load(index, n_experts):\n    c = torch.bincount(index[index >= 0])\n    return c / c.sum()", "no token "
         "chose"),
        ("def load(index, n_experts):\n"
         "    c = torch.bincount(index[index >= 0], minlength=n_experts)\n"
         "    return c / c.max()",
         "busiest expert"),
    ],
    "3.2": [
        ("def max_violation(counts): return counts.max() / counts.mean()", "yours gives 1"),
        ("def max_violation(counts): return counts.max() - counts.mean()", "number of tokens"),
        ("def max_violation(counts): return counts.max() / counts.sum()", "how many experts there"),
        ("def max_violation(counts): return counts.std() / counts.mean()", "coefficient of variation"),
        ("def max_violation(counts): return counts.max() / counts.median() - 1", "median"),
        ("def max_violation(counts): return 1 - counts.min() / counts.mean()", "idlest"),
        ("def max_violation(counts): return counts / counts.mean() - 1", "One number"),
    ],
    "3.3": [
        ("def balancing_loss(probs, index):\n"
         "    f = torch.bincount(index.flatten(), minlength=probs.shape[1]) / index.numel()\n"
         "    return (f * probs.mean(0)).sum()", "whatever the number of experts"),
        ("def balancing_loss(probs, index):\n"
         "    f = torch.bincount(index.flatten(), minlength=probs.shape[1]) / len(index)\n"
         "    return probs.shape[1] * (f * probs.mean(0)).sum()", "sum to k"),
        ("def balancing_loss(probs, index):\n"
         "    f = torch.bincount(index.flatten(), minlength=probs.shape[1]) / index.numel()\n"
         "    return probs.shape[1] * (f * f).sum()", "no slope"),
        ("def balancing_loss(probs, index): return probs.shape[1] * (probs.mean(0) ** 2).sum()", "really chose"),
        ("def balancing_loss(probs, index):\n"
         "    f = torch.bincount(index.flatten(), minlength=probs.shape[1]) / index.numel()\n"
         "    return probs.shape[1] * (f * probs.sum(0)).sum()", "larger batch"),
        ("def balancing_loss(probs, index):\n"
         "    f = torch.bincount(index.flatten(), minlength=probs.shape[1]) / index.numel()\n"
         "    kept = torch.zeros_like(probs).scatter(1, index, probs.gather(1, index))\n"
         "    return probs.shape[1] * (f * kept.mean(0)).sum()", "should rise"),
        ("def balancing_loss(probs, index):\n"
         "    f = torch.bincount(index.flatten(), minlength=probs.shape[1]) / index.numel()\n"
         "    return (probs.shape[1] * (f * probs.mean(0)).sum()).item()", "no gradient"),
    ],
    "4.1": [
        ("def keep(choice, n_experts, capacity): return torch.arange(len(choice)) < capacity", "queue of its own"),
        ("def keep(choice, n_experts, capacity): return torch.arange(len(choice)) < capacity * n_experts",
         "room of another"),
        ("def keep(choice, n_experts, capacity):\n    m = F.one_hot(choice, n_experts).flip(0)\n"
         "    return ((m.cumsum(0) * m).sum(-1) <= capacity).flip(0)", "last of each queue"),
        ("def keep(choice, n_experts, capacity):\n    m = F.one_hot(choice, n_experts)\n"
         "    return (m.cumsum(0) * m).sum(-1) <= capacity + 1", "too many"),
        ("def keep(choice, n_experts, capacity):\n    m = F.one_hot(choice, n_experts)\n"
         "    return (m.cumsum(0) * m).sum(-1) < capacity", "too few"),
        ("def keep(choice, n_experts, capacity): return torch.bincount(choice, minlength=n_experts)[choice] <= "
         "capacity",
         "turns everybody away"),
    ],
    "4.2": [
        ("def experts_choose(probs, capacity):\n    t = torch.zeros(probs.shape, dtype=torch.bool)\n"
         "    return t.scatter(1, probs.topk(capacity, dim=1).indices, True)", "token choice"),
        ("def experts_choose(probs, capacity):\n    t = torch.zeros(probs.shape, dtype=torch.bool)\n"
         "    return t.scatter(0, probs.argsort(0)[:capacity], True)", "least"),
        ("def experts_choose(probs, capacity):\n"
         "    t = torch.zeros(probs.shape, dtype=torch.bool)\n"
         "    left = probs.clone()\n"
         "    for e in range(probs.shape[1]):\n"
         "        n = min(capacity, int((left[:, e] >= 0).sum()))\n"
         "        best = left[:, e].topk(n).indices\n"
         "        t[best, e] = True\n"
         "        left[best] = -1\n"
         "    return t", "gone "
          "once"),
        ("def experts_choose(probs, capacity): return probs > 1 / probs.shape[1]", "threshold"),
        ("def experts_choose(probs, capacity): return probs.topk(capacity, dim=0).indices", "shape"),
    ],
    "4.3": [
        ("def leaks(rule, probs): return True", "every token decides for itself"),
        ("def leaks(rule, probs):\n    whole = rule(probs)\n"
         "    return any(not torch.equal(rule(probs[n:]), whole[n:]) for n in range(1, len(probs)))", "depend on the "
          "past"),
        ("def leaks(rule, probs): return not torch.equal(rule(probs)[-1], rule(probs[:])[-1])", "expert choice safe"),
        ("def leaks(rule, probs): return not torch.equal(rule(probs[:-1]), rule(probs)[:-1])", "two places ahead"),
        ("def leaks(rule, probs): return rule(probs)", "True or False"),
    ],
    "5.1": [
        ("def choose(scores, bias, k):\n    w, i = (scores + bias).topk(k)\n    return w / w.sum(-1, keepdim=True), i",
         "bias got into your weights. It may"),
        ("def choose(scores, bias, k):\n    w, i = scores.topk(k)\n    return w / w.sum(-1, keepdim=True), i",
         "changes nothing in your choice"),
        ("def choose(scores, bias, k):\n    i = (scores + bias).topk(k).indices\n    return scores.gather(1, i), i",
         "bare scores"),
        ("def choose(scores, bias, k):\n"
         "    i = (scores + bias).topk(k).indices\n"
         "    return scores.gather(1, i).softmax(-1), i",
         "softmax as well"),
        ("def choose(scores, bias, k):\n    i = (scores + bias).topk(k).indices\n"
         "    return scores.gather(1, i) / scores.sum(-1, keepdim=True), i", "all experts"),
        ("def choose(scores, bias, k):\n    i = (scores - bias).topk(k).indices\n    w = scores.gather(1, i)\n"
         "    return w / w.sum(-1, keepdim=True), i", "less attractive"),
    ],
    "5.2": [
        ("def move(bias, load, rate): return bias + rate * torch.sign(load - load.mean())", "collapse"),
        ("def move(bias, load, rate): return bias + rate * (load.mean() - load)", "blunter"),
        ("def move(bias, load, rate): return bias + rate * (load == 0)", "without any token"),
        ("def move(bias, load, rate): return bias + rate * (load < load.mean())", "only ever rise"),
        ("def move(bias, load, rate): return rate * torch.sign(load.mean() - load)", "forgot the bias"),
        ("def move(bias, load, rate): return bias + torch.sign(load.mean() - load)", "whatever the rate"),
    ],
    "5.3": [
        ("def open_groups(scores, groups, kept):\n    size = scores.shape[1] // groups\n"
         "    g = scores.reshape(len(scores), groups, size).amax(-1)\n    a = torch.zeros(g.shape, dtype=torch.bool)\n"
         "    return a.scatter(1, g.topk(kept).indices, True).repeat_interleave(size, 1)", "one best expert"),
        ("def open_groups(scores, groups, kept):\n    size = scores.shape[1] // groups\n"
         "    g = scores.reshape(len(scores), groups, size).sum(-1)\n    a = torch.zeros(g.shape, dtype=torch.bool)\n"
         "    return a.scatter(1, g.topk(kept).indices, True).repeat_interleave(size, 1)", "poor ones"),
        ("def open_groups(scores, groups, kept):\n"
         "    size = scores.shape[1] // groups\n"
         "    g = scores.reshape(len(scores), size, groups).topk(2, dim=1).values.sum(1)\n"
         "    a = torch.zeros(g.shape, dtype=torch.bool).scatter(1, g.topk(kept).indices, True)\n"
         "    return a.repeat(1, size)",
         "neighbours"),
        ("def open_groups(scores, groups, kept):\n    size = scores.shape[1] // groups\n"
         "    return torch.zeros(scores.shape, dtype=torch.bool).scatter(1, scores.topk(size * kept).indices, True)",
         "as a whole"),
        ("def open_groups(scores, groups, kept):\n"
         "    size = scores.shape[1] // groups\n"
         "    g = scores.reshape(len(scores), groups, size).sum(-1).mean(0)\n"
         "    a = torch.zeros(groups, dtype=torch.bool)\n"
         "    a[g.topk(kept).indices] = True\n"
         "    return a.repeat_interleave(size).expand(len(scores), -1)", "same "
          "groups"),
    ],
    "6.1": [
        ("def domain_share(expert, domain, E, C):\n"
         "    t = torch.zeros(C, E)\n"
         "    t.index_put_((domain, expert), torch.ones(len(expert)), accumulate=True)\n"
         "    return t", "counts"),
        ("def domain_share(expert, domain, E, C):\n"
         "    t = torch.zeros(C, E)\n"
         "    t.index_put_((domain, expert), torch.ones(len(expert)), accumulate=True)\n"
         "    return t / t.sum()", "all tokens"),
        ("def domain_share(expert, domain, E, C):\n"
         "    t = torch.zeros(C, E)\n"
         "    t.index_put_((domain, expert), torch.ones(len(expert)), accumulate=True)\n"
         "    return t / t.sum(0).clamp(min=1)", "columns sums to one"),
        ("def domain_share(expert, domain, E, C):\n"
         "    t = torch.zeros(E, C)\n"
         "    t.index_put_((expert, domain), torch.ones(len(expert)), accumulate=True)\n"
         "    return t / t.sum(0)", "Experts down"),
    ],
    "6.2": [
        ("def information(table):\n    p = table / table.sum()\n    e, c = p.sum(1, keepdim=True), p.sum(0)\n"
         "    return (p * (p / (e * c)).log()).sum()", "in nats"),
        ("def information(table):\n    p = table / table.sum()\n    e, c = p.sum(1, keepdim=True), p.sum(0)\n"
         "    return (p * (p / (e * c)).log()).sum() / torch.tensor(float(len(c))).log()", "equal size"),
        ("def information(table):\n    p = table / table.sum()\n    e, c = p.sum(1, keepdim=True), p.sum(0)\n"
         "    return (p * (p / (e * c)).log()).sum() / -(e * e.log()).sum()", "entropy of the experts"),
        ("def information(table):\n    p = table / table.sum()\n    c = p.sum(0)\n"
         "    return -(p * p.log()).sum() / -(c * c.log()).sum()", "how spread the pairs"),
        ("def information(table):\n    p = table / table.sum()\n    e, c = p.sum(1, keepdim=True), p.sum(0)\n"
         "    return (p * (p / (e * c)).log()).sum() / -(c * c.log()).sum()", "never occurs"),
    ],
    "6.3": [
        ("def chance(measure, expert, domain, draws): return sum(measure(expert, domain) for _ in range(draws)) / "
         "draws",
         "Nothing was shuffled"),
        ("def chance(measure, expert, domain, draws):\n"
         "    v = []\n"
         "    for _ in range(draws):\n"
         "        o = torch.randperm(len(domain))\n"
         "        v.append(measure(expert[o], domain[o]))\n"
         "    return sum(v) / draws",
         "alike"),
        ("def chance(measure, expert, domain, draws):\n"
         "    return sum(measure(expert, torch.randint(2, domain.shape)) for _ in range(draws)) / draws", "drawn at "
          "random"),
        ("def chance(measure, expert, domain, draws):\n"
         "    return max(measure(expert, domain[torch.randperm(len(domain))]) for _ in range(draws))", "luckiest"),
        ("def chance(measure, expert, domain, draws): return measure(expert, domain[torch.randperm(len(domain))])",
         "one random order alone"),
        ("def chance(measure, expert, domain, draws):\n    for _ in range(draws):\n"
         "        v = measure(expert, domain[torch.randperm(len(domain))])\n    return v", "last order"),
    ],
    "7.1": [
        ("def first_share(attention): return attention[..., 0].mean((0, 2))", "first query is in your mean"),
        ("def first_share(attention): return attention[:, :, 0, 1:].mean((0, 2))", "first row"),
        ("def first_share(attention): return attention[:, :, 1:, 0].mean()", "Heads differ"),
        ("def first_share(attention): return attention[:, :, 1:, 0].amax(2).mean(0)", "looks there most"),
        ("def first_share(attention): return attention[:, :, -1, 0].mean(0)", "last query alone"),
        ("def first_share(attention): return attention[:, :, 1:].mean((0, 2, 3))", "one over the length"),
    ],
    "7.2": [
        ("def gated(attention, values, x, W): return attention @ (torch.sigmoid(x @ W).T[..., None] * values)",
         "gated the values"),
        ("def gated(attention, values, x, W): return (x @ W).softmax(-1).T[..., None] * (attention @ values)",
         "over the heads"),
        ("def gated(attention, values, x, W): return (x @ W).T[..., None] * (attention @ values)", "bare score"),
        ("def gated(attention, values, x, W): return torch.sigmoid(x @ W).T[..., None] + attention @ values",
         "added the gate"),
        ("def gated(attention, values, x, W): return attention @ values", "not used"),
    ],
    "7.3": [
        ("def with_sink(scores, sink): return (scores + sink[:, None, None]).softmax(-1)", "does not notice"),
        ("def with_sink(scores, sink):\n    c = sink[:, None, None].expand(*scores.shape[:2], 1)\n"
         "    return torch.cat([scores, c], -1).softmax(-1)", "still there"),
        ("def with_sink(scores, sink): return scores.exp() / (1 + scores.exp().sum(-1, keepdim=True))", "0 for every "
         "head"),
        ("def with_sink(scores, sink): return scores.exp() / (sink[:, None, None] + scores.exp().sum(-1, "
         "keepdim=True))",
         "through the exponential"),
        ("def with_sink(scores, sink): return scores.softmax(-1) * torch.sigmoid(sink)[:, None, None]", "same number"),
        ("def with_sink(scores, sink):\n    e = scores.exp()\n"
         "    return e / (sink[:, None, None].exp() + e.sum(-1, keepdim=True))", "large ones"),
    ],
    "8.1": [
        ("def routers(shapes):\n    return {int(n.split('.')[2]): s[0] for n, s in shapes.items() if 'layers' in n and "
         "'gate' in n}",
         "chooses nobody"),
        ("def routers(shapes):\n    return {int(n.split('.')[2]): s[1] for n, s in shapes.items() if "
         "n.endswith('.mlp.gate.weight')}",
         "width of a token"),
        ("def routers(shapes): return {n.split('.')[2]: s[0] for n, s in shapes.items() if "
         "n.endswith('.mlp.gate.weight')}",
         "make an int"),
        ("def routers(shapes):\n    return {int(n[13]): s[0] for n, s in shapes.items() if "
         "n.endswith('.mlp.gate.weight')}",
         "lost a digit"),
        ("def routers(shapes): return [s[0] for n, s in shapes.items() if "
         "n.endswith('.mlp.gate.weight')]", "dictionary"),
        ("def routers(shapes):\n    return {int(n.split('.')[2]): s[0] for n, s in shapes.items() if "
         "n.endswith('gate.weight')}",
         "shared_expert_gate"),
    ],
    "8.2": [
        ("def weigh(logits, k, norm_topk_prob): return logits.softmax(-1).topk(k)", "not used"),
        ("def weigh(logits, k, norm_topk_prob):\n    w, i = logits.topk(k)\n    return w.softmax(-1), i", "speaks "
         "softly"),
        ("def weigh(logits, k, norm_topk_prob): return logits.topk(k)", "bare scores"),
        ("def weigh(logits, k, norm_topk_prob):\n    w, i = logits.topk(k)\n    return torch.full_like(w, 1 / k), i",
         "weigh the same"),
    ],
    "8.3": [
        ("def kept(early, late): return (early == late).float().mean()", "slot by slot"),
        ("def kept(early, late): return (early.sort(-1).values == late.sort(-1).values).all(-1).float().mean()",
         "all their experts"),
        ("def kept(early, late): return (early[:, :, None] == late[:, None]).any(-1).any(-1).float().mean()", "any "
         "old expert"),
        ("def kept(early, late): return 1 - (early[:, :, None] == late[:, None]).any(-1).float().mean()", "what "
         "changed"),
        ("def kept(early, late): return (early[:, :, None] == late[:, None]).any(-1).sum(-1).float().mean()", "how "
         "many"),
        ("def kept(early, late):\n    h = (early[:, :, None] == late[:, None]).any(-1).sum(-1).float()\n"
         "    return (h / (2 * early.shape[1] - h)).mean()", "occur in either"),
    ],
}  # fmt: skip
