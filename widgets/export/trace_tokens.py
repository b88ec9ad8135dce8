"""The tokens on a trace's page: those that single experts take, a text coloured by expert, and the way of one token."""

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import numpy as np

from widgets import figures
from widgets.export.standalone import Part, Prose, RawHtml
from widgets.export.trace_words import table
from widgets.figures.layers import layer_labels, told
from widgets.figures.text import clean, visible
from widgets.views.chart import Chart
from widgets.views.token_strip import TokenStrip

if TYPE_CHECKING:
    from explorer.recording import Recording

MOST_EXPERTS = 12  # with their tokens in a table
MOST_TOKENS = 160  # of the strip
MOST_LAYERS = 5  # of the strip
MOST_COLOURS = 40  # that a legend explains


def vocabulary(rec: "Recording", layer: str) -> Iterator[Part]:
    """A table: the tokens that the most specialised experts of a layer take."""
    from explorer.analyses import domains

    found = domains.vocabulary(rec, layer)
    if found.empty:
        return
    weight = (found["count"] * np.log(found["lift"])).groupby(found["expert"]).sum()
    best = weight.sort_values(ascending=False, kind="stable").index[:MOST_EXPERTS]
    rows = []
    for expert in best:
        own = found[found["expert"] == expert]
        words = [
            f"{_piece(text, token)} {share:.0%} of {round(n / share):,}"
            for text, token, n, share in zip(own["text"], own["token"], own["count"], own["share"], strict=True)
        ]
        rows.append({"expert": int(expert), "tokens": ",  ".join(words)})
    yield Prose(
        f"Of {clean(layer)}: the tokens that an expert takes far beyond its load, the surest first. “·the 80% of 25” means: of "
        "25 choices for this token, the expert got 80 %. Blanks and line ends are drawn as · and ⏎; a number after # is the "
        "token's id."
    )
    yield RawHtml(table({"expert": "expert", "tokens": "its tokens"}, rows, "Tokens of the most specialised experts"))


def _piece(text: str, token: int) -> str:
    return visible(text) if text else f"#{token}"


def strip(rec: "Recording") -> Iterator[Part]:
    """The first text under a few layers, and the path of one of its tokens through all of them."""
    from explorer.analyses import routes

    layers = [layer for layer in rec.layers() if _fits(rec, layer)]
    if not layers:
        return
    tokens = rec.last("/tokens")[0]
    real = _real(rec)[:MOST_TOKENS]
    if not len(real):
        return
    some = [layers[i] for i in sorted({round(i) for i in np.linspace(0, len(layers) - 1, MOST_LAYERS)})]
    index, weights = (np.stack(side) for side in zip(*(_choices(rec, layer, real) for layer in some), strict=True))
    pieces = (rec.header.get("trace") or {}).get("vocabulary") or {}
    texts = [str(pieces.get(str(token)) or f"#{token}") for token in tokens[real].tolist()]
    view = TokenStrip(label="Tokens coloured by expert")
    many = int(index.max()) >= MOST_COLOURS
    view.show([texts], index, weights, names=_short(some), sequence_names=_domain(rec), n_experts=0 if many else None)
    view.layer, view.numbers = (0 if len(some) > 1 else -1), True
    yield Prose(
        "The first window: the number and the colour of a token say which expert it chose first; choose another layer above "
        "it, or point at a token to see all its experts. Does a layer sort by the token itself, or by what is being said?"
    )
    yield view
    at = len(real) // 2
    position = int(real[at]) if "/position" not in rec.header["axes"] else int(rec.last("/position")[0, real[at]])
    path = routes.path(rec, 0, position)
    yield Prose("The way of one of these tokens, from the middle of the window, through all layers.")
    yield Chart(_path(rec, path, texts[at]), label="Path of one token")


def _fits(rec: "Recording", layer: str) -> bool:
    name, axes = f"{layer}/index", rec.header["axes"]
    if name not in axes or "/tokens" not in axes or not rec.steps():
        return False
    index, tokens = rec.last(name), rec.last("/tokens")
    return index.ndim == 3 and tokens.ndim == 2 and index.shape[:2] == tokens.shape


def _real(rec: "Recording") -> np.ndarray:
    """The columns of the first sequence that are no padding."""
    if "/valid" not in rec.header["axes"]:
        return np.arange(rec.last("/tokens").shape[1])
    return np.flatnonzero(rec.last("/valid")[0].numpy())


def _choices(rec: "Recording", layer: str, real: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(1, T, K) experts and weights of the first sequence, the strongest slot first."""
    index = rec.last(f"{layer}/index")[:1, real].numpy()
    known = f"{layer}/weights" in rec.header["axes"]
    weights = rec.last(f"{layer}/weights")[:1, real].float().numpy() if known else np.zeros(index.shape, np.float32)
    order = np.argsort(-np.where(index >= 0, np.nan_to_num(weights), -np.inf), axis=-1, kind="stable")
    return np.take_along_axis(index, order, -1), np.take_along_axis(weights, order, -1)


def _domain(rec: "Recording") -> list[str]:
    traced = rec.header.get("trace") or {}
    names, of = traced.get("domains") or [], traced.get("domain") or []
    return [str(names[of[0]])] if of and isinstance(of[0], int) and 0 <= of[0] < len(names) else []


def _short(layers: list[str]) -> list[str]:
    labels, word = layer_labels(layers)
    return [told(label, word) for label in labels]


def _path(rec: "Recording", path: Any, token: str) -> Any:
    layers = list(dict.fromkeys(path["layer"]))
    slots = int(path["slot"].max()) + 1 if len(path) else 0
    index = np.full((len(layers), slots), -1)
    weights = np.zeros((len(layers), slots), np.float32)
    for layer, slot, expert, weight in path.itertuples(index=False):
        index[layers.index(layer), slot], weights[layers.index(layer), slot] = expert, weight
    most = max(int(rec.counts(layer)[1].shape[1]) for layer in layers) if layers else 0
    return figures.token_path.as_dict(index, weights, _short(layers), most, token)
