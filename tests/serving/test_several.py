"""Several processes behind one address: one room, everybody with his own kernel, and plain words when a process ends."""

import asyncio
import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import psutil
import pytest
from hypothesis import given
from hypothesis import strategies as st

from explorer import serving
from explorer.errors import BadValue
from explorer.serving import proxy
from explorer.serving.several import Processes, Worker
from tests.classroom.client import Page
from tests.serving.test_provisioner import FACTS, WIDGETS
from tests.test_serving import ROOT, Running, still_running, write_notebook

TOKEN = "sesame"


@pytest.mark.parametrize(("people", "processes"), [(0, 2), (30, 0), (30, 17)])
def test_a_wrong_number_of_processes_is_one_sentence(people: int, processes: int) -> None:
    with pytest.raises(BadValue, match=rf"^{processes} processes: a class may have 1 to 16, and a server without one"):
        serving.serve(port=0, browser=False, people=people, processes=processes)


def test_the_process_in_front_carries_no_server_and_no_torch() -> None:
    """It starts first, and the others only then."""
    program = (
        "import sys, explorer.serving.several\n"
        "print({'voila', 'jupyter_server', 'jsonschema', 'torch', 'zmq'} & set(sys.modules))\n"
    )
    run = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert run.stdout.strip() == "set()", run.stderr


def room_of(*running: int, ready: bool = True) -> Processes:
    """Processes that were never started, with so many pages each."""
    settings = {"base_url": "/x/", "class": 4, "processes": len(running)}
    made = Processes(settings)
    for worker, pages in zip(made.workers, running, strict=True):
        worker.kernels = {f"{number}" for number in range(pages)}
        worker.facts = {"kernels": {"started": pages, "ended": {"closed": 1}, "kind": "forked"}}
        worker.process = SimpleNamespace(poll=lambda: None if ready else 1)  # type: ignore[assignment]
        worker.restarts = 0
    return made


KERNEL = "01234567-89ab-cdef-0123-456789abcdef"


def test_a_page_goes_where_the_fewest_are() -> None:
    room = room_of(2, 1, 3)
    assert room.any() is room.workers[1]
    room.workers[1].coming = {"a", "b"}
    assert room.any() is room.workers[0]
    assert room.taken() == 8
    assert room_of(1, 1, ready=False).any() is None


def test_an_address_with_a_kernel_goes_to_its_process() -> None:
    room = room_of(2, 0)
    room.workers[0].kernels.add(KERNEL)
    assert room.of(f"/x/api/kernels/{KERNEL}/channels") is room.workers[0]
    assert room.of(f"/x/voila/api/shutdown/{KERNEL}") is room.workers[0]
    room.workers[0].over({KERNEL})
    assert room.of(f"/x/voila/session/{KERNEL}") is room.workers[0], "it knows why"
    assert room.of("/x/voila/static/voila.js") is room.workers[1]
    assert room.of(f"/x/api/kernels/{KERNEL[::-1]}/channels") is room.workers[1]


def test_a_page_counts_once_from_its_request_to_its_end() -> None:
    worker, counted = Worker({}), []

    def does(what: Callable[..., None], *settings: Any) -> None:
        what(*settings)
        counted.append(worker.pages())

    does(worker.coming.add, "page")
    before = worker.running()
    does(worker.heard, {KERNEL}, before)  # the process has started its kernel, the page has not begun
    does(worker.told, "page", KERNEL)
    does(worker.heard, set(), before)  # an answer from before its kernel
    does(worker.heard, {KERNEL}, worker.running())
    does(worker.coming.discard, "page")  # the page has been answered to its end
    assert counted == [1, 1, 1, 1, 1, 1]
    before = worker.running()
    worker.over({KERNEL})
    assert worker.pages() == 0
    worker.heard({KERNEL}, before)  # an answer from before its end
    assert worker.pages() == 0


def test_a_kernel_that_no_page_told_of_takes_a_place_until_it_ends() -> None:
    worker = Worker({})
    worker.coming.add("page")
    worker.heard({KERNEL}, set())
    worker.coming.discard("page")  # it failed while it was made
    assert (worker.pages(), worker.running()) == (1, {KERNEL})
    worker.heard(set(), worker.running())
    assert worker.pages() == 0


