"""Many runs at once through joblib: on all cores of this machine by default, or on a Dask or Ray cluster."""

import importlib
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, TypeVar

import torch

from explorer.catalogue import _SPECS, Spec, names, spec
from explorer.errors import BadValue, ExplorerError, unknown

Task = TypeVar("Task")
Result = TypeVar("Result")
# torch's default generator and its number of threads belong to the process: a worker with several threads (Dask's, as a
# rule) must not run two experiments in it at once
_ALONE = threading.Lock()


def in_parallel(
    work: Callable[[Task], Result],
    tasks: Sequence[Task],
    backend: str | None = None,
    jobs: int | None = None,
    done: Callable[[int, int], None] | None = None,
) -> list[Result]:
    """[work(task) for each task], each with one torch thread, so that the result is the same wherever it runs.

    backend: None for loky (processes on this machine), "dask" for the current distributed.Client, or what joblib knows by
    that name. jobs: how many at once (None: as many as there are cores, or as the cluster takes). done(how many, of how
    many) is called whenever the next task in order has finished.
    """
    if jobs is not None and (isinstance(jobs, bool) or not isinstance(jobs, int) or jobs < 1):
        raise BadValue(f"jobs={jobs!r}: it must be a whole number of at least 1, or None for all cores")
    import joblib

    if backend is None:
        at_once = min(jobs or joblib.cpu_count(), max(1, len(tasks)))
        chosen = joblib.parallel_config(backend="loky", n_jobs=at_once, inner_max_num_threads=1)
    else:
        _check(backend)
        chosen = joblib.parallel_config(backend=backend, n_jobs=jobs or -1)
    own = [card for card in map(spec, names()) if not card.cls.__module__.startswith("explorer.")]
    calls = [joblib.delayed(_alone)(work, task, own) for task in tasks]
    with chosen:
        if done is None:
            return list(joblib.Parallel()(calls))
        results: list[Result] = []
        for result in joblib.Parallel(return_as="generator")(calls):
            results.append(result)
            done(len(results), len(tasks))
        return results


@contextmanager
def naming(what: str) -> Iterator[None]:
    """An error in here comes out as one sentence that begins with `what`: among thirty runs, which one it was."""
    try:
        yield
    except ExplorerError as error:
        raise ExplorerError(f"{what}: {error}") from error
    except Exception as error:
        raise ExplorerError(f"{what}: {type(error).__name__}: {error}") from error


def _alone(work: Callable[[Task], Result], task: Task, cards: list[Spec]) -> Result:
    """In the worker: `cards` are the mechanisms of the caller's own, which a fresh process has never heard of."""
    with _ALONE:
        for card in cards:
            _SPECS.setdefault(card.name, card)
        threads = torch.get_num_threads()
        torch.set_num_threads(1)
        try:
            return work(task)
        finally:
            torch.set_num_threads(threads)


def _check(backend: str) -> None:
    """Make sure that joblib will find the backend, and that there is a cluster behind it."""
    from joblib.parallel import BACKENDS, EXTERNAL_BACKENDS

    known: dict[str, Any] = {**BACKENDS, **EXTERNAL_BACKENDS}
    if backend == "dask":
        _check_dask()
    elif backend == "ray":
        try:
            ray = importlib.import_module("ray.util.joblib")
        except ImportError as error:
            raise ExplorerError("backend='ray' needs Ray: pip install ray") from error
        ray.register_ray()
    elif backend not in known:
        raise unknown("joblib backend", backend, [*known, "dask", "ray"])


def _check_dask() -> None:
    try:
        distributed = importlib.import_module("distributed")
    except ImportError as error:
        raise ExplorerError("backend='dask' needs Dask: pip install 'dask[distributed]'") from error
    try:
        distributed.get_client()
    except ValueError as error:
        raise ExplorerError("backend='dask' needs a cluster: make a dask.distributed.Client() first") from error
