"""What leaves and enters a page, as a person does it: saved pictures and tables, links, own texts, pages of their own."""

import base64
import io
import re
import struct
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import nbformat
import numpy as np
import pytest
from playwright.sync_api import Browser, Page, expect

from widgets.export.standalone import Heading, Prose, RawHtml, standalone
from widgets.figures import load_map, load_over_steps
from widgets.views import Chart, DecisionMap, TokenStrip

STAMP = "topk-softmax · text · seed 0 · step 320 · torch 2.13.0 · cpu · kernel dense"
SERVE = (
    "import sys; from explorer.serving import serve; raise SystemExit(serve(port=0, browser=False, pages=sys.argv[1]))"
)
PATIENCE = 60_000
CELL = """
import ipywidgets as W, numpy as np
from explorer.errors import BadValue
from widgets.figures import load_map, load_over_steps
from widgets.views import *
rng = np.random.default_rng(0)
load = rng.dirichlet(np.ones(8) * 20, 320).astype("f4")
chart = Chart(load_over_steps.as_dict(np.arange(320), load, title="Load of each expert, layer 0"), label="Load of each expert")
heat = Chart(load_map.as_dict(rng.uniform(0, 2, (4, 8)), [f"layer {i}" for i in range(4)], step=319), label="Utilisation")
strip, plane = TokenStrip(), DecisionMap(label="Which expert takes each point")
experts = rng.integers(0, 8, (2, 2, 12, 2))
strip.show([list("=1+1 <b>&\\n a")] * 2, experts, rng.random((2, 2, 12, 2)), rng.random((2, 2, 12)), n_experts=8)
plane.show([[0, 1], [2, 1]], np.ones((2, 2)), rng.normal(size=(50, 2)), rng.integers(0, 3, 50), (-2, 2, -1, 1), n_experts=3)
for view in (chart, heat, strip, plane):
    view.stamp = STAMP
courier, own, said = Courier(), OwnText(most_bytes=20_000), W.HTML()
report = lambda name: lambda _: setattr(said, "value", f"<p id=said>{name} {courier.copied.get('ok')} {strip.selected}</p>")
courier.observe(report("copied"), names=["copied"])
strip.observe(report("selected"), names=["selected"])
def use(texts):
    if any("refuse me" in text for _, text in texts):
        raise BadValue("this text is <refused>")
    said.value = "<p id=said>" + ";".join(f"{name}={len(text)}" for name, text in texts) + "</p>"
own.on_texts(use)
def button(text, action):
    one = W.Button(description=text)
    one.on_click(lambda _: action())
    return one
buttons = W.HBox([
    button("Copy link", lambda: courier.copy_link("seed=3&k=2")),
    button("Get file", lambda: courier.download("../ru\\u202en.csv", b"a,b\\r\\n", "text/csv")),
    button("Large", lambda: page.add_class("ge-large")),
    button("Later", lambda: setattr(chart, "stamp", "step 321")),
])
page = W.VBox([buttons, said, courier, chart, heat, strip, plane, own]).add_class("ge-page")
page
"""


