"""What the pictures of single attention mechanisms draw from, against numbers one can check, and what is said of them."""

import pytest
import torch

import explorer
from explorer.kernels import hopfield
from explorer.tasks import BigramBackcopy, SplitDigits
from explorer.tasks.split_digits import accuracies
from widgets.states import attention_special as special
from widgets.states import attention_view as view
from widgets.states.attention import AttentionState
from widgets.states.attention_advice import advice
from widgets.states.timeline import Timeline


def scene(query, steps=2, looks=2, **changes):
    """A run of the lab's, looked at `looks` times, `steps` apart."""
    state = AttentionState(query)
    run = explorer.Experiment(
        state.mechanism, task=changes.pop("task", None) or state.make_task(), seed=0, **{**state.values, **changes}
    )
    probe, timeline = view.Probe.of(run), Timeline()
    for _ in range(looks):
        timeline.add(run.step, view.look(run, probe))
        run.run(steps)
    timeline.add(run.step, view.look(run, probe))
    return view.Scene(run, timeline, probe, ([], []), 0, -1)


# -- gated-positional ----------------------------------------------------------------------------------------------------
def test_gates_begin_by_place_and_a_row_is_a_step_that_was_looked_at():
    s = scene("mechanism=gated-positional&layers=2&batch=4")
    assert special.leaves_its_place(s)
    gate, far = special.places(s)
    assert gate.shape == far.shape == (3, 8)
    torch.testing.assert_close(gate[0], torch.full((8,), torch.tensor(1.0).sigmoid().item()), atol=1e-5, rtol=0)
    assert ((far > 0) & (far < 3 * 2**0.5 + 1e-5)).all()  # no two patches of 4 x 4 are farther apart
    assert "Gates began at 0.73" in advice(s)


# -- block-gate ----------------------------------------------------------------------------------------------------------
def test_blocks_are_those_of_the_head_that_is_shown_and_their_recall_is_that_of_the_map():
    s = scene("mechanism=block-gate&layers=1&batch=2")
    one = special.blocks(s)
    M = 64 // s.run.knobs["block"]
    assert one.truth.shape == one.scores.shape == one.kept.shape == (M, M)
    assert one.density == s.run.knobs["density"]
    pooled = s.map.unflatten(1, (M, -1)).unflatten(0, (M, -1)).sum((1, 3))
    kept = one.kept.bool()
    choosing = (kept.sum(-1) <= torch.arange(M)) & (torch.arange(M) < M - 2)  # the others keep everything
    share = (pooled / pooled.sum(-1, keepdim=True) * kept).sum(-1)[choosing].mean()
    assert one.recall == pytest.approx(float(share), abs=0.01)
    assert f"{one.recall:.0%} of its attention" in advice(s)


# -- hopfield ------------------------------------------------------------------------------------------------------------
def test_the_energy_falls_along_the_way_and_the_field_is_the_energy():
    one = special.memory(0, 5.0)
    energies = hopfield.energy(one.path, one.patterns, 5.0 * 2**-0.5)
    assert (energies.diff() <= 1e-6).all()
    at = one.energy[30, 10]
    there = torch.stack([one.x[10], one.y[30]])[None]
    torch.testing.assert_close(at, hopfield.energy(there, one.patterns, 5.0 * 2**-0.5)[0])


def test_a_sharp_memory_ends_at_a_pattern_and_a_blunt_one_in_the_middle():
    sharp, blunt = special.memory(0, 30.0), special.memory(0, 0.01)
    assert (sharp.patterns - sharp.path[-1]).norm(dim=-1).min() < 0.05
    assert (blunt.path[-1] - blunt.patterns.mean(0)).norm() < 0.2


def test_resting_states_go_from_one_mean_over_clusters_to_single_patterns():
    beta, size, points = special.regimes(0)
    N = special.CLUSTERS * special.EACH
    assert (beta.diff() > 0).all()
    assert (int(points[0]), int(points[-1])) == (1, N) or int(points[-1]) >= special.CLUSTERS
    assert float(size[0]) > 0.8 * N and float(size[-1]) == 1
    assert special.CLUSTERS in points.tolist()  # in between: clusters


