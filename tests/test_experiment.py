"""Experiments: deterministic, forkable, editable while they run, countable and matchable."""

import math
import subprocess
import sys

import pytest
import torch

import explorer
from explorer import Experiment
from explorer.errors import BadValue, Diverged, ExplorerError, UnknownName
from explorer.models import StackModel
from explorer.tasks import TASKS, Clusters, Text

SMALL = {"layers": 1, "d_model": 16, "heads": 2, "expert_width": 8, "batch": 4, "n_experts": 4}


def small(mechanism="topk-softmax", **more):
    own = explorer.spec(mechanism).knobs
    knobs = {k: v for k, v in SMALL.items() if k != "n_experts" or ("n_experts" in own and "constant" not in own)}
    return Experiment(mechanism, **{**knobs, **more})


@pytest.mark.parametrize("mechanism", explorer.names())
@pytest.mark.parametrize("task", TASKS)
def test_every_mechanism_trains_on_every_task_it_fits(mechanism, task):
    data, slot = TASKS[task]().build(0), explorer.spec(mechanism).slot
    unfit = {"vectors": ("attention", "stack", "readout"), "tokens": ("readout",), "sequences": ("stack",)}[data.kind]
    if slot in unfit or (slot == "readout" and not data.pooled):
        with pytest.raises(BadValue, match=r"task of tokens|task of pictures|at every position"):
            small(mechanism, task=task)
        return
    run = small(mechanism, task=task).run(3)
    assert run.history.loss.map(math.isfinite).all()
    assert run.step == 3


def test_the_same_seed_gives_a_bit_identical_history():
    assert small("switch", seed=4, jitter=0.1).run(6).history.equals(small("switch", seed=4, jitter=0.1).run(6).history)
    assert not small(seed=4).run(3).history.equals(small(seed=5).run(3).history)


def test_two_runs_in_turn_do_not_disturb_each_other():
    alone = small("switch", jitter=0.1).run(5).history
    a, b = small("switch", jitter=0.1), small("switch", jitter=0.1, seed=9)
    for _ in range(5):
        a.advance()
        b.advance()
    assert a.history.equals(alone)


def test_an_experiment_leaves_the_global_random_numbers_alone():
    torch.manual_seed(1)
    expected = torch.rand(3)
    torch.manual_seed(1)
    small("switch", jitter=0.1).run(2)
    assert torch.equal(torch.rand(3), expected)


def test_recording_does_not_change_the_course_of_training():
    assert small(watch=None).run(5).history.equals(small(tensors_every=2).run(5).history)


def test_examining_the_model_does_not_change_the_run():
    plain, examined = small(), small()
    for _ in range(4):
        plain.advance()
        examined.advance()
        examined.examine()
    assert plain.history.equals(examined.history)
    assert plain.recording.loads().equals(examined.recording.loads())


def test_a_fork_repeats_its_origin_until_something_differs():
    origin = small(keep=3, tensors_every=1).run(4)
    same, other = origin.fork(), origin.fork(aux_loss=1.0)
    for run in (origin, same, other):
        run.run(3)
    assert same.history.equals(origin.history)
    assert same.recording.loads().equals(origin.recording.loads())
    assert other.history[:4].equals(origin.history[:4])
    assert not other.history.equals(origin.history)
    assert [what for _, what in other.recording.header["events"]] == ["forked at step 4", "aux_loss=1.0"]
    assert origin.recording.header["events"] == []
    assert origin.recording.steps() == [4, 5, 6]


