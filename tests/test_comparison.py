"""Comparisons give the same table wherever they run, and say which run went wrong."""

import math

import pandas as pd
import pytest
import torch

from explorer import parallel
from explorer.catalogue import _SPECS, Paper, mechanism
from explorer.comparison import compare
from explorer.errors import BadValue, ExplorerError, UnknownName
from explorer.experiment import Experiment
from explorer.parallel import in_parallel
from explorer.taps import Instrumented


def plan(name: str = "topk-softmax", **knobs) -> Experiment:
    return Experiment(name, task="clusters", batch=4, watch=None, **knobs)


def numbers(frame: pd.DataFrame) -> pd.DataFrame:
    return frame.drop(columns="steps_per_second")


def test_one_row_an_experiment_and_seed_with_the_knobs_that_differ():
    given = [plan(k=1), plan(k=2, aux_loss=0.1)]
    frame = compare(given, seeds=[3, 4], steps=5, jobs=1)
    assert list(frame["experiment"]) == [0, 0, 1, 1] and list(frame["seed"]) == [3, 4, 3, 4]
    assert list(frame["k"]) == [1, 1, 2, 2] and list(frame["aux_loss"]) == [0.001, 0.001, 0.1, 0.1]
    assert "n_experts" not in frame and "task" not in frame and "mismatch" not in frame
    assert set(frame["mechanism"]) == {"topk-softmax"} and (frame["steps_per_second"] > 0).all()
    assert list(frame["flops"].unique()) == [2 * 16 * 8 + k * 2 * 16 * 16 for k in (1, 2)]  # router, k linear experts
    assert [one.step for one in given] == [0, 0]


def test_the_numbers_are_those_of_running_the_experiment_here():
    frame = compare([plan(aux_loss=0.1)], seeds=[7], steps=20, jobs=1)
    here = plan(aux_loss=0.1, seed=7).run(20)
    loss, seen = here.examine()
    counts = torch.bincount(seen.last("ffn/index").reshape(-1), minlength=8).double()
    row = frame.iloc[0]
    assert row["held_out_loss"] == loss and row["training_loss"] == here.losses()[-2:].mean().item()
    assert row["max_violation"] == pytest.approx((counts.max() / counts.mean() - 1).item())
    assert (
        row["dead_experts"] == 0
        and row["tokens_without_expert"] == 0
        and 0 < row["nmi"] < 1
        and 0 < row["load_entropy"] < 1
    )


def test_knobs_that_only_some_mechanisms_have_are_shown_where_somebody_set_them():
    frame = compare([plan(), plan("switch", capacity_factor=0.5)], seeds=[0], steps=1, jobs=1)
    assert list(frame["capacity_factor"].isna()) == [True, False] and frame["capacity_factor"][1] == 0.5
    assert "jitter" not in frame and "k" not in frame and frame["tokens_without_expert"][1] > 0.4


def test_a_mechanism_without_a_router_has_a_loss_and_no_balance():
    frame = compare([plan(), plan("glu", width=32)], seeds=[0], steps=2, jobs=1)
    assert math.isnan(frame["max_violation"][1]) and math.isfinite(frame["held_out_loss"][1])


def test_match_fits_the_width_to_the_first_and_reports_what_remains():
    given = [plan(), plan("glu", activation="relu")]
    target = given[0].count()
    frame = compare(given, seeds=[0], steps=1, match="parameters", jobs=1)
    assert frame["mismatch"][0] == 0 and frame["parameters"][0] == target.parameters == 8 * 16 + 8 * 16 * 16
    assert (
        frame["width"][1] == round(target.parameters / (2 * 16))
        and abs(frame["mismatch"][1]) < 100 * 16 / target.parameters
    )
    frame = compare(given, seeds=[0], steps=1, match="flops", jobs=1)
    assert (
        frame["flops"][1] == pytest.approx(target.flops * (1 + frame["mismatch"][1] / 100))
        and abs(frame["mismatch"][1]) < 3
    )
    assert list(frame.columns).index("mismatch") == list(frame.columns).index("flops") + 1


def test_processes_give_the_same_table_and_know_mechanisms_of_the_users_own(own_mechanism):
    given = [plan(), plan("switch"), plan(own_mechanism)]
    here = compare(given, seeds=[0, 1], steps=5, jobs=1)
    pd.testing.assert_frame_equal(numbers(compare(given, seeds=[0, 1], steps=5, jobs=2)), numbers(here))


