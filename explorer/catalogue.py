"""The catalogue: every mechanism by its stable name, with what a reader, a menu and a test need to know about it."""

import inspect
import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from explorer.errors import BadValue, unknown

if TYPE_CHECKING:
    import pandas as pd
    from torch import nn

FAMILIES = ("routing", "attention", "mixing", "depth", "conversion", "adapters", "estimation", "serving")
LABS = ("routing", "attention")  # the families with a lab of their own
# the socket of a host that a mechanism fills; a stack fills all, a readout stands behind them
SLOTS = ("router", "attention", "feed-forward", "stack", "readout")


@dataclass(frozen=True)
class Paper:
    """Where a mechanism was published; `arxiv` is the bare number, as in 2401.04088."""

    title: str
    authors: str
    year: int
    arxiv: str


@dataclass(frozen=True)
class Knob:
    """One setting of a mechanism: what a control shows and what a value is checked against. The default is the paper's."""

    default: Any
    meaning: str
    low: float | None = None
    high: float | None = None
    choices: tuple[Any, ...] | None = None
    live: bool = False  # may change in the middle of a run: no parameter's shape depends on it
    above: bool = False  # `low` itself is excluded

    def check(self, name: str, value: Any) -> Any:
        """The value in the default's type; BadValue says what would be right."""
        if self.choices is not None:
            if value not in self.choices:
                raise BadValue(f"{name}={_shown(value)}: choose one of {', '.join(map(repr, self.choices))}")
            return value
        kind = type(self.default)
        if kind is bool and isinstance(value, str):
            value = {"true": True, "false": False}.get(value.lower(), value)  # as an address or a shell spells it
        try:
            right = value if isinstance(value, kind) and kind is not int else kind(value)
            exact = kind is str or (isinstance(value, bool) is (kind is bool) and right == float(value) < math.inf)
        except (TypeError, ValueError, OverflowError):
            exact = False
        low_ok = self.low is None or (exact and (right > self.low if self.above else right >= self.low))
        if not (exact and low_ok and (self.high is None or right <= self.high)):
            raise BadValue(f"{name}={_shown(value)}: it must be {self.range_in_words()}")
        return right

    def range_in_words(self) -> str:
        kind = {int: "a whole number", float: "a number", bool: "True or False"}.get(type(self.default), "text")
        low = "" if self.low is None else (f" above {self.low:g}" if self.above else f" of at least {self.low:g}")
        high = "" if self.high is None else f" and at most {self.high:g}" if low else f" of at most {self.high:g}"
        return kind + low + high


def _shown(value: Any) -> str:
    """What a message quotes of a value: an address may hold a hundred thousand digits."""
    try:
        text = repr(value)
    except ValueError:  # an int of more digits than Python writes out
        text = f"({type(value).__name__} too long to show)"
    return text if len(text) <= 60 else text[:57] + "..."


@dataclass(frozen=True)
class Claim:
    """A sentence of a paper, and the tiny experiment with its control that tries it (run by `explorer.verify`).

    Either `metric` names a reading of explorer.readings, read off an experiment with `setup` and off one with
    `setup | control`; or `measure(seed)` returns (value, baseline) itself, and `metric` says in words what they are.
    setup: knobs of the mechanism and of explorer.experiment.SETTINGS, and besides them
        mechanism   where it is not the claim's own (a control that is another mechanism)
        task        a name, or a mapping of its "name" and its settings
        steps       how long to train
        after       live knobs to change in the trained model before reading
    and in the control, None takes a setting away, which another mechanism may not have.
    effect: "value" (and the baseline must then fail the same threshold), "ratio" value/baseline, "difference" value-baseline.
    `relation` and `threshold` are what the effect's mean over the seeds is held to. None: reported, never judged.
    """

    name: str
    statement: str
    source: str
    reported: str  # the paper's own figure, or "" where it gives none
    metric: str
    threshold: float | None
    relation: str = "<="
    effect: str = "value"
    setup: Mapping[str, Any] | None = None
    control: Mapping[str, Any] | None = None
    control_metric: str = ""  # another reading for the baseline, of the same run where there is no `control`
    control_is: str = ""  # the baseline in words
    why: str = ""  # the reason for the threshold
    measure: Callable[[int], tuple[float, float]] | None = None

    def __post_init__(self) -> None:
        if self.relation not in RELATIONS:
            raise BadValue(f"claim {self.name!r}: relation {self.relation!r} must be one of {', '.join(RELATIONS)}")
        if self.effect not in EFFECTS:
            raise BadValue(f"claim {self.name!r}: effect {self.effect!r} must be one of {', '.join(EFFECTS)}")
        if (self.setup is None) == (self.measure is None):
            raise BadValue(f"claim {self.name!r} needs either a setup or a measure")
        if self.setup is not None and not isinstance(self.setup.get("steps"), int):
            raise BadValue(f"claim {self.name!r}: its setup must say for how many steps to train")
        if self.threshold is not None and not (self.measure or self.control or self.control_metric):
            raise BadValue(f"claim {self.name!r} is judged, so it needs a control")


RELATIONS = ("<=", ">=", "<", ">", "==")
EFFECTS = ("value", "ratio", "difference")


