"""Frames that no page of ours would send: broken ones, which are refused, and whole ones that ask for what is not theirs."""

import json
import random
import struct
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from jupyter_server.services.kernels.connection.base import serialize_msg_to_ws_v1

from explorer.serving.guard import MAX_BYTES, MAX_HEADER

MARK = Path(tempfile.gettempdir()) / "gating-explorer-was-here"  # a file that is there if code of a frame was run
HEADER = {
    "msg_id": "7", "msg_type": "comm_msg", "session": "s", "username": "u", "version": "5.3",
    "date": "2026-11-23T02:11:00.000Z", "subshell_id": None,
}  # fmt: skip


def frame_of(
    header: object = HEADER, channel: str = "shell", buffers: tuple[bytes, ...] = (), content: object = None
) -> bytes:
    """A frame as a browser makes it."""
    header = header if isinstance(header, bytes) else json.dumps(header).encode()
    content = {"comm_id": "1", "data": {}} if content is None else content
    said = content if isinstance(content, bytes) else json.dumps(content).encode(errors="surrogatepass")
    frame = serialize_msg_to_ws_v1([header, b"{}", b"{}", said, *buffers], channel)
    assert isinstance(frame, bytes)
    return frame


def numbers(*values: int) -> bytes:
    """As they stand at the start of a frame."""
    return struct.pack(f"<{len(values)}Q", *values)


def _deep(depth: int) -> bytes:
    return b'{"msg_type": "comm_msg", "x": ' + b"[" * depth + b"]" * depth + b"}"


BROKEN: dict[str, object] = {
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
    "an id that is a list": frame_of(HEADER | {"msg_id": ["7"]}),
    "an object within": frame_of(HEADER | {"session": {"a": 1}}),
    "deep": frame_of(_deep(100)),
    "very deep": frame_of(_deep(7000)),
    "a number of 5,000 digits": frame_of(b'{"msg_type": "comm_msg", "x": ' + b"9" * 5000 + b"}"),
    "a date that is none": frame_of(HEADER | {"date": "2026-99-99T99:99:99"}),
}


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


# -- whole frames ------------------------------------------------------------------------------------------------------


class Whole(NamedTuple):
    """A frame that can be taken apart, with something hostile inside."""

    kind: str
    frame: bytes


NESTED: list[Any] = []
for _ in range(500):
    NESTED = [NESTED]
ODD: list[Any] = [
    None, True, -1, 2**70, 1e308, "", "x" * 100_000, "\ud800", "\x00", "<img src=x onerror=alert(1)>", [], {},
    [0] * 50_000, NESTED, {"__class__": 1}, "__class__", {"a": {"b": {"c": []}}}, ["a", 1, None], "\u202e",
]  # fmt: skip
TARGETS = [
    "jupyter.widget", "jupyter.widget.control", "jupyter.widget.version", "os.system", "../../x", "", "x" * 10_000,
    "comm", "builtins", "__main__",
]  # fmt: skip
FORBIDDEN = [
    ("execute_request", {"code": "raise SystemExit", "silent": False, "store_history": True, "user_expressions": {}}),
    ("execute_request", {"code": f"open({str(MARK)!r}, 'w')", "user_expressions": {"a": f"open({str(MARK)!r}, 'w')"}}),
    ("inspect_request", {"code": "open", "cursor_pos": 2, "detail_level": 1}),
    ("complete_request", {"code": "import os; os.", "cursor_pos": 14}),
    ("history_request", {"hist_access_type": "tail", "n": 10**9, "raw": True, "output": True}),
    ("is_complete_request", {"code": "if"}),
    ("interrupt_request", {}),
    ("debug_request", {"type": "request", "command": "attach", "seq": 1, "arguments": {}}),
    ("create_subshell_request", {}),
    ("list_subshell_request", {}),
    ("usage_request", {}),
    ("connect_request", {}),
    ("abort_request", {}),
    ("input_reply", {"value": "yes"}),
    ("a type that nobody knows", {}),
    ("", {}),
    ("x" * 8000, {}),
]


def whole(dice: random.Random, models: list[str]) -> Whole:
    """One at random; `models` are the ids of widgets that there are."""
    return dice.choice(MAKERS)(dice, models)


def _header(dice: random.Random, kind: str, **more: Any) -> dict[str, Any]:
    return {**HEADER, "msg_id": f"{dice.getrandbits(64):x}", "msg_type": kind, **more}


def _forbidden(dice: random.Random, _: list[str]) -> Whole:
    kind, content = dice.choice(FORBIDDEN)
    channel = dice.choice(["shell", "control", "stdin"])
    return Whole("asks for what pages may not", frame_of(_header(dice, kind), channel, content=content))


def _foreign(dice: random.Random, _: list[str]) -> Whole:
    content = {
        "comm_id": dice.choice([f"{dice.getrandbits(64):x}", *ODD]),
        "target_name": dice.choice([*TARGETS, *ODD]),
        "target_module": dice.choice([None, "os", "subprocess", "antigravity"]),
        "data": dice.choice([{"state": dice.choice(ODD), "buffer_paths": dice.choice(ODD)}, *ODD]),
    }
    return Whole("comm_open to foreign targets", frame_of(_header(dice, "comm_open"), content=content))


