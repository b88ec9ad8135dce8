"""The server by itself: its configuration is in force, its addresses are right, and it leaves nothing behind."""

import asyncio
import contextlib
import gzip
import html
import http.client
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import nbformat
import psutil
import pytest
from tornado.httpclient import AsyncHTTPClient
from tornado.web import Application

import explorer.serving as serving
from explorer.errors import BadValue
from explorer.serving import ports, server

ROOT = Path(__file__).resolve().parent.parent
PROBE = """
import importlib.util, json, os, sys
names = ["QUERY_STRING", "GATING_EXPLORER_PLOTLY_URL", "OMP_NUM_THREADS", "JUPYTER_TOKEN"]
facts = {name: os.environ.get(name) for name in names}
facts |= {"python": sys.executable, "torch": "torch" in sys.modules, "folder": os.getcwd()}
facts |= {name: importlib.util.find_spec(name) is not None for name in ("explorer", "widgets")}
print("FACTS", json.dumps(facts), "SENTINEL")
"""


# --- before anything is started ---------------------------------------------------------------------------------------


def test_a_port_in_use_is_one_sentence() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(serving.CannotServe, match=f"^port {port} is in use; choose another with --port$"):
            serving.serve(port=port, browser=False)


def test_a_free_port_is_ours_before_the_server_listens_at_it() -> None:
    with ports.reserve("127.0.0.1") as reserved, socket.socket() as other:
        other.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        with pytest.raises(OSError, match="in use"):
            other.bind(("127.0.0.1", ports.number_of(reserved)))


@pytest.mark.skipif(not ports.CAN_HAND_ON, reason="sockets are handed on where there are file descriptors")
def test_a_server_listens_at_the_socket_that_it_was_handed() -> None:
    async def status() -> int:
        with ports.reserve("127.0.0.1") as reserved:
            number = ports.number_of(reserved)
            # a port of its own would be another: this one is taken
            ports.listen(Application([]), {"socket": os.dup(reserved.fileno()), "port": number, "host": "127.0.0.1"})
        answer = await AsyncHTTPClient().fetch(f"http://127.0.0.1:{number}/", raise_error=False)
        return answer.code

    assert asyncio.run(status()) == 404


@pytest.mark.parametrize(
    ("wrong", "sentence"),
    [
        ({"port": 70000}, "port 70000 does not exist"),
        ({"port": -1}, "port -1 does not exist"),
        ({"host": "no.such.host.invalid"}, "host 'no.such.host.invalid' is not an address of this machine"),
        ({"host": "192.0.2.1"}, "host '192.0.2.1' is not an address of this machine"),
        ({"base_url": "/a b/"}, "base url '/a b/' is not a path"),
        ({"pages": "no/such/folder"}, "'no/such/folder' is not a folder of notebooks"),
    ],
)
def test_a_wrong_argument_is_one_sentence(wrong: dict[str, object], sentence: str) -> None:
    with pytest.raises(BadValue, match=re.escape(sentence)):
        serving.serve(**{"port": 0, "browser": False} | wrong)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("host", "token", "address"),
    [
        ("127.0.0.1", "", "http://localhost:8866/x/"),
        ("0.0.0.0", "", f"http://{socket.gethostname()}:8866/x/"),
        ("::1", "", "http://localhost:8866/x/"),
        ("10.0.0.7", "a&b", "http://10.0.0.7:8866/x/?token=a%26b"),
        ("fe80::7", "", "http://[fe80::7]:8866/x/"),
    ],
)
def test_the_printed_address_can_be_opened(host: str, token: str, address: str) -> None:
    assert serving._address({"host": host, "port": 8866, "base_url": "/x/", "token": token}) == address


@pytest.mark.parametrize("given", ["x", "/x", "x/", "/x/"])
def test_a_base_url_is_completed(given: str) -> None:
    assert serving._normalised(given) == "/x/"


