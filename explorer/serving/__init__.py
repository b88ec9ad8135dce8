"""Serve the pages: Voila for readers (`serve`), JupyterLab for authors (`lab`), each in a process of its own.

That process runs server.py by its path, not as a module of this package, so that it never imports torch.
"""

import contextlib
import errno
import http.client
import importlib.util
import json
import os
import secrets
import signal
import socket
import subprocess
import sys
import threading
import time
import webbrowser
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import quote

from explorer import budget
from explorer.errors import BadValue, ExplorerError
from explorer.serving import ports
from explorer.serving.server import plotly_url

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent.parent
MOST_PEOPLE = 500
MOST_PROCESSES = 16
LOOPBACK = ("127.0.0.1", "::1", "localhost")


class CannotServe(ExplorerError):
    """The server cannot be started, or ended before it answered."""


def serve(
    port: int = 8866,
    browser: bool = True,
    base_url: str = "/",
    token: str = "",
    host: str = "127.0.0.1",
    pages: str | Path | None = None,
    people: int = 0,
    processes: int = 1,
) -> int:
    """Serve the pages with Voila until Ctrl-C; returns the exit code of the server (0 after Ctrl-C).

    port: 0 takes a free one.  browser: open the page where there is a browser.  base_url: the prefix behind a proxy.
    token: what a visitor must know; "" lets in everyone who reaches `host`.  pages: another folder of notebooks.
    people: a class of so many: pages start warm, who comes when the room is full waits in line, and a server that
    other machines reach makes a token if it is given none.  processes: so many Voila processes share the class's pages.
    """
    if not 0 <= people <= MOST_PEOPLE:
        raise BadValue(f"a class of {people} does not fit on one server; up to {MOST_PEOPLE} do")
    if not 1 <= processes <= MOST_PROCESSES or (processes > 1 and not people):
        raise BadValue(f"{processes} processes: a class may have 1 to {MOST_PROCESSES}, and a server without one has 1")
    if people and host not in LOOPBACK:
        # a whole network reaches it
        token = token or secrets.token_hex(4)
    return _run("voila", port, browser, base_url, token, host, pages, people, processes)


def lab(
    port: int = 8888,
    browser: bool = True,
    base_url: str = "/",
    token: str = "",
    host: str = "127.0.0.1",
    pages: str | Path | None = None,
) -> int:
    """Open the notebooks in JupyterLab until Ctrl-C; arguments as for `serve`, but "" makes a random token."""
    return _run("lab", port, browser, base_url, token or os.urandom(24).hex(), host, pages)


def pages_folder() -> Path:
    """The notebooks: those of the clone that this package runs from, else those that travel in the wheel."""
    if _is_clone() and (ROOT / "notebooks").is_dir():
        return ROOT / "notebooks"
    widgets = importlib.util.find_spec("widgets")
    for folder in (widgets and widgets.submodule_search_locations) or []:
        if (pages := Path(folder) / "notebooks").is_dir():
            return pages
    raise CannotServe("this installation has no notebooks: install gating-explorer again")


def _is_clone() -> bool:
    return (ROOT / "pyproject.toml").is_file()


def _run(
    kind: str,
    port: int,
    browser: bool,
    base_url: str,
    token: str,
    host: str,
    pages: str | Path | None,
    people: int = 0,
    processes: int = 1,
) -> int:
    settings: dict[str, object] = {"kind": kind, "base_url": _normalised(base_url), "token": token}
    folder = Path(pages).resolve() if pages is not None else pages_folder()
    if not folder.is_dir():
        raise BadValue(f"{str(pages)!r} is not a folder of notebooks")
    settings |= {"host": host, "pages": str(folder), "class": people, "processes": processes}
    with contextlib.ExitStack() as stack:
        reserved = stack.enter_context(_reserve(host, port))
        settings["port"] = ports.number_of(reserved)
        handed_on = []
        if port == 0 and kind == "voila" and ports.CAN_HAND_ON:
            handed_on = [reserved.fileno()]
            settings["socket"] = reserved.fileno()
        else:
            reserved.close()
        variables = environment()
        if people:
            variables[budget.FILE] = stack.enter_context(budget.table_file())
        # a session of its own: Ctrl-C reaches this process alone, which then asks the server once
        server = subprocess.Popen(
            [sys.executable, "-P", str(HERE / ("several.py" if processes > 1 else "server.py"))],
            env=variables,
            stdin=subprocess.PIPE,
            start_new_session=True,
            pass_fds=handed_on,
        )
        reserved.close()
        return _attend(server, settings, browser)


