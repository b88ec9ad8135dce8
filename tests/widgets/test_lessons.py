"""The parts of a lesson without a browser: what they ask, keep, run and say."""

import asyncio
import itertools
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import jupytext
import pytest
import traitlets

import explorer
from explorer.errors import BadValue, UnknownName
from explorer.lessons import exercise as exercises
from explorer.lessons import progress
from explorer.lessons.progress import Progress
from widgets import lessons
from widgets.lessons import asking, desk, form, outcomes, parts, presence, prose, running, tracing
from widgets.lessons.pictures import PICTURES
from widgets.lessons.place import MainPart
from widgets.views import Chart

ROOT = Path(__file__).resolve().parents[2]
PAGES = sorted((ROOT / "notebooks" / "lessons").glob("*.py"))
EVIL = "<img src=x onerror=alert(1)>"
SMALL = {"mechanism": "topk-softmax", "task": "clusters", "seed": 0}
QUIZ = [
    {
        "question": f"What does `k` say? {EVIL}",
        "type": "multiple_choice",
        "answers": [
            {"answer": "how many experts", "correct": False, "feedback": "That is $E$."},
            {"answer": f"how many a token gets {EVIL}", "correct": True, "feedback": "Yes."},
        ],
    },
    {
        "question": "Which sum to one?",
        "type": "many_choice",
        "answers": [
            {"answer": "weights", "correct": True},
            {"answer": "logits", "correct": False, "feedback": "Logits may be anything."},
            {"answer": "probs", "correct": True},
        ],
    },
    {
        "question": "8 experts, k = 2: the fair share?",
        "type": "numeric",
        "precision": 3,
        "answers": [
            {"type": "value", "value": 0.125, "correct": True, "feedback": "One eighth."},
            {"type": "range", "range": [0.2, 0.3], "correct": False, "feedback": "Shares are of assignments."},
            {"type": "default", "feedback": "Divide by the number of experts."},
        ],
    },
]


