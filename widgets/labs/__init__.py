"""Dashboards: state in, widget out; thin wiring between states, figures and views."""

from typing import Any


def dashboard(name: str) -> Any:
    """The page of the lab called `name` as one widget: a recorded run at once, the live lab as soon as it is ready."""
    from widgets.labs.shell import dashboard as page  # the gallery, which has no widgets, is a part of this package too

    return page(name)
