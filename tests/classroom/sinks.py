"""Every place of a page that shows a text from outside, filled with a payload; payloads.py opens it in a browser.

A cell of a notebook calls `show()`; the page's link says which payloads: `?which=0,1,2`.
"""

import os
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs

import ipywidgets as W
import numpy as np
import traitlets as t

from explorer.errors import BadValue, ExplorerError
from tests.classroom.payload_texts import PAYLOADS

READY = "all sinks are filled"


def show() -> W.Widget:
    """The page for this link."""
    asked = parse_qs(os.environ.get("QUERY_STRING", ""))
    texts = [PAYLOADS[int(one)] for one in asked.get("which", ["0,1,2,3"])[0].split(",")]
    os.environ["GATING_EXPLORER_PROGRESS"] = str(Path(tempfile.mkdtemp()) / "progress.sqlite")
    parts = [part for text in texts for part in everywhere(text)]
    return W.VBox([*parts, *charts(texts), W.HTML(f"<p>{READY}</p>")]).add_class("ge-page")


def everywhere(text: str) -> Iterator[W.Widget]:
    """One payload in every text sink but the charts."""
    yield from frames(text)
    yield from lessons(text)
    yield from labs(text)


class _State(t.HasTraits):
    error = t.Dict(allow_none=True, default_value=None)
    notices = t.List(t.Unicode())


def frames(text: str) -> Iterator[W.Widget]:
    """What every lab shares: text, errors of both kinds, notices, a page that could not be made."""
    from widgets.labs import frame

    yield frame.text(text)
    yield frame.text(text, "h2", "status")
    for error in (BadValue(text), BadValue(f"{text!r}: choose one of {text}"), ValueError(text)):
        yield frame.error_card(_State(error=frame.explain(error)))
    yield frame.notices(_State(notices=[text, f"{text}={text} was ignored"]))
    yield frame.failed(text, BadValue(text))


def lessons(text: str) -> Iterator[W.Widget]:
    """Questions, predictions, quizzes with their answers given, further reading, the name of a student."""
    from widgets import lessons as made
    from widgets.lessons.prose import blocks, inline

    at = made.Desk()
    yield W.HTML(inline(text) + inline(f"**{text}** `{text}` [{text}](https://example.org/{text})"))
    yield W.HTML(blocks(f"- {text}\n- {text}\n\n```\n{text}\n```\n\n1. {text}"))
    yield made.question(text)
    for item, choices in (("1.a", [text, "other"]), ("1.b", {text: (0, 1), "b": (1, 2)}), ("1.c", ())):
        asked = made.predict(item, text, choices, unit=text, at=at)
        asked.children[0].answer([0] if choices else 1.5)
        yield asked
    at.outcomes = {"1.a": ("largest share", 0.5), "1.b": ("largest share", 0.5), "1.c": ("largest share", 0.5)}
    answers = [{"answer": text, "code": text, "correct": False, "feedback": text}, {"answer": "b", "correct": True}]
    number = [{"type": "value", "value": 1, "correct": True, "feedback": text}]
    questions = [
        {"question": text, "type": "multiple_choice", "answers": answers},
        {"question": text, "type": "many_choice", "answers": answers},
        {"question": text, "type": "numeric", "answers": number},
    ]
    quiz = made.quiz(1, questions, at=at)
    for one, answer in zip(quiz.children[1:], ([0], [0, 1], 1.0), strict=True):
        one.answer(answer)
    yield quiz
    yield _or_said(lambda: made.formula(text))
    yield made.further([(text, "https://example.org/"), ("x", text)])
    beginning = made.begin(1, at=at)
    for one in beginning.children:
        if isinstance(one, W.Text):
            one.value = text.encode(errors="replace").decode()  # as a browser would send it
    yield beginning


def labs(text: str) -> Iterator[W.Widget]:
    """Tokens, domains, layers, labels of views; names of files; tables and reports of checkpoints."""
    from widgets.labs.checkpoint_figures import vocabulary
    from widgets.views import Courier, DecisionMap, OwnText, TokenStrip

    strip = TokenStrip(label=text)
    experts = np.zeros((2, 2, 3, 2), int)
    strip.show([[text, "a", text]] * 2, experts, np.ones((2, 2, 3, 2)), names=[text, f"model.{text}.1"],
               sequence_names=[text, text], n_experts=2)  # fmt: skip
    strip.stamp = text
    plane = DecisionMap(label=text)
    plane.show([[0, 1], [1, 1]], np.ones((2, 2)), np.zeros((3, 2)), [0, 1, 1], (-1, 1, -1, 1), n_experts=2)
    plane.stamp = text
    courier, own = Courier(), OwnText()
    own.accept([text], [b"x" * 200])
    own.on_texts(_refuse(text))
    own._heard(own, {"kind": "texts", "names": [text]}, [b"x" * 200])
    # these are ipywidgets' own: what they are given has to be text
    whole = text.encode(errors="replace").decode()
    rows = [{"expert": 0, "token": 1, "text": text, "count": 1, "share": 1.0, "lift": 2.0}]
    yield from (strip, plane, courier, own, W.HTML(vocabulary(rows, 1, text)))
    yield from (
        W.Label(whole),
        W.Button(description=whole, tooltip=whole),
        W.Dropdown(options=[whole, "b"], description=whole),
    )


def _refuse(text: str) -> Any:
    def refuse(_: Any) -> None:
        raise BadValue(text)

    return refuse


def _or_said(make: Any) -> W.Widget:
    """What it makes, or what it says to it."""
    from widgets.labs import frame

    try:
        widget: W.Widget = make()
    except ExplorerError as error:
        return frame.text(str(error))
    return widget


def charts(texts: list[str]) -> Iterator[W.Widget]:
    """Every field of text of our pictures: titles, axes, legends, ticks, notes and what is shown under the pointer."""
    from widgets import figures
    from widgets.views import Chart

    n = len(texts)
    share, square, title = np.full((4, n), 0.25), np.tril(np.ones((n, n))), texts[0]
    lines = {text: [0.1, 0.2] for text in texts}
    plain = [
        figures.load_map.as_dict(np.ones((n, 4)), texts, title),
        figures.load_over_steps.as_dict(np.arange(3), np.full((3, 2), 0.5), texts[-1]),
        figures.attention_map.as_dict(square, texts, texts[0], title=title),
        figures.domain_loads.as_dict(share, texts, texts[0], title),
        figures.by_layer.as_dict([[1.0, 2.0]] * n, texts, title, of="head"),
        figures.head_shares.as_dict(texts, np.full(n, 0.5), title=title),
        figures.quality_by_flops.as_dict(texts, [1.0 * i for i in range(1, n + 1)], [[1.0, 2.0]] * n, texts[0], title),
        figures.measure_by_router.as_dict(texts, [[1.0, 2.0]] * n, title, texts[0]),
        figures.token_path.as_dict(np.zeros((n, 2), int), np.ones((n, 2)), texts, 4, texts[0], title=title),
        figures.expert_load_map.as_dict(np.full((n, 4), 0.25), texts, title),
        figures.received_mass.as_dict(np.full((n, n), 0.5), texts, texts, title),
        figures.side_by_side.as_dict(texts, np.full(n, 0.5), title=title),
        figures.gate_by_kind.as_dict(np.full((2, 2 * n), 0.5), np.arange(2 * n) % n, texts, title=title),
        figures.company_map.as_dict(np.ones((3, 3)), texts[0], title),
        figures.gate_summary.as_dict(np.arange(2), lines, lines),
    ]
    for one in plain:
        chart = Chart(label=texts[0])
        chart.show(one)
        chart.stamp = texts[-1]
        yield chart
