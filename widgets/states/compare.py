"""What a comparison of routers is about, and its outcome as a ranked table of plain rows."""

import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlencode

import traitlets as t

import explorer
from explorer.catalogue import Knob
from explorer.errors import BadValue, ExplorerError, unknown
from explorer.sweep import Row, Sweep
from widgets.states import links
from widgets.states.lab import LabState, _carried, typed

MOST_SEEDS = 10
MOST_STEPS = 2000
SCHEDULER = re.compile(r"(tcp|tls|ws|wss)://[\w.\-\[\]:]{1,200}:\d{1,5}")

APART, WITHIN, ALONE = "better with every seed", "within the spread", "one seed: spread unknown"


@dataclass(frozen=True)
class Column:
    """A number of the table: what it is called, which way is better, how it is written, what it means."""

    title: str
    better: str  # "lower" or "higher"
    form: str
    meaning: str


COLUMNS = {
    "held_out_loss": Column("held-out loss", "lower", ".4f", "on data that training never sees"),
    "training_loss": Column("training loss", "lower", ".4f", "mean of the last tenth of the steps"),
    "flops": Column("FLOPs a token", "lower", ",.0f", "active ones, of the whole model"),
    "parameters": Column("parameters", "lower", ",.0f", "of the whole model"),
    "max_violation": Column(
        "MaxVio", "lower", ".2f", "how far the busiest expert is above its fair share; worst layer"
    ),
    "load_entropy": Column("entropy of the load", "higher", ".3f", "1: every expert has the same share; worst layer"),
    "dead_experts": Column("dead experts", "lower", ".1%", "share below 1 % of the mean load; worst layer"),
    "tokens_without_expert": Column(
        "tokens without an expert", "lower", ".1%", "for want of room, or because no expert chose them"
    ),
    "token_entropy": Column("entropy of a token", "lower", ".3f", "0: the router is sure about a token"),
    "nmi": Column("NMI", "higher", ".3f", "how much the expert tells about the label: specialisation"),
    "steps_per_second": Column("steps a second", "higher", ".1f", "where it ran, beside whatever else ran there"),
}


@dataclass(frozen=True)
class Spread:
    """A measure over the seeds that are done."""

    mean: float
    low: float
    high: float
    seeds: int

    def overlaps(self, other: "Spread") -> bool:
        return self.low <= other.high and other.low <= self.high


@dataclass(frozen=True)
class Line:
    """A router's place in the table. rank: None where it has not the measure; next: against the one that follows."""

    rank: int | None
    mechanism: str
    spreads: Mapping[str, Spread]
    mismatch: float | None
    next: str
    errors: tuple[str, ...]


