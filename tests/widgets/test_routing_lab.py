"""A lab without a browser: what its controls do to the run, and what a run does to the page."""

import asyncio
import os
import time

import pytest

import explorer
from explorer.errors import BadValue
from explorer.serving import HERE as SERVING
from widgets.labs import frame, shell
from widgets.labs.lab import ALONE_SECONDS, LARGE
from widgets.labs.routing import RoutingLab
from widgets.states.routing import TASKS, RoutingState
from widgets.states.routing_view import Scene

TEMPLATE = SERVING / "share/voila/templates/gating-explorer"
SMALL = "layers=1&batch=2&expert_width=8"


def make(query=""):
    return RoutingLab(RoutingState("&".join(filter(None, [SMALL, query]))))


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


@pytest.fixture
def lab():
    return make()


SPECIAL = {"usage": "text", "field": "field", "families": "ode-families", "attack": "digits"}  # picture -> its task


def special(mechanism, task):
    """Which of the special pictures are to be there."""
    found = {name for name, fit in SPECIAL.items() if fit == task}
    found -= set() if explorer.spec(mechanism).slot == "stack" else {"usage"}
    return found - (set() if mechanism == "adversarial-moe" else {"attack"})


@pytest.mark.parametrize("mechanism", explorer.names("routing"))
def test_every_mechanism_opens_trains_draws_and_starts_anew_on_every_task_it_fits(mechanism):
    lab = RoutingLab(RoutingState(f"mechanism={mechanism}&task=text&batch=2"))
    for task in ["text"] if explorer.spec(mechanism).slot == "stack" else TASKS:
        lab.settings.task.value = task
        assert (lab.state.error, lab.state.notices, lab.state.task) == (None, [], task)
        before = {name: chart.frame["number"] for name, chart in lab.charts.items()}
        lab.runs.advance()
        lab.runs.advance()
        lab.one_step()
        assert lab.state.error is None
        assert there(lab) >= {"loss", "load", "balance", "entropy", "path", "specialisation", "map", "percentiles"}
        assert there(lab) & SPECIAL.keys() == special(mechanism, task)
        assert all(lab.charts[name].frame["number"] > before[name] for name in there(lab))
        assert not [name for name in there(lab) if "Nothing to show" in lab.charts[name].frame["summary"]]
        assert there(lab, "b") == set()
        assert (lab.view_of("a", "decisions").layout.display == "") == (task in ("clusters", "field"))
        assert (lab.view_of("a", "strip").layout.display == "") == (task == "text")
        if task in ("text", "field"):
            first = run_a(lab).losses()
            lab.reset()
            assert (run_a(lab).step, lab.state.error) == (0, None)
            lab.runs.advance()
            assert run_a(lab).losses().equal(first[:1])


def test_a_task_that_a_stack_does_not_fit_is_refused_in_a_sentence_and_everything_stays():
    lab = RoutingLab(RoutingState("mechanism=moeut&batch=2"))
    lab.settings.task.value = "clusters"
    assert "choose a task of tokens" in lab.state.error["message"]
    assert (lab.state.task, lab.settings.task.value, run_a(lab).spec.name) == ("text", "text", "moeut")


def test_a_link_to_a_stack_on_points_opens_the_page_and_says_why():
    lab = RoutingLab(RoutingState("mechanism=moeut&task=clusters"))
    assert "do not go together" in lab.state.notices[0]
    assert lab.state.mechanism == "topk-softmax"


def test_a_mechanism_from_the_menu_lands_on_its_own_task_and_the_page_says_so():
    lab = RoutingLab(RoutingState("batch=2&layers=1"))
    lab.settings.mechanism.value = "hash-experts"
    assert (lab.state.task, lab.settings.task.value) == ("field", "field")
    assert "shown on its own task" in lab.advice_text.value
    assert lab.state.values["learning_rate"] == 0.02
    lab.settings.mechanism.value = "switch"
    assert (lab.state.task, lab.settings.task.value) == ("text", "text")
    assert "own task" not in lab.advice_text.value


