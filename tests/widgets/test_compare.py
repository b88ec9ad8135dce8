"""Comparing routers: what can be chosen, how rows become ranks, what the pictures draw, what the page does with it."""

import asyncio

import numpy as np
import pytest

import explorer
from explorer.errors import BadValue, ExplorerError
from explorer.sweep import Row
from widgets.figures import measure_by_router, quality_by_flops, summary_of
from widgets.figures.compare import LINE, _apart
from widgets.labs import compare as part_module
from widgets.labs.routing import RoutingLab
from widgets.states.compare import ALONE, APART, COLUMNS, WITHIN, CompareState, ranked, verdict
from widgets.states.routing import RoutingState

SMALL = "layers=1&batch=2&expert_width=8"
KNOWN = explorer.names("routing")


def row(experiment, mechanism, seed, loss, error="", **more):
    values = (
        {}
        if error
        else {
            "held_out_loss": loss,
            "flops": 1000.0,
            "nmi": loss / 10,
            "max_violation": float("nan"),
            "tokens_without_expert": 0.1,
            "load_entropy": 0.5,
        }
        | more
    )
    return Row(experiment, mechanism, seed, values, error)


ROWS = [
    row(0, "topk-softmax", 0, 3.0), row(0, "topk-softmax", 1, 3.2),
    row(1, "switch", 0, 3.1), row(1, "switch", 1, 3.5),
    row(2, "expert-choice", 0, 4.0), row(2, "expert-choice", 1, 4.1),
    row(3, "product-key-memory", 0, 0, "product-key-memory with seed 0: it has no width; so it was not compared"),
    row(3, "product-key-memory", 1, 0, "product-key-memory with seed 1: it has no width; so it was not compared"),
]  # fmt: skip


# -- the state -------------------------------------------------------------------------------------------------------------
def test_the_best_mean_is_first_and_overlapping_seeds_are_no_win():
    lines = ranked(ROWS)
    assert [(one.rank, one.mechanism) for one in lines[:3]] == [
        (1, "topk-softmax"),
        (2, "switch"),
        (3, "expert-choice"),
    ]
    assert [one.next for one in lines] == [WITHIN, APART, "", ""]
    spread = lines[0].spreads["held_out_loss"]
    assert (spread.mean, spread.low, spread.high, spread.seeds) == (pytest.approx(3.1), 3.0, 3.2, 2)
    assert verdict(lines, "held_out_loss") == (
        "Lowest mean of held-out loss: Top-k softmax routing, 3.1000. But the next is within the spread of the seeds: this "
        "shows no winner."
    )


def test_what_failed_is_last_with_its_reason_once():
    last = ranked(ROWS)[-1]
    assert last.rank is None and last.spreads == {}
    assert last.errors == ("product-key-memory with seeds 0, 1: it has no width; so it was not compared",)


def test_higher_is_better_where_it_is_and_what_lacks_the_measure_has_no_rank():
    rows = [*ROWS[:6], row(4, "soft-moe", 0, 2.0, nmi=float("nan"))]
    assert [one.mechanism for one in ranked(rows, "nmi")][:3] == ["expert-choice", "switch", "topk-softmax"]
    assert ranked(rows, "nmi")[-1].rank is None and ranked(rows)[0].mechanism == "soft-moe"
    assert verdict(ranked(rows, "nmi"), "nmi").startswith(
        "Highest mean of NMI: Expert choice routing, 0.405. With every seed"
    )
    assert verdict(ranked(rows, "max_violation"), "max_violation") == "None of these routers has a number for MaxVio."


def test_one_seed_is_no_evidence():
    lines = ranked([row(0, "topk-softmax", 0, 3.0), row(1, "switch", 0, 4.0)])
    assert lines[0].next == ALONE and "One seed says nothing about chance" in verdict(lines, "held_out_loss")


def test_every_column_says_which_way_is_better_and_is_written():
    from explorer.comparison import READ

    assert set(READ) <= set(COLUMNS)
    for column in COLUMNS.values():
        assert column.better in ("lower", "higher") and f"{0.5:{column.form}}" and column.meaning


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"mechanisms": ("switch",)}, "at least two routers"),
        ({"mechanisms": ("switch", "swich")}, "did you mean 'switch'"),
        ({"seeds": 0}, "seeds=0"),
        ({"steps": 10**9}, "steps=1000000000"),
        ({"where": "dask"}, "address of a Dask scheduler"),
        ({"where": "dask", "address": "file:///etc/passwd"}, "address of a Dask scheduler"),
    ],
)
def test_what_cannot_be_compared_is_one_sentence(settings, message):
    with pytest.raises(ExplorerError, match=message):
        CompareState(**settings).check(KNOWN)


