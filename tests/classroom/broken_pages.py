"""The pages on which tests/classroom/faults.py breaks things: the labs, and a few that do one thing."""

import shutil
from pathlib import Path

import nbformat

from explorer.serving import pages_folder

WRITER = """
import asyncio, os
from urllib.parse import parse_qs
import ipywidgets as W
from explorer.lessons.progress import Progress

student = parse_qs(os.environ["QUERY_STRING"])["student"][0]
shown = W.IntText(description="acknowledged")

async def note():
    number = 0
    progress = Progress()
    have = len(progress.rows(student=student))
    while True:
        progress.note(student, 2, "quiz", str(have + number), number, True)
        number += 1
        shown.value = have + number
        await asyncio.sleep(0.01)

task = asyncio.get_event_loop().create_task(note())
shown
"""
FACTS = """
import ipywidgets as W
W.IntText(description="acknowledged")
"""
GREEDY = """
import ipywidgets as W, torch
from widgets.labs.frame import Failed, error_card, guarded

state = Failed()
kept, clicks = [], []
greedy, count = W.Button(description="greedy"), W.Button(description="count")
greedy.on_click(guarded(state)(lambda _: kept.append(torch.ones(2**31))))

def click(_):
    clicks.append(1)
    count.tooltip = str(len(clicks))

count.on_click(click)
W.VBox([greedy, count, error_card(state)])
"""
FULL = """
import resource, signal
import ipywidgets as W
from explorer.errors import ExplorerError
from explorer.lessons.progress import Progress

signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))
note = W.Text(description="note")
try:
    Progress().note("Ada", 2, "quiz", "1", 1, True)
except ExplorerError as error:
    note.value = str(error)
note
""", """
from widgets.labs import dashboard
dashboard("routing")
"""  # fmt: skip


def write_pages(folder: Path) -> None:
    """The labs as they are, beside the pages that are broken on purpose."""
    shutil.copytree(pages_folder() / "labs", folder / "labs")
    for name, cells in {"writer": (WRITER,), "facts": (FACTS,), "greedy": (GREEDY,), "full": FULL}.items():
        notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(cell) for cell in cells])
        notebook.metadata.kernelspec = {"name": "python3", "display_name": "Python 3", "language": "python"}
        nbformat.write(notebook, folder / f"{name}.ipynb")
