"""A kernel that keeps its widgets to itself until a page asks for them.

A lab has some 370 widgets. Each announces itself when it is made, which costs the kernel half of the time that the lab takes
to be built, and the server the time to pass it on, while no page is there to hear it: a page that connects asks for all of
them anyway, and gets them in one message.
"""

import os
from typing import Any

CONTROL = "jupyter.widget.control"  # a page opens it, and asks through it


def in_voila() -> bool:
    """Whether this kernel serves a page of Voila, which connects late, and where no code can be typed."""
    return os.environ.get("SERVER_SOFTWARE", "").startswith("voila/")


def until_the_page_asks() -> None:
    """In Voila a page that connects while widgets are still made would hear of parents whose parts it has missed.

    Anywhere else the page is there already, asks for nothing, and hears of every widget as it is made.
    """
    if in_voila():
        from IPython import get_ipython

        until_asked(get_ipython().kernel)


def until_asked(kernel: Any) -> None:
    """Say nothing about widgets until a page of this kernel's opens the channel through which it asks for them."""
    from ipykernel.comm import comm as comms

    asked = kernel.comm_manager.targets[CONTROL]
    every: Any = comms.BaseComm
    publish = every.publish_msg

    def keep(comm: Any, *message: Any, **more: Any) -> None:
        if comm.target_name == "jupyter.widget":
            comm.kernel = kernel  # as publishing does; ipywidgets takes a comm without one for a dead one
        else:
            publish(comm, *message, **more)

    def opened(comm: Any, message: Any) -> None:
        every.publish_msg = publish
        kernel.comm_manager.register_target(CONTROL, asked)
        asked(comm, message)

    every.publish_msg = keep
    kernel.comm_manager.register_target(CONTROL, opened)
