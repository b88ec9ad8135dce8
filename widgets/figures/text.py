"""Names and tokens from outside, made harmless: for plotly's own markup (`plain`) and for the eye (`visible`)."""

import re

LONGEST = 60
_ENTITIES = str.maketrans({"&": "&amp;", "<": "&lt;", ">": "&gt;", "$": "&#36;"})
# C0 and C1 controls, bidirectional overrides and isolates, zero-width characters, lone surrogates.
_UNSEEN = re.compile("[\x00-\x1f\x7f-\x9f\u061c\u200b-\u200f\u2028-\u202e\u2060-\u2069\ufeff\ud800-\udfff]")
_PICTURES = {"\n": "⏎", "\t": "⇥", "\r": "␍", " ": "·"}
# Each base character keeps at most this many combining marks, so that no token climbs out of its line.
_MARK = "[\u0300-\u036f\u0483-\u0489\u1ab0-\u1aff\u20d0-\u20ff]"
_PILES = re.compile(f"({_MARK}{{2}}){_MARK}+")


def clean(text: object, longest: int = LONGEST) -> str:
    """One line without control, bidirectional or surrogate characters, at most `longest` characters."""
    text = str(text)[: longest * 8]
    text = _PILES.sub(r"\1", _UNSEEN.sub(_blank, text)).strip()
    return text if len(text) <= longest else text[: longest - 1] + "…"


def plain(text: object, longest: int = LONGEST) -> str:
    """`text` as plotly shows it literally: no tag, no entity, no MathJax, no %{...} substitution.

    Plotly reads a small markup in every title, label, legend and hover text, and decodes entities last: what is written
    as entities is drawn as characters and never parsed.
    """
    return clean(text, longest).translate(_ENTITIES).replace("%{", "&#37;{")


def visible(token: object, longest: int = 24) -> str:
    """A token as a person can see it: blanks, line ends and controls get a picture, a long token is cut."""
    text = str(token)[: longest + 1]
    shown = _PILES.sub(r"\1", "".join(_PICTURES.get(c) or _UNSEEN.sub(_picture, c) for c in text))
    return (shown if len(text) <= longest else shown[: longest - 1] + "…") or "∅"


def _blank(match: re.Match[str]) -> str:
    """Line ends become a space; a lone surrogate, which no encoder accepts, becomes the replacement character."""
    c = match[0]
    return " " if c in "\t\n\r\u2028\u2029" else "\ufffd" if "\ud800" <= c <= "\udfff" else ""


def _picture(match: re.Match[str]) -> str:
    """The Unicode picture of a C0 control; anything else unseen is the replacement character."""
    c = match[0]
    return chr(0x2400 + ord(c)) if c < " " else "\ufffd"
