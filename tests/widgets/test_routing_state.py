"""The routing lab's state: opens from a link in exactly one state, and says what it could not use."""

import random

import pytest
import torch

import explorer
from explorer.errors import ExplorerError
from widgets.states import links
from widgets.states.curves import binned
from widgets.states.routing import OWN_TASKS, TASKS, RoutingState


def test_an_empty_link_gives_the_defaults_and_no_notice():
    state = RoutingState()
    assert (state.mechanism, state.task, state.seed, state.notices) == ("topk-softmax", "text", 0, [])
    assert state.link() == ""


@pytest.mark.parametrize("mechanism", explorer.names("routing"))
@pytest.mark.parametrize("task", TASKS)
def test_a_link_opens_the_state_it_was_written_from(mechanism, task):
    state = RoutingState()
    state.choose(mechanism=mechanism, task=task)
    state.seed = 7
    state.assign("batch", 4)
    state.assign("learning_rate", 0.02)
    again = RoutingState(state.link())
    assert again.notices == []
    assert (again.mechanism, again.task, again.seed, again.values) == (mechanism, task, 7, state.values)


def test_defaults_are_left_out_of_a_link():
    state = RoutingState("mechanism=switch&seed=5&capacity_factor=1.25")
    assert "capacity_factor" not in state.link() or state.spec.knobs["capacity_factor"].default != 1.25
    assert state.link().startswith("mechanism=switch&seed=5")


@pytest.mark.parametrize(
    ("query", "words"),
    [
        ("mechanism=swich", "did you mean 'switch'"),
        ("mechanism=glu", "mechanism of this lab"),
        ("task=texts", "did you mean 'text'"),
        ("k=99", "k=99"),
        ("k=-1", "k='-1'|k=-1"),
        ("n_experts=0", "n_experts=0"),
        ("n_experts=1e9", "n_experts"),
        ("learning_rate=nan", "learning_rate"),
        ("seed=-1", "seed"),
        ("seed=0.5", "seed"),
        ("bogus=1", "bogus"),
        ("__class__=1", "__class__"),
        ("k=1&k=2", "twice"),
        ("k=" + "9" * 5000, "longer than"),
        ("k=%00", "k="),
    ],
)
def test_what_a_link_says_wrongly_is_reported_and_the_rest_counts(query, words):
    state = RoutingState(f"{query}&batch=4")
    assert len(state.notices) == 1
    assert any(word in state.notices[0] for word in words.split("|"))
    assert len(state.notices[0]) < 500
    assert state.values["batch"] == 4
    state.experiment()


def test_reserved_words_belong_to_the_server():
    assert RoutingState("theme=dark&template=../../etc&token=x").notices == []


def test_knobs_that_are_right_together_are_taken_together():
    state = RoutingState("k=1&n_experts=1")
    assert state.notices == []
    assert state.values["n_experts"] == state.values["k"] == 1


def test_a_thousand_strange_links_each_open():
    random.seed(0)
    keys = ["mechanism", "task", "seed", "k", "n_experts", "learning_rate", "theme", "", "<script>", "__init__"]
    values = [
        "",
        "switch",
        "text",
        "-1",
        "1e999",
        "nan",
        "true",
        "../..",
        "<img src=x onerror=alert(1)>",
        "%s" * 9,
        "\u202e",
        "9" * 400,
    ]
    for _ in range(1000):
        query = "&".join(f"{random.choice(keys)}={random.choice(values)}" for _ in range(random.randint(0, 6)))
        state = RoutingState(query)
        state.spec.check({name: value for name, value in state.values.items() if name in state.spec.knobs})


def test_more_than_a_hundred_settings_are_refused_whole():
    assert "100" in RoutingState("&".join(f"a{i}=1" for i in range(200))).notices[0]


def test_choosing_another_mechanism_keeps_what_both_know():
    state = RoutingState("n_experts=4&k=1&learning_rate=0.01")
    state.choose(mechanism="switch")
    assert state.values["n_experts"] == 4
    assert state.values["learning_rate"] == 0.01
    assert "k" not in state.values


