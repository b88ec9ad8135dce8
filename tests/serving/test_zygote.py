"""What the process that forks kernels has done before, what it must not leave in them, and what a forked kernel keeps quiet."""

import json
import os
import subprocess
import sys
from types import SimpleNamespace
from typing import Any

import pytest

from explorer import serving
from explorer.serving import quiet

LINUX = pytest.mark.skipif(sys.platform != "linux", reason="kernels are forked on Linux only")
WARM = """
import gc, json, sys, threading
import torch
fresh = torch.get_rng_state()
from explorer.serving import zygote
told = zygote.warm()
import comm
from ipywidgets.widgets.widget import _instances
from explorer.experiment import Experiment
from widgets.labs.lab import Lab
gc.unfreeze()
gc.collect()
left = [type(one).__name__ for one in gc.get_objects() if issubclass(type(one), (Lab, Experiment))]
print(json.dumps({
    "widgets": len(_instances), "comms": len(comm.get_comm_manager().comms), "left": left,
    "threads": [told["threads"], threading.active_count()], "random": bool((torch.get_rng_state() == fresh).all()),
    "imported": [name in sys.modules for name in ("widgets.labs.routing", "widgets.labs.attention", "torch")],
    "debugger": sys.modules.get("debugpy") is not None,
}))
"""


@LINUX
def test_the_warm_process_leaves_nothing_in_the_kernels(tmp_path: Any) -> None:
    """A widget, a run or a thread of its own would be in every page; and pages draw from fresh random numbers."""
    kept = tmp_path / "kept"
    variables = serving.environment() | {"JE_ARROW_MALLOC_CONF": "background_thread:false"}
    variables["GATING_EXPLORER_KEPT"] = str(kept)
    run = subprocess.run([sys.executable, "-c", WARM], env=variables, capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    assert json.loads(run.stdout.splitlines()[-1]) == {
        "widgets": 0, "comms": 0, "left": [], "threads": [1, 1], "random": True, "imported": [True] * 3, "debugger": False,
    }  # fmt: skip
    assert not kept.exists() or not os.listdir(kept), "what it built is kept for no page"


# --- quiet until asked ------------------------------------------------------------------------------------------------


class Comms:
    """Of a kernel: the targets that pages may open."""

    def __init__(self, asked: Any) -> None:
        self.targets = {quiet.CONTROL: asked}

    def register_target(self, name: str, opened: Any) -> None:
        self.targets[name] = opened


@pytest.mark.parametrize(
    "times", [1, 2]
)  # the process that kernels are forked from, and then a lab that takes its time
def test_widgets_are_announced_only_when_a_page_asks(monkeypatch: pytest.MonkeyPatch, times: int) -> None:
    from ipykernel.comm import comm as comms

    said: list[tuple[str, str]] = []
    opened: list[Any] = []
    monkeypatch.setattr(comms.BaseComm, "publish_msg", lambda comm, kind, **_: said.append((comm.target_name, kind)))
    kernel = SimpleNamespace(comm_manager=Comms(lambda comm, message: opened.append((comm, message))))
    widget = SimpleNamespace(target_name="jupyter.widget", kernel=None)
    other = SimpleNamespace(target_name="another", kernel=None)
    for _ in range(times):
        quiet.until_asked(kernel)
    comms.BaseComm.publish_msg(widget, "comm_open", data={})
    comms.BaseComm.publish_msg(other, "comm_open", data={})
    assert said == [("another", "comm_open")]
    assert widget.kernel is kernel, "a widget whose comm has no kernel never sends anything"
    kernel.comm_manager.targets[quiet.CONTROL]("comm", "message")
    assert opened == [("comm", "message")]
    comms.BaseComm.publish_msg(widget, "comm_msg", data={})
    assert said[1:] == [("jupyter.widget", "comm_msg")]
    # a second page of the same kernel
    kernel.comm_manager.targets[quiet.CONTROL]("comm", "again")
    assert opened[1:] == [("comm", "again")]


@pytest.mark.parametrize(("server", "silent"), [("voila/0.5.8", True), ("", False), ("jupyter/2.0", False)])
def test_only_behind_voila_widgets_wait_for_their_page(
    monkeypatch: pytest.MonkeyPatch, server: str, silent: bool
) -> None:
    """A notebook's page is there already: it would never ask, and nothing would appear."""
    kernels: list[str] = []
    monkeypatch.setattr("IPython.get_ipython", lambda: SimpleNamespace(kernel="of this page"))
    monkeypatch.setattr("explorer.serving.quiet.until_asked", kernels.append)
    monkeypatch.setenv("SERVER_SOFTWARE", server)
    quiet.until_the_page_asks()
    assert kernels == ["of this page"] * silent
