"""A sweep in the background hands out the rows of `compare` one by one, survives what fails, and stops at once."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pandas as pd
import pytest

from explorer import parallel
from explorer.catalogue import _SPECS, Knob, Paper, mechanism
from explorer.comparison import compare
from explorer.errors import BadValue, ExplorerError, UnknownName
from explorer.experiment import Experiment
from explorer.parallel import Pool
from explorer.sweep import Sweep
from explorer.taps import Instrumented

SMALL = {"task": "clusters", "batch": 4}
LONG = 10**6  # steps that nobody waits for


def children() -> set[int]:
    """Process ids of this process's own."""
    found = set()
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = path.read_text().rpartition(")")[2].split()
        except OSError:
            continue
        if int(fields[1]) == os.getpid() and fields[0] != "Z":
            found.add(int(path.parent.name))
    return found


def until(condition, seconds=300.0):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, f"waited {seconds} s in vain"
        time.sleep(0.05)


@pytest.fixture(scope="module")
def swept():
    """One sweep for the tests that only look at it: a router, another of one size, and one that has no size to be fitted."""
    names = ["topk-softmax", "glu", "product-key-memory"]
    return Sweep(names, seeds=[3, 4], steps=5, match="flops", jobs=1, **SMALL).start().wait()


def test_the_numbers_are_those_of_running_the_experiments_here(swept):
    seen = swept.frame().set_index(["mechanism", "seed"])
    here = Experiment("topk-softmax", seed=4, watch=None, **SMALL).run(5)
    row = seen.loc["topk-softmax", 4]
    assert row["held_out_loss"] == here.examine()[0] and row["training_loss"] == here.losses()[-1:].mean().item()
    assert row["flops"] == here.count().flops and row["mismatch"] == 0 and row["error"] == ""


def test_the_table_is_that_of_compare():
    names = ["topk-softmax", "switch"]
    swept = Sweep(names, seeds=[0, 1], steps=5, match="flops", jobs=1, layers=1, batch=2, expert_width=8).start().wait()
    given = [Experiment(name, layers=1, batch=2, expert_width=8, watch=None) for name in names]
    table = compare(given, seeds=[0, 1], steps=5, match="flops", jobs=1)
    columns = [name for name in swept.frame() if name not in ("error", "steps_per_second")]
    assert table["mismatch"].abs().max() < 1 and table["expert_width"].nunique() == 2
    pd.testing.assert_frame_equal(swept.frame()[columns], table[columns], check_dtype=False)


def test_what_cannot_be_matched_says_so_in_its_row_and_the_others_go_on(swept):
    assert (swept.finished, swept.of, swept.running, swept.stopped, swept.error) == (6, 6, False, False, "")
    failed = [row for row in swept.rows if row.error]
    assert {(row.mechanism, row.seed) for row in failed} == {("product-key-memory", 3), ("product-key-memory", 4)}
    for row in failed:
        assert row.values == {} and row.error.startswith(f"product-key-memory with seed {row.seed}: ")
        assert row.error.endswith("so it was not compared") and "\n" not in row.error


def test_an_experiment_that_fails_is_a_row_and_the_others_go_on(own_mechanism):
    given = [{"mechanism": own_mechanism, "fails": True}, {"mechanism": "switch", "n_experts": -1}, "switch"]
    frame = Sweep(given, seeds=[5], steps=2, jobs=1, **SMALL).start().wait().frame()
    raised, wrong, fine = frame["error"]
    assert raised == "test-own with seed 5: ZeroDivisionError: on purpose" and fine == ""
    assert wrong.startswith("switch with seed 5: n_experts=-1: ")
    assert list(frame["held_out_loss"].isna()) == [True, True, False]


@pytest.mark.skipif(not Path("/proc").exists(), reason="finds the workers through /proc, which only Linux has")
def test_stop_ends_the_workers_at_once_and_keeps_what_has_finished(own_mechanism):
    before = children()
    given = [
        {"mechanism": own_mechanism, "fails": True},
        {"mechanism": "switch"},
        {"mechanism": "switch", "jitter": 0.5},
    ]
    sweep = Sweep(given, seeds=[0], steps=LONG, jobs=2, **SMALL).start()
    until(lambda: sweep.finished == 1)
    assert sweep.running and len(children() - before) >= 2
    began = time.monotonic()
    sweep.stop()
    assert time.monotonic() - began < 0.1 and not sweep.running and sweep.stopped
    sweep.wait(5)
    assert time.monotonic() - began < 1 and sweep.finished == 1
    until(lambda: not any("popen_loky" in command(pid) for pid in children() - before), seconds=5)


