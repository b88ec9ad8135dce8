"""What a lesson asks: a prediction before a run, and a quiz at the end."""

import json
from collections.abc import Mapping, Sequence
from importlib.resources import files
from typing import Any

import ipywidgets as W

from explorer.errors import BadValue, UnknownName
from widgets.labs.frame import text
from widgets.lessons.desk import Desk, desk
from widgets.lessons.form import Form
from widgets.lessons.outcomes import OUTCOMES, shown
from widgets.lessons.prose import inline

KINDS = {"multiple_choice": "one", "many_choice": "many", "numeric": "number"}
THEN = "Now press **Run**."


# -- a prediction ----------------------------------------------------------------------------------------------------------
class Prediction:
    """A form whose answer is stored before the run that waits for it may begin; then both stand beside each other."""

    def __init__(
        self,
        item: str,
        asked: str,
        choices: Sequence[str] | Mapping[str, tuple[float, float]],
        unit: str,
        then: str,
        at: Desk,
    ):
        self.item, self.desk, self.choices, self.unit, self.then = item, at, choices, unit, then
        kind = "one" if choices else "number"
        self.form = Form(
            legend=inline(asked),
            kind=kind,
            options=[inline(one) for one in choices],
            unit=inline(unit),
            button="Store my prediction",
        )
        self.widget = W.VBox([self.form]).add_class("ge-lesson")
        self.form.on_answer(self._store)
        at.observe(self._compare, names=["outcomes"])
        earlier = at.before(item)
        if earlier is not None:
            self.form.say("kept", f"Earlier you predicted: **{self._words(earlier)}**. Predict again.")

    def _store(self, answer: Any) -> None:
        value = list(self.choices)[answer[0]] if self.choices else answer
        note = self.desk.predict(self.item, value)
        self.form.say("kept", f"Your prediction is: **{self._words(value)}**.", note, self.then)

    def _compare(self, _: Any) -> None:
        """The run is over: what was predicted beside what came."""
        if self.item not in self.desk.outcomes or self.item not in self.desk.predictions:
            return
        predicted, (name, came) = self.desk.predictions[self.item], self.desk.outcomes[self.item]
        self.form.enabled = False
        both = (
            f"You predicted: **{self._words(predicted)}**. What came: {OUTCOMES[name].words} **{shown(name, came)}**."
        )
        self.form.say("kept", both, self._judgement(predicted, name, came))

    def _judgement(self, predicted: Any, name: str, came: float) -> str:
        if isinstance(self.choices, Mapping) and predicted in self.choices:
            low, high = self.choices[predicted]
            return (
                "That is what you said."
                if low <= came <= high
                else "That is not what you said: what did you leave out?"
            )
        if not self.choices:
            off = shown(name, abs(float(predicted) / OUTCOMES[name].scale - came))
            return f"You were off by {off.replace('%', 'percentage points')}."
        return ""

    def _words(self, value: Any) -> str:
        return value if isinstance(value, str) else f"{value:g} {self.unit}".strip()


def predict(
    item: str,
    asked: str,
    choices: Sequence[str] | Mapping[str, tuple[float, float]] = (),
    unit: str = "",
    then: str = THEN,
    at: Desk | None = None,
) -> W.Widget:
    """Ask for a prediction. item: "2.load", the lesson and a word; run(item, ...) or trace(item) waits for it.

    choices: sentences to choose from, or a mapping from each to the range (low, high) of the outcome that it stands for;
    none: a number, in `unit`. then: what to do once it is stored.
    """
    return Prediction(item, asked, choices, unit, then, at or desk).widget


# -- a quiz ------------------------------------------------------------------------------------------------------------------
class Question:
    """One question of a quiz in the format of jupyterquiz: judged here, so that the page does not know what is right."""

    def __init__(self, lesson: int, number: int, asked: Mapping[str, Any], at: Desk) -> None:
        self.lesson, self.number, self.asked, self.desk = lesson, number, asked, at
        kind = KINDS.get(str(asked.get("type")))
        if kind is None:
            raise BadValue(
                f"question {number} of quiz {lesson} has the type {asked.get('type')!r}; there are: {', '.join(KINDS)}"
            )
        self.answers: list[Mapping[str, Any]] = list(asked["answers"])
        options = [] if kind == "number" else [_option(one) for one in self.answers]
        self.form = Form(legend=inline(f"{number}. {asked['question']}"), kind=kind, options=options)
        self.form.on_answer(self._judge)

    def _judge(self, answer: Any) -> None:
        correct, feedback = self.judge(answer)
        value = answer if isinstance(answer, float) else [str(self.answers[i].get("answer", "")) for i in answer]
        note = self.desk.keep(self.lesson, "quiz", f"{self.lesson}.q{self.number}", value, correct)
        self.form.say("right" if correct else "wrong", "**Right.**" if correct else "**Not yet.**", *feedback, note)

    def judge(self, answer: Any) -> tuple[bool, list[str]]:
        """(whether it is right, what the quiz says to it)."""
        if isinstance(answer, float):
            return self._judge_number(answer)
        chosen = [self.answers[i] for i in answer]
        wanted = {i for i, one in enumerate(self.answers) if one.get("correct")}
        if self.form.kind == "many":
            wrong = [one for one in chosen if not one.get("correct")]
            missing = "" if wrong or wanted <= set(answer) else "What you chose is right, and there is more."
            return set(answer) == wanted, [*_feedback(wrong or (chosen if not missing else [])), missing]
        return set(answer) <= wanted, _feedback(chosen)

    def _judge_number(self, given: float) -> tuple[bool, list[str]]:
        """The first value or range that it fits; else what is said to all others."""
        precision = self.asked.get("precision")
        for one in self.answers:
            if one.get("type") == "default":
                continue
            if "range" in one:
                low, high = one["range"]
                fits = low <= given <= high
            else:
                fits = _near(given, float(one["value"]), precision)
            if fits:
                return bool(one.get("correct")), _feedback([one])
        return False, _feedback([one for one in self.answers if one.get("type") == "default"])


def quiz(lesson: int, questions: Sequence[Mapping[str, Any]] | None = None, at: Desk | None = None) -> W.Widget:
    """The quiz of a lesson, or questions of one's own, without any network."""
    asked = questions if questions is not None else read_quiz(lesson)
    made = [Question(lesson, i + 1, one, at or desk) for i, one in enumerate(asked)]
    return W.VBox([text("Quiz", "h3"), *(one.form for one in made)]).add_class("ge-lesson")


def read_quiz(lesson: int) -> list[dict[str, Any]]:
    """The questions of explorer/lessons/quizzes/lesson<n>.json."""
    try:
        content = files("explorer.lessons").joinpath("quizzes", f"lesson{int(lesson)}.json").read_text(encoding="utf-8")
    except FileNotFoundError:
        raise UnknownName(f"lesson {lesson} has no quiz") from None
    return list(json.loads(content))


def _option(answer: Mapping[str, Any]) -> str:
    words = inline(str(answer.get("answer", "")))
    return words + (inline(f" `{answer['code']}`") if answer.get("code") else "")


def _feedback(answers: Sequence[Mapping[str, Any]]) -> list[str]:
    return [str(one["feedback"]) for one in answers if one.get("feedback")]


def _near(given: float, wanted: float, precision: Any) -> bool:
    """Equal to so many significant digits, where the question says how many."""
    if precision:
        return f"{given:.{int(precision)}g}" == f"{wanted:.{int(precision)}g}"
    return abs(given - wanted) <= 1e-9 * max(1.0, abs(wanted))
