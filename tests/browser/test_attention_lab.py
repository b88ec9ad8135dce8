"""The attention lab as a person uses it: watch a sink grow, choose a head, take the sink away, put a gate beside it."""

import re
from collections.abc import Iterator
from pathlib import Path

import axe_playwright_python
import pytest
from playwright.sync_api import Browser, Page, expect

from explorer import names
from tests.browser.conftest import _watch, leave
from tests.browser.test_gallery import open_gallery
from tests.browser.test_routing_lab import PATIENCE, button, see_a_chart, step, until

LAB = "voila/render/labs/attention.ipynb"
AXE = next(Path(axe_playwright_python.__file__).parent.rglob("axe.min.js"))
TALL = {"width": 1280, "height": 6000}  # what is off the screen is not drawn


def open_lab(page: Page, base_url: str, query: str = "") -> None:
    page.goto(f"{base_url}{LAB}?{query}")
    expect(button(page, "Train")).to_be_attached(timeout=PATIENCE)
    see_a_chart(page)


def drawn(page: Page, title: str) -> str:
    """All numbers of the pictures whose title begins so, as text; "" while there is none."""
    script = """(title) => [...document.querySelectorAll('.js-plotly-plot')]
        .filter(p => p.offsetParent && p.layout.title.text.startsWith(title))
        .map(p => JSON.stringify(p.data.map(t => [Array.from(t.x || []), Array.from(t.y || []),
            Array.from(t.z || []).map(row => Array.from(row))]))).join()"""
    return page.evaluate(script, title)


def titles(page: Page) -> list[str]:
    script = """() => [...document.querySelectorAll('.js-plotly-plot')].filter(p => p.offsetParent)
        .map(p => p.layout.title.text.split('<')[0])"""
    return page.evaluate(script)


def unfold(page: Page, title: str) -> None:
    folded = page.get_by_role("button", name=f"▸ {title}")
    if folded.count():
        folded.first.click()


def pause(page: Page) -> None:
    if button(page, "Pause").is_enabled():
        button(page, "Pause").click()
    expect(button(page, "Train")).to_be_enabled(timeout=PATIENCE)


@pytest.fixture(scope="module")
def lab(chromium: Browser, base_url: str) -> Iterator[Page]:
    """One page with the run that an empty link opens, for the tests in order of this file."""
    context = chromium.new_context(viewport=TALL)
    page = context.new_page()
    page.errors = _watch(page)  # type: ignore[attr-defined]
    open_lab(page, base_url)
    yield page
    assert page.errors == []  # type: ignore[attr-defined]
    leave(context)


def test_the_pictures_of_a_sink_follow_the_run(lab: Page) -> None:
    assert lab.get_by_label("mechanism", exact=True).input_value() == "Softmax attention"
    expect(lab.get_by_text("Why does every token look at the first one?").last).to_be_visible()  # the live page's
    expect(lab.get_by_text("Press Train. Every head begins")).to_be_visible()
    until(lab, lambda: all(drawn(lab, one) for one in ("Attention sinks", "Attention map", "Attention received")))
    birth, shown = drawn(lab, "Attention sinks"), drawn(lab, "Attention map")
    button(lab, "Train").click()
    until(lab, lambda: step(lab) >= 40)
    until(lab, lambda: drawn(lab, "Attention sinks") != birth and drawn(lab, "Attention map") != shown)
    pause(lab)
    expect(lab.get_by_text(re.compile("even attention would give")).first).to_be_visible()


def test_another_head_has_another_map_and_an_earlier_step_too(lab: Page) -> None:
    pause(lab)
    before = drawn(lab, "Attention map")
    lab.get_by_label("head shown", exact=True).select_option(label="layer 0 · head 1")
    until(lab, lambda: "Attention map, layer 0 · head 1" in titles(lab))
    until(lab, lambda: drawn(lab, "Attention map") != before)
    newest = drawn(lab, "Attention map")
    slider = lab.get_by_role("slider", name="step shown", exact=True)
    slider.press("Home")
    until(lab, lambda: drawn(lab, "Attention map") != newest)
    button(lab, "Newest").click()
    until(lab, lambda: drawn(lab, "Attention map") == newest)


def test_taking_the_sink_away_shows_what_it_costs(lab: Page) -> None:
    pause(lab)
    unfold(lab, "What if: without the sink")
    outcome = lab.get_by_role("status").filter(has_text="Loss on the sequences shown")
    expect(outcome).to_contain_text("nothing is edited", timeout=PATIENCE)
    lab.get_by_label("first token", exact=True).select_option(index=1)
    expect(outcome).to_contain_text("its share goes to the others", timeout=PATIENCE)
    expect(outcome.get_by_role("row").filter(has_text="trigger tokens")).to_contain_text(re.compile(r"[+\-−]\d"))
    expect(lab.get_by_label("every gate", exact=True)).to_be_hidden()


