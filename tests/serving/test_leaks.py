"""Pages are opened and closed: what a server keeps of them, counted in objects inside its own process.

Memory in bytes, over hundreds of pages that also train, is what `python -m tests.classroom leaks` prints.
"""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from explorer import serving
from explorer.serving import ports
from tests.test_serving import ROOT, write_notebook

PAGES = 3
# a server that visits itself: nobody outside could count its objects
VISITED = """
import asyncio, collections, gc, json, logging, sys
from tornado.ioloop import IOLoop
from explorer.serving.server import voila_app
from tests.classroom.client import Page

GOES = ("ServerKernelManager", "NotebookRenderer", "VoilaExecutor", "VoilaExporter", "Discreet", "ZMQStream")
STAYS = ("Channels", "EventLogger", "PeriodicCallback", "Provisioner", "LocalProvisioner", "Forked", "Session",
         "Socket", "Poller")

def count():
    gc.collect()
    found = collections.Counter(type(one).__name__ for one in gc.get_objects())
    loggers = sum(name.startswith("jupyter_events") for name in logging.Logger.manager.loggerDict)
    return {name: found[name] for name in GOES + STAYS} | {"loggers": loggers}

async def visit():
    async with Page(f"http://127.0.0.1:{settings['port']}/", "page.ipynb") as page:
        await page.until(lambda: page.counts["status"], 60)

async def settled(most):
    '''The count once nothing of a page is left, or after a minute and a half: timers of connections outlive them.'''
    for _ in range(180):
        counts = count()
        if not any(counts[name] for name in GOES) and all(counts[name] <= most.get(name, counts[name]) for name in STAYS):
            break
        await asyncio.sleep(0.5)
    return counts

async def visits():
    await visit()
    before = await settled({})
    for _ in range(int(sys.argv[1])):
        await visit()
    print("COUNTS", json.dumps([before, await settled(before)]), flush=True)
    IOLoop.current().stop()

settings = json.loads(sys.stdin.readline())
app = voila_app(settings)
# each connection has a timer that holds all that belongs to its page until it is over, a minute by itself, and a ping
app.config.MappingKernelManager.kernel_info_timeout = 2
app.tornado_settings = {**app.tornado_settings, "ws_ping_interval": 1000}
IOLoop.current().add_callback(visits)
app.start()
"""


@pytest.mark.skipif(not ports.CAN_HAND_ON, reason="the server is handed its socket")
@pytest.mark.parametrize("people", [0, 2])
def test_closed_pages_leave_no_object(tmp_path: Path, people: int) -> None:
    write_notebook(tmp_path / "page.ipynb", "print('here')")
    with ports.reserve("127.0.0.1") as reserved:
        settings: dict[str, object] = {"kind": "voila", "host": "127.0.0.1", "base_url": "/", "token": ""}
        settings |= {"port": ports.number_of(reserved), "socket": reserved.fileno()}
        settings |= {"pages": str(tmp_path), "class": people}
        done = subprocess.run(
            [sys.executable, "-c", VISITED, str(PAGES)],
            input=json.dumps(settings) + "\n",
            env=serving.environment() | {"PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])},
            pass_fds=[reserved.fileno()],
            capture_output=True,
            text=True,
            timeout=300,
            check=False,
        )
    found = [line for line in done.stdout.splitlines() if line.startswith("COUNTS ")]
    assert found, done.stderr[-3000:]
    before, after = json.loads(found[0].removeprefix("COUNTS "))
    assert {name: count for name, count in after.items() if count > before[name]} == {}