def _classes(dice: random.Random, _: list[str]) -> Whole:
    state = {
        "_model_module": dice.choice(["@jupyter-widgets/controls", "anywidget", "os", *ODD[:8]]),
        "_model_name": dice.choice(["HTMLModel", "AnyModel", "OutputModel", "system", *ODD[:8]]),
        "_model_module_version": dice.choice(["2.0.0", "~0.11.*", "99.9", None]),
        "_view_module": "x", "_view_name": "y", "value": dice.choice(ODD), "_esm": "alert(1)", "children": ["IPY_MODEL_1"],
    }  # fmt: skip
    content = {"comm_id": f"{dice.getrandbits(64):x}", "target_name": "jupyter.widget"}
    content |= {"data": {"state": state, "buffer_paths": []}}
    return Whole("widgets of their own", frame_of(_header(dice, "comm_open"), content=content))


def _update(dice: random.Random, models: list[str]) -> Whole:
    names = [
        "value",
        "index",
        "options",
        "children",
        "layout",
        "_esm",
        "frame",
        "data",
        "theme",
        "keys",
        "comm",
        "_css",
    ]
    state = {name: dice.choice(ODD) for name in dice.sample(names, dice.randrange(1, 4))}
    data = {"method": "update", "state": dice.choice([state, state, state, *ODD[:3]]), "buffer_paths": []}
    return _to(dice, models, "states of wrong types, huge and deep", data)


def _buffers(dice: random.Random, models: list[str]) -> Whole:
    paths = [["value"], ["value", 0, "x"], [], ["a", 9**9], [-1], "value", None, [["value"]], ["__class__", "__dict__"]]
    data = {
        "method": "update",
        "state": {"value": dice.choice(ODD)},
        "buffer_paths": dice.choices(paths, k=dice.randrange(5)),
    }
    given = tuple(dice.randbytes(dice.choice([0, 1, 7, 5000])) for _ in range(dice.randrange(6)))
    return _to(dice, models, "buffers that do not match", data, given)


def _custom(dice: random.Random, models: list[str]) -> Whole:
    kinds = ["drawn", "texts", "answer", "here", "click", "submit", "seen", "saved", *map(str, ODD[:5])]
    content = {"kind": dice.choice(kinds), "event": dice.choice(["submit", "x", 1]), "value": dice.choice(ODD)}
    content |= {
        "names": dice.choice(ODD),
        "frames": dice.choice([{"a": [1, ""]}, {"a": 1}, *ODD]),
        "number": dice.choice(ODD),
    }
    data = {
        "method": dice.choice(["custom", "request_state", "request_states", "nothing", None, []]),
        "content": content,
    }
    return _to(dice, models, "messages to widgets", data, (dice.randbytes(100),) * dice.randrange(3))


def _strangers(dice: random.Random, models: list[str]) -> Whole:
    kind = dice.choice(["comm_msg", "comm_close", "comm_info_request", "kernel_info_request"])
    content = dice.choice(
        [{"comm_id": dice.choice(ODD), "data": dice.choice(ODD)}, {"target_name": dice.choice(ODD)}, *ODD]
    )
    return Whole("comms that are not there", frame_of(_header(dice, kind), content=content))


def _raw(dice: random.Random, models: list[str]) -> Whole:
    parts = [
        b"",
        b"[]",
        b"null",
        b"\xff\xfe",
        b"{",
        b"[" * 100_000,
        b'{"comm_id": NaN}',
        b"1" * 6000,
        b'{"data": "\\ud800"}',
    ]
    given = [
        json.dumps(_header(dice, dice.choice(["comm_msg", "comm_open"]))).encode(),
        *dice.choices([b"{}", *parts], k=3),
    ]
    frame = serialize_msg_to_ws_v1([*given, dice.randbytes(9)], "shell")
    assert isinstance(frame, bytes)
    return Whole("parts that are no objects", frame)


def _headers(dice: random.Random, models: list[str]) -> Whole:
    odd = dice.choice(
        [{"msg_id": None}, {"session": "\ud800"}, {"username": "\x00" * 99}, {"date": None}, {"version": "9"}]
    )
    more: dict[str, Any] = dice.choice(
        [odd, {"msg_id": -1}, {"subshell_id": "x"}, {"msg_id": "x" * 9000}, {"extra": 1e308}]
    )
    header = {**_header(dice, dice.choice(["kernel_info_request", "comm_msg"])), **more}
    return Whole("odd headers", frame_of(header))


def _to(
    dice: random.Random, models: list[str], kind: str, data: dict[str, Any], buffers: tuple[bytes, ...] = ()
) -> Whole:
    content = {"comm_id": dice.choice(models) if models else "1", "data": data}
    return Whole(kind, frame_of(_header(dice, "comm_msg"), content=content, buffers=buffers))


MAKERS = (_forbidden, _foreign, _classes, _update, _buffers, _custom, _strangers, _raw, _headers)


def broken(dice: random.Random) -> Iterator[tuple[str, object]]:
    """Without end: a named one (the longest seldom), or one that is mangled."""
    names = [name for name in BROKEN if name != "too long"]
    while True:
        name = "too long" if dice.random() < 0.002 else dice.choice(names)
        yield (name, BROKEN[name]) if dice.random() < 0.5 else ("mangled", mangled(dice))
