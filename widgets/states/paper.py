"""What a mechanism's paper found beside what was measured here, variant by variant, from the catalogue's verdicts."""

import math
import re
from collections import Counter
from dataclasses import dataclass
from functools import cache
from typing import Any

from widgets.states import gallery

TIMES = re.compile(r"= ([0-9.]+)x$")  # how a claim reports the paper's ratio: 0.048 / 0.467 = 0.10x
LEAST = 3  # variants worth a picture


@dataclass(frozen=True)
class Beside:
    """One row a variant: the paper's ratio (NaN where it gives none), ours, and the smallest and largest of our seeds."""

    names: list[str]
    paper: list[float]
    here: list[float]
    low: list[float]
    high: list[float]
    what: str


@cache
def beside(mechanism: str) -> Beside | None:
    """The ratios of the measure that most claims of a mechanism are about; None where too few were tried."""
    entry: dict[str, Any] = next((one for one in gallery.catalogue() if one["name"] == mechanism), {})
    tried = [one for one in entry.get("claims", ()) if one["effect"] == "ratio" and _known(one["verdict"])]
    if not tried:
        return None
    metric, _ = Counter(one["metric"] for one in tried).most_common(1)[0]
    rows = [one for one in tried if one["metric"] == metric and one["control_is"] == tried[0]["control_is"]]
    papers = [float(found[1]) if (found := TIMES.search(one["reported"])) else math.nan for one in rows]
    if len(rows) < LEAST or all(map(math.isnan, papers)):
        return None
    verdicts = [one["verdict"] for one in rows]
    spreads = [[value for value in one["spread"] if value is not None] for one in verdicts]
    names = [one["name"].replace("-", " ") for one in rows]
    what = f"{metric.replace('_', ' ')}, as a multiple of that of {tried[0]['control_is']}"
    return Beside(names, papers, [one["effect"] for one in verdicts], [*map(min, spreads)], [*map(max, spreads)], what)


def _known(verdict: dict[str, Any] | None) -> bool:
    return verdict is not None and verdict["effect"] is not None and any(one is not None for one in verdict["spread"])
