"""What can go wrong, in one sentence that names the culprit and what would be right."""

import difflib
from collections.abc import Iterable


class ExplorerError(Exception):
    """Base of every error the explorer raises on purpose; its message is written for the person at the screen."""


class UnknownName(ExplorerError, LookupError):
    """A mechanism, knob, task, preset, metric or tap that does not exist."""


class BadValue(ExplorerError, ValueError):
    """A value outside its range, or shapes that do not fit together."""


class Diverged(ExplorerError, ArithmeticError):
    """The loss is no longer a finite number."""


class RecordingError(ExplorerError):
    """A recording that cannot be made, saved or read."""


def unknown(kind: str, given: str, choices: Iterable[str]) -> UnknownName:
    """The error for a name that is not among `choices`, with the nearest one as a suggestion.

    >>> str(unknown("mechanism", "topk_sofmax", ["topk-softmax", "switch"]))
    "no mechanism 'topk_sofmax'; did you mean 'topk-softmax'?"
    """
    choices = sorted(choices)
    given = given if len(given) <= 60 else given[:59] + "…"  # a link may say anything, at any length
    near = difflib.get_close_matches(given, choices, n=1, cutoff=0.6)
    if near:
        return UnknownName(f"no {kind} {given!r}; did you mean {near[0]!r}?")
    shown = ", ".join(choices[:30]) + (", ..." if len(choices) > 30 else "")
    return UnknownName(f"no {kind} {given!r}; there are: {shown or 'none'}")
