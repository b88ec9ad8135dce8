"""Text: the next byte of real text of several domains, the domain known for every token.

The four domains are on every machine that runs the explorer: `english` (Python's language reference), `python` (the
standard library), `markup` (XSLT, HTML) and `data` (JSON, CSV). Or files, folders and pasted text of the user's.
The vocabulary is the 128 values of ASCII; every byte from 128 up becomes id 127.
"""

import math
import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

import numpy as np
import torch
from torch import Tensor

from explorer.errors import BadValue, unknown
from explorer.tasks import corpus
from explorer.tasks.data import Batch, Stream, real, settle, token_loss, whole
from explorer.tasks.sources import DOMAINS

VOCAB = 128
HELD_OUT_SEQUENCES = 80
LARGEST = 50_000_000
_SHOWN = [
    {9: "⇥", 10: "⏎", corpus.NOT_ASCII: "·"}.get(i) or chr(i if i >= 32 else 0x2400 + i) for i in range(VOCAB)
]  # fmt: skip


@dataclass(frozen=True)
class Text:
    """`Text()`, `Text(domains=["english", "data"])`, `Text("my.txt")`, `Text(["a/", "b.txt"])`, `Text(texts={"a": s})`.

    Every path, whether file or folder, and every text becomes a domain. At most `bytes_per_domain` bytes of each are
    read: the beginning of a file, evenly from the files of a folder; `describe()` says what that left out.
    """

    paths: str | os.PathLike[str] | Iterable[str | os.PathLike[str]] | None = None
    sequence: int = 64
    domains: str | Iterable[str] | None = None
    """None: all four, or none of them if `paths` or `texts` are given."""
    bytes_per_domain: int = 400_000
    held_out: float = 0.1
    """Share of every file that training never sees: its end."""
    texts: Mapping[str, str] | Iterable[tuple[str, str]] | None = field(default=None, repr=False)
    mix: Mapping[str, float] | Iterable[float] | None = None
    """Share of each domain in training, by name or in the order of `names`; None: all alike, dealt out in turn.

    The held-out data have equally many windows of every domain whatever the mix, so that a rare one counts."""

    def __post_init__(self) -> None:
        sequence = whole("sequence", self.sequence, 2, 4096)
        domains, paths, texts = self._given()
        settle(
            self,
            paths=paths,
            sequence=sequence,
            domains=domains,
            bytes_per_domain=whole("bytes_per_domain", self.bytes_per_domain, 2 * (sequence + 1), LARGEST),
            held_out=real("held_out", self.held_out, 0.001, 0.5),
            texts=texts,
        )
        names = self.names
        if repeated := sorted({name for name in names if names.count(name) > 1}):
            raise BadValue(f"two domains are called {repeated[0]!r}; give each file, folder and text its own name")
        settle(self, mix=_mix(self.mix, names))

    @property
    def names(self) -> list[str]:
        """The names of the domains, in the order of their ids: built-in ones, paths, texts."""
        domains, paths, texts = self._given()
        return [*domains, *_short(paths), *(name for name, _ in texts)]

    @property
    def shares(self) -> tuple[float, ...] | None:
        """The shares of `mix` in the order of `names`; None without a mix."""
        return _mix(self.mix, self.names)

    def build(self, seed: int) -> "TextData":
        return TextData(self, seed)

    def read(self) -> list[corpus.Corpus]:
        """The domains; those read from disk are kept in memory and shared between experiments."""
        domains, paths, texts = self._given()
        amount = corpus.Amount(self.bytes_per_domain, self.held_out, self.sequence + 1)
        read = [corpus.installed(name, amount) for name in domains]
        read += [corpus.on_disk(name, path, amount) for name, path in zip(_short(paths), paths, strict=True)]
        return read + [corpus.pasted(name, text, amount) for name, text in texts]

    def _given(self) -> tuple[tuple[str, ...], tuple[str, ...], tuple[tuple[str, str], ...]]:
        """domains, paths, texts: whatever form they were given in, as tuples, so that the dataclass has a hash."""
        paths, texts = _paths(self.paths), _texts(self.texts)
        return _domains(self.domains, () if paths or texts else tuple(DOMAINS)), paths, texts


