"""A lesson in a real browser: name, prediction, run, exercise, quiz, and what the class then has in its file."""

import os
import re
import shutil
import subprocess
import sys
import time
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest
from playwright.sync_api import expect

from explorer.lessons.progress import Progress
from tests.browser.conftest import SERVE

LESSON = "voila/render/lessons/2_top_k_routing.ipynb"
PATIENCE = 90_000
LAB = "from explorer.serving import lab; raise SystemExit(lab(port=0, browser=False, token='sesame', pages={pages!r}))"
IMPORTS = "import torch\n\nimport explorer\n\n\n"
SOFTMAX_FIRST = f"""{IMPORTS}def route(logits, k):
    return logits.softmax(-1).topk(k)


explorer.check("2.1", route)"""
RIGHT = f"""{IMPORTS}def route(logits, k):
    kept, index = logits.topk(k)
    return kept.softmax(-1), index


explorer.check("2.1", route)"""


@contextmanager
def served(call, progress):
    """The address of a server whose class keeps its progress in the file `progress`, and whose runs are short."""
    environment = {
        name: value for name, value in os.environ.items() if name not in ("GATING_EXPLORER_STUDENT", "JUPYTERHUB_USER")
    }
    environment |= {"GATING_EXPLORER_PROGRESS": str(progress), "GATING_EXPLORER_LESSON_STEPS": "20"}
    root = Path(__file__).resolve().parents[2]
    server = subprocess.Popen(
        [sys.executable, "-c", call], stdout=subprocess.PIPE, text=True, env=environment, cwd=root
    )
    try:
        yield re.search(r"http://\S+", server.stdout.readline())[0]
    finally:
        server.terminate()
        server.wait(60)


@pytest.fixture(scope="module")
def room(tmp_path_factory):
    """(address, progress) of a class whose runs are short."""
    path = tmp_path_factory.mktemp("class") / "progress.sqlite"
    with served(SERVE, path) as address:
        yield address, Progress(path)


def test_a_student_predicts_runs_compares_and_answers_the_quiz_and_all_of_it_is_kept(page, room):
    address, progress = room
    page.goto(f"{address}{LESSON}")
    name = page.get_by_label("your name")
    name.wait_for(timeout=PATIENCE)
    name.fill("Ada <b>")
    name.press("Tab")
    page.get_by_text("Hello Ada <b>").wait_for(timeout=PATIENCE)
    run = page.get_by_role("button", name="Run").first
    assert run.is_disabled()

    page.get_by_role("button", name="Store my prediction").first.click()
    page.get_by_text("Write a number first.").wait_for()
    number = page.get_by_role("spinbutton").first
    number.fill("30")
    number.press("Enter")
    page.get_by_text("Your prediction is: 30 per cent").wait_for(timeout=PATIENCE)
    assert [row.value for row in progress.rows(student="Ada <b>")] == [30.0]

    run.click()
    page.get_by_text("Done after 20 steps").wait_for(timeout=PATIENCE)
    both = page.get_by_text("You predicted: 30 per cent")
    both.wait_for(timeout=PATIENCE)
    assert re.search(r"What came: .* [\d.]+\s%", both.inner_text())
    expect(page.get_by_text("No code can be written on this page")).to_have_count(3, timeout=PATIENCE)

    expect(page.locator(".ge-result")).to_have_count(0)  # the cells for code are left out

    form = page.locator("form", has_text="A token's margin is almost 0")
    form.get_by_label("No expert is any good for it.").check()
    form.get_by_role("button", name="Check").press("Enter")
    form.get_by_text("Not yet.").wait_for(timeout=PATIENCE)
    form.get_by_label("A small change of its scores gives it another set of experts.").check()
    form.get_by_role("button", name="Check").click()
    form.get_by_text("Right.").wait_for(timeout=PATIENCE)
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
    page.get_by_text("Exercise 2.3:").wait_for(timeout=PATIENCE)
    page.get_by_role("button", name="Check").last.wait_for(timeout=PATIENCE)
    page.wait_for_function("document.querySelector('[role=main]')", timeout=PATIENCE)
    found = Axe().run(page).response["violations"]
    assert [(one["id"], one["nodes"][0]["html"][:200]) for one in found] == []
    page.set_viewport_size({"width": 390, "height": 800})
    page.wait_for_timeout(500)
    assert page.evaluate("document.documentElement.scrollWidth") <= 390