def test_live_knobs_act_from_the_next_step():
    run = small(tensors_every=1, k=1).run(1)
    run.set(k=3, learning_rate=0.5)
    run.advance()
    assert run.recording.last("blocks.0.ffn/index").shape[-1] == 3
    assert run.learning_rate() > 0.01
    assert run.recording.header["events"] == [[0, "k=3"], [0, "learning_rate=0.5"]]


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"n_experts": 5}, "n_experts cannot change in the middle of a run"),
        ({"d_model": 32}, "d_model cannot change"),
        ({"k": 5}, "at most the number of experts"),
        ({"learning_rate": -1}, "learning_rate=-1"),
        ({"lerning_rate": 1}, "did you mean 'learning_rate'"),
    ],
)
def test_a_change_that_cannot_be_made_is_one_sentence_and_changes_nothing(changes, sentence):
    run = small()
    before = (dict(run.knobs), dict(run.settings))
    with pytest.raises(ExplorerError, match=sentence):
        run.set(**changes)
    assert (run.knobs, run.settings) == before
    run.advance()


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        ({"mechanism": "swich"}, UnknownName),
        ({"task": "txt"}, UnknownName),
        ({"k": 5}, BadValue),
        ({"n_experts": 0}, BadValue),
        ({"seed": -1}, BadValue),
        ({"seed": 1.5}, BadValue),
        ({"match": "params"}, BadValue),
        ({"capacity": 1}, UnknownName),
        ({"attention": "switch"}, BadValue),
        ({"kernel": "cuda"}, BadValue),
        ({"heads": 3}, BadValue),
    ],
)
def test_a_bad_argument_is_refused_before_anything_is_built(arguments, error):
    with pytest.raises(error) as caught:
        small(**{"mechanism": "topk-softmax", **arguments})
    assert "\n" not in str(caught.value)


def test_data_with_nan_stops_the_run_and_keeps_the_last_good_weights():
    run = small(task=Clusters(dimensions=2)).run(2)
    before = [p.clone() for p in run.model.parameters()]
    original = run.data.batch
    run.data.batch = lambda step, size: original(step, size)._replace(inputs=torch.full((size, 2), torch.nan))
    with pytest.raises(Diverged, match=r"at step 2 .*lower the learning rate"):
        run.advance()
    assert all(torch.equal(p, q) for p, q in zip(before, run.model.parameters(), strict=True))
    assert run.step == 2
    assert len(run.history) == 2
    run.data.batch = original
    run.advance()  # and it can go on


def test_counting_by_hand():
    run = Experiment("topk-softmax", layers=1, d_model=8, heads=2, expert_width=4, n_experts=4, k=2)
    V, D, E, F, T = run.data.vocab, 8, 4, 4, 64
    expert = D * 2 * F + F * D
    parameters = V * D + 3 * D + 4 * D * D + D * E + E * expert
    size = run.count()
    assert size.parameters == parameters == sum(p.numel() for p in run.model.parameters())
    assert size.active == parameters - 2 * expert
    scores = 2 * 2 * D * (T + 1) / 2
    assert size.flops == 2 * V * D + 2 * 4 * D * D + scores + 2 * D * E + 2 * 2 * expert


@pytest.mark.parametrize("match", ["parameters", "flops"])
def test_matching_meets_the_reference_to_a_few_per_cent(match):
    reference = getattr(Experiment("softmax-attention").count(), match)
    assert getattr(Experiment("gated-attention", match=match).count(), match) == pytest.approx(reference, rel=0.02)
    assert getattr(Experiment("gated-attention").count(), match) > 1.02 * reference


def test_switch_matched_by_flops_gets_wider_experts_than_top_two():
    assert Experiment("switch", match="flops").settings["expert_width"] > 100


@pytest.mark.parametrize(
    ("mechanism", "task", "why"),
    [
        ("switch", "clusters", "experts on plain vectors are single matrices"),
        ("product-key-memory", "text", "its size is set by memories, heads$"),
        ("adversarial-moe", "text", "its size is set by n_experts, channels$"),
    ],
)
def test_what_cannot_be_matched_says_why(mechanism, task, why):
    with pytest.raises(BadValue, match=f"{mechanism} cannot be matched.*{why}"):
        Experiment(mechanism, task=task, match="parameters")


@pytest.mark.parametrize("mechanism", ["topk-activation", "mixture-of-modules", "moeut"])
def test_a_width_that_other_knobs_bound_is_matched_all_the_same(mechanism):
    own = explorer.spec(mechanism).check({})
    if mechanism == "topk-activation":  # which keeps 64 of its units
        reference = Experiment("glu", width=64).count().parameters
    else:
        reference = Experiment("topk-softmax", n_experts=own["n_experts"], k=own["k"]).count().parameters
    found = Experiment(mechanism, match="parameters")
    assert found.count().parameters == pytest.approx(reference, rel=0.02)
    assert "width" in found.given