def test_a_long_input_is_read_without_a_map(lab: Page) -> None:
    pause(lab)
    unfold(lab, "Long inputs")
    lab.get_by_label("tokens", exact=True).select_option(label="2,048")
    button(lab, "Read a long input").click()
    expect(lab.get_by_text(re.compile(r"2,048 tokens read in .* none was made"))).to_be_visible(timeout=PATIENCE)
    chart = lab.get_by_role("img", name=re.compile("What each token of a long input receives")).first
    expect(chart).to_be_visible(timeout=PATIENCE)
    expect(button(lab, "Read a long input")).to_be_enabled()


def test_a_preset_puts_a_gate_beside_and_both_learn(page: Page, base_url: str) -> None:
    page.set_viewport_size(TALL)
    open_lab(page, base_url, "preset=gate")
    expect(page.get_by_text("A and B learn the same pattern")).to_be_visible()
    wanted = {f"{side}: Attention sinks over training" for side in "AB"} | {"B: Gate value by kind of token"}
    until(page, lambda: wanted <= set(titles(page)))
    assert not any(one.startswith("A: Gate value") for one in titles(page))
    before = drawn(page, "B: Attention map")
    for taken in (1, 2):
        button(page, "Step").click()
        until(page, lambda taken=taken: step(page) == taken)
    until(page, lambda: drawn(page, "B: Attention map") != before)
    button(page, "Remove B").click()
    until(page, lambda: not any(one.startswith("B:") for one in titles(page)))
    assert page.errors == []  # type: ignore[attr-defined]


def test_another_mechanism_opens_on_its_own_task(lab: Page) -> None:
    pause(lab)
    lab.get_by_label("mechanism", exact=True).select_option(label="Gated positional attention (ConViT)")
    until(lab, lambda: step(lab) == 0 and "Heads that start local, and escape" in titles(lab))
    assert lab.get_by_label("task", exact=True).input_value() == "digits in patches"
    expect(lab.get_by_role("button", name=re.compile("Long inputs"))).to_be_hidden()
    button(lab, "Step").click()
    until(lab, lambda: step(lab) == 1)
    expect(lab.get_by_text("held-out digits are read correctly")).to_be_visible()


@pytest.mark.parametrize("mechanism", [name for name in names("attention") if name != "softmax-attention"])
def test_every_mechanism_opens_from_its_link_and_takes_a_step(page: Page, base_url: str, mechanism: str) -> None:
    page.set_viewport_size(TALL)
    open_lab(page, base_url, f"mechanism={mechanism}&batch=2")
    button(page, "Step").click()
    until(page, lambda: step(page) == 1)
    until(page, lambda: len(titles(page)) >= 3)
    expect(page.get_by_role("alert")).to_have_count(0)
    assert page.errors == []  # type: ignore[attr-defined]


def test_the_gallery_leads_here(page: Page, base_url: str) -> None:
    open_gallery(page, base_url)
    expect(page.get_by_role("navigation").get_by_role("link", name=re.compile("attention", re.I)).first).to_be_visible()
    links = page.locator("a[href*='labs/attention.ipynb?mechanism=']")
    found = {link.get_attribute("href").rpartition("=")[2] for link in links.all()}
    assert found == set(names("attention"))


def test_a_recorded_run_stands_there_until_the_live_lab_is_ready(page: Page, base_url: str) -> None:
    page.goto(f"{base_url}{LAB}", wait_until="commit")
    expect(page.get_by_text("A run recorded earlier")).to_be_visible()
    expect(page.locator(".ge-recorded figure")).to_have_count(6)  # it comes in pieces
    expect(button(page, "Train")).to_be_enabled(timeout=PATIENCE)
    expect(page.locator(".ge-recorded")).to_be_hidden()
    assert page.errors == []  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("width", "query"), [(390, "theme=dark"), (1280, "b=gated-attention"), (1920, "theme=dark&large=1")]
)
def test_it_reads_well_for_everyone(
    chromium: Browser, base_url: str, screenshots: Path, width: int, query: str
) -> None:
    context = chromium.new_context(viewport={"width": width, "height": 900}, reduced_motion="reduce")
    page = context.new_page()
    open_lab(page, base_url, f"batch=2&{query}")
    button(page, "Step").click()
    until(page, lambda: step(page) == 1)
    for title in ("What if", "Long inputs", "Save and share", "Show the code"):
        unfold(page, title)
    expect(page.get_by_role("status").filter(has_text="Loss on the sequences shown")).to_be_visible(timeout=PATIENCE)
    page.screenshot(path=screenshots / f"attention-{width}.png")
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    page.evaluate(AXE.read_text())
    found = page.evaluate(
        "async () => (await axe.run()).violations.map(v => [v.id, v.impact, v.nodes[0].html.slice(0, 200)])"
    )
    assert [one for one in found if one[1] in ("serious", "critical")] == []
    leave(context)
