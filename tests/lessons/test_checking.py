"""explorer.check: one right, wrong, crashing and endless answer; on the main thread and on another; nothing is left behind."""

import random
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest
import torch

import explorer
from explorer.errors import UnknownName
from explorer.lessons import Exercise, Result, Wrong, checking, exercise, limit, progress
from explorer.lessons.checking import judge
from explorer.lessons.limit import TimeUp, limited
from explorer.lessons.progress import Progress

ROOT = Path(__file__).resolve().parents[2]


def _k_experts(route):
    logits = torch.randn(3, 5)
    _, index = route(logits, 2)
    if tuple(index.shape) != (3, 2):
        raise Wrong(f"`index` has the shape {tuple(index.shape)}: every token needs k places")


def _sum_to_one(route):
    weights, _ = route(torch.randn(3, 5), 2)
    if not torch.allclose(weights.sum(-1), torch.ones(3)):
        raise Wrong("The weights of a token do not sum to one: renormalise what is left <after> the choice")


TOP_K = Exercise(
    "2.1",
    "route",
    "Top-k by hand",
    "Write `route`.",
    "def route(logits, k):\n    ...\n",
    (_k_experts, _sum_to_one),
    0.4,
)


def right(logits, k):
    probs, index = logits.softmax(-1).topk(k)
    return probs / probs.sum(-1, keepdim=True), index


def not_renormalised(scores, number):
    return scores.softmax(-1).topk(number)


def all_experts(logits, k):
    return logits.softmax(-1), logits


def crashing(logits, k):
    return _helper(logits, k)


def _helper(logits, k):
    return logits @ torch.zeros(k, 3)  # does not fit


def endless(logits, k):
    while True:
        pass


def stubborn(logits, k):
    while True:
        try:  # noqa: SIM105
            k += 1
        except:  # noqa: E722
            pass


def resisting(logits, k):
    while True:
        try:
            time.sleep(0.01)
            k += 1
        except:  # noqa: E722
            k = 0


def nothing(logits, k):
    pass


def asleep(logits, k):
    time.sleep(30)


