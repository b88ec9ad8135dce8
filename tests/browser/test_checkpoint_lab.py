"""The checkpoint lab as a person uses it: read what the files say, trace, follow a token, compare, open one's own model."""

import re
from collections.abc import Iterator
from pathlib import Path

import axe_playwright_python
import pytest
from playwright.sync_api import Browser, Page, expect

from explorer import demo
from tests.browser.conftest import _watch, leave
from tests.browser.test_attention_lab import drawn, titles
from tests.browser.test_gallery import open_gallery
from tests.browser.test_routing_lab import PATIENCE, button

LAB = "voila/render/labs/checkpoint.ipynb"
AXE = next(Path(axe_playwright_python.__file__).parent.rglob("axe.min.js"))
TALL = {"width": 1280, "height": 9000}  # what is off the screen is not drawn
TRACED = re.compile(r"routed layers, .* read")
OF_A_TRACE = {
    "Load of every expert", "Spread of the load, layer by layer", "Specialisation, layer by layer", "Pairs that keep company",
}  # fmt: skip


def open_lab(page: Page, base_url: str, query: str = "") -> None:
    page.goto(f"{base_url}{LAB}?{query}")
    expect(page.get_by_text("layers with experts")).to_be_visible(timeout=PATIENCE)


def until(page: Page, condition, seconds: float = 60.0) -> None:
    for _ in range(int(seconds * 10)):
        if condition():
            return
        page.wait_for_timeout(100)
    raise AssertionError(f"waited {seconds} s in vain; the page shows {titles(page)}")


def trace(page: Page) -> None:
    button(page, "Trace").click()
    expect(page.get_by_text(TRACED)).to_be_visible(timeout=PATIENCE)
    expect(button(page, "Trace")).to_be_enabled(timeout=PATIENCE)


def unfold(page: Page, title: str) -> None:
    folded = page.get_by_role("button", name=f"▸ {title}")
    if folded.count():
        folded.first.click()


def complaints(page: Page) -> list[list[str]]:
    """What axe finds serious with every part unfolded, and whether the page is wider than its window."""
    for title in ("All routers", "Texts from files", "Save and share", "Show the code"):
        unfold(page, title)
    expect(page.get_by_text("explorer.open_checkpoint").first).to_be_visible(timeout=PATIENCE)
    page.evaluate(AXE.read_text())
    script = "async () => (await axe.run()).violations.map(v => [v.id, v.impact, v.nodes[0].html.slice(0, 200)])"
    found = [one for one in page.evaluate(script) if one[1] in ("serious", "critical")]
    wide = page.evaluate("document.documentElement.scrollWidth > innerWidth")
    return [*found, *([["wider than the window"]] if wide else [])]


@pytest.fixture(scope="module")
def lab(chromium: Browser, base_url: str) -> Iterator[Page]:
    """One page with the demo, for the tests in order of this file."""
    context = chromium.new_context(viewport=TALL)
    page = context.new_page()
    page.errors = _watch(page)  # type: ignore[attr-defined]
    open_lab(page, base_url)
    yield page
    assert page.errors == []  # type: ignore[attr-defined]
    leave(context)