def test_a_dask_cluster_gives_the_same_table(own_mechanism):
    distributed = pytest.importorskip("distributed")
    given = [plan(), plan(own_mechanism)]
    here = compare(given, seeds=[0, 1], steps=5, jobs=1)
    with (
        distributed.LocalCluster(n_workers=2, threads_per_worker=1, processes=True, dashboard_address=":0") as cluster,
        distributed.Client(cluster),
    ):
        there = compare(given, seeds=[0, 1], steps=5, backend="dask")
        with pytest.raises(ExplorerError, match=r"^topk-softmax \(experiment 0\) with seed 2: "):
            compare(
                [plan(learning_rate=10, clip=0, warmup=0, expert_width=8, weight_decay=10)],
                seeds=[2],
                steps=3000,
                backend="dask",
            )
    pd.testing.assert_frame_equal(numbers(there), numbers(here))


def test_an_error_names_the_experiment_and_the_seed(own_mechanism):
    given = [plan(), plan(own_mechanism, fails=True)]
    with pytest.raises(ExplorerError, match=r"^test-own \(experiment 1\) with seed 5: ZeroDivisionError: on purpose$"):
        compare(given, seeds=[5], steps=1, jobs=2)


def test_threads_of_one_process_do_not_disturb_each_other():
    given = [plan("switch", jitter=0.5)]  # draws random numbers at every step
    here = compare(given, seeds=[0, 1, 2], steps=10, jobs=1)
    pd.testing.assert_frame_equal(
        numbers(compare(given, seeds=[0, 1, 2], steps=10, backend="threading")), numbers(here)
    )


def test_what_cannot_be_compared_is_said():
    one = plan()
    for arguments, message in [
        ({"experiments": []}, "at least one experiment"),
        ({"experiments": ["switch"]}, "compare takes experiments, .* not 'switch'"),
        ({"seeds": []}, "at least one experiment and one seed"),
        ({"steps": 0}, "steps=0"),
        ({"match": "size"}, "match='size'"),
        ({"jobs": 0}, "jobs=0"),
    ]:
        with pytest.raises(BadValue, match=message):
            compare(**{"experiments": [one], "steps": 1, **arguments})


def test_a_backend_that_is_not_there_is_said(monkeypatch):
    with pytest.raises(UnknownName, match="did you mean 'loky'"):
        in_parallel(abs, [1], backend="lokey")
    with pytest.raises(ExplorerError, match=r"make a dask.distributed.Client\(\) first"):
        in_parallel(abs, [1], backend="dask")

    def missing(name):
        raise ImportError(name)

    monkeypatch.setattr(parallel.importlib, "import_module", missing)
    for backend in ("ray", "dask"):
        with pytest.raises(ExplorerError, match=f"backend='{backend}' needs {backend.title()}: pip install"):
            in_parallel(abs, [1], backend=backend)


def test_work_is_done_in_order_and_leaves_the_number_of_threads_alone():
    progress = []
    assert in_parallel(abs, [-3, 2, -1], jobs=1, done=lambda *now: progress.append(now)) == [3, 2, 1]
    assert progress == [(1, 3), (2, 3), (3, 3)] and in_parallel(abs, []) == []
    assert in_parallel(lambda _: torch.get_num_threads(), [0], jobs=1) == [1]


@pytest.fixture
def own_mechanism():
    """A mechanism as a notebook would define it: no other process can import it."""
    from explorer.catalogue import Knob

    @mechanism(
        "test-own", title="", family="mixing", slot="feed-forward", paper=Paper("", "", 2000, ""), lab="", summary="",
        equation="", pitfalls=(), reference="", knobs={"fails": Knob(False, "whether it raises")},
    )  # fmt: skip
    class Own(Instrumented):
        taps = {"gate": "B T D"}

        def __init__(self, d_model: int, fails: bool = False) -> None:
            super().__init__()
            self.fails, self.gate = fails, torch.nn.Linear(d_model, d_model)

        def forward(self, x_BTD: torch.Tensor) -> torch.Tensor:
            if self.fails:
                raise ZeroDivisionError("on purpose")
            return x_BTD * self.tap("gate", self.gate(x_BTD).sigmoid())

    yield "test-own"
    del _SPECS["test-own"]