@pytest.fixture(autouse=True)
def _known(monkeypatch, tmp_path):
    """The example is an exercise by its id, and nobody's file of progress is written."""
    monkeypatch.setattr(exercise, "_lessons", list)
    monkeypatch.setattr(checking, "find", _find(checking.find))
    for name in ("GATING_EXPLORER_STUDENT", "JUPYTERHUB_USER"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("GATING_EXPLORER_PROGRESS", str(tmp_path / "class.sqlite"))
    monkeypatch.setattr(progress, "_introduced", "")


def _find(find):
    return lambda name: TOP_K if name == "2.1" else find(name)


def test_a_right_answer_passes():
    result = explorer.check("2.1", right)
    assert result.passed is True and result and result.hint == "" and result.id == "2.1"
    assert 0 < result.seconds < 2
    assert repr(result).startswith("2.1 passed (")
    assert explorer.check(TOP_K, right).passed


@pytest.mark.parametrize(
    "answer, words",
    [
        (not_renormalised, "do not sum to one"),
        (all_experts, "`index` has the shape (3, 5)"),
        (endless, "did not end within 0.4 seconds"),
        (stubborn, "did not end within 0.4 seconds"),
        (nothing, "gave back nothing"),
        (lambda logits, k: 7, "What route(logits, k) gives back does not have the form"),
        (lambda logits, k: sys.exit(1), "ends the whole program"),
        (lambda logits: None, "Asked for is route(logits, k), and yours is route(logits)."),
        (lambda logits, k, more: None, "yours is route(logits, k, more)"),
        ((1, 2), 'Hand over the function itself, as in check("2.1", route): this is a value of type tuple.'),
        (None, "a value of type NoneType"),
        (dict, "this is a class"),
    ],
)
def test_each_wrong_answer_gets_its_hint(answer, words):
    result = explorer.check("2.1", answer)
    assert not result.passed and not result
    assert words in result.hint


def test_a_crash_shows_the_students_own_line_and_nothing_of_ours():
    hint = explorer.check("2.1", crashing).hint
    line = crashing.__code__.co_firstlineno + 5
    assert hint.startswith(
        f"It stopped in line {line} of `_helper`, `return logits @ torch.zeros(k, 3)  # does not fit`: RuntimeError: "
    )
    assert "explorer" not in hint and "Traceback" not in hint and len(hint.splitlines()) == 1


def test_a_crash_in_code_without_a_file_still_says_the_line():
    scope = {}
    exec("def route(logits, k):\n    return logits[99]", scope)
    assert explorer.check("2.1", scope["route"]).hint.startswith("It stopped in line 2 of `route`: IndexError")


def test_the_starter_untouched_is_no_attempt(monkeypatch):
    monkeypatch.setenv("GATING_EXPLORER_STUDENT", "Ada")
    scope = {}
    exec(TOP_K.starter, scope)
    result = explorer.check("2.1", scope["route"])
    assert not result.passed and "still the code to begin with" in result.hint
    assert Progress().rows() == []
    assert not TOP_K.is_starter(right) and not TOP_K.is_starter(None)


def test_further_parameters_with_defaults_are_welcome():
    assert explorer.check("2.1", lambda logits, k, noise=0.0: right(logits, k)).passed
    assert explorer.check("2.1", lambda *anything: right(*anything, *())).passed


@pytest.mark.parametrize("answer", [endless, stubborn, resisting, asleep], ids=lambda one: one.__name__)
def test_what_never_ends_is_ended_on_the_main_thread_in_time(answer):
    began = time.monotonic()
    assert "did not end" in explorer.check("2.1", answer).hint
    assert time.monotonic() - began < 3
    assert signal.getitimer(signal.ITIMER_REAL) == (0.0, 0.0)


def test_an_answer_that_had_to_wait_for_its_turn_is_not_called_endless(monkeypatch):
    heard = []

    def patient(logits, k):
        time.sleep(0.3)  # in each of two checks: longer than the 0.4 s of both
        return right(logits, k)

    with monkeypatch.context() as busy:
        busy.setattr(limit, "queued", lambda _thread: time.monotonic())
        assert explorer.check("2.1", patient).hint == ""
        other = threading.Thread(target=lambda: heard.append(explorer.check("2.1", patient)))
        other.start()
        other.join()
        assert heard[0].hint == ""
    assert "did not end" in explorer.check("2.1", patient).hint


def test_what_never_ends_is_ended_on_another_thread_too():
    found, before = [], set(threading.enumerate())
    for answer in (endless, right, crashing):
        one = threading.Thread(target=lambda answer=answer: found.append(explorer.check("2.1", answer)))
        one.start()
        one.join(10)
    assert [one.passed for one in found] == [False, True, False]
    assert "did not end" in found[0].hint and "torch.zeros(k, 3)" in found[2].hint
    assert set(threading.enumerate()) <= before, "the endless one ended"


def test_a_timer_of_the_test_runner_goes_on():
    heard = []
    before = signal.signal(signal.SIGALRM, lambda *_: heard.append(1))
    signal.setitimer(signal.ITIMER_REAL, 50)
    try:
        explorer.check("2.1", right)
        left = signal.setitimer(signal.ITIMER_REAL, 0)[0]
        assert 45 < left < 50 and not heard
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def test_time_up_passes_an_except_exception():
    def swallow():
        while True:
            try:  # noqa: SIM105
                time.sleep(0.01)
            except Exception:  # noqa: BLE001
                pass

    with pytest.raises(TimeUp):
        limited(swallow, 0.1)


def test_random_state_and_settings_of_torch_are_as_before():
    def careless(logits, k):
        torch.manual_seed(99), random.seed(99), np.random.seed(99)  # noqa: NPY002
        torch.set_default_dtype(torch.float64), torch.set_grad_enabled(False)
        return right(logits, k)

    states = torch.get_rng_state(), random.getstate(), np.random.get_state()[1].tolist()  # noqa: NPY002
    assert explorer.check("2.1", careless).hint == ""
    assert torch.equal(torch.get_rng_state(), states[0])
    assert (random.getstate(), np.random.get_state()[1].tolist()) == states[1:]  # noqa: NPY002
    assert torch.get_default_dtype() == torch.float32 and torch.is_grad_enabled()


def test_the_same_answer_is_judged_the_same_whatever_was_drawn_before():
    drawn = []

    def drawing(logits, k):
        drawn.append((logits.sum().item(), random.random()))
        return right(logits, k)

    explorer.check("2.1", drawing)
    torch.rand(7), random.random()
    explorer.check("2.1", drawing)
    assert drawn[:2] == drawn[2:]


def test_what_the_student_prints_is_kept(capsys):
    def talking(logits, k):
        print("k is", k)
        return right(logits, k)

    explorer.check("2.1", talking)
    assert capsys.readouterr().out == "k is 2\nk is 2\n"


def test_a_result_is_noted_where_a_student_is_known(monkeypatch):
    explorer.check("2.1", right)
    assert Progress().rows() == [], "nobody is known"
    monkeypatch.setenv("GATING_EXPLORER_STUDENT", "Ada")
    explorer.check("2.1", not_renormalised)
    explorer.check("2.1", right)
    rows = Progress().rows()
    assert [one[1:5] for one in rows] == [("Ada", 2, "exercise", "2.1")] * 2
    assert [one.correct for one in rows] == [False, True]
    assert "sum to one" in rows[0].value and rows[1].value == "passed"


def test_a_grader_s_verdict_is_the_same_and_nobody_s_progress(monkeypatch):
    monkeypatch.setenv("GATING_EXPLORER_STUDENT", "Ada")
    verdicts = [judge(TOP_K, one) for one in (right, not_renormalised)]
    assert [one.passed for one in verdicts] == [True, False] and "sum to one" in verdicts[1].hint
    assert "did not end within 0.2 seconds" in judge(TOP_K, endless, 0.2).hint
    assert Progress().rows() == []


def test_a_result_that_cannot_be_stored_still_counts_and_says_so(monkeypatch, tmp_path):
    (tmp_path / "note.txt").write_text("not a database")
    monkeypatch.setenv("GATING_EXPLORER_PROGRESS", str(tmp_path / "note.txt"))
    monkeypatch.setenv("GATING_EXPLORER_STUDENT", "Ada")
    result = explorer.check("2.1", right)
    assert result.passed and "could not be stored" in result.note and "no SQLite database" in repr(result)


def test_an_unknown_exercise_is_an_error_with_a_suggestion(monkeypatch):
    monkeypatch.setattr(exercise, "of_lesson", lambda lesson=None: {"2.1": TOP_K})
    for given, words in {
        "2.11": "did you mean '2.1'",
        "route": "did you mean '2.1', where route",
        "x": "there are: 2.1",
    }.items():
        with pytest.raises(UnknownName, match=words):
            explorer.check(given, right)


def test_a_result_on_a_page_is_escaped_and_says_it_in_words():
    shown = Result("2.1", False, "the <b>weights</b> & `a < b` $x$", 0.1)._repr_html_()
    assert "&lt;b&gt;weights&lt;/b&gt; &amp; <code>a &lt; b</code> &#36;x&#36;" in shown
    assert 'role="status"' in shown and "not yet" in shown
    assert "✓ 2.1 passed" in Result("2.1", True, "", 0.1)._repr_html_()


def test_importing_the_explorer_imports_no_lesson():
    code = "import sys, explorer; assert not any('lessons' in one for one in sys.modules); explorer.check"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=False).returncode == 0
