"""Texts and token ids as the windows that a model is given: checked, cut, padded."""

import re
from collections.abc import Sequence
from numbers import Integral
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor

from explorer.checkpoints.files import CheckpointError
from explorer.checkpoints.tokenizer import Tokenizer, if_there, tokenizer_of

if TYPE_CHECKING:
    from explorer.checkpoints.checkpoint import Checkpoint

MOST_TEXT = 50_000_000  # characters of all texts together
LONGEST_NAME = 200  # characters of a domain's name
WINDOW = 512  # tokens, where nobody says and the model has as many places
PLACES = ("max_position_embeddings", "n_positions", "max_seq_len", "max_sequence_length")
EMBEDDING = re.compile(r"(?:.*\.)?(?:embed_tokens|wte|embeddings?|embed|word_embeddings|tok_embeddings|shared)\.weight")


class Windows(NamedTuple):
    """Sequences of token ids, each of which begins anew. B of them, N tokens in all.

    ids: the tokens of each, int64; text, domain: which of the given texts, and which of `domains` (-1: none), it is of.
    added: special tokens that the tokenizer put around every text by itself.
    """

    ids: list[Tensor]
    text: list[int]
    domain: list[int]
    domains: list[str]
    window: int
    added: list[str]

    @property
    def tokens(self) -> int:
        """N."""
        return sum(map(len, self.ids))

    @property
    def longest(self) -> int:
        """T."""
        return max(map(len, self.ids))

    def padded(self) -> dict[str, Tensor]:
        """tokens (0 where padded), position (-1) and valid, each (B, T)."""
        B, T = len(self.ids), self.longest
        tokens = torch.zeros(B, T, dtype=torch.int64)
        for row, ids in zip(tokens, self.ids, strict=True):
            row[: len(ids)] = ids
        place = torch.arange(T).expand(B, T)
        valid = place < torch.tensor([len(ids) for ids in self.ids])[:, None]
        return {"tokens": tokens, "position": place.where(valid, -1), "valid": valid}


def windows_of(
    seen: "Checkpoint",
    texts: str | Sequence[str | bytes] | None,
    tokens: Sequence[Sequence[int]] | None,
    domains: str | Sequence[str] | None,
    window: int | None,
) -> tuple[Windows, Tokenizer | None]:
    """What a trace is given, cut into windows; all of it is checked, and nothing of the weights is read for it."""
    length = _window(seen, window)
    if (texts is None) == (tokens is None):
        raise CheckpointError(f"give {'either texts or' if texts is not None else 'texts, or'} token ids (tokens=...)")
    added: list[str] = []
    if texts is not None:
        checked = _texts(texts)
        names = _domains(domains, len(checked), "texts")
        own = tokenizer_of(seen)
        given, added = _encoded(seen, own, checked)
        tokenizer: Tokenizer | None = own
    else:
        given = _ids(tokens, rows_of(seen))
        names = _domains(domains, len(given), "tokens")
        tokenizer = if_there(seen)
    order = list(dict.fromkeys(names or []))
    cut = [(part, i) for i, ids in enumerate(given) for part in torch.tensor(ids).split(length)]
    domain = [order.index(names[i]) if names else -1 for _, i in cut]
    return Windows([part for part, _ in cut], [i for _, i in cut], domain, order, length, added), tokenizer


def _window(seen: "Checkpoint", window: int | None) -> int:
    most = seen.settings.whole(PLACES, 1)
    if window is None:
        return WINDOW if most is None else min(WINDOW, most)
    if type(window) is not int or window < 2:
        raise CheckpointError(f"window = {window!r} should be a whole number of tokens from 2")
    if most is not None and window > most:
        raise CheckpointError(f"window = {window:,}, but {seen.name!r} has places for {most:,} tokens at most")
    return window


def _texts(texts: object) -> list[str]:
    """Real text, none of it empty."""
    given = [texts] if isinstance(texts, str | bytes) else texts
    if not isinstance(given, list | tuple) or not given:
        raise CheckpointError("texts should be a list of strings, at least one")
    checked = [_text(i, one) for i, one in enumerate(given)]
    size = sum(map(len, checked))
    if size > MOST_TEXT:
        raise CheckpointError(f"the texts have {size:,} characters, more than {MOST_TEXT:,}: give fewer of them")
    return checked