def test_the_runs_have_the_task_and_the_knobs_of_the_page():
    page = RoutingState(f"{SMALL}&k=1&seed=7&domains=python")
    recipes = CompareState(mechanisms=("topk-softmax", "switch")).recipes(page)
    assert all(one["layers"] == 1 and one["task"].domains == ("python",) for one in recipes)
    assert recipes[0]["k"] == 1 and "k" not in recipes[1]
    assert list(CompareState(seeds=3).seed_numbers(page)) == [7, 8, 9]
    assert list(CompareState(seeds=3).seed_numbers(RoutingState("seed=4294967295"))) == [4294967295]


def test_the_script_makes_the_same_runs():
    page = RoutingState(f"{SMALL}&k=1")
    state = CompareState(mechanisms=("topk-softmax", "switch"), match="flops", steps=4)
    scope: dict = {}
    exec(state.script(page).replace(".start()", "").replace("sweep.wait()", "sweep"), scope)
    mine = state.sweep(page)
    assert scope["sweep"].recipes[0] == {"mechanism": "topk-softmax", "task": "text", "k": 1, "batch": 2, "layers": 1,
                                         "expert_width": 8}  # fmt: skip
    assert (scope["sweep"].seeds, scope["sweep"].steps, scope["sweep"].match) == (mine.seeds, mine.steps, mine.match)


def test_the_choice_travels_in_the_link():
    query = "compare=switch%2Csinkhorn&compare.seeds=2&compare.match=flops&compare.by=nmi"
    page = RoutingState(f"batch=2&{query}")
    assert page.notices == [] and page.comparison.asked
    assert page.comparison.mechanisms == ("switch", "sinkhorn") and page.comparison.seeds == 2
    assert page.link() == f"batch=2&{query}" and RoutingState("").link() == ""
    wrong = RoutingState("compare=switch,<b>&compare.seeds=99&compare.match=x&compare.what=1&batch=2")
    assert len(wrong.notices) == 4 and wrong.values["batch"] == 2 and not wrong.comparison.asked


# -- the pictures ------------------------------------------------------------------------------------------------------------
NAMES = ["topk-softmax", "switch", "<b>hash"]
LOSSES = [[3.0, 3.2], [3.1, 3.5], [np.nan, 4.0]]


def test_each_seed_is_a_mark_and_each_mean_a_larger_one_with_its_name():
    figure = quality_by_flops(NAMES, [2000.0, 1500.0, 1000.0], LOSSES)
    seeds, means = figure.data
    np.testing.assert_allclose(means.y, [3.1, 3.3, 4.0], rtol=1e-6)
    assert list(means.x) == [2000, 1500, 1000] and len(seeds.x) == 6
    assert means.marker.size > seeds.marker.size and means.marker.symbol != seeds.marker.symbol
    names = [note.text for note in figure.layout.annotations]
    assert names == ["topk-softmax", "switch", "&lt;b&gt;hash"]
    assert "topk-softmax has the lowest mean held-out loss, 3.100 nats/token" in summary_of(figure)
    assert "works least, 1,000, and has 4.000" in summary_of(figure)


def test_names_of_equal_routers_do_not_lie_on_each_other():
    figure = quality_by_flops([str(i) for i in range(26)], [1000.0] * 26, [[3.0 + i / 1e6] for i in range(26)])
    low, high = figure.layout.yaxis.range
    places = sorted(note.ay for note in figure.layout.annotations)
    pixels = (figure.layout.height - 110) / (high - low)
    assert np.diff(places).min() * pixels > LINE - 0.5 and low <= places[0] and places[-1] <= high


def test_names_keep_the_order_of_their_marks():
    wanted = np.array([5.0, 1.0, 1.1, 9.0])
    places = _apart(wanted, 1.0, 0.0, 10.0)
    assert list(np.argsort(places)) == list(np.argsort(wanted)) and places[0] == pytest.approx(5) and places[3] == 9
    assert abs(places[1] - 1.05) <= 0.51 and places[2] - places[1] >= 1 - 1e-9


def test_a_row_is_a_router_in_the_order_given_and_the_axis_says_what_is_better():
    figure = measure_by_router(NAMES, [[0.1, 0.3], [0.5], [np.nan]], "NMI", "about labels", "higher", ".3f")
    assert list(figure.data[1].y) == ["topk-softmax", "switch"] == list(figure.layout.yaxis.categoryarray)
    assert figure.layout.yaxis.autorange == "reversed" and figure.layout.xaxis.title.text == "higher is better"
    assert summary_of(figure) == "NMI: switch has the highest mean, 0.500; topk-softmax the other end, 0.200."


def test_a_measure_that_none_has_says_so():
    figure = measure_by_router(NAMES, [[np.nan]] * 3, "NMI")
    assert not figure.data and "None of these routers has it" in summary_of(figure)