@dataclass(frozen=True)
class Spec:
    """Everything about a mechanism that is not its mathematics."""

    name: str
    title: str
    family: str
    slot: str
    paper: Paper
    lab: str  # whose, as in "Mistral AI"
    summary: str  # one sentence for a card
    equation: str  # LaTeX, without the dollar signs; `\\knob{capacity_factor}{c}`: the symbol c, a knob's value
    knobs: Mapping[str, Knob]
    pitfalls: tuple[str, ...]
    reference: str  # the independent implementation that the tests compare with
    claims: tuple[Claim, ...]
    cls: "type[nn.Module]"

    def formula(self, values: Mapping[str, Any] | None = None) -> str:
        """The equation as plain LaTeX, with symbols, or with what `values` says of the knobs in their places."""

        def place(found: "re.Match[str]") -> str:
            knob, symbol = found.groups()
            return symbol if values is None or knob not in values else _number(values[knob])

        return KNOB_IN_EQUATION.sub(place, self.equation)

    @property
    def source(self) -> str:
        """The mechanism's own file, as text."""
        return Path(inspect.getsourcefile(self.cls) or "").read_text(encoding="utf-8")

    @property
    def page(self) -> str:
        """The lab that shows it, and in which state."""
        return f"labs/{self.family}.ipynb?mechanism={self.name}" if self.family in LABS else ""

    def check(self, knobs: Mapping[str, Any]) -> dict[str, Any]:
        """`knobs` completed with the defaults, each in its type and range; an unknown name is an error."""
        for name in knobs:
            if name not in self.knobs:
                raise unknown(f"knob of {self.name}", name, self.knobs)
        whole = {name: knob.check(name, knobs.get(name, knob.default)) for name, knob in self.knobs.items()}
        if "k" in whole and whole["k"] > whole.get("n_experts", whole["k"]):
            raise BadValue(f"k={whole['k']}: it must be at most the number of experts, n_experts={whole['n_experts']}")
        return whole


KNOB_IN_EQUATION = re.compile(r"\\knob\{(\w+)\}\{((?:[^{}]|\{[^{}]*\})*)\}")  # the symbol may have braces of its own


def _number(value: Any) -> str:
    """A knob's value in a formula."""
    return f"{value:g}" if isinstance(value, int | float) and not isinstance(value, bool) else rf"\text{{{value}}}"


_SPECS: dict[str, Spec] = {}
Module = TypeVar("Module", bound="type[nn.Module]")


def mechanism(name: str, **card: Any) -> Callable[[Module], Module]:
    """Class decorator that puts a mechanism into the catalogue; `card` holds the other fields of its Spec."""

    def register(cls: Module) -> Module:
        if not cls.__module__.startswith("explorer."):
            _cards()  # a mechanism of the user's comes after ours
        spec = Spec(name=name, cls=cls, **{"claims": (), **card})
        if name in _SPECS:
            raise BadValue(f"two mechanisms are called {name!r}: {_SPECS[name].cls.__name__} and {cls.__name__}")
        if spec.family not in FAMILIES or spec.slot not in SLOTS:
            raise BadValue(
                f"{name}: family {spec.family!r} and slot {spec.slot!r} must be among {FAMILIES} and {SLOTS}"
            )
        defaults = {
            p.name: p.default for p in inspect.signature(cls).parameters.values() if p.name not in ("d_model", "self")
        }
        for knob, declared in spec.knobs.items():
            if knob not in defaults or defaults[knob] != declared.default:
                raise BadValue(
                    f"{name}: knob {knob!r} says {declared.default!r}, the constructor {defaults.get(knob)!r}"
                )
        _check_equation(spec)
        if missing := defaults.keys() - spec.knobs.keys():
            raise BadValue(f"{name}: constructor arguments without a Knob: {', '.join(sorted(missing))}")
        _SPECS[name] = spec
        return cls

    return register


def _check_equation(spec: Spec) -> None:
    """Every knob in it is written as one, and is one."""
    if r"\knob" in KNOB_IN_EQUATION.sub("", spec.equation):
        raise BadValue(f"{spec.name}: its equation has a \\knob that is not written \\knob{{name}}{{symbol}}")
    for knob, _ in KNOB_IN_EQUATION.findall(spec.equation):
        if knob not in spec.knobs:
            raise BadValue(f"{spec.name}: its equation names a knob {knob!r} that it does not have")


def _cards() -> dict[str, Spec]:
    """All cards, in reading order; the first call imports the mechanisms, and torch with them."""
    import explorer.mechanisms  # noqa: F401

    return _SPECS


def names(family: str | None = None) -> list[str]:
    """The names of all mechanisms, or of one family, in reading order."""
    if family is not None and family not in FAMILIES:
        raise unknown("family", family, FAMILIES)
    return [name for name, one in _cards().items() if family in (None, one.family)]


def spec(name: str) -> Spec:
    """The card of a mechanism."""
    cards = _cards()
    if name not in cards:
        raise unknown("mechanism", name, cards)
    return cards[name]


def build(name: str, *, d_model: int = 64, **knobs: Any) -> "nn.Module":
    """A fresh mechanism of width `d_model`; knobs not given have the paper's defaults."""
    card = spec(name)
    if isinstance(d_model, bool) or not isinstance(d_model, int) or d_model < 1:
        raise BadValue(f"d_model={d_model!r}: it must be a whole number of at least 1")
    return card.cls(d_model, **card.check(knobs))


def catalogue() -> "pd.DataFrame":
    """One row a mechanism: name, family, title, year, arxiv, lab, reference, claims (how many)."""
    import pandas as pd

    rows = [
        (s.name, s.family, s.title, s.paper.year, s.paper.arxiv, s.lab, s.reference, len(s.claims))
        for s in _cards().values()
    ]
    return pd.DataFrame(rows, columns=["name", "family", "title", "year", "arxiv", "lab", "reference", "claims"])