def test_a_page_in_the_dark_leads_to_pages_in_the_dark(page, room):
    page.goto(f"{room[0]}{LESSON}?theme=dark")
    link = page.get_by_role("link", name="lesson 3, collapse and balance")
    expect(link).to_have_attribute("href", "3_collapse_and_balance.ipynb?theme=dark", timeout=PATIENCE)
    lab = page.get_by_role("link", name="the routing lab on text")
    expect(lab).to_have_attribute("href", re.compile(r"k=2&theme=dark$"))


def test_a_student_writes_a_wrong_answer_reads_the_hint_and_writes_the_right_one(page, tmp_path):
    progress, pages = Progress(tmp_path / "progress.sqlite"), tmp_path / "pages"
    root = Path(__file__).resolve().parents[2]
    shutil.copytree(root / "notebooks", pages)
    with served(LAB.format(pages=str(pages)), progress.path) as address:
        page.goto(f"{address.partition('?')[0].rstrip('/')}/lab/tree/lessons/2_top_k_routing.ipynb?token=sesame")
        page.locator(".jp-Notebook .jp-CodeCell").first.wait_for(timeout=PATIENCE)
        kernel = page.locator(".jp-Notebook-ExecutionIndicator").first
        expect(kernel).to_have_attribute("data-status", "idle", timeout=PATIENCE)
        run(page, "begin(2)")
        name = page.get_by_label("your name")
        name.wait_for(timeout=PATIENCE)
        name.fill("Grace")
        name.press("Tab")
        page.get_by_text("Hello Grace").wait_for(timeout=PATIENCE)

        write(page, SOFTMAX_FIRST)
        kept(progress, 1)
        result = page.locator(".ge-result").first
        expect(result).to_contain_text("2.1 not yet", timeout=PATIENCE)
        expect(result).to_contain_text("less than one", timeout=PATIENCE)
        write(page, RIGHT)
        rows = kept(progress, 2)
        expect(page.locator(".ge-result").first).to_contain_text("2.1 passed", timeout=PATIENCE)
    assert [(row.student, row.item, row.correct) for row in rows] == [("Grace", "2.1", False), ("Grace", "2.1", True)]
    assert "less than one" in rows[0].value


def run(page, words):
    """Run the code cell that holds these words; JupyterLab forgets what is run before its kernel has quite arrived."""
    cell = page.locator(".jp-CodeCell", has_text=words).first
    for _ in range(PATIENCE // 5000):
        into(cell)
        page.keyboard.press("Shift+Enter")
        with suppress(AssertionError):
            expect(cell.locator(".jp-InputPrompt")).not_to_have_text("[ ]:", timeout=5000)
            return
    raise AssertionError(f"the cell with {words} never ran")


def write(page, code):
    """Put code into the cell of exercise 2.1, and run it."""
    cell = page.locator(".jp-CodeCell", has_text='explorer.check("2.1", route)').last
    into(cell)
    page.keyboard.press("Control+A")
    page.keyboard.insert_text(code)
    expect(cell.locator(".cm-line")).to_have_text(code.split("\n"), timeout=PATIENCE)
    page.keyboard.press("Shift+Enter")


def into(cell):
    """The cursor into a cell; JupyterLab, which draws cells when they come into sight, may draw it anew meanwhile."""
    cell.scroll_into_view_if_needed(timeout=PATIENCE)
    cell.locator(".cm-content").click()
    expect(cell.locator(".cm-editor")).to_have_class(re.compile("cm-focused"), timeout=PATIENCE)


def kept(progress, number):
    """The exercise's rows of the class's file, once there are so many."""
    end = time.monotonic() + PATIENCE / 1000
    while time.monotonic() < end:
        rows = [row for row in progress.rows() if row.kind == "exercise"]
        if len(rows) >= number:
            return rows
        time.sleep(0.2)
    raise AssertionError(f"{number} results were not stored in time")
