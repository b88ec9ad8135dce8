"""The gallery as a visitor meets it: the root address, search by keyboard, the link, the doors, phones and projectors."""

import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
from playwright.sync_api import Page, Route, expect

from explorer.serving import environment

GALLERY = "voila/render/index.ipynb"
PATIENCE = 60_000  # milliseconds: a cold kernel on a busy machine


def open_gallery(page: Page, base_url: str, query: str = "") -> None:
    page.goto(f"{base_url}{GALLERY}?{query}", wait_until="commit")
    expect(page.locator(".ge-gallery[data-ready]")).to_be_visible(timeout=PATIENCE)


def cards(page: Page) -> list[str]:
    return page.locator(".ge-card:visible h3").all_inner_texts()


def test_the_root_opens_the_gallery_and_a_card_its_lab(page: Page, base_url: str) -> None:
    page.goto(base_url, wait_until="commit")
    expect(page.get_by_role("heading", name="Switch routing")).to_be_visible(timeout=PATIENCE)
    assert page.url == f"{base_url}{GALLERY}"
    for door in ("Learn", "Play", "Inspect"):
        expect(page.get_by_role("navigation").get_by_role("heading", name=door)).to_be_visible()
    page.get_by_role("link", name="Open Switch routing in its lab").click()
    expect(page.get_by_label("mechanism").first).to_have_value("Switch routing", timeout=PATIENCE)
    assert page.url == f"{base_url}voila/render/labs/routing.ipynb?mechanism=switch"


def test_it_is_there_before_the_scripts_of_widgets(page: Page, base_url: str) -> None:
    """The slow part of a page never arrives here, and the gallery is complete without it."""
    page.route("**/voila/static/**", lambda route: None)
    open_gallery(page, base_url)
    page.get_by_label("Search").fill("shazeer glu")
    expect(page.get_by_role("status")).to_have_text(re.compile(r"^1 of \d+ mechanisms$"))
    assert cards(page) == ["Gated linear units"]


def test_search_and_filter_answer_by_keyboard_and_stay_in_the_link(page: Page, base_url: str) -> None:
    open_gallery(page, base_url)
    total = len(cards(page))
    expect(page.get_by_role("status")).to_have_text(f"{total} mechanisms")
    page.get_by_label("Search").focus()
    page.keyboard.type("SWÍTCH  fedus")
    assert cards(page) == ["Switch routing"]
    expect(page.get_by_role("status")).to_have_text(f"1 of {total} mechanisms")
    page.reload()
    expect(page.get_by_role("status")).to_have_text(f"1 of {total} mechanisms", timeout=PATIENCE)
    page.get_by_label("Search").fill("")
    page.keyboard.press("Tab")
    expect(page.get_by_role("combobox", name="Family")).to_be_focused()
    page.keyboard.type("mix")  # a list takes the letters of its entry
    expect(page.locator(".ge-card:visible h3")).to_have_text(["Gated linear units"])
    assert page.url == f"{base_url}{GALLERY}?family=mixing"


def test_nobody_notices_when_voila_moves_the_page(page: Page, base_url: str) -> None:
    """Its scripts come after the page and put it into a frame of their own, which costs the focus and the place."""
    held: list[Route] | None = []
    page.route("**/voila/static/**", lambda route: route.continue_() if held is None else held.append(route))
    open_gallery(page, base_url)
    search = page.get_by_label("Search")
    search.fill("moe")
    search.press("ArrowLeft")
    page.evaluate("scrollTo(0, 400)")
    assert page.evaluate("document.getElementById('rendered_cells').parentElement.tagName") == "BODY"
    waiting, held = held, None
    for route in waiting:
        route.continue_()
    page.wait_for_function("document.getElementById('rendered_cells').closest('#main')", timeout=PATIENCE)
    page.wait_for_function("document.getElementById('rendered_cells').scrollTop == 400")
    expect(search).to_be_focused()
    page.keyboard.type("x")
    assert search.input_value() == "moxe"


def test_nothing_found_says_what_to_do(page: Page, base_url: str) -> None:
    open_gallery(page, base_url, "q=zzzz&family=routing")
    assert cards(page) == []
    expect(page.get_by_text("Try fewer words")).to_be_visible()
    page.get_by_role("button", name="show all").press("Enter")
    assert len(cards(page)) >= 7
    expect(page.get_by_text("Try fewer words")).to_be_hidden()
    assert page.url == f"{base_url}{GALLERY}"
    expect(page.get_by_label("Search")).to_be_focused()


def test_a_wrong_link_opens_and_says_what_it_ignored(page: Page, base_url: str) -> None:
    open_gallery(page, base_url, "family=nothing&mechanism=%3Cimg%20src=x%20onerror=alert(1)%3E&theme=dark")
    notice = page.locator(".ge-notice")
    expect(notice).to_contain_text("family=nothing: choose one of routing")
    expect(notice).to_contain_text("mechanism is not a setting of the gallery")
    assert len(cards(page)) >= 7
    assert page.locator(".ge-gallery img").count() == 0