def test_two_whose_routers_lie_at_other_places_paint_one_field_beside_each_other():
    lab = RoutingLab(RoutingState("mechanism=hash-experts&b=topk-softmax&batch=2"))
    lab.one_step()
    assert (lab.state.notices, lab.state.error) == ([], None)
    assert "field" in there(lab) & there(lab, "b")


def test_a_stack_has_no_controls_for_what_it_brings_itself():
    lab = RoutingLab(RoutingState("mechanism=mixture-of-modules&batch=2"))
    assert not {"layers", "expert_width", "router_rate"} & controls(lab).keys()
    assert "no control for layers" in lab.advice_text.value
    assert lab.names[:3] == ["step 0 attention", "step 0 FFN", "step 1 attention"]
    lab.one_step()
    scene = lab.scene(lab.runs.a)
    assert scene.now.shape == (8, 4)
    assert "different ways" in lab.advice_text.value


def test_a_live_knob_acts_on_the_run_and_is_noted_in_its_recording(lab):
    lab.one_step()
    controls(lab)["k"].value = 1
    assert run_a(lab).knobs["k"] == lab.state.values["k"] == 1
    assert run_a(lab).step == 1
    assert run_a(lab).recording.header["events"] == [[0, "k=1"]]


def test_a_knob_that_shapes_the_model_starts_anew_before_the_first_step_and_is_fixed_after_it(lab):
    controls(lab)["n_experts"].value = 4
    assert run_a(lab).recording.experts("blocks.0.ffn") == 4
    assert not controls(lab)["n_experts"].disabled
    lab.one_step()
    assert controls(lab)["n_experts"].disabled
    assert "press Reset" in controls(lab)["n_experts"].tooltip
    assert not controls(lab)["k"].disabled
    lab.reset()
    assert not controls(lab)["n_experts"].disabled


def test_a_refused_value_is_explained_and_the_control_goes_back(lab):
    lab.one_step()
    controls(lab)["k"].value = 9
    assert "at most the number of experts" in lab.state.error["message"]
    assert controls(lab)["k"].value == run_a(lab).knobs["k"] == 2
    lab.one_step()
    assert lab.state.error is None


def test_choosing_another_mechanism_starts_a_run_with_its_own_controls(lab):
    lab.one_step()
    lab.settings.mechanism.value = "switch"
    assert (run_a(lab).spec.name, run_a(lab).step) == ("switch", 0)
    assert "capacity_factor" in controls(lab)
    assert "k" not in controls(lab)
    assert "switch.py" in lab.explain.code.children[0].toggle.description


def test_reset_gives_the_same_run_again(lab):
    for _ in range(3):
        lab.one_step()
    first = run_a(lab).history
    lab.reset()
    for _ in range(3):
        lab.one_step()
    assert run_a(lab).history.equals(first)


def test_an_error_in_the_run_reaches_the_page_and_the_buttons():
    lab = RoutingLab(RoutingState("task=clusters&batch=1"))

    async def play():
        lab.train()
        await asyncio.sleep(0.05)
        run_a(lab).data = None  # the rug is pulled away under a running experiment
        await asyncio.sleep(0.1)

    asyncio.run(play())
    assert lab.state.error["title"] == "Something went wrong"
    assert "Traceback" not in str(lab.state.error)
    assert not lab.state.running
    assert not lab.transport.buttons["Train"].disabled


def test_a_run_that_nobody_looks_at_is_paused(lab):
    async def play():
        lab.train()
        await asyncio.sleep(0.2)
        assert lab.state.running
        lab.started_at = time.monotonic() - ALONE_SECONDS - 1
        await asyncio.sleep(0.5)
        assert not lab._trainer.running

    asyncio.run(play())
    assert not lab.transport.buttons["Train"].disabled


def opened(monkeypatch, query=""):
    """What a page that is not headless shows at once, and when its lab is ready or could not be made."""
    monkeypatch.setattr(frame, "HEADLESS", False)
    monkeypatch.setitem(os.environ, "QUERY_STRING", query)

    async def wait():
        page = shell.dashboard("routing")
        first = page.children
        for _ in range(600):
            await asyncio.sleep(0.05)
            if page.children != first:
                break
        return first, page.children

    return asyncio.run(wait())