@given(
    st.lists(st.tuples(st.sampled_from(["ask", "start", "tell", "end", "look", "sample", "hear"]), st.integers(0, 3)))
)
def test_no_order_of_events_counts_a_page_twice_or_forgets_it(events: list[tuple[str, int]]) -> None:
    worker = Worker({})
    coming, started, told, ended = (set[str]() for _ in range(4))
    before: set[str] | None = None
    answer: set[str] | None = None
    for what, number in events:
        name = f"{number}"
        if what == "ask" and not coming & {name} and not started & {name}:
            coming.add(name)
            worker.coming.add(name)
        elif what == "start" and name in coming:
            started.add(name)
        elif what == "tell" and name in started & coming:
            coming.discard(name)
            told.add(name)
            worker.told(name, name)
        elif what == "end" and name in told - ended:  # asked for by its page
            ended.add(name)
            worker.over({name})
        elif what == "look" and before is None:
            before = worker.running()
        elif what == "sample" and before is not None:
            answer = started - ended
        elif what == "hear" and before is not None and answer is not None:
            worker.heard(answer, before)
            before = answer = None
        assert worker.pages() == len(coming) + len(told - ended)


def test_what_a_dead_process_still_says_does_not_count() -> None:
    room = room_of(2, 0, ready=False)
    dead = room.workers[0]
    dead.coming.add("page")
    room._ask = lambda worker: asyncio.sleep(0)  # type: ignore[method-assign]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Worker, "start", lambda _: None)
        asyncio.run(room.look())
    assert dead not in room.workers
    dead.told("page", KERNEL)
    dead.coming.discard("page")
    assert (room.taken(), set(room.lost), room.facts()["processes"]["restarts"]) == (0, {"0", "1"}, 2)


def test_the_facts_of_all_are_one() -> None:
    facts = room_of(2, 1).facts()
    kernels = facts["kernels"]
    assert (kernels["running"], kernels["started"], kernels["ended"]) == (3, 3, {"closed": 2})
    assert (kernels["kind"], kernels["places"]) == ("forked", 6)
    assert facts["processes"] == {"running": 2, "restarts": 0}


def test_what_belongs_to_a_connection_is_not_passed_on() -> None:
    from tornado.httputil import HTTPHeaders

    sent = {"Host": "class.example", "Cookie": "a=b", "Connection": "Upgrade", "Sec-WebSocket-Key": "x", "Origin": "o"}
    request = SimpleNamespace(headers=HTTPHeaders(sent), protocol="https")
    assert dict(proxy.passed_on(request)) == {
        "Host": "class.example", "Cookie": "a=b", "Origin": "o", "X-Forwarded-Proto": "https",
    }  # fmt: skip


# --- a running room of two processes, for two people: four places ------------------------------------------------------


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    folder = tmp_path_factory.mktemp("several")
    write_notebook(folder / "widgets.ipynb", WIDGETS)
    write_notebook(folder / "facts.ipynb", FACTS)
    call = (
        f"serve(port=0, browser=False, people=2, processes=2, token={TOKEN!r}, base_url='/x/', pages={str(folder)!r})"
    )
    server = Running(call, {**os.environ, "PYTHONPATH": str(ROOT)}, folder)
    until(lambda: health(server)["processes"]["running"] == 2)
    yield server
    server.stop(signal.SIGINT)


def until(true: Any, seconds: float = 120) -> None:
    """Wait for it, for as long as a slow machine may need."""
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end
        time.sleep(0.1)


def health(running: Running) -> dict[str, Any]:
    told: dict[str, Any] = json.loads(running.get("health")[2])
    return told


def address(running: Running) -> str:
    return f"http://127.0.0.1:{running.port}{running.base_url}?token={TOKEN}"


async def visit(running: Running) -> Page:
    """A page whose button counts."""
    page = await Page(address(running), "widgets.ipynb").open()
    await press(page)
    return page


async def press(page: Page) -> str:
    label, button = await page.find("shown"), await page.find("Count")
    before = page.states[label]["value"]
    page.click(button)
    await page.until(lambda: page.states[label]["value"] != before, 60)
    return str(page.states[label]["value"])


def test_pages_are_shared_out_and_each_has_its_own_kernel(running: Running) -> None:
    async def two() -> list[str]:
        pages = [await visit(running) for _ in range(2)]
        counted = [await press(pages[0]), await press(pages[0]), await press(pages[1])]
        assert len({one.kernel for one in pages}) == 2
        for one in pages:
            await one.leave()
        return counted

    assert asyncio.run(two()) == ["2", "3", "2"]
    until(lambda: health(running)["kernels"]["started"] >= 2)
    until(lambda: health(running)["kernels"]["running"] == 0)


def test_a_closed_room_asks_for_its_token(running: Running) -> None:
    assert running.get("voila/render/facts.ipynb")[0] in (302, 403)
    status, headers, page = running.get(f"voila/render/facts.ipynb?token={TOKEN}")
    assert status == 200 and "FACTS" in page
    assert "Set-Cookie" in headers, "who has come in once need not say the token again"
    leave(running, page)