def test_a_task_brings_its_own_learning_rate_unless_one_was_set():
    state = RoutingState()
    state.choose(task="clusters")
    assert state.values["learning_rate"] == 1e-2
    state.choose(task="text")
    assert state.values["learning_rate"] == 3e-3
    state.assign("learning_rate", 0.5)
    state.choose(task="clusters")
    assert state.values["learning_rate"] == 0.5


def test_a_refused_knob_leaves_the_state_as_it_was():
    state = RoutingState()
    before = dict(state.values)
    for name, value in (("k", 9), ("n_experts", 1), ("nothing", 1)):
        with pytest.raises(ExplorerError):
            state.assign(name, value)
    assert state.values == before


def test_short_takes_what_cannot_be_printed_out():
    assert links.short("a\x00b\u202ec") == "a?b?c"
    assert len(links.short("x" * 100)) == 40


def test_binned_curves_keep_the_mean_and_the_end():
    rows = torch.arange(1000.0)
    short = binned(rows, points=150)
    assert len(short) <= 150
    assert short[0] == rows[:8].mean()
    assert len(short) == 125
    assert torch.equal(binned(rows[:995])[:-1], short[:-1])
    assert binned(rows[:995])[-1] == rows[992:995].mean()
    assert torch.equal(binned(rows[:100], points=150), rows[:100])


# -- tasks of a mechanism's own ------------------------------------------------------------------------------------------
@pytest.mark.parametrize("mechanism", OWN_TASKS)
def test_a_link_that_names_a_mechanism_and_no_task_opens_its_own(mechanism):
    state = RoutingState(f"mechanism={mechanism}")
    assert state.task == OWN_TASKS[mechanism].task
    assert state.notices == []
    assert state.link() == f"mechanism={mechanism}"
    assert state.own_task is OWN_TASKS[mechanism]
    state.experiment()


@pytest.mark.parametrize("mechanism", [*OWN_TASKS, "switch"])
@pytest.mark.parametrize("task", TASKS)
def test_a_task_that_a_link_names_is_kept(mechanism, task):
    state = RoutingState(f"mechanism={mechanism}&task={task}&seed=3")
    assert (state.mechanism, state.task) == (mechanism, task)
    again = RoutingState(state.link())
    assert (again.mechanism, again.task, again.seed, again.values) == (mechanism, task, 3, state.values)
    assert again.link() == state.link()


def test_a_task_that_there_is_not_leaves_the_mechanisms_own():
    state = RoutingState("mechanism=hash-experts&task=fields")
    assert state.task == "field"
    assert len(state.notices) == 1


def test_whoever_leaves_a_mechanism_leaves_its_task_unless_it_was_another():
    state = RoutingState()
    state.choose(mechanism="hash-experts")
    assert state.task == "field"
    state.choose(mechanism="adversarial-moe")
    assert state.task == "digits"
    state.choose(mechanism="switch")
    assert state.task == "text"
    state.choose(task="clusters")
    state.choose(mechanism="sinkhorn")
    assert state.task == "clusters"
    state.choose(mechanism="kmeans-gating", task="clusters")
    assert (state.task, state.own_task) == ("clusters", None)
    state.choose(mechanism="sinkhorn")
    assert state.task == "clusters"


def test_what_runs_beside_does_not_move_the_task():
    state = RoutingState("task=clusters&b=hash-experts")
    assert (state.task, state.b.mechanism) == ("clusters", "hash-experts")


@pytest.mark.parametrize("mechanism", explorer.names("routing"))
def test_only_settings_that_act_have_controls(mechanism):
    state, slot = RoutingState(f"mechanism={mechanism}&task=text"), explorer.spec(mechanism).slot
    shown = state.knobs().keys() - explorer.spec(mechanism).knobs.keys()
    assert shown == {"learning_rate", "batch"} | {
        "router": {"layers", "expert_width", "router_rate"}, "feed-forward": {"layers"}, "stack": set()
    }[slot]  # fmt: skip
