"""Install the wheel in an empty environment, start it from an unrelated folder, and fetch every page."""

import os
import re
import signal
import subprocess
import sys
import tempfile
import urllib.request
import venv
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        check(Path(folder))


def check(folder: Path) -> None:
    subprocess.run(
        [sys.executable, "-m", "build", "--no-isolation", "--wheel", "--outdir", folder, ROOT], check=True, stdout=-3
    )
    wheel = next(folder.glob("*.whl"))
    print(f"{wheel.name}: {wheel.stat().st_size / 1024:.0f} KiB", flush=True)
    venv.create(folder / "empty", with_pip=True)
    python = folder / "empty/bin/python"
    subprocess.run([ROOT / "scripts/install_torch", folder / "empty"], cwd=ROOT, check=True)
    pip = [
        python,
        "-m",
        "pip",
        "install",
        "--disable-pip-version-check",
        "--no-compile",
        "-qq",
        "-c",
        ROOT / "constraints.txt",
    ]
    subprocess.run([*pip, wheel], check=True)
    fetch_pages(folder, folder / "empty/bin/gating-explorer")


def fetch_pages(folder: Path, command: Path) -> None:
    clean = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    server = subprocess.Popen(
        [command, "serve", "--port", "0", "--no-browser"], cwd=folder, env=clean, stdout=subprocess.PIPE, text=True
    )
    try:
        assert server.stdout
        address = re.search(r"http://localhost:\d+/", line := server.stdout.readline())
        assert address, f"it printed {line!r}"
        pages = re.findall(r'href="/(voila/render/[^"]+)"', fetch(address[0]))
        assert pages, "the list of pages is empty"
        for page in pages:
            html = fetch(address[0] + page)
            assert "There was an error" not in html, f"{page} raised"
            print(f"{page}: {len(html) / 1024:.0f} KiB", flush=True)
    finally:
        server.send_signal(signal.SIGINT)
        code = server.wait(30)
    assert code == 0, f"after Ctrl-C it ended with {code}"


def fetch(address: str) -> str:
    with urllib.request.urlopen(address, timeout=120) as answer:
        return str(answer.read().decode())


if __name__ == "__main__":
    main()
