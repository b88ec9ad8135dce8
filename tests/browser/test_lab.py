"""What every lab promises, on the routing lab, by what a person sees and presses."""

import re
from collections.abc import Iterator
from pathlib import Path

import axe_playwright_python
import pytest
from playwright.sync_api import Browser, Locator, Page, expect

from tests.browser.conftest import _watch, leave
from tests.browser.test_routing_lab import LAB, button, open_lab, step, until

AXE = next(Path(axe_playwright_python.__file__).parent.rglob("axe.min.js"))
TEXT = "the quick brown fox jumps over the lazy dog; " * 40


@pytest.fixture(scope="module")
def lab(chromium: Browser, base_url: str) -> Iterator[Page]:
    """One page for the tests that only need some run: each begins with `fresh`."""
    context = chromium.new_context(viewport={"width": 1280, "height": 6000}, accept_downloads=True)
    context.grant_permissions(["clipboard-read", "clipboard-write"])
    page = context.new_page()
    page.errors = _watch(page)  # type: ignore[attr-defined]
    open_lab(page, base_url, "layers=2&batch=2")
    yield page
    assert page.errors == []  # type: ignore[attr-defined]
    leave(context)


def fresh(lab: Page, steps: int = 0) -> None:
    if button(lab, "Remove B").is_visible():
        button(lab, "Remove B").click()
    expect(button(lab, "Remove B")).to_be_hidden()
    button(lab, "Reset").click()
    until(lab, lambda: step(lab) == 0)
    expect(button(lab, "Train")).to_be_enabled()
    for taken in range(1, steps + 1):
        button(lab, "Step").click()
        until(lab, lambda taken=taken: step(lab) == taken)


def unfold(lab: Page, title: str) -> None:
    folded = lab.get_by_role("button", name=f"▸ {title}")
    if folded.count():
        folded.first.click()


def slider(lab: Page, name: str) -> Locator:
    return lab.get_by_role("slider", name=name, exact=True)


def titles(lab: Page) -> list[str]:
    script = """() => [...document.querySelectorAll('.js-plotly-plot')].filter(p => p.offsetParent)
        .map(p => p.layout.title.text.split('<')[0])"""
    return lab.evaluate(script)


def marked(lab: Page, title: str) -> list[float]:
    """Where the charts of this title have their upright line."""
    script = """(title) => [...document.querySelectorAll('.js-plotly-plot')]
        .filter(p => p.offsetParent && p.layout.title.text.startsWith(title))
        .flatMap(p => (p.layout.shapes || []).filter(s => s.x0 === s.x1).map(s => s.x0))"""
    return lab.evaluate(script, title)


def test_a_recorded_run_stands_there_until_the_live_lab_is_ready(page: Page, base_url: str) -> None:
    page.goto(f"{base_url}{LAB}", wait_until="commit")
    expect(page.get_by_text("A run recorded earlier")).to_be_visible()
    expect(page.locator(".ge-recorded figure")).to_have_count(6)  # it comes in pieces
    assert page.locator(".js-plotly-plot").count() == 0
    expect(button(page, "Train")).to_be_enabled(timeout=90_000)
    expect(page.locator(".ge-recorded")).to_be_hidden()
    assert page.errors == []  # type: ignore[attr-defined]


def test_a_slider_scrubs_back_and_the_pictures_say_where(lab: Page) -> None:
    fresh(lab, 5)
    assert marked(lab, "Loss") == []
    slider(lab, "step shown").press("ArrowLeft")
    slider(lab, "step shown").press("ArrowLeft")
    until(lab, lambda: set(marked(lab, "Loss")) == {3})
    util = "[...document.querySelectorAll('.js-plotly-plot')].find(p => p.layout.title.text.startsWith('Util'))"
    until(lab, lambda: "step 3" in lab.evaluate(f"{util}.layout.title.text"))
    assert step(lab) == 5
    button(lab, "Newest").click()
    until(lab, lambda: marked(lab, "Loss") == [])


