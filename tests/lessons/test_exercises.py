"""Every solution passes, every known misconception gets its own hint, and the quizzes are what jupyterquiz reads."""

import ast
import importlib
import json
import re
import runpy
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F

import explorer
from explorer import metrics
from explorer.kernels.rotary import rotary
from explorer.lessons.checking import judge
from explorer.lessons.exercise import Exercise, Wrong
from explorer.lessons.exercises import asking
from explorer.lessons.graders.judging import SHARE

ROOT = Path(__file__).resolve().parents[2]
LESSONS = range(1, 9)
EXERCISES = {
    one.id: one for n in LESSONS for one in importlib.import_module(f"explorer.lessons.exercises.lesson{n}").EXERCISES
}
SOLUTIONS = {n: runpy.run_path(str(ROOT / f"instructor/solutions/lesson{n}.py")) for n in LESSONS}
MISCONCEPTIONS = runpy.run_path(str(ROOT / "instructor/misconceptions.py"))["WRONG"]


def solution(exercise: Exercise):
    return SOLUTIONS[exercise.lesson][exercise.name]


def hint(exercise: Exercise, function) -> str:
    """Of the first check that fails; "" if all pass."""
    torch.manual_seed(0)
    try:
        for check in exercise.checks:
            check(function)
    except Wrong as wrong:
        return str(wrong)
    return ""


def function(exercise: Exercise, code: str):
    names = {"torch": torch, "F": F, "re": re}
    exec(code, names)
    return names[exercise.name]


def test_three_exercises_a_lesson_in_order():
    assert list(EXERCISES) == [f"{n}.{i}" for n in LESSONS for i in (1, 2, 3)]
    assert set(MISCONCEPTIONS) == set(EXERCISES)


@pytest.mark.parametrize("number", EXERCISES)
def test_the_solution_passes_in_a_graders_time(number):
    exercise = EXERCISES[number]
    assert judge(exercise, solution(exercise), SHARE * exercise.seconds).hint == ""


@pytest.mark.parametrize("number", EXERCISES)
def test_each_misconception_has_a_hint_of_its_own(number):
    exercise, hints = EXERCISES[number], []
    assert len(MISCONCEPTIONS[number]) >= 3
    for code, words in MISCONCEPTIONS[number]:
        said = hint(exercise, function(exercise, code))
        assert words in said, (code, said)
        hints.append(said)
    assert len(set(hints)) == len(hints)


@pytest.mark.parametrize("number", EXERCISES)
def test_the_starter_is_the_solution_s_beginning(number):
    exercise = EXERCISES[number]
    names: dict = {"torch": torch}
    exec(exercise.starter, names)
    code, right = names[exercise.name].__code__, solution(exercise).__code__
    assert code.co_varnames[: code.co_argcount] == right.co_varnames[: right.co_argcount]
    assert "..." in exercise.starter and "`" in exercise.task
    with pytest.raises(Exception):  # noqa: B017, PT011  the starter as it is must not pass, however it fails
        assert hint(exercise, names[exercise.name]) == ""


@pytest.mark.parametrize("number", EXERCISES)
def test_a_hint_never_shows_the_solution(number):
    lines = {line.strip() for line in (ROOT / f"instructor/solutions/lesson{number[0]}.py").read_text().splitlines()}
    source = (ROOT / f"explorer/lessons/exercises/lesson{number[0]}.py").read_text()
    told = [line.removeprefix("return ") for line in lines if line.startswith("return ") and len(line) > 24]
    strings = "".join(re.findall(r'"([^"]*)"', source))
    assert not [one for one in told if one in strings]


@pytest.mark.parametrize("number", EXERCISES)
def test_a_student_who_returns_nothing_is_told_so(number):
    exercise = EXERCISES[number]

    def nothing(*_arguments):
        return None

    said = hint(exercise, nothing)
    assert said and ("return" in said or "Return" in said or "NoneType" in said or "asked" in said)


def test_check_is_the_same_judge():
    route = SOLUTIONS[2]["route"]
    assert explorer.check("2.1", route).passed
    wrong = explorer.check("2.1", lambda logits, k: logits.softmax(-1).topk(k))
    assert not wrong.passed and "less than one" in wrong.hint


# -- the formulas, held to the mechanisms' own code -------------------------------------------------------------------
def test_route_is_mixtral_s_router():
    router = explorer.build("topk-softmax", d_model=6, n_experts=6, k=2)
    with torch.no_grad():
        router.score.weight.copy_(torch.eye(6))
    logits = asking.numbers(0, 9, 6)
    weights, index = router(logits[None])
    given = SOLUTIONS[2]["route"](logits, 2)
    torch.testing.assert_close(given[0], weights[0])
    assert torch.equal(given[1], index[0])


def test_the_gated_unit_is_the_mechanism_s():
    layer = explorer.build("glu", d_model=4, activation="swiglu", width=5)
    x = asking.numbers(1, 7, 4)
    gate, up = layer.up.weight.T.chunk(2, dim=1)
    torch.testing.assert_close(SOLUTIONS[1]["gated_unit"](x, gate, up, layer.down.weight.T), layer(x[None])[0])


def test_the_gate_on_heads_is_the_mechanism_s():
    x = asking.numbers(2, 5, 12)
    layer = explorer.build("gated-attention", d_model=12, n_heads=3, granularity="headwise")
    with torch.no_grad(), explorer.record(layer, "*/gate") as seen:
        layer(x[None])
    gate, W = seen.last("/gate")[0, :, :, 0], layer.gate.weight.detach().T
    ones, eye = torch.ones(3, 5, 1), torch.eye(5).expand(3, 5, 5)
    torch.testing.assert_close(SOLUTIONS[7]["gated"](eye, ones, x, W)[..., 0].T, gate)


