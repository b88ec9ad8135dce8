"""A server for a class: who comes in, who waits, where kernels come from, what they may take, and that none is left."""

import html
import json
import os
import re
import signal
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from explorer import serving
from explorer.errors import BadValue
from explorer.serving import line as waiting
from explorer.serving import room
from tests.test_serving import ROOT, still_running, write_notebook
from tests.test_serving import Running as Server

NICE = min(19, os.nice(0) + room.NICE)  # the tests themselves may run at a lower priority
LINUX = pytest.mark.skipif(sys.platform != "linux", reason="kernels are forked on Linux only")


# --- the line in front of a full room ---------------------------------------------------------------------------------


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def test_who_waits_longer_goes_first() -> None:
    line = waiting.Line(places=2, clock=Clock())
    assert [line.try_to_enter(who, taken) for who, taken in (("a", 0), ("b", 1))] == [0, 0]
    assert [line.try_to_enter(who, 2) for who in "cde"] == [1, 2, 3]
    # one place becomes free: whoever tries, it is c's
    assert line.try_to_enter("e", 1) == 2
    assert line.try_to_enter("new", 1) == 3
    assert line.try_to_enter("c", 1) == 0
    assert [line.try_to_enter(who, 2) for who in "de"] == [1, 2]


def test_who_stops_trying_leaves_the_line() -> None:
    clock = Clock()
    line = waiting.Line(places=1, clock=clock)
    assert [line.try_to_enter(who, 1) for who in "ab"] == [1, 2]
    clock.now += waiting.GONE / 2
    assert line.try_to_enter("b", 1) == 2
    clock.now += waiting.GONE / 2
    assert line.try_to_enter("b", 1) == 1
    assert line.try_to_enter("b", 0) == 0


def test_a_line_has_an_end() -> None:
    line = waiting.Line(places=0, clock=Clock())
    for number in range(3 * waiting.LONGEST_LINE):
        assert line.try_to_enter(str(number), 0) > 0
    assert len(line.seen) == waiting.LONGEST_LINE


def test_places_leave_room_for_a_second_page() -> None:
    assert [waiting.places_for(people) for people in (1, 8, 30)] == [3, 10, 37]


def test_the_waiting_page_says_which_place_and_tries_again() -> None:
    assert "You are third in line" in waiting.waiting_page(3)
    assert "You are number 42 in line" in waiting.waiting_page(42)
    assert f'http-equiv="refresh" content="{waiting.RETRY}"' in waiting.waiting_page(1)
    assert "<script" not in waiting.waiting_page(1)


def test_a_class_too_large_is_one_sentence() -> None:
    with pytest.raises(BadValue, match=r"^a class of 501 does not fit on one server; up to 500 do$"):
        serving.serve(port=0, browser=False, people=501)


# --- a running server for a class of one: three places ----------------------------------------------------------------

FACTS = """
import json, os, random, resource, sys
import ipywidgets, numpy, torch
facts = {"warm": "widgets.labs.lab" in sys.modules, "pid": os.getpid(), "parent": os.getppid(), "nice": os.nice(0)}
facts |= {"memory": resource.getrlimit(resource.RLIMIT_DATA)[0], "query": os.environ.get("QUERY_STRING")}
facts |= {"draws": [random.random(), numpy.random.random()], "torch": torch.rand(1).item(), "folder": os.getcwd()}
facts |= {"group": os.getpgid(0) == os.getpid(), "threads": torch.get_num_threads()}
print("FACTS", json.dumps(facts), "SENTINEL")
"""
GREEDY = """
import torch
try:
    kept = torch.ones(2**30)
    print("FACTS", '{"got": true}', "SENTINEL")
except (MemoryError, RuntimeError) as error:
    print("FACTS", '{"got": false}', "SENTINEL")
"""


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    folder = tmp_path_factory.mktemp("class")
    write_notebook(folder / "facts.ipynb", FACTS)
    write_notebook(folder / "greedy.ipynb", GREEDY)
    write_notebook(folder / "raises.ipynb", "raise RuntimeError('a secret')")
    call = f"serve(port=0, browser=False, people=1, pages={str(folder)!r})"
    server = Server(call, {**os.environ, "PYTHONPATH": str(ROOT)}, folder)
    yield server
    server.stop(signal.SIGINT)


@pytest.fixture(autouse=True)
def _empty_room(request: pytest.FixtureRequest) -> Iterator[None]:
    yield
    if "running" in request.fixturenames:
        leave_all(request.getfixturevalue("running"))


KERNELS: list[str] = []


def open_page(running: Server, path: str) -> tuple[int, str]:
    status, _, page = running.get(f"voila/render/{path}")
    KERNELS.extend(re.findall(r'kernelId": "([0-9a-f-]{36})"', page))
    return status, page


def facts_of(page: str) -> dict[str, object]:
    found = re.search(r"FACTS (\{.*?\}) SENTINEL", html.unescape(page))
    assert found, page[-2000:]
    facts: dict[str, object] = json.loads(found[1])
    return facts


def leave_all(running: Server) -> None:
    """As pages do that are closed."""
    import http.client

    while KERNELS:
        connection = http.client.HTTPConnection("127.0.0.1", running.port, timeout=60)
        connection.request("POST", f"{running.base_url}voila/api/shutdown/{KERNELS.pop()}")
        assert connection.getresponse().status in (204, 404)
        connection.close()