def _attend(server: subprocess.Popen[bytes], settings: dict[str, object], browser: bool) -> int:
    """Tell the server its settings and a person its address; until it ends, or Ctrl-C."""
    address = _address(settings)
    try:
        with _terminate_is_interrupt(), _stopped_at_the_end(server):
            _send(server, settings)
            _wait_until_it_answers(server, settings)
            print(f"Gating explorer: {address} (Ctrl-C stops it)", flush=True)
            if browser:
                _open(address)
            return server.wait()
    except KeyboardInterrupt:
        return 0


def _reserve(host: str, port: int) -> socket.socket:
    """A socket that has the port, if nobody listens on it; 0 becomes a free one."""
    if not 0 <= port <= 65535:
        raise BadValue(f"port {port} does not exist; ports go from 1 to 65535")
    nowhere = BadValue(f"host {host!r} is not an address of this machine; '127.0.0.1' or '0.0.0.0' would be")
    try:
        return ports.reserve(host, port)
    except socket.gaierror:
        raise nowhere from None
    except OSError as error:
        if error.errno == errno.EADDRNOTAVAIL:
            raise nowhere from None
        if error.errno == errno.EACCES:
            raise CannotServe(f"port {port} needs administrator rights; choose one from 1024 with --port") from None
        raise CannotServe(f"port {port} is in use; choose another with --port") from None


def _normalised(base_url: str) -> str:
    """'x', '/x' and '/x/' are '/x/'."""
    if any(character.isspace() or character in "?#" for character in base_url):
        raise BadValue(f"base url {base_url!r} is not a path; '/explorer/' would be one")
    inner = base_url.strip("/")
    return f"/{inner}/" if inner else "/"


def _address(settings: dict[str, object]) -> str:
    """What a person types: a server on all interfaces is reached by the machine's name."""
    host, token = str(settings["host"]), str(settings["token"])
    name = {"127.0.0.1": "localhost", "::1": "localhost", "0.0.0.0": socket.gethostname(), "::": socket.gethostname()}
    shown = name.get(host, f"[{host}]" if ":" in host else host)
    return f"http://{shown}:{settings['port']}{settings['base_url']}" + (f"?token={quote(token)}" if token else "")


def environment() -> dict[str, str]:
    """The server's environment, which its kernels inherit."""
    variables = {"OMP_NUM_THREADS": "1"} | dict(os.environ)
    # share/ holds our Voila template and a kernel "python3" that is this very Python: first on the path, it wins
    paths = {"JUPYTER_PATH": HERE / "share"} | ({"PYTHONPATH": ROOT} if _is_clone() else {})
    for name, path in paths.items():
        variables[name] = os.pathsep.join([str(path), *filter(None, [os.environ.get(name)])])
    return variables


def _send(server: subprocess.Popen[bytes], settings: dict[str, object]) -> None:
    """Settings go through the pipe: a token on the command line or in the environment could be read by others.

    The pipe stays open: when this process ends, however it ends, the server sees its end and stops too.
    """
    assert server.stdin
    with contextlib.suppress(BrokenPipeError):
        server.stdin.write(json.dumps(settings).encode() + b"\n")
        server.stdin.flush()


def _wait_until_it_answers(server: subprocess.Popen[bytes], settings: dict[str, object]) -> None:
    host, port = str(settings["host"]), int(str(settings["port"]))
    path = plotly_url(str(settings["kind"]), str(settings["base_url"]))
    host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)
    while server.poll() is None:
        connection = http.client.HTTPConnection(host, port, timeout=10)
        with contextlib.suppress(OSError, http.client.HTTPException), contextlib.closing(connection):
            connection.request("HEAD", path)
            if connection.getresponse().status == 200:
                return
        time.sleep(0.05)
    raise CannotServe(f"the server ended before it answered (exit code {server.returncode}); its messages are above")


def _open(address: str) -> None:
    """Open a graphical browser in the background; a text browser would take the terminal."""
    if sys.platform.startswith("linux") and not (os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY")):
        return
    threading.Thread(target=webbrowser.open, args=[address], daemon=True).start()


@contextlib.contextmanager
def _terminate_is_interrupt() -> Iterator[None]:
    """SIGTERM, as from a container or a supervisor, stops the server as Ctrl-C does."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


@contextlib.contextmanager
def _stopped_at_the_end(server: subprocess.Popen[bytes], patience: float = 10) -> Iterator[None]:
    """Ask the server to stop and wait until its kernels are gone; a second Ctrl-C or lost patience kills it."""
    try:
        yield
    finally:
        if server.poll() is None:
            server.terminate()
        try:
            server.wait(patience)
        except (subprocess.TimeoutExpired, KeyboardInterrupt):
            server.kill()
            server.wait()
        assert server.stdin
        with contextlib.suppress(BrokenPipeError):
            server.stdin.close()