def test_a_page_that_cannot_be_made_says_why(monkeypatch):
    monkeypatch.setattr(RoutingState, "experiments", lambda self: 1 / 0)
    _, (_, page) = opened(monkeypatch)
    card = page.children[3]
    assert "ge-error" in card._dom_classes
    assert "ZeroDivisionError" in card.children[0].value
    assert "Traceback" not in card.children[0].value


def test_a_page_is_there_before_its_lab_and_then_the_lab_alone(monkeypatch):
    first, then = opened(monkeypatch, "mechanism=switch&theme=dark")
    assert "on its way" in first[0].value
    assert ".ge-recorded { display: none; }" in then[0].value
    assert any("ge-columns" in part._dom_classes for part in then[1].children)


def test_the_recorded_run_is_of_this_lab_and_needs_no_script():
    for theme in ("light", "dark"):
        content = (TEMPLATE / f"recorded/routing.{theme}.html").read_text()
        assert content.count("<figure") == len(RoutingLab.RECORDED)
        assert content.count("<svg aria-hidden") >= len(RoutingLab.RECORDED)
        assert RoutingLab.TITLE in content and RoutingLab.INTRODUCTION in content
        assert "<script" not in content and "http" not in content.replace("http://www.w3.org", "")
        assert "seed 0" in content and "step 250" in content


def test_what_comes_from_outside_is_escaped():
    assert frame.escape("<script>$x$</script>") == "&lt;script&gt;&#36;x&#36;&lt;/script&gt;"


# -- scrubbing -----------------------------------------------------------------------------------------------------------
def test_looking_back_shows_the_step_and_leaves_the_run_alone(lab):
    for _ in range(6):
        lab.one_step()
    newest = lab.charts["load"].frame["summary"]
    lab.transport.scrub.value = 2
    assert lab.state.cursor == 2
    assert run_a(lab).step == 6
    assert "step 2" in str(lab.charts["map"].frame["figure"])
    assert lab.scene(lab.runs.a).moment.step == 2
    assert lab.charts["load"].frame["figure"]["layout"]["shapes"] != []
    lab.transport.buttons["Newest"].click()
    assert lab.state.cursor == -1
    assert lab.transport.scrub.value == 6
    assert lab.charts["load"].frame["summary"] == newest


def test_the_slider_follows_the_run_without_being_taken_for_a_hand(lab):
    lab.one_step()
    lab.one_step()
    assert (lab.transport.scrub.max, lab.transport.scrub.value, lab.state.cursor) == (2, 2, -1)
    lab.reset()
    assert (lab.transport.scrub.max, lab.transport.scrub.value, lab.state.cursor) == (0, 0, -1)


def test_what_is_remembered_of_a_run_is_what_its_charts_showed_then(lab):
    shown = {}
    for _ in range(4):
        lab.one_step()
        shown[lab.runs.step] = lab.scene(lab.runs.a).moment.index.clone()
    for step, index in shown.items():
        lab.look_at(step if step < 4 else -1)
        assert lab.scene(lab.runs.a).moment.index.equal(index)


# -- A beside B ----------------------------------------------------------------------------------------------------------
def test_a_fork_is_the_same_run_until_one_thing_is_changed():
    lab = make("learning_rate=0.03")
    for _ in range(3):
        lab.one_step()
    lab.transport.buttons["Fork"].click()
    assert lab.state.error is None
    lab.one_step()
    assert run_a(lab).losses().equal(run_b(lab).losses())
    lab.beside_part.controls["k"].value = 1
    for _ in range(3):
        lab.one_step()
    assert (run_a(lab).knobs["k"], run_b(lab).knobs["k"]) == (2, 1)
    assert run_a(lab).step == run_b(lab).step == 7
    assert not run_a(lab).losses().equal(run_b(lab).losses())
    assert there(lab, "b") >= {"load", "map", "specialisation"}
    assert {"both", "difference"} <= there(lab)
    assert "step 3" in lab.beside_part.about.value


