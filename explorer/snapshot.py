"""The catalogue as plain data with the verdicts on its claims: what a page reads that must not wait for torch.

A claim's verdict carries a digest of the claim that was tried, so that a claim changed since then is known to be untried.
"""

import ast
import hashlib
import inspect
import json
import math
import textwrap
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import asdict, fields
from datetime import date
from types import FunctionType
from typing import Any

from explorer.catalogue import Claim, Spec, names, spec

SEEDS = (
    0,
    1,
    2,
    3,
    4,
    5,
)  # some thresholds were chosen by a look at the first three: the others have not been looked at
Entry = dict[str, Any]  # a mechanism: what `card` says, and "measured": when and with what, or None


def write(
    before: Iterable[Entry],
    measure: Iterable[str],
    jobs: int | None = None,
    done: Callable[[int, int], None] | None = None,
) -> list[Entry]:
    """The whole catalogue anew: every card from its Spec, the verdicts of `measure` by trial, the others as `before`."""
    from explorer.claims import verify

    known, chosen = {entry["name"]: entry for entry in before}, list(measure)
    verdicts = {(v.mechanism, v.claim): asdict(v) for v in verify(chosen, SEEDS, jobs, done)} if chosen else {}
    return [_entry(spec(name), known.get(name, {}), verdicts, name in chosen) for name in names()]


def stale(before: Iterable[Entry]) -> list[str]:
    """The mechanisms of which a claim was never tried as it now stands."""
    tried = {(entry["name"], digest) for entry in before for digest in _digests(entry)}
    return [name for name in names() if any((name, digest(claim)) not in tried for claim in spec(name).claims)]


def card(one: Spec) -> Entry:
    """What a page says about a mechanism, its claims without their verdicts."""
    plain = ("name", "title", "family", "slot", "lab", "summary", "page")
    return {
        **{name: getattr(one, name) for name in plain},
        "equation": one.formula(),
        "paper": asdict(one.paper),
        "claims": [_claim(claim) for claim in one.claims],
    }


def digest(claim: Claim) -> str:
    """Sixteen hexadecimal digits of everything that a verdict on the claim depends on, the code of `measure` included."""
    content = {field.name: getattr(claim, field.name) for field in fields(claim) if field.name != "measure"}
    content["measure"] = [_bare(function) for function in _functions(claim.measure)]
    return hashlib.sha256(json.dumps(content, sort_keys=True, default=_plain).encode()).hexdigest()[:16]


# -- an entry ----------------------------------------------------------------------------------------------------------


def _entry(one: Spec, before: Entry, verdicts: Mapping[tuple[str, str], Any], fresh: bool) -> Entry:
    entry = card(one)
    old = {claim["name"]: claim.get("verdict") for claim in before.get("claims", ())}
    for claim, shown in zip(one.claims, entry["claims"], strict=True):
        found = verdicts.get((one.name, claim.name))
        shown["verdict"] = _verdict(found, digest(claim)) if found else old.get(claim.name)
    return entry | {"measured": _measured() if fresh else before.get("measured")}


def _claim(claim: Claim) -> dict[str, Any]:
    from explorer.readings import READINGS

    plain = (
        "name",
        "statement",
        "source",
        "reported",
        "metric",
        "control_is",
        "effect",
        "relation",
        "threshold",
        "why",
    )
    found = READINGS.get(claim.metric)
    meaning = (inspect.getdoc(found.function) or "").split("\n\n")[0].replace("\n", " ") if found else ""
    return {**{name: getattr(claim, name) for name in plain}, "metric_is": meaning, "digest": digest(claim)}


def _verdict(found: Mapping[str, Any], tried: str) -> dict[str, Any]:
    numbers = {name: _number(found[name]) for name in ("value", "baseline", "effect")}
    return {**numbers, "spread": [_number(one) for one in found["spread"]], "holds": found["holds"], "digest": tried}


def _number(value: float) -> float | None:
    """Six digits: the rest differs between processors. None: not a finite number."""
    return float(f"{value:.6g}") if math.isfinite(value) else None


def _measured() -> dict[str, Any]:
    import torch

    import explorer

    versions = {"explorer": explorer.__version__, "torch": torch.__version__.split("+")[0]}
    return {"date": date.today().isoformat(), "seeds": list(SEEDS), "device": "cpu", **versions}


# -- a digest ----------------------------------------------------------------------------------------------------------


def _digests(entry: Entry) -> Iterator[str]:
    return (claim["verdict"]["digest"] for claim in entry["claims"] if claim.get("verdict"))


def _plain(value: Any) -> Any:
    return dict(value) if isinstance(value, Mapping) else repr(value)


def _functions(measure: Callable[..., Any] | None) -> list[FunctionType]:
    """`measure` and the functions of its module that it calls, directly or not.

    A lambda cannot be read back from its file: only what it calls counts.
    """
    found: list[FunctionType] = []
    waiting = [measure]
    while waiting:
        one = waiting.pop(0)
        if isinstance(one, FunctionType) and one not in found:
            found.append(one)
            called = (one.__globals__.get(name) for name in one.__code__.co_names)
            waiting += [f for f in called if isinstance(f, FunctionType) and f.__module__ == one.__module__]
    return [one for one in found if one.__name__ != "<lambda>"]


def _bare(function: FunctionType) -> str:
    """Its code without comments, docstring and layout."""
    tree = ast.parse(textwrap.dedent(inspect.getsource(function)))
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef) and ast.get_docstring(node) is not None:
            node.body = node.body[1:] or [ast.Pass()]
    return ast.unparse(tree)