class CompareState(t.HasTraits):
    """What is chosen. The task, the host and its settings are those of the lab's page."""

    mechanisms = t.Tuple(("topk-softmax", "switch", "expert-choice", "hash-routing"))  # the first: what others match
    seeds = t.Int(3)
    steps = t.Int(150)
    match = t.Enum(("none", "parameters", "flops"), "none")
    by = t.Enum(tuple(COLUMNS), "held_out_loss")
    where = t.Enum(("here", "dask"), "here")
    address = t.Unicode("")
    asked = t.Bool(False)  # whether a link asked for a comparison

    def check(self, known: Sequence[str]) -> None:
        """That this can be compared, or one sentence about what would be right."""
        for name in self.mechanisms:
            if name not in known:
                raise unknown("mechanism of this lab", name, known)
        if len(set(self.mechanisms)) < 2:
            raise BadValue("choose at least two routers to compare")
        Knob(3, "", low=1, high=MOST_SEEDS).check("seeds", self.seeds)
        Knob(150, "", low=1, high=MOST_STEPS).check("steps", self.steps)
        if self.where == "dask" and not SCHEDULER.fullmatch(self.address.strip()):
            raise BadValue("give the address of a Dask scheduler as it prints it, such as tcp://10.0.0.5:8786")

    def recipes(self, page: LabState) -> list[dict[str, Any]]:
        """The experiments: the page's task and A's values wherever a router knows them, as for a run beside A."""
        task, before = page.make_task(), page.defaults(page.mechanism)
        made = []
        for name in self.mechanisms:
            values = page.values if name == page.mechanism else _carried(page.values, before, page.defaults(name))
            made.append({"mechanism": name, "task": task, **values})
        return made

    def seed_numbers(self, page: LabState) -> range:
        """The page's seed, and those that follow."""
        return range(page.seed, min(page.seed + self.seeds, 2**32))

    def sweep(self, page: LabState) -> Sweep:
        """What Start starts."""
        self.check(page.mechanisms())
        backend = self.address.strip() if self.where == "dask" else None
        match = None if self.match == "none" else self.match
        return Sweep(self.recipes(page), self.seed_numbers(page), self.steps, match, backend)

    def script(self, page: LabState) -> str:
        """The Python lines that make the same table."""
        from explorer.script import _task

        task, imports = _task(page.make_task())
        seeds = self.seed_numbers(page)
        lines = [*imports, "from explorer.sweep import Sweep", "", f"task = {task}", "experiments = ["]
        for recipe in self.recipes(page):
            name = recipe.pop("mechanism")
            plain = {key: knob.default for key, knob in page.knobs(name).items()}
            given = {key: value for key, value in recipe.items() if key != "task" and value != plain[key]}
            lines.append(f"    { ({'mechanism': name} | given)!r},")
        options = [f"seeds=range({seeds.start}, {seeds.stop})", f"steps={self.steps}"]
        options += [f"match={self.match!r}"] if self.match != "none" else []
        options += [f"backend={self.address.strip()!r}"] if self.where == "dask" else []
        lines += ["]", f"sweep = Sweep(experiments, task=task, {', '.join(options)}).start()"]
        return "\n".join([*lines, "table = sweep.wait().frame()  # a pandas table: one row a router and seed", ""])

    # -- its part of the page's link ---------------------------------------------------------------------------------
    def link(self) -> str:
        """`compare=switch,sinkhorn&compare.seeds=5`, once a comparison was asked for; an address stays on the page."""
        if not self.asked:
            return ""
        given = {f"compare.{name}": getattr(self, name) for name in ("seeds", "steps", "match", "by")}
        plain = {f"compare.{name}": self.trait_defaults(name) for name in ("seeds", "steps", "match", "by")}
        return "&".join(filter(None, [urlencode({"compare": ",".join(self.mechanisms)}), links.write(given, plain)]))

    def read(self, query: str, known: Sequence[str]) -> tuple[str, list[str]]:
        """(the rest of the query, notices about what was not understood)."""
        pairs = [part.partition("=") for part in query.split("&")]
        own = "&".join("".join(part) for part in pairs if part[0].partition(".")[0] == "compare")
        rest = "&".join("".join(part) for part in pairs if part[0].partition(".")[0] != "compare")
        given, notices = links.read(own)
        for key, value in given.items():
            try:
                self._set(key, value, known)
                self.asked = True
            except (ExplorerError, t.TraitError) as error:
                said = str(error) if isinstance(error, ExplorerError) else "it is none of those that can be chosen"
                notices.append(f"{links.short(key)}={links.short(value)} was ignored: {links.short(said, 300)}")
        return rest, notices

    def _set(self, key: str, value: str, known: Sequence[str]) -> None:
        limits = {"compare.seeds": MOST_SEEDS, "compare.steps": MOST_STEPS}
        if key == "compare":
            wanted = value.split(",")
            for name in wanted:
                if name not in known:
                    raise unknown("mechanism of this lab", name, known)
            self.mechanisms = tuple(dict.fromkeys(wanted))
        elif key in limits:
            name = key.partition(".")[2]
            setattr(self, name, Knob(1, "", low=1, high=limits[key]).check(name, typed(value)))
        elif key in ("compare.match", "compare.by"):
            setattr(self, key.partition(".")[2], value)
        else:
            raise unknown("setting of the comparison", key, [*limits, "compare", "compare.match", "compare.by"])