def test_a_fork_is_trained_beside_with_one_thing_changed(lab: Page) -> None:
    fresh(lab, 3)
    button(lab, "Fork").click()
    until(lab, lambda: "B: Loss" in titles(lab))
    expect(lab.get_by_text("forked at step 3")).to_be_visible()
    k = lab.get_by_label("B: k (per token)")
    k.fill("1")
    k.press("Enter")
    button(lab, "Step").click()
    until(lab, lambda: step(lab) == 4)
    until(lab, lambda: "Loss of both runs" in titles(lab))
    assert lab.get_by_label("k (per token)", exact=True).input_value() == "2"
    assert len(lab.get_by_role("grid").all()) == 2
    button(lab, "Remove B").click()
    until(lab, lambda: not any(title.startswith("B:") for title in titles(lab)))


def test_a_beside_b_from_the_menu_of_one_size(lab: Page) -> None:
    fresh(lab)
    unfold(lab, "A beside B")
    lab.get_by_label("run beside (B)").select_option(label="Switch routing")
    until(lab, lambda: "B: Loss" in titles(lab))
    lab.get_by_label("B's size").select_option(label="the parameters of A")
    for taken in (1, 2):
        button(lab, "Step").click()
        until(lab, lambda taken=taken: step(lab) == taken)
    slider(lab, "step shown").press("ArrowLeft")
    until(lab, lambda: set(marked(lab, "A: Loss")) == set(marked(lab, "B: Loss")) == {1})
    button(lab, "Remove B").click()
    expect(button(lab, "Remove B")).to_be_hidden()


def test_what_if_and_the_steps_of_a_clicked_token(lab: Page) -> None:
    fresh(lab, 2)
    unfold(lab, "What if")
    outcome = lab.get_by_role("status").filter(has_text="Loss on the texts shown")
    expect(outcome).to_contain_text("nothing is edited")
    before = outcome.inner_text()
    lab.get_by_role("gridcell").nth(20).click()
    expect(outcome).not_to_have_text(before)
    button(lab, "Forbid").click()
    expect(outcome).to_contain_text("expert 0 is forbidden")
    expect(outcome).to_contain_text("→")
    table = lab.locator(".ge-steps table")
    expect(table).to_contain_text("score (logit) edited")
    assert table.locator("tbody tr").count() == 8
    assert table.locator("tr.chosen").count() >= 2
    button(lab, "Clear edits").click()
    expect(outcome).to_contain_text("nothing is edited")
    button(lab, "Train").click()
    expect(lab.get_by_text("Pause the run first.")).to_be_visible()
    button(lab, "Pause").click()


def test_the_link_opens_the_same_run_at_the_same_step(lab: Page, base_url: str) -> None:
    fresh(lab, 2)
    k = lab.get_by_label("k (per token)", exact=True)
    k.fill("1")
    k.press("Enter")
    button(lab, "Step").click()
    until(lab, lambda: step(lab) == 3)
    unfold(lab, "Save and share")
    button(lab, "Copy link").click()
    expect(lab.get_by_text("Link copied.")).to_be_visible()
    link = lab.evaluate("navigator.clipboard.readText()")
    assert "batch=2" in link and "steps=3" in link and "do=2%3Ak%3D1" in link
    losses = "() => Array.from(document.querySelector('.js-plotly-plot')?.data?.[0]?.y ?? [])"
    other = lab.context.new_page()
    other.goto(link)
    expect(button(other, "Pause")).to_be_attached(timeout=90_000)
    until(other, lambda: step(other) == 3)
    expect(button(other, "Train")).to_be_enabled()
    until(other, lambda: other.evaluate(losses) == lab.evaluate(losses))
    assert other.get_by_label("k (per token)", exact=True).input_value() == "1"
    button(other, "Step").click()  # two tabs of one lab do not disturb each other
    until(other, lambda: step(other) == 4)
    assert step(lab) == 3
    other.close()
    k.fill("2")
    k.press("Enter")