class TextData:
    """Text in memory, one uint8 tensor for all domains, and random windows into it."""

    kind, unit = "tokens", "nats/byte"
    vocab = VOCAB

    def __init__(self, config: Text, seed: int) -> None:
        self.config, self.seed, self.sequence = config, seed, config.sequence
        self.corpora = config.read()
        self.label_names = [domain.name for domain in self.corpora]
        self._train = _windows(tuple(self.corpora), self.sequence)
        self._stream = Stream(seed, "text/train")
        # where each domain but the last ends on the line from 0 to 1, so that rounding cannot lead beyond the last
        self._upto = None if config.shares is None else np.cumsum(config.shares)[:-1]
        self._held_out = self._fixed(max(1, HELD_OUT_SEQUENCES // len(self.corpora)))

    def batch(self, step: int, size: int) -> Batch:
        """`size` random windows of training text, the domains dealt out in turn, or each drawn by the shares of `mix`.

        Dealt out, a size that is a multiple of the number of domains has equally many of each; otherwise the next batch
        goes on where this one stopped. The order within a batch is random: where an expert's capacity drops the last
        tokens, these must not always be of one domain.
        """
        generator = self._stream.at(whole("step", step, 0))
        first = step * whole("size", size, 1) % len(self.corpora)
        if self._upto is None:
            domain_B = (torch.randperm(size, generator=generator).numpy() + first) % len(self.corpora)
        else:
            drawn_B = torch.rand(size, generator=generator, dtype=torch.float64).numpy()
            domain_B = np.searchsorted(self._upto, drawn_B, side="right")
        place_B = torch.rand(size, generator=generator, dtype=torch.float64).numpy() * self._train.counts[domain_B]
        return self._train.at(domain_B, place_B.astype(np.int64))

    def held_out(self) -> Batch:
        """80 fixed windows spread over the held-out text, equally many of each domain; the same for every seed."""
        return self._held_out

    def loss(self, outputs: Tensor, batch: Batch) -> Tensor:
        """Cross entropy in nats a byte: log(128) = 4.85 for uniform guessing."""
        return token_loss(outputs, batch)

    def decode(self, tokens: Tensor | Iterable[int]) -> list[str]:
        """One printable character a token: newline ⏎, tab ⇥, other control characters as their pictures, id 127 as ·.

        What has a meaning in HTML is left as it is: whoever shows it escapes it.
        """
        ids = tokens.tolist() if isinstance(tokens, Tensor) else tokens
        return [_SHOWN[i] if 0 <= i < VOCAB else "\N{REPLACEMENT CHARACTER}" for i in map(int, ids)]

    def describe(self) -> dict[str, Any]:
        return {
            "task": "text", "kind": self.kind, "installation_dependent": bool(self.config.domains), "seed": self.seed,
            "vocab": VOCAB, "not_ascii_id": corpus.NOT_ASCII, "sequence": self.sequence,
            "bytes_per_domain": self.config.bytes_per_domain, "held_out": self.config.held_out,
            "held_out_sequences": len(self._held_out.inputs),
            "mix": dict(zip(self.label_names, self.config.shares, strict=True)) if self.config.shares else None,
            "domains": {domain.name: dict(domain.about) for domain in self.corpora},
        }  # fmt: skip

    def _fixed(self, count: int) -> Batch:
        windows = _Windows([domain.held_out for domain in self.corpora], self.sequence)
        turn_B, domain_B = np.divmod(np.arange(count * len(self.corpora)), len(self.corpora))
        return windows.at(domain_B, (windows.counts[domain_B] - 1) * turn_B // max(1, count - 1))


class _Windows:
    """Every stretch of T+1 bytes inside a domain, in numpy: small operations take a third of the time of torch's."""

    def __init__(self, domains: list[Tensor], sequence: int) -> None:
        sizes = np.array([len(domain) for domain in domains])
        self.counts, self._starts, self._sequence = sizes - sequence, sizes.cumsum() - sizes, sequence
        self._view = np.lib.stride_tricks.sliding_window_view(torch.cat(domains).numpy(), sequence + 1)

    def at(self, domain_B: np.ndarray, place_B: np.ndarray) -> Batch:
        """The windows that begin at a place (0 .. counts - 1) of a domain."""
        bytes_BT = self._view[self._starts[domain_B] + place_B].astype(np.int64)
        inputs, targets = np.ascontiguousarray(bytes_BT[:, :-1]), np.ascontiguousarray(bytes_BT[:, 1:])
        return Batch(*map(torch.from_numpy, (inputs, targets, domain_B.repeat(self._sequence).reshape(inputs.shape))))


@lru_cache(maxsize=8)
def _windows(corpora: tuple[corpus.Corpus, ...], sequence: int) -> _Windows:
    """Kept, so that experiments on the same files share one copy of them."""
    return _Windows([domain.train for domain in corpora], sequence)


def _paths(given: Any) -> tuple[str, ...]:
    if given is None or given == ():
        return ()
    paths = [given] if isinstance(given, str | os.PathLike) else _listed("paths", given)
    if wrong := [path for path in paths if not isinstance(path, str | os.PathLike) or not os.fspath(path)]:
        raise BadValue(f"a path is a string or a pathlib.Path, not {wrong[0]!r}")
    if not paths:
        raise BadValue("paths is empty; give at least one file or folder")
    return tuple(os.path.expanduser(os.fspath(path)) for path in paths)


def _texts(given: Any) -> tuple[tuple[str, str], ...]:
    if given is None or given == ():
        return ()
    if not isinstance(given, Mapping | tuple):
        raise BadValue(f'texts maps a name to a string, as in {{"poems": "..."}}, not {type(given).__name__}')
    pairs = tuple(given.items()) if isinstance(given, Mapping) else given
    if wrong := [name for name, text in pairs if not isinstance(name, str) or not name or not isinstance(text, str)]:
        raise BadValue(f"texts maps a name to a string; the entry {wrong[0]!r} does not")
    if not pairs:
        raise BadValue("texts is empty; give at least one name and its text")
    return pairs


def _domains(given: Any, otherwise: tuple[str, ...]) -> tuple[str, ...]:
    domains = otherwise if given is None else (given,) if isinstance(given, str) else tuple(_listed("domains", given))
    for name in domains:
        if name not in DOMAINS:
            raise unknown("domain", str(name), DOMAINS)
    if otherwise and not domains:
        raise BadValue(f"domains is empty; choose among {', '.join(DOMAINS)}")
    return domains


def _mix(given: Any, names: list[str]) -> tuple[float, ...] | None:
    """One share a domain, in the order of `names`."""
    if given is None:
        return None
    if isinstance(given, Mapping):
        for name in given:
            if name not in names:
                raise unknown("domain in mix", str(name), names)
        if missing := [name for name in names if name not in given]:
            raise BadValue(f"mix says nothing of {missing[0]!r}; give every domain its share: {', '.join(names)}")
        given = [given[name] for name in names]
    if not isinstance(given, Iterable) or isinstance(given, str | bytes):
        raise BadValue(f'mix gives each domain its share, as in {{"{names[0]}": 0.7, ...}}, not {given!r}')
    shares = tuple(real("a share in mix", share, 0, 1) for share in given)
    if len(shares) != len(names):
        raise BadValue(f"mix has {len(shares)} shares for {len(names)} domains; give one each: {', '.join(names)}")
    if 0 in shares:
        raise BadValue(
            f"the share of {names[shares.index(0)]!r} in mix is 0; leave the domain out, or give it a little"
        )
    if not math.isclose(sum(shares), 1, abs_tol=1e-6):
        raise BadValue(f"the shares in mix add up to {sum(shares):g}; they must add up to 1")
    return shares


def _listed(name: str, given: Any) -> list[Any]:
    if not isinstance(given, Iterable) or isinstance(given, bytes):
        raise BadValue(f"{name} is a string or a list of strings, not {given!r}")
    return list(given)


def _short(paths: tuple[str, ...]) -> list[str]:
    """A file's or folder's own name, or the whole path where two have the same."""
    names = [os.path.basename(os.path.normpath(path)) or path for path in paths]
    return [path if names.count(name) > 1 else name for name, path in zip(names, paths, strict=True)]
