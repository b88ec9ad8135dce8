"""Each ready-made pathology shows what it claims and is cured by what it says; the advice names it, and only it."""

import time
from functools import cache

import pytest
import torch

import explorer
from explorer import metrics
from explorer.assembly import SETTINGS
from explorer.errors import UnknownName
from explorer.experiment import Experiment
from widgets.states.advice import START, advice
from widgets.states.presets import PRESETS, find
from widgets.states.routing import RoutingState
from widgets.states.routing_view import recent_load

NAMES = ("healthy", "collapse", "dead-expert", "token-dropping", "oscillation", "over-balancing")
WATCH = ["*/index", "*/probs"]
SOONER = {"healthy": 120, "collapse": 70, "oscillation": 70, "dead-expert": 160}  # enough to see


def fresh(name, **changes):
    """A run as the lab makes it from a link, except that it records less."""
    state = RoutingState(f"preset={name}")
    assert state.notices == []
    values = {**state.values, **changes}
    return Experiment(
        state.mechanism, task=state.make_task(), seed=0, watch=WATCH, tensors_every=10_000, keep=1, **values
    )


@cache
def course(name):
    """(the run when it shows, what is said of it, the same run repaired, what is said of that)."""
    preset = find(name)
    sick = fresh(name).run(SOONER.get(name, preset.steps))
    well = sick.fork()
    if preset.repair is not None:
        well.set(**preset.repair.knobs)
        well.run(preset.repair.steps)
    return sick, said(sick), well, said(well)


def said(run):
    return " ".join(advice(run, recent_load(run.recording)))


def counts(run, steps):
    """(L, S, E) of the newest steps."""
    return torch.stack([run.recording.counts(layer)[1][-steps:] for layer in run.recording.layers()])


def violation(run):
    """MaxVio of the newest 20 steps together, in the worst layer."""
    return float(metrics.max_violation(counts(run, 20).sum(1)).max())


def swing(run):
    """Spread of the loads over 40 steps, in fair shares, in the layer that swings most."""
    load = metrics.utilisation(counts(run, 40))
    return float((load - load.mean(1, keepdim=True)).square().mean((1, 2)).sqrt().max())


def idle(run, steps):
    """How many experts got nothing at all in the newest steps."""
    return int((counts(run, steps).sum(1) == 0).sum())


def dropped(run, steps):
    """Share of the slots that are empty in the newest steps, in the worst layer."""
    rows = [run.recording.series["routing"][layer].rows()[-steps:, 3] for layer in run.recording.layers()]
    return max(float(row.mean()) for row in rows)


def specialisation(run):
    """(NMI of the first expert and the cluster, loss) on held-out data, of a run with one layer."""
    loss, seen = run.examine(watch=WATCH)
    index = seen.last("ffn/index")[..., 0].flatten()
    return float(metrics.nmi(index, run.data.held_out().labels)), loss


# -- what every preset is ------------------------------------------------------------------------------------------------
def test_the_presets_are_those_a_lesson_asks_for():
    assert tuple(PRESETS) == NAMES
    assert all(name == preset.name for name, preset in PRESETS.items())


def test_a_wrong_name_is_met_with_the_nearest():
    with pytest.raises(UnknownName, match="did you mean 'collapse'"):
        find("colapse")


@pytest.mark.parametrize("name", NAMES)
def test_the_lab_opens_it_from_a_link_and_its_cure_is_live(name):
    preset, state = find(name), RoutingState(f"preset={name}")
    assert state.notices == []
    assert (state.mechanism, state.task) == (preset.settings["mechanism"], preset.settings["task"])
    shown = {key: value for key, value in preset.settings.items() if key not in ("mechanism", "task")}
    assert {key: state.values[key] for key in shown} == shown
    knobs = {**SETTINGS, **explorer.spec(state.mechanism).knobs}
    for key, value in (preset.repair.knobs if preset.repair else {}).items():
        assert knobs[key].live
        assert key in state.knobs()
        state.assign(key, value)
    assert (preset.repair is None) is (name == "healthy")
    assert preset.steps <= 300


