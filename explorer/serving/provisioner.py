"""How the server gets kernels: forked by a zygote (zygote.py) where that is possible, else as plain processes."""

import asyncio
import atexit
import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Sequence
from importlib.metadata import EntryPoint
from pathlib import Path
from typing import Any

from jupyter_client.connect import KernelConnectionInfo
from jupyter_client.provisioning import KernelProvisionerFactory, LocalProvisioner
from tornado.ioloop import IOLoop

from explorer.errors import ExplorerError
from explorer.serving import quick

NAME = "gating-explorer"
WARM_SECONDS = 120.0  # that the zygote has to get warm; pages asked for meanwhile wait for it
FORK_SECONDS = 10.0
END_SECONDS = 5.0
REVIVE_SECONDS = 60.0  # between the starts of two zygotes
ENDED = "the process that forks kernels has ended"


class NoZygote(ExplorerError):
    """No kernel can be forked: this system cannot, or the zygote has ended."""


class Forked:
    """A kernel of the zygote's, as `subprocess.Popen` would show it to its provisioner."""

    stdin = stdout = stderr = None

    def __init__(self, zygote: "ZygoteClient", pid: int) -> None:
        self.zygote, self.pid = zygote, pid
        self.returncode: int | None = None

    def poll(self) -> int | None:
        """The exit code, None while it runs; a kernel whose zygote has ended ends within a second."""
        if self.returncode is None and not self.zygote.alive:
            self.returncode = -signal.SIGKILL
        return self.returncode

    def wait(self) -> int | None:
        """The provisioner has polled until there is one."""
        return self.poll()

    def send_signal(self, number: int) -> None:
        """To the kernel and what it started."""
        if self.poll() is None:
            self.zygote.tell({"signal": int(number), "pid": self.pid})

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)

    def terminate(self) -> None:
        self.send_signal(signal.SIGTERM)


class ZygoteClient:
    """The server's end: starts the process at once, and talks with it from the first kernel that is wanted.

    command: the module that is the zygote, and what follows the number of its socket on its command line.
    """

    def __init__(self, command: Sequence[str]) -> None:
        if sys.platform != "linux":
            # where fork is said to exist, macOS among them, libraries that torch uses do not survive it
            raise NoZygote("kernels are forked on Linux only")
        self._socket, theirs = socket.socketpair()
        module, *arguments = command
        # a session of its own: Ctrl-C reaches the server alone
        self.process = subprocess.Popen(
            [sys.executable, "-P", "-m", module, str(theirs.fileno()), *arguments],
            # pyarrow's allocator would start a thread, which a fork does not copy
            env=os.environ | {"JE_ARROW_MALLOC_CONF": "background_thread:false"},
            pass_fds=[theirs.fileno()],
            stdin=subprocess.DEVNULL,
            start_new_session=True,
        )
        theirs.close()
        self.facts: dict[str, Any] = {}
        self.kernels: dict[int, Forked] = {}
        self.alive = True
        self._asked: dict[int, asyncio.Future[int]] = {}
        self._number = 0
        self._reading: asyncio.Task[None] | None = None
        self._ready: asyncio.Event | None = None
        self._writer: asyncio.StreamWriter | None = None

    async def ready(self) -> None:
        """Wait until it is warm."""
        if self._ready is None and self.alive:
            self._ready = asyncio.Event()
            reader, self._writer = await asyncio.open_unix_connection(sock=self._socket)
            self._reading = asyncio.create_task(self._read(reader))
        try:
            if self._ready:
                await asyncio.wait_for(self._ready.wait(), WARM_SECONDS)
        except TimeoutError:
            self.close()
        if not self.alive:
            raise NoZygote(ENDED)

    async def fork(self, order: dict[str, Any]) -> Forked:
        """A new kernel; NoZygote where there can be none."""
        await self.ready()
        self._number += 1
        number = self._number
        answer = self._asked[number] = asyncio.get_running_loop().create_future()
        self.tell({"fork": number, **order})
        try:
            pid = await asyncio.wait_for(answer, FORK_SECONDS)
        except TimeoutError:
            self.close()  # a kernel that came later would be nobody's
            raise NoZygote("the process that forks kernels does not answer") from None
        finally:
            self._asked.pop(number, None)
        return self.kernels[pid]

    def tell(self, what: dict[str, Any]) -> None:
        """Send an order; if nobody is there any more, the reader notices."""
        assert self._writer
        self._writer.write(json.dumps(what).encode() + b"\n")

    async def _read(self, reader: asyncio.StreamReader) -> None:
        assert self._ready
        try:
            while line := await reader.readline():
                self._heard(json.loads(line))
        finally:
            self.close()

    def _heard(self, what: dict[str, Any]) -> None:
        if "ready" in what:
            self.facts = what
            if what["threads"] > 1:
                self.close()
            assert self._ready
            self._ready.set()
        elif "gone" in what:
            self.kernels.pop(what["gone"]).returncode = what["status"]
        elif (answer := self._asked.get(what["fork"])) and not answer.done():
            if "error" in what:
                answer.set_exception(NoZygote(f"no kernel can be forked: {what['error']}"))
            else:
                self.kernels[what["pid"]] = Forked(self, what["pid"])
                answer.set_result(what["pid"])

    def end(self) -> None:
        """Close it, and wait until it and its kernels are gone."""
        self.close()
        if self._reading and not self._reading.done():
            loop = self._reading.get_loop()  # a grader's stands still between two submissions
            if not loop.is_running() and not loop.is_closed():
                loop.run_until_complete(self._reading)
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.process.wait(END_SECONDS)

    def close(self) -> None:
        """Let it end, and with it its kernels."""
        self.alive = False
        for answer in self._asked.values():
            if not answer.done():
                answer.set_exception(NoZygote(ENDED))
        if self._ready:
            self._ready.set()
        with contextlib.suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.process.wait(0)


