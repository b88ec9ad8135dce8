"""What the checkpoint lab's pictures are drawn from: a recording read once, and what of it is looked at."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache, cached_property
from typing import TYPE_CHECKING, Any

import numpy as np

from explorer.errors import ExplorerError

if TYPE_CHECKING:
    import pandas as pd

    from explorer.recording import Recording

Place = tuple[int, int]  # sequence (window) and position


@dataclass(frozen=True)
class Window:
    """One sequence of a recording, with so many tokens."""

    sequence: int
    length: int
    domain: str
    label: str


class Seen:
    """A recording as the page needs it; nothing is computed before it is looked at, and nothing twice."""

    def __init__(self, recording: "Recording", name: str) -> None:
        self.recording, self.name = recording, name
        recording.settle()
        self.layers: list[str] = recording.layers()
        if not self.layers:
            raise ExplorerError(f"{name} holds no routing: there is nothing to show of it")
        self.names = short_names(self.layers)
        self.trace: dict[str, Any] = recording.header.get("trace") or {}
        self.now = _newest(recording)  # of several steps, whose tokens differ, the last
        self.load = cache(self._load)
        self.margins = cache(self._margins)
        self.together = cache(self._together)
        self.words = cache(self._words)
        self.domain_loads = cache(self._domain_loads)

    def prepared(self, layer: int = -1) -> "Seen":
        """With what takes long computed already, of all layers and of one (-1: the middle one): for a thread."""
        i = len(self.layers) // 2 if layer < 0 else min(layer, len(self.layers) - 1)
        self.load(), self.utilisation
        if self.has_tokens:
            self.specialisation, self.windows  # noqa: B018
            self.margins(i), self.domain_loads(i)
            if self.chosen > 1:
                self.pairs, self.together(i)
        if self.has_vocabulary:
            self.words(i)
        return self

    # -- tokens ------------------------------------------------------------------------------------------------------
    def held(self, name: str) -> Any:
        """The newest tensor of a tap; None where none is held."""
        try:
            return self.recording.last(name)
        except ExplorerError:
            return None

    @cached_property
    def has_tokens(self) -> bool:
        """Whether the choice of every token is there, and not only counts."""
        index = self.held(f"{self.layers[0]}/index")
        return index is not None and index.ndim == 3

    @property
    def has_vocabulary(self) -> bool:
        """Whether the ids of the tokens are there."""
        return self.has_tokens and self.held("/tokens") is not None

    @cached_property
    def domains(self) -> list[str]:
        """Names, in the order of their ids; fewer than two say nothing."""
        from explorer.analyses import domains

        return list(domains.names(self.now)) if self.has_tokens else []

    @cached_property
    def token_domains(self) -> Any:
        """(B, T) int64 of every token, -1: padding or none."""
        from explorer.analyses import domains

        return domains.of_tokens(self.now)

    @cached_property
    def lengths(self) -> list[int]:
        """Tokens of every window."""
        valid = self.held("/valid")
        if valid is None:
            valid = (self.held(f"{self.layers[0]}/index") >= 0).any(-1)
        return [int(n) for n in valid.sum(1)]

    @cached_property
    def windows(self) -> list[Window]:
        """Those that hold a token."""
        if not self.has_tokens:
            return []
        found, firsts = [], self.token_domains.max(1).values.tolist()
        for b, length in enumerate(self.lengths):
            if length:
                domain = self.domains[firsts[b]] if 0 <= firsts[b] < len(self.domains) else ""
                found.append(Window(b, length, domain, f"{domain or 'sequence'}, window {b + 1}: {length} tokens"))
        return found

    def text(self, sequence: int, most: int) -> list[str]:
        """The first tokens of a window, as text where the recording says it, else as numbers."""
        tokens, vocabulary = self.held("/tokens"), self.trace.get("vocabulary") or {}
        length = min(most, self.lengths[sequence])
        if tokens is None:
            return [str(t) for t in range(length)]
        ids = tokens[sequence, :length].tolist()
        # without their text, numbers need something between them
        return [vocabulary.get(str(i), f"{i} ") if vocabulary else f"{i} " for i in ids]

    # -- of all layers -----------------------------------------------------------------------------------------------
    def _load(self, domain: str = "") -> np.ndarray:
        """(L, E) share of a layer's assignments, NaN behind its last expert; of the tokens of one domain, or of all."""
        from explorer.analyses import routes

        if domain not in self.domains:
            return np.asarray(routes.load_map(self.recording)[1])
        return np.asarray(routes.load_map(self.now, self.token_domains == self.domains.index(domain))[1])

    @cached_property
    def utilisation(self) -> "pd.DataFrame":
        """A row for each layer: see explorer.analyses.routes.utilisation."""
        from explorer.analyses import routes

        return routes.utilisation(self.recording)

    @cached_property
    def specialisation(self) -> "pd.DataFrame":
        """A row for each layer: how much the expert tells of the domain and of the token, beside what chance gives."""
        from explorer.analyses import domains

        return domains.specialisation(self.now)

    @cached_property
    def pairs(self) -> "pd.DataFrame":
        """The pairs of experts that share most tokens beyond chance, over all layers."""
        from explorer.analyses import routes

        return routes.pairs(self.recording, most=12)

    @cached_property
    def sinks(self) -> "pd.DataFrame":
        """A row for each head, where attention was recorded."""
        from explorer.analyses import sinks

        return sinks.sinks(self.recording)

    @property
    def has_sinks(self) -> bool:
        """Whether attention was recorded."""
        return bool(self.recording.series["attention"])

    @cached_property
    def chosen(self) -> int:
        """Experts that a token gets at most."""
        return int(self.held(f"{self.layers[0]}/index").shape[-1]) if self.has_tokens else 0

    # -- of one layer ------------------------------------------------------------------------------------------------
    def experts(self, i: int) -> int:
        """How many the layer has."""
        return self.recording.experts(self.layers[i])

    def _margins(self, i: int) -> np.ndarray:
        """(B, T): how far each token was from another choice; NaN for padding, and where no scores were kept."""
        from explorer.analyses import routes

        try:
            return routes.margins(self.now, self.layers[i]).numpy()
        except ExplorerError:
            return np.full(self.held(f"{self.layers[i]}/index").shape[:2], np.nan, np.float32)

    def _together(self, i: int) -> Any:
        """(E, E) lift: how much oftener two experts share a token than chance would have it."""
        from explorer.analyses import routes

        return routes.company(self.recording, self.layers[i])

    def _words(self, i: int) -> "pd.DataFrame":
        """The tokens of each expert: see explorer.analyses.domains.vocabulary."""
        from explorer.analyses import domains

        return domains.vocabulary(self.now, self.layers[i], most=8)

    def _domain_loads(self, i: int) -> np.ndarray:
        """(E, C): of each domain's assignments the share that goes to each expert."""
        from explorer.analyses import domains

        return np.asarray(domains.loads(self.now, self.layers[i]))

    def words_at(self, place: Place, before: int = 6) -> str:
        """The token and what stands before it: "the quick [brown]"."""
        b, t = place
        text = self.text(b, t + 1)
        return f"{''.join(text[max(0, t - before) : t])}[{text[t].rstrip() or text[t]}]"


@dataclass(frozen=True)
class Scene:
    """What the pictures show: a recording, one of its layers, a domain ("" for all), a token."""

    seen: Seen
    i: int
    domain: str = ""
    place: Place | None = None

    @property
    def layer(self) -> str:
        """Its name for people."""
        return self.seen.names[self.i]


def short_names(paths: Sequence[str]) -> list[str]:
    """ "layer 3" where its number is that of one path alone, else the path."""
    numbers = [re.search(r"\.(\d+)\.", path + ".") for path in paths]
    named = [f"layer {found[1]}" if found else path for found, path in zip(numbers, paths, strict=True)]
    return named if len(set(named)) == len(named) else list(paths)


def _newest(recording: "Recording") -> "Recording":
    from explorer.analyses import routes

    steps = recording.steps()
    return routes.select(recording, step=steps[-1]) if len(steps) > 1 else recording
