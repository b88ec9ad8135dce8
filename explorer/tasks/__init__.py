"""Tasks: small worlds in which a gate has something to decide. Each is a frozen dataclass with a pure `build(seed)`."""

from typing import Any

from explorer.errors import BadValue, unknown
from explorer.tasks.bigram_backcopy import BigramBackcopy
from explorer.tasks.clusters import Clusters
from explorer.tasks.data import UNSCORED, Batch, Data, Task
from explorer.tasks.digit_patches import DigitPatches
from explorer.tasks.digits import Digits
from explorer.tasks.field import Field
from explorer.tasks.ode_families import OdeFamilies
from explorer.tasks.selective_copy import SelectiveCopy
from explorer.tasks.split_digits import SplitDigits
from explorer.tasks.text import Text
from explorer.tasks.two_tones import TwoTones

TASKS: dict[str, type] = {
    "text": Text,
    "clusters": Clusters,
    "bigram-backcopy": BigramBackcopy,
    "field": Field,
    "digits": Digits,
    "ode-families": OdeFamilies,
    "digit-patches": DigitPatches,
    "split-digits": SplitDigits,
    "selective-copy": SelectiveCopy,
    "two-tones": TwoTones,
}

__all__ = [
    "TASKS",
    "UNSCORED",
    "Batch",
    "BigramBackcopy",
    "Clusters",
    "Data",
    "DigitPatches",
    "Digits",
    "Field",
    "OdeFamilies",
    "SelectiveCopy",
    "SplitDigits",
    "Task",
    "Text",
    "TwoTones",
    "task",
]


def task(given: Any) -> Task:
    """A task object: the one given, or the one of that name with its defaults.

    >>> task("clusters").dimensions
    16
    """
    if isinstance(given, str):
        if given not in TASKS:
            raise unknown("task", given, TASKS)
        given = TASKS[given]
    if isinstance(given, type) and given in TASKS.values():
        return given()
    if isinstance(given, type) or not callable(getattr(given, "build", None)):
        raise BadValue(f"a task is a name ({', '.join(TASKS)}) or an object with build(seed), not {given!r}")
    return given