def test_a_verdict_is_a_word_with_its_numbers(page: Page, base_url: str) -> None:
    open_gallery(page, base_url, "q=renormalised")
    claim = page.locator(".ge-card:visible .ge-claims li", has_text="Later layers settle")
    expect(claim).to_contain_text("not seen at this scale")
    expect(claim).to_contain_text(re.compile(r"here\s*−0\.0\d+ from the control's \(−.* to −.*\); asked: at least 0"))
    claim.get_by_text("How it was tried").press("Enter")
    expect(claim.get_by_text("source")).to_be_visible()


def test_every_equation_is_drawn(page: Page, base_url: str) -> None:
    open_gallery(page, base_url)
    sizes = page.evaluate(
        "[...document.querySelectorAll('.ge-equation math')].map(m => [m.getBoundingClientRect().width, m.textContent])"
    )
    assert len(sizes) >= 7 and all(width > 30 for width, _ in sizes)
    assert not [text for _, text in sizes if "\\" in text]
    assert page.locator(".ge-equation code").count() == 0
    brace = page.locator(".ge-equation math mo", has_text="{").first.bounding_box()
    assert brace and brace["height"] > 25, "the brace of two cases is as tall as both"


@pytest.mark.parametrize("theme", ["light", "dark"])
@pytest.mark.parametrize("width", [390, 1280, 1920])
def test_it_fits_and_can_be_read(page: Page, base_url: str, width: int, theme: str) -> None:
    page.set_viewport_size({"width": width, "height": 900})
    open_gallery(page, base_url, f"theme={theme}")
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    right = page.evaluate(
        "Math.max(...[...document.querySelectorAll('.ge-card, .ge-door')].map(e => e.getBoundingClientRect().right))"
    )
    assert right <= width
    assert [pair for pair in page.evaluate(CONTRAST) if pair[1] < 4.5] == []
    lab = page.get_by_role("link", name="Open Switch routing in its lab").get_attribute("href")
    assert lab == "labs/routing.ipynb?mechanism=switch" + ("&theme=dark" if theme == "dark" else "")


# contrast of every text with what it stands on (WCAG 2.1, 1.4.3), by its first words
CONTRAST = """() => {
  const parse = (colour) => { const n = colour.match(/[\\d.]+/g).map(Number); return n.length < 4 ? [...n, 1] : n };
  const light = ([r, g, b]) => [r, g, b].map(c => c / 255).map(c => c <= 0.04045 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4)
    .reduce((sum, c, i) => sum + c * [0.2126, 0.7152, 0.0722][i], 0);
  const ground = (e) => {
    for (; e; e = e.parentElement) {
      const colour = parse(getComputedStyle(e).backgroundColor);
      if (colour[3] === 1) return colour;
    }
    return [255, 255, 255, 1];
  };
  const says = (e) => [...e.childNodes].some(n => n.nodeType === 3 && n.data.trim());
  const texts = [...document.querySelectorAll('.ge-gallery *')].filter(says);
  return texts.filter(e => e.tagName !== 'OPTION').map(e => {
    const [a, b] = [parse(getComputedStyle(e).color), ground(e)].map(light).sort((x, y) => y - x);
    return [e.textContent.slice(0, 30), (a + 0.05) / (b + 0.05)];
  });
}"""


def test_a_kernel_of_the_gallery_is_small(base_url: str, page: Page) -> None:
    """A machine of one gigabyte keeps its memory for the labs."""
    before = {process.pid for process in psutil.process_iter()}
    open_gallery(page, base_url)
    kernels = [p for p in psutil.process_iter() if p.pid not in before and "ipykernel" in " ".join(p.cmdline())]
    sizes = [kernel.memory_info().rss / 2**20 for kernel in kernels]
    print(f"kernel of the gallery: {sizes} MiB")
    assert sizes and max(sizes) < 120


@pytest.fixture
def behind_a_proxy() -> Iterator[str]:
    call = "serve(port=0, browser=False, base_url='/a/b', token='sesame')"
    serve = f"from explorer.serving import serve; raise SystemExit({call})"
    root = Path(__file__).resolve().parents[2]
    server = subprocess.Popen(
        [sys.executable, "-c", serve], stdout=subprocess.PIPE, text=True, env=environment(), cwd=root
    )
    try:
        assert server.stdout
        yield server.stdout.readline().split()[2]
    finally:
        server.terminate()
        server.wait(60)


def test_links_work_below_a_prefix_and_with_a_token(page: Page, behind_a_proxy: str) -> None:
    page.goto(behind_a_proxy + "&theme=dark", wait_until="commit")
    link = page.get_by_role("link", name="Watch routing collapse")
    expect(link).to_be_visible(timeout=PATIENCE)
    root = behind_a_proxy.partition("?")[0]
    assert link.evaluate("a => a.href") == f"{root}voila/render/labs/routing.ipynb?preset=collapse&theme=dark"
    assert page.evaluate("document.body.dataset.jpThemeLight") == "false"
    page.goto(f"{root}voila/tree")
    expect(page.get_by_role("link", name="index")).to_be_visible()
