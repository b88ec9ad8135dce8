"""The routing lab as a person uses it: open by link, train, pause, step, reset, move knobs, read an error."""

import os
import signal
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from playwright.sync_api import Page, expect

LAB = "voila/render/labs/routing.ipynb"
PATIENCE = 90_000  # milliseconds: a cold kernel on a busy machine


def open_lab(page: Page, base_url: str, query: str = "") -> None:
    page.goto(f"{base_url}{LAB}?{query}")
    expect(button(page, "Train")).to_be_enabled(timeout=PATIENCE)
    see_a_chart(page)


def see_a_chart(page: Page) -> None:
    """Waits until a chart is drawn. It may be below the fold (how far depends on the fonts), where nothing is drawn."""
    page.locator(".ge-view:visible").first.scroll_into_view_if_needed(timeout=PATIENCE)
    expect(page.locator(".js-plotly-plot .main-svg").first).to_be_visible(timeout=PATIENCE)
    page.evaluate("scrollTo(0, 0)")


def button(page: Page, name: str):
    return page.get_by_role("button", name=name, exact=True)


def step(page: Page) -> int:
    return int(page.locator(".ge-status b").first.inner_text())


def pictures(page: Page) -> dict[str, str]:
    """Title of each chart -> everything it draws, as text."""
    script = """() => Object.fromEntries([...document.querySelectorAll('.js-plotly-plot')].map(plot => [
        plot.layout.title.text.split(/[,<]/)[0],
        JSON.stringify(plot.data.map(t => [Array.from(t.y || []), Array.from(t.z || []).map(row => Array.from(row))]))]))"""
    return page.evaluate(script)


def losses(page: Page) -> list[float]:
    script = """() => { const plot = [...document.querySelectorAll('.js-plotly-plot')].find(p => p.layout.title.text == 'Loss');
        return Array.from(plot.data.find(t => t.name.startsWith('each')).y) }"""
    return page.evaluate(script)


def until(page: Page, condition: Callable[[], bool], seconds: float = 60.0) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, f"waited {seconds} s in vain, step {step(page)}"
        page.wait_for_timeout(100)


def test_a_run_from_a_link_to_a_reset(page: Page, base_url: str) -> None:
    page.set_viewport_size({"width": 1280, "height": 6000})  # what is off the screen is not drawn
    open_lab(page, base_url, "mechanism=switch&seed=5")
    assert page.get_by_label("mechanism").input_value() == "Switch routing"
    assert page.get_by_label("seed").input_value() == "5"
    assert step(page) == 0
    page.wait_for_function("document.querySelectorAll('.js-plotly-plot').length >= 10")
    before = pictures(page)
    strip = page.get_by_role("grid").inner_html()

    button(page, "Train").click()
    until(page, lambda: step(page) >= 60)
    assert pictures(page).keys() == before.keys()
    until(page, lambda: all(drawn != before[title] for title, drawn in pictures(page).items()), seconds=20)
    assert page.get_by_role("grid").inner_html() != strip

    button(page, "Pause").click()
    expect(button(page, "Train")).to_be_enabled()
    page.wait_for_timeout(500)
    stopped = step(page)
    page.wait_for_timeout(700)
    assert step(page) == stopped
    curve = losses(page)
    assert sum(curve[-5:]) / 5 < 0.8 * curve[0]

    button(page, "Step").click()
    until(page, lambda: step(page) == stopped + 1)

    button(page, "Reset").click()
    until(page, lambda: step(page) == 0)
    assert page.errors == []  # type: ignore[attr-defined]


def test_k_changes_in_the_middle_of_a_run(page: Page, base_url: str) -> None:
    open_lab(page, base_url)
    button(page, "Train").click()
    until(page, lambda: step(page) >= 5)
    k = page.get_by_label("k (per token)")
    k.fill("1")
    k.press("Enter")
    flops = page.locator(".ge-status b").last
    at = step(page)
    until(page, lambda: step(page) > at + 3)
    one = int(flops.inner_text().replace(",", ""))
    k.fill("3")
    k.press("Enter")
    until(page, lambda: int(flops.inner_text().replace(",", "")) > one)
    expect(page.get_by_label("experts", exact=True)).to_be_disabled()
    button(page, "Pause").click()


