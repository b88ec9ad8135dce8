"""Record what a lab's page shows until its live run is ready: widgets/labs/recorded/<lab>.json.gz.

Run it when the pictures of a lab have changed: python scripts/record_labs.py routing
"""

import importlib
import sys

from widgets.export import frames
from widgets.labs.shell import RECORDED

STEPS = 250


def record(name: str) -> None:
    """Train the lab's own first run, and keep what its page then shows."""
    module = importlib.import_module(f"widgets.labs.{name}")
    lab = module.LAB(module.LAB.STATE())
    for step in range(STEPS):
        lab.runs.advance()
        if step % 20 == 0:
            lab.draw()
    lab.draw()
    views = {name: view for views in lab.shown().values() for name, view in views.items()}
    about = {"title": lab.TITLE, "introduction": lab.INTRODUCTION, "stamp": lab.stamp()}
    RECORDED.mkdir(exist_ok=True)
    frames.save(RECORDED / f"{name}.json.gz", {**frames.dump(views), **about})


if __name__ == "__main__":
    for one in sys.argv[1:] or ["routing"]:
        record(one)
