"""What a server on a hub does besides: its user's copies of the pages, and sockets for that user alone."""

import json
import logging
import os
from pathlib import Path
from types import SimpleNamespace

import pytest

from explorer.serving import on_hub
from explorer.serving.extension import configuration
from explorer.serving.on_hub import Copied, copy_pages
from widgets.states import links
from widgets.views.courier import _addresses


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """A folder of pages with what must not be copied beside them."""
    folder = tmp_path / "source"
    for name in ("index.ipynb", "labs/routing.ipynb", "labs/routing.py", "labs/.ipynb_checkpoints/routing.ipynb"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(f"first {name}")
    return folder


def pages_in(folder: Path) -> dict[str, str]:
    return {path.relative_to(folder).as_posix(): path.read_text() for path in folder.rglob("*.*") if path.is_file()}


def test_pages_are_copied_once(source: Path, tmp_path: Path) -> None:
    assert copy_pages(source, tmp_path / "home/notebooks") == Copied(new=2)
    copies = pages_in(tmp_path / "home/notebooks")
    assert set(json.loads(copies.pop(on_hub.RECORD))) == set(copies) == {"index.ipynb", "labs/routing.ipynb"}
    assert copies["labs/routing.ipynb"] == "first labs/routing.ipynb"
    assert copy_pages(source, tmp_path / "home/notebooks") == Copied()


def test_a_newer_page_replaces_a_copy_but_never_a_changed_one(source: Path, tmp_path: Path) -> None:
    home = tmp_path / "notebooks"
    copy_pages(source, home)
    (home / "index.ipynb").write_text("an answer of the student")
    for name in ("index.ipynb", "labs/routing.ipynb"):
        (source / name).write_text("second")
    for _ in range(2):  # the second time, the changed page must not have become one of ours
        copied = copy_pages(source, home)
        assert copied.kept == 1
        assert (home / "index.ipynb").read_text() == "an answer of the student"
        assert (home / "labs/routing.ipynb").read_text() == "second"
    assert copied.renewed == 0


def test_a_deleted_page_comes_back(source: Path, tmp_path: Path) -> None:
    copy_pages(source, tmp_path / "notebooks")
    (tmp_path / "notebooks/index.ipynb").write_text("broken by the student")
    (tmp_path / "notebooks/index.ipynb").unlink()
    assert copy_pages(source, tmp_path / "notebooks") == Copied(new=1)


@pytest.mark.parametrize("spoilt", ["", "[]", "{", '{"index.ipynb": 7}', "\x00"])
def test_a_spoilt_record_costs_no_work(source: Path, tmp_path: Path, spoilt: str) -> None:
    home = tmp_path / "notebooks"
    home.mkdir()
    (home / on_hub.RECORD).write_text(spoilt)
    (home / "index.ipynb").write_text("the student's own")
    assert copy_pages(source, home) == Copied(new=1, kept=1)
    assert (home / "index.ipynb").read_text() == "the student's own"


def test_the_folder_of_the_pages_itself_is_left_alone(source: Path) -> None:
    before = pages_in(source)
    assert copy_pages(source, source) == Copied()
    assert pages_in(source) == before


class Server:
    """As much of a Jupyter server as is looked at."""

    def __init__(self, root: Path) -> None:
        self.root_dir, self.log, self.kernel_manager = (
            str(root),
            logging.getLogger("server"),
            SimpleNamespace(connection_dir=""),
        )


@pytest.fixture
def on_a_hub(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("JUPYTERHUB_SERVICE_PREFIX", "/user/ada/")


@pytest.mark.usefixtures("on_a_hub")
def test_a_home_that_cannot_be_written_does_not_stop_the_server(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "notebooks").write_text("a file where the folder should be")
    monkeypatch.setenv(on_hub.PAGES, "notebooks")
    on_hub.begin(Server(tmp_path))
    assert "the pages could not be copied into 'notebooks'" in caplog.text
    assert str(tmp_path) not in caplog.text


@pytest.mark.usefixtures("on_a_hub")
def test_without_the_setting_nothing_is_copied(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A Binder is a hub too, and has the pages already."""
    monkeypatch.delenv(on_hub.PAGES, raising=False)
    on_hub.begin(Server(tmp_path))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.usefixtures("on_a_hub")
def test_sockets_lie_in_a_folder_of_their_own(tmp_path: Path) -> None:
    on_hub.begin(server := Server(tmp_path))
    folder = Path(server.kernel_manager.connection_dir)
    assert folder.stat().st_mode & 0o777 == 0o700
    # jupyter_client appends this to the folder; a unix socket's name may have 103 bytes on every system
    assert len(os.fsencode(folder)) + len("/kernel-01234567-89ab-cdef-0123-456789abcdef-ipc-65535") <= 103
    assert on_hub.settings() == {"KernelManager": {"transport": "ipc"}}
    assert not set(on_hub.settings()) & set(configuration()), "neither hides what the other says"


def test_elsewhere_nothing_changes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("JUPYTERHUB_SERVICE_PREFIX", raising=False)
    monkeypatch.setenv(on_hub.PAGES, "notebooks")
    on_hub.begin(server := Server(tmp_path))
    assert server.kernel_manager.connection_dir == ""
    assert list(tmp_path.iterdir()) == []
    assert on_hub.settings() == {}


def test_what_the_hub_adds_to_a_link_is_not_the_pages() -> None:
    """A hub that sends on to a server which has just become ready counts how often it did so, in the link."""
    assert links.read("seed=5&redirects=1") == ({"seed": "5"}, [])


HUB = {
    "JUPYTERHUB_SERVICE_PREFIX": "/x/user/ada/",
    "JUPYTERHUB_BASE_URL": "/x/",
    "JUPYTERHUB_HOST": "https://hub.example.org",
}


@pytest.mark.parametrize(
    ("environment", "addresses"),
    [
        ({}, {}),
        (HUB, {"own": "/x/user/ada/", "shared": "https://hub.example.org/x/hub/user-redirect/"}),
        (HUB | {"JUPYTERHUB_HOST": ""}, {"own": "/x/user/ada/", "shared": "/x/hub/user-redirect/"}),
        # a Binder is a hub that nobody can log in to
        (HUB | {"BINDER_LAUNCH_HOST": "https://mybinder.org/"}, {}),
    ],
)
def test_a_link_to_copy_names_no_user(
    monkeypatch: pytest.MonkeyPatch, environment: dict[str, str], addresses: dict[str, str]
) -> None:
    for name in (*HUB, "BINDER_LAUNCH_HOST"):
        monkeypatch.delenv(name, raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    assert _addresses() == addresses
