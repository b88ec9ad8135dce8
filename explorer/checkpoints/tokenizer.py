"""The checkpoint's own tokenizer: from its tokenizer.json alone, or (other formats) through transformers."""

import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from explorer.checkpoints.files import CheckpointError, whole

if TYPE_CHECKING:
    from explorer.checkpoints.checkpoint import Checkpoint

FILE = "tokenizer.json"
OTHERS = ("tokenizer.model", "spiece.model", "vocab.json", "vocab.txt", "tiktoken.model", "tokenizer_config.json")
LARGEST = 100_000_000  # bytes of a tokenizer; the largest that are published have a third of it
INSTALL = "pip install 'gating-explorer[checkpoints]'"
GIVE_IDS = "give token ids in place of texts (tokens=..., --tokens)"


class Tokenizer(NamedTuple):
    """encode: ids of a text, and the special tokens that were added to it; decode: the text of one id; name: its entry."""

    encode: Callable[[str], tuple[list[int], list[str]]]
    decode: Callable[[int], str]
    name: Callable[[int], str | None]


def tokenizer_of(seen: "Checkpoint") -> Tokenizer:
    """The checkpoint's own, from its tokenizer.json, or (other formats) through transformers."""
    source = seen.weights.source
    text = whole(source, FILE, LARGEST)
    if text is not None:
        return _own(text, seen.name)
    other = next((name for name in OTHERS if source.size(name) is not None), None)
    if other is None:
        raise CheckpointError(f"{seen.name!r} has no tokenizer (no {FILE}): {GIVE_IDS}")
    return _through_transformers(seen, other)


def if_there(seen: "Checkpoint") -> Tokenizer | None:
    """To show what ids given as such mean; without one they are shown as numbers. Nobody's code is run for that."""
    try:
        text = whole(seen.weights.source, FILE, LARGEST)
        return None if text is None else _own(text, seen.name)
    except CheckpointError:
        return None


def place(name: str) -> tuple[str, str]:
    """(folder or hub id, revision) as transformers wants them, of what a checkpoint was opened by."""
    local = Path(name).expanduser()
    if local.exists():
        return str(local.parent if local.is_file() else local), "main"
    path, _, revision = name.partition("@")
    return path, revision or "main"


def _own(text: bytes, name: str) -> Tokenizer:
    try:
        from tokenizers import Tokenizer as Made
    except ImportError as error:
        raise CheckpointError(f"reading {FILE} of {name!r} needs tokenizers ({INSTALL}); or {GIVE_IDS}") from error
    made = _tried(lambda: Made.from_str(text.decode("utf-8")), f"{FILE} of {name!r} cannot be read")
    made.no_truncation()
    made.no_padding()

    def encode(text: str) -> tuple[list[int], list[str]]:
        found = _tried(lambda: made.encode(text), f"the tokenizer of {name!r} fails")
        special = zip(found.tokens, found.special_tokens_mask, strict=True)
        return found.ids, [token for token, is_special in special if is_special]

    return Tokenizer(encode, lambda i: str(made.decode([i], skip_special_tokens=False)), made.id_to_token)


def _through_transformers(seen: "Checkpoint", file: str) -> Tokenizer:
    try:
        from transformers import AutoTokenizer
    except ImportError as error:
        what = f"the tokenizer of {seen.name!r} ({file}) is read by transformers ({INSTALL})"
        raise CheckpointError(f"{what}; without it, {GIVE_IDS}") from error
    path, revision = place(seen.name)
    given: dict[str, Any] = {"trust_remote_code": seen.trust_remote_code, "revision": revision}
    made = _tried(
        lambda: AutoTokenizer.from_pretrained(path, **given), f"the tokenizer of {seen.name!r} ({file}) cannot be read"
    )

    def encode(text: str) -> tuple[list[int], list[str]]:
        found = _tried(
            lambda: made(text, return_special_tokens_mask=True, verbose=False), f"the tokenizer of {seen.name!r} fails"
        )
        special = zip(found["input_ids"], found["special_tokens_mask"], strict=True)
        return found["input_ids"], [str(name(i)) for i, is_special in special if is_special]

    def name(i: int) -> str | None:
        return str(made.convert_ids_to_tokens(i))

    return Tokenizer(encode, lambda i: str(made.decode([i])), name)


def _tried(work: Callable[[], Any], what: str) -> Any:
    """Tokenizers raise anything, and a panic of theirs is not even an Exception."""
    try:
        return work()
    except BaseException as error:
        if not isinstance(error, Exception) and type(error).__name__ != "PanicException":
            raise
        first = (str(error) or type(error).__name__).splitlines()[0][:160]
        raise CheckpointError(f"{what} ({first}): {GIVE_IDS}") from error


# -- what a token looks like -------------------------------------------------------------------------------------------


def pieces(tokenizer: Tokenizer, ids: Sequence[int]) -> dict[str, str]:
    """str(id) -> its text, with the space before a word; bytes that are no whole character are written as <E2 82>."""
    return {str(one): _piece(tokenizer, one) for one in ids}


def _piece(tokenizer: Tokenizer, one: int) -> str:
    try:
        text, entry = tokenizer.decode(one), tokenizer.name(one) or ""
    except Exception:  # noqa: BLE001 (an id that it does not know; of a tokenizer written by anybody)
        return f"<{one}>"
    if not text and not entry:
        return f"<{one}>"  # rows of the embedding that no token has
    if "\ufffd" in text and "\ufffd" not in entry:
        text = _bytes(entry)
    elif entry[:1] in ("▁", "Ġ") and not text.startswith(" "):
        text = f" {text}"
    text = text or entry
    return text if len(text) <= 80 else f"{text[:79]}…"


def _bytes(entry: str) -> str:
    """Of an entry that stands for a part of a character: its bytes, as <0xE2> or in the alphabet of GPT-2."""
    table, one = _alphabet(), re.fullmatch(r"<0x([0-9A-F]{2})>", entry)
    if one or not all(c in table for c in entry):
        return f"<{one[1]}>" if one else entry
    return f"<{' '.join(f'{table[c]:02X}' for c in entry)}>"


def _alphabet() -> dict[str, int]:
    """The character that byte-level tokenizers write for each byte: its own where it can be seen, else one from 256 up."""
    shown = [*range(33, 127), *range(161, 173), *range(174, 256)]
    hidden = [byte for byte in range(256) if byte not in shown]
    return {chr(b): b for b in shown} | {chr(256 + i): b for i, b in enumerate(hidden)}
