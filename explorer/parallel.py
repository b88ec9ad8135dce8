"""Many runs at once: on all cores of this machine by default, or on a Dask or Ray cluster.

`in_parallel` waits for all of them, through joblib; a `Pool` hands them out as they finish, and can be stopped at once.
"""

import importlib
import os
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, BrokenExecutor, CancelledError, Executor, Future, wait
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
LOOK = 0.1  # seconds between two looks at whether a pool has been stopped
ANSWER = 10  # seconds that a scheduler has to answer
QUIET = 5  # niceness of a pool's processes: what the person at the screen does comes first


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
    _check_jobs(jobs)
    import joblib

    if backend is None:
        at_once = min(jobs or joblib.cpu_count(), max(1, len(tasks)))
        chosen = joblib.parallel_config(backend="loky", n_jobs=at_once, inner_max_num_threads=1)
    else:
        _check(backend)
        chosen = joblib.parallel_config(backend=backend, n_jobs=jobs or -1)
    own = _own_mechanisms()
    calls = [joblib.delayed(_alone)(work, task, own) for task in tasks]
    with chosen:
        if done is None:
            return list(joblib.Parallel()(calls))
        results: list[Result] = []
        for result in joblib.Parallel(return_as="generator")(calls):
            results.append(result)
            done(len(results), len(tasks))
        return results


class Pool:
    """Workers whose results are handed out as they finish. They end with the `with`, whatever they are busy with.

    backend: None for processes of this machine, "dask" for the current distributed.Client, or the address of a Dask
    scheduler ("tcp://10.0.0.5:8786"). at_once: how many tasks it works on at a time (0: a cluster without workers yet).
    """

    def __init__(self, backend: str | None = None, jobs: int | None = None) -> None:
        _check_jobs(jobs)
        if backend not in (None, "dask") and "://" not in str(backend):
            raise BadValue(
                f"backend={backend!r}: it must be None, 'dask' or the address of a scheduler, tcp://host:port"
            )
        self.backend, self.jobs, self.at_once = backend, jobs, 0
        self._executor: Executor | None = None
        self._client: Any = None

    def __enter__(self) -> "Pool":
        if self.backend is None:
            import joblib

            self.at_once = self.jobs or joblib.cpu_count()
        else:
            self._client = _current_client() if self.backend == "dask" else _connected(str(self.backend))
            self.at_once = min(self.jobs or sys.maxsize, sum(self._client.nthreads().values()))
        return self

    def __exit__(self, *_: object) -> None:
        self._end()
        if self._client is not None and self.backend != "dask":
            self._client.close(timeout=1)

    def results(
        self, work: Callable[[Task], Result], tasks: Sequence[Task], stop: threading.Event
    ) -> Iterator[tuple[int, Result | Exception]]:
        """(place of the task, what `work` returned or raised) in the order of finishing, until `stop` is set."""
        own, waiting, running = _own_mechanisms(), list(enumerate(tasks))[::-1], dict[Future[Result], int]()
        most = len(tasks) if self._client is not None and self.jobs is None else self.at_once
        while (waiting or running) and not stop.is_set() and not _leaving():
            while waiting and len(running) < most:
                place, task = waiting.pop()
                running[self._submit(_alone, work, task, own)] = place
            for done in wait(running, LOOK, FIRST_COMPLETED).done:
                yield running.pop(done), self._outcome(done)

    def _outcome(self, done: "Future[Any]") -> Any:
        try:
            return done.result()
        except BrokenExecutor:
            self._end()  # the next one gets fresh processes
            return ExplorerError("its process was ended from outside; if memory ran out, fewer at once may help")
        except CancelledError:
            return ExplorerError("the cluster gave it up")
        except Exception as error:  # noqa: BLE001  one that fails is a result too; the others go on
            return error

    def _submit(self, *call: Any) -> "Future[Any]":
        if self._executor is None:
            self._executor = self._client.get_executor(pure=False) if self._client is not None else self._processes()
        try:
            return self._executor.submit(*call)
        except BrokenExecutor:
            self._executor = None
            return self._submit(*call)

    def _processes(self) -> Executor:
        # joblib's Parallel would take this very process for a single worker, and cannot be interrupted
        from joblib.externals.loky import ProcessPoolExecutor

        return ProcessPoolExecutor(
            self.at_once, initializer=_begin, initargs=(os.getpid(),), env={"OMP_NUM_THREADS": "1"}
        )

    def _end(self) -> None:
        executor, self._executor = self._executor, None
        if executor is not None:
            executor.shutdown(wait=False, **({} if self._client is not None else {"kill_workers": True}))


def abandoned() -> bool:
    """In a worker, between two steps: whether nobody waits for this task any more. Processes of a Pool are ended instead."""
    distributed: Any = sys.modules.get("distributed")
    if distributed is None:
        return False
    try:
        worker = distributed.get_worker()
    except ValueError:  # not a worker of Dask
        return False
    task = worker.state.tasks.get(worker.get_current_task())
    return task is None or task.state == "cancelled"


@contextmanager
def naming(what: str) -> Iterator[None]:
    """An error in here comes out as one sentence that begins with `what`: among thirty runs, which one it was."""
    try:
        yield
    except ExplorerError as error:
        raise ExplorerError(f"{what}: {error}") from error
    except Exception as error:
        raise ExplorerError(f"{what}: {type(error).__name__}: {error}") from error


def _leaving() -> bool:
    """Whether this process is about to end: it would wait for busy workers, since daemon threads live on till then."""
    loky: Any = sys.modules.get("joblib.externals.loky.process_executor")
    return loky is not None and loky._global_shutdown


def _begin(parent: int) -> None:
    """In a fresh process of a Pool: leave the cores to others, and end when the parent does, however that ends."""
    if hasattr(os, "nice"):
        os.nice(QUIET)

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(1)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def _own_mechanisms() -> list[Spec]:
    """Those that only this process knows."""
    return [card for card in map(spec, names()) if not card.cls.__module__.startswith("explorer.")]


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


def _check_jobs(jobs: int | None) -> None:
    if jobs is not None and (isinstance(jobs, bool) or not isinstance(jobs, int) or jobs < 1):
        raise BadValue(f"jobs={jobs!r}: it must be a whole number of at least 1, or None for all cores")


def _check(backend: str) -> None:
    """Make sure that joblib will find the backend, and that there is a cluster behind it."""
    from joblib.parallel import BACKENDS, EXTERNAL_BACKENDS

    known: dict[str, Any] = {**BACKENDS, **EXTERNAL_BACKENDS}
    if backend == "dask":
        _current_client()
    elif backend == "ray":
        try:
            ray = importlib.import_module("ray.util.joblib")
        except ImportError as error:
            raise ExplorerError("backend='ray' needs Ray: pip install ray") from error
        ray.register_ray()
    elif backend not in known:
        raise unknown("joblib backend", backend, [*known, "dask", "ray"])


def _current_client() -> Any:
    try:
        return _dask().get_client()
    except ValueError as error:
        raise ExplorerError("backend='dask' needs a cluster: make a dask.distributed.Client() first") from error


def _dask() -> Any:
    try:
        return importlib.import_module("distributed")
    except ImportError as error:
        raise ExplorerError("backend='dask' needs Dask: pip install 'dask[distributed]'") from error


def _connected(address: str) -> Any:
    """A client of its own for the scheduler at this address."""
    distributed = _dask()
    try:
        return distributed.Client(address, timeout=ANSWER, set_as_default=False)
    except (OSError, ValueError, TypeError) as error:
        raise ExplorerError(
            f"no Dask scheduler answers at {address}: is it running, and can this machine reach it?"
        ) from error
