"""A free port that stays ours: the socket that has it is handed on to the server, which listens at it.

A number alone could be taken by another program before the server, which needs a second to start, listens.
"""

import os
import socket
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tornado.web import Application

CAN_HAND_ON = os.name == "posix"
WAITING = 128  # connections that wait to be accepted
MOST_BYTES = 2**20  # nothing that comes by HTTP is longer than a form with a token


def reserve(host: str, port: int = 0) -> socket.socket:
    """A socket that has the port, or, for 0, a free one. OSError where there is none."""
    family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
    reserved = socket.socket(family, kind, protocol)
    try:
        if port:  # as the server itself does: a port in TIME_WAIT is free; one that was chosen for us nobody shares
            reserved.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        reserved.bind(address)
    except OSError:
        reserved.close()
        raise
    return reserved


def number_of(reserved: socket.socket) -> int:
    """Its port."""
    return int(reserved.getsockname()[1])


def listen(application: "Application", settings: dict[str, Any]) -> None:
    """At the socket that was handed on, whose number is settings["socket"]; without one at settings["port"]."""
    from tornado.httpserver import HTTPServer

    server = HTTPServer(application, max_body_size=MOST_BYTES)
    if "socket" not in settings:
        server.listen(settings["port"], settings["host"])
        return
    reserved = socket.socket(fileno=settings["socket"])
    reserved.set_inheritable(False)  # no kernel is to keep it open
    reserved.setblocking(False)
    # a server that is started anew at this port finds it free although connections of this one have just ended
    reserved.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    reserved.listen(WAITING)
    server.add_socket(reserved)
