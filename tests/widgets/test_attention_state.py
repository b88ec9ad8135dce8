"""The attention lab's state: opens from a link in exactly one state, and says what it could not use."""

import random
from contextlib import suppress

import pytest

import explorer
from explorer.errors import ExplorerError
from widgets.states.attention import BACKCOPY, OWN_TASKS, PICTURES, SILENT, TASKS, AttentionState
from widgets.states.attention_presets import PRESETS

NAMES = explorer.names("attention")
FITTING = [
    (mechanism, task)
    for mechanism in NAMES
    for task in TASKS
    if explorer.spec(mechanism).slot != "readout" or task in ("digit-patches", "split-digits")
]


def test_an_empty_link_gives_the_smallest_run_that_grows_a_sink():
    state = AttentionState()
    assert (state.mechanism, state.task, state.seed) == ("softmax-attention", "bigram-backcopy", 0)
    assert state.notices == []
    assert state.link() == ""
    assert {name: state.values[name] for name in BACKCOPY} == BACKCOPY
    run = state.experiment()
    assert {name: run.settings[name] for name in SILENT} == SILENT


@pytest.mark.parametrize("mechanism", NAMES)
@pytest.mark.parametrize("task", TASKS)
def test_a_link_opens_the_state_it_was_written_from(mechanism, task):
    state = AttentionState()
    state.choose(mechanism=mechanism, task=task)
    state.seed = 7
    state.assign("batch", 4)
    state.assign("learning_rate", 0.02)
    again = AttentionState(state.link())
    assert again.notices == []
    assert (again.mechanism, again.task, again.seed, again.values) == (mechanism, task, 7, state.values)
    assert again.link() == state.link()


@pytest.mark.parametrize("name", PRESETS)
def test_a_preset_and_the_link_written_from_it_are_the_same_runs(name):
    state = AttentionState(f"preset={name}")
    assert (state.notices, state.preset) == ([], name)
    again = AttentionState(state.link())
    assert again.notices == []
    assert (again.task, again.a, again.b) == (state.task, state.a, state.b)
    wanted = PRESETS[name].settings
    assert (state.mechanism, state.task) == (wanted["mechanism"], wanted["task"])
    assert (state.b.mechanism if state.b else None) == wanted.get("b")
    for key, value in wanted.items():
        if key.startswith("b."):
            assert state.b.values[key[2:]] == value
    state.experiments()


def test_a_run_beside_takes_the_size_of_a_and_its_own_knobs_from_the_link():
    state = AttentionState("n_heads=4&seed=3&b=gated-attention&b.granularity=headwise&b.position=G2")
    assert state.notices == []
    assert (state.b.values["n_heads"], state.b.values["granularity"], state.b.values["position"]) == (
        4,
        "headwise",
        "G2",
    )
    a, b = state.experiments()
    assert (a.seed, b.seed) == (3, 3)
    assert type(a.task) is type(b.task)


def test_a_choice_that_leaves_a_preset_drops_what_ran_beside_only_when_asked():
    state = AttentionState("preset=gate")
    state.choose(mechanism="sink-logit")
    assert state.b.mechanism == "gated-attention"
    state.set_preset("sink")
    assert state.b is None


@pytest.mark.parametrize(
    ("query", "words"),
    [
        ("mechanism=gated-atention", "did you mean 'gated-attention'"),
        ("mechanism=switch", "mechanism of this lab"),
        ("task=bigram", "bigram-backcopy"),
        ("preset=sinks", "did you mean 'sink'"),
        ("n_heads=0", "n_heads"),
        ("n_heads=many", "n_heads"),
        ("rope_base=nan", "rope_base"),
        ("causal=false", "causal"),
        ("b.position=G1", "b.position"),
        ("b=switch", "mechanism of this lab"),
        ("b=gated-attention&b.position=G9", "G9"),
        ("hide=nothing", "part of this page"),
        ("layer=-1", "layer"),
        ("feed_forward=ffn", "feed_forward"),
        ("bogus=1", "bogus"),
        ("__class__=1", "__class__"),
    ],
)
def test_what_a_link_says_wrongly_is_reported_and_the_rest_counts(query, words):
    state = AttentionState(f"{query}&batch=4")
    assert len(state.notices) == 1
    assert words in state.notices[0]
    assert len(state.notices[0]) < 500
    assert state.values["batch"] == 4
    state.experiment()


def test_a_thousand_strange_links_each_open():
    random.seed(0)
    keys = [
        "mechanism",
        "task",
        "preset",
        "seed",
        "n_heads",
        "b",
        "b.position",
        "layer",
        "theme",
        "",
        "<script>",
        "hide",
    ]
    values = ["", "gate", "hopfield", "text", "-1", "1e999", "nan", "true", "../..", "<img src=x>", "%s" * 9, "9" * 400]
    for _ in range(1000):
        query = "&".join(f"{random.choice(keys)}={random.choice(values)}" for _ in range(random.randint(0, 6)))
        state = AttentionState(query)
        state.spec.check({name: value for name, value in state.values.items() if name in state.spec.knobs})


@pytest.mark.parametrize("mechanism", OWN_TASKS)
def test_a_link_that_names_a_mechanism_and_no_task_opens_its_own(mechanism):
    state = AttentionState(f"mechanism={mechanism}")
    assert (state.task, state.notices) == (OWN_TASKS[mechanism].task, [])
    assert state.link() == f"mechanism={mechanism}"
    assert state.own_task is OWN_TASKS[mechanism]
    state.experiment()


def test_whoever_leaves_a_mechanism_leaves_its_task_and_its_rates():
    state = AttentionState("mechanism=gated-positional")
    assert {name: state.values[name] for name in PICTURES} == PICTURES
    state.choose(mechanism="gated-attention")
    assert state.task == "bigram-backcopy"
    assert state.values["learning_rate"] == BACKCOPY["learning_rate"]
    state.choose(task="text")
    state.choose(mechanism="softmax-attention")
    assert state.task == "text"
    assert state.values["learning_rate"] == 3e-3


@pytest.mark.parametrize("mechanism", NAMES)
def test_the_controls_are_the_mechanisms_knobs_and_four_settings(mechanism):
    state, own = AttentionState(f"mechanism={mechanism}"), explorer.spec(mechanism).knobs
    assert state.knobs().keys() - own.keys() == {"learning_rate", "batch", "layers", "feed_forward"} - own.keys()
    assert own.keys() - state.knobs().keys() <= {"causal"}
    assert all(knob.meaning for knob in state.knobs().values())


@pytest.mark.parametrize(("mechanism", "task"), FITTING)
def test_every_pair_of_mechanism_and_task_makes_a_run_or_says_why_not(mechanism, task):
    state = AttentionState(f"mechanism={mechanism}&task={task}&batch=2&layers=1")
    assert state.notices == []
    if mechanism in OWN_TASKS and task != OWN_TASKS[mechanism].task:
        with suppress(ExplorerError):
            state.experiment()
    else:
        assert state.experiment().step == 0


def test_the_causal_mask_is_the_tasks_and_no_control():
    state = AttentionState("mechanism=softmax-attention&task=digit-patches")
    assert "causal" not in state.knobs()
    assert state.experiment().knobs["causal"] is False
    state.choose(task="bigram-backcopy")
    assert state.experiment().knobs["causal"] is True
