"""Kernels are watched: which end, why, what their pages are told, and what the log says; nothing here waits for a time."""

import asyncio
import logging

import pytest
from tornado.web import HTTPError

from explorer.serving import watch


class Running:
    """A kernel's own manager."""

    shutting_down = False
    has_kernel = True

    def __init__(self) -> None:
        self.code: int | None = None
        self.restarter = True
        self.provisioner = self.process = self

    @property
    def returncode(self) -> int | None:
        return self.code

    async def is_alive(self) -> bool:
        return self.code is None

    def stop_restarter(self) -> None:
        self.restarter = False


class Manager:
    """Of kernels that are only names."""

    cull_idle_timeout = 900

    def __init__(self) -> None:
        self._kernel_connections: dict[str, int] = {}
        self.kernels: dict[str, Running] = {}

    def list_kernel_ids(self) -> list[str]:
        return list(self.kernels)

    def get_kernel(self, kernel: str) -> Running:
        return self.kernels[kernel]

    async def start_kernel(self, name: str, env: dict[str, str]) -> str:
        self.kernels[name], self._kernel_connections[name] = Running(), 1
        return name

    async def shutdown_kernel(self, kernel: str, now: bool = False) -> None:
        del self.kernels[kernel]
        del self._kernel_connections[kernel]

    async def cull_kernel_if_idle(self, kernel: str) -> None:
        if kernel == "idle":
            await self.shutdown_kernel(kernel)

    async def restart_kernel(self, kernel: str) -> None:
        """A stub."""


class Looking:
    """Stands for the clock that makes a watch look."""

    def __init__(self, look: object, milliseconds: float) -> None:
        """As PeriodicCallback."""

    def start(self) -> None:
        """Nothing: the tests look."""


@pytest.fixture
def watched(monkeypatch: pytest.MonkeyPatch) -> watch.Watch:
    monkeypatch.setattr(watch, "PeriodicCallback", Looking)
    found = watch.Watch(alone=180)
    found.open(Manager())
    return found


def begin(watched: watch.Watch, *names: str) -> None:
    for name in names:
        asyncio.run(watched.manager.start_kernel(name, env={watch.PAGE: "http://localhost/"}))


def test_a_kernel_whose_page_stays_away_is_ended(watched: watch.Watch, monkeypatch: pytest.MonkeyPatch) -> None:
    now = 1000.0
    monkeypatch.setattr(watch.time, "monotonic", lambda: now)
    begin(watched, "open", "orphan", "loading")
    connections = watched.manager._kernel_connections
    connections |= {"orphan": 0, "loading": 0}
    asyncio.run(watched.look())
    now += 90
    connections["loading"] = 1
    asyncio.run(watched.look())
    now += 91
    asyncio.run(watched.look())
    assert watched.manager.list_kernel_ids() == ["open", "loading"]
    assert watched.answer("orphan")["why"] == "alone"
    # it begins anew when a page goes away
    connections["open"] = 0
    asyncio.run(watched.look())
    assert "open" in watched.pages


@pytest.mark.parametrize("status", [404, 500])
def test_a_goodbye_to_a_kernel_that_is_gone_already_is_no_error(
    watched: watch.Watch, monkeypatch: pytest.MonkeyPatch, status: int
) -> None:
    begin(watched, "page")

    async def gone(kernel: str) -> None:
        raise HTTPError(status, f"there is no kernel {kernel}")

    monkeypatch.setattr(watched, "_shutdown", gone)
    if status == 404:
        asyncio.run(watched.manager.shutdown_kernel("page"))
    else:
        with pytest.raises(HTTPError):
            asyncio.run(watched.manager.shutdown_kernel("page"))
    assert watched.answer("page")["why"] == "closed"
    # a kernel that was never a page's is its owner's affair
    with pytest.raises(HTTPError):
        asyncio.run(watched.manager.shutdown_kernel("notebook"))


@pytest.mark.parametrize(
    ("code", "why", "words"),
    [
        (-9, "signal", "its process was ended from outside (signal 9)"),
        (-11, "crash", "its process crashed (signal 11)"),
        (0, "exit", "its process ended by itself (exit code 0)"),
    ],
)
def test_a_kernel_that_dies_is_not_started_again_and_its_page_is_told_why(
    watched: watch.Watch, caplog: pytest.LogCaptureFixture, code: int, why: str, words: str
) -> None:
    begin(watched, "a" * 36)
    kernel = watched.manager.get_kernel("a" * 36)
    assert not kernel.restarter
    asyncio.run(watched.look())
    assert watched.answer("a" * 36)["running"]
    kernel.code = code
    logging.getLogger("gating-explorer").propagate = True  # a server of this process may have turned it off
    with caplog.at_level(logging.INFO, "gating-explorer"):
        asyncio.run(watched.look())
        asyncio.run(watched.look())
    told = watched.answer("a" * 36)
    assert (told["running"], told["why"], told["said"]) == (False, why, words)
    assert watched.manager.list_kernel_ids() == []
    assert [one.getMessage().startswith("kernel aaaaaaaa ended: ") for one in caplog.records] == [True]


def test_the_system_that_kills_for_want_of_memory_is_found_out(
    watched: watch.Watch, monkeypatch: pytest.MonkeyPatch
) -> None:
    begin(watched, "one", "two")
    monkeypatch.setattr(watch, "_kills_for_memory", lambda: watched._kills + 1)
    watched.manager.get_kernel("one").code = -9
    asyncio.run(watched.look())
    assert watched.answer("one")["why"] == "memory"
    monkeypatch.setattr(watch, "_kills_for_memory", lambda: watched._kills)
    watched.manager.get_kernel("two").code = -9
    asyncio.run(watched.look())
    assert watched.answer("two")["why"] == "signal"


def test_every_other_end_has_its_reason_too(watched: watch.Watch) -> None:
    begin(watched, "closed", "idle", "busy", "anew")
    asyncio.run(watched.manager.shutdown_kernel("closed"))
    asyncio.run(watched.manager.cull_kernel_if_idle("idle"))
    asyncio.run(watched.manager.cull_kernel_if_idle("busy"))
    asyncio.run(watched.manager.restart_kernel("anew"))
    assert {name: watched.answer(name).get("why") for name in ("closed", "idle", "busy", "anew")} == {
        "closed": "closed",
        "idle": "idle",
        "busy": None,
        "anew": "restarted",
    }
    assert "15 minutes" in watched.answer("idle")["said"]
    asyncio.run(watched.manager.shutdown_kernel("busy"))
    assert watched.answer("busy")["why"] == "closed", "the cull that did not happen is forgotten"
    assert watched.facts()["kernels"]["ended"] == {"closed": 2, "idle": 1, "restarted": 1}


def test_kernels_of_notebooks_are_left_alone(watched: watch.Watch) -> None:
    asyncio.run(watched.manager.start_kernel("notebook", env={}))
    watched.manager.get_kernel("notebook").code = -9
    asyncio.run(watched.look())
    assert watched.manager.list_kernel_ids() == ["notebook"]
    assert watched.manager.get_kernel("notebook").restarter
    assert not watched.answer("notebook")["running"] and "why" not in watched.answer("notebook")


def test_only_so_many_ends_are_remembered(watched: watch.Watch, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(watch, "REMEMBERED", 2)
    begin(watched, "a", "b", "c")
    for name in "abc":
        asyncio.run(watched.manager.shutdown_kernel(name))
    assert list(watched.ended) == ["b", "c"]
    assert watched.answer("a").keys() == {"running", "uptime"}
