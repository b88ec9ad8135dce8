"""A trained model seen through its files alone: what routes in it, by which rule, and what its routers look like."""

import re
from collections.abc import Sequence
from functools import cached_property
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor

from explorer import metrics
from explorer.checkpoints.files import CheckpointError, each
from explorer.checkpoints.layouts import Block, Gate, attention_parts, blocks
from explorer.checkpoints.rules import Settings
from explorer.checkpoints.sampling import Similarity, count, similarity
from explorer.checkpoints.weights import Weights, open_weights

if TYPE_CHECKING:
    import pandas as pd

    from explorer.checkpoints.trace import Stop, Tell
    from explorer.recording import Recording

ROUTERS = (
    "layer", "path", "experts", "width", "norm_mean", "norm_min", "norm_max", "not_finite", "bias", "shared", "shared_gate",
    "experts_are", "stored_as", "tensor",
)  # fmt: skip
SOFTPLUS = ("laguna",)  # gates that are no sigmoid


class Read(NamedTuple):
    """Norms (E,) of a router's rows, float64, and how many of its numbers are NaN or infinite."""

    norm: Tensor
    not_finite: int


class Checkpoint:
    """What the files of a model say about how it routes. Nothing of it is loaded but what a property shows.

    `layers` are the paths of the routed blocks, as the files name them; a layer's number does where only one block has it.
    Code that a checkpoint brings along is never run by reading its weights; `trust_remote_code` is kept for who loads it.
    """

    def __init__(self, weights: Weights, name: str, trust_remote_code: bool = False) -> None:
        self.weights, self.name, self.trust_remote_code = weights, name, trust_remote_code
        self.settings = Settings(weights.config)
        rule = self.settings.rule
        self.blocks: list[Block] = blocks(weights, self.settings.experts, rule is not None and rule.bias)
        self._sinks, self._moving, self._gates = attention_parts(weights)
        if not (self.blocks or self._sinks or self._moving or self._gates):
            raise CheckpointError(
                f"nothing in {name!r} routes: none of its {len(weights.tensors):,} tensors is a router, a learned sink or an "
                "output gate of attention that is recognised"
            )
        self._hinted = False
        self._check()

    def _check(self) -> None:
        for block in self.blocks:
            self.settings.doubt(block.experts)
        chosen = self.settings.chosen
        for block in self.blocks:
            if chosen is not None and chosen > block.experts:
                raise CheckpointError(
                    f"config.json of {self.name!r} wants {chosen} experts for each token, but the router of {block.path} has "
                    f"{block.experts}"
                )

    def __repr__(self) -> str:
        return f"<Checkpoint {self.name!r}: {self.architecture}, {len(self.layers)} routed layers, {self.rule}>"

    @property
    def architecture(self) -> str:
        """The class of the model as its configuration names it; "unknown" without one."""
        return self.settings.architecture

    @property
    def layers(self) -> list[str]:
        """Paths of the routed blocks."""
        return [block.path for block in self.blocks]

    @property
    def experts(self) -> int | None:
        """Experts of a block, the largest number where blocks differ; None: nothing is routed."""
        return max((block.experts for block in self.blocks), default=None)

    @property
    def chosen(self) -> int | None:
        """Experts that a token gets; None: the configuration does not say."""
        return self.settings.chosen

    @property
    def rule(self) -> str:
        """How scores become weights, in words."""
        if not self.blocks:
            return "nothing is routed to experts"
        biased = any(block.bias is not None and block.bias[1] == "selection" for block in self.blocks)
        return self.settings.sentence(biased, self.experts)

    def block(self, layer: int | str) -> Block:
        """The routed block at a path, or of a layer's number."""
        found = [one for one in self.blocks if layer in (one.path, one.layer) and not isinstance(layer, bool)]
        if len(found) == 1:
            return found[0]
        shown = ", ".join(repr(one.path) for one in (found or self.blocks)[:6])
        if found:
            raise CheckpointError(f"layer {layer} of {self.name!r} has {len(found)} routers: give one of {shown}")
        raise CheckpointError(f"no routed layer {layer!r} in {self.name!r}; there are {shown or 'none'}")

    def router(self, layer: int | str) -> Tensor:
        """The router's rows (E, D), or what stands in for them; float32 (float64 where it is stored so)."""
        block = self.block(layer)
        self._hint()
        return self.weights.numbers(block.router)

    def _hint(self) -> None:
        """Who looks at one router will look at the others."""
        if not self._hinted:
            self._hinted = True
            self.weights.soon([block.router for block in self.blocks])

    def cosine(self, layer: int | str) -> Tensor:
        """Cosine of every two rows of a router, float64 (E, E): see metrics.cosine."""
        rows = self.weights.shape(self.block(layer).router)[0]
        self.weights.need(rows * rows * 16, f"the cosines of {rows:,} experts")
        return metrics.cosine(self.router(layer))

    def similarity(self, layer: int | str, rows: int = 16, seed: int = 0) -> Similarity:
        """How alike the experts' own matrices are, from `rows` rows of each kind, the same rows of every expert."""
        return similarity(self.weights, self.block(layer), rows, seed)

    @cached_property
    def _read(self) -> list[Read]:
        self._hint()
        return each(self._norms, self.blocks, self.weights.source)

    def _norms(self, block: Block) -> Read:
        rows = self.weights.numbers(block.router)
        return Read(torch.linalg.vector_norm(rows, dim=-1, dtype=torch.float64), int((~rows.isfinite()).sum()))

    def norms(self, layer: int | str) -> Tensor:
        """Length of each row of a router, float64 (E,)."""
        return self._read[self.blocks.index(self.block(layer))].norm

    @cached_property
    def routers(self) -> "pd.DataFrame":
        """A row for each router: where it is, its size, the length of its rows, and what stands beside it."""
        import pandas as pd

        rows = [self._row(block, read) for block, read in zip(self.blocks, self._read, strict=True)]
        return pd.DataFrame(rows, columns=list(ROUTERS)).astype({"layer": "Int64"})

    def _row(self, block: Block, read: Read) -> tuple[object, ...]:
        norm = read.norm
        kept = "not found"
        if block.matrices:
            single = len(block.matrices[0].names) > 1
            kept = "one by one" if single else "together, MXFP4" if block.matrices[0].packed else "together"
        return (
            block.layer, block.path, block.experts, block.width, float(norm.mean()), float(norm.min()), float(norm.max()),
            read.not_finite, block.bias[1] if block.bias else "", ", ".join(block.shared), block.shared_gate is not None,
            kept, self.weights.tensors[block.router].dtype, block.router,
        )  # fmt: skip

    @cached_property
    def biases(self) -> "pd.DataFrame":
        """layer, path, expert, bias, kind: "selection" (only the choice sees it) or "scores" (part of the scores)."""
        having = [block for block in self.blocks if block.bias]
        values = self.weights.many([block.bias[0] for block in having if block.bias])
        about = [(block.layer, block.path, block.bias[1] if block.bias else "") for block in having]
        return _long(about, values, ("layer", "path", "kind"), "expert", "bias")

    @cached_property
    def shared_gates(self) -> "pd.DataFrame":
        """layer, path, norm: the vector whose product with a token, through a sigmoid, weighs the shared expert."""
        import pandas as pd

        having = [block for block in self.blocks if block.shared_gate]
        values = self.weights.many([block.shared_gate for block in having if block.shared_gate])
        rows = [(one.layer, one.path, float(v.double().norm())) for one, v in zip(having, values, strict=True)]
        return pd.DataFrame(rows, columns=["layer", "path", "norm"]).astype({"layer": "Int64"})

    @cached_property
    def sinks(self) -> "pd.DataFrame":
        """layer, path, head, logit: what each head adds to its softmax for looking at nothing. Learned, not emergent."""
        values = self.weights.many([one.tensor for one in self._sinks])
        return _long([(one.layer, one.path) for one in self._sinks], values, ("layer", "path"), "head", "logit")

    @cached_property
    def output_gates(self) -> "pd.DataFrame":
        """layer, path, where, numbers (for a token), function: what multiplies the output of attention."""
        import pandas as pd

        rows = [(one.layer, one.path, one.where, one.numbers, self._function(one)) for one in self._gates]
        columns = ["layer", "path", "where", "numbers", "function"]
        return pd.DataFrame(rows, columns=columns).astype({"layer": "Int64"})

    def _function(self, gate: Gate) -> str:
        if self.settings.model_type in SOFTPLUS:
            return "softplus"
        known = self.settings.rule is not None or gate.where.startswith("second half")
        return "sigmoid" if known else "not known"

    def trace(
        self,
        texts: str | Sequence[str | bytes] | None = None,
        tokens: Sequence[Sequence[int]] | None = None,
        domains: str | Sequence[str] | None = None,
        *,
        window: int | None = None,
        attention: bool = False,
        scores: bool | None = None,
        method: str = "auto",
        progress: "Tell | None" = None,
        stop: "Stop | None" = None,
        memory: int | None = None,
    ) -> "Recording":
        """Send texts, or lists of token ids, through the model and record what every router decides: a step of a Recording.

        domains: a name for each of them. window: tokens of a piece that begins anew, at most 512 or as many as the model
        has places for; a piece is a sequence of the recording. attention: also where attention goes. scores: keep those of
        every expert; None: while they take at most 128 MiB. memory: bytes that the recording may take (the checkpoint's).

        method: "stream" reads the files layer by layer, and of the experts only those that tokens choose, so that memory
        stays small however large the model; "transformers" loads all of it; "auto" streams where the architecture is
        known. `header["trace"]` says which it was, and why. progress is told how far it is; stop is asked now and then,
        and True ends the trace with the layers (with transformers: the windows) that are done.
        """
        from explorer.checkpoints.trace import trace

        return trace(
            self, texts, tokens, domains, window=window, attention=attention, scores=scores, method=method,
            progress=progress, stop=stop, memory=memory,
        )  # fmt: skip

    @property
    def unknown(self) -> list[str]:
        """What the files leave open, a sentence each; nothing is read for it."""
        return list(_unknown(self))

    @property
    def damaged(self) -> list[str]:
        """Routers that hold NaN or infinite numbers, a sentence each; reads every router."""
        sizes = [block.width * self.weights.shape(block.router)[0] for block in self.blocks]
        return [
            f"{block.path}: {read.not_finite:,} of the {size:,} numbers of its router are NaN or infinite"
            for block, read, size in zip(self.blocks, self._read, sizes, strict=True)
            if read.not_finite
        ]