def test_own_text_is_bounded_before_it_is_sent_and_becomes_a_domain(lab: Page) -> None:
    fresh(lab)
    unfold(lab, "Your own data")
    paste = lab.get_by_label("Paste a text")
    expect(paste).to_be_visible()
    alert = lab.get_by_role("alert").filter(has_text=re.compile("limit|at most|more than|too"))
    lab.evaluate("""() => { window.sent = 0; const send = WebSocket.prototype.send;
        WebSocket.prototype.send = function (data) { window.sent += data.byteLength || data.size || data.length || 0;
        return send.call(this, data); } }""")
    lab.evaluate("""() => { const field = [...document.querySelectorAll('textarea')].find((one) => one.offsetParent);
        const data = new DataTransfer(); data.setData('text/plain', 'x'.repeat(10_000_000));
        field.focus(); const paste = new ClipboardEvent('paste', { clipboardData: data, bubbles: true, cancelable: true });
        if (field.dispatchEvent(paste)) { field.value = 'x'.repeat(10_000_000);
        field.dispatchEvent(new Event('input', { bubbles: true })); } }""")
    expect(alert).to_be_visible()
    upload = lab.locator("input[type=file]")
    upload.set_input_files({"name": "big.txt", "mimeType": "text/plain", "buffer": b"y" * 3_000_000})
    expect(alert).to_contain_text("big.txt")
    assert lab.evaluate("window.sent") < 100_000
    upload.set_input_files({"name": "fox.txt", "mimeType": "text/plain", "buffer": TEXT.encode()})
    expect(lab.get_by_text("fox.txt").first).to_be_visible()
    paste.fill("")
    button(lab, "Use this text").click()
    expect(lab.get_by_text("In use: fox.txt.")).to_be_visible()
    until(lab, lambda: "fox.txt" in lab.get_by_role("grid").inner_text())
    button(lab, "Without my text").click()
    until(lab, lambda: "english" in lab.get_by_role("grid").inner_text())


def test_the_page_as_one_file_opens_without_a_network(lab: Page, chromium: Browser, tmp_path: Path) -> None:
    fresh(lab, 3)
    unfold(lab, "Save and share")
    with lab.expect_download() as download:
        button(lab, "Page as HTML").click()
    path = tmp_path / download.value.suggested_filename
    download.value.save_as(path)
    assert path.stat().st_size < 6_000_000
    context = chromium.new_context(
        offline=True, viewport={"width": 900, "height": 9000}
    )  # off the screen nothing is drawn
    alone = context.new_page()
    errors = _watch(alone)
    alone.goto(path.as_uri())
    expect(alone.locator(".js-plotly-plot .main-svg").first).to_be_visible(timeout=60_000)
    until_drawn = "document.querySelectorAll('.js-plotly-plot .main-svg').length"
    for _ in range(200):
        if alone.evaluate(until_drawn) >= 10:
            break
        alone.wait_for_timeout(200)
    assert alone.evaluate(until_drawn) >= 10
    expect(alone.get_by_text("run.run(3)")).to_be_visible()
    expect(alone.get_by_text(re.compile("seed 0 · step 3 · cpu · kernel"))).to_be_visible()
    assert errors == []
    leave(context)


def test_the_recording_and_the_lines_that_make_the_run(lab: Page, tmp_path: Path) -> None:
    import explorer

    fresh(lab, 2)
    unfold(lab, "Save and share")
    with lab.expect_download() as download:
        button(lab, "Recording").click()
    path = tmp_path / download.value.suggested_filename
    download.value.save_as(path)
    recording = explorer.Recording.load(path)
    assert sorted(recording.loads()["step"].unique()) == [0, 1]
    button(lab, "Python").click()
    code = lab.locator(".ge-code").filter(has_text="explorer.Experiment")
    expect(code).to_be_visible()
    scope: dict[str, object] = {}
    exec(code.inner_text(), scope)
    assert scope["run"].recording.loads().equals(recording.loads())  # type: ignore[attr-defined]


