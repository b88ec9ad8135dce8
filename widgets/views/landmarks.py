"""An invisible widget that names a page's sliders and its main part: without it a screen reader says only "slider"."""

import anywidget

from widgets.views.framed import HERE


class Landmarks(anywidget.AnyWidget):
    """Put one into a page."""

    _esm = (HERE / "landmarks.js").read_text(encoding="utf-8")
