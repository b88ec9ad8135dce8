"""Comparing routers as a person does it: choose, start, see the ranking grow, stop, take the table home."""

import re
from collections.abc import Iterator
from pathlib import Path

import axe_playwright_python
import pytest
from playwright.sync_api import Browser, Locator, Page, expect

from tests.browser.conftest import _watch, leave
from tests.browser.test_lab import unfold
from tests.browser.test_routing_lab import button, open_lab, step, until

AXE = next(Path(axe_playwright_python.__file__).parent.rglob("axe.min.js"))
ROUTERS = ("Top-k softmax routing", "Switch routing", "Product-key memory")
COMPARED = "Held-out loss against active FLOPs"


@pytest.fixture(scope="module")
def lab(chromium: Browser, base_url: str) -> Iterator[Page]:
    context = chromium.new_context(viewport={"width": 1280, "height": 5000}, accept_downloads=True)
    page = context.new_page()
    page.errors = _watch(page)  # type: ignore[attr-defined]
    open_lab(page, base_url, "layers=1&batch=2&expert_width=8")
    yield page
    assert page.errors == []  # type: ignore[attr-defined]
    leave(context)


def table(page: Page) -> Locator:
    return page.get_by_role("region", name="Ranked routers")


def field(page: Page, name: str, value: int) -> None:
    one = page.get_by_label(name, exact=True)
    one.fill(str(value))
    one.press("Enter")


def choose(page: Page, *routers: str) -> None:
    unfold(page, "Compare routers")
    button(page, "None").click()
    expect(page.get_by_text("Choose at least two routers to compare.")).to_be_visible()
    for title in routers:
        page.get_by_label(title, exact=True).check()


def drawn(page: Page) -> list[str]:
    script = """() => [...document.querySelectorAll('.js-plotly-plot')].filter(p => p.offsetParent)
        .map(p => p.layout.title.text.split('<')[0])"""
    return page.evaluate(script)


def test_three_routers_are_ranked_while_the_page_stays_usable(lab: Page) -> None:
    choose(lab, *ROUTERS)
    field(lab, "seeds", 1)
    field(lab, "steps", 5)
    lab.get_by_label("same for all").select_option(label="parameters")
    expect(lab.get_by_text("3 routers with seed 0: 3 runs of 5 steps")).to_be_visible()
    button(lab, "Start").click()
    expect(button(lab, "Stop")).to_be_enabled()
    expect(lab.get_by_text(re.compile(r"^\d of 3 runs; "))).to_be_visible()
    before = step(lab)
    button(lab, "Step").click()
    until(lab, lambda: step(lab) == before + 1)
    expect(lab.get_by_text(re.compile("3 of 3 runs; done in"))).to_be_visible(timeout=180_000)
    rows = table(lab).locator("tbody tr")
    expect(rows).to_have_count(3)
    assert sorted(rows.nth(i).locator("td").first.inner_text() for i in range(2)) == ["1", "2"]
    expect(rows.nth(2)).to_contain_text("Product-key memory")
    expect(rows.nth(2)).to_contain_text("so it was not compared")
    means = [float(rows.nth(i).locator("b").first.inner_text()) for i in range(2)]
    assert means == sorted(means)
    expect(lab.get_by_role("status").filter(has_text="One seed says nothing about chance")).to_be_visible()
    until(lab, lambda: COMPARED in drawn(lab))
    lab.get_by_label("rank by").select_option(label="MaxVio")
    expect(table(lab).locator("caption")).to_contain_text("best MaxVio first")


def test_the_table_and_the_lines_that_make_it(lab: Page, tmp_path: Path) -> None:
    with lab.expect_download() as download:
        button(lab, "Table as CSV").click()
    path = tmp_path / download.value.suggested_filename
    download.value.save_as(path)
    stamp, head, *rows = path.read_text().splitlines()
    assert stamp.startswith("# comparison · text · seed 0 · 5 steps · same parameters as topk-softmax")
    assert head.startswith("experiment,mechanism,seed,parameters,flops,mismatch,held_out_loss") and len(rows) == 3
    part = lab.locator(".ge-folded").filter(has=table(lab))
    part.get_by_role("button", name="Python", exact=True).click()
    expect(part.locator(".ge-code")).to_contain_text("Sweep(experiments, task=task, seeds=range(0, 1), steps=5")


def test_stop_answers_at_once_and_the_page_still_trains(lab: Page) -> None:
    choose(lab, *ROUTERS[:2])
    field(lab, "steps", 2000)
    button(lab, "Start").click()
    expect(lab.get_by_text("0 of 2 runs; the workers are starting.")).to_be_visible()
    lab.wait_for_timeout(3000)
    button(lab, "Stop").click()
    expect(lab.get_by_text("Stopped after 0 of 2 runs.")).to_be_visible()  # within seconds, of runs that take a minute
    expect(button(lab, "Start")).to_be_enabled()
    before = step(lab)
    button(lab, "Train").click()
    until(lab, lambda: step(lab) > before + 3)
    button(lab, "Pause").click()


@pytest.mark.parametrize(("width", "theme"), [(390, "dark"), (1280, "light")])
def test_it_reads_well_for_everyone(
    chromium: Browser, base_url: str, screenshots: Path, width: int, theme: str
) -> None:
    context = chromium.new_context(viewport={"width": width, "height": 900}, reduced_motion="reduce")
    page = context.new_page()
    routers = "topk-softmax,switch,expert-choice,product-key-memory"
    query = f"batch=2&layers=1&expert_width=8&theme={theme}&compare={routers}&compare.seeds=2&compare.steps=5"
    open_lab(page, base_url, query + "&compare.match=flops")
    expect(page.get_by_label("Switch routing", exact=True)).to_be_checked()
    button(page, "Start").click()
    expect(page.get_by_text(re.compile("8 of 8 runs; done in"))).to_be_visible(timeout=240_000)
    part = page.locator(".ge-folded").filter(has=table(page))
    for view in part.locator(".ge-view").all():
        view.scroll_into_view_if_needed()
        expect(view.locator(".main-svg").first).to_be_visible()
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    page.evaluate(AXE.read_text())
    found = page.evaluate(
        "async () => (await axe.run()).violations.map(v => [v.id, v.impact, v.nodes[0].html.slice(0, 200)])"
    )
    assert [one for one in found if one[1] in ("serious", "critical")] == []
    page.set_viewport_size({"width": width, "height": 9000})  # off the screen nothing is drawn
    page.wait_for_timeout(2000)
    part.screenshot(path=screenshots / f"compare-{width}.png")
    leave(context)