def test_the_equation_follows_the_knobs(lab: Page) -> None:
    fresh(lab)
    about = lab.locator(".ge-about")
    expect(about.locator("math").first).to_be_visible()
    before = about.locator("math").last.text_content()
    k = lab.get_by_label("k (per token)", exact=True)
    k.fill("3")
    k.press("Enter")
    until(lab, lambda: about.locator("math").last.text_content() != before)
    assert "3" in (about.locator("math").last.text_content() or "")
    k.fill("2")
    k.press("Enter")


def test_it_is_driven_by_keys_alone(lab: Page) -> None:
    fresh(lab)
    lab.get_by_label("seed").focus()
    lab.keyboard.press("Tab")
    until(lab, lambda: lab.evaluate("document.activeElement.textContent") == "Train")
    lab.keyboard.press("Enter")
    until(lab, lambda: step(lab) > 0)
    lab.keyboard.press("Tab")
    until(lab, lambda: lab.evaluate("document.activeElement.textContent") == "Pause")
    lab.keyboard.press("Enter")
    expect(button(lab, "Train")).to_be_enabled()


def test_a_preset_shows_its_pathology_and_says_what_repairs_it(lab: Page) -> None:
    fresh(lab)
    menu = lab.get_by_label("preset")
    menu.select_option(
        label=next(one for one in menu.locator("option").all_inner_texts() if one.startswith("Collapse"))
    )
    until(lab, lambda: step(lab) >= 60)
    until(lab, lambda: "times its fair share" in lab.locator(".ge-main").inner_text(), seconds=60)
    assert "Raise “auxiliary loss”" in lab.locator(".ge-main").inner_text()
    button(lab, "Pause").click()
    lab.get_by_label("mechanism", exact=True).select_option(label="Top-k softmax routing")
    until(lab, lambda: step(lab) == 0)


def test_what_a_link_hides_is_not_there(page: Page, base_url: str) -> None:
    open_lab(page, base_url, "hide=seed,knobs,load,whatif&batch=2&large=1")
    expect(page.get_by_label("seed")).to_be_hidden()
    expect(page.get_by_label("k (per token)")).to_be_hidden()
    expect(page.get_by_role("button", name=re.compile("What if"))).to_be_hidden()
    assert not any(title.startswith("Load of each") for title in titles(page))
    expect(page.get_by_label("mechanism", exact=True)).to_be_visible()
    expect(page.get_by_label("large type")).to_be_checked()
    assert float(page.locator(".ge-page h1").evaluate("one => parseFloat(getComputedStyle(one).fontSize)")) > 20


@pytest.mark.parametrize(("width", "query"), [(390, "theme=dark"), (1280, ""), (1920, "theme=dark&large=1&b=switch")])
def test_it_reads_well_for_everyone(
    chromium: Browser, base_url: str, screenshots: Path, width: int, query: str
) -> None:
    context = chromium.new_context(viewport={"width": width, "height": 900}, reduced_motion="reduce")
    page = context.new_page()
    open_lab(page, base_url, f"batch=2&{query}")
    button(page, "Step").click()
    until(page, lambda: step(page) == 1)
    for title in ("What if", "Your own data", "Save and share", "Show the code"):
        unfold(page, title)
    page.wait_for_timeout(1500)
    page.screenshot(path=screenshots / f"lab-{width}.png")
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    assert page.evaluate("getComputedStyle(document.querySelector('.ge-page button')).transitionDuration") in ("0s", "")
    page.evaluate(AXE.read_text())
    found = page.evaluate(
        "async () => (await axe.run()).violations.map(v => [v.id, v.impact, v.nodes[0].html.slice(0, 200)])"
    )
    assert [one for one in found if one[1] in ("serious", "critical")] == []
    leave(context)
