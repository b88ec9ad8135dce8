"""Two students on a JupyterHub with the configuration of binder/: each has a server, and nothing of the other's."""

import contextlib
import json
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import nbformat
import psutil
import pytest
import requests
import websocket

from explorer.lessons.progress import Progress
from tests.hub.hub import GRACE, PASSWORD, ROOT, USERS, Hub, running_hub
from tests.hub.kernels import connect, run, start_kernel

LAB = "voila/render/notebooks/labs/routing.ipynb?mechanism=switch&seed=5"
PROGRESS = ".local/share/gating-explorer/progress.sqlite"
REFUSED = (403, 404)


class Room(NamedTuple):
    """A hub with two users who are logged in and whose servers run, each with a kernel."""

    hub: Hub
    sessions: dict[str, requests.Session]
    kernels: dict[str, str]

    def run(self, user: str, code: str) -> str:
        """What the code printed in the user's kernel."""
        return run(self.hub, self.sessions[user], user, self.kernels[user], code)


@pytest.fixture(scope="module")
def room(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Room]:
    with running_hub(tmp_path_factory.mktemp("hub")) as hub:
        sessions = {user: hub.login(user) for user in USERS}
        hub.start_servers(sessions)
        yield Room(hub, sessions, {user: start_kernel(hub, session, user) for user, session in sessions.items()})


# --- what belongs to whom ---------------------------------------------------------------------------------------------


def test_every_user_has_pages_of_their_own(room: Room) -> None:
    found = {path.relative_to(ROOT).as_posix() for path in (ROOT / "notebooks").rglob("*.ipynb")}
    pages = {name for name in found if "/." not in name}
    assert "notebooks/labs/routing.ipynb" in pages
    for user in USERS:
        home = room.hub.homes / user
        assert {path.relative_to(home).as_posix() for path in home.rglob("*.ipynb")} == pages
    path = "/user/ada/api/contents/notebooks/labs/routing.ipynb"
    assert room.hub.ask(room.sessions["ada"], "DELETE", path).status_code == 204
    assert not (room.hub.homes / "ada/notebooks/labs/routing.ipynb").exists()
    assert (room.hub.homes / GRACE / "notebooks/labs/routing.ipynb").is_file()
    # where links expect it, for the tests below
    (room.hub.homes / "ada/notebooks/labs/routing.ipynb").write_bytes(
        (ROOT / "notebooks/labs/routing.ipynb").read_bytes()
    )


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", "lab"),
        ("GET", "voila/render/notebooks/index.ipynb"),
        ("GET", "files/notebooks/index.ipynb"),
        ("GET", "voila/files/notebooks/index.ipynb"),
        ("GET", "api/contents/notebooks/index.ipynb"),
        ("PUT", "api/contents/notebooks/index.ipynb"),
        ("DELETE", "api/contents/notebooks/index.ipynb"),
        ("GET", "api/kernels"),
        ("POST", "api/kernels"),
        ("GET", "api/kernels/{kernel}"),
        ("DELETE", "api/kernels/{kernel}"),
        ("POST", "voila/api/shutdown/{kernel}"),
        ("GET", "api/terminals"),
        ("GET", "api/status"),
    ],
)
def test_nobody_gets_into_anothers_server(room: Room, method: str, path: str) -> None:
    before = (room.hub.homes / "ada/notebooks/index.ipynb").read_bytes()
    where = f"/user/ada/{path.format(kernel=room.kernels['ada'])}"
    grace = room.sessions[GRACE]
    # as a link or a form leads there: by the hub, which asks who it is
    answer = grace.request(method, room.hub.address + where, timeout=60)
    assert answer.status_code in REFUSED, answer.text
    # and as a script would, with every token that Grace has
    assert room.hub.ask(grace, method, where).status_code in (*REFUSED, 302)
    assert (room.hub.homes / "ada/notebooks/index.ipynb").read_bytes() == before
    assert room.run("ada", "print('here')") == "here\n"


def test_nobody_hears_anothers_kernel(room: Room) -> None:
    with pytest.raises(websocket.WebSocketBadStatusException) as refused:
        connect(room.hub, room.sessions[GRACE], "ada", room.kernels["ada"])
    assert refused.value.status_code in REFUSED


