"""What browsers send to kernels: good frames pass, no bad one reaches a parser, and nobody else notices one."""

import contextlib
import json
import os
import random
import re
import struct
import sys
import threading
import time
from collections.abc import Iterator

import pytest
import websocket
from hypothesis import given
from hypothesis import strategies as st
from jupyter_server.services.kernels.connection.base import deserialize_msg_from_ws_v1, serialize_msg_to_ws_v1

from explorer.serving.guard import MAX_BYTES, MAX_HEADER, PROTOCOL, Allowance, BadFrame, check_frame
from tests.test_serving import ROOT, Running, write_notebook

HEADER = {
    "msg_id": "7", "msg_type": "comm_msg", "session": "s", "username": "u", "version": "5.3",
    "date": "2026-11-23T02:11:00.000Z", "subshell_id": None,
}  # fmt: skip


def frame_of(header: object = HEADER, channel: str = "shell", buffers: tuple[bytes, ...] = ()) -> bytes:
    """A frame as a browser makes it."""
    header = header if isinstance(header, bytes) else json.dumps(header).encode()
    frame = serialize_msg_to_ws_v1([header, b"{}", b"{}", b'{"comm_id": "1", "data": {}}', *buffers], channel)
    assert isinstance(frame, bytes)
    return frame


# --- the check itself -------------------------------------------------------------------------------------------------


@given(st.lists(st.binary(max_size=50), max_size=60), st.sampled_from(["shell", "control", "stdin"]))
def test_a_good_frame_passes(buffers: list[bytes], channel: str) -> None:
    check_frame(frame_of(channel=channel, buffers=tuple(buffers)))


def numbers(*values: int) -> bytes:
    return struct.pack(f"<{len(values)}Q", *values)


def _deep(depth: int) -> bytes:
    return b'{"msg_type": "comm_msg", "x": ' + b"[" * depth + b"]" * depth + b"}"


BAD = {
    "text": "{}",
    "nothing": b"",
    "seven bytes": b"\x06" + bytes(6),
    "no parts": numbers(0),
    "an endless count": numbers(2**64 - 1),
    "a count of 2 to the 40": numbers(2**40) + bytes(64),
    "three parts": serialize_msg_to_ws_v1([b"{}"] * 3, "shell"),
    "sixty-five parts": frame_of(buffers=(b"",) * 61),
    "ends within its offsets": numbers(6, 56, 61),
    "an offset of 2 to the 63": numbers(6, 56, 2**63, 2**63, 2**63, 2**63, 2**63),
    "backwards": numbers(6, 56, 61, 59, 63, 65, 67) + b"shell{}{}{}",
    "a hole before the channel": numbers(6, 57, 62, 64, 66, 68, 70) + b" shell{}{}{}{}",
    "something behind the end": frame_of() + b"x",
    "cut by a byte": frame_of()[:-1],
    "another channel": frame_of(channel="iopub"),
    "a channel that is no text": frame_of().replace(b"shell", b"\xff\xff\xff\xff\xff", 1),
    "too long": frame_of(buffers=(bytes(MAX_BYTES),)),
    "a header too long": frame_of(HEADER | {"x": "y" * MAX_HEADER}),
    "a header that is no text": frame_of(b"\xff\xfe"),
    "a header that is no JSON": frame_of(b"{"),
    "a header of NUL": frame_of(b"\x00" * 10),
    "a list for a header": frame_of([1]),
    "a number for a header": frame_of(1),
    "no type": frame_of({"msg_id": "1"}),
    "a list for a type": frame_of(HEADER | {"msg_type": ["comm_msg"]}),
    "an object within": frame_of(HEADER | {"session": {"a": 1}}),
    "deep": frame_of(_deep(100)),
    "very deep": frame_of(_deep(7000)),
    "a number of 5,000 digits": frame_of(b'{"msg_type": "comm_msg", "x": ' + b"9" * 5000 + b"}"),
    "a date that is none": frame_of(HEADER | {"date": "2026-99-99T99:99:99"}),
}


@pytest.mark.parametrize("bad", BAD.values(), ids=BAD.keys())
def test_a_bad_frame_is_refused_at_once(bad: object) -> None:
    begun = time.perf_counter()
    with pytest.raises(BadFrame):
        check_frame(bad)
    assert time.perf_counter() - begun < 0.1


def mangled(dice: random.Random) -> bytes:
    """A good frame with something wrong in it, or bytes at random."""
    frame = bytearray(frame_of(buffers=tuple(dice.randbytes(dice.randrange(20)) for _ in range(dice.randrange(5)))))
    for _ in range(dice.randrange(1, 4)):
        kind = dice.randrange(6)
        place = dice.randrange(max(1, len(frame)))
        if kind == 0:
            frame[8 * dice.randrange(8) :][:8] = b""
            at = 8 * dice.randrange(8)
            frame[at : at + 8] = numbers(dice.choice([0, 1, 2**31, 2**32, 2**63, 2**64 - 1, dice.randrange(999)]))
        elif kind == 1:
            frame[place : place + 1] = dice.randbytes(1)
        elif kind == 2:
            del frame[place:]
        elif kind == 3:
            frame[place:place] = dice.randbytes(dice.randrange(1, 30))
        elif kind == 4:
            del frame[place : place + dice.randrange(1, 30)]
        else:
            frame[:] = dice.randbytes(dice.randrange(200))
    return bytes(frame)


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
    bad = BAD[name]
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