# -- the part of the page --------------------------------------------------------------------------------------------------
class Stub:
    """A sweep whose rows come when the test says so."""

    def __init__(self, rows=(), of=8):
        self.rows, self.of, self.at_once, self.running, self.stopped, self.error = list(rows), of, 2, True, False, ""
        self.seeds, self.recipes = (0, 1), [{}] * 4

    @property
    def finished(self):
        return len(self.rows)

    def start(self):
        return self

    def stop(self):
        self.running, self.stopped = False, True

    def seconds(self):
        return 30.0

    def seconds_left(self):
        return 22.0 if self.rows and self.running else None

    def frame(self):
        import pandas as pd

        return pd.DataFrame(
            [{"mechanism": one.mechanism, "seed": one.seed, **one.values, "error": one.error} for one in self.rows]
        )


@pytest.fixture
def lab(monkeypatch):
    monkeypatch.setattr(part_module, "LOOK", 0.01)
    return RoutingLab(
        RoutingState(f"{SMALL}&compare=topk-softmax,switch,expert-choice,product-key-memory&compare.seeds=2")
    )


def test_it_is_made_when_it_is_first_looked_at():
    lab = RoutingLab(RoutingState(SMALL))
    part = lab.comparison
    assert part.widget.children == () and not part.folded.toggle.value
    part.folded.toggle.value = True
    assert len(part.boxes) == len(KNOWN) and "12 runs of 150 steps on real text" in part.plan.value
    assert lab.state.link() == SMALL.replace("layers=1&batch=2", "batch=2&layers=1")  # nothing was compared yet


def test_the_plan_follows_the_controls_and_says_what_is_wrong(lab):
    part = lab.comparison
    assert part.folded.toggle.value and "8 runs of 150 steps" in part.plan.value
    part.steps.value, part.match.value = 20, "parameters"
    assert "8 runs of 20 steps" in part.plan.value
    assert "they have the parameters of the first, Top-k softmax routing" in part.plan.value
    lab.state.seed = 5
    assert "seeds 5 to 6" in part.plan.value
    part.buttons["None"].click()
    assert "Choose at least two routers" in part.plan.value
    part.buttons["Start"].click()
    assert lab.state.error["message"] == "choose at least two routers to compare" and part.sweep is None
    part.where.value = "dask"
    assert part.address.layout.display == ""


def test_rows_fill_the_table_while_they_arrive_and_stop_answers(lab, monkeypatch):
    part, stub = lab.comparison, Stub()
    monkeypatch.setattr(CompareState, "sweep", lambda *_: stub)

    async def drive():
        part.buttons["Start"].click()
        assert lab.state.error is None and part.buttons["Start"].disabled and not part.buttons["Stop"].disabled
        assert "0 of 8 runs; the workers are starting" in part.progress.value and part.pictures.layout.display == "none"
        stub.rows.append(ROWS[0])
        await asyncio.sleep(0.1)
        assert "1 of 8 runs; about 20 s left" in part.progress.value and "1 of 2 seeds" in part.table.value
        stub.rows += ROWS[1:]
        await asyncio.sleep(0.1)
        part.buttons["Stop"].click()

    asyncio.run(drive())
    assert "Stopped after 8 of 8 runs" in part.progress.value and part.buttons["Stop"].disabled
    assert part.table.value.count("<tr>") == 5 and "it has no width" in part.table.value
    assert part.table.value.index("<small>topk-softmax") < part.table.value.index("<small>switch")
    assert "no winner" in part.said.value and 'role="status"' in part.said.value
    assert len(part.charts) == 5 and part.pictures.layout.display == ""
    assert "seeds 0 to 1" in part.charts["nmi"].stamp and lab.state.error is None
    part.by.value = "nmi"
    assert part.table.value.index("<small>expert-choice") < part.table.value.index("<small>topk-softmax")
    assert lab.state.link().endswith("compare.seeds=2&compare.by=nmi")


def test_the_table_leaves_as_a_stamped_file(lab, monkeypatch):
    part, sent = lab.comparison, []
    part.sweep, part._about = Stub(ROWS), {"stamp": "comparison · text", "match": "none", "script": "x", "unit": "nats"}
    part.courier.send = lambda content, buffers=None: sent.append((content, buffers))
    part.save()
    (content, (csv,)) = sent[0]
    assert content["name"] == "comparison-4-routers.csv" and csv.decode().startswith(
        "# comparison · text\nmechanism,seed,"
    )
    assert len(csv.decode().splitlines()) == 2 + len(ROWS)
    part.show_python()
    assert part.python.children


def test_a_sweep_that_could_not_begin_says_why(lab):
    part = lab.comparison
    part.sweep, part._about = Stub(), {"match": "none"}
    part.sweep.error, part.sweep.running = "no Dask scheduler answers at tcp://x:1", False
    part.show()
    assert "no Dask scheduler answers" in part.said.value and "0 of 8 runs; it ended early" in part.progress.value


def test_bad_values_of_the_state_do_not_start(lab):
    with pytest.raises(BadValue, match="at least two"):
        CompareState(mechanisms=()).sweep(lab.state)