def test_who_has_come_in_once_is_known_by_his_cookie(running: Running) -> None:
    async def twice() -> list[str]:
        visitor = Page(address(running))
        first = await visitor.fetch("voila/render/facts.ipynb")
        visitor.token = ""
        again = await visitor.fetch("voila/render/facts.ipynb")
        assert (first.code, again.code) == (200, 200)
        return [one.body.decode() for one in (first, again)]

    for page in asyncio.run(twice()):
        leave(running, page)


def leave(running: Running, page: str) -> None:
    async def go() -> None:
        gone = Page(address(running))
        gone.kernel = re.findall(r'kernelId": "([0-9a-f-]{36})"', page)[0]
        await gone.leave()

    asyncio.run(go())


def test_a_full_room_has_one_line(running: Running) -> None:
    until(lambda: health(running)["kernels"]["running"] == 0)
    path = f"voila/render/facts.ipynb?token={TOKEN}"
    pages = []
    for there in range(1, 5):
        status, _, page = running.get(path)
        assert (status, health(running)["kernels"]["running"]) == (200, there)
        pages.append(page)
    status, headers, page = running.get(path)
    assert (status, "You are first in line" in page) == (503, True)
    # who has no token waits for nothing
    assert running.get("voila/render/facts.ipynb")[0] in (302, 403)
    assert running.get("voila/render/facts.ipynb?token=wrong", Cookie="gating-explorer-place=x")[0] in (302, 403)
    assert health(running)["kernels"]["waiting"] == 1
    assert "You are second in line" in running.get(path)[2]
    leave(running, pages.pop())
    cookie = headers["Set-Cookie"].split(";")[0]
    # the place is free at once, and it belongs to who has waited longer
    assert "You are second in line" in running.get(path)[2]
    status, _, page = running.get(path, Cookie=cookie)
    assert status == 200
    for one in (*pages, page):
        leave(running, one)
    assert health(running)["kernels"]["running"] == 0


@pytest.mark.parametrize(
    "target", ["@127.0.0.1:1/", "http://127.0.0.1:1/", "?@x/", "@127.0.0.1:1/api/kernels/x/channels"]
)
def test_nothing_but_a_path_is_passed_on(running: Running, target: str) -> None:
    with socket.create_connection(("127.0.0.1", running.port), timeout=60) as line:
        line.sendall(f"GET {target} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n".encode())
        assert line.makefile("rb").readline().split()[1] in (b"400", b"404")


def test_the_names_of_kernels_are_told_to_nobody(running: Running) -> None:
    for path in ("health/", "health/x", f"health/{TOKEN}"):
        assert running.get(f"{path}?token={TOKEN}")[0] == 404
    assert "names" not in health(running)


def test_a_process_that_ends_is_started_anew_and_its_pages_are_told(running: Running) -> None:
    async def doomed() -> dict[str, Any]:
        page = await visit(running)
        kernel = page.kernel
        workers = [one for one in psutil.Process(running.family()[0].pid).children() if "server.py" in _last(one)]
        assert len(workers) == 2
        (its,) = [one for one in workers if _has_kernel(one)]
        its.kill()
        with pytest.raises(Exception, match="closed the connection"):
            await page.until(lambda: False, 60)
        found: dict[str, Any] = {}
        while found.get("said") is None:
            answer = await page.fetch(f"voila/session/{kernel}")
            found = json.loads(answer.body) if answer.code == 200 else {}
            await asyncio.sleep(0.1)
        return found

    told = asyncio.run(doomed())
    assert (told["running"], told["said"]) == (False, proxy.ENDED)
    until(lambda: health(running)["processes"] == {"running": 2, "restarts": 1})
    assert running.get(f"voila/render/facts.ipynb?token={TOKEN}")[0] == 200


def _last(process: psutil.Process) -> str:
    return process.cmdline()[-1] if process.cmdline() else ""


def _has_kernel(worker: psutil.Process) -> bool:
    return any(zygote.children() for zygote in worker.children())


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL])
def test_nothing_of_it_is_left_behind(tmp_path: Path, number: signal.Signals) -> None:
    write_notebook(tmp_path / "facts.ipynb", FACTS)
    call = f"serve(port=0, browser=False, people=1, processes=2, pages={str(tmp_path)!r})"
    doomed = Running(call, {**os.environ, "PYTHONPATH": str(ROOT)}, tmp_path)
    assert doomed.get("voila/render/facts.ipynb")[0] == 200
    family = doomed.family()
    assert len(family) >= 4, "the front, its processes and a kernel"
    doomed.stop(number)
    assert still_running(family) == []
