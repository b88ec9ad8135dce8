"""A JupyterHub with the configuration of binder/, its proxy, and servers as local processes: for tests, and for nothing else.

All users are one Unix user here, each with a home folder of its own; what a hub's users see of each other is therefore what
can be reached through the hub. What an operating system keeps apart is the site's spawner's.
"""

import os
import re
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import requests

ROOT = Path(__file__).resolve().parents[2]
PASSWORD = "sesame-of-the-hub"
GRACE = "grace@example.org"  # as a university's login names people
USERS = ("ada", GRACE)
PATIENCE = 300  # seconds

# what docs/hub.md leaves to the site: who may log in, how servers are started, and the addresses
SITE = """
import sys
load_subconfig({config!r})
c.JupyterHub.authenticator_class = "shared-password"
c.SharedPasswordAuthenticator.user_password = {password!r}
c.Authenticator.allowed_users = {users!r}
c.JupyterHub.spawner_class = "simple"
c.SimpleLocalProcessSpawner.home_dir_template = {homes!r} + "/{{username}}"
c.Spawner.cmd = [sys.executable, "-m", "jupyterhub.singleuser"]
c.Spawner.args.append("--ServerApp.allow_root=True")
c.Spawner.environment.update({environment!r})
c.JupyterHub.bind_url = "http://127.0.0.1:{port}/"
c.JupyterHub.hub_port = {hub_port}
c.ConfigurableHTTPProxy.api_url = "http://127.0.0.1:{proxy_port}"
c.ConfigurableHTTPProxy.command = [{proxy!r}]
"""


def find_proxy() -> str | None:
    """JupyterHub's proxy: the one that scripts/install_proxy puts beside this Python, or one on the PATH."""
    beside = shutil.which("configurable-http-proxy", path=str(Path(sys.executable).parent))
    return beside or shutil.which("configurable-http-proxy")


class Hub:
    """A running hub. address: "http://127.0.0.1:PORT". homes: the folder of the users' home folders."""

    def __init__(self, folder: Path, port: int, process: "subprocess.Popen[bytes]") -> None:
        self.folder, self.process, self.address = folder, process, f"http://127.0.0.1:{port}"
        self.homes = folder / "homes"

    @property
    def log(self) -> str:
        """What hub, proxy, culler and all servers have printed."""
        return (self.folder / "log").read_text()

    def login(self, user: str, next_page: str = "") -> requests.Session:
        """Fill in the form of the login page as a browser would; the session is logged in."""
        session = requests.Session()
        page = session.get(f"{self.address}/hub/login", params={"next": next_page} if next_page else None, timeout=60)
        (token,) = set(re.findall(r'name="_xsrf"\s+value="([^"]+)"', page.text))
        form = {"username": user, "password": PASSWORD, "_xsrf": token}
        session.post(page.url, data=form, timeout=60, allow_redirects=False).raise_for_status()
        return session

    def ask(self, session: requests.Session, method: str, path: str) -> requests.Response:
        """One request to the hub's API or to a server's, with the token against forgery that its pages send along."""
        home = path.split("/")[1]  # hub, user
        found = [one.value for one in session.cookies if one.name == "_xsrf" and one.path.startswith(f"/{home}/")]
        headers = {"X-XSRFToken": str(found[-1])} if found else {}
        return session.request(method, f"{self.address}{path}", headers=headers, timeout=60, allow_redirects=False)

    def start_servers(self, sessions: dict[str, requests.Session]) -> None:
        """Start the server of every user, wait until all are ready, and enter each."""
        for user, session in sessions.items():
            session.get(f"{self.address}/hub/spawn/{user}", timeout=60)
        for user, session in sessions.items():
            self.wait(lambda session=session, user=user: self.is_ready(session, user), lambda: self.log)
            # the way in leads over the hub, which gives the session its cookie for this server
            assert session.get(f"{self.address}/user/{user}/voila/tree", timeout=60).status_code == 200

    def wait(self, until: Callable[[], object], says: Callable[[], object]) -> None:
        """Until it is true; an error with what `says` says if that takes minutes, or once it says nothing any more."""
        patience = time.monotonic() + PATIENCE
        while not until():
            assert self.process.poll() is None, f"the hub ended:\n{self.log}"
            assert says() is not False and time.monotonic() < patience, says()
            time.sleep(0.5)

    def is_ready(self, session: requests.Session, user: str) -> bool:
        """Whether the user's server runs and can be reached."""
        return bool(self.servers(session, user).get("", {}).get("ready"))

    def servers(self, session: requests.Session, user: str) -> dict[str, dict[str, object]]:
        """The user's servers as the hub tells of them, by name; those that are being stopped too."""
        found: dict[str, dict[str, object]] = self.ask(session, "GET", f"/hub/api/users/{user}").json()["servers"]
        return found


@contextmanager
def running_hub(folder: Path, **environment: str) -> Iterator[Hub]:
    """A hub in `folder` with the users ada and grace@example.org; `environment` is what their servers get besides."""
    proxy = find_proxy()
    if proxy is None:
        message = "JupyterHub's proxy is missing: 'make install-test' brings it where there are Node and npm"
        # in CI, a machine that could have it must have it
        pytest.fail(message) if os.environ.get("CI") and shutil.which("npm") else pytest.skip(message)
    port, hub_port, proxy_port = _free_ports(3)
    homes = folder / "homes"
    for user in USERS:
        (homes / user).mkdir(parents=True)
    values = {"config": str(ROOT / "binder/jupyterhub_config.py"), "password": PASSWORD, "users": set(USERS)}
    values |= {"homes": str(homes), "port": port, "hub_port": hub_port, "proxy_port": proxy_port, "proxy": proxy}
    values["environment"] = {"PYTHONPATH": str(ROOT), **environment}
    (folder / "site_config.py").write_text(SITE.format(**values))
    command = [sys.executable, "-m", "jupyterhub", "-f", "site_config.py"]
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(command, cwd=folder, env=_environment(folder), stdout=log, stderr=log)
        hub = Hub(folder, port, process)
        try:
            _wait_until_it_answers(hub)
            yield hub
        finally:
            process.terminate()
            process.wait(60)


def _environment(folder: Path) -> dict[str, str]:
    """This process's, without what would lead servers to this user's own Jupyter."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("JUPYTER", "GATING_EXPLORER"))}
    return kept | {"HOME": str(folder), "PYTHONPATH": str(ROOT), "NO_COLOR": "1"}


def _free_ports(count: int) -> list[int]:
    probes = [socket.socket() for _ in range(count)]
    try:
        for probe in probes:
            probe.bind(("127.0.0.1", 0))
        return [int(probe.getsockname()[1]) for probe in probes]
    finally:
        for probe in probes:
            probe.close()


def _wait_until_it_answers(hub: Hub) -> None:
    until = time.monotonic() + PATIENCE
    while True:
        assert hub.process.poll() is None, f"the hub ended:\n{hub.log}"
        try:
            if requests.get(f"{hub.address}/hub/health", timeout=5).status_code == 200:
                return
        except requests.RequestException:
            pass
        assert time.monotonic() < until, f"the hub does not answer:\n{hub.log}"
        time.sleep(0.1)