def ranked(rows: Iterable[Row], by: str = "held_out_loss") -> list[Line]:
    """One line a router, the best mean of `by` first; then those that have no such number, then those that failed."""
    by_router: dict[tuple[int, str], list[Row]] = {}
    for row in rows:
        by_router.setdefault((row.experiment, row.mechanism), []).append(row)
    sign = 1 if COLUMNS[by].better == "lower" else -1
    drafts = []
    for (number, name), own in by_router.items():
        spreads = _spreads(own)
        failed = not spreads
        place = (failed, by not in spreads, sign * spreads[by].mean if by in spreads else 0.0, number)
        drafts.append((place, name, spreads, own))
    drafts.sort(key=lambda one: one[0])
    lines = []
    for i, (_, name, spreads, own) in enumerate(drafts):
        following = drafts[i + 1][2].get(by) if i + 1 < len(drafts) else None
        said = _against(spreads.get(by), following)
        left = [row.values["mismatch"] for row in own if "mismatch" in row.values]
        lines.append(
            Line(i + 1 if by in spreads else None, name, spreads, left[0] if left else None, said, _errors(own))
        )
    return lines


def _spreads(rows: Sequence[Row]) -> dict[str, Spread]:
    """Of the columns that this router has."""
    found = {}
    for name in COLUMNS:
        values = [float(row.values[name]) for row in rows if math.isfinite(row.values.get(name, math.nan))]
        if values:
            found[name] = Spread(sum(values) / len(values), min(values), max(values), len(values))
    return found


def _against(one: Spread | None, other: Spread | None) -> str:
    """What may be said of the difference to the next: seeds differ too."""
    if one is None or other is None:
        return ""
    if min(one.seeds, other.seeds) < 2:
        return ALONE
    return WITHIN if one.overlaps(other) else APART


def _errors(rows: Sequence[Row]) -> tuple[str, ...]:
    """Each different sentence once, with the seeds that it is about."""
    about: dict[str, list[int]] = {}
    for row in rows:
        if row.error:
            about.setdefault(row.error.partition(": ")[2] or row.error, []).append(row.seed)
    return tuple(
        f"{rows[0].mechanism} with seed{'s' if len(seeds) > 1 else ''} {', '.join(map(str, sorted(seeds)))}: {said}"
        for said, seeds in about.items()
    )


def verdict(lines: Sequence[Line], by: str) -> str:
    """What the table says, in one or two sentences; no winner where the spreads overlap."""
    column, first = COLUMNS[by], [line for line in lines if line.rank]
    if not first:
        return f"None of these routers has a number for {column.title}." if lines else ""
    best = first[0]
    lowest = f"{column.better.removesuffix('er').capitalize()}est mean of {column.title}"
    said = f"{lowest}: {explorer.spec(best.mechanism).title}, {best.spreads[by].mean:{column.form}}"
    if len(first) == 1:
        return f"{said}."
    if best.next == APART:
        return f"{said}. With every seed it is better than the next."
    if best.next == ALONE:
        return f"{said}. One seed says nothing about chance: three or more do."
    return f"{said}. But the next is within the spread of the seeds: this shows no winner."


def seed_words(seeds: range) -> str:
    """Which seeds."""
    return f"seed {seeds[0]}" if len(seeds) == 1 else f"seeds {seeds[0]} to {seeds[-1]}"


def progress_words(sweep: Sweep) -> str:
    """How far it is, and how long it will take."""
    of = f"{sweep.finished} of {sweep.of} runs"
    if sweep.error:
        return f"{of}; it ended early."
    if sweep.stopped:
        return f"Stopped after {of}."
    if not sweep.running:
        return f"{of}; done in {_seconds(sweep.seconds())}."
    if (left := sweep.seconds_left()) is not None:
        return f"{of}; about {_seconds(left)} left."
    return f"{of}; {'the workers are starting' if sweep.at_once or sweep.seconds() < 5 else 'no worker has come yet'}."


def _seconds(seconds: float) -> str:
    """Rounded, so that it does not flicker."""
    if seconds < 90:
        return f"{max(1, round(seconds)) if seconds < 10 else 5 * round(seconds / 5)} s"
    return f"{round(seconds / 60)} min"
