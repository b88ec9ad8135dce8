"""The server process: Voila (or JupyterLab) with this project's configuration; settings arrive on standard input.

Run by its path and importing nothing of the project that would bring torch: the server of a class must not carry it.
"""

import contextlib
import functools
import gzip
import importlib.metadata
import importlib.util
import json
import logging
import os
import re
import shutil
import signal
import sys
import tempfile
import threading
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
# where a page finds plotly's own bundle: kernels inherit it and widgets/views hands it to the browser
PLOTLY_URL = "GATING_EXPLORER_PLOTLY_URL"
# the folder in which they keep their runs; widgets/states/kept.py
KEPT = "GATING_EXPLORER_KEPT"
# checks what browsers send to kernels
CONNECTION = "explorer.serving.guard.Guarded"
# the same, and keeps from readers what is meant for authors
READERS_CONNECTION = "explorer.serving.guard.Discreet"


def plotly_folder() -> str:
    """The folder of the bundle that plotly ships, found without importing plotly."""
    spec = importlib.util.find_spec("plotly")
    assert spec and spec.origin, "plotly is a dependency"
    return str(Path(spec.origin).parent / "package_data")


def plotly_url(kind: str, base_url: str) -> str:
    """Its address. The version makes it a new one after an update, so that browsers may keep it for good."""
    folder = "static" if kind == "lab" else "voila/plotly"
    return f"{base_url}{folder}/plotly.min.js?v={importlib.metadata.version('plotly')}"


def plotly_bundle() -> bytes:
    """The bundle, 4.8 MB."""
    return (Path(plotly_folder()) / "plotly.min.js").read_bytes()


@functools.cache
def packed_bundle() -> bytes:
    """Its gzip, 1.4 MB, which a server keeps from its first reader on."""
    return gzip.compress(plotly_bundle(), compresslevel=6, mtime=0)


def plotly_handler(base_url: str) -> tuple[str, Any]:
    """(address, handler) that serves the bundle as small as the browser can take it, to be kept for good."""
    from tornado.ioloop import IOLoop
    from tornado.web import RequestHandler

    class Plotly(RequestHandler):
        """One file; tornado adds its ETag and answers 304 to a browser that has it."""

        async def get(self) -> None:
            packed = "gzip" in self.request.headers.get("Accept-Encoding", "")
            # off the loop: the first reader must not hold up the others while it is packed
            content = await IOLoop.current().run_in_executor(None, packed_bundle if packed else plotly_bundle)
            self.set_header("Content-Type", "text/javascript")
            self.set_header("Cache-Control", "public, max-age=31536000, immutable")
            self.set_header("Vary", "Accept-Encoding")
            if packed:
                self.set_header("Content-Encoding", "gzip")
            self.finish(content)

        head = get

    return re.escape(f"{base_url}voila/plotly/plotly.min.js"), Plotly


def main() -> None:
    """Serve until a signal, or the end of the process that started this one."""
    settings = json.loads(sys.stdin.readline())
    # jsonschema imports it where it finds it, to check addresses that no notebook has: 2.5 of the 3.6 s that Voila needs
    sys.modules.setdefault("rfc3987_syntax", None)  # type: ignore[arg-type]
    threading.Thread(target=_stop_with_the_parent, daemon=True).start()
    os.environ[PLOTLY_URL] = plotly_url(settings["kind"], settings["base_url"])
    with contextlib.suppress(KeyboardInterrupt):
        {"voila": voila, "lab": lab}[settings["kind"]](settings)


def _stop_with_the_parent() -> None:
    """Standard input ends when the process that started us does: no server is left behind."""
    sys.stdin.read()
    os.kill(os.getpid(), signal.SIGTERM)


def voila(settings: dict[str, Any]) -> None:
    """Serve the pages."""
    voila_app(settings).start()


def voila_app(settings: dict[str, Any]) -> Any:
    """Voila, configured and not yet listening."""
    from jupyter_core.utils import run_sync
    from tornado.log import gen_log
    from voila.app import Voila

    from explorer.serving import answers, ports, quick
    from explorer.serving.guard import nowhere

    quick.install()

    class Pages(Voila):
        """Voila, which here also serves plotly's bundle and lists every page."""

        def init_settings(self) -> dict[str, Any]:
            settings: dict[str, Any] = super().init_settings()
            settings["voila_jinja2_env"].globals["pages"] = lambda: _pages(Path(self.root_dir))
            return settings | {"log_function": answers.log_request}

        def init_handlers(self) -> list[Any]:
            own = [
                nowhere(self.server_url),
                plotly_handler(self.server_url),
                *front_door(self.server_url, Path(self.root_dir)),
            ]
            return [*own, *watched(self, settings, super().init_handlers())]

        def listen(self) -> None:
            self.app.listen = lambda *_: ports.listen(self.app, settings)
            super().listen()

        def stop(self) -> None:
            """Voila removes the folder first, and leaves the kernels to themselves where it is already gone."""
            run_sync(self.kernel_manager.shutdown_all)()
            shutil.rmtree(self.connection_dir, ignore_errors=True)

    let_pages_say_goodbye()
    read_any_link()
    keep_runs()
    # our file alone: a voila.json that happens to lie in the current folder must not change the pages
    app = Pages.instance()
    # said of every page; it is about stored outputs, and pages have none
    app.log.addFilter(lambda record: "is not trusted" not in record.getMessage() and not answers.is_said_by_us(record))
    # said of every connection; a timeout that is no longer than the interval would end each of them at its first ping
    gen_log.addFilter(
        lambda record: "websocket_ping_timeout" not in record.getMessage() and not answers.is_said_by_us(record)
    )
    app.initialize(
        [
            f"--Voila.config_file_paths={HERE}",
            f"--Voila.ip={settings['host']}",
            f"--Voila.port={settings['port']}",
            f"--Voila.base_url={settings['base_url']}",
            f"--Voila.token={settings['token']}",
            f"--Voila.kernel_websocket_connection_class={READERS_CONNECTION}",
            "--MappingKernelManager.allow_tracebacks=False",
            "--Voila.log_level=WARN",
            f"--KernelManager.transport={_transport()}",
            *culling(),
            # processes behind one address must know each other's visitors
            *([f"--Voila.cookie_secret={settings['secret']}"] if "secret" in settings else []),
            settings["pages"],
        ]
    )
    quick.share_events(app)
    return app


