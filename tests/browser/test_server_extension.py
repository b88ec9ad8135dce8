"""The pages inside a Jupyter server of somebody else's, below a prefix of its own: what a Binder or a JupyterHub opens."""

import os
import shutil
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Page, expect

from tests.browser.test_routing_lab import see_a_chart

ROOT = Path(__file__).resolve().parents[2]
LAB = "voila/render/notebooks/labs/routing.ipynb"
PATIENCE = 90_000  # milliseconds: a cold kernel on a busy machine


@pytest.fixture(scope="module")
def hub(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of `jupyter server` in the root of the clone, with the file that postBuild installs."""
    folder = tmp_path_factory.mktemp("jupyter")
    environment = {**os.environ, "JUPYTER_CONFIG_DIR": str(folder / "config"), "PYTHONPATH": str(ROOT)}
    environment |= {"JUPYTER_DATA_DIR": str(folder / "data"), "JUPYTER_PATH": ""}
    (folder / "config/jupyter_server_config.d").mkdir(parents=True)
    shutil.copy(ROOT / "binder/jupyter_server.json", folder / "config/jupyter_server_config.d/gating-explorer.json")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    options = [f"--ServerApp.port={port}", "--ServerApp.base_url=/user/abc/", "--IdentityProvider.token=sesame"]
    options += ["--ServerApp.open_browser=False", "--ServerApp.allow_root=True", f"--ServerApp.root_dir={ROOT}"]
    log = (folder / "log").open("w")
    server = subprocess.Popen(
        [sys.executable, "-m", "jupyter", "server", *options], env=environment, cwd=folder, stderr=log
    )
    address = f"http://127.0.0.1:{port}/user/abc/"
    try:
        _wait_for(f"{address}api", server)
        yield address
    finally:
        server.terminate()
        server.wait(30)
        log.close()
        print((folder / "log").read_text())


def _wait_for(address: str, server: "subprocess.Popen[bytes]") -> None:
    for _ in range(300):
        try:
            urllib.request.urlopen(address, timeout=5).close()
        except OSError:
            assert server.poll() is None, "the server ended"
            time.sleep(0.1)
        else:
            return
    raise AssertionError(f"{address} does not answer")


def test_a_lab_trains_and_draws(page: Page, hub: str) -> None:
    asked: list[str] = []
    page.on("request", lambda request: asked.append(request.url))
    page.goto(f"{hub}{LAB}?seed=5&token=sesame")
    train = page.get_by_role("button", name="Train", exact=True)
    expect(train).to_be_enabled(timeout=PATIENCE)
    expect(page.get_by_label("seed")).to_have_value("5")
    see_a_chart(page)
    train.click()
    page.wait_for_function("Number(document.querySelector('.ge-status b').textContent) >= 5", timeout=PATIENCE)
    page.get_by_role("button", name="Pause", exact=True).click()
    expect(train).to_be_enabled(timeout=PATIENCE)
    # the bundle came from this server, below its prefix, and nothing from anybody else's
    assert [url for url in asked if "plotly.min.js" in url and url.startswith(f"{hub}voila/plotly/")]
    assert [url for url in asked if url.startswith("http") and not url.startswith(hub)] == []
    assert "Part of the link was not used" not in page.inner_text("body")
    assert page.errors == []  # type: ignore[attr-defined]


def test_files_beside_the_pages_are_not_served(page: Page, hub: str) -> None:
    """voila.json is in force, not Voila's defaults."""
    page.goto(f"{hub}api?token=sesame")
    for path in ("notebooks/labs/routing.ipynb", "pyproject.toml", "explorer/serving/server.py"):
        assert page.request.get(f"{hub}voila/files/{path}").status == 403


def test_the_list_of_pages_opens(page: Page, hub: str) -> None:
    page.goto(f"{hub}voila/tree/notebooks?token=sesame")
    expect(page.get_by_role("heading", name="Gating explorer")).to_be_visible()
    page.get_by_role("link", name="labs").click()
    expect(page.get_by_role("link", name="routing", exact=True)).to_have_attribute("href", f"/user/abc/{LAB}")