def _long(
    about: Sequence[tuple[object, ...]], values: list[Tensor], names: tuple[str, ...], each_name: str, value_name: str
) -> "pd.DataFrame":
    """A row for each number of each tensor, behind what is said `about` it."""
    import pandas as pd

    rows = [(*one, i, x) for one, v in zip(about, values, strict=True) for i, x in enumerate(v.flatten().tolist())]
    return pd.DataFrame(rows, columns=[*names, each_name, value_name]).astype({"layer": "Int64"})


def _unknown(seen: Checkpoint) -> list[str]:
    """What the configuration leaves open, and then what the tensors do."""
    settings, told = seen.settings, []
    if seen.weights.config is None:
        told.append(
            "There is no config.json: the model's name, how many experts a token gets and the rule are not known."
        )
    elif seen.blocks:
        told += _unsaid(settings)
    if settings.code:
        told.append("config.json names code of its own (auto_map), which is not run; what it changes cannot be told.")
    rows = sorted({block.experts for block in seen.blocks})
    if settings.experts is not None and rows and rows != [settings.experts]:
        more = " and ".join(map(str, rows))
        told.append(
            f"config.json says {settings.experts} experts, the routers have {more} rows: some may stand for no expert."
        )
    return told + _miscounted(seen) + _peculiar(seen)


