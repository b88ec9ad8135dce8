"""What the experts have specialised in: the domains of the texts, and the tokens themselves, beside what chance shows.

Domains are those that a trace was given with its texts; of an experiment, the labels of its data.
"""

import math
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from explorer import metrics
from explorer.analyses.company import evidence
from explorer.analyses.held import Tokens, experts
from explorer.errors import BadValue, RecordingError
from explorer.recording import Recording

if TYPE_CHECKING:
    import pandas as pd

RUN = 32  # tokens that stay together when labels are shuffled within texts
DRAWS = 20  # random orders that a floor is the mean of; a fifth of them for many tokens, where they differ little
MANY = 5000
LEAST = 2  # times that a token must have gone to an expert to be listed


def names(rec: Recording) -> list[str]:
    """The domains in the order of their ids: of a trace, or the labels of an experiment; [] where there are none."""
    trace = rec.header.get("trace")
    if trace is not None:
        return [str(name) for name in trace.get("domains") or []]
    labels = _labels(Tokens(rec))
    if labels is None:
        return []
    known = [str(name) for name in rec.header.get("labels") or []]
    return known + [f"label {i}" for i in range(len(known), 1 + int(labels.max() if labels.numel() else -1))]


def of_tokens(rec: Recording) -> Tensor:
    """(B, T) int64: the domain of every token, -1 for padding and where there is none."""
    return _of_tokens(Tokens(rec))


def _of_tokens(tokens: Tokens) -> Tensor:
    if tokens.layers and not tokens.steps:
        raise tokens.missing("this recording")
    trace, (B, T) = tokens.rec.header.get("trace"), tokens.grid.shape
    nowhere = torch.full((B, T), -1, dtype=torch.int64)
    if trace is None:
        labels = _labels(tokens)
        return nowhere if labels is None else labels.long().clamp(min=-1).masked_fill(~tokens.valid, -1)
    of_sequence, C = trace.get("domain") or [], len(trace.get("domains") or [])
    if not of_sequence or not C:
        return nowhere
    if len(of_sequence) != B:
        raise RecordingError(f"the trace names the domains of {len(of_sequence)} sequences, but holds {B}")
    domain = torch.tensor([-1 if one is None else int(one) for one in of_sequence])
    if int(domain.max()) >= C:
        raise RecordingError(f"the trace has {C} domains, but a sequence of domain {int(domain.max())}")
    return domain.clamp(min=-1)[:, None].expand(B, T).masked_fill(~tokens.valid, -1)


def _labels(tokens: Tokens) -> Tensor | None:
    """(B, T) of an experiment: "/labels" of each token, or of each sequence."""
    parts = {}
    for step, tensors in tokens.steps.items():
        labels, place = tensors.get("/labels"), tokens.grid.places[step]
        if labels is None or labels.is_floating_point():
            continue
        if labels.numel() == place.b * place.t:
            parts[step] = labels.reshape(place.b, place.t)
        elif labels.shape == (place.b,):
            parts[step] = labels[:, None].expand(place.b, place.t)
    return tokens.grid.join(parts, -1) if parts else None


def loads(rec: Recording, layer: str) -> Tensor:
    """(E, C) float64: share of each domain's assignments that goes to the expert; columns sum to 1, NaN for none.

    1/E: chance; 0: the expert never sees the domain. C may be 0. See metrics.label_share.
    """
    tokens = Tokens(rec)
    index, labels, C = tokens.on_grid(layer, "the load of domains"), _of_tokens(tokens), len(names(rec))
    if not C:
        return torch.zeros(experts(rec, layer), 0, dtype=torch.float64)
    return metrics.label_share(index, labels, experts(rec, layer), C).T.double()


def specialisation(rec: Recording) -> "pd.DataFrame":
    """layer, domain_nmi, domain_floor, vocabulary_nmi, vocabulary_floor: one row a layer, all from 0 to 1.

    Of a token's strongest expert e: I(e; domain) / H(domain), 1 if the domain can be told from the expert, and
    I(e; token id) / H(e), 1 if the token id alone decides. The floors are what chance shows, from as many tokens: the same
    numbers with domains dealt out to other sequences, token ids to other tokens. Where a domain has a single sequence,
    which would leave it as it is, domains are dealt out to runs of 32 tokens instead (`attrs["domain_floor"]` says so).
    NaN where there are fewer than two domains, or no token ids.
    """
    import pandas as pd

    tokens = Tokens(rec)
    if tokens.layers and not tokens.steps:
        raise tokens.missing("this recording")
    C, columns = len(names(rec)), ["layer", "domain_nmi", "domain_floor", "vocabulary_nmi", "vocabulary_floor"]
    labels, ids = _of_tokens(tokens), _ids(tokens)
    whole = _by_sequence(labels)
    rows = []
    for layer in tokens.layers:
        top1, E = tokens.strongest(layer), experts(rec, layer)
        if top1.shape != tokens.grid.shape:  # tokens of its own, without domains and ids
            rows.append((layer, *[math.nan] * 4))
            continue
        rows.append((layer, *_domain(top1, labels, E, C, whole), *_vocabulary(top1, ids, E)))
    table = pd.DataFrame(rows, columns=columns)
    table.attrs["domain_floor"] = "sequences" if whole else f"runs of {RUN} tokens"
    return table


def _by_sequence(labels: Tensor) -> bool:
    """Whether every domain has two sequences at least, so that dealing them out anew says something."""
    of_row = [set(row.unique().tolist()) - {-1} for row in labels]
    return all(sum(one in row for row in of_row) > 1 for one in set().union(*of_row))


