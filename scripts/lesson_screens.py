"""Pictures of every lesson at its seed, for whoever teaches: what the class's screens should look like.

Opens each lesson as a student would, in a Chromium: predicts, presses every Run, waits, and takes a picture of the whole page
and one of each run. python scripts/lesson_screens.py [FOLDER] [--lessons 2,5] writes lesson2.png, lesson2-run1.png, ...
into instructor/screens, from where `gating-explorer class build` takes them.
"""

import argparse
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from playwright.sync_api import Browser, Error, Locator, Page, sync_playwright

ROOT = Path(__file__).resolve().parents[1]
BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
SERVE = "from explorer.serving import serve; raise SystemExit(serve(port=0, browser=False))"
ARGUMENTS = ["--no-sandbox", "--disable-gpu", "--disable-background-networking", "--no-first-run"]
SIZE = {"width": 1280, "height": 1000}
LONGEST = 12_000  # pixels of a picture; Chromium draws no higher ones
PATIENCE = 600_000  # ms for a run, also where others use the machine
MARGIN = 24  # pixels below the last cell
SETTLED = 3_000  # ms after which the last picture of a run has been drawn
BUTTON = re.compile("^(Run|Trace)$")  # of a run


def main(arguments: list[str]) -> int:
    """Write the pictures; the exit code is 1 if a lesson gave none."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", nargs="?", type=Path, default=ROOT / "instructor/screens")
    parser.add_argument("--lessons", default="", help="numbers with commas; without it all")
    given = parser.parse_args(arguments)
    wanted = {int(one) for one in given.lessons.split(",") if one}
    lessons = {int(path.name[0]): path for path in sorted((ROOT / "notebooks/lessons").glob("[0-9]_*.ipynb"))}
    given.folder.mkdir(parents=True, exist_ok=True)
    failed = 0
    with serving() as address, browser() as chromium:
        for number, path in lessons.items():
            if wanted and number not in wanted:
                continue
            try:
                made = shoot(chromium, f"{address}voila/render/lessons/{path.name}", given.folder / f"lesson{number}")
                print(f"lesson {number}: {made} pictures in {given.folder}", flush=True)
            except Error as error:
                failed += 1
                print(f"lesson {number}: {str(error).splitlines()[0]}", file=sys.stderr, flush=True)
    return int(failed > 0)


@contextmanager
def serving() -> Iterator[str]:
    """The address of the explorer; what is done on its pages is kept in a file that vanishes."""
    with tempfile.TemporaryDirectory() as folder:
        kept = {"GATING_EXPLORER_PROGRESS": f"{folder}/progress.sqlite", "GATING_EXPLORER_STUDENT": "Ada"}
        server = subprocess.Popen(
            [sys.executable, "-c", SERVE], stdout=subprocess.PIPE, text=True, cwd=ROOT, env=os.environ | kept
        )
        try:
            assert server.stdout
            found = re.search(r"http://\S+", line := server.stdout.readline())
            if found is None:
                raise SystemExit(f"the server did not start; it printed {line!r}")
            yield found[0]
        finally:
            server.terminate()
            server.wait(60)


@contextmanager
def browser() -> Iterator[Browser]:
    """$CHROMIUM, one on the PATH, or the one that Playwright downloaded."""
    with sync_playwright() as playwright:
        path = os.environ.get("CHROMIUM") or next((one for name in BROWSERS if (one := shutil.which(name))), None)
        chromium = playwright.chromium.launch(executable_path=path, args=ARGUMENTS)
        yield chromium
        chromium.close()


def shoot(chromium: Browser, address: str, name: Path) -> int:
    """Work through one lesson; returns how many pictures were written."""
    context = chromium.new_context(viewport=SIZE, device_scale_factor=1, reduced_motion="reduce")
    page = context.new_page()
    try:
        page.goto(address, timeout=PATIENCE)
        page.get_by_role("button", name="Check").last.wait_for(timeout=PATIENCE)  # the quiz is the last to come
        predict(page)
        runs = page.locator(".ge-lesson:has(> .ge-row)").filter(has=page.get_by_role("button", name=BUTTON))
        count = runs.count()
        for number in range(count):
            finish(page, runs.nth(number))
        height = whole(page)
        for number in range(count):
            runs.nth(number).screenshot(path=f"{name}-run{number + 1}.png")
        page.screenshot(path=f"{name}.png", clip={"x": 0, "y": 0, "width": SIZE["width"], "height": height})
        return count + 1
    finally:
        with suppress(Error):  # say goodbye, so that the kernel ends with the page
            page.evaluate("dispatchEvent(new Event('beforeunload'))")
            page.wait_for_timeout(100)
        context.close()


def predict(page: Page) -> None:
    """Store a prediction in every form that asks for one: the first choice, or 20."""
    for form in page.locator("form").filter(has=page.get_by_role("button", name="Store my prediction")).all():
        number = form.get_by_role("spinbutton")
        if number.count():
            number.fill("20")
        else:
            form.get_by_role("radio").first.check()
        form.get_by_role("button", name="Store my prediction").click()
        form.get_by_text("Your prediction is").wait_for(timeout=PATIENCE)


def finish(page: Page, run: Locator) -> None:
    """Press its button, and wait until the run has said what came."""
    button = run.get_by_role("button", name=BUTTON)
    button.scroll_into_view_if_needed()
    button.click(timeout=PATIENCE)
    run.get_by_text(re.compile("^Done")).wait_for(timeout=PATIENCE)
    page.wait_for_timeout(SETTLED)


def whole(page: Page) -> int:
    """Make the window as high as the page, since what is out of sight is not drawn; returns where its last cell ends."""
    page.set_viewport_size({"width": SIZE["width"], "height": LONGEST})
    page.wait_for_timeout(SETTLED)
    ends = "Math.max(...[...document.querySelectorAll('.jp-Cell')].map((one) => one.getBoundingClientRect().bottom))"
    return min(int(page.evaluate(ends)) + MARGIN, LONGEST)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