def _unsaid(settings: Settings) -> list[str]:
    told = []
    if settings.rule is None:
        kind = settings.model_type or "a model that does not say what it is"
        told.append(f"The routing rule of {kind[:60]!r} is not known; routers were recognised by their names.")
    if settings.chosen is None:
        told.append("config.json does not say how many experts a token gets.")
    if settings.assumed:
        said = ", ".join(f"{name} = {value}" for name, value in settings.assumed.items())
        told.append(f"config.json leaves out what transformers has a default for in {settings.model_type}: {said}.")
    return told


def _peculiar(seen: Checkpoint) -> list[str]:
    """Routers and sinks that are not the usual ones, so that the numbers shown mean something else."""
    told = []
    bare = [block.path for block in seen.blocks if not block.matrices]
    if bare:
        told.append(f"The experts of {len(bare)} routed layers ({bare[0]}) are kept in a way that is not read here.")
    hashed = sum(f"{block.path}.gate.tid2eid" in seen.weights for block in seen.blocks)
    if hashed:
        told.append(f"{hashed} layers look the experts of a token up in a table: their routers only weigh them.")
    if seen._moving:
        told.append(
            f"The sinks of {len(seen._moving)} layers are computed of every query: no number in the files says how large."
        )
    if any(re.search(r"\.router_mlp\.", block.router) for block in seen.blocks):
        told.append("Its router is a small network; the rows shown are those of its last layer.")
    if any(block.router.endswith("router_gate.weight") for block in seen.blocks):
        told.append("A row of its router stands for one half of an expert's name, not for an expert.")
    return told


def _miscounted(seen: Checkpoint) -> list[str]:
    """Blocks whose router has another number of rows than there are experts."""
    told = []
    for block in seen.blocks:
        counts = sorted({count(seen.weights, one) for one in block.matrices})
        if len(counts) > 1 or (counts and seen.settings.experts is None and counts != [block.experts]):
            of = " or ".join(map(str, counts))
            told.append(f"The router of {block.path} has {block.experts} rows, the matrices are those of {of} experts.")
    return told if len(told) < 5 else [*told[:4], f"So it is in {len(told) - 4} more layers."]


def open_checkpoint(
    path_or_hub_id: object, *, trust_remote_code: bool = False, memory: int | None = None
) -> Checkpoint:
    """Open a trained model by a folder, a .safetensors file, a hub id ("owner/name", "owner/name@revision") or an address.

    Only headers and config.json are read, then the tensors that are looked at; no code of the checkpoint is run, and no
    pickle is opened. memory: bytes that one look may take at most (1 GiB). Raises CheckpointError, one sentence.
    """
    given = str(path_or_hub_id)
    if memory is not None and (type(memory) is not int or memory < 1):
        raise CheckpointError(f"memory = {memory!r} should be a whole number of bytes from 1")
    return Checkpoint(open_weights(given, memory), given, trust_remote_code)
