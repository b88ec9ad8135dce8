"""The attention lab without a browser: what its controls do to the run, and what a run does to the page."""

import asyncio

import pytest

import explorer
from explorer.serving import HERE as SERVING
from widgets.labs.attention import LAB, AttentionLab
from widgets.labs.frame import escape
from widgets.states import attention_view as view
from widgets.states.attention import ABOUT_TASKS, OWN_TASKS, TASKS, AttentionState
from widgets.states.attention_presets import PRESETS

TEMPLATE = SERVING / "share/voila/templates/gating-explorer"
NAMES = explorer.names("attention")
TOKENS = ("bigram-backcopy", "no-triggers", "no-bos", "selective-copy", "text")
SPECIAL = {
    "locality": "gated-positional", "blocks": "block-gate", "energy": "hopfield", "regimes": "hopfield",
    "tasks": "class-attention-gate", "joint": "joint-gated-attention",
}  # fmt: skip


def make(query=""):
    lab = AttentionLab(AttentionState(f"{query}&batch=2" if "preset" not in query else query))
    assert (lab.state.notices, lab.state.error) == ([], None)
    return lab


def run_a(lab):
    return lab.runs.a.experiment


def run_b(lab):
    return lab.runs.b.experiment


def controls(lab):
    return lab.settings.controls


def there(lab, side="a"):
    """The charts of a side that are on the page."""
    charts = lab.charts if side == "a" else lab.charts_b
    return {name for name, chart in charts.items() if chart.layout.display != "none"}


def summary(lab, name, side="a"):
    return (lab.charts if side == "a" else lab.charts_b)[name].frame["summary"]


@pytest.fixture
def lab():
    return make()


# -- every mechanism -----------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("mechanism", NAMES)
def test_every_mechanism_opens_on_its_own_task_trains_draws_and_starts_anew(mechanism):
    lab = make(f"mechanism={mechanism}")
    own = OWN_TASKS.get(mechanism)
    assert lab.state.task == (own.task if own else "bigram-backcopy")
    before = {name: chart.frame["number"] for name, chart in lab.charts.items()}
    for _ in range(3):
        lab.one_step()
    assert lab.state.error is None
    shown = there(lab)
    assert shown >= {"loss", "massive"}
    assert shown & SPECIAL.keys() == {name for name, one in SPECIAL.items() if one == mechanism}
    assert all(lab.charts[name].frame["number"] > before[name] for name in shown)
    assert not [name for name in shown if "Nothing to show" in summary(lab, name)]
    assert there(lab, "b") == set()
    assert escape(ABOUT_TASKS[lab.state.task]) in lab.advice_text.value
    assert ("shown on" in lab.advice_text.value or "beside the model" in lab.advice_text.value) is bool(own)
    first = run_a(lab).losses()
    lab.reset()
    assert (run_a(lab).step, lab.state.error) == (0, None)
    lab.runs.advance()
    assert run_a(lab).losses().equal(first[:1])


@pytest.mark.parametrize("task", TASKS)
def test_every_task_is_drawn_with_what_it_has(task):
    lab = make(f"mechanism=gated-attention&task={task}&layers=1")
    lab.one_step()
    assert lab.state.error is None
    shown = there(lab)
    first = {"birth", "shares", "values"}
    assert shown & first == (first if task in TOKENS else set())
    assert {"map", "received", "gates"} <= shown
    assert ("kinds" in shown) == (task in ("bigram-backcopy", "no-bos", "no-triggers", "selective-copy", "text"))
    assert not [name for name in shown if "Nothing to show" in summary(lab, name)]


def test_what_cannot_be_told_of_a_mechanism_has_no_picture():
    joint = make("mechanism=joint-gated-attention")
    assert there(joint).isdisjoint({"map", "received", "shares", "birth"})  # its weights are no shares
    assert joint.names == ["layer 0"]
    assert "gates" not in there(make("mechanism=gated-positional"))  # its gates shut nothing
    assert "values" not in there(make("mechanism=class-attention-gate"))


