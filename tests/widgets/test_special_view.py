"""What the pictures of mechanisms that are more than a router draw from; the run notices nothing of it."""

import pytest
import torch

from explorer import Experiment
from explorer.tasks import Digits, Field, OdeFamilies
from explorer.tasks.data import unit as unit_of
from widgets.states import special_view as special
from widgets.states.routing_view import Probe, Scene, look, recent_load, short_layer
from widgets.states.timeline import Timeline


def scene_of(run, steps=2, token=(1, 3)):
    probe, timeline = Probe.of(run), Timeline()
    for _ in range(steps):
        run.advance()
        timeline.add(run.step, look(run, probe))
    return Scene(run, timeline, probe, ([], []), 0, -1, token)


def test_the_steps_of_a_stack_stand_in_the_order_in_which_a_token_meets_them():
    run = Experiment("mixture-of-modules", batch=2, depth=3, d_model=16, n_heads=2)
    names = [short_layer(path) for path in special.layers(run)]
    assert names == [f"step {i} {what}" for i in range(3) for what in ("attention", "FFN")]
    scene = scene_of(run)
    assert run.recording.layers() == special.layers(run)
    seen = run.examine(scene.probe.batch)[1]
    for i, path in enumerate(special.layers(run)):
        assert special.usage(scene).index[i].equal(seen.last(f"{path}/index")[1, :, 0])
        assert recent_load(run.recording)[i].equal(
            torch.stack([run.recording.counts(path)[1][s] for s in (0, 1)]).sum(0)
            / run.recording.counts(path)[1][:2].sum()
        )


def test_layers_that_are_run_again_have_the_same_letter():
    run = Experiment("moeut", batch=2, group=2, repeats=2, n_experts=4, k=1, d_model=16, n_heads=2)
    usage = special.usage(scene_of(run))
    assert [name[-1] for name in usage.names] == ["A", "B", "A", "B"]
    assert usage.index.shape == (4, 64)
    assert len(usage.words) == 64


def test_a_stack_in_words_counts_ways_and_idle_places():
    run = Experiment("mixture-of-modules", batch=2, depth=2, n_experts=4, k=1, d_model=16, n_heads=2)
    scene = scene_of(run)
    ways = len(set(zip(*special.usage(scene).index.tolist(), strict=True)))
    idle = int((scene.now < 0.02).sum())
    said = special.said_of_stack(scene)
    assert f"take {ways} different ways" in said
    assert (f"{idle} of 16 places" if idle else "No places") in said
    empty = Experiment("mixture-of-modules", batch=2, d_model=16, n_heads=2)
    probe, timeline = Probe.of(empty), Timeline()
    timeline.add(0, look(empty, probe))
    assert "Press Train" in special.said_of_stack(Scene(empty, timeline, probe, ([], []), 0, -1, (0, 0)))


@pytest.mark.parametrize("mechanism", ["hash-experts", "topk-softmax"])
def test_a_field_is_painted_upright_by_the_model_as_it_is(mechanism):
    run = Experiment(mechanism, task=Field(), batch=2)
    canvas = special.canvas(scene_of(run))
    held_out = run.data.held_out()
    run.model.eval()
    with torch.no_grad():
        expected = run.model(held_out.inputs)[:, 0].view(64, 64)
    torch.testing.assert_close(canvas.painted, expected, atol=2e-3, rtol=2e-3)
    assert canvas.target.equal(held_out.targets[:, 0].view(64, 64))
    top_right = canvas.target[0, -1]
    torch.testing.assert_close(top_right, run.data.at(torch.tensor([[63 / 64, 63 / 64]]))[0, 0])
    assert canvas.expert.shape == (64, 64)
    assert canvas.bounds == (-1, 1, -1, 1)


def test_the_points_of_the_map_are_of_the_whole_plane():
    points = Probe.of(Experiment("hash-experts", task=Field(), batch=2)).points.inputs
    assert (points.amin(0) < -0.9).all()
    assert (points.amax(0) > 0.9).all()


def test_pieces_of_motion_go_with_their_family_and_their_expert():
    run = Experiment("kmeans-gating", task=OdeFamilies(window=6), batch=2, n_experts=3)
    scene = scene_of(run)
    found, held_out = special.families(scene), run.data.held_out()
    assert found.pieces.shape == (1536, 6, 2)
    assert found.pieces[5, 2].equal(held_out.inputs[5, 4:6])
    assert found.family.equal(held_out.labels)
    seen = run.examine()[1]
    assert found.expert.equal(seen.last("ffn/index")[0, :, 0])
    assert 0 <= found.nmi <= 1


def test_digits_are_attacked_without_the_run_noticing():
    def fresh():
        return Experiment("adversarial-moe", task=Digits(), batch=1, learning_rate=1e-2)

    plain, watched = fresh().run(4), fresh()
    torch.manual_seed(5)
    expected = torch.rand(2)
    torch.manual_seed(5)
    scene = scene_of(watched, steps=4)
    assert torch.rand(2).equal(expected)
    assert watched.history.equals(plain.history)
    assert all(p.equal(q) for p, q in zip(plain.model.parameters(), watched.model.parameters(), strict=True))
    assert watched.recording.loads().equals(plain.recording.loads())
    assert watched.model.training
    course = special.attacks(scene)
    assert course.steps.tolist() == [1, 2, 3, 4]
    assert course.radius == 0.1
    assert special.attacked(watched) == scene.timeline.moments[-1].attack  # the same attack each time
    assert ((course.joint >= 0) & (course.joint <= 1)).all()


@pytest.mark.parametrize(
    ("mechanism", "task", "unit"),
    [("switch", "text", "nats/byte"), ("switch", "digits", "nats/digit"), ("switch", "field", "of the variance")],
)
def test_the_loss_has_the_unit_of_its_task(mechanism, task, unit):
    run = Experiment(mechanism, task=task, watch=None)
    assert unit_of(run.data) == unit
    assert special.attacked(run) is None
