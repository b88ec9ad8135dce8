"""Payloads in a browser: one of each kind in every sink, in links, under a student's name, and in a page that is saved."""

import pytest
from playwright.sync_api import Browser

from tests.classroom import payloads
from tests.classroom.payload_texts import PAYLOADS
from tests.classroom.room import Server

# an image, a script in an attribute's value, one that is decoded twice, a formula with a link, plotly's markup, no text
FEW = [1, 36, 48, 52, 59, 63]
IN_SINKS = [34, 59]  # an image, also out of an attribute's value; plotly's markup
IN_LINKS = [1, 36, 39]  # an image, out of an attribute's value, out of a script: a page each


@pytest.fixture(scope="module")
def sinks_address():
    """A server whose one page has every sink."""
    with Server(people=0, pages=str(payloads.folder_of_sinks())) as server:
        yield server.base


def test_no_payload_runs_in_any_sink(chromium: Browser, sinks_address: str) -> None:
    assert payloads.sinks(chromium, sinks_address, IN_SINKS) == []


def test_no_payload_runs_in_the_gallery(chromium: Browser, base_url: str) -> None:
    assert payloads.links(chromium, base_url, [PAYLOADS[i] for i in IN_LINKS], labs=()) == []


def test_no_payload_runs_in_a_saved_page(chromium: Browser) -> None:
    assert payloads.saved_pages(chromium, [PAYLOADS[i] for i in FEW]) == []


def test_no_cell_of_a_table_is_a_formula() -> None:
    assert payloads.cells(PAYLOADS) == []


def test_what_does_run_is_noticed(chromium: Browser) -> None:
    """Each payload alone in a page that escapes nothing: nearly all are caught, so that silence elsewhere says something."""
    caught = 0
    with payloads.watched(chromium) as one:
        for text in PAYLOADS[:34]:
            one.caught.clear()
            one.page.set_content(f"<!doctype html><body><p>{text}</p>", wait_until="commit")
            one.page.wait_for_timeout(50)
            one.look()
            caught += bool(one.caught)
    assert caught >= 32