def test_of_tasks_to_come_no_loss_is_drawn():
    lab = make("mechanism=class-attention-gate")
    lab.one_step()
    assert lab.runs.a.held_out[0]
    assert "held out" not in str(lab.charts["loss"].frame["figure"]["data"])


def test_a_mechanism_from_the_menu_lands_on_its_own_task_and_back():
    lab = make()
    lab.settings.mechanism.value = "gated-positional"
    assert (lab.state.error, lab.settings.task.value) == (None, "digit-patches")
    lab.settings.mechanism.value = "gated-attention"
    assert (lab.state.error, lab.settings.task.value) == (None, "bigram-backcopy")
    assert controls(lab)["learning_rate"].value == 1e-2


def test_a_readout_on_tokens_is_refused_in_a_sentence_and_everything_stays():
    lab = make("mechanism=class-attention-gate&layers=1")
    lab.settings.task.value = "text"
    assert "choose a task of pictures" in lab.state.error["message"]
    assert (lab.state.task, lab.settings.task.value, run_a(lab).spec.name) == (
        "split-digits", "split-digits", "class-attention-gate"
    )  # fmt: skip


# -- knobs, heads, resets ------------------------------------------------------------------------------------------------
def test_a_live_knob_acts_and_redraws_the_mechanisms_own_mathematics():
    lab = make("mechanism=hopfield")
    lab.one_step()
    before = lab.charts["energy"].frame["number"]
    controls(lab)["beta"].value = 10.0
    assert run_a(lab).knobs["beta"] == 10.0
    assert run_a(lab).step == 1
    assert lab.charts["energy"].frame["number"] > before
    assert "beta 10" in summary(lab, "energy")


def test_a_knob_that_shapes_the_model_starts_anew_and_the_menu_of_heads_follows(lab):
    assert lab.names == ["layer 0 · head 0", "layer 0 · head 1"]
    controls(lab)["n_heads"].value = 4
    assert len(lab.settings.layer.options) == 4
    lab.settings.layer.value = 3
    lab.one_step()
    assert controls(lab)["n_heads"].disabled
    assert "head 3" in str(lab.charts["map"].frame["figure"]["layout"]["title"])
    lab.reset()
    controls(lab)["n_heads"].value = 1
    assert lab.state.layer == 0


def test_another_head_draws_another_map(lab):
    lab.one_step()
    before = summary(lab, "map")
    lab.settings.layer.value = 1
    assert summary(lab, "map") != before


def test_a_refused_value_is_explained_and_the_control_goes_back(lab):
    controls(lab)["n_heads"].value = 5
    assert "5" in lab.state.error["message"]
    assert controls(lab)["n_heads"].value == run_a(lab).knobs["n_heads"] == 2


# -- scrubbing -----------------------------------------------------------------------------------------------------------
def test_looking_back_shows_the_step_and_leaves_the_run_alone(lab):
    for _ in range(5):
        lab.one_step()
    newest = summary(lab, "received")
    lab.transport.scrub.value = 2
    assert (lab.state.cursor, run_a(lab).step) == (2, 5)
    assert lab.scene(lab.runs.a).moment.step == 2
    assert lab.charts["birth"].frame["figure"]["layout"]["shapes"]
    lab.transport.buttons["Newest"].click()
    assert lab.state.cursor == -1
    assert summary(lab, "received") == newest


def test_what_is_remembered_of_a_run_is_bounded_however_long_it_is():
    lab = make("task=text&n_heads=4&layers=6")
    heavy = 0
    for _ in range(6):
        lab.one_step()
        heavy = max(heavy, sum(one.maps is not None for one in lab.runs.a.timeline.moments[:-1]))
    large = lab.runs.a.timeline.moments[-1].maps.numel() * 2 > view.MAP_BYTES
    assert large and heavy <= 1
    assert "map" in there(lab)
    lab.look_at(2)
    assert "map" not in there(lab)  # it is gone, and no other stands in its place
    assert lab.state.error is None