@pytest.mark.parametrize("name", NAMES)
def test_the_evidence_is_of_three_seeds(name):
    evidence = find(name).evidence
    assert evidence
    assert all(len(values) == 3 for values in evidence.values())


# -- what each shows -----------------------------------------------------------------------------------------------------
def test_the_healthy_run_is_even_and_nothing_alarming_is_said():
    run, words, *_ = course("healthy")
    assert violation(run) < 0.8
    assert idle(run, 30) == 0
    assert swing(run) < 0.9
    for step in (10, 20, 40, 60, 80, 100):
        early = " ".join(advice(run, recent_load(run.recording, step), step))
        assert not alarming(early), (step, early)
    assert not alarming(words)


def test_collapse_gives_one_expert_half_of_everything_and_the_balancing_loss_takes_it_back():
    sick, words, well, after = course("collapse")
    assert violation(sick) > 3 > 0.8 > violation(well)
    assert words.startswith("Collapse in layer")
    assert "Raise aux_loss to 1 " in words
    assert not alarming(after)


def test_a_dead_expert_gets_nothing_for_a_hundred_steps_until_balancing_wakes_it():
    sick, words, well, after = course("dead-expert")
    assert idle(sick, 60) >= 2
    assert idle(well, 30) == 0
    assert "have taken nothing for" in words
    assert "Raise aux_loss to 1 " in words
    assert not alarming(after)


def test_small_experts_drop_half_of_the_tokens_and_more_room_saves_them():
    sick, words, well, after = course("token-dropping")
    assert dropped(sick, 20) > 0.5 > 0.15 > dropped(well, 10)
    assert "of the tokens find their expert full" in words
    assert "Raise capacity_factor from 0.5 to 2" in words
    assert "from 0.5" not in after


def test_oscillation_swings_far_beyond_a_healthy_run_and_calms_down():
    sick, words, well, after = course("oscillation")
    assert swing(sick) > 1.1
    assert swing(sick) > 1.5 * swing(well)
    assert violation(sick) < 1.2, "over twenty steps the swings cancel"
    assert "swing" in words
    assert "lower z_loss to 0.001" in words
    assert "swing" not in after


def test_over_balancing_costs_specialisation_and_loss():
    sick, words, well, after = course("over-balancing")
    (nmi, loss), (well_nmi, well_loss) = specialisation(sick), specialisation(well)
    control_nmi, control_loss = specialisation(fresh("over-balancing", **find("over-balancing").control).run(sick.step))
    assert violation(sick) < 0.1
    assert nmi + 0.1 < min(control_nmi, well_nmi)
    assert loss > 1.3 * max(control_loss, well_loss)
    assert "at a price" in words
    assert "Lower aux_loss to 0.01" in words
    assert not alarming(after)


def alarming(words):
    return any(word in words for word in ("Collapse", "nothing for", "swing", "at a price", "find their expert full"))


# -- the advice itself ---------------------------------------------------------------------------------------------------
def test_before_the_first_steps_it_says_how_to_begin():
    run = fresh("healthy")
    assert advice(run, recent_load(run.recording)) == [START]


def test_it_speaks_of_the_step_looked_at():
    run, words, *_ = course("collapse")
    early = " ".join(advice(run, recent_load(run.recording, 6), 6))
    assert early != words
    assert advice(run, recent_load(run.recording, run.step - 1), run.step - 1) == advice(
        run, recent_load(run.recording)
    )


@pytest.mark.parametrize("mechanism", explorer.names("routing"))
def test_it_has_something_to_say_of_every_router(mechanism):
    task = "text" if explorer.spec(mechanism).slot == "stack" else "clusters"  # attention wants positions
    run = Experiment(mechanism, task=task, watch="*/index").run(50)
    lines = advice(run, recent_load(run.recording))
    assert 1 <= len(lines) <= 3
    assert all(line.endswith(".") and len(line) < 400 for line in lines)


def test_it_is_computed_in_a_millisecond():
    run, *_ = course("oscillation")
    now, took = recent_load(run.recording), []
    for _ in range(20):
        began = time.perf_counter()
        advice(run, now)
        took.append(time.perf_counter() - began)
    assert min(took) < 1e-3