def test_another_mechanism_beside_starts_both_anew_with_one_seed():
    lab = make("seed=5")
    lab.one_step()
    lab.beside_part.menu.value = "switch"
    assert (run_a(lab).step, run_b(lab).step) == (0, 0)
    lab.one_step()
    assert (run_a(lab).seed, run_b(lab).seed) == (5, 5)
    assert run_b(lab).spec.name == "switch"
    assert "capacity_factor" in lab.beside_part.controls
    lab.beside_part.swap.click()
    assert lab.runs.b is None
    assert run_a(lab).step == 1
    assert there(lab, "b") == set()
    assert {"both", "difference"} & there(lab) == set()


def test_a_mistake_in_b_leaves_b_as_it_was():
    lab = make("b=topk-softmax")
    lab.one_step()
    lab.beside_part.controls["k"].value = 64
    assert "at most the number of experts" in lab.state.error["message"]
    assert lab.beside_part.controls["k"].value == run_b(lab).knobs["k"] == 2


def test_experts_of_two_runs_are_compared_by_the_tokens_they_share():
    lab = make("b=topk-softmax")
    lab.one_step()
    scenes = [lab.scene(run) for run in lab.runs.sides.values()]
    assert isinstance(scenes[0], Scene)
    figure = lab.pictures["difference"].draw(*scenes)
    assert "100" in figure["layout"]["meta"]["summary"] or "agree" in figure["layout"]["meta"]["summary"]
    import torch

    turned = torch.randperm(8, generator=torch.Generator().manual_seed(0))
    from explorer import metrics

    found = metrics.match_experts(scenes[0].index(0), turned[scenes[0].index(0)], 8, 8)
    assert found.permutation.tolist() == turned.tolist()


# -- links, presets, hiding ----------------------------------------------------------------------------------------------
def test_a_link_with_a_plan_replays_the_very_run():
    lab = make("learning_rate=0.02")
    for _ in range(3):
        lab.one_step()
    controls(lab)["k"].value = 1
    lab.one_step()
    lab.fork()
    lab.set_knob("aux_loss", 0.1, "b")
    for _ in range(2):
        lab.one_step()

    async def replay():
        again = RoutingLab(RoutingState(lab.state.link()))
        await again.trainer.wait()
        return again

    again = asyncio.run(replay())
    assert again.state.error is None
    assert again.runs.step == 6
    assert run_a(again).history.equals(run_a(lab).history)
    assert run_b(again).history.equals(run_b(lab).history)
    assert again.state.link() == lab.state.link()


def test_what_a_link_hides_is_not_there():
    lab = make("hide=seed,whatif,knobs,loss,strip")
    assert lab.settings.seed.layout.display == "none"
    assert lab.what_if.layout.display == "none"
    assert lab.settings.parts["knobs"].layout.display == "none"
    assert "loss" not in there(lab)
    assert lab.view_of("a", "strip").layout.display == "none"
    lab.one_step()
    assert "loss" not in there(lab)
    assert lab.settings.mechanism.layout.display != "none"


def test_large_type_is_one_switch(lab):
    lab.large.value = True
    assert "ge-large" in lab.widget._dom_classes
    assert lab.charts["loss"].scale == lab.view_of("a", "strip").scale == LARGE
    assert "large=1" in lab.state.link()
    lab.large.value = False
    assert lab.charts["loss"].scale == 1.0


def test_the_speed_changes_nothing_but_the_pace(lab):
    lab.transport.speed.value = 10

    async def play():
        lab.train()
        await asyncio.sleep(0.55)
        lab.pause()

    asyncio.run(play())
    assert 2 <= lab.runs.step <= 7
    assert lab.trainer.step_seconds == 0.1


