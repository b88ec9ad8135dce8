"""Record what a lab's page shows until its live run is ready: HTML that Voila's template sends before the kernel starts.

A run of the lab's own defaults, drawn by a Chromium as pictures that need no script, in both themes. Run it when the
pictures of a lab have changed: python scripts/record_labs.py routing
"""

import importlib
import re
import sys
import tempfile
from pathlib import Path

from playwright.sync_api import sync_playwright

from explorer.serving import HERE as SERVING
from tests.browser.chromium import find_chromium
from widgets.export.standalone import standalone
from widgets.labs.frame import escape

RECORDED = SERVING / "share/voila/templates/gating-explorer/recorded"
STEPS = {"routing": 250, "attention": 1000}  # until there is something to see: a sink takes its time
SIZE = {"width": 560, "height": 320}
SOON = "A run recorded earlier ({stamp}). The live lab is on its way: in a few seconds its buttons are here."
# while it stands there, the cells are shown as they come, and nothing spins
STYLE = """
#loading { display: none !important; }
#rendered_cells { display: block !important; }
.ge-waiting { display: none; }
.ge-recorded { max-width: 1500px; margin: 0 auto; padding: 8px 12px; box-sizing: border-box; font-size: 14px;
  font-family: system-ui, sans-serif; color: var(--jp-ui-font-color0, INK); background: var(--jp-layout-color0, PAPER); }
.ge-recorded h1 { font-size: 1.7rem; margin: 0 0 2px; font-weight: 650; }
.ge-recorded p { margin: 0 0 8px; line-height: 1.45; }
.ge-recorded [role=status] { border: 1px dashed #888; border-radius: 8px; padding: 6px 12px; }
.ge-recorded > div { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(360px, 100%), 1fr)); gap: 14px; }
.ge-recorded figure { margin: 0; border: 1px solid #8886; border-radius: 10px; padding: 4px; min-width: 0; }
.ge-recorded svg { width: 100%; height: auto; }
"""
COLOURS = {"light": ("#1F2328", "#fff"), "dark": ("#E6EDF3", "#111")}
DRAWN = """async (size) => {
  const [Plotly] = await Promise.all(Object.values(globalThis.__gatingExplorerPlotly));
  const pictures = [];
  for (const plot of document.querySelectorAll(".js-plotly-plot")) {
    const url = await Plotly.toImage(plot, { format: "svg", ...size });
    pictures.push(decodeURIComponent(url.slice(url.indexOf(",") + 1)));
  }
  return pictures;
}"""


def record(name: str) -> None:
    """Train the lab's own first run, and write its pictures in both themes, each with its sentence."""
    module = importlib.import_module(f"widgets.labs.{name}")
    lab = module.LAB(module.LAB.STATE())
    for step in range(STEPS[name]):
        lab.runs.advance()
        if step % 20 == 0:
            lab.draw()
    lab.draw()
    RECORDED.mkdir(exist_ok=True)
    for theme in COLOURS:
        (RECORDED / f"{name}.{theme}.html").write_text(page(lab, theme), encoding="utf-8")


def page(lab: object, theme: str) -> str:
    """The piece of HTML that stands for a lab."""
    charts = [lab.charts[one] for one in lab.RECORDED]  # type: ignore[attr-defined]
    pictures = "\n".join(
        f'<figure role="img" aria-label="{escape(chart.label)}. {escape(chart.frame["summary"])}">{apart(svg, i)}</figure>'
        for i, (chart, svg) in enumerate(zip(charts, drawn(standalone("", charts, theme=theme)), strict=True))
    )
    style = STYLE.replace("INK", COLOURS[theme][0]).replace("PAPER", COLOURS[theme][1])
    head = f"<h1>{escape(lab.TITLE)}</h1>\n<p>{escape(lab.INTRODUCTION)}</p>"  # type: ignore[attr-defined]
    soon = f'<p role="status">{escape(SOON.format(stamp=lab.stamp()))}</p>'  # type: ignore[attr-defined]
    section = f'<section class="ge-recorded">\n{head}\n{soon}\n<div>\n{pictures}\n</div>\n</section>'
    content = f"<style>{style}</style>\n{section}\n"
    return f"{{% raw %}}{content}{{% endraw %}}\n"  # jinja includes it: nothing in it is for jinja


def apart(svg: str, number: int) -> str:
    """One of several drawings in a page: the names inside it are its own, and numbers have no more digits than show."""
    svg = re.sub(r"""(id="|url\((?:'|&quot;)?#|href="#)""", rf"\g<1>{number}-", svg)
    svg = re.sub(r"(\d+\.\d\d)\d+", r"\1", svg)
    return svg.replace("<svg ", '<svg aria-hidden="true" ', 1)


def drawn(page_text: str) -> list[str]:
    """The charts of a standalone page, as SVG."""
    chromium = find_chromium()
    with tempfile.TemporaryDirectory() as folder, sync_playwright() as playwright:
        path = Path(folder) / "page.html"
        path.write_text(page_text, encoding="utf-8")
        browser = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        page = browser.new_page(viewport={"width": 700, "height": 4000}, bypass_csp=True)
        page.goto(path.as_uri())
        count = page_text.count('class="view"')
        page.wait_for_function(f"document.querySelectorAll('.js-plotly-plot .main-svg').length >= {count}")
        page.wait_for_timeout(1000)
        pictures: list[str] = page.evaluate(DRAWN, SIZE)
        browser.close()
    return pictures


if __name__ == "__main__":
    for one in sys.argv[1:] or STEPS:
        record(one)
