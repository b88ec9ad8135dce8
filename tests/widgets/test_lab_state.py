"""The whole page as its link: what runs beside, what was done in the middle, and how it is shown."""

import pytest

from explorer.errors import BadValue, UnknownName
from widgets.states.lab import Change
from widgets.states.presets import PRESETS
from widgets.states.routing import RoutingState


def opened(state):
    """What is left after the link is opened elsewhere."""
    again = RoutingState(state.link())
    assert again.notices == []
    return again


def test_a_run_beside_is_in_the_link_with_what_differs_from_a():
    state = RoutingState("n_experts=4&b=switch&b.capacity_factor=0.5&match=parameters")
    assert state.b.mechanism == "switch"
    assert (state.b.values["n_experts"], state.b.values["capacity_factor"]) == (4, 0.5)
    assert state.link() == "n_experts=4&b=switch&b.capacity_factor=0.5&match=parameters"
    assert opened(state).b == state.b


def test_the_view_is_in_the_link():
    query = "speed=10&layer=1&domains=english%2Cdata&hide=seed%2Cwhatif&large=1"
    state = RoutingState(query)
    assert (state.speed, state.layer, state.domains, state.hide, state.large) == (
        10, 1, ("english", "data"), ("seed", "whatif"), True,
    )  # fmt: skip
    assert state.link() == query


def test_what_was_done_in_the_middle_of_a_run_is_in_the_link():
    state = RoutingState("aux_loss=0.0")
    state.step = 90
    state.assign("k", 1)
    state.noted(60, "a", "k", 1)
    state.noted(80, "a", "fork")
    state.b = state.a
    state.assign("aux_loss", 0.1, "b")
    state.noted(85, "b", "aux_loss", 0.1)
    again = opened(state)
    assert again.steps == 90
    assert again.planned == [Change(60, "a", "k", 1), Change(80, "a", "fork"), Change(85, "b", "aux_loss", 0.1)]
    assert again.values["k"] == 2  # as the run began; the plan brings the rest
    assert again.values["aux_loss"] == 0.0
    assert state.forked_at == 80


@pytest.mark.parametrize(
    ("query", "words"),
    [
        ("b=swich", "did you mean 'switch'"),
        ("b.k=1", "there is no run B"),
        ("b=switch&b.capacity_factor=-1", "b.capacity_factor=-1"),
        ("match=size", "match=size"),
        ("speed=7", "speed=7"),
        ("layer=-1", "layer=-1"),
        ("large=yes", "large=yes"),
        ("steps=1000000", "steps=1000000"),
        ("cursor=x", "cursor=x"),
        ("domains=english,latin", "domain"),
        ("hide=everything", "part of this page"),
        ("preset=colapse", "preset"),
        ("do=5:n_experts=4", "n_experts cannot change in the middle"),
        ("do=5:k=99", "k=99"),
        ("do=x:fork", "step"),
        ("do=nonsense", "nonsense"),
    ],
)
def test_what_is_wrong_in_it_is_said_and_the_rest_counts(query, words):
    state = RoutingState(f"{query}&seed=4")
    assert len(state.notices) == 1
    assert words in state.notices[0]
    assert state.seed == 4
    state.experiments()


def test_hide_keeps_what_it_knows():
    assert RoutingState("hide=seed,bogus").hide == ("seed",)


@pytest.mark.parametrize("name", PRESETS)
def test_a_preset_opens_by_its_name_and_its_link_says_it_all(name):
    state = RoutingState(f"preset={name}")
    assert state.notices == []
    for key, value in PRESETS[name].settings.items():
        found = {"mechanism": state.mechanism, "task": state.task}.get(key, state.values.get(key))
        assert found == value
    assert opened(state).a == state.a


def test_a_preset_is_a_beginning_that_the_link_may_change():
    name, _preset = next(iter(PRESETS.items()))
    assert RoutingState(f"preset={name}&seed=5&learning_rate=0.02").values["learning_rate"] == 0.02


def test_runs_of_equal_size():
    a, b = RoutingState("mechanism=topk-softmax&b=switch&match=parameters&layers=1&batch=2").experiments()
    assert b.count().parameters == pytest.approx(a.count().parameters, rel=0.02)
    a, b = RoutingState("mechanism=topk-softmax&k=4&b=topk-softmax&b.k=1&match=flops&layers=1&batch=2").experiments()
    assert b.count().flops == pytest.approx(a.count().flops, rel=0.03)
    assert b.settings["expert_width"] > a.settings["expert_width"]


def test_a_mistake_leaves_the_state_as_it_was():
    state = RoutingState()
    for wrong in (
        lambda: state.assign("k", 99),
        lambda: state.choose(mechanism="glu"),
        lambda: state.beside("glu"),
        lambda: state.assign("k", 1, "b"),
    ):
        with pytest.raises((BadValue, UnknownName)):
            wrong()
    assert state.link() == ""