def test_one_thread_unless_the_user_says_otherwise(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    assert serving.environment()["OMP_NUM_THREADS"] == "1"
    monkeypatch.setenv("OMP_NUM_THREADS", "3")
    assert serving.environment()["OMP_NUM_THREADS"] == "3"


def test_a_clone_serves_its_own_notebooks_and_a_wheel_those_inside(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    assert serving.pages_folder() == ROOT / "notebooks"
    (tmp_path / "widgets" / "notebooks").mkdir(parents=True)
    (tmp_path / "widgets" / "__init__.py").touch()
    monkeypatch.setattr(serving, "ROOT", tmp_path)
    monkeypatch.delitem(sys.modules, "widgets", raising=False)
    monkeypatch.setattr(sys, "path", [str(tmp_path)])
    assert serving.pages_folder() == tmp_path / "widgets" / "notebooks"


# --- the configuration ------------------------------------------------------------------------------------------------

LIVE = """
import json, pathlib, sys
sys.path.insert(0, sys.argv[1])
import server
app = server.voila_app({"kind": "voila", "port": 8866, "host": "127.0.0.1", "base_url": "/", "token": "", "pages": "."})
settings = app.init_settings()
from jupyter_server.services.kernels.connection.channels import ZMQChannelsWebsocketConnection
from nbformat.v4 import new_notebook
from voila.execute import VoilaExecutor
kernel = app.kernel_manager.kernel_manager_factory(parent=app.kernel_manager)
objects = {
    "Voila": app,
    "VoilaConfiguration": app.voila_configuration,
    "VoilaExecutor": VoilaExecutor(new_notebook(), config=app.config),
    "MappingKernelManager": app.kernel_manager,
    # made as the websocket handler makes it
    "ZMQChannelsWebsocketConnection": ZMQChannelsWebsocketConnection(parent=kernel, config=settings.get("config")),
}
wanted = json.loads((pathlib.Path(server.__file__).parent / "voila.json").read_text())
for owner, traits in wanted.items():
    for name, value in traits.items():
        print(owner, name, "ok" if getattr(objects[owner], name) == value else getattr(objects[owner], name))
print("transport", kernel.transport)
print("template", app.template_paths[0])
"""


def test_every_setting_of_voila_json_is_in_force(tmp_path: Path) -> None:
    # a voila.json in the current folder must not win over ours
    (tmp_path / "voila.json").write_text(json.dumps({"VoilaConfiguration": {"show_tracebacks": True}}))
    command = [sys.executable, "-c", LIVE, str(serving.HERE)]
    run = subprocess.run(command, env=serving.environment(), cwd=tmp_path, capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    lines = [line.split(maxsplit=2) for line in run.stdout.splitlines()]
    count = sum(len(traits) for traits in json.loads((serving.HERE / "voila.json").read_text()).values())
    assert len(lines) == count + 2
    assert [line for line in lines[:-2] if line[2] != "ok"] == []
    assert lines[-2] == ["transport", server._transport()]
    assert lines[-1][1] == str(serving.HERE / "share/voila/templates/gating-explorer")


def test_a_connection_outlives_its_first_ping() -> None:
    """The server looks for the answer just before it pings: a timeout of one interval ends every connection then."""
    from jupyter_server.base.websocket import WS_PING_INTERVAL

    settings = json.loads((serving.HERE / "voila.json").read_text())["Voila"]["tornado_settings"]
    assert settings["ws_ping_timeout"] >= 2 * settings.get("ws_ping_interval", WS_PING_INTERVAL)


def test_a_long_temporary_folder_does_not_overflow_a_socket_name(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server.tempfile, "gettempdir", lambda: "/" + 60 * "x")
    assert server._transport() == "tcp"


# --- a running server -------------------------------------------------------------------------------------------------


class Running:
    """A server in a process of its own, and the few requests that the tests make."""

    def __init__(self, call: str, environment: dict[str, str], cwd: Path) -> None:
        code = f"import explorer.serving as s; raise SystemExit(s.{call})"
        self.process = subprocess.Popen(
            [sys.executable, "-c", code], env=environment, cwd=cwd, stdout=subprocess.PIPE, text=True
        )
        assert self.process.stdout
        self.line = self.process.stdout.readline()
        address = re.search(r"http://localhost:(\d+)(/\S*)", self.line)
        assert address, f"the server printed {self.line!r}"
        self.port, self.base_url = int(address[1]), address[2].partition("?")[0]

    def get(self, path: str, **headers: str) -> tuple[int, dict[str, str], str]:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=60)
        with contextlib.closing(connection):
            connection.request("GET", self.base_url + path, headers=headers)
            answer = connection.getresponse()
            return answer.status, dict(answer.getheaders()), answer.read().decode(errors="replace")

    def family(self) -> list[psutil.Process]:
        """The server's process and those of its kernels."""
        return psutil.Process(self.process.pid).children(recursive=True)

    def stop(self, number: signal.Signals) -> int:
        self.process.send_signal(number)
        return self.process.wait(60)


def still_running(family: list[psutil.Process], seconds: float = 120) -> list[psutil.Process]:
    """Those of a server that was stopped which do not end within this time."""
    deadline = time.monotonic() + seconds
    while (left := [one for one in family if _runs(one)]) and time.monotonic() < deadline:
        time.sleep(0.1)
    return left


def _runs(process: psutil.Process) -> bool:
    try:
        return process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def write_notebook(path: Path, *cells: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(cell) for cell in cells])
    notebook.metadata.kernelspec = {"name": "python3", "display_name": "Python 3", "language": "python"}
    nbformat.write(notebook, path)


@pytest.fixture(scope="module")
def hostile(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with pages, a user's own kernel "python3" that cannot start, and a foreign voila.json."""
    folder = tmp_path_factory.mktemp("hostile")
    write_notebook(folder / "pages/labs/probe.ipynb", PROBE)
    write_notebook(folder / "pages/labs/raises.ipynb", "raise RuntimeError('a secret')")
    (folder / "pages/labs/probe.py").write_text("secret = 1")
    (folder / "pages/static").mkdir()
    (folder / "pages/static/dot.svg").write_text("<svg/>")
    kernel = folder / "user/kernels/python3/kernel.json"
    kernel.parent.mkdir(parents=True)
    kernel.write_text(json.dumps({"argv": ["/bin/false"], "display_name": "Python 3", "language": "python"}))
    (folder / "voila.json").write_text(json.dumps({"VoilaConfiguration": {"show_tracebacks": True}}))
    return folder


@pytest.fixture(scope="module")
def running(hostile: Path) -> Iterator[Running]:
    environment = dict(os.environ)
    # the user's folder by both of its names: a virtual environment passes over the second
    environment |= {"JUPYTER_PATH": str(hostile / "user"), "JUPYTER_DATA_DIR": str(hostile / "user")}
    environment |= {"PYTHONPATH": str(ROOT)}
    environment.pop("OMP_NUM_THREADS", None)
    call = f"serve(port=0, browser=False, base_url='/behind/a/proxy', pages={str(hostile / 'pages')!r})"
    server = Running(call, environment, hostile)
    yield server
    server.stop(signal.SIGINT)


def test_the_kernel_is_the_python_that_serves(running: Running, hostile: Path) -> None:
    status, _, page = running.get("voila/render/labs/probe.ipynb?mechanism=switch&seed=5")
    assert status == 200
    found = re.search(r"FACTS (\{.*?\}) SENTINEL", html.unescape(page))
    assert found, page[-3000:]
    assert json.loads(found[1]) == {
        "QUERY_STRING": "mechanism=switch&seed=5",
        "GATING_EXPLORER_PLOTLY_URL": server.plotly_url("voila", "/behind/a/proxy/"),
        "OMP_NUM_THREADS": "1",
        "JUPYTER_TOKEN": None,
        "python": sys.executable,
        "torch": False,
        "folder": str(hostile / "pages/labs"),
        "explorer": True,
        "widgets": True,
    }
    assert "find_spec" not in page, "the source of the cells is stripped"


def test_a_page_asks_no_other_host(running: Running) -> None:
    for path in ("", "voila/render/labs/raises.ipynb"):
        page = running.get(path)[2]
        assert re.findall(r'(?:src|href)="?(https?:)?//[^"]+', page) == []
        assert "cdn" not in page


def test_an_error_shows_no_traceback(running: Running) -> None:
    page = running.get("voila/render/labs/raises.ipynb")[2]
    assert "There was an error" in page
    assert "a secret" not in page


def test_the_root_lists_every_page(running: Running) -> None:
    status, _, page = running.get("")
    assert status == 200
    links = re.findall(r'<a href="([^"]+)">([^<]+)', page)
    assert links == [
        (f"/behind/a/proxy/voila/render/labs/{name}.ipynb", f"labs/{name}") for name in ("probe", "raises")
    ]


def test_plotly_is_one_file_that_the_browser_keeps(running: Running) -> None:
    url = server.plotly_url("voila", "/").lstrip("/")
    status, headers, body = running.get(url)
    assert (status, headers["Content-Type"]) == (200, "text/javascript")
    assert int(re.findall(r"max-age=(\d+)", headers["Cache-Control"])[0]) >= 365 * 24 * 3600
    assert "immutable" in headers["Cache-Control"]
    assert "plotly" in body[:200].lower()
    assert running.get(url, **{"If-None-Match": headers["Etag"]})[0] == 304
    assert running.get("voila/plotly/widgetbundle.js")[0] == 404


def test_plotly_travels_packed_where_the_browser_takes_it(running: Running) -> None:
    url = server.plotly_url("voila", "/").lstrip("/")
    plain, packed = (running.get(url, **{"Accept-Encoding": one})[1] for one in ("identity", "gzip, br"))
    assert "Content-Encoding" not in plain
    assert packed["Content-Encoding"] == "gzip"
    assert plain["Vary"] == packed["Vary"] == "Accept-Encoding"
    assert int(packed["Content-Length"]) < 0.35 * int(plain["Content-Length"])
    assert gzip.decompress(server.packed_bundle()) == server.plotly_bundle()
    assert packed["Etag"] != plain["Etag"]
    assert running.get(url, **{"Accept-Encoding": "gzip", "If-None-Match": packed["Etag"]})[0] == 304


@pytest.mark.parametrize(
    "path",
    [
        "labs/probe.ipynb",
        "labs/probe.py",
        "labs/probe.IPYNB",
        "..%2Fvoila.json",
        "static/..%2Flabs%2Fprobe.py",
        "%2e%2e/voila.json",
    ],
)
def test_files_beside_the_pages_stay_private(running: Running, path: str) -> None:
    assert running.get(f"voila/files/{path}")[0] in (403, 404)


def test_pictures_of_the_pages_are_served(running: Running) -> None:
    assert running.get("voila/files/static/dot.svg")[0] == 200


def test_a_visitor_cannot_choose_template_or_theme(running: Running) -> None:
    page = running.get("voila/render/labs/raises.ipynb?template=reveal&theme=dark")[2]
    assert "theme-light" in page
    assert "reveal" not in page


def test_a_link_that_is_no_text_any_more_opens_its_page(running: Running) -> None:
    status, _, page = running.get("voila/render/labs/raises.ipynb?theme=%FF%FEdark&template=%C3&seed=%80")
    assert status == 200
    assert "theme-light" in page


def test_a_closed_server_asks_for_its_token(tmp_path: Path) -> None:
    write_notebook(
        tmp_path / "probe.ipynb", "import os; print('SECRETS', [k for k, v in os.environ.items() if 'sesame' in v])"
    )
    call = f"serve(port=0, browser=False, token='sesame', pages={str(tmp_path)!r})"
    closed = Running(call, {**os.environ, "PYTHONPATH": str(ROOT)}, tmp_path)
    try:
        assert closed.line.split()[2].endswith("/?token=sesame")
        assert closed.get("")[0] in (302, 403)
        assert closed.get("voila/render/probe.ipynb")[0] in (302, 403)
        status, _, page = closed.get("voila/render/probe.ipynb?token=sesame")
        assert status == 200
        assert "SECRETS" in page
        assert [line for line in page.splitlines() if "SECRETS" in line and "QUERY_STRING" not in line] == []
        commands = [" ".join(process.cmdline()) for process in closed.family()]
        assert any("server.py" in command for command in commands)
        assert not any("sesame" in command for command in commands), "every user of a machine reads command lines"
    finally:
        assert closed.stop(signal.SIGTERM) == 0


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 0), (signal.SIGKILL, -signal.SIGKILL)])
def test_nothing_is_left_behind(tmp_path: Path, number: signal.Signals, code: int) -> None:
    write_notebook(tmp_path / "sleeps.ipynb", "1")
    call = f"serve(port=0, browser=False, pages={str(tmp_path)!r})"
    doomed = Running(call, {**os.environ, "PYTHONPATH": str(ROOT), "TMPDIR": str(tmp_path)}, tmp_path)
    assert doomed.get("voila/render/sleeps.ipynb")[0] == 200
    family = doomed.family()
    assert len(family) >= 2, "the server and a kernel"
    assert doomed.stop(number) == code
    assert still_running(family) == []
    assert list(tmp_path.glob("voila_*")) == []
    with socket.socket() as probe:
        assert probe.connect_ex(("127.0.0.1", doomed.port)) != 0


