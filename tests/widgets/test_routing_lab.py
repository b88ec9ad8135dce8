"""The routing lab without a browser: what its controls do to the run, and what a run does to the page."""

import asyncio
import time

import pytest

import explorer
from widgets.labs import frame
from widgets.labs.routing import ALONE_SECONDS, RoutingLab
from widgets.states.routing import TASKS, RoutingState

SMALL = "layers=1&batch=2&expert_width=8"


@pytest.fixture
def lab():
    return RoutingLab(RoutingState(SMALL))


@pytest.mark.parametrize("mechanism", explorer.names("routing"))
@pytest.mark.parametrize("task", TASKS)
def test_every_mechanism_draws_on_every_task(mechanism, task):
    lab = RoutingLab(RoutingState(f"mechanism={mechanism}&task={task}&batch=2"))
    before = {name: chart.frame["number"] for name, chart in lab.charts.items()}
    lab.one_step()
    assert lab.state.error is None
    assert all(chart.frame["number"] > before[name] for name, chart in lab.charts.items())
    assert (lab.map.layout.display == "") == (task == "clusters")
    assert (lab.strip.layout.display == "") == (task == "text")


def test_a_live_knob_acts_on_the_run_and_is_noted_in_its_recording(lab):
    lab.one_step()
    lab.controls["k"].value = 1
    assert lab.experiment.knobs["k"] == lab.state.values["k"] == 1
    assert lab.experiment.step == 1
    assert lab.experiment.recording.header["events"] == [[0, "k=1"]]


def test_a_knob_that_shapes_the_model_starts_anew_before_the_first_step_and_is_fixed_after_it(lab):
    lab.controls["n_experts"].value = 4
    assert lab.experiment.recording.experts("blocks.0.ffn") == 4
    assert not lab.controls["n_experts"].disabled
    lab.one_step()
    assert lab.controls["n_experts"].disabled
    assert "press Reset" in lab.controls["n_experts"].tooltip
    assert not lab.controls["k"].disabled
    lab.reset()
    assert not lab.controls["n_experts"].disabled


def test_a_refused_value_is_explained_and_the_control_goes_back(lab):
    lab.one_step()
    lab.controls["k"].value = 9
    assert "at most the number of experts" in lab.state.error["message"]
    assert lab.controls["k"].value == lab.experiment.knobs["k"] == 2
    lab.one_step()
    assert lab.state.error is None


def test_choosing_another_mechanism_starts_a_run_with_its_own_controls(lab):
    lab.one_step()
    lab.mechanism.value = "switch"
    assert (lab.experiment.spec.name, lab.experiment.step) == ("switch", 0)
    assert "capacity_factor" in lab.controls
    assert "k" not in lab.controls
    assert "switch.py" in lab.code.children[0].titles[0]


def test_reset_gives_the_same_run_again(lab):
    for _ in range(3):
        lab.one_step()
    first = lab.experiment.history
    lab.reset()
    for _ in range(3):
        lab.one_step()
    assert lab.experiment.history.equals(first)


def test_an_error_in_the_run_reaches_the_page_and_the_buttons():
    lab = RoutingLab(RoutingState("task=clusters&batch=1"))

    async def play():
        lab.train()
        await asyncio.sleep(0.05)
        lab.experiment.data = None  # the rug is pulled away under a running experiment
        await asyncio.sleep(0.1)

    asyncio.run(play())
    assert lab.state.error["title"] == "Something went wrong"
    assert "Traceback" not in str(lab.state.error)
    assert not lab.state.running
    assert not lab.buttons["Train"].disabled


def test_a_run_that_nobody_looks_at_is_paused(lab):
    async def play():
        lab.train()
        await asyncio.sleep(0.2)
        assert lab.state.running
        lab.started_at = time.monotonic() - ALONE_SECONDS - 1
        await asyncio.sleep(0.5)
        assert not lab._trainer.running

    asyncio.run(play())
    assert not lab.buttons["Train"].disabled


def test_a_page_that_cannot_be_made_says_why(monkeypatch):
    from widgets.labs import routing

    monkeypatch.setattr(routing, "HEADLESS", False)
    monkeypatch.setattr(RoutingState, "experiment", lambda self: 1 / 0)
    state = RoutingState()
    routing.dashboard(state)
    assert "ZeroDivisionError" in state.error["message"]


def test_what_comes_from_outside_is_escaped():
    assert frame.escape("<script>$x$</script>") == "&lt;script&gt;&#36;x&#36;&lt;/script&gt;"