def test_a_query_that_mixes_many_keys_is_told_so():
    s = scene("mechanism=hopfield&layers=1&batch=2")
    assert special.is_memory(s)
    assert "a query mixes" in advice(s)


# -- class-attention-gate ------------------------------------------------------------------------------------------------
def test_a_row_is_a_stage_and_tasks_to_come_are_unknown():
    task = SplitDigits(steps_per_task=2, steps_per_epoch=2)
    s = scene("mechanism=class-attention-gate&layers=1&batch=4", steps=2, looks=3, task=task)
    accuracy, names = special.learnt(s)
    assert names == ["0 or 1", "2 or 3", "4 or 5", "6 or 7", "8 or 9"]
    assert accuracy.shape == (3, 5)
    assert torch.equal(accuracy.isnan(), torch.ones(3, 5).triu(1).bool())
    torch.testing.assert_close(s.moment.tasks, accuracies(s.run, 3, known=True), equal_nan=True)
    unknown = accuracies(s.run, 3)
    assert float(unknown.nanmean()) == pytest.approx(s.moment.right, abs=0.02)  # tasks are of about one size
    told = advice(s)
    assert told.startswith("3 of 5 tasks have begun")
    assert 0 <= s.moment.right <= 1 and "if nobody does" in told


def test_looking_back_tells_the_tasks_of_then():
    task = SplitDigits(steps_per_task=2, steps_per_epoch=2)
    now = scene("mechanism=class-attention-gate&layers=1&batch=4", steps=2, looks=3, task=task)
    then = view.Scene(now.run, now.timeline, now.probe, ([], []), 0, 2)
    assert special.learnt(then)[0].shape == (1, 5)


# -- joint-gated-attention -----------------------------------------------------------------------------------------------
def test_near_is_within_groups_and_far_is_everywhere():
    s = scene("mechanism=joint-gated-attention&batch=2")
    near, far = special.near_and_far(s)
    T, group = near.shape[0], s.run.knobs["group"]
    outside = torch.arange(T)[:, None] // group != torch.arange(T) // group
    assert (near[outside] == 0).all() and near[~outside].any()
    assert far.shape == (T, T) and far[outside].any()
    assert "comes from far away" in advice(s)
    assert s.tokens == [] and s.names == ["layer 0"]


# -- pictures ------------------------------------------------------------------------------------------------------------
def test_the_share_of_digits_read_correctly_is_that_of_the_held_out_ones():
    s = scene("mechanism=softmax-attention&task=digit-patches&layers=1", steps=20)
    batch = s.run.data.held_out()
    with torch.no_grad():
        right = (s.run.model.eval()(batch.inputs).argmax(-1) == batch.labels)[:120].float().mean()
    assert s.moment.right == pytest.approx(float(right))
    assert f"{s.moment.right:.0%} of 120 held-out digits" in advice(s)
    assert s.tokens[5] == "r1 c1"


def test_of_tokens_there_is_no_such_share():
    s = scene("batch=2")
    assert isinstance(s.run.task, BigramBackcopy)
    assert s.moment.right is None and s.moment.tasks is None
    others = (
        special.leaves_its_place,
        special.has_blocks,
        special.is_memory,
        special.has_tasks,
        special.has_near_and_far,
    )
    assert not any(one(s) for one in others)


# -- the advice of sinks -------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("first", "elsewhere", "words"),
    [
        (0.9, 0.0, "A sink: where layer 0 · head 1"),
        (0.2, 0.0, "Not a sink, or not yet"),
        (0.05, 0.0, "No sink: the head"),
        (0.05, 0.8, "gives 80% of its attention to nobody"),
        (float("nan"), 0.8, "to nobody"),
    ],
)
def test_the_advice_follows_the_numbers(first, elsewhere, words):
    s = scene("batch=2")
    s.moment.first, s.moment.elsewhere = torch.tensor([0.01, first]), torch.tensor([0.0, elsewhere])
    assert words in advice(s)


def test_a_short_value_is_told_beside_a_sink():
    s = scene("batch=2")
    s.moment.first = torch.tensor([0.01, 0.9])
    s.moment.values = torch.ones(2, 64)
    s.moment.values[1, 0] = 0.1
    assert "0.10 times as long as the others" in advice(s)