class Kernels:
    """What is common to all kernels of this server: the zygote, if there is one, and their limits."""

    zygote: ZygoteClient | None = None
    command: Sequence[str] = ("explorer.serving.zygote",)
    why_plain = "kernels are forked by a server for a class"
    nice = 0
    memory = 0  # bytes of data that a kernel may have; 0: no ceiling
    forked = plain = 0  # how many there have been
    started = 0.0  # when the zygote was, on the clock of time.monotonic

    @classmethod
    def start_zygote(cls) -> None:
        """Let one warm up, if this system can."""
        cls.started = time.monotonic()
        try:
            cls.zygote = ZygoteClient(cls.command)
        except (NoZygote, OSError) as reason:
            cls.why_plain = str(reason)
        else:
            atexit.register(cls.zygote.end)

    @classmethod
    def revive(cls) -> None:
        """Start another in place of one that was killed; the kernel that is wanted now does not wait for it."""
        fit = cls.zygote is not None and not cls.zygote.alive and cls.zygote.facts.get("threads") == 1
        if fit and time.monotonic() - cls.started > REVIVE_SECONDS:
            cls.start_zygote()

    @classmethod
    def kind(cls) -> str:
        """In words, for the log and for /health."""
        if cls.zygote and cls.zygote.alive:
            return "forked" if cls.zygote.facts else "forked (warming up)"
        return f"plain ({cls.why_plain or ENDED})"


class Provisioner(LocalProvisioner):
    """Forks kernels of this very Python; others, and all of them where there is no zygote, are started plain."""

    async def launch_kernel(self, cmd: list[str], **kwargs: Any) -> KernelConnectionInfo:
        """Launch it; when the zygote has ended, that is said once, and plain kernels take over until there is another."""
        if Kernels.zygote and _is_ours(cmd):
            order = {"argv": cmd[3:], "env": kwargs["env"], "cwd": str(kwargs.get("cwd") or Path.cwd())}
            try:
                forked = await Kernels.zygote.fork(order | {"nice": Kernels.nice, "memory": Kernels.memory})
            except NoZygote as reason:
                if Kernels.why_plain != str(reason):
                    self.log.warning("kernels are plain for now: %s", reason)
                Kernels.why_plain = str(reason)
            else:
                Kernels.forked += 1
                Kernels.why_plain = ""
                # all that a provisioner asks of a process, it answers
                self.process = forked  # type: ignore[assignment]
                self.pid, self.pgid = forked.pid, None
                self.cwd = order["cwd"]
                return self.connection_info
        Kernels.plain += 1
        Kernels.revive()
        info = await super().launch_kernel(cmd, **kwargs)
        _limit(self.pid)
        return info


def _is_ours(cmd: list[str]) -> bool:
    """Whether it is a kernel of this environment; the Pythons of two are often links to one."""
    same = [_place(cmd[0]), os.path.realpath(cmd[0])] == [_place(sys.executable), os.path.realpath(sys.executable)]
    return same and cmd[1:3] == ["-m", "ipykernel_launcher"]


def _place(python: str) -> str:
    return os.path.realpath(Path(python).parent)


def _limit(pid: int | None) -> None:
    """The limits of a plain kernel, where the system has them."""
    if pid is None or sys.platform != "linux":
        return
    import resource

    with contextlib.suppress(OSError, ProcessLookupError):
        if Kernels.memory:
            resource.prlimit(pid, resource.RLIMIT_DATA, (Kernels.memory, Kernels.memory))
        if Kernels.nice:
            os.setpriority(os.PRIO_PGRP, pid, os.getpriority(os.PRIO_PROCESS, 0) + Kernels.nice)
            # each of these has a session of its own, and Linux divides the cores between sessions first
            Path(f"/proc/{pid}/autogroup").write_text(str(Kernels.nice))


def install(app: Any, nice: int = 0, memory: int = 0) -> None:
    """Let the kernels of this server come from a zygote, which begins to warm up now."""
    Kernels.nice, Kernels.memory = nice, memory
    Kernels.start_zygote()
    fork_from_it(KernelProvisionerFactory.instance(parent=app))
    IOLoop.current().add_callback(_listen)
    quick.read_only_what_tells(app.kernel_manager)


def fork_from_it(factory: KernelProvisionerFactory) -> None:
    """Kernels whose specification names nothing else come from our provisioner."""
    factory.provisioners[NAME] = EntryPoint(NAME, f"{__name__}:Provisioner", KernelProvisionerFactory.GROUP_NAME)
    factory.default_provisioner_name = NAME


async def _listen() -> None:
    """Hear from the zygote as soon as the server runs, and not only when the first kernel is wanted."""
    if Kernels.zygote:
        with contextlib.suppress(NoZygote):
            await Kernels.zygote.ready()
