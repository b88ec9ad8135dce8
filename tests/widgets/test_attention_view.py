"""What the attention lab draws from: heads, the probe, moments, advice, edits and long inputs."""

import pytest
import torch

from explorer.experiment import Experiment
from explorer.taps import instrumented
from explorer.tasks import BigramBackcopy, Text
from widgets.states import attention_view as view
from widgets.states import attention_whatif as whatif
from widgets.states import long_input
from widgets.states.attention import AttentionState
from widgets.states.attention_advice import advice
from widgets.states.timeline import Timeline


def scene(run, head=0, cursor=-1):
    probe = view.Probe.of(run)
    timeline = Timeline()
    timeline.add(run.step, view.look(run, probe))
    return view.Scene(run, timeline, probe, ([], []), head, cursor)


def backcopy(mechanism="softmax-attention", steps=0, **knobs):
    state = AttentionState(f"mechanism={mechanism}")
    run = Experiment(mechanism, task=BigramBackcopy(), **{**state._experiment(state.a).given, **knobs})
    return run.run(steps)


@pytest.fixture(scope="module")
def sunk():
    """A run long enough for its sink: the heads begin silent, and the pattern is learned within 200 steps."""
    return scene(backcopy(steps=400))


def test_heads_are_those_of_every_layer():
    run = Experiment("softmax-attention", task=BigramBackcopy(), layers=3, n_heads=2)
    assert [one.name for one in view.heads(run)] == [f"layer {i} · head {h}" for i in range(3) for h in range(2)]


def test_idle_queries_have_nothing_to_copy():
    probe = view.Probe.of(backcopy())
    assert not probe.idle[:, : view.SETTLED].any()
    late = probe.batch.labels[:, view.SETTLED :]
    assert torch.equal(probe.idle[:, view.SETTLED :], late == 0)
    assert probe.kinds == ["ordinary", "trigger"]
    assert probe.texts[0][0] == "BOS"


def test_on_text_every_late_query_counts():
    probe = view.Probe.of(Experiment("softmax-attention", task=Text()))
    assert probe.idle[:, view.SETTLED :].all()
    assert not probe.idle[:, : view.SETTLED].any()


def test_a_moment_agrees_with_the_map_it_holds(sunk):
    m = sunk.moment
    R, T = len(sunk.heads), 64
    assert m.maps.shape == (R, T, T) and m.received.shape == (R, T) and m.values.shape == (R, T)
    torch.testing.assert_close(m.maps.float().sum(-1), torch.ones(R, T), atol=2e-3, rtol=0)
    seen = torch.arange(T, 0, -1)
    torch.testing.assert_close(m.maps.float().sum(-2) / seen, m.received, atol=2e-3, rtol=0)
    assert m.gate is None and not len(m.gate_values)
    assert (m.elsewhere < 1e-5).all()
    assert len(m.largest) == sunk.run.settings["layers"] + 1
    assert (m.largest >= m.median).all()


def test_looking_changes_nothing():
    run, twin = backcopy(steps=3), backcopy(steps=3)
    view.look(run, view.Probe.of(run))
    assert run.advance().loss == twin.advance().loss
    assert all(one._probe is not None for one in run._instrumented)  # the run is still recorded
    assert run.model.training


def test_the_sink_is_found_and_told(sunk):
    assert sunk.even == pytest.approx(0.036, abs=0.005)
    assert float(sunk.moment.first.max()) > 5 * sunk.even
    said = advice(sunk)
    assert said.startswith("A sink: where layer 0")
    assert sunk.births.shape == (1, 2)


def test_without_training_the_advice_is_to_train():
    assert advice(scene(backcopy())).startswith("Press Train")


def test_a_gate_is_told_by_head_and_kind():
    s = scene(backcopy("gated-attention", steps=200, granularity="headwise"))
    assert s.moment.gate.shape == (2, len(s.probe.texts), 64)
    assert s.gates_by_kind.shape[1] == len(s.kinds)
    assert ((s.moment.gate_values >= 0) & (s.moment.gate_values <= 1)).all()
    assert float(s.detectors.max()) > 0.9
    assert "knows when it is needed" in advice(s)


