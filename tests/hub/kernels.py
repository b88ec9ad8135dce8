"""Run code in a kernel of a user's server, over the hub's proxy, as JupyterLab does."""

import json
import uuid
from contextlib import closing
from datetime import UTC, datetime

import requests
import websocket
from jupyter_server.services.kernels.connection.base import deserialize_msg_from_ws_v1, serialize_msg_to_ws_v1

from tests.hub.hub import Hub

PROTOCOL = "v1.kernel.websocket.jupyter.org"
PATIENCE = 120  # seconds


def start_kernel(hub: Hub, session: requests.Session, user: str) -> str:
    """The id of a new kernel on the user's server."""
    answer = hub.ask(session, "POST", f"/user/{user}/api/kernels")
    assert answer.status_code == 201, answer.text
    return str(answer.json()["id"])


def connect(
    hub: Hub, session: requests.Session, user: str, kernel: str, protocols: tuple[str, ...] = (PROTOCOL,)
) -> websocket.WebSocket:
    """A connection to a kernel with the cookies that a browser would send."""
    address = f"{hub.address.replace('http', 'ws', 1)}/user/{user}/api/kernels/{kernel}/channels"
    cookies = "; ".join(f"{one.name}={one.value}" for one in session.cookies if one.path in (f"/user/{user}/", "/"))
    return websocket.create_connection(
        address, timeout=PATIENCE, cookie=cookies, origin=hub.address, subprotocols=list(protocols)
    )


def run(hub: Hub, session: requests.Session, user: str, kernel: str, code: str) -> str:
    """What the code printed; what it raised is an error here."""
    with closing(connect(hub, session, user, kernel)) as socket:
        asked = uuid.uuid4().hex
        header = {"msg_id": asked, "msg_type": "execute_request", "session": asked, "version": "5.3", "username": user}
        header["date"] = datetime.now(UTC).isoformat()
        parts = [json.dumps(part).encode() for part in (header, {}, {}, {"code": code, "silent": False})]
        socket.send_binary(serialize_msg_to_ws_v1(parts, "shell"))
        return _printed(socket, asked)


def _printed(socket: websocket.WebSocket, asked: str) -> str:
    said = ""
    while True:
        _, parts = deserialize_msg_from_ws_v1(socket.recv())
        header, parent, _, content = (json.loads(part) for part in parts[:4])
        if parent.get("msg_id") != asked:
            continue
        if header["msg_type"] == "stream" and content["name"] == "stdout":
            said += content["text"]
        elif header["msg_type"] == "error":
            raise AssertionError("\n".join(content["traceback"]))
        elif header["msg_type"] == "status" and content["execution_state"] == "idle":
            return said