def _text(i: int, one: object) -> str:
    if isinstance(one, bytes):
        try:
            one = one.decode("utf-8-sig")
        except UnicodeDecodeError as error:
            raise CheckpointError(f"texts[{i}] is not text in UTF-8: see its byte {error.start:,}") from error
    if not isinstance(one, str):
        raise CheckpointError(f"texts[{i}] is a {type(one).__name__} and should be a string")
    try:
        one.encode("utf-8")
    except UnicodeEncodeError as error:
        raise CheckpointError(f"texts[{i}] holds half a character (a lone surrogate) at {error.start:,}") from error
    if not one:
        raise CheckpointError(f"texts[{i}] is empty")
    return one


def _domains(domains: object, count: int, of: str) -> list[str] | None:
    """A name for each text."""
    if domains is None:
        return None
    given = [domains] if isinstance(domains, str) else domains
    if not isinstance(given, list | tuple) or len(given) != count:
        have = f"{len(given)} names" if isinstance(given, list | tuple) else f"a {type(given).__name__}"
        raise CheckpointError(f"domains has {have} for {count} {of}: it should have a name for each")
    for i, name in enumerate(given):
        if not isinstance(name, str) or not name.strip() or len(name) > LONGEST_NAME:
            raise CheckpointError(f"domains[{i}] should be a name of 1 to {LONGEST_NAME} characters")
    return list(given)


def _ids(tokens: object, rows: int | None) -> list[list[int]]:
    """Lists of ids that the embedding has."""
    given = list(tokens) if isinstance(tokens, list | tuple | Tensor) else []
    if not given:
        raise CheckpointError("tokens should be a list of lists of token ids, at least one")
    made = []
    for i, value in enumerate(given):
        one = value.tolist() if hasattr(value, "tolist") else value  # a tensor, an array
        if not isinstance(one, list | tuple) or not one:
            what = "is empty" if isinstance(one, list | tuple) else "should be a list of token ids"
            raise CheckpointError(f"tokens[{i}] {what}")
        made.append(_known(one, f"tokens[{i}][%d]", rows))
    return made


def _known(ids: Sequence[object], where: str, rows: int | None) -> list[int]:
    """The ids, all of them whole numbers that the embedding has a row for; where: what to call one, %d its place."""
    most = 1 << 31 if rows is None else rows
    for place, one in enumerate(ids):
        if isinstance(one, bool) or not isinstance(one, Integral):
            raise CheckpointError(f"{where % place} = {str(one)[:40]!r} is no token id, which is a whole number")
        if not 0 <= int(one) < most:
            last = "" if rows is None else f": the embedding has the rows 0 to {rows - 1:,}"
            raise CheckpointError(f"{where % place} = {str(one)[:40]} is outside the vocabulary{last}")
    return [int(one) for one in ids]  # type: ignore[call-overload]


def rows_of(seen: "Checkpoint") -> int | None:
    """How many token ids a model knows: rows of its embedding; None: nobody says."""
    tensors = seen.weights.tensors
    found = [one for one in tensors if EMBEDDING.fullmatch(one) and len(tensors[one].shape) == 2]
    if found:
        return tensors[min(found, key=len)].shape[0]
    return seen.settings.whole(("vocab_size",), 1)


def _encoded(seen: "Checkpoint", tokenizer: Tokenizer, texts: list[str]) -> tuple[list[list[int]], list[str]]:
    """Ids of each text, and the special tokens that were added."""
    given, added, rows = [], dict[str, None](), rows_of(seen)
    for i, text in enumerate(texts):
        ids, special = tokenizer.encode(text)
        if len(ids) <= len(special):
            raise CheckpointError(f"texts[{i}] has no token: the tokenizer of {seen.name!r} makes nothing of it")
        given.append(_known(ids, f"token %d of texts[{i}], by the model's own tokenizer,", rows))
        added |= dict.fromkeys(special)
    return given, list(added)