def command(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/cmdline").read_text()
    except OSError:
        return ""


def test_a_worker_that_is_killed_costs_its_own_run_and_the_others_go_on(own_mechanism):
    given = [{"mechanism": own_mechanism, "dies": True}, "switch", "topk-softmax"]
    sweep = Sweep(given, seeds=[0], steps=2, jobs=1, **SMALL).start().wait()
    died, *fine = sweep.frame()["error"]
    assert died.startswith("test-own with seed 0: its process was ended from outside") and fine == ["", ""]


@pytest.mark.skipif(sys.platform == "win32", reason="needs signals")
@pytest.mark.parametrize("how", [None, signal.SIGKILL])
def test_the_workers_end_with_the_process_that_started_them(how, tmp_path):
    lines = f"""
import time
from explorer.sweep import Sweep
if __name__ == "__main__":
    given = [{{"mechanism": "switch", "n_experts": -1}}, "switch"]
    sweep = Sweep(given, seeds=[0], steps={LONG}, jobs=1, task="clusters", batch=4).start()
    while sweep.finished < 1:
        time.sleep(0.05)
    time.sleep(0.5)
    print(*sweep._pool._executor._processes, flush=True)
    time.sleep({0 if how is None else 600})
"""
    path = tmp_path / "run.py"
    path.write_text(lines)
    process = subprocess.Popen(
        [sys.executable, path], stdout=subprocess.PIPE, text=True, env=os.environ | {"PYTHONPATH": "."}
    )
    assert process.stdout
    worker = int(process.stdout.readline())
    if how is not None:
        process.send_signal(how)
    assert process.wait(30) == (0 if how is None else -how)
    until(lambda: not Path(f"/proc/{worker}").exists() or "popen_loky" not in command(worker))


def test_a_dask_cluster_gives_the_same_rows_and_has_its_workers_back_after_stop(own_mechanism):
    distributed = pytest.importorskip("distributed")
    given, how = ["switch", own_mechanism], {"seeds": [0, 1], **SMALL}
    here = Sweep(given, steps=5, jobs=1, **how).start().wait().frame()
    with (
        distributed.LocalCluster(n_workers=2, threads_per_worker=1, processes=True, dashboard_address=":0") as cluster,
        distributed.Client(cluster) as client,
    ):
        address = cluster.scheduler_address
        for backend in ("dask", address):
            there = Sweep(given, steps=5, backend=backend, **how).start().wait()
            assert there.at_once == 2 and there.error == ""
            columns = [name for name in here if name != "steps_per_second"]
            pd.testing.assert_frame_equal(there.frame()[columns], here[columns])
        sweep = Sweep(["switch"], steps=LONG, backend=address, **how).start()

        def busy() -> int:
            return sum(client.run(lambda dask_worker: dask_worker.state.executing_count).values())

        until(lambda: busy() == 2, seconds=30)
        sweep.stop()
        until(lambda: busy() == 0, seconds=10)
        assert sweep.wait(5).finished == 0 and sweep.error == ""


def test_a_cluster_that_is_not_there_is_one_sentence(monkeypatch):
    def refuses(address, **_):
        raise OSError(f"Timed out trying to connect to {address}")

    class Distributed:
        Client = staticmethod(refuses)

    def there(name):
        return Distributed

    monkeypatch.setattr(parallel.importlib, "import_module", there)
    sweep = Sweep(["switch"], backend="tcp://nowhere:8786", **SMALL).start().wait()
    assert sweep.error.startswith("no Dask scheduler answers at tcp://nowhere:8786: ") and sweep.rows == ()

    def missing(name):
        raise ImportError(name)

    monkeypatch.setattr(parallel.importlib, "import_module", missing)
    sweep = Sweep(["switch"], backend="tcp://nowhere:8786", **SMALL).start().wait()
    assert sweep.error == "backend='dask' needs Dask: pip install 'dask[distributed]'" and not sweep.running


def test_what_cannot_be_swept_is_said_before_it_starts():
    for arguments, message in [
        ({"experiments": []}, "at least one experiment and one seed"),
        ({"seeds": []}, "at least one experiment and one seed"),
        ({"steps": 0}, "steps=0"),
        ({"match": "size"}, "match='size'"),
        ({"jobs": 0}, "jobs=0"),
        ({"backend": "ray"}, "backend='ray': it must be None, 'dask' or the address"),
    ]:
        with pytest.raises(BadValue, match=message):
            Sweep(**{"experiments": ["switch"], **arguments})
    with pytest.raises(UnknownName, match="did you mean 'switch'"):
        Sweep(["swich"])


def test_a_sweep_runs_once_and_tells_how_far_it_is(swept):
    fresh = Sweep(["switch"], **SMALL)
    assert (fresh.finished, fresh.of, fresh.running, fresh.seconds(), fresh.seconds_left()) == (0, 3, False, 0.0, None)
    fresh.stop()
    assert not fresh.stopped and fresh.wait().frame().empty
    assert swept.seconds() > 0 and swept.seconds_left() is None
    with pytest.raises(BadValue, match="started before"):
        swept.start()


def test_results_come_in_the_order_of_finishing():
    import threading

    with Pool(jobs=2) as pool:
        found = list(pool.results(time.sleep, [1.5, 0.0, "x"], threading.Event()))
    assert [place for place, _ in found][-1] == 0 and {place for place, _ in found} == {0, 1, 2}
    assert isinstance(dict(found)[2], TypeError)
    with pytest.raises(ExplorerError):
        Pool("ray")


@pytest.fixture
def own_mechanism():
    """A mechanism as a notebook would define it: no other process can import it."""
    import torch

    @mechanism(
        "test-own", title="", family="mixing", slot="feed-forward", paper=Paper("", "", 2000, ""), lab="", summary="",
        equation="", pitfalls=(), reference="", knobs={"fails": Knob(False, "raises"), "dies": Knob(False, "kills itself")},
    )  # fmt: skip
    class Own(Instrumented):
        taps = {"gate": "B T D"}

        def __init__(self, d_model: int, fails: bool = False, dies: bool = False) -> None:
            super().__init__()
            self.fails, self.dies, self.gate = fails, dies, torch.nn.Linear(d_model, d_model)

        def forward(self, x_BTD: torch.Tensor) -> torch.Tensor:
            if self.dies:
                os.kill(os.getpid(), 9)
            if self.fails:
                raise ZeroDivisionError("on purpose")
            return x_BTD * self.tap("gate", self.gate(x_BTD).sigmoid())

    yield "test-own"
    del _SPECS["test-own"]