def test_the_small_maps_of_a_whole_run_take_less_than_64_megabytes(lab):
    lab.one_step()
    moment = lab.runs.a.timeline.moments[-1]
    kept = [one for one in vars(moment).values() if hasattr(one, "nbytes")]
    kept += [one for taps in moment.own.values() for one in taps]
    assert moment.maps is not None
    assert lab.runs.a.timeline.most * sum(one.nbytes for one in kept) < 64 * 2**20


# -- A beside B ----------------------------------------------------------------------------------------------------------
def test_softmax_and_gated_are_trained_beside_each_other_from_one_seed():
    lab = make("seed=5&b=gated-attention&b.granularity=headwise&b.batch=2")
    lab.one_step()
    assert (run_a(lab).seed, run_b(lab).seed) == (5, 5)
    assert (run_a(lab).spec.name, run_b(lab).spec.name) == ("softmax-attention", "gated-attention")
    assert {"birth", "map", "shares"} <= there(lab) & there(lab, "b")
    assert {"gates", "kinds"} <= there(lab, "b") - there(lab)
    assert "both" in there(lab)
    assert "A: " in lab.advice_text.value and "B: " in lab.advice_text.value
    assert str(lab.charts_b["birth"].frame["figure"]["layout"]["title"]).count("B: ") == 1
    same = [run.experiment.data.batch(3, 4).inputs for run in lab.runs.sides.values()]
    assert same[0].equal(same[1])
    lab.beside_part.swap.click()
    assert lab.runs.b is None
    assert there(lab, "b") == set()
    assert "both" not in there(lab)


def test_a_fork_is_the_same_run_until_one_thing_is_changed(lab):
    for _ in range(2):
        lab.one_step()
    lab.transport.buttons["Fork"].click()
    lab.one_step()
    assert run_a(lab).losses().equal(run_b(lab).losses())
    lab.set_knob("learning_rate", 0.1, "b")
    lab.one_step()
    lab.one_step()
    assert not run_a(lab).losses().equal(run_b(lab).losses())
    assert "step 2" in lab.beside_part.about.value


# -- presets, links, hiding ----------------------------------------------------------------------------------------------
@pytest.mark.parametrize("name", PRESETS)
def test_a_preset_starts_at_once_and_says_what_to_watch(name):
    lab = make()

    async def play():
        lab.settings.preset.value = name
        assert lab.state.running
        lab.pause()

    asyncio.run(play())
    assert lab.state.error is None
    assert escape(PRESETS[name].watch) in lab.advice_text.value
    assert (lab.runs.b is None) == ("b" not in PRESETS[name].settings)
    assert lab.settings.mechanism.value == PRESETS[name].settings["mechanism"]


def test_a_link_with_a_plan_replays_the_very_run():
    lab = make("mechanism=hopfield")
    for _ in range(2):
        lab.one_step()
    controls(lab)["updates"].value = 3
    lab.one_step()
    lab.look_at(1)

    async def replay():
        again = AttentionLab(AttentionState(lab.state.link()))
        await again.trainer.wait()
        return again

    again = asyncio.run(replay())
    assert (again.state.error, again.runs.step, again.state.cursor) == (None, 3, 1)
    assert run_a(again).history.equals(run_a(lab).history)
    assert again.state.link() == lab.state.link()


def test_what_a_link_hides_is_not_there():
    lab = make("hide=seed,whatif,long,knobs,birth,layer")
    for part in (lab.settings.seed, lab.what_if, lab.long_inputs, lab.settings.parts["knobs"], lab.settings.layer):
        assert part.layout.display == "none"
    lab.one_step()
    lab.reset()
    assert "birth" not in there(lab)
    assert lab.what_if.layout.display == lab.long_inputs.layout.display == "none"


