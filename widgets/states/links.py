"""A page's state as the query part of its link: defaults left out, what is not understood ignored and reported."""

from collections.abc import Mapping
from typing import Any
from urllib.parse import parse_qsl, urlencode

RESERVED = frozenset({"theme", "template", "token", "redirects"})  # the server's or the hub's, not the page's
LONGEST = 2000  # characters of one value that are looked at at all


def read(query: str) -> tuple[dict[str, str], list[str]]:
    """(key -> value, notices) of a raw query string; a repeated key keeps its first value."""
    values: dict[str, str] = {}
    notices: list[str] = []
    try:
        pairs = parse_qsl(query, keep_blank_values=True, max_num_fields=100)
    except ValueError:
        return {}, ["the link has more than 100 settings: all of them were ignored"]
    for key, value in pairs:
        if key in RESERVED:
            continue
        if key in values:
            notices.append(f"{short(key)} is given twice: the first value counts")
        elif len(value) > LONGEST:
            notices.append(f"{short(key)} is longer than {LONGEST} characters: ignored")
        else:
            values[key] = value
    return values, notices


def write(values: Mapping[str, Any], defaults: Mapping[str, Any]) -> str:
    """`mechanism=switch&seed=5`: the values that differ from their defaults."""
    return urlencode({key: value for key, value in values.items() if value != defaults.get(key)})


def short(text: str, length: int = 40) -> str:
    """Printable and no longer than `length`, for a sentence on the page."""
    clean = "".join(c if c.isprintable() else "?" for c in text)
    return clean if len(clean) <= length else clean[: length - 1] + "…"