def health(running: Server) -> dict[str, object]:
    status, headers, body = running.get("health")
    assert (status, headers["Content-Type"]) == (200, "application/json")
    facts: dict[str, object] = json.loads(body)["kernels"]
    return facts


@LINUX
def test_a_page_gets_a_warm_kernel_of_its_own(running: Server) -> None:
    first, second = (facts_of(open_page(running, "facts.ipynb?seed=5")[1]) for _ in range(2))
    assert first["warm"] and second["warm"]
    assert first["pid"] != second["pid"] and first["parent"] == second["parent"]
    assert first["query"] == "seed=5"
    assert first["nice"] == NICE
    assert first["memory"] == room.MEMORY
    assert first["group"] and first["threads"] == 1
    drawn = [*first["draws"], *second["draws"]]  # type: ignore[misc]
    assert len(set(drawn)) == 4, "random numbers are each kernel's own"
    assert first["torch"] == second["torch"], "torch draws in a fresh process what it always draws"
    assert health(running)["kind"] == "forked"


def test_a_full_room_has_a_line(running: Server) -> None:
    assert [open_page(running, "facts.ipynb")[0] for _ in range(3)] == [200] * 3
    status, headers, page = running.get("voila/render/facts.ipynb")
    assert status == 503
    assert headers["Retry-After"] == str(waiting.RETRY)
    assert "You are first in line" in page
    cookie = headers["Set-Cookie"].split(";")[0]
    assert "You are second in line" in running.get("voila/render/facts.ipynb")[2]
    assert "You are first in line" in running.get("voila/render/facts.ipynb", Cookie=cookie)[2]
    assert health(running)["waiting"] == 2
    leave_all(running)
    status, _, page = running.get("voila/render/facts.ipynb", Cookie=cookie)
    KERNELS.extend(re.findall(r'kernelId": "([0-9a-f-]{36})"', page))
    assert status == 200


@LINUX
def test_a_kernel_that_wants_too_much_is_told_so_and_lives(running: Server) -> None:
    assert facts_of(open_page(running, "greedy.ipynb")[1]) == {"got": False}


def test_no_traceback_and_no_path_reaches_a_reader(running: Server) -> None:
    for path in ("raises.ipynb", "nowhere.ipynb", "%2e%2e/x.ipynb", "raises.ipynb/x", "a%00b.ipynb"):
        page = open_page(running, path)[1]
        assert "a secret" not in page
        assert "Traceback" not in page
        assert str(ROOT) not in page and "/tmp/" not in page, path


def test_a_page_may_ask_what_became_of_its_kernel(running: Server) -> None:
    assert open_page(running, "facts.ipynb")[0] == 200
    kernel = KERNELS[-1]
    assert json.loads(running.get(f"voila/session/{kernel}")[2])["running"] is True
    leave_all(running)
    status, headers, body = running.get(f"voila/session/{kernel}")
    assert (status, headers["Cache-Control"]) == (200, "no-store")
    assert json.loads(body)["why"] == "closed"
    nobody = json.loads(running.get("voila/session/00000000-0000-0000-0000-000000000000")[2])
    assert nobody.keys() == {"running", "uptime"} and not nobody["running"]
    assert running.get("voila/session/..%2F..%2Fetc")[0] == 404


@LINUX
def test_closed_pages_leave_no_process(running: Server) -> None:
    pids = [facts_of(open_page(running, "facts.ipynb")[1])["pid"] for _ in range(2)]
    leave_all(running)
    deadline = time.monotonic() + 120
    while any(psutil.pid_exists(pid) for pid in pids) and time.monotonic() < deadline:  # type: ignore[arg-type]
        time.sleep(0.1)
    assert [pid for pid in pids if psutil.pid_exists(pid)] == []  # type: ignore[arg-type]


@LINUX
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL])
def test_nothing_of_a_class_is_left_behind(tmp_path: Path, number: signal.Signals) -> None:
    write_notebook(tmp_path / "facts.ipynb", FACTS)
    call = f"serve(port=0, browser=False, people=1, pages={str(tmp_path)!r})"
    doomed = Server(call, {**os.environ, "PYTHONPATH": str(ROOT)}, tmp_path)
    assert doomed.get("voila/render/facts.ipynb")[0] == 200
    family = doomed.family()
    assert len(family) >= 3, "the server, the zygote and a kernel"
    doomed.stop(number)
    assert still_running(family) == []


@LINUX
def test_without_its_zygote_a_server_goes_on_with_plain_kernels(tmp_path: Path) -> None:
    write_notebook(tmp_path / "facts.ipynb", FACTS)
    call = f"serve(port=0, browser=False, people=1, pages={str(tmp_path)!r})"
    server = Server(call, {**os.environ, "PYTHONPATH": str(ROOT)}, tmp_path)
    try:
        assert facts_of(server.get("voila/render/facts.ipynb")[2])["warm"]
        (zygote,) = [
            one
            for one in server.family()
            if "explorer.serving.zygote" in one.cmdline() and one.parent() == _server(server)
        ]
        zygote.kill()
        facts = facts_of(server.get("voila/render/facts.ipynb")[2])
        assert not facts["warm"]
        assert (facts["nice"], facts["memory"]) == (NICE, room.MEMORY)
        kind = health(server)["kind"]
        assert isinstance(kind, str) and kind.startswith("plain (")
    finally:
        server.stop(signal.SIGINT)


def _server(running: Server) -> psutil.Process:
    return psutil.Process(running.process.pid).children()[0]