@pytest.fixture(scope="module")
def random_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A Qwen3-MoE of random numbers, without a tokenizer."""
    torch, transformers = pytest.importorskip("torch"), pytest.importorskip("transformers")
    torch.manual_seed(0)
    config = transformers.Qwen3MoeConfig(
        vocab_size=96, hidden_size=32, intermediate_size=48, moe_intermediate_size=24, num_hidden_layers=3, head_dim=8,
        num_attention_heads=4, num_key_value_heads=2, num_experts=8, num_experts_per_tok=3, norm_topk_prob=True,
        max_position_embeddings=128,
    )  # fmt: skip
    folder = tmp_path_factory.mktemp("models") / "random-qwen3"
    transformers.Qwen3MoeForCausalLM(config).save_pretrained(folder)
    return folder


def test_the_demo_opens_with_what_its_files_say(lab: Page) -> None:
    expect(lab.get_by_text("OlmoeForCausalLM").first).to_be_visible()
    until(lab, lambda: "Length of each router row" in titles(lab))
    assert not OF_A_TRACE & set(titles(lab))
    expect(lab.get_by_label("text 1", exact=True)).to_have_value(demo.samples()["english"])


def test_a_trace_fills_the_pictures(lab: Page) -> None:
    trace(lab)
    until(lab, lambda: set(titles(lab)) >= OF_A_TRACE)
    for title in OF_A_TRACE:
        assert re.search(r"\d", drawn(lab, title)), title
    expect(lab.get_by_role("grid", name="Tokens coloured by expert").get_by_role("gridcell").first).to_be_visible()
    expect(
        lab.get_by_role("region", name=re.compile("Tokens of each expert")).get_by_role("row").nth(3)
    ).to_be_visible()


def test_a_token_leads_to_its_path_and_a_layer_to_its_pictures(lab: Page) -> None:
    lab.get_by_role("gridcell").nth(20).click()
    told = lab.get_by_role("status").filter(has_text=re.compile(r"in layer \d+: expert"))
    text = demo.samples()["english"]
    expect(told).to_contain_text(f"{text[14:20]}[{text[20]}]")
    until(lab, lambda: any(f"“{text[20] if text[20] != ' ' else '·'}”" in one for one in titles(lab)))
    lab.get_by_label("layer shown", exact=True).select_option(label="layer 0")
    until(lab, lambda: {"Company of experts, layer 0", "Likeness of the router's rows, layer 0"} <= set(titles(lab)))
    expect(told).to_contain_text("in layer 0: expert")


def test_it_is_compared_with_itself_early_in_its_training(lab: Page) -> None:
    unfold(lab, "Compare with another model")
    button(lab, "Compare").click()
    expect(lab.get_by_text("B makes")).to_be_visible(timeout=PATIENCE)
    until(lab, lambda: {"Choices that both make", "Models side by side"} <= set(titles(lab)))
    expect(lab.get_by_role("region", name="A and B, layer by layer").get_by_role("row")).to_have_count(5)


def test_the_page_is_saved_as_one_file(lab: Page, tmp_path: Path) -> None:
    unfold(lab, "Save and share")
    with lab.expect_download(timeout=PATIENCE) as download:
        button(lab, "Page as HTML").click()
    download.value.save_as(tmp_path / "page.html")
    text = (tmp_path / "page.html").read_text(encoding="utf-8")
    assert text.startswith("<!doctype html>") and text.count('<figure class="view"') > 5


def test_it_reads_well_on_a_screen(lab: Page, screenshots: Path) -> None:
    lab.set_viewport_size({"width": 1280, "height": 900})
    assert complaints(lab) == []
    lab.screenshot(path=screenshots / "checkpoint-1280.png")
    lab.set_viewport_size(TALL)


def test_a_wrong_path_is_said_in_a_sentence_and_one_of_ones_own_opens(lab: Page, random_model: Path) -> None:
    lab.get_by_label("open", exact=True).select_option(label="a folder or a file")
    lab.get_by_label("where", exact=True).first.fill("/no/such/model")
    button(lab, "Open").click()
    expect(lab.get_by_role("alert").filter(has_text="/no/such/model")).to_be_visible(timeout=PATIENCE)
    expect(lab.get_by_text("OlmoeForCausalLM").first).to_be_visible()
    lab.get_by_label("where", exact=True).first.fill(str(random_model))
    lab.get_by_label("where", exact=True).first.press("Enter")
    expect(lab.get_by_text("Qwen3MoeForCausalLM").first).to_be_visible(timeout=PATIENCE)
    expect(lab.get_by_text("No tokenizer lies beside this model")).to_be_visible()
    expect(lab.get_by_label("the boxes hold token ids")).to_be_checked()
    assert not OF_A_TRACE & set(titles(lab))
    trace(lab)
    until(lab, lambda: set(titles(lab)) >= OF_A_TRACE)
    lab.get_by_label("text 1", exact=True).fill("1 2 drei")
    button(lab, "Trace").click()
    expect(lab.get_by_role("alert").filter(has_text="'drei'")).to_be_visible(timeout=PATIENCE)


def test_the_gallery_leads_here(page: Page, base_url: str) -> None:
    open_gallery(page, base_url)
    page.get_by_role("navigation").get_by_role("link", name="Checkpoint lab").click()
    expect(page.get_by_role("heading", name="Checkpoint lab")).to_be_visible(timeout=PATIENCE)
    assert page.url == f"{base_url}{LAB}"


def test_it_reads_well_on_a_phone_in_the_dark(chromium: Browser, base_url: str, screenshots: Path) -> None:
    context = chromium.new_context(viewport={"width": 390, "height": 900}, reduced_motion="reduce")
    page = context.new_page()
    open_lab(page, base_url, "trace=1&window=64&attention=1&theme=dark")
    expect(page.get_by_text(TRACED)).to_be_visible(timeout=PATIENCE)
    page.screenshot(path=screenshots / "checkpoint-390.png")
    assert complaints(page) == []
    leave(context)