@pytest.fixture(autouse=True)
def kept(monkeypatch, tmp_path):
    """A class of its own for every test."""
    for name in ("GATING_EXPLORER_STUDENT", "JUPYTERHUB_USER", desk.SWITCH, "SERVER_SOFTWARE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("GATING_EXPLORER_PROGRESS", str(tmp_path / "class.sqlite"))
    monkeypatch.setattr(progress, "_introduced", "")
    return Progress()


@pytest.fixture
def at():
    return lessons.Desk()


def texts(widget):
    """All that a part says, with what it is made of."""
    own = getattr(widget, "value", "") if isinstance(getattr(widget, "value", ""), str) else ""
    return own + "".join(texts(one) for one in getattr(widget, "children", ()))


def find(widget, kind):
    found = [widget] if isinstance(widget, kind) else []
    return found + [one for child in getattr(widget, "children", ()) for one in find(child, kind)]


def the_form(widget, i=0):
    return find(widget, form.Form)[i]


def panel(at, steps=4, recipes=None, outcome="largest share", item="2.load", pictures=("load", "loss"), waits=True):
    return running.RunPanel(item, recipes or {"A": SMALL}, steps, pictures, outcome, waits, at)


def drive(one):
    """Press Run and let it come to its end."""

    async def go():
        one.start()
        await one._task
        await one.trainer.wait()

    asyncio.run(go())


# -- prose -----------------------------------------------------------------------------------------------------------------
def test_markdown_becomes_html_and_html_becomes_text():
    made = prose.blocks(
        f"Write `a < b` and **bold** *soft* {EVIL}.\n\n- one\n  more\n- two\n\n```python\nx = '$'\n```\nEnd $x^2$."
    )
    assert "<code>a &lt; b</code>" in made and "<strong>bold</strong>" in made and "<em>soft</em>" in made
    assert "<ul><li>one more</li><li>two</li></ul>" in made
    assert "<pre><code>x = &#x27;&#36;&#x27;</code></pre>" in made
    assert "<img" not in made and "<math" in made
    assert prose.inline("a * b * c and 2 * 3") == "a * b * c and 2 * 3"
    assert prose.blocks("1. a\n2. b") == "<ol><li>a</li><li>b</li></ol>"


@pytest.mark.parametrize("address", ["javascript:alert(1)", "data:text/html,x", 'https://x"onclick="alert(1)'])
def test_a_link_leads_to_the_web_or_nowhere(address):
    assert "<a" not in prose.inline(f"[here]({address})")
    assert 'href="https://arxiv.org/abs/1"' in prose.inline("[here](https://arxiv.org/abs/1)")


# -- who is here -----------------------------------------------------------------------------------------------------------
def test_a_typed_name_is_what_progress_is_kept_under(at, kept):
    page = lessons.begin(2, at)
    name = find(page, parts.W.Text)[0]
    assert desk.NOBODY in texts(page)
    name.value = f" Ada {EVIL} "
    assert at.student.startswith("Ada <img") and "<img" not in find(page, parts.W.HTML)[-1].value
    at.keep(2, "quiz", "2.q1", "a", True)
    assert kept.rows()[0].student == at.student


def test_a_class_server_that_knows_the_student_is_not_asked_twice(monkeypatch):
    monkeypatch.setenv("JUPYTERHUB_USER", "grace")
    page = lessons.begin(2, lessons.Desk())
    assert find(page, parts.W.Text) == [] and "kept as grace" in texts(page)


# -- a prediction ------------------------------------------------------------------------------------------------------------
def test_a_prediction_is_stored_before_run_is_enabled(at, kept):
    at.introduce("Ada")
    part, run = lessons.predict("2.load", "How **large**?", unit="per cent", at=at), panel(at)
    assert run.buttons["Run"].disabled and running.WAITING in run.status.value
    stored = []
    at.observe(lambda _: stored.append([one.value for one in kept.rows()]), names=["predictions"])
    the_form(part)._heard(None, {"kind": "answer", "value": 25}, [])
    assert stored == [[25.0]], "it was in the file when the desk heard of it"
    assert not run.buttons["Run"].disabled
    assert "Your prediction is: <strong>25" in the_form(part).said


def test_nothing_runs_before_a_prediction(at):
    one = panel(at)
    one.start()
    assert one.trainer is None and not one.running


def test_afterwards_the_prediction_stands_beside_what_came(at):
    part = lessons.predict("2.load", "How large?", unit="per cent", at=at)
    the_form(part).answer(25.0)
    one = panel(at)
    drive(one)
    came = at.outcomes["2.load"][1]
    said = the_form(part).said
    assert "You predicted: <strong>25 per cent</strong>" in said
    assert f"<strong>{outcomes.shown('largest share', came)}</strong>" in said
    assert f"off by {abs(0.25 - came):.1%}".rstrip("%") in said and "percentage points" in said
    assert not the_form(part).enabled, "what was predicted cannot be changed afterwards"
    the_form(part)._heard(None, {"kind": "answer", "value": 60}, [])
    assert at.predictions["2.load"] == 25.0


def test_choices_may_stand_for_ranges_of_the_outcome(at):
    choices = {"below half": (0.0, 0.5), f"above {EVIL}": (0.5, 1.0)}
    part = lessons.predict("2.load", "How large?", choices=choices, at=at)
    assert "<img" not in "".join(the_form(part).options)
    the_form(part).answer([1])
    at.outcomes = {"2.load": ("largest share", 0.3)}
    assert "That is not what you said" in the_form(part).said
    assert "<img" not in the_form(part).said


def test_an_earlier_prediction_is_remembered_after_a_reload(at):
    at.introduce("Ada")
    lessons.predict("2.load", "How large?", at=at)
    at.predict("2.load", 40.0)
    again = lessons.Desk()
    assert "Earlier you predicted: <strong>40" in the_form(lessons.predict("2.load", "How large?", at=again)).said
    assert again.predictions == {}


def test_a_prediction_that_cannot_be_stored_says_so_and_the_lesson_goes_on(at, monkeypatch, tmp_path):
    (tmp_path / "notes").write_text("no database at all")
    monkeypatch.setenv("GATING_EXPLORER_PROGRESS", str(tmp_path / "notes"))
    at.introduce("Ada")
    part = lessons.predict("2.load", "How large?", at=at)
    the_form(part).answer(3.0)
    assert "could not be stored" in the_form(part).said and at.predictions == {"2.load": 3.0}


BAD = [None, 1, "x", {}, {"kind": "answer"}, *({"kind": "answer", "value": one} for one in
       ([], [7], [-1], [True], ["0"], [0, 1], [0] * 99, "0", None, {}, 1.5))]  # fmt: skip


@pytest.mark.parametrize("content", BAD, ids=str)
def test_a_form_ignores_what_cannot_be_an_answer(content):
    heard, one = [], form.Form(options=["a", "b"])
    one.on_answer(heard.append)
    one._heard(None, content, [])
    assert heard == [] and one.said == ""


@pytest.mark.parametrize("value", [float("nan"), float("inf"), 1e300, True, "3", [3], None])
def test_a_form_for_a_number_takes_numbers_alone(value):
    one = form.Form(kind="number")
    assert one.read(value) is None
    assert one.read(-2.5) == -2.5


def test_an_error_behind_a_form_is_said_in_it():
    one = form.Form(options=["a"])
    one.on_answer(lambda _: 1 / 0)
    one.answer([0])
    assert one.tone == "wrong" and "ZeroDivisionError" in one.said and "Traceback" not in one.said


# -- a run -----------------------------------------------------------------------------------------------------------------
def test_a_run_trains_draws_and_says_what_came(at):
    at.predictions = {"2.load": 1.0}
    one = panel(at, steps=5)
    drive(one)
    assert (one.step, one.state.error) == (5, None)
    assert "Done after 5 steps: the largest share of an expert is" in one.status.value
    assert all("Nothing to show" not in chart.frame["summary"] for chart in one.charts.values())
    assert one.buttons["Run"].disabled and not one.buttons["Start anew"].disabled
    first = one.runs[0].losses()
    one.anew()
    assert one.step == 0 and not one.buttons["Run"].disabled
    drive(one)
    assert one.runs[0].losses().tolist() == first.tolist(), "the same seed, the same run"


def test_a_run_pauses_and_goes_on(at):
    one = panel(at, steps=10_000, waits=False)

    async def go():
        one.start()
        await one._task
        await asyncio.sleep(0.2)
        one.pause()
        here = one.step
        assert 0 < here < 10_000 and "paused" in one.status.value and not one.buttons["Run"].disabled
        await asyncio.sleep(0.05)
        assert one.step == here
        one.start()
        await one._task
        await asyncio.sleep(0.1)
        one.pause()
        assert one.step > here

    asyncio.run(go())


def test_a_pause_while_it_gets_ready_is_a_pause(at):
    one = panel(at, waits=False)

    async def go():
        one.start()
        one.pause()
        await one._task

    asyncio.run(go())
    assert one.step == 0 and not one.running and not one.buttons["Run"].disabled


def test_two_runs_stand_beside_each_other(at):
    one = panel(at, recipes={"k = 2": SMALL, f"k = 1 {EVIL}": {**SMALL, "k": 1}}, outcome="gain in loss", waits=False)
    drive(one)
    assert [run.step for run in one.runs] == [4, 4] and len(one.charts) == 4
    titles = [chart.figure["layout"]["title"]["text"] for chart in one.charts.values()]
    assert sum(title.startswith("k = 2: ") for title in titles) == 2 and not any("<img" in one for one in titles)
    assert at.outcomes["2.load"][0] == "gain in loss"


def test_a_run_that_cannot_be_made_says_why(at):
    one = panel(at, recipes={"A": {**SMALL, "k": 99}}, waits=False)

    async def go():
        one.start()
        await one._task

    asyncio.run(go())
    assert one.state.error and "k=99" in one.state.error["message"] and not one.running


def test_pictures_are_not_drawn_for_a_page_that_has_not_drawn_the_last(at):
    one = panel(at, steps=30, waits=False)
    one.make()
    for chart in one.charts.values():
        chart._mark_sent()
        chart._sent += 1  # a frame is under way
    drawn = [chart.frame["number"] for chart in one.charts.values()]
    one._beginning = True  # as in the middle of a run
    one.presence.begin()
    one.draw()
    assert [chart.frame["number"] for chart in one.charts.values()] == drawn and not one._ready()


def test_one_switch_shortens_every_run(at, monkeypatch):
    monkeypatch.setenv(desk.SWITCH, "3")
    assert panel(at, steps=500).steps == 3 and panel(at, steps=2).steps == 2
    monkeypatch.setenv(desk.SWITCH, "all")
    with pytest.raises(BadValue, match="it must be a whole number of steps"):
        panel(at)


def test_names_of_pictures_outcomes_and_items_are_checked_at_once(at):
    with pytest.raises(UnknownName, match="did you mean 'load'"):
        panel(at, pictures=["loads"])
    with pytest.raises(UnknownName, match="did you mean 'largest share'"):
        panel(at, outcome="largest shares")
    with pytest.raises(BadValue, match="begins with the number of its lesson"):
        panel(at, item="load")


@pytest.mark.parametrize("name", [one for one in PICTURES if one not in ("sinks", "gates")])
def test_every_picture_of_a_router_has_something_to_show(name, at):
    one = panel(
        at, steps=2, pictures=(name,), waits=False, recipes={"A": {**SMALL, "task": "text", "layers": 1, "batch": 2}}
    )
    drive(one)
    assert one.state.error is None
    assert [
        c.frame["summary"]
        for c in one.charts.values()
        if not c.frame["summary"] or "othing to show" in c.frame["summary"]
    ] == []


@pytest.mark.parametrize("name", ["sinks", "gates"])
def test_pictures_of_attention_have_something_to_show(name, at):
    recipe = {"mechanism": "softmax-attention", "task": "text", "layers": 1, "batch": 2}
    one = panel(at, steps=2, pictures=(name,), waits=False, recipes={"A": recipe}, outcome="sink")
    drive(one)
    assert one.state.error is None and 0 <= at.outcomes["2.load"][1] <= 1
    assert "othing to show" not in next(iter(one.charts.values())).frame["summary"]


@pytest.mark.parametrize("name", [one for one in outcomes.OUTCOMES if one not in ("sink", "kept", "byte over domain")])
def test_every_outcome_is_a_number_in_words(name):
    runs = [explorer.Experiment(**{**SMALL, "k": k}).run(3) for k in (2, 1)]
    value = outcomes.came(name, runs)
    assert value == value and outcomes.shown(name, value)


class OfTokens(dict):
    """A model whose experts go by the byte, or by the domain, as a table of specialisation says it."""

    step = 0

    def __hash__(self):
        return id(self)


@pytest.mark.parametrize(
    "row, ahead",
    [((0.05, 0.01, 0.75, 0.05), 0.66), ((0.75, 0.05, 0.05, 0.01), -0.66), ((0.3, 0.3, 0.3, 0.3), 0.0)],
)
def test_byte_and_domain_are_compared_above_what_chance_gives(monkeypatch, row, ahead):
    import pandas as pd

    columns = ["domain_nmi", "domain_floor", "vocabulary_nmi", "vocabulary_floor"]
    table = pd.DataFrame([("ffn", *row)], columns=["layer", *columns])
    monkeypatch.setattr(outcomes, "specialisation", lambda _: table)
    assert outcomes.came("byte over domain", [OfTokens()]) == pytest.approx(ahead)
    said = outcomes.OUTCOMES["byte over domain"].more([OfTokens()])
    assert f"the byte tells {row[2]:.0%}".rstrip("%") in said and f"by chance {row[1]:.0%}".rstrip("%") in said


def test_what_is_measured_of_held_out_data_is_that_of_the_step_the_run_is_at(at):
    one = panel(at, steps=2, waits=False, recipes={"A": {**SMALL, "task": "text", "layers": 1, "batch": 2}}, outcome="")
    drive(one)
    before = outcomes.specialisation(one.runs[0])
    assert outcomes.specialisation(one.runs[0]) is before
    one.runs[0].advance()
    assert outcomes.specialisation(one.runs[0]) is not before


# -- a run whose page was closed ---------------------------------------------------------------------------------------------
def test_a_run_that_no_page_answers_waits_and_goes_on_when_one_does(at, monkeypatch):
    monkeypatch.setattr(presence, "ALONE", 0.3)
    monkeypatch.setattr(presence, "LOOK", 0.02)
    one = panel(at, steps=1_000_000, waits=False)

    async def until(what):
        for _ in range(1500):
            await asyncio.sleep(0.02)
            if what():
                return True
        return False

    async def go():
        one.start()
        await one._task
        assert await until(lambda: one.presence.waiting), "nobody has answered"
        here = one.step
        assert here > 0 and not one.running and running.LEFT in one.status.value
        await asyncio.sleep(0.2)
        assert one.step == here
        next(iter(one.charts.values()))._drawn(1, "")
        assert await until(lambda: one.step > here), "the page is back"
        assert await until(lambda: one.presence.waiting), "and gone again"
        one.pause()
        here = one.step
        next(iter(one.charts.values()))._drawn(2, "")
        await asyncio.sleep(0.2)
        assert one.step == here and "paused" in one.status.value, "who pressed Pause meant it"

    asyncio.run(go())


def test_a_page_that_answers_is_not_left(at, monkeypatch):
    monkeypatch.setattr(presence, "ALONE", 60.0)
    one = panel(at, waits=False)
    assert one.presence.alone(), "nothing was ever begun or answered"
    one.presence.begin()
    assert not one.presence.alone()
    one.presence._began = 0.0
    next(iter(one.charts.values()))._drawn(1, "")
    assert not one.presence.alone()


# -- a trained model -----------------------------------------------------------------------------------------------------------
def test_a_trace_waits_for_the_prediction_and_then_shows_both_models(at):
    one, pictures = tracing.TracePanel("8.kept", at), lessons.look("8.kept", "saturation", "vocabulary", "sinks", at=at)
    assert one.button.disabled and tracing.WAITING in texts(one.widget)
    one.start()
    assert one.comparison is None and not one.work.running
    asked = lessons.predict("8.kept", "How much?", unit="per cent", then="Now press **Trace**.", at=at)
    the_form(asked).answer(30.0)
    assert "Now press <strong>Trace" in the_form(asked).said and not one.button.disabled
    assert tracing.NOT_YET in texts(pictures)

    async def go():
        one.start()
        assert one.button.disabled
        await one.work.task

    asyncio.run(go())
    assert one.state.error is None
    assert at.outcomes["8.kept"] == ("kept", pytest.approx(0.391, abs=0.01))
    assert "What came: of the early model" in the_form(asked).said and "off by 9" in the_form(asked).said
    assert "Tokens of each expert, layer 0" in texts(pictures)
    charts = find(pictures, Chart)
    assert len(charts) == 2 and not any("othing to show" in one.frame["summary"] for one in charts)
    one.start()
    assert not one.work.running, "it was traced already"


def test_a_trace_that_fails_says_why_and_can_be_tried_again(at, monkeypatch):
    monkeypatch.setattr(tracing.TracePanel, "_trace", lambda _: 1 / 0)
    one = tracing.TracePanel("8.kept", at)
    at.predict("8.kept", 1.0)
    one.start()
    assert "ZeroDivisionError" in one.state.error["message"] and not one.button.disabled


def test_names_of_pictures_of_a_trace_are_checked_at_once(at):
    with pytest.raises(UnknownName, match="did you mean 'saturation'"):
        lessons.look("8.kept", "saturated", at=at)


def test_the_files_of_the_trained_model_are_reported(at):
    said = texts(lessons.files(at))
    assert "OlmoeForCausalLM" in said and "softmax scores, top 2" in said


# -- a quiz ------------------------------------------------------------------------------------------------------------------
def test_a_quiz_judges_teaches_and_keeps(at, kept):
    at.introduce("Ada")
    part = lessons.quiz(2, QUIZ, at)
    one, many, number = find(part, form.Form)
    assert "<img" not in one.legend + "".join(one.options) + texts(part)
    assert "correct" not in json.dumps([one.legend, one.options]), "the page does not know what is right"
    said = []
    for asked, answer in (
        (one, [0]),
        (one, [1]),
        (many, [0, 1]),
        (many, [0]),
        (many, [0, 2]),
        (number, 0.125),
        (number, 0.25),
        (number, 9),
    ):
        asked._heard(None, {"kind": "answer", "value": answer}, [])
        said.append((asked.tone, asked.said))
    assert [tone for tone, _ in said] == ["wrong", "right", "wrong", "wrong", "right", "right", "wrong", "wrong"]
    for i, words in enumerate(
        ["That is", "Yes.", "Logits may be", "there is more", "Right.", "One eighth", "of assignments", "Divide by"]
    ):
        assert words in said[i][1]
    rows = kept.rows()
    assert [one.item for one in rows] == ["2.q1"] * 2 + ["2.q2"] * 3 + ["2.q3"] * 3
    assert [one.correct for one in rows] == [False, True, False, False, True, True, False, False]


@pytest.mark.parametrize("lesson", range(1, 9))
def test_the_quiz_of_a_lesson_can_be_passed(lesson, at):
    asked = asking.read_quiz(lesson)
    part = lessons.quiz(lesson, at=at)
    for question, one in zip(asked, find(part, form.Form), strict=True):
        right = [i for i, answer in enumerate(question["answers"]) if answer.get("correct")]
        if one.kind == "number":
            answer = question["answers"][right[0]]
            one.answer(float(answer["value"]) if "value" in answer else sum(answer["range"]) / 2)
        else:
            one.answer(right if one.kind == "many" else right[:1])
        assert one.tone == "right", question["question"]


def test_a_lesson_without_a_quiz_and_a_question_of_no_known_type_are_errors(at):
    with pytest.raises(UnknownName, match="lesson 99 has no quiz"):
        lessons.quiz(99)
    with pytest.raises(BadValue, match="there are: multiple_choice, many_choice, numeric"):
        lessons.quiz(2, [{"question": "?", "type": "essay", "answers": []}], at)


# -- an exercise -------------------------------------------------------------------------------------------------------------
ASKED = exercises.Exercise(
    "2.1", "route", f"Route {EVIL}", f"Write `route` {EVIL}", "def route(logits, k):\n    ... # <b>", ()
)


@pytest.fixture
def asked(monkeypatch):
    monkeypatch.setattr(exercises, "find", lambda _: ASKED)


def test_an_exercise_shows_its_task_and_where_to_write_it(asked, at):
    said = texts(lessons.exercise("2.1", at))
    assert parts.IN_LAB in said and "def route(logits, k):" in said and "explorer.check(&quot;2.1&quot;, route)" in said
    assert "<img" not in said and "<b>" not in said


def test_on_a_page_the_task_follows_when_torch_is_there_and_what_is_wrong_is_said(asked, monkeypatch):
    async def go():
        at = lessons.Desk()
        page = lessons.exercise("2.1", at)
        assert "on its way" in texts(page)
        await asyncio.sleep(0.05)
        assert "on its way" in texts(page), "the page is not seen yet"
        find(lessons.begin(2, at), MainPart)[0]._heard(None, {"kind": "here"}, [])
        await page.children[0].task
        return texts(page)

    assert "Route &lt;img" in asyncio.run(go())
    monkeypatch.setattr(exercises, "find", lambda _: 1 / 0)
    said = asyncio.run(go())
    assert 'role="alert"' in said and "ZeroDivisionError" in said


def test_where_no_code_can_be_written_the_exercise_says_so_and_leads_to_lab(asked, at, monkeypatch):
    monkeypatch.setenv("SERVER_SOFTWARE", "voila/0.5.8")
    monkeypatch.setenv("SCRIPT_NAME", "/user/ada/voila/render/lessons/2_top_k_routing.ipynb")
    assert "gating-explorer lab" in texts(lessons.exercise("2.1", at))
    monkeypatch.setenv("JUPYTERHUB_SERVICE_PREFIX", "/user/ada/")
    said = texts(lessons.exercise("2.1", at))
    assert 'href="/user/ada/lab/tree/lessons/2_top_k_routing.ipynb"' in said and parts.IN_LAB not in said


def test_an_exercise_says_how_it_stands(asked, at, kept):
    at.introduce("Ada")
    assert "tried" not in texts(lessons.exercise("2.1", at))
    kept.note("Ada", 2, "exercise", "2.1", "no", False)
    assert "Not passed yet, tried 1 time." in texts(lessons.exercise("2.1", at))
    kept.note("Ada", 2, "exercise", "2.1", "passed", True)
    assert "✓ Passed, tried 2 times." in texts(lessons.exercise("2.1", at))


# -- the pages ---------------------------------------------------------------------------------------------------------------
def cells(page, kind="code"):
    return [cell.source for cell in jupytext.read(page).cells if cell.cell_type == kind]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_a_lesson_has_all_its_parts_and_the_cells_of_its_exercises_begin_with_their_starters(page):
    code = "\n".join(cells(page))
    number = page.name.split("_")[0]
    for one in (f"begin({number})", "question(", "predict(", f"quiz({number})", "further("):
        assert one in code
    runs = set(re.findall(r'(?:run|trace)\(\s*"([^"]+)"', code))
    assert runs and set(re.findall(r'predict\(\s*"([^"]+)"', code)) == runs - _unpredicted(page)
    of_lesson = exercises.of_lesson(int(number))
    assert set(re.findall(r'exercise\("([^"]+)"\)', code)) == set(of_lesson)
    for one in of_lesson.values():
        assert any(
            one.starter.strip() in cell and f'explorer.check("{one.id}", {one.name})' in cell for cell in cells(page)
        )


def _unpredicted(page):
    """Items of the runs that wait for no prediction."""
    free = [cell for cell in cells(page) if "waits=False" in cell or '"waits": False' in cell]
    return set(re.findall(r'run\(\s*"([^"]+)"', "\n".join(free)))


def test_there_are_eight_lessons_and_each_leads_to_the_next():
    assert [int(page.name.split("_")[0]) for page in PAGES] == list(range(1, 9))
    for page, after in itertools.pairwise(PAGES):
        last = cells(page, "markdown")[-1]
        title = cells(after, "markdown")[0].removeprefix("# ").lower().replace(":", ",")
        assert f"]({after.stem}.ipynb)" in last and title.split(", ", 1)[1].split(",")[0] in last.lower()


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_links_of_a_lesson_lead_to_pages_that_exist(page):
    links = re.findall(r"\]\(([^)\s]+)\)", "\n".join(cells(page, "markdown")).replace("\n", ""))
    assert links
    for link in links:
        assert (page.parent / link.partition("?")[0]).is_file(), link


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_only_cells_of_exercises_hold_up_a_page_of_voila_and_they_are_left_out_there(page):
    skipped = json.loads((ROOT / "explorer/serving/voila.json").read_text())["VoilaExecutor"]["skip_cells_with_tag"]
    for cell in jupytext.read(page).cells:
        if cell.cell_type == "code":
            assert (skipped in cell.metadata.get("tags", [])) == ("explorer.check(" in cell.source)
            assert "import torch" not in cell.source or skipped in cell.metadata.tags


def test_a_lessons_page_is_there_before_torch_is(tmp_path):
    code = "import sys, widgets.lessons as one; one.begin(2); one.predict('2.a', '?'); one.run('2.a', 'switch')"
    code += "; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=False, env={**os.environ}).returncode == 0


def test_a_form_carries_only_what_a_page_may_know():
    assert set(form.Form().keys) >= {"legend", "options", "kind", "value", "said", "tone", "enabled"}
    with pytest.raises(traitlets.TraitError):
        form.Form(kind="essay")
    assert asking.KINDS.keys() == {"multiple_choice", "many_choice", "numeric"}
