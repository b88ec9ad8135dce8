"""Warm kernels: one process imports what every page needs, then forks a kernel a page, which starts at once and shares it.

`python -m explorer.serving.zygote FD` talks over that socket with the server that started it, a JSON object a line:
{"fork": number, "argv": [...], "env": {...}, "cwd": ..., "nice": ..., "memory": bytes} is answered by {"fork": number,
"pid": ...}; {"signal": ..., "pid": ...} reaches the kernel and what it started; {"gone": pid, "status": ...} tells of its
end. When the socket closes, because the server ended, however it ended, this process and its kernels end too.
What graders run on what students hand in is forked in the same way (explorer.lessons.graders.kernels).
"""

import contextlib
import gc
import importlib
import json
import os
import selectors
import signal
import socket
import sys
import time
from collections.abc import Callable, Sequence
from typing import Any

from explorer.serving.quiet import until_asked

# what a kernel needs, and what the labs import on their first page
KERNEL = (
    "ipykernel.debugger", "ipykernel.ipkernel", "ipykernel.kernelapp", "ipykernel.iostream", "ipykernel.zmqshell",
    "IPython.core.completer",
)  # fmt: skip
MODULES = (
    *KERNEL, "numpy", "pandas", "torch", "torch.optim", "plotly.graph_objects", "plotly.io",
    "ipywidgets", "anywidget", "explorer.experiment", "explorer.recording", "explorer.metrics", "explorer.analyses",
    "pygments.lexers.python", "pygments.formatters.html", "pygments.styles.default", "latex2mathml.converter",
    "widgets.labs", "widgets.labs.routing", "widgets.labs.attention", "widgets.labs.checkpoint", "widgets.labs.gallery",
    "explorer.lessons", "widgets.lessons", "widgets.lessons.running", "widgets.states.routing_view",
)  # fmt: skip
LABS = ("routing", "attention")  # built once, so that what is slow the first time has been done
PATIENCE = 2.0  # seconds that kernels have to end before they are killed
LOOK = 0.2  # seconds between two looks for kernels that have ended


def warm() -> dict[str, Any]:
    """Import it all and take one step of training, whose first is slow; returns what it took."""
    begun = time.perf_counter()
    import_all(MODULES)
    import torch

    torch.set_num_threads(1)
    fresh = torch.get_rng_state()
    for name in LABS:
        _build_once(name)
    torch.set_rng_state(fresh)
    return is_warm(begun)


def import_all(modules: Sequence[str]) -> None:
    """Those that are there: some are optional, or of another version."""
    # 40 MB and a fifth of a second for every kernel; nobody who uses one can reach a debugger
    sys.modules["debugpy"] = None  # type: ignore[assignment]
    for name in modules:
        with contextlib.suppress(ImportError):
            importlib.import_module(name)


def is_warm(begun: float) -> dict[str, Any]:
    """What the one who started this process is told."""
    gc.collect()
    # the collector would write to every page of memory that is shared
    gc.freeze()
    return {"ready": True, "seconds": round(time.perf_counter() - begun, 2), "threads": _threads()}


def _build_once(name: str) -> None:
    """A lab and its first steps; nothing of it is left. There is no kernel yet, so no widget of it reaches a page."""
    from explorer.errors import ExplorerError

    with contextlib.suppress(ExplorerError, ImportError):
        kind = importlib.import_module(f"widgets.labs.{name}").LAB
        lab = kind(kind.STATE(""))
        for _ in range(2):
            lab.one_step()
        lab.runs.close()
    importlib.import_module("ipywidgets").Widget.close_all()


def _threads() -> int:
    """Threads of this process: a fork copies the one that forks, and the locks that the others hold for ever."""
    with contextlib.suppress(OSError):
        return len(os.listdir("/proc/self/task"))
    return 1


