"""Forked kernels in a running server: whose session they are of, what they do without, and that their widgets arrive."""

import asyncio
import json
import os
import signal
import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from explorer import budget
from explorer.serving import provisioner, quick
from tests.classroom.client import Page
from tests.serving.test_room import facts_of
from tests.test_serving import ROOT, Running, write_notebook

LINUX = pytest.mark.skipif(sys.platform != "linux", reason="kernels are forked on Linux only")
WIDGETS = """
import ipywidgets as W
button, label = W.Button(description="Count"), W.Label(value="0", description="shown")
button.on_click(lambda _: setattr(label, "value", str(int(label.value) + 1)))
W.VBox([button, label])
"""
FACTS = """
import json, os, sys
from explorer import budget
facts = {"session": os.getsid(0) == os.getsid(os.getppid()), "group": os.getpgid(0) == os.getpid()}
facts |= {"debugger": sys.modules.get("debugpy") is not None, "history": get_ipython().history_manager.enabled}
facts |= {"table": budget.pace().table is not None}
print("FACTS", json.dumps(facts), "SENTINEL")
"""


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    folder = tmp_path_factory.mktemp("forked")
    write_notebook(folder / "facts.ipynb", FACTS)
    write_notebook(folder / "widgets.ipynb", WIDGETS)
    call = f"serve(port=0, browser=False, people=4, pages={str(folder)!r})"
    server = Running(call, {**os.environ, "PYTHONPATH": str(ROOT)}, folder)
    yield server
    server.stop(signal.SIGINT)


@LINUX
def test_a_forked_kernel_is_of_the_zygotes_session(running: Running) -> None:
    """Linux divides the cores between sessions before it looks at how nice processes are."""
    facts = facts_of(running.get("voila/render/facts.ipynb")[2])
    assert facts == {"session": True, "group": True, "debugger": False, "history": False, "table": True}


def test_widgets_reach_a_page_that_asks_and_follow_it(running: Running) -> None:
    async def visit() -> tuple[str, str]:
        page = await Page(f"http://127.0.0.1:{running.port}/", "widgets.ipynb").open()
        label, button = await page.find("shown"), await page.find("Count")
        before = page.states[label]["value"]
        page.click(button)
        await page.until(lambda: page.states[label]["value"] != before, 60)
        after = page.states[label]["value"]
        await page.leave()
        return before, after

    assert asyncio.run(visit()) == ("0", "1")


def test_health_tells_how_many_train(running: Running) -> None:
    told = json.loads(running.get("health")[2])["kernels"]
    assert (told["training"], told["share"]) == (0, 1.0)
    table = Path(_variable(running, budget.FILE))
    counted = budget.Table(table)
    for place in range(3):
        counted.mark(place, 1e18)
    told = json.loads(running.get("health")[2])["kernels"]
    assert told["training"] == 3
    assert told["share"] == pytest.approx(budget.share_of(3, budget.cores()), abs=1e-3)


def test_only_kernels_of_this_environment_are_forked(tmp_path: Path) -> None:
    """The Python of another environment is often a link to the very same file."""
    other = tmp_path / "bin/python"
    other.parent.mkdir()
    other.symlink_to(os.path.realpath(sys.executable))
    launched = ["-m", "ipykernel_launcher", "-f", "connection.json"]
    assert provisioner._is_ours([sys.executable, *launched])
    assert not provisioner._is_ours([str(other), *launched])
    assert not provisioner._is_ours([sys.executable, "-m", "another_kernel"])


def _variable(running: Running, name: str) -> str:
    """Of the environment that the server was started in."""
    return running.family()[0].environ()[name]


# --- what is done once instead of for every page ----------------------------------------------------------------------


def test_templates_are_compiled_once(monkeypatch: pytest.MonkeyPatch) -> None:
    from jinja2 import Environment
    from nbconvert.exporters.templateexporter import TemplateExporter

    class Small:
        """An exporter with one template."""

        source = "{{ x }} of a page"
        _create_environment = TemplateExporter._create_environment

    monkeypatch.setattr(TemplateExporter, "_create_environment", lambda self: Environment(loader=self.loader()))
    quick.compile_templates_once()
    compiled: list[str] = []
    compile_ = Environment.compile
    monkeypatch.setattr(Environment, "compile", lambda *a, **k: compiled.append(a[1]) or compile_(*a, **k))

    def page(source: str) -> str:
        from jinja2 import DictLoader

        exporter: Any = SimpleNamespace(loader=lambda: DictLoader({"page": source}))
        made: str = TemplateExporter._create_environment(exporter).get_template("page").render(x=1)
        return made

    assert [page("{{ x }} a"), page("{{ x }} a"), page("{{ x }} b")] == ["1 a", "1 a", "1 b"]
    assert compiled == ["{{ x }} a", "{{ x }} b"], "one that was changed is compiled anew"


STATUS = [b"topic", quick.DELIMITER, b"signature", b'{"msg_type": "status"}', b"{}", b"{}", b"{}"]
MESSAGE = [b"topic", quick.DELIMITER, b"signature", b'{"msg_type": "comm_msg"}', b"{}", b"{}", b"{}"]


@pytest.mark.parametrize(("parts", "read"), [(STATUS, True), (MESSAGE, False), ([b"?"], True), (STATUS[:3], True)])
def test_only_what_tells_is_read(parts: list[bytes], read: bool) -> None:
    heard: list[Any] = []
    kernel = SimpleNamespace(last_activity=None, _activity_stream=SimpleNamespace(_recv_callback=heard.append))
    kernel._activity_stream.on_recv = lambda callback: setattr(kernel._activity_stream, "_recv_callback", callback)
    manager = SimpleNamespace(start_watching_activity=lambda _: None, _kernels={"k": kernel}, last_kernel_activity=None)
    quick.read_only_what_tells(manager)
    manager.start_watching_activity("k")
    kernel._activity_stream._recv_callback(parts)
    assert heard == ([parts] if read else [])
    # whatever it was, it was activity: such a kernel is not idle
    assert read or kernel.last_activity is manager.last_kernel_activity is not None
