"""A comparison in the background: the rows of `compare` one by one as they finish, with progress, and stopped at once."""

import threading
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from explorer.catalogue import spec
from explorer.comparison import READ, Planned, check, row
from explorer.errors import BadValue, ExplorerError
from explorer.parallel import Pool

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True)
class Row:
    """One run that has ended. values: the numbers of `compare`, by column; {} where `error` says what went wrong."""

    experiment: int
    mechanism: str
    seed: int
    values: Mapping[str, float]
    error: str = ""


class Sweep:
    """Every experiment with every seed, trained for `steps` steps by other processes while this one goes on.

        sweep = Sweep(["switch", {"mechanism": "topk-softmax", "k": 1}], seeds=range(3), task="text", layers=2).start()
        sweep.finished, sweep.of, sweep.rows        at any time
        sweep.wait().frame()                        the table; or sweep.stop()

    experiments: names of mechanisms, or the arguments of `Experiment` by name; shared: arguments of all of them. match:
    "parameters" or "flops" fits the width of the others to the first one's count, in the worker; what cannot be matched is a
    row with an error. backend: see explorer.parallel.Pool. The numbers are those of running the same experiments here.
    """

    def __init__(
        self,
        experiments: Iterable[str | Mapping[str, Any]],
        seeds: Iterable[int] = range(3),
        steps: int = 200,
        match: str | None = None,
        backend: str | None = None,
        jobs: int | None = None,
        **shared: Any,
    ) -> None:
        given = [{"mechanism": one} if isinstance(one, str) else dict(one) for one in experiments]
        self.recipes, self.seeds, self.match = [{**shared, **one} for one in given], tuple(seeds), match
        if not self.recipes or not self.seeds:
            raise BadValue("a sweep needs at least one experiment and one seed")
        for recipe in self.recipes:
            spec(recipe["mechanism"])
        check(steps, match)
        self.steps, self._pool, self.at_once = steps, Pool(backend, jobs), 0
        self.error = ""  # why none of the rows could be had
        self._rows: list[Row] = []
        self._stop = threading.Event()
        self._began = self._ended = 0.0
        self._thread: threading.Thread | None = None

    @property
    def rows(self) -> tuple[Row, ...]:
        """Those that have ended, in that order."""
        return tuple(self._rows)

    @property
    def finished(self) -> int:
        return len(self._rows)

    @property
    def of(self) -> int:
        return len(self.recipes) * len(self.seeds)

    @property
    def running(self) -> bool:
        """Whether rows may still come."""
        return self._thread is not None and not self._ended and not self._stop.is_set()

    @property
    def stopped(self) -> bool:
        """Whether somebody stopped it before its end."""
        return self._stop.is_set()

    def seconds(self) -> float:
        """How long it has run, or ran."""
        return (self._ended or time.monotonic()) - self._began if self._began else 0.0

    def seconds_left(self) -> float | None:
        """About; None before the first row has finished."""
        took = [one.values["seconds"] for one in self._rows if one.values]
        if not took or not self.running:
            return None
        # those at work now are half done, on the average
        undone = max(0.5, self.of - self.finished - min(self.at_once, self.of - self.finished) / 2)
        return sum(took) / len(took) * undone / max(1, min(self.at_once, self.of))

    def start(self) -> "Sweep":
        """Begin; returns at once. A sweep runs once."""
        if self._thread is not None:
            raise BadValue("this sweep has been started before: make another one")
        self._began = time.monotonic()
        self._thread = threading.Thread(target=self._run, name="sweep", daemon=True)
        self._thread.start()
        return self

    def stop(self) -> None:
        """End it; returns at once. Rows that have finished stay, runs under way are given up."""
        if self.running:
            self._stop.set()

    def wait(self, seconds: float | None = None) -> "Sweep":
        """Until it has ended, or for so many seconds."""
        if self._thread is not None:
            self._thread.join(seconds)
        return self

    def frame(self) -> "pd.DataFrame":
        """The rows in the order of experiments and seeds: the columns of `compare`, without knobs; error where there is one."""
        import pandas as pd

        rows = sorted(self._rows, key=lambda one: (one.experiment, self.seeds.index(one.seed)))
        front = ["experiment", "mechanism", "seed", "parameters", "flops"]
        columns = [*front, *(["mismatch"] if self.match else []), *READ, "steps_per_second", "error"]
        told = [
            {
                "experiment": one.experiment,
                "mechanism": one.mechanism,
                "seed": one.seed,
                **one.values,
                "error": one.error,
            }
            for one in rows
        ]
        return pd.DataFrame(told, columns=columns)

    def _run(self) -> None:
        try:
            plans = self._plans()
            with self._pool as pool:
                self.at_once = pool.at_once
                for place, result in pool.results(_timed, plans, self._stop):
                    self._rows.append(_ended(plans[place], result))
        except ExplorerError as error:
            self.error = str(error)
        except Exception as error:  # noqa: BLE001  a thread of its own: nobody else would ever say it
            self.error = f"{type(error).__name__}: {error}"
        finally:
            self._ended = time.monotonic()

    def _plans(self) -> list[Planned]:
        """The first seed of every experiment first: so that there is something to compare early."""
        like = self.recipes[0]
        plans = []
        for seed in self.seeds:
            for i, recipe in enumerate(self.recipes):
                mechanism = recipe["mechanism"]
                front = {"experiment": i, "mechanism": mechanism, "seed": seed} | (
                    {"mismatch": 0.0} if self.match else {}
                )
                fitted = (self.match, like) if self.match and i else (None, None)
                plans.append(
                    Planned({**recipe, "seed": seed}, self.steps, front, f"{mechanism} with seed {seed}", *fitted)
                )
        return plans


def _timed(plan: Planned) -> dict[str, Any]:
    began = time.perf_counter()
    values = row(plan)
    return {**values, "seconds": time.perf_counter() - began}


def _ended(plan: Planned, result: dict[str, Any] | Exception) -> Row:
    front = plan.front
    place = (front["experiment"], front["mechanism"], front["seed"])
    if isinstance(result, Exception):
        said = str(result) or type(result).__name__
        return Row(*place, {}, said if said.startswith(plan.name) else f"{plan.name}: {said}")
    values = {name: value for name, value in result.items() if name not in ("experiment", "mechanism", "seed")}
    return Row(*place, values)