def test_a_server_whose_folder_somebody_tidied_away_ends_as_any_other(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    write_notebook(tmp_path / "sleeps.ipynb", "1")
    call = f"serve(port=0, browser=False, pages={str(tmp_path)!r})"
    doomed = Running(call, {**os.environ, "PYTHONPATH": str(ROOT), "TMPDIR": str(tmp_path)}, tmp_path)
    assert doomed.get("voila/render/sleeps.ipynb")[0] == 200
    family = doomed.family()
    (folder,) = tmp_path.glob("voila_*")
    shutil.rmtree(folder)
    assert doomed.stop(signal.SIGINT) == 0
    assert still_running(family, 0) == [], "the server ends when its kernels have"
    assert "Traceback" not in capfd.readouterr().err


def test_jupyterlab_opens_the_same_pages(tmp_path: Path) -> None:
    write_notebook(tmp_path / "probe.ipynb", "1")
    call = f"lab(port=0, browser=False, base_url='/x', pages={str(tmp_path)!r})"
    running = Running(call, {**os.environ, "PYTHONPATH": str(ROOT)}, tmp_path)
    try:
        token = running.line.split("token=")[1].split()[0]
        assert running.get("api/contents")[0] == 403
        status, _, body = running.get(f"api/contents?token={token}")
        assert status == 200
        assert [item["path"] for item in json.loads(body)["content"]] == ["probe.ipynb"]
        specs = json.loads(running.get(f"api/kernelspecs?token={token}")[2])
        assert specs["kernelspecs"]["python3"]["spec"]["argv"][0] == "python"
        status, headers, _ = running.get(server.plotly_url("lab", "/").lstrip("/"))
        assert status == 200
        assert "max-age" in headers["Cache-Control"] or "Etag" in headers
    finally:
        assert running.stop(signal.SIGINT) == 0