def watched(app: Any, settings: dict[str, Any], handlers: list[Any]) -> list[Any]:
    """The handlers of a server that watches its kernels; with a class, these are forked, limited and counted too."""
    from explorer.serving import answers, watch

    handlers = answers.quietly(handlers)
    people = settings.get("class", 0)
    # one person wants to hear what went wrong, who looks after a room everything
    watch.begin_to_log(logging.INFO if people else logging.WARNING)
    if not people:
        alone = watch.Watch()
        alone.open(app.kernel_manager)
        return [*answers.handlers(alone, app.server_url), *handlers]
    from explorer.serving import provisioner, room

    provisioner.install(app, nice=room.NICE, memory=room.MEMORY)
    place = room.Room(people)
    place.open(app.kernel_manager)
    own = answers.handlers(place.watch, app.server_url, place.facts)
    if "front" in settings:
        # several.py counts by names what /health tells as a number
        names = {"facts": lambda: place.facts() | {"names": place.manager.list_kernel_ids()}}
        own.append((re.escape(f"{app.server_url}health/{settings['front']}"), answers.Health, names))
    return [*own, *room.with_room(handlers, place)]


def keep_runs() -> None:
    """Where kernels keep what their pages do, so that it can be gone on with after the end of a kernel or of this server."""
    os.environ.setdefault(KEPT, str(Path.home() / ".local/share/gating-explorer/kept"))


def culling() -> list[str]:
    """When to end idle kernels, if the environment says so and not voila.json."""
    from explorer.serving.watch import IDLE_SECONDS, seconds

    idle = seconds(IDLE_SECONDS, 0)
    names = {"cull_idle_timeout": max(1, int(idle)), "cull_interval": max(1, min(60, int(idle / 4)))}
    return [f"--MappingKernelManager.{name}={value}" for name, value in names.items()] if idle else []


def let_pages_say_goodbye() -> None:
    """A page that is left asks for its kernel to be ended, by a beacon, which cannot carry the token against forgery.

    Without this the server refuses, and every page left behind keeps its 300 MB until the kernel is culled. What is asked
    for can be asked only by who knows the kernel's id, which is random and was told to that page alone; who may talk to
    the server at all is checked as ever.
    """
    from voila.shutdown_kernel_handler import VoilaShutdownKernelHandler

    VoilaShutdownKernelHandler.check_xsrf_cookie = lambda _: None


def read_any_link() -> None:
    """A link that was mangled on its way opens the page all the same: what is no text in it becomes a replacement mark."""
    from voila.tornado.handler import TornadoVoilaHandler

    TornadoVoilaHandler.decode_argument = lambda _, value, name=None: value.decode(errors="replace")  # noqa: ARG005


def front_door(base_url: str, root: Path) -> list[Any]:
    """`/` opens the gallery where there is one; the plain list of pages is always at voila/tree."""
    from tornado.web import RedirectHandler

    if not (root / "index.ipynb").is_file():
        return []
    gallery = f"{base_url}voila/render/index.ipynb"  # the query goes along, the token in it too
    return [(re.escape(base_url), RedirectHandler, {"url": gallery, "permanent": False})]


def _pages(root: Path) -> list[str]:
    """Every notebook below `root`, as it stands in a link; hidden folders hold copies, not pages."""
    found = (path.relative_to(root) for path in root.rglob("*.ipynb"))
    return sorted(path.as_posix() for path in found if not any(part.startswith(".") for part in path.parts))


def _transport() -> str:
    """How server and kernels talk: by files that only this user may open, where their names are short enough.

    Over TCP every user of the machine could listen. The name of a unix socket has at most 104 bytes, and
    voila_*/kernel-*-ipc-* takes 66 of them.
    """
    return "ipc" if os.name == "posix" and len(tempfile.gettempdir()) < 38 else "tcp"


def lab(settings: dict[str, Any]) -> None:
    """Open the notebooks for change."""
    from jupyterlab.labapp import LabApp

    LabApp.launch_instance(
        [
            f"--ServerApp.ip={settings['host']}",
            f"--ServerApp.port={settings['port']}",
            "--ServerApp.port_retries=0",
            f"--ServerApp.base_url={settings['base_url']}",
            f"--IdentityProvider.token={settings['token']}",
            f"--ServerApp.root_dir={settings['pages']}",
            f"--ServerApp.extra_static_paths={plotly_folder()}",
            f"--ServerApp.kernel_websocket_connection_class={CONNECTION}",
            f"--ServerApp.tornado_settings={_tornado_settings()}",
            "--ServerApp.open_browser=False",
            "--ServerApp.allow_root=True",
            "--ServerApp.log_level=WARN",
        ]
    )


def _tornado_settings() -> dict[str, Any]:
    """Those of voila.json, for a server that is not Voila's."""
    settings: dict[str, Any] = json.loads((HERE / "voila.json").read_text())["Voila"]["tornado_settings"]
    return settings


if __name__ == "__main__":
    main()