# -- what if, own data, sharing ------------------------------------------------------------------------------------------
def test_what_if_shows_the_loss_before_and_after_and_the_steps_of_the_token(lab):
    lab.one_step()
    lab.what_if.toggle.value = True
    assert "nothing is edited" in lab.whatif.outcome.value
    lab.whatif.buttons["Forbid"].click()
    assert "expert 0 is forbidden" in lab.whatif.outcome.value
    assert "→" in lab.whatif.outcome.value
    assert "score (logit) edited" in lab.whatif.table.value
    lab.view_of("a", "strip").selected = {"layer": 0, "sequence": 1, "position": 5}
    assert lab.token == (1, 5)
    assert lab.token_name((1, 5)).split("[")[1][0] in lab.whatif.outcome.value
    lab.whatif.buttons["Clear"].click()
    assert "nothing is edited" in lab.whatif.outcome.value


def test_a_place_that_the_page_made_up_is_ignored(lab):
    for place in ({"layer": 0, "sequence": 99, "position": 0}, {"layer": 0, "sequence": 0, "position": -1}, {}):
        lab.choose_token(place)
    assert lab.state.error is None


def test_own_text_becomes_a_domain_of_the_run(lab):
    lab.data.use([("poem.txt", "roses are red, violets are blue. " * 60)])
    assert lab.state.error is None
    assert run_a(lab).data.label_names == ["poem.txt"]
    assert lab.state.own
    lab.data.boxes["english"].value = True
    assert run_a(lab).data.label_names == ["english", "poem.txt"]
    lab.one_step()
    lab.sharing.copy_link()
    assert "cannot carry your own text" in lab.sharing.said.value
    lab.data.without.click()
    assert run_a(lab).data.label_names == ["english"]
    lab.data.boxes["english"].value = False
    assert "no text is left" in lab.state.error["message"]
    lab.data.use([("poem.txt", "roses are red, violets are blue. " * 60)])
    lab.data.boxes["english"].value = False
    assert run_a(lab).data.label_names == ["poem.txt"]
    lab.data.without.click()
    assert run_a(lab).data.label_names == ["english", "python", "markup", "data"]


def test_text_that_is_too_short_is_refused_and_the_run_stays(lab):
    lab.one_step()
    before = run_a(lab)
    with pytest.raises(BadValue):
        lab.data.use.__wrapped__(lab.data, [("short", "too short")]) if hasattr(lab.data.use, "__wrapped__") else (
            lab.data.use([("short", "too short")])
        )
    assert run_a(lab) is before
    assert lab.state.own == ()


def test_the_last_domain_cannot_be_taken_away(lab):
    for box in list(lab.data.boxes.values())[:-1]:
        box.value = False
    assert run_a(lab).data.label_names == ["data"]
    lab.data.boxes["data"].value = False
    assert "no text is left" in lab.state.error["message"]
    assert lab.data.boxes["data"].value
    assert run_a(lab).data.label_names == ["data"]


def test_what_leaves_the_page_is_stamped_and_whole(lab, tmp_path, monkeypatch):
    lab.one_step()
    sent = {}
    monkeypatch.setattr(
        type(lab.sharing.courier), "download", lambda self, name, content, *_: sent.update({name: content})
    )
    lab.sharing.save_recording("a")
    lab.sharing.save_page()
    recording, page = sorted(sent, key=lambda name: name.endswith("html"))
    (tmp_path / recording).write_bytes(sent[recording])
    loaded = explorer.Recording.load(tmp_path / recording)
    assert loaded.loads().equals(run_a(lab).recording.loads())
    text = sent[page].decode()
    assert len(text) < 6e6
    for word in ("topk-softmax", "seed 0", "step 1", "torch", "cpu", "kernel"):
        assert word in lab.stamp()
    assert "explorer.Experiment(" in text
    assert "https://cdn" not in text


def test_the_equation_has_the_knobs_values_in_place(lab):
    before = lab.explain.about.value
    controls(lab)["k"].value = 3
    assert lab.explain.about.value != before
    assert "<mn>3</mn>" in lab.explain.about.value
    assert "arxiv.org/abs" in lab.explain.about.value