def by_hand(mechanism, D, knobs):
    """Parameters that a token does not meet, of one layer."""
    if mechanism == "avg-k":
        return (knobs["n_experts"] - knobs["k"]) * knobs["width"] * D
    kept = knobs["k"] if mechanism == "topk-activation" else knobs["k"] * knobs["heads"]
    return (knobs.get("width", knobs.get("memories")) - kept) * D


@pytest.mark.parametrize("mechanism", ["avg-k", "topk-activation", "product-key-memory"])
def test_what_a_token_leaves_out_is_not_active(mechanism):
    run = Experiment(mechanism, layers=3, d_model=16, watch=None)
    size = run.count()
    assert size.parameters - size.active == 3 * by_hand(mechanism, 16, run.knobs) > 0


@pytest.mark.parametrize("mechanism", ["mixture-of-modules", "moeut"])
def test_a_stack_is_the_whole_model_between_embedding_and_head(mechanism):
    run = Experiment(mechanism, layers=3, d_model=16, n_heads=2)
    assert isinstance(run.model, StackModel) and len(run.model.blocks) == 1
    assert isinstance(run.model.blocks[0], explorer.spec(mechanism).cls)
    run.run(2)
    assert set(run.recording.layers()) == set(run.recorder.routers())
    assert "n_heads=2" in run.script() and "layers=3" in run.script()


def test_a_recipe_makes_the_same_experiment_again():
    run = small("switch", seed=3, match="parameters", capacity_factor=1.5)
    again = Experiment(**run.recipe())
    assert again.run(3).history.equals(run.run(3).history)


def test_labels_of_the_batch_lie_beside_the_tensors_of_its_step():
    run = small(tensors_every=2).run(3)
    assert torch.equal(run.recording.at("/labels", 2), run.data.batch(2, 4).labels)
    with pytest.raises(ExplorerError):
        run.recording.at("/labels", 1)


def test_a_closed_experiment_is_no_longer_watched():
    run = small().run(1)
    run.close()
    run.model(run.data.batch(0, 2).inputs)
    assert len(run.recording.loads().step.unique()) == 1


def test_the_header_says_where_the_numbers_come_from():
    header = small(seed=2, task=Text(texts={"a": "to be or not to be " * 60})).run(1).recording.header
    assert header["seed"] == 2
    assert header["mechanism"] == "topk-softmax"
    assert "grouped_mm" in header["kernel"]
    assert header["device"] == "cpu"
    assert header["labels"] == ["a"]
    assert "sha256" in str(header["data"])
    assert header["scores"]["blocks.0.ffn/probs"].startswith("probabilities")


def test_the_learning_rate_warms_up_and_falls_to_a_tenth():
    run = small(warmup=10, horizon=100, learning_rate=1.0)
    rates = []
    for run.step in (0, 4, 9, 10, 55, 100, 500):
        rates.append(run.learning_rate())
    assert rates == pytest.approx([0.1, 0.5, 1.0, 1.0, 0.55, 0.1, 0.1])


@pytest.mark.parametrize(
    ("name", "knobs"), [("topk-softmax", {"attention": "gated-attention"}), ("sigmoid-attention", {})]
)
def test_a_norm_that_the_attention_does_not_have_is_refused(name, knobs):
    with pytest.raises(BadValue, match="norms no queries and keys; softmax-attention can"):
        Experiment(name, task="bigram-backcopy", qk_norm="full", **knobs)
    assert Experiment("topk-softmax", task="bigram-backcopy", qk_norm="full", layers=1).model.blocks[0].attention.norm_q


def test_what_a_run_needs_is_estimated_without_the_numbers():
    """On the meta device a tensor that is filled would import torch._dynamo, 2 s and 75 MB for every page."""
    program = (
        "import sys, explorer\n"
        "for name in explorer.names():\n"
        "    task = {'task': 'digit-patches'} if explorer.spec(name).slot == 'readout' else {}\n"
        "    explorer.Experiment(name, most_memory=10**9, **task)\n"
        "    assert 'torch._dynamo' not in sys.modules, name\n"
    )
    subprocess.run([sys.executable, "-c", program], check=True)