def test_nobody_starts_or_stops_anothers_server(room: Room) -> None:
    for method in ("POST", "DELETE"):
        path = "/hub/api/users/ada/server"
        assert room.hub.ask(room.sessions[GRACE], method, path).status_code in REFUSED
    assert room.hub.ask(room.sessions["ada"], "GET", "/user/ada/api/status").status_code == 200


def test_kernels_talk_where_no_other_user_can_listen(room: Room) -> None:
    """Over TCP, whoever has an account on the machine could."""
    code = "import ipykernel, json; path = ipykernel.get_connection_file(); print(json.dumps([path, json.load(open(path))]))"
    path, connection = json.loads(room.run("ada", code))
    assert connection["transport"] == "ipc"
    folder = Path(path).parent
    assert Path(connection["ip"]).parent == folder
    assert folder.stat().st_mode & 0o777 == 0o700
    assert Path(path).stat().st_mode & 0o077 == 0


# --- links ------------------------------------------------------------------------------------------------------------


def test_a_link_opened_before_the_login_leads_to_the_page_after_it(room: Room) -> None:
    """What it shows there is tests/browser/test_hub.py."""
    page = room.hub.login("ada", f"/hub/user-redirect/{LAB}").get(
        f"{room.hub.address}/hub/user-redirect/{LAB}", timeout=120
    )
    assert page.url == f"{room.hub.address}/user/ada/{LAB}"
    assert page.status_code == 200
    assert "Routing lab" in page.text


def test_the_form_sends_on_to_the_link(room: Room) -> None:
    session = requests.Session()
    asked = session.get(f"{room.hub.address}/hub/user-redirect/{LAB}", timeout=60)
    assert "/hub/login?next=" in asked.url
    (action,) = re.findall(r'action="([^"]+login[^"]*)"', asked.text)
    assert "mechanism%3Dswitch%26seed%3D5" in action


def test_who_comes_without_a_link_sees_the_gallery(room: Room) -> None:
    page = room.sessions["ada"].get(f"{room.hub.address}/user/ada/", timeout=120)
    assert page.url == f"{room.hub.address}/user/ada/voila/render/notebooks/index.ipynb"
    assert page.status_code == 200


def test_a_wrong_password_and_a_stranger_stay_outside(room: Room) -> None:
    for user, password in {"ada": "guess", "mallory": PASSWORD}.items():
        session = requests.Session()
        page = session.get(f"{room.hub.address}/hub/login", timeout=60)
        form = {
            "username": user,
            "password": password,
            "_xsrf": re.findall(r'name="_xsrf"\s+value="([^"]+)"', page.text)[0],
        }
        assert session.post(page.url, data=form, timeout=60).status_code == 403
        assert "/hub/login" in session.get(f"{room.hub.address}/hub/home", timeout=60).url


# --- what is in force -------------------------------------------------------------------------------------------------


def test_a_page_that_fails_shows_neither_sources_nor_traceback(room: Room) -> None:
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell("word = 'of the ' + 'source'\n1 / 0")])
    notebook.metadata.kernelspec = {"name": "python3", "display_name": "Python 3", "language": "python"}
    nbformat.write(notebook, room.hub.homes / "ada/fails.ipynb")
    page = room.sessions["ada"].get(f"{room.hub.address}/user/ada/voila/render/fails.ipynb", timeout=120).text
    for hidden in ("of the ", "Traceback", "ZeroDivisionError", "ipykernel_", str(room.hub.homes)):
        assert hidden not in page
    assert "gating-explorer" in page or "voila-style.js" in page, "our template"


def test_files_beside_the_pages_are_not_served(room: Room) -> None:
    for path in ("notebooks/index.ipynb", "notebooks/.gating-explorer.json", ".bashrc"):
        assert room.hub.ask(room.sessions["ada"], "GET", f"/user/ada/voila/files/{path}").status_code == 403


def test_what_a_browser_sends_is_checked(room: Room) -> None:
    ada, kernel = room.sessions["ada"], room.kernels["ada"]
    with pytest.raises(websocket.WebSocketBadStatusException) as refused:
        connect(room.hub, ada, "ada", kernel, protocols=())
    assert refused.value.status_code == 400
    socket = connect(room.hub, ada, "ada", kernel)
    socket.send_binary((2**40).to_bytes(8, "little"))
    opcode, data = socket.recv_data()
    while opcode != websocket.ABNF.OPCODE_CLOSE:  # what the kernel has said until then
        opcode, data = socket.recv_data()
    assert int.from_bytes(data[:2], "big") == 1008
    assert room.run("ada", "print(1 + 1)") == "2\n"


