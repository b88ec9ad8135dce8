"""Find a Chromium that runs: $CHROMIUM, one on the PATH, or the one that Playwright downloaded. Prints its path."""

import os
import shutil
import subprocess
import sys

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")


def find_chromium() -> str | None:
    """The path of the first browser that answers when asked for its version."""
    given = [os.environ["CHROMIUM"]] if os.environ.get("CHROMIUM") else [*NAMES, _of_playwright()]
    return next((path for name in given if name and (path := shutil.which(name)) and _runs(path)), None)


def _of_playwright() -> str | None:
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        return playwright.chromium.executable_path


def _runs(path: str) -> bool:
    """Ubuntu's `chromium-browser` may be a pointer to a snap that is not there."""
    try:
        return subprocess.run([path, "--version"], capture_output=True, timeout=30).returncode == 0
    except (OSError, subprocess.TimeoutExpired):
        return False


if __name__ == "__main__":
    found = find_chromium()
    if found is None:
        sys.exit(f"no Chromium: none of $CHROMIUM, {', '.join(NAMES)} and Playwright's own runs")
    print(found)
