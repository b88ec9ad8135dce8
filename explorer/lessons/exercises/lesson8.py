"""Lesson 8, a trained checkpoint: find its routers, apply its rule, and see what changed since an earlier one."""

from functools import lru_cache

import torch

from explorer import demo, metrics
from explorer.checkpoints.checkpoint import Checkpoint, open_checkpoint
from explorer.lessons.exercise import Exercise, Wrong
from explorer.lessons.exercises.asking import Candidate, ask, numbers, one_number, pair, rule_out, same, spread

SHAPES = {
    "model.embed_tokens.weight": (1000, 64),
    "model.layers.0.mlp.gate_proj.weight": (256, 64),
    "model.layers.0.mlp.up_proj.weight": (256, 64),
    "model.layers.0.mlp.down_proj.weight": (64, 256),
    "model.layers.2.mlp.gate.weight": (8, 64),
    "model.layers.2.mlp.experts.0.gate_proj.weight": (32, 64),
    "model.layers.2.mlp.shared_expert_gate.weight": (1, 64),
    "model.layers.10.self_attn.q_proj.weight": (64, 64),
    "model.layers.10.mlp.gate.weight": (12, 64),
    "model.layers.10.mlp.experts.0.gate_proj.weight": (32, 64),
}


@lru_cache
def _model() -> Checkpoint:
    return open_checkpoint(str(demo.folder()))


def _routers(candidate: Candidate) -> None:
    given = ask(candidate, dict(SHAPES))
    if not isinstance(given, dict):
        raise Wrong(f"A dictionary is asked for, layer to number of experts, and yours is a {type(given).__name__}.")
    if 0 in given or "0" in given:
        raise Wrong("You found a router in layer 0, which has none. `gate_proj` is the gate of a gated linear unit, "
                    "inside a feed-forward layer or an expert: it chooses nobody.")  # fmt: skip
    if any(not isinstance(layer, int) for layer in given):
        raise Wrong("Layers are numbers, and yours are of another kind: make an int of the digits in the name.")
    if set(given) == {2, 1} or set(given) == {2, 0}:
        raise Wrong("Layer 10 lost a digit: a layer's number is all that stands between two dots.")
    if set(given.values()) == {64}:
        raise Wrong(
            "64 is the width of a token in this model. A router has a row for each expert: which number counts the "
            "rows?"
        )
    if given.get(2) == 1:
        raise Wrong(
            "`shared_expert_gate` has one row: it says how loud the shared expert is, and does not choose among "
            "experts."
        )
    if given.get(2) == 32 or given.get(10) == 32:
        raise Wrong(
            "You counted the rows of an expert's own `gate_proj`, its hidden channels. The router stands beside the "
            "experts."
        )
    if {layer: int(n) for layer, n in given.items()} != {2: 8, 10: 12}:
        raise Wrong(
            "Two layers are routed here, 2 and 10: the names of their routers end alike, and nothing else ends so."
        )


def _demo_routers(candidate: Candidate) -> None:
    model = _model()
    shapes = {name: tuple(model.weights.shape(name)) for name in model.weights.tensors}
    if ask(candidate, shapes) != {block.layer: block.experts for block in model.blocks}:
        raise Wrong("Right for a small list of names, and wrong for the demo checkpoint: print what you found in it.")


def _rule(candidate: Candidate) -> None:
    router, k = _model().router(1).float(), 2
    logits = numbers(0, 7, router.shape[1]) @ router.T
    probs, best = logits.softmax(-1), logits.topk(k)
    for flag in (False, True):
        weights, index = pair(ask(candidate, logits, k, flag), (7, k))
        mine, raw, shared = spread(weights, index, 16), probs.gather(1, best.indices), best.values.softmax(-1)
        wrong = [
            (best.values, "Your weights are bare scores: some rule turns them into shares first."),
            (torch.full_like(raw, 1 / k), "All chosen experts weigh the same, whatever their scores."),
            (shared / k, "You divided by k. Neither rule does that."),
        ]
        if flag:
            wrong.append(
                (
                    raw,
                    "With norm_topk_prob the weights of a token sum to one, and yours do not: the setting is not used.",
                )
            )
        else:
            wrong.append((shared, "Without norm_topk_prob nothing is divided again: what the others would have got is "
                          "simply missing, so that an unsure router speaks softly."))  # fmt: skip
        rule_out(mine, *((spread(value, best.indices, 16), hint) for value, hint in wrong))
        if not same(mine, spread(shared if flag else raw, best.indices, 16)):
            raise Wrong("Softmax over all experts first, then the k largest; the setting decides only whether they are "
                        "divided by their sum.")  # fmt: skip


def _kept(candidate: Candidate) -> None:
    early = torch.tensor([[0, 1], [2, 3], [4, 5], [1, 0], [6, 7], [3, 6]])
    late = torch.tensor([[0, 1], [3, 2], [4, 7], [2, 1], [0, 1], [5, 3]])
    given = one_number(ask(candidate, early, late))
    hits = (early[:, :, None] == late[:, None]).any(-1).sum(-1).double()
    rule_out(
        given,
        ((early == late).double().mean(), "You compare slot by slot. The order in which a token's experts are listed "
         "means nothing here: 2, 3 and 3, 2 are the same two."),
        ((hits == 2).double().mean(), "You count only tokens that kept all their experts. One that kept one of two has "
         "kept half."),
        ((hits > 0).double().mean(), "You count a token as kept if it has any old expert left. One that kept one of "
         "two has kept half."),
        (1 - hits.mean() / 2, "That is what changed. Asked is what was kept."),
        (hits.mean(), "That is how many experts a token kept, on the average. Asked is which share of its experts."),
        ((hits / (4 - hits)).mean(), "You divide by all experts that occur in either. Divide by how many experts a "
         "token has."),
    )  # fmt: skip
    if not same(given, metrics.saturation(early, late)):
        raise Wrong(
            "For each token, count the experts that stand in both of its rows, and divide by k; then the mean over "
            "tokens."
        )


EXERCISES = (
    Exercise(
        "8.1", "routers", "Find the routers",
        "Write `routers(shapes)`. `shapes` is a dictionary: the name of each tensor of a checkpoint, and its shape. In "
        "this family of models a router is called `model.layers.L.mlp.gate.weight` and has a row for each expert. "
        "Other names hold the word gate, too. Return a dictionary from the layer's number to its number of experts.",
        "def routers(shapes):\n    found = {}\n    for name, shape in shapes.items():\n        ...\n    return found\n",
        (_routers, _demo_routers),
    ),
    Exercise(
        "8.2", "weigh", "One setting, two rules",
        "Write `weigh(logits, k, norm_topk_prob)`. `logits` is `(N, E)`. Take the softmax over all experts and the `k` "
        "largest shares. If `norm_topk_prob` is True, divide them by their sum; if False, leave them. Return `weights, "
        "index`, both `(N, k)`. The scores come from a router of the demo checkpoint.",
        "def weigh(logits, k, norm_topk_prob):\n    weights, index = ...\n    return weights, index\n",
        (_rule,),
    ),
    Exercise(
        "8.3", "kept", "What changed since the early checkpoint?",
        "Write `kept(early, late)`. Both are `(N, K)`: the experts of the same tokens in an early and a late "
        "checkpoint, in any order. Return one number: the share of its experts that a token kept, in the mean over "
        "the tokens.",
        "def kept(early, late):\n    return ...\n",
        (_kept,),
    ),
)  # fmt: skip