def test_limits_and_times_are_those_of_the_configuration(room: Room) -> None:
    names = ["MEM_LIMIT", "CPU_LIMIT", "OMP_NUM_THREADS", "JUPYTERHUB_USER", "GATING_EXPLORER_PLOTLY_URL"]
    said = json.loads(
        room.run(GRACE, f"import json, os; print(json.dumps([os.environ.get(name) for name in {names}]))")
    )
    assert said[:4] == [str(2 * 2**30), "1.0", os.environ.get("OMP_NUM_THREADS", "1"), GRACE]
    assert said[4].startswith(f"/user/{GRACE}/voila/plotly/plotly.min.js?v=")
    assert room.hub.log.count("Culling kernels with idle durations > 3600 seconds") == len(USERS)


# --- progress ---------------------------------------------------------------------------------------------------------


def test_progress_is_kept_under_the_name_of_the_hub_in_the_users_own_file(room: Room) -> None:
    noted = "from explorer.lessons import progress; print(progress.note_if_known(2, 'prediction', '2.load', '{}'))"
    for user in USERS:
        assert room.run(user, noted.format(f"by {user}")) == "True\n"
    for user in USERS:
        (row,) = Progress(room.hub.homes / user / PROGRESS).rows()
        assert (row.student, row.kind, row.item, row.value) == (user, "prediction", "2.load", f"by {user}")


# --- secrets, and the end ---------------------------------------------------------------------------------------------


def test_no_secret_is_in_the_log(room: Room) -> None:
    """Of everything that happened above: the log is that of hub, proxy, culler, servers and kernels together."""
    cookies = [one for session in room.sessions.values() for one in session.cookies]
    # JupyterHub itself logs that one, which opens nothing: it says which cookies belong together
    secrets = {PASSWORD} | {str(one.value) for one in cookies if one.name != "jupyterhub-session-id"}
    for process in psutil.Process(room.hub.process.pid).children(recursive=True):
        found = process.environ()
        secrets |= {found[name] for name in found if name.endswith("TOKEN") and found[name]}
    # the password, each session's cookies, and the tokens of proxy, culler and two servers
    assert len(secrets) >= 1 + 4 + 4
    said = room.hub.log
    assert [secret[:6] + "..." for secret in secrets if secret in said] == []


def test_idle_servers_are_stopped_and_nothing_is_lost(room: Room) -> None:
    """The culler that the configuration started, once more with less patience; what it leaves is a link that starts anew."""
    family = psutil.Process(room.hub.process.pid)
    culler = next(one for one in family.children(recursive=True) if "jupyterhub_idle_culler" in one.cmdline())
    assert "--timeout=3600" in culler.cmdline()
    command = [sys.executable, "-m", "jupyterhub_idle_culler", "--timeout=1", "--cull-every=1"]
    log = room.hub.folder / "impatient"
    with log.open("wb") as file:
        impatient = subprocess.Popen(command, env=culler.environ(), stdout=file, stderr=file)
    try:
        room.hub.wait(
            lambda: not any(room.hub.servers(session, user) for user, session in room.sessions.items()),
            lambda: impatient.poll() is None and log.read_text() + room.hub.log,
        )
    finally:
        impatient.terminate()
        impatient.wait()
    assert _of_students(family) == []
    page = room.sessions["ada"].get(f"{room.hub.address}/user/ada/{LAB}", timeout=60)
    assert page.status_code == 424
    assert "mechanism%3Dswitch%26seed%3D5" in page.text, "the way back is to the same page"
    (row,) = Progress(room.hub.homes / "ada" / PROGRESS).rows()
    assert row.value == "by ada"
    assert not list(Path(tempfile.gettempdir()).glob("voila_*/kernel-" + room.kernels["ada"] + "*"))


def _of_students(family: psutil.Process) -> list[list[str]]:
    """The command lines of servers and kernels that still run."""
    lines = []
    for one in family.children(recursive=True):
        with contextlib.suppress(psutil.NoSuchProcess):
            lines.append(one.cmdline())
    return [line for line in lines if "ipykernel_launcher" in line or "jupyterhub.singleuser" in line]
