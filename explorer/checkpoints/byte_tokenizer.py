"""The alphabet of the text task as a tokenizer.json: one id a byte, 0 to 126 for ASCII, 127 for every other byte.

A byte-level BPE without a merge (the format of the library `tokenizers`). What is not in its vocabulary is id 127, byte by
byte, so that "é" has two of them; they are read back as U+FFFD. "\\r\\n" becomes "\\n" as it does in explorer.tasks.corpus.
"""

from typing import Any

from explorer.tasks.corpus import NOT_ASCII

UNKNOWN = 255  # a byte that no UTF-8 text has: what id 127 is read back as


def alphabet() -> list[str]:
    """The character that stands for each byte in a byte-level vocabulary (GPT-2's table): printable ones for themselves."""
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = iter(range(256, 512))
    return [chr(byte) if byte in printable else chr(next(others)) for byte in range(256)]


def tokenizer() -> dict[str, Any]:
    """The content of tokenizer.json; `tokenizers` and transformers read it, and nothing of them is needed to write it."""
    signs = alphabet()
    level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": False}
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [],
        "normalizer": {"type": "Replace", "pattern": {"String": "\r\n"}, "content": "\n"},
        "pre_tokenizer": level,
        "post_processor": None,
        "decoder": level,
        "model": {
            "type": "BPE",
            "dropout": None,
            "unk_token": signs[UNKNOWN],
            "continuing_subword_prefix": None,
            "end_of_word_suffix": None,
            "fuse_unk": False,
            "byte_fallback": False,
            "vocab": {signs[i]: i for i in range(NOT_ASCII)} | {signs[UNKNOWN]: NOT_ASCII},
            "merges": [],
        },
    }


def tokenizer_config(longest: int) -> dict[str, Any]:
    """The content of tokenizer_config.json. No special tokens: each would be looked for in the text itself."""
    return {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "model_max_length": longest,
        "clean_up_tokenization_spaces": False,
    }
