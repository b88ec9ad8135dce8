"""What browsers send to kernels: good frames pass, no bad one reaches a parser, and nobody else notices one."""

import contextlib
import json
import os
import random
import re
import sys
import threading
import time
from collections.abc import Iterator

import pytest
import websocket
from hypothesis import given
from hypothesis import strategies as st
from jupyter_server.services.kernels.connection.base import deserialize_msg_from_ws_v1

from explorer.serving.guard import CONNECTIONS, PROTOCOL, Allowance, BadFrame, _worth_a_mention, check_frame, nowhere
from tests.classroom.bad_frames import BROKEN, HEADER, frame_of, mangled
from tests.test_serving import ROOT, Running, write_notebook

# --- the check itself -------------------------------------------------------------------------------------------------


@given(st.lists(st.binary(max_size=50), max_size=60), st.sampled_from(["shell", "control", "stdin"]))
def test_a_good_frame_passes(buffers: list[bytes], channel: str) -> None:
    check_frame(frame_of(channel=channel, buffers=tuple(buffers)))


@pytest.mark.parametrize("bad", BROKEN.values(), ids=BROKEN.keys())
def test_a_bad_frame_is_refused_at_once(bad: object) -> None:
    begun = time.perf_counter()
    with pytest.raises(BadFrame):
        check_frame(bad)
    assert time.perf_counter() - begun < 0.1


def test_of_twenty_thousand_mangled_frames_none_that_passes_harms_a_parser() -> None:
    dice = random.Random(7)
    refused, slowest = 0, 0.0
    for _ in range(20_000):
        frame = mangled(dice)
        begun = time.perf_counter()
        try:
            check_frame(frame)
        except BadFrame:
            refused += 1
            continue
        finally:
            slowest = max(slowest, time.perf_counter() - begun)
        channel, parts = deserialize_msg_from_ws_v1(frame)
        assert channel in ("shell", "control", "stdin")
        assert 4 <= len(parts) <= 64
        assert isinstance(json.loads(parts[0])["msg_type"], str)
    assert refused > 15_000
    assert slowest < 0.25, "one frame must not hold up the others"


def test_what_every_page_provokes_is_not_worth_a_line_of_the_log() -> None:
    routine = "No such comm: 0123abcd\n"
    assert _worth_a_mention(routine * 2) == ""
    assert _worth_a_mention(f"{routine}Traceback: no such file\n{routine}") == "Traceback: no such file"


