"""Each router with the experts it feeds, forward and backward: beside topk-softmax, and beside Mixtral's layer."""

import copy
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

import explorer
from explorer.models import Experts, MixtureOfExperts
from tests.benchmarks.peers import WIDTH, D, K, T, V, mixtral_layer
from tests.benchmarks.rounds import Row, cost, measure

SIZES = (8, 64)  # experts
N = 2048  # tokens
GOAL = "<= 1.10"
# The router as training leaves it: the temperature has fallen.
SETTLED: dict[str, dict[str, Any]] = {"dense-to-sparse": {"start": 0.1}, "activation-dense-to-sparse": {"start": 0.03}}
# What the mathematics of a router asks for beyond one score an expert, a softmax and the k best.
NEEDS = {
    "noisy-topk": "a second matrix, and of every score a normal draw and the normal distribution's function",
    "switch": "a random factor on every entry of x, and each token's place in the queue of its expert",
    "sinkhorn": "all scores normalised 16 times over the tokens and over the experts",
    "sigma-moe": "a random number for every score, and a softmax of all for the loss beside the sigmoid",
    "dense-to-sparse": "all experts of a token ranked, and as many computed as have weight",
    "activation-dense-to-sparse": "all experts of a token ranked, and as many computed as have weight",
    "recurrent-router": "a GRU of 32 cells on every token, six matrices before the scores",
    "kmeans-gating": "k-means and a least-squares fit of all tokens, every fifth step",
}


@dataclass(frozen=True)
class RouterRow(Row):
    """A row that is held to topk-softmax, or says what its router `needs` more."""

    needs: str = ""

    @property
    def verdict(self) -> str:
        """reached, SHORT, or what the router needs."""
        return f"needs {self.needs}" if super().verdict == "SHORT" and self.needs else super().verdict


def names() -> list[str]:
    """The routers of the catalogue."""
    return [name for name in explorer.names() if explorer.spec(name).slot == "router"]


def rows(quick: bool) -> Iterator[Row]:
    """Three rows, or four, for each router and number of experts."""
    for E in SIZES:
        for name in names():
            yield from one(name, E, quick)


def one(name: str, E: int, quick: bool) -> Iterator[Row]:
    """Beside topk-softmax, beside the peer, and recorded beside not; a router of one expert a token beside its like, too."""
    tokens, ours = T if quick else N, layer(name, E)
    candidates = {
        "ours": step(ours, tokens),
        "plain": step(layer("topk-softmax", E), tokens),
        "peer": step(mixtral_layer(E), tokens),
    }
    if ours.router.slots == 1.0:
        candidates["single"] = step(layer("topk-softmax", E, k=1), tokens)
    twin = copy.deepcopy(ours)
    with explorer.record(twin, tensors_every=10, keep=1) as seen:  # as an Experiment does
        seconds = measure(candidates | {"recorded": step(twin, tokens)}, 2 if quick else 9, 1 if quick else 5)
    load_SE = seen.counts(seen.layers()[0])[1]
    what = f"{name}, E = {E}, {load_SE[-1].sum() / tokens:.2g} experts a token"
    yield held(cost(what, seconds["ours"], seconds["plain"], GOAL), name)
    if "single" in seconds:
        yield held(cost("... beside topk-softmax, k = 1", seconds["ours"], seconds["single"], GOAL), name)
    yield cost("... beside Mixtral's layer, k = 2", seconds["ours"], seconds["peer"])
    yield cost("... recorded beside not", seconds["recorded"], seconds["ours"])


def held(row: Row, name: str) -> RouterRow:
    """The row, with what the router needs more."""
    return RouterRow(**vars(row), needs=NEEDS.get(name, ""))


def layer(name: str, E: int, k: int = K) -> MixtureOfExperts:
    """The router, of k experts a token where it has that knob, with SwiGLU experts."""
    torch.manual_seed(0)
    knobs = {"n_experts": E, **({"k": k} if "k" in explorer.spec(name).knobs else {}), **SETTLED.get(name, {})}
    router = explorer.build(name, d_model=D, **knobs)
    if name == "relu-routing":  # as its penalty leaves it: the scores are positive for k experts of E
        with torch.no_grad():
            router.score.weight[:, 0] = torch.special.ndtri(torch.tensor(k / E))
    return MixtureOfExperts(router, Experts(D, E, WIDTH))


def step(module: nn.Module, tokens: int) -> Callable[[], None]:
    """Output, the router's own loss, and the gradients of both, with respect to the parameters and the input."""
    random = torch.Generator().manual_seed(1)
    x_BTD, given_BTD = (torch.randn(tokens // T, T, D, generator=random) for _ in range(2))
    x_BTD[..., 0] = 1  # for the shift of the ReLU router's scores
    x_BTD.requires_grad_()
    ids = [torch.randint(V, x_BTD.shape[:2], generator=random)] if isinstance(module, MixtureOfExperts) else []

    def run() -> None:
        outputs: list[Tensor] = [module(x_BTD, *ids)]
        auxiliary = getattr(getattr(module, "router", None), "auxiliary", None)
        if auxiliary is not None:
            outputs.append(auxiliary)
        torch.autograd.backward(outputs, [given_BTD, None][: len(outputs)])
        module.zero_grad()
        x_BTD.grad = None

    return run
