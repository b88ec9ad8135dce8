"""What a lab's page shows at once: a run recorded earlier, and, as soon as it is ready, the live lab in its place.

torch takes seconds to import. The page is there before: it is imported on a thread behind it.
"""

import asyncio
import importlib
import os
from pathlib import Path
from typing import Any

import ipywidgets as W
import traitlets as t

from widgets.labs.frame import HEADLESS, error_card, explain, page, text, theme_of

RECORDED = Path(__file__).parent / "recorded"
SOON = (
    "This run was recorded earlier ({stamp}). The live lab is being made ready behind it: a few seconds, and the buttons "
    "are there."
)
HEADLESS_STEPS = 3


class Shell(t.HasTraits):
    """A page while its lab is on the way."""

    error = t.Dict(allow_none=True, default_value=None)


def dashboard(name: str, state: Any = None) -> W.Widget:
    """The page of the lab `name` (a module of this package) as one widget; without a state, that of its link."""
    if HEADLESS or state is not None:
        lab = _build(name, os.environ.get("QUERY_STRING", ""), state)
        if HEADLESS:
            for _ in range(HEADLESS_STEPS):
                lab.one_step()
        return lab.widget
    shell = Shell()
    box = W.VBox([_recorded(name, shell)])
    asyncio.get_event_loop().create_task(_open(name, box, shell))
    return box


async def _open(name: str, box: W.VBox, shell: Shell) -> None:
    """Import on a thread, build here, put the lab in the recorded run's place."""
    query = os.environ.get("QUERY_STRING", "")
    try:
        loop = asyncio.get_running_loop()
        await asyncio.sleep(0.2)  # the page asks for its widgets first
        await loop.run_in_executor(None, _prepare, name)
        lab = _build(name, query)
    except Exception as error:  # noqa: BLE001  shown on the page, where the person is
        shell.error = explain(error)
        return
    box.children = (lab.widget,)  # what stood there is not closed: the page may still be loading it


def _prepare(name: str) -> None:
    """Everything that takes its time and touches no widget."""
    module = importlib.import_module(f"widgets.labs.{name}")
    module.LAB.prepare()


def _build(name: str, query: str, state: Any = None) -> Any:
    module = importlib.import_module(f"widgets.labs.{name}")
    if state is None:
        state = module.LAB.STATE(query)
        state.theme = theme_of(query)
    return module.LAB(state)


def _recorded(name: str, shell: Shell) -> W.Widget:
    """The recorded run's page: nothing in it needs torch."""
    path = RECORDED / f"{name}.json.gz"
    if not path.is_file():
        return page(name.capitalize() + " lab", "The lab is being made ready.", error_card(shell))
    from widgets import views as kinds
    from widgets.export import frames

    kept = frames.load(path)
    views = {name: getattr(kinds, one["class"])() for name, one in kept["views"].items()}
    frames.restore(views, kept)
    notice = text(SOON.format(stamp=kept["stamp"]), "p", role="status", css="ge-soon")
    for view in views.values():
        if not isinstance(view, kinds.Chart):
            view.add_class("ge-wide")
    charts = W.VBox(list(views.values())).add_class("ge-charts")
    return page(kept["title"], kept["introduction"], notice, error_card(shell), charts)