def test_an_allowance_is_used_up_and_comes_back(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 100.0
    monkeypatch.setattr("explorer.serving.guard.time.monotonic", lambda: now)
    allowance = Allowance(rate=10, seconds=2)
    assert allowance.take(15)
    assert not allowance.take(6)
    assert allowance.take(5)
    now += 1
    assert allowance.take(10)
    assert not allowance.take(1)
    now += 1000
    assert not allowance.take(21)
    assert allowance.take(20)


@pytest.mark.parametrize(
    "header",
    [
        {"msg_type": "comm\nmsg"},
        {"msg_type": ""},
        {"msg_type": "x" * 65},
        {"session": "\ud800"},
        {"msg_id": float("nan")},
    ],
)
def test_what_a_log_or_a_kernel_could_not_write_is_refused(header: dict[str, object]) -> None:
    with pytest.raises(BadFrame):
        check_frame(frame_of(HEADER | header))


@pytest.mark.parametrize(
    ("path", "kept_out"),
    [
        ("/x/voila/render/labs/routing.ipynb", False),
        ("/x/voila/templates/gating-explorer/static/index.css", False),
        ("/x/voila/labextensions/@jupyter-widgets%2fbase/static/a.1.js", False),
        ("/x/", False),
        ("/x/voila/files/../../etc/passwd", True),
        ("/x/voila/static/%2E%2e/x", True),
        ("/x/voila/render/a%00b", True),
        ("/x/voila/templates/lab", True),
        ("/x/voila/api/contents/", True),
        ("/x/" + "a" * 2000, True),
    ],
)
def test_ways_out_of_the_folders_lead_nowhere(path: str, kept_out: bool) -> None:
    assert bool(re.fullmatch(nowhere("/x/")[0], path)) is kept_out


NOISY = """
import asyncio, sys
async def speak():
    for _ in range(100):
        print("to the reader", flush=True)
        print("/a/path/of/the/server", file=sys.stderr, flush=True)
        await asyncio.sleep(0.1)
speaking = asyncio.get_event_loop().create_task(speak())
"""

# --- on a running server ----------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    folder = tmp_path_factory.mktemp("guarded")
    write_notebook(folder / "page.ipynb", "import ipywidgets; ipywidgets.IntSlider()")
    write_notebook(folder / "noisy.ipynb", NOISY)
    call = f"serve(port=0, browser=False, pages={str(folder)!r})"
    server = Running(call, {**os.environ, "PYTHONPATH": str(ROOT)}, folder)
    yield server
    server.stop(2)


def kernel_of(running: Running, page: str = "page") -> str:
    found = re.search(r'kernelId": "([0-9a-f-]{36})"', running.get(f"voila/render/{page}.ipynb")[2])
    assert found
    return found[1]


def connect(running: Running, kernel: str, protocols: list[str] | None) -> websocket.WebSocket:
    address = (
        f"ws://127.0.0.1:{running.port}{running.base_url}api/kernels/{kernel}/channels?session_id=x{random.random()}"
    )
    return websocket.create_connection(address, subprotocols=protocols, timeout=30)


def answers(connection: websocket.WebSocket) -> str:
    """The type of what comes back for a question to the kernel, on the connection's shell."""
    # a kernel answers no message twice
    connection.send_binary(frame_of(HEADER | {"msg_type": "kernel_info_request", "msg_id": os.urandom(8).hex()}))
    while True:
        frame = connection.recv()
        assert isinstance(frame, bytes)
        channel, parts = deserialize_msg_from_ws_v1(frame)
        if channel == "shell":
            return str(json.loads(parts[0])["msg_type"])


def test_only_the_marked_protocol_is_spoken(running: Running) -> None:
    kernel = kernel_of(running)
    for protocols in (None, ["something"]):
        with pytest.raises(websocket.WebSocketBadStatusException, match="400"):
            connect(running, kernel, protocols)
    connection = connect(running, kernel, [PROTOCOL])
    assert connection.subprotocol == PROTOCOL
    assert answers(connection) == "kernel_info_reply"
    connection.close()


def closed_with(connection: websocket.WebSocket) -> int:
    """The code with which the server ends it."""
    while True:
        code, data = connection.recv_data()
        if code == websocket.ABNF.OPCODE_CLOSE:
            return int.from_bytes(data[:2], "big")


@pytest.mark.parametrize("name", ["an endless count", "text", "very deep", "too long"])
def test_a_bad_frame_ends_its_connection_alone(running: Running, name: str) -> None:
    kernel = kernel_of(running)
    other = connect(running, kernel, [PROTOCOL])
    guilty = connect(running, kernel, [PROTOCOL])
    bad = BROKEN[name]
    # the longest is cut off while it is being sent
    with contextlib.suppress(ConnectionError, websocket.WebSocketConnectionClosedException):
        guilty.send(bad) if isinstance(bad, str) else guilty.send_binary(bad)
        assert closed_with(guilty) in (1008, 1009)
    assert answers(other) == "kernel_info_reply"
    other.close()


def test_others_are_answered_while_frames_are_thrown_at_the_server(running: Running) -> None:
    """Two throwers, each bad frame on a connection of its own; a third client asks its own kernel and loads a page."""
    mine, theirs = kernel_of(running), kernel_of(running)
    stop, thrown = threading.Event(), [0, 0]

    def throw(number: int) -> None:
        dice = random.Random(number)
        while not stop.is_set():
            try:
                guilty = connect(running, theirs, [PROTOCOL])
                for _ in range(20):
                    guilty.send_binary(mangled(dice))
                    thrown[number] += 1
                guilty.close()
            except (websocket.WebSocketException, OSError):
                continue

    throwers = [threading.Thread(target=throw, args=[number], daemon=True) for number in (0, 1)]
    for thrower in throwers:
        thrower.start()
    client, waits = connect(running, mine, [PROTOCOL]), []
    try:
        for _ in range(25):
            begun = time.perf_counter()
            assert answers(client) == "kernel_info_reply"
            assert running.get("voila/tree")[0] == 200
            waits.append(time.perf_counter() - begun)
            time.sleep(0.1)
    finally:
        stop.set()
        for thrower in throwers:
            thrower.join(30)
        client.close()
    print(f"{sum(thrown):,} bad frames; answers took {max(waits):.2f} s at most", file=sys.stderr)
    assert sum(thrown) > 500
    assert max(waits) < 1


def test_what_a_kernel_writes_to_stderr_stays_on_the_server(running: Running) -> None:
    reader = connect(running, kernel_of(running, "noisy"), [PROTOCOL])
    came: list[str] = []
    while sum("to the reader" in one for one in came) < 5:
        frame = reader.recv()
        assert isinstance(frame, bytes)
        came.append(frame.decode(errors="replace"))
    reader.close()
    assert [one for one in came if "/a/path" in one] == []


def test_one_page_has_a_few_connections_and_not_a_hundred(running: Running) -> None:
    kernel = kernel_of(running)
    held = [connect(running, kernel, [PROTOCOL]) for _ in range(CONNECTIONS)]
    with pytest.raises(websocket.WebSocketBadStatusException, match="429"):
        connect(running, kernel, [PROTOCOL])
    assert answers(held[0]) == "kernel_info_reply"
    for one in held:
        one.close()