class Zygote:
    """The loop. `run` returns None at the end, and in every child the order that it is to carry out."""

    def __init__(self, server: socket.socket, warm: Callable[[], dict[str, Any]]) -> None:
        self.server, self.warm = server, warm
        self.kernels: set[int] = set()
        self.unread = b""

    def run(self) -> dict[str, Any] | None:
        """Carry out orders until the server is gone."""
        self._tell(self.warm())
        with selectors.DefaultSelector() as waiting:
            waiting.register(self.server, selectors.EVENT_READ)
            while True:
                if waiting.select(LOOK):
                    orders = self._orders()
                    if orders is None:
                        break
                    for order in orders:
                        if self._carry_out(order):
                            return order
                self._reap()
        self._end()
        return None

    def _orders(self) -> list[dict[str, Any]] | None:
        try:
            came = self.server.recv(2**16)
        except OSError:
            came = b""
        if not came:
            return None
        *lines, self.unread = (self.unread + came).split(b"\n")
        return [json.loads(line) for line in lines]

    def _carry_out(self, order: dict[str, Any]) -> bool:
        """Whether this is the child that is to become a kernel."""
        if "fork" in order:
            try:
                pid = os.fork()
            except OSError as error:
                self._tell({"fork": order["fork"], "error": error.strerror})
                return False
            if pid == 0:
                return True
            self.kernels.add(pid)
            self._tell({"fork": order["fork"], "pid": pid})
        elif order["pid"] in self.kernels:  # not reaped yet: the number is still that kernel's
            _signal(order["pid"], order["signal"])
        return False

    def _reap(self) -> None:
        for pid in list(self.kernels):
            found, status = os.waitpid(pid, os.WNOHANG)
            if found:
                self.kernels.discard(pid)
                self._tell({"gone": pid, "status": os.waitstatus_to_exitcode(status)})

    def _tell(self, what: dict[str, Any]) -> None:
        with contextlib.suppress(OSError):
            self.server.sendall(json.dumps(what).encode() + b"\n")

    def _end(self) -> None:
        for number, seconds in ((signal.SIGTERM, PATIENCE), (signal.SIGKILL, PATIENCE)):
            for pid in self.kernels:
                _signal(pid, number)
            until = time.monotonic() + seconds
            while self.kernels and time.monotonic() < until:
                self._reap()
                time.sleep(0.05)


def _signal(pid: int, number: int) -> None:
    """To the kernel's group, which is its own as soon as it runs."""
    with contextlib.suppress(ProcessLookupError):
        try:
            os.killpg(pid, number)
        except ProcessLookupError:
            os.kill(pid, number)


def become_kernel(order: dict[str, Any], prepare: Callable[[Any], None]) -> None:
    """In the child: what a process of its own would have of its own, then the kernel until it is told to end.

    prepare: is called with the kernel before its first cell.
    """
    # a group of its own, for signals, but no session: Linux divides the cores between sessions first, so that thirty of them
    # would leave the server a thirtieth, however nice they are
    os.setpgid(0, 0)
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGCHLD):
        signal.signal(number, signal.SIG_DFL)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    with open(os.devnull) as nothing:
        os.dup2(nothing.fileno(), 0)
    os.environ.clear()
    os.environ.update(order["env"])
    os.chdir(order["cwd"])
    _limit(order)
    _draw_anew()

    from ipykernel.kernelapp import IPKernelApp

    sys.argv = ["ipykernel_launcher", *order["argv"]]
    app = IPKernelApp.instance()
    # without a history, which would be one more thread and a file in the home folder
    own = [f"--IPKernelApp.parent_handle={os.getppid()}", "--HistoryManager.enabled=False"]
    app.initialize([*order["argv"], *own])
    if "ipywidgets" in sys.modules:  # it does this when it is imported, but there was no kernel then
        sys.modules["ipywidgets"].register_comm_target(app.kernel)
    prepare(app.kernel)
    app.start()


def _limit(order: dict[str, Any]) -> None:
    import resource

    if order.get("nice"):
        os.nice(order["nice"])
    if order.get("memory"):
        resource.setrlimit(resource.RLIMIT_DATA, (order["memory"], order["memory"]))


def _draw_anew() -> None:
    """Random numbers of a kernel's own; torch draws what it draws in every fresh process, as Python's docs expect."""
    import numpy as np

    np.random.seed()  # noqa: NPY002 (the global state is what all kernels would share)


def main(warm: Callable[[], dict[str, Any]] = warm, prepare: Callable[[Any], None] = until_asked) -> None:
    """Be the zygote; in its children, be a kernel and end as one."""
    for number in (signal.SIGINT, signal.SIGTERM):
        # Ctrl-C in a terminal reaches every process in it; the server says when it is time
        signal.signal(number, signal.SIG_IGN)
    server = socket.socket(fileno=int(sys.argv[1]))
    order = Zygote(server, warm).run()
    server.close()
    if order is not None:
        become_kernel(order, prepare)


if __name__ == "__main__":
    main()