# -- what if -------------------------------------------------------------------------------------------------------------
def test_what_if_shows_the_loss_of_every_kind_before_and_after_and_changes_nothing():
    lab = make("mechanism=gated-attention&granularity=headwise")
    lab.one_step()
    before = run_a(lab).evaluate()
    lab.what_if.toggle.value = True
    assert "nothing is edited" in lab.whatif.outcome.value
    lab.whatif.sink.value = "evict"
    lab.whatif.gate.value = "0"
    said = lab.whatif.outcome.value
    assert "every gate: shut" in said and "its share goes to the others" in said
    assert "trigger tokens" in said and "all tokens" in said
    assert run_a(lab).evaluate() == before
    lab.reset()
    assert (lab.whatif.sink.value, lab.whatif.gate.value) == ("", "")
    assert lab.whatif.what.empty


def test_what_if_has_no_menu_of_gates_where_there_are_none_and_waits_for_a_pause(lab):
    lab.what_if.toggle.value = True
    assert lab.whatif.gate.layout.display == "none"
    assert lab.whatif.sink.layout.display == ""

    async def play():
        lab.train()
        assert "Pause the run first" in lab.whatif.outcome.value
        assert lab.whatif.sink.disabled
        lab.pause()

    asyncio.run(play())
    assert not lab.whatif.sink.disabled
    assert "nothing is edited" in lab.whatif.outcome.value


def test_parts_that_a_run_has_no_use_for_are_not_on_the_page():
    lab = make("mechanism=gated-positional")
    assert lab.what_if.layout.display == lab.long_inputs.layout.display == "none"
    lab.settings.mechanism.value = "softmax-attention"
    assert lab.what_if.layout.display == lab.long_inputs.layout.display == ""


# -- saving --------------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("query", ["", "mechanism=hopfield", "b=gated-attention", "mechanism=class-attention-gate"])
def test_what_leaves_the_page_is_stamped_and_whole(query, tmp_path, monkeypatch):
    lab = make(query)
    lab.one_step()
    sent = {}
    monkeypatch.setattr(
        type(lab.sharing.courier), "download", lambda self, name, content, *_: sent.update({name: content})
    )
    lab.sharing.save_recording("a")
    lab.sharing.save_page()
    assert lab.state.error is None
    recording, page = sorted(sent, key=lambda name: name.endswith("html"))
    (tmp_path / recording).write_bytes(sent[recording])
    assert explorer.Recording.load(tmp_path / recording).paths()
    text = sent[page].decode()
    assert len(text) < 6e6
    for word in (run_a(lab).spec.name, "seed 0", "step 1", "cpu", "kernel"):
        assert word in lab.stamp()
    assert "explorer.Experiment(" in text
    assert "https://cdn" not in text
    assert all(f">{LAB.SECTIONS[name]}<" in text for name, views in lab.shown().items() if views)


def test_every_formula_is_set_and_none_is_left_as_code():
    for mechanism in NAMES:
        lab = make(f"mechanism={mechanism}")
        assert "<math" in lab.explain.about.value
        assert "<code>" not in lab.explain.about.value, mechanism


def test_the_recorded_run_is_of_this_lab_shows_its_sink_and_needs_no_script(lab):
    assert set(LAB.RECORDED) <= there(lab)
    for theme in ("light", "dark"):
        content = (TEMPLATE / f"recorded/attention.{theme}.html").read_text()
        assert content.count("<figure") == content.count("<svg aria-hidden") == len(LAB.RECORDED)
        assert escape(LAB.TITLE) in content and escape(LAB.INTRODUCTION) in content
        assert "<script" not in content and "http" not in content.replace("http://www.w3.org", "")
        assert "seed 0" in content and "step 1000" in content
        assert "2 of 2 heads spend more than 30%" in content


def test_a_line_parts_the_layers_in_the_picture_of_births():
    lab = make("layers=3")
    lab.one_step()
    parts = [one for one in lab.charts["birth"].frame["figure"]["layout"]["shapes"] if one["y0"] == one["y1"]]
    assert [one["y0"] for one in parts] == [1.5, 3.5]
