"""A lesson in a real browser: name, prediction, run, quiz, and what the class then has in its file."""

import os
import re
import subprocess
import sys

import pytest

from explorer.lessons.progress import Progress
from tests.browser.conftest import SERVE

LESSON = "voila/render/lessons/2_top_k_routing.ipynb"


@pytest.fixture(scope="module")
def room(tmp_path_factory):
    """(address, progress) of a class whose runs are short."""
    path = tmp_path_factory.mktemp("class") / "progress.sqlite"
    given = {"GATING_EXPLORER_PROGRESS": str(path), "GATING_EXPLORER_LESSON_STEPS": "20"}
    environment = {
        name: value for name, value in os.environ.items() if name not in ("GATING_EXPLORER_STUDENT", "JUPYTERHUB_USER")
    }
    server = subprocess.Popen([sys.executable, "-c", SERVE], stdout=subprocess.PIPE, text=True, env=environment | given)
    try:
        yield re.search(r"http://\S+", server.stdout.readline())[0], Progress(path)
    finally:
        server.terminate()
        server.wait(60)


def test_a_student_predicts_runs_compares_and_answers_the_quiz_and_all_of_it_is_kept(page, room):
    address, progress = room
    page.goto(f"{address}{LESSON}")
    name = page.get_by_label("your name")
    name.wait_for(timeout=90_000)
    name.fill("Ada <b>")
    name.press("Tab")
    page.get_by_text("Hello Ada <b>").wait_for()
    run = page.get_by_role("button", name="Run").first
    assert run.is_disabled()

    page.get_by_role("button", name="Store my prediction").first.click()
    page.get_by_text("Write a number first.").wait_for()
    number = page.get_by_role("spinbutton").first
    number.fill("30")
    number.press("Enter")
    page.get_by_text("Your prediction is: 30 per cent").wait_for()
    assert [row.value for row in progress.rows(student="Ada <b>")] == [30.0]

    run.click()
    page.get_by_text("Done after 20 steps").wait_for(timeout=60_000)
    assert re.search(r"You predicted: 30 per cent. What came: .* \d+ %", page.get_by_text("You predicted").inner_text())
    assert page.get_by_text("No code can be written on this page").count() == 3

    form = page.locator("form", has_text="A token's margin is almost 0")
    form.get_by_label("No expert is any good for it.").check()
    form.get_by_role("button", name="Check").press("Enter")
    form.get_by_text("Not yet.").wait_for()
    form.get_by_label("A small change of its scores gives it another set of experts.").check()
    form.get_by_role("button", name="Check").click()
    form.get_by_text("Right.").wait_for()
    assert [(row.kind, row.correct) for row in progress.rows()] == [
        ("prediction", None),
        ("quiz", False),
        ("quiz", True),
    ]
    assert page.errors == []


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_a_lesson_can_be_read_by_everyone(page, room, theme):
    from axe_playwright_python.sync_playwright import Axe

    page.goto(f"{room[0]}{LESSON}?theme={theme}")
    page.get_by_text("Exercise 2.3").wait_for(timeout=90_000)
    page.get_by_role("button", name="Check").last.wait_for()
    page.wait_for_timeout(1000)
    found = Axe().run(page).response["violations"]
    assert [(one["id"], one["nodes"][0]["html"][:200]) for one in found] == []
    page.set_viewport_size({"width": 390, "height": 800})
    page.wait_for_timeout(500)
    assert page.evaluate("document.documentElement.scrollWidth") <= 390