@pytest.fixture(scope="module")
def address(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A small page of our own, served as the labs are."""
    folder = tmp_path_factory.mktemp("pages")
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(f"STAMP = {STAMP!r}\n{CELL}")])
    notebook.metadata.kernelspec = {"name": "python3", "display_name": "Python 3", "language": "python"}
    nbformat.write(notebook, folder / "views.ipynb")
    server = subprocess.Popen([sys.executable, "-c", SERVE, str(folder)], stdout=subprocess.PIPE, text=True)
    try:
        assert server.stdout
        found = re.search(r"http://\S+", line := server.stdout.readline())
        assert found, f"the server did not start; it printed {line!r}"
        yield f"{found[0]}voila/render/views.ipynb"
    finally:
        server.terminate()
        server.wait(60)


@pytest.fixture(scope="module")
def lab(chromium: Browser, address: str) -> Iterator[Page]:
    """The page, opened once: every test leaves it as it found it."""
    context = chromium.new_context(viewport={"width": 900, "height": 900}, accept_downloads=True)
    context.grant_permissions(["clipboard-read", "clipboard-write"])
    page = context.new_page()
    page.errors = errors = []  # type: ignore[attr-defined]
    page.on("console", lambda message: message.type == "error" and errors.append(message.text))
    page.on("pageerror", lambda error: errors.append(str(error)))
    page.goto(f"{address}?theme=light&token=secret&junk=1")
    expect(save_button(page, "Which expert takes each point")).to_be_visible(timeout=PATIENCE)
    drawn(page, 2)
    yield page
    context.close()


def save_button(page: Page, name: str):
    return page.get_by_role("button", name=f"Save {name}", exact=True)


def drawn(page: Page, charts: int) -> None:
    # not wait_for_function: it evaluates text, which the policy of a page of its own forbids
    expect(page.locator(".js-plotly-plot .gtitle").nth(charts - 1)).to_be_visible(timeout=PATIENCE)


def saved(page: Page, view: str, kind: str) -> tuple[str, bytes]:
    """(name, content) of the file that the menu makes."""
    save_button(page, view).click()
    with page.expect_download(timeout=PATIENCE) as download:
        page.get_by_role("menuitem", name=kind).click()
    return download.value.suggested_filename, Path(download.value.path()).read_bytes()


def said(page: Page):
    return page.locator("#said")


def box(page: Page, selector: str) -> dict[str, float]:
    found = page.locator(selector).first.bounding_box()
    assert found, selector
    return found


def overlap(a: dict[str, float], b: dict[str, float]) -> bool:
    across = min(a["x"] + a["width"], b["x"] + b["width"]) - max(a["x"], b["x"])
    down = min(a["y"] + a["height"], b["y"] + b["height"]) - max(a["y"], b["y"])
    return across > 0.5 and down > 0.5


# -- the Save menu ---------------------------------------------------------------------------------------------------


def test_a_chart_is_saved_in_four_ways(lab: Page) -> None:
    name, png = saved(lab, "Load of each expert", "PNG")
    width, height = struct.unpack(">II", png[16:24])
    assert name == "load-of-each-expert.png" and png[:8] == b"\x89PNG\r\n\x1a\n" and len(png) > 10_000
    shown = box(lab, ".js-plotly-plot .main-svg")
    assert width == pytest.approx(2 * shown["width"], abs=2) and height > 2 * shown["height"] + 30

    name, svg = saved(lab, "Load of each expert", "SVG")
    assert name == "load-of-each-expert.svg" and STAMP in svg.decode() and svg.count(b'class="trace scatter') == 8

    name, csv = saved(lab, "Load of each expert", "CSV")
    lines = csv.decode().splitlines()
    assert name == "load-of-each-expert.csv" and lines[:2] == [f"# {STAMP}", "trace,x,y"] and len(lines) == 2 + 8 * 320

    pq = pytest.importorskip("pyarrow.parquet")
    name, parquet = saved(lab, "Load of each expert", "Parquet")
    table = pq.read_table(io.BytesIO(parquet))
    assert name == "load-of-each-expert.parquet" and table.num_rows == 8 * 320
    assert table.schema.metadata[b"stamp"].decode() == STAMP
    assert lab.errors == []  # type: ignore[attr-defined]


def test_the_strip_and_the_map_are_saved(lab: Page) -> None:
    name, csv = saved(lab, "Tokens coloured by expert", "CSV")
    rows = csv.decode().splitlines()
    assert name == "tokens-coloured-by-expert.csv" and rows[2].startswith("'=,0,,0,layer 0,0,")
    name, png = saved(lab, "Which expert takes each point", "PNG")
    assert png[:8] == b"\x89PNG\r\n\x1a\n" and len(png) > 5000
    name, csv = saved(lab, "Which expert takes each point", "CSV")
    assert csv.decode().splitlines()[2:4] == ["place,-1.0,0.5,0,1.0,", "place,1.0,0.5,1,1.0,"]


def test_a_picture_carries_the_stamp_of_the_moment(lab: Page) -> None:
    lab.get_by_role("button", name="Later").click()
    assert "step 321" in saved(lab, "Load of each expert", "SVG")[1].decode()


def test_the_menu_works_by_keyboard(lab: Page) -> None:
    opener = save_button(lab, "Utilisation")
    opener.focus()
    lab.keyboard.press("Enter")
    focused = lab.locator("*:focus")
    expect(focused).to_have_text("PNG picture")
    lab.keyboard.press("ArrowUp")
    expect(focused).to_have_text("Parquet table")
    lab.keyboard.press("ArrowDown")
    lab.keyboard.press("ArrowDown")
    expect(focused).to_have_text("SVG drawing")
    lab.keyboard.press("Escape")
    expect(focused).to_have_accessible_name("Save Utilisation")
    expect(opener).to_have_attribute("aria-expanded", "false")
    lab.keyboard.press("ArrowDown")
    expect(lab.get_by_role("menu")).to_be_visible()
    lab.keyboard.press("Tab")
    expect(lab.get_by_role("menu")).to_have_count(0)


@pytest.mark.parametrize("width", [330, 900])
def test_the_button_covers_nothing_and_is_not_printed(lab: Page, width: int) -> None:
    lab.set_viewport_size({"width": width, "height": 900})
    lab.wait_for_timeout(1500)
    for i in range(2):
        button = lab.locator(".ge-view .ge-save-open").nth(i).bounding_box()
        assert button and button["height"] >= 24
        for part in (".gtitle", ".nsewdrag", ".annotation"):
            for found in lab.locator(".js-plotly-plot").nth(i).locator(part).all():
                assert not overlap(button, found.bounding_box()), (i, part)
    assert lab.evaluate("document.documentElement.scrollWidth") <= width
    lab.emulate_media(media="print")
    expect(save_button(lab, "Utilisation")).to_be_hidden()
    lab.emulate_media(media="screen")
    lab.set_viewport_size({"width": 900, "height": 900})


def test_no_button_of_a_chart_sends_it_anywhere(lab: Page) -> None:
    lab.locator(".js-plotly-plot").first.hover()
    assert lab.locator(".modebar-btn").count() == 0


def test_a_chart_is_one_picture_with_a_text(lab: Page) -> None:
    expect(lab.get_by_role("img", name=re.compile("^Load of each expert. Load of each"))).to_have_count(1)
    expect(lab.locator(".js-plotly-plot .main-svg[role=img]")).to_have_count(2)


def test_nothing_is_built_before_the_menu_is_opened(lab: Page) -> None:
    assert lab.locator(".ge-save-menu").count() == 0


# -- by keyboard, and larger -----------------------------------------------------------------------------------------


def test_a_token_is_chosen_by_click_and_by_keys(lab: Page) -> None:
    lab.get_by_role("gridcell").nth(2).click()
    expect(said(lab)).to_contain_text("'layer': 0, 'sequence': 0, 'position': 2")
    lab.keyboard.press("ArrowRight")
    lab.keyboard.press("ArrowDown")
    lab.keyboard.press("Enter")
    expect(said(lab)).to_contain_text("'layer': 0, 'sequence': 1, 'position': 3")
    expect(lab.get_by_role("gridcell", selected=True)).to_have_count(1)
    assert lab.evaluate("getComputedStyle(document.activeElement).outlineStyle") == "solid"


def test_the_map_tells_places_by_arrow_keys(lab: Page) -> None:
    canvas = lab.get_by_role("application")
    canvas.focus()
    lab.keyboard.press("ArrowLeft")
    lab.keyboard.press("ArrowUp")
    expect(lab.locator(".ge-map > .ge-unseen")).to_have_text("x −1.00, y 0.50: expert 0")
    lab.keyboard.press("ArrowDown")
    expect(lab.locator(".ge-map-readout")).to_have_text("x −1.00, y −0.50: expert 2")
    lab.keyboard.press("Escape")
    expect(lab.locator(".ge-map-readout")).to_have_text("")


def test_a_large_page_has_larger_letters_everywhere(lab: Page) -> None:
    sizes = """() => [".gtitle", ".xtick text", ".ge-strip .t", ".ge-map-legend", ".ge-save-open"].map(
        (one) => parseFloat(getComputedStyle(document.querySelector(one)).fontSize))"""
    lab.set_viewport_size({"width": 900, "height": 3000})  # what is off the screen is not drawn
    lab.wait_for_timeout(500)
    before = lab.evaluate(sizes)
    lab.get_by_role("button", name="Large").click()
    lab.wait_for_function(
        "parseFloat(getComputedStyle(document.querySelector('.gtitle')).fontSize) > 17", timeout=10_000
    )
    lab.wait_for_timeout(1200)
    ratios = [after / first for after, first in zip(lab.evaluate(sizes), before, strict=True)]
    assert ratios == pytest.approx([1.35] * 5, abs=0.06)
    lab.evaluate("document.querySelector('.ge-page').classList.remove('ge-large')")
    lab.wait_for_function(
        "parseFloat(getComputedStyle(document.querySelector('.gtitle')).fontSize) < 16", timeout=10_000
    )
    lab.set_viewport_size({"width": 900, "height": 900})


# -- links and files -------------------------------------------------------------------------------------------------


def test_a_link_is_copied_with_the_theme_and_without_secrets(lab: Page) -> None:
    lab.get_by_role("button", name="Copy link").click()
    expect(said(lab)).to_contain_text("copied True")
    link = lab.evaluate("navigator.clipboard.readText()")
    assert link == f"{lab.url.split('?')[0]}?seed=3&k=2&theme=light"


def test_a_refused_clipboard_is_told(lab: Page) -> None:
    lab.evaluate("""() => { navigator.clipboard.writeText = () => Promise.reject(new Error("no"));
        window.command = document.execCommand; document.execCommand = () => false; }""")
    lab.get_by_role("button", name="Copy link").click()
    expect(said(lab)).to_contain_text("copied False")
    lab.evaluate("() => { delete navigator.clipboard.writeText; document.execCommand = window.command; }")


def test_a_file_comes_with_a_harmless_name(lab: Page) -> None:
    with lab.expect_download() as download:
        lab.get_by_role("button", name="Get file").click()
    assert download.value.suggested_filename == "ru-n.csv"
    assert Path(download.value.path()).read_bytes() == b"a,b\r\n"


# -- own texts -------------------------------------------------------------------------------------------------------

WORDS = "the cat sat on the mat. " * 20


def paste(page: Page, length: int) -> float:
    """Pastes so many letters; returns the seconds until the page answers again."""
    script = """(length) => { const data = new DataTransfer(); data.setData("text/plain", "x".repeat(length));
        const area = document.querySelector(".ge-own textarea"); area.focus();
        area.dispatchEvent(new ClipboardEvent("paste", { clipboardData: data, bubbles: true, cancelable: true })); }"""
    began = time.monotonic()
    page.evaluate(script, length)
    page.evaluate("new Promise((done) => requestAnimationFrame(done))")
    return time.monotonic() - began


def upload(page: Page, *files: tuple[str, bytes]) -> None:
    one = [{"name": name, "mimeType": "text/plain", "buffer": content} for name, content in files]
    page.get_by_label("Or choose text files").set_input_files(one)


def test_ten_megabytes_are_refused_at_once(lab: Page) -> None:
    alarm = lab.locator(".ge-own-alert")
    assert paste(lab, 10_000_000) < 2
    expect(alarm).to_have_text("The pasted text has 10,000,000 bytes; at most 20,000 can be used.")
    assert lab.get_by_label("Paste a text").input_value() == ""
    upload(lab, ("big.txt", b"x" * 10_000_000))
    expect(alarm).to_have_text("big.txt has 10,000,000 bytes; at most 20,000 can be used.")
    lab.get_by_label("Paste a text").fill("y" * 3_000_000)
    expect(alarm).to_have_text("The pasted text has 3,000,000 bytes; at most 20,000 can be used.")
    assert lab.get_by_role("button", name=re.compile("^Remove ")).count() == 0


def test_files_that_are_no_text_are_refused(lab: Page) -> None:
    alarm = lab.locator(".ge-own-alert")
    upload(lab, ("a.png", b"\x89PNG\0" * 50))
    expect(alarm).to_have_text("a.png is not a text file: it holds NUL bytes.")
    upload(lab, ("latin.txt", "ä".encode("latin-1") * 200))
    expect(alarm).to_have_text("latin.txt is not a text file: it is not UTF-8.")
    upload(lab, ("short.txt", b"short"))
    expect(alarm).to_have_text("short.txt has 5 bytes; a text needs at least 130.")
    upload(lab, *[(f"{i}.txt", WORDS.encode()) for i in range(9)])
    expect(alarm).to_have_text("8.txt is one too many: at most 8 texts can be used.")
    for _ in range(8):
        lab.get_by_role("button", name=re.compile("^Remove ")).first.click()
    lab.get_by_role("button", name="Use this text").click()
    expect(alarm).to_have_text("Paste a text or choose a file first.")


def test_texts_are_listed_removed_and_used(lab: Page) -> None:
    upload(lab, ("<i>one</i>.md", WORDS.encode()), ("two.txt", WORDS.encode() * 2))
    lab.get_by_label("Paste a text").fill(WORDS + "refuse me")
    rows = lab.locator(".ge-own li")
    expect(rows).to_have_text(["<i>one</i>.md480 bytesRemove", "two.txt960 bytesRemove", "pasted text489 bytesRemove"])
    lab.get_by_role("button", name="Use this text").click()
    expect(lab.locator(".ge-own-alert")).to_have_text("this text is <refused>.")
    lab.get_by_role("button", name="Remove pasted text").click()
    lab.get_by_role("button", name="Remove two.txt").click()
    lab.get_by_label("Paste a text").fill(WORDS)
    lab.get_by_role("button", name="Use this text").click()
    expect(lab.locator(".ge-own").get_by_role("status")).to_have_text("In use: 2 texts, 960 bytes")
    expect(lab.locator(".ge-own-alert")).to_have_text("")
    assert "pasted text=480" in said(lab).inner_text()
    assert lab.errors == []  # type: ignore[attr-defined]


# -- a page of its own, from a file ----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    rng = np.random.default_rng(0)
    load = Chart(load_over_steps.as_dict(np.arange(50), rng.dirichlet(np.ones(6), 50).astype("f4")), label="Load")
    heat = Chart(load_map.as_dict(rng.uniform(0, 2, (2, 4)), ["layer 0", "layer 1"]), label="Utilisation")
    strip, plane = TokenStrip(), DecisionMap(label="Plane")
    strip.show([list("</script>")], rng.integers(0, 4, (2, 1, 9, 2)), rng.random((2, 1, 9, 2)), n_experts=4)
    plane.show([[0, 1]], [[1, 1]], [[0.5, -0.5]], [0], (-2, 2, -1, 1))
    for view in (load, heat, strip, plane):
        view.stamp = STAMP
    hostile = RawHtml("<p onclick='1'>raw</p><script>window.hacked = 1</script>")
    parts = [Heading("What happened"), Prose("<img src=x onerror='window.hacked=2'>"), load, heat, strip, plane]
    folder = tmp_path_factory.mktemp("standalone")
    (folder / "page.html").write_text(standalone("A <run>", parts, STAMP), encoding="utf-8")
    (folder / "hostile.html").write_text(standalone("A run", [hostile, strip], STAMP), encoding="utf-8")
    return folder / "page.html"


def test_a_page_of_its_own_works_from_a_file_without_any_request(page: Page, file: Path) -> None:
    requests: list[str] = []
    page.on("request", lambda request: requests.append(request.url))
    page.goto(file.as_uri())
    drawn(page, 2)
    expect(page.get_by_role("heading", name="A <run>")).to_be_visible()
    assert page.locator(".js-plotly-plot .scatterlayer .js-line").count() == 6
    assert page.locator(".js-plotly-plot .heatmaplayer image").count() == 1
    expect(page.get_by_role("gridcell")).to_have_count(18)
    page.get_by_role("button", name="layer 1", exact=True).click()
    expect(page.get_by_role("gridcell")).to_have_count(9)
    page.get_by_role("gridcell").first.hover()
    expect(page.get_by_role("tooltip")).to_contain_text("layer 1 · position 0")
    page.locator(".js-plotly-plot .nsewdrag").first.hover()
    page.wait_for_function(
        "document.querySelector('.hoverlayer .legend') || document.querySelector('.hoverlayer .hovertext')"
    )
    assert STAMP in saved(page, "Load", "SVG")[1].decode()
    assert saved(page, "Load", "PNG")[1][:4] == b"\x89PNG"
    assert saved(page, "Plane", "PNG")[1][:4] == b"\x89PNG"
    assert saved(page, "Tokens coloured by expert", "CSV")[1].decode().startswith(f"# {STAMP}\ntoken,")
    assert page.get_by_role("menuitem", name="Parquet").count() == 0
    assert page.evaluate("window.hacked") is None
    assert [url for url in requests if not url.startswith(("file://", "blob:", "data:"))] == []
    assert [url for url in requests if url.startswith("file://")] == [file.as_uri()]
    assert page.errors == []  # type: ignore[attr-defined]


def test_the_theme_of_a_page_of_its_own_is_switched(page: Page, file: Path) -> None:
    page.goto(file.as_uri())
    drawn(page, 2)
    title = page.locator(".gtitle").first
    expect(title).to_have_css("fill", "rgb(31, 35, 40)")
    page.get_by_role("button", name="Dark theme").click()
    expect(title).to_have_css("fill", "rgb(230, 237, 243)", timeout=PATIENCE)
    expect(page.locator("body")).to_have_css("background-color", "rgb(17, 17, 17)")
    page.get_by_role("button", name="Light theme").click()
    expect(title).to_have_css("fill", "rgb(31, 35, 40)", timeout=PATIENCE)


def test_the_policy_stops_scripts_and_requests(page: Page, file: Path) -> None:
    page.goto(file.with_name("hostile.html").as_uri())
    expect(page.get_by_role("gridcell")).to_have_count(18)
    assert page.evaluate("window.hacked") is None
    tried = """async () => {
        const stopped = []; addEventListener("securitypolicyviolation", (event) => stopped.push(event.effectiveDirective));
        await fetch("https://example.org/").catch(() => {});
        const picture = new Image(); picture.src = "https://example.org/x.png";
        await new Promise((done) => setTimeout(done, 300)); return stopped.sort() }"""
    assert page.evaluate(tried) == ["connect-src", "img-src"]


def test_a_picture_s_data_is_what_was_shown(page: Page, file: Path) -> None:
    page.goto(file.as_uri())
    drawn(page, 2)
    svg = saved(page, "Utilisation", "SVG")[1].decode()
    image = re.search(r'href="data:image/png;base64,([^"]+)"', svg)
    assert image and base64.b64decode(image[1])[:4] == b"\x89PNG"
