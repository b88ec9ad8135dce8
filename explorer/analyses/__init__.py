"""Analyses: pure functions of a Recording, whoever made it, that give the tables and tensors which figures draw.

    import explorer
    from explorer.analyses import differences, domains, routes, sinks

    a = explorer.open_checkpoint("folder").trace(texts, domains=names)   # or a live recording, or Recording.from_vllm(...)
    layers, load_LE = routes.load_map(a)       # where tokens went; routes.utilisation(a), routes.pairs(a): in numbers
    domains.specialisation(a)                  # what the experts tell of domain and token, beside what chance tells
    domains.vocabulary(a, layers[0])           # which tokens are an expert's own
    differences.difference(a, b)               # two checkpoints: what stayed, what moved, experts matched
    sinks.rate(a)                              # heads with an emergent or a learned sink, where attention was recorded

- `routes`: load_map, utilisation, company, pairs, path, margins; phase and select (one step, or prefill or decode alone).
- `domains`: names, of_tokens, loads, specialisation, vocabulary.
- `differences`: pairing, difference, matching, side_by_side.
- `sinks`: sinks, rate.

Every function takes all held steps together, on one grid of sequences and positions (B, T): a decoding step stands behind
the one that it goes on with, any other step below. Of a training run that is more than one model; narrow it down first:
`routes.select(rec, step=rec.step)`. Padding (-1) counts nowhere, layers may differ in experts and slots, and layers that do
not route are not there. A recording of counts alone (of a serving engine) gives load_map, utilisation and the loads of
`difference`; what it cannot give is an ExplorerError that says so. Nothing here changes a recording.
"""

from explorer.analyses import differences, domains, routes, sinks

__all__ = ["differences", "domains", "routes", "sinks"]