def test_old_maps_are_forgotten_where_they_are_large():
    run = backcopy()
    probe = view.Probe.of(run)
    timeline = Timeline()
    for step in range(3):
        moment = view.look(run, probe)
        moment.maps = moment.maps.repeat(40, 1, 1)
        timeline.add(step, moment)
    view.slim(timeline)
    assert [one.maps is None for one in timeline.moments] == [True, True, False]


# -- what if ---------------------------------------------------------------------------------------------------------
def test_evicting_moves_the_share_to_the_others_and_muting_does_not():
    a = torch.zeros(1, 1, 9, 9)
    a[0, 0, :, :3] = torch.tensor([0.5, 0.2, 0.3])
    moved, muted = (whatif.evicted(a, 0, spread)[0, 0] for spread in (True, False))
    torch.testing.assert_close(moved[8, :3], torch.tensor([0, 0.4, 0.6]))
    torch.testing.assert_close(muted[8, :3], torch.tensor([0, 0.2, 0.3]))
    assert torch.equal(moved[:8], a[0, 0, :8]) and torch.equal(muted[:8], a[0, 0, :8])  # the early ones are left alone


@pytest.mark.parametrize(("sink", "key"), [("evict", 0), ("mute", 0), ("other", 3)])
def test_under_an_edit_nobody_late_looks_at_the_token(sunk, sink, key):
    with whatif.edited(sunk.run.model, whatif.Edit(sink=sink)):
        m = view.look(sunk.run, sunk.probe)
    assert (m.maps[:, whatif.LATE :, key] == 0).all()
    assert (m.maps[:, whatif.LATE :, 1 - key % 2] > 0).any()
    whole = m.maps[:, whatif.LATE :].float().sum(-1)
    assert bool((whole < 0.99).any()) is (sink == "mute")


def test_the_losses_of_the_kinds_make_up_the_loss(sunk):
    plain, changed = whatif.outcomes(sunk.run, sunk.probe.batch, whatif.Edit(sink="evict"), sunk.probe.kinds)
    assert changed.loss != plain.loss
    assert list(plain.by_kind) == ["ordinary", "trigger"]
    batch = sunk.probe.batch
    counts = [int(((batch.labels == i) & (batch.targets >= 0)).sum()) for i in range(2)]
    mean = sum(loss * n for loss, n in zip(plain.by_kind.values(), counts, strict=True)) / sum(counts)
    assert mean == pytest.approx(plain.loss, rel=1e-4)


def test_a_shut_gate_is_a_head_that_says_nothing():
    run = backcopy("gated-attention", steps=120, granularity="headwise")
    probe = view.Probe.of(run)
    plain, shut = whatif.outcomes(run, probe.batch, whatif.Edit(gate="0"), probe.kinds)
    assert shut.by_kind["trigger"] > plain.by_kind["trigger"] + 0.5  # what was copied is no longer known
    assert whatif.outcomes(run, probe.batch, whatif.Edit(), probe.kinds)[1] is None
    assert all("edit" not in str(one) for one in instrumented(run.model))


def test_what_cannot_be_edited_is_told():
    assert whatif.possible(backcopy()) == (True, False)
    assert whatif.possible(backcopy("gated-attention")) == (True, True)
    assert whatif.Edit("evict", "1").words() == (
        "the first token: no later token may look at it: its share goes to the others; every gate: open (1)"
    )


# -- long inputs -----------------------------------------------------------------------------------------------------
def test_a_long_input_is_read_without_its_map(sunk):
    found = long_input.read(sunk.run, long_input.frozen(sunk.run), 700)
    assert found.received.shape == (2, 700) and len(found.tokens) == 700 and found.tokens.count("BOS") == 1
    assert found.map_bytes == 2 * 700 * 700 * 4
    assert "700 tokens read in" in long_input.sentence(found)
    tokens = long_input.inputs(sunk.run, 700)
    with torch.no_grad():
        model = sunk.run.model.eval()
        from explorer.recorder import record

        with record(model, "*/attention") as seen:
            model(tokens)
    a = seen.last("blocks.0.attention/attention")[0]
    torch.testing.assert_close(found.first, a[:, 1:, 0].mean(-1), atol=1e-5, rtol=0)


def test_a_long_input_repeats_what_there_is():
    run = backcopy()
    row = long_input.inputs(run, 8192)
    assert row.shape == (1, 8192)
    assert (row == 0).sum() <= 2