def test_the_learned_sink_is_the_mechanism_s():
    layer, x, sink = (
        explorer.build("sink-logit", d_model=8, n_heads=2),
        asking.numbers(3, 1, 6, 8),
        torch.tensor([0.5, -1.0]),
    )
    with torch.no_grad(), explorer.record(layer, "*/attention") as seen:
        layer.sink_H.copy_(sink)
        layer(x)
        q, k, _ = layer.qkv(x).view(6, 6, 4).transpose(0, 1).split(2)
        q, k = rotary(q, layer.rope_base), rotary(k, layer.rope_base)
    future = ~torch.ones(6, 6).tril().bool()
    scores = (q @ k.transpose(1, 2) / 2).masked_fill(future, -torch.inf)
    torch.testing.assert_close(SOLUTIONS[7]["with_sink"](scores, sink), seen.last("/attention")[0])


def test_raw_and_renormalised_are_the_two_mechanisms():
    logits = asking.numbers(4, 9, 6)
    for name, flag in (("topk-softmax", True), ("topk-softmax-raw", False)):
        router = explorer.build(name, d_model=6, n_experts=6, k=2)
        with torch.no_grad():
            router.score.weight.copy_(torch.eye(6))
        torch.testing.assert_close(SOLUTIONS[8]["weigh"](logits, 2, flag)[0], router(logits[None])[0][0])


def test_open_groups_are_those_of_the_mechanism():
    router = explorer.build("loss-free-bias", d_model=8, n_experts=8, k=3, groups=4, top_groups=2)
    scores = asking.numbers(5, 20, 8).sigmoid()
    allowed = SOLUTIONS[5]["open_groups"](scores, 4, 2)
    chosen = router.choose(scores[None])[0]
    assert torch.equal(scores.masked_fill(~allowed, -1).topk(3).indices, chosen)


def test_chance_agrees_with_the_library():
    experts, labels = torch.arange(60) % 4, (torch.arange(60) // 7) % 3
    torch.manual_seed(0)
    own = SOLUTIONS[6]["chance"](metrics.nmi, experts, labels, 400)
    assert own == pytest.approx(float(metrics.permuted_floor(metrics.nmi, experts, labels, draws=400)), abs=0.01)


# -- quizzes ----------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("lesson", LESSONS)
def test_a_quiz_is_valid_jupyterquiz(lesson):
    questions = json.loads((ROOT / f"explorer/lessons/quizzes/lesson{lesson}.json").read_text())
    assert len(questions) == 4
    for one in questions:
        assert one["type"] in ("multiple_choice", "many_choice", "numeric") and one["question"].strip()
        right = [answer for answer in one["answers"] if answer.get("correct")]
        assert len(right) == 1 if one["type"] == "multiple_choice" else right
        for answer in one["answers"]:
            _valid_answer(one, answer)


def _valid_answer(question, answer):
    if question["type"] == "numeric":
        kind = {"value": float, "range": list, "default": str}[answer.get("type", "")]
        if kind is not str:
            assert isinstance(answer["value" if kind is float else "range"], int | float | list)
    else:
        assert isinstance(answer["answer"], str) and isinstance(answer["correct"], bool)
    assert len(answer["feedback"]) > 20  # says something, right or wrong


# -- the pages of the lessons -----------------------------------------------------------------------------------------
def page_of(lesson):
    """(prose, code) of a lesson's page, from its text twin."""
    [path] = ROOT.glob(f"notebooks/lessons/{lesson}_*.py")
    cells = re.split(r"^# %%", path.read_text(), flags=re.MULTILINE)[1:]
    prose = "\n".join(re.sub(r"^# ?", "", one, flags=re.MULTILINE) for one in cells if one.startswith(" [markdown]"))
    code = "\n".join(one.partition("\n")[2] for one in cells if not one.startswith(" [markdown]"))
    return prose, code


@pytest.mark.parametrize("lesson", LESSONS)
def test_a_page_has_every_part_in_its_order(lesson):
    prose, code = page_of(lesson)
    parts = [one.split(":")[0] for one in re.findall(r"^## (.+)$", prose, flags=re.MULTILINE)]
    once = [part for part in parts if part != "Try"]  # a second run, which nothing is predicted of
    assert once[0] == "Question" and once[-2:] == ["Exercises", "Further reading"]
    middle = once[1:-2]
    assert middle == ["Predict", "Run", "Explain"] * (len(middle) // 3) and middle
    calls = [f"begin({lesson}", "question(", "predict(", *(f'exercise("{lesson}.{i}")' for i in (1, 2, 3))]
    places = [code.index(call) for call in [*calls, f"quiz({lesson}", "further("]]
    assert places == sorted(places)
    calls = [one for one in ast.walk(ast.parse(code)) if isinstance(one, ast.Call) and isinstance(one.func, ast.Name)]
    predicted = {one.args[0].value for one in calls if one.func.id == "predict"}
    # "waits": False may also come in a dict of settings that the cell names
    free = {
        one for one in calls if "waits" in ast.get_source_segment(code, one) or any(w.arg is None for w in one.keywords)
    }
    waiting = {one.args[0].value for one in calls if one.func.id == "run" and one not in free}
    assert waiting <= predicted and predicted


def test_claims_that_the_prose_names_exist():
    known = {claim.name for name in explorer.names() for claim in explorer.spec(name).claims}
    found = 0
    for lesson in LESSONS:
        for words in re.findall(r"claims?\s([^)]*)", page_of(lesson)[0]):
            named = set(re.findall(r"`([a-z0-9]+(?:-[a-z0-9]+)+)`", words))
            assert named <= known | set(explorer.names()), words
            found += len(named)
    assert found >= 8