def test_an_error_is_a_card_on_the_page_and_nothing_is_lost(page: Page, base_url: str) -> None:
    open_lab(page, base_url)
    button(page, "Step").click()
    until(page, lambda: step(page) == 1)
    k = page.get_by_label("k (per token)")
    k.fill("9")
    k.press("Enter")
    card = page.get_by_role("alert")
    expect(card).to_contain_text("k=9: it must be at most the number of experts")
    expect(k).to_have_value("2")
    button(page, "Dismiss").click()
    expect(card).to_be_hidden()
    button(page, "Step").click()
    until(page, lambda: step(page) == 2)


def test_a_link_that_is_wrong_in_every_way_opens_and_says_so(page: Page, base_url: str) -> None:
    open_lab(page, base_url, "mechanism=<img src=x onerror=window.hacked=1>&k=999&seed=x&bogus=%00&task=../../etc")
    notice = page.get_by_role("status").filter(has_text="Part of the link was not used")
    expect(notice).to_be_visible()
    assert notice.locator("li").count() == 5
    assert page.evaluate("window.hacked") is None


def test_the_decision_map_shows_on_clusters_in_the_plane(page: Page, base_url: str) -> None:
    open_lab(page, base_url, "task=clusters")
    canvas = page.locator("canvas").first
    expect(canvas).to_be_visible()
    before = canvas.screenshot()
    button(page, "Train").click()
    until(page, lambda: step(page) >= 200)
    button(page, "Pause").click()
    page.wait_for_timeout(500)
    assert canvas.screenshot() != before
    assert page.errors == []  # type: ignore[attr-defined]


def test_show_the_code_shows_the_mechanisms_own_file(page: Page, base_url: str) -> None:
    open_lab(page, base_url, "mechanism=expert-choice")
    page.get_by_text("Show the code: explorer/mechanisms/routing/expert_choice.py").click()
    expect(page.get_by_text("class ExpertChoice")).to_be_visible()


@pytest.mark.skipif(not Path("/proc").exists(), reason="finds the kernel through /proc, which only Linux has")
def test_a_killed_kernel_costs_the_page_and_nothing_else(page: Page, base_url: str) -> None:
    others = kernels()
    open_lab(page, base_url)
    button(page, "Train").click()
    until(page, lambda: step(page) >= 3)
    (mine,) = kernels() - others
    os.kill(mine, signal.SIGKILL)
    open_lab(page, base_url)
    assert step(page) == 0
    button(page, "Step").click()
    until(page, lambda: step(page) == 1)


@pytest.mark.skipif(not Path("/proc").exists(), reason="finds the kernel through /proc, which only Linux has")
def test_a_page_that_is_left_takes_its_kernel_along(page: Page, base_url: str) -> None:
    others = kernels()
    open_lab(page, base_url)
    (mine,) = kernels() - others
    page.goto(f"{base_url}voila/tree")
    end = time.monotonic() + 20
    while mine in kernels() and time.monotonic() < end:
        page.wait_for_timeout(200)
    assert mine not in kernels()


def kernels() -> set[int]:
    """Process ids of the kernels that descend from this test run, and of no other."""
    parents = {}
    for path in Path("/proc").glob("[0-9]*"):
        try:
            fields = (path / "stat").read_text().rpartition(")")[2].split()
            parents[int(path.name)] = int(fields[1]), (path / "cmdline").read_bytes()
        except OSError:
            continue  # it ended meanwhile

    def is_mine(pid: int) -> bool:
        while pid in parents and pid > 1:
            if pid == os.getpid():
                return True
            pid = parents[pid][0]
        return False

    return {pid for pid, (_, command) in parents.items() if b"ipykernel_launcher" in command and is_mine(pid)}