def _domain(top1: Tensor, labels: Tensor, E: int, C: int, whole: bool) -> tuple[float, float]:
    """(nmi, floor) of a layer."""
    both = (top1 >= 0) & (labels >= 0)
    if C < 2 or not bool(both.any()) or bool((labels[both] == labels[both][0]).all()):
        return math.nan, math.nan
    found = metrics.nmi(top1, labels, n_experts=E, n_labels=C)
    if whole:
        top1, labels = top1.masked_fill(~both, -1), _filled(labels)
    else:
        top1, labels = _runs(top1[both]), _runs(labels[both])
    return float(found), float(metrics.nmi_floor(top1, labels, n_experts=E, n_labels=C, draws=_draws(top1)))


def _draws(tokens: Tensor | np.ndarray) -> int:
    return DRAWS if math.prod(tokens.shape) < MANY else DRAWS // 5


def _filled(labels: Tensor) -> Tensor:
    """Where a sequence has one domain, its padding is given it too: dealt out to a longer one, it must cover that."""
    top = labels.amax(1, keepdim=True)
    one = ((labels == top) | (labels < 0)).all(1, keepdim=True)
    return torch.where(one, top, labels)


def _runs(codes_N: Tensor) -> Tensor:
    """(R, RUN), shorter runs where there are few tokens; the last is filled up with -1."""
    length = min(RUN, max(1, len(codes_N) // 16))
    short = -len(codes_N) % length
    return torch.nn.functional.pad(codes_N, (0, short), value=-1).view(-1, length)


def _ids(tokens: Tokens) -> Tensor | None:
    """(B, T) token ids, -1 for padding, numbered by what occurs; None where there are none."""
    found = tokens.tap("/tokens", -1)
    if found is None:
        return None
    found = found.masked_fill(~tokens.valid, -1)
    values, numbers = torch.unique(found.clamp(min=-1), return_inverse=True)
    return numbers - int(bool(len(values)) and int(values[0]) < 0)


def _vocabulary(top1: Tensor, ids: Tensor | None, E: int) -> tuple[float, float]:
    """(specialisation, floor) of a layer: metrics.vocabulary_specialisation, without a table of all ids by experts."""
    if ids is None:
        return math.nan, math.nan
    both = (top1 >= 0) & (ids >= 0)
    chosen, ids_N = top1[both].numpy().astype(np.int64), ids[both].numpy()
    if not len(chosen):
        return math.nan, math.nan
    of_expert, of_id = _entropy(np.bincount(chosen, minlength=E)), _entropy(np.bincount(ids_N))

    def told(ids_N: np.ndarray) -> float:
        joint = _entropy(np.unique(ids_N * E + chosen, return_counts=True)[1])
        return min(1.0, max(0.0, of_expert + of_id - joint) / of_expert) if of_expert > 1e-12 else 0.0

    dice = np.random.default_rng(0)
    return told(ids_N), float(np.mean([told(dice.permutation(ids_N)) for _ in range(_draws(chosen))]))


def _entropy(counts: np.ndarray) -> float:
    """In nats."""
    some = counts[counts > 0].astype(np.float64)
    return float(np.log(some.sum()) - (some * np.log(some)).sum() / some.sum())


def vocabulary(rec: Recording, layer: str, most: int = 8) -> "pd.DataFrame":
    """expert, token, text, count, share, lift: the tokens that each expert of a layer takes beyond its fair share.

    At most `most` an expert, the surest first: those that chance (the expert's load) explains least; each went there twice
    at least. count: assignments of the token to the expert; share: of all the token's assignments; lift: share over the
    expert's load, above 1. text: "" where the vocabulary is not in the recording.
    """
    import pandas as pd

    if isinstance(most, bool) or not isinstance(most, int) or most < 0:
        raise BadValue(f"most={most!r}: it must be a whole number of at least 0")
    tokens = Tokens(rec)
    index, ids = tokens.on_grid(layer, "which of their tokens an expert takes"), tokens.tap("/tokens", -1)
    if ids is None:
        raise RecordingError(
            f"this recording holds no token ids, so that which of them the experts of {layer} take is unknown"
        )
    E, filled = experts(rec, layer), (index >= 0) & tokens.valid[..., None] & (ids >= 0)[..., None]
    values, numbers = torch.unique(ids, return_inverse=True)
    cells, counts = torch.unique((index * len(values) + numbers[..., None])[filled], return_counts=True)
    expert, token = cells // max(1, len(values)), cells % max(1, len(values))
    of_token = torch.bincount(token, counts, len(values))
    load = torch.bincount(expert, counts, E) / max(1, int(counts.sum()))
    share = counts / of_token[token]
    sure = evidence(counts, of_token[token] * load[expert])
    keep = (sure > 0) & (counts >= LEAST)
    order = np.lexsort((token[keep].numpy(), -sure[keep].numpy(), expert[keep].numpy()))
    pieces = (rec.header.get("trace") or {}).get("vocabulary") or {}
    found = {
        "expert": expert[keep].numpy(), "token": values[token[keep]].numpy(), "count": counts[keep].numpy(),
        "share": share[keep].double().numpy(), "lift": (share[keep] / load[expert[keep]]).double().numpy(),
    }  # fmt: skip
    table = pd.DataFrame({name: column[order] for name, column in found.items()})
    table = table[table.groupby("expert").cumcount() < most].reset_index(drop=True)
    table.insert(2, "text", [str(pieces.get(str(token), "")) for token in table["token"]])
    return table
