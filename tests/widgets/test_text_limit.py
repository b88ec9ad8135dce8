"""What bounds the text boxes of a page: every lab has it, and what it lets through the server and the lab both take."""

import json
from pathlib import Path

import ipywidgets as W
import pytest

import explorer.serving
from explorer.errors import BadValue
from widgets.labs.frame import page
from widgets.states.checkpoint import MOST_CHARACTERS
from widgets.states.checkpoint_trace import checked
from widgets.views import TextLimit

WIDEST = 6  # bytes of one UTF-16 unit in a message: \\u and four digits


def test_every_page_of_a_lab_has_one_that_sends_its_limit() -> None:
    (limit,) = [one for one in page("Title", "words", W.HTML()).children if isinstance(one, TextLimit)]
    assert limit.get_state()["most"] == limit.most
    assert 'model.get("most")' in limit._esm


def test_a_full_box_is_a_message_that_the_server_takes() -> None:
    settings = json.loads((Path(explorer.serving.__file__).parent / "voila.json").read_text())
    assert TextLimit().most * WIDEST < settings["Voila"]["tornado_settings"]["websocket_max_message_size"] / 2


def test_a_full_box_is_what_the_checkpoint_lab_traces() -> None:
    assert TextLimit().most == MOST_CHARACTERS
    assert checked([("", "a" * MOST_CHARACTERS)])
    with pytest.raises(BadValue, match="200,001 characters, more than the 200,000"):
        checked([("", "a" * (MOST_CHARACTERS + 1))])
