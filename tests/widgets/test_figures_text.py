"""Names from outside are drawn, never parsed: RELIABILITY's payloads through every text of every picture."""

import json
import re

import numpy as np
import pytest

from widgets.figures import balance, gate_summary, head_share, load_map, load_over_steps, loss_curve, specialisation
from widgets.figures.text import clean, plain, visible

PAYLOADS = [
    '<img src=x onerror="alert(1)">',
    "<script>alert(1)</script>",
    "</script><script>alert(1)</script>",
    "<svg onload=alert(1)>",
    '<iframe src="javascript:alert(1)">',
    '<a href="javascript:alert(1)">click</a>',
    '<a href="data:text/html,<script>alert(1)</script>">x</a>',
    r"$\href{javascript:alert(1)}{x}$",
    "%{text}",
    "%{customdata[0]}<extra></extra>",
    "<br>" * 100_000,
    "&lt;script&gt;",
    "\u202egnp.exe",
    "x" * 1_000_000,
    "\ud800lone\udfff",
    "z\u0335\u0321\u0322" * 50,
    "=cmd|'/c calc'!A0",
    "a\x00b\x1bc",
]
STEPS = np.arange(3)
# All that plotly may see of ours: <br> and the small second line of a title.
OURS = re.compile(r'<br>|<span style="font-size:12px">|</span>|<extra></extra>|%\{[xyz](:[^}]*)?\}')


@pytest.mark.parametrize("payload", PAYLOADS)
def test_plain_text_has_nothing_that_plotly_parses(payload):
    text = plain(payload)
    assert not re.search(r"[<>$]|%\{", text)
    assert not re.search(r"&(?!amp;|lt;|gt;|#36;|#37;)", text)
    assert len(text) < 400
    text.encode()


def test_plain_text_is_drawn_as_it_was_given():
    assert plain("a < b & c") == "a &lt; b &amp; c"
    assert plain("blocks.0.ffn") == "blocks.0.ffn"
    assert plain("5 $ and 3 %") == "5 &#36; and 3 %"


def test_clean_text_is_one_short_line_that_can_be_encoded():
    assert clean("two\nlines") == "two lines"
    assert clean("\u202eabc\u200b") == "abc"
    assert clean("\ud800") == "\ufffd"
    assert len(clean("x" * 1_000_000)) == 60 and clean("x" * 61).endswith("…")


def test_a_token_is_made_visible():
    assert visible(" a\n\t") == "·a⏎⇥"
    assert visible("\x00\x7f") == "\u2400\ufffd"
    assert visible("") == "∅"
    assert visible("<b>") == "<b>"  # views write it with textContent
    assert len(visible("x" * 100)) == 24


def strings(value):
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        for key, inner in value.items():
            # the summary goes to aria-label, which parses nothing
            yield from strings(inner) if key != "summary" else ()
    elif isinstance(value, list | tuple):
        for inner in value:
            yield from strings(inner)


@pytest.mark.parametrize("payload", PAYLOADS)
def test_no_picture_passes_markup_on(payload):
    layers = {payload: STEPS / 2.0}
    pictures = [
        loss_curve.as_dict(STEPS, STEPS, unit=payload, title=payload),
        load_over_steps.as_dict(STEPS, np.ones((3, 2)) / 2, title=payload),
        load_over_steps.as_dict(STEPS, np.ones((3, 12)) / 12, title=payload),
        balance.as_dict(STEPS, layers, title=payload),
        load_map.as_dict([[1.0, 1.0]], [payload], title=payload),
        specialisation.as_dict([[0.5, 0.5]], [payload], title=payload, layer=payload),
        gate_summary.as_dict(STEPS, layers, layers, title=payload),
        head_share.as_dict(STEPS, layers, title=payload),
        head_share.as_dict(STEPS, {f"{i}{payload}": STEPS / 2.0 for i in range(12)}, title=payload),
        loss_curve.as_dict([], [], title=payload),
        specialisation.as_dict(np.zeros((0, 1)), [], title=payload),
    ]
    for picture in pictures:
        for text in strings(picture):
            rest = OURS.sub("", text)
            assert not re.search(r"[<>$]|%\{", rest), text
            text.encode()
        json.dumps(picture["layout"])
