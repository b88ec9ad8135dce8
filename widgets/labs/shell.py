"""A lab's page until its lab is ready. torch takes seconds to import: it is imported on a thread, behind the page.

What Voila shows meanwhile is a run recorded earlier, which its template sends before the kernel has even started
(explorer/serving/share/voila/templates/gating-explorer/recorded, written by scripts/record_labs.py).
"""

import asyncio
import importlib
import os
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import ipywidgets as W

HEADLESS_STEPS = 3


def dashboard(name: str, state: Any = None) -> "W.Widget":
    """The live page of the lab `name` (a module of this package), empty until it is ready; without a state, of its link."""
    import ipywidgets as W

    from explorer.serving.quiet import until_the_page_asks
    from widgets.labs.frame import HEADLESS

    if HEADLESS or state is not None:
        lab = _build(name, os.environ.get("QUERY_STRING", ""), state)
        for _ in range(HEADLESS_STEPS if HEADLESS else 0):
            lab.one_step()
        return lab.widget
    until_the_page_asks()
    box = W.VBox([W.HTML('<p role="status">The lab is on its way: a few seconds.</p>').add_class("ge-waiting")])
    asyncio.get_event_loop().create_task(_open(name, box))
    return box


async def _open(name: str, box: "W.VBox") -> None:
    """Import on a thread, build here; what goes wrong is shown where the lab would be."""
    from widgets.labs.frame import failed, instead_of_the_recorded

    query = os.environ.get("QUERY_STRING", "")
    try:
        await asyncio.get_running_loop().run_in_executor(None, importlib.import_module, f"widgets.labs.{name}")
        page = _build(name, query).widget
    except Exception as error:  # noqa: BLE001  shown on the page, where the person is
        page = failed(f"{name.capitalize()} lab", error)
    box.children = (instead_of_the_recorded(), page)


def _build(name: str, query: str, state: Any = None) -> Any:
    module = importlib.import_module(f"widgets.labs.{name}")
    if state is not None:
        return module.LAB(state)
    from widgets.labs.keeping import Opening

    opening = Opening(name, query)
    state = module.LAB.STATE(opening.query)
    opening.restore(state)
    state.theme = theme_of(query)
    lab = module.LAB(state)
    opening.go_on(lab)
    return lab


def theme_of(query: str) -> str:
    """light or dark: Voila takes `theme` out of the link for itself, but still shows it to the kernel."""
    return "dark" if "theme=dark" in query.split("&") else "light"
