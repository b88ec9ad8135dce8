"""An invisible widget that bounds the text boxes of a page, in the browser, before anything is sent.

What a box holds travels in one message, and a message beyond the server's limit ends the page's connection.
"""

import anywidget
import traitlets

from widgets.views.framed import HERE, styles

MOST = 200_000  # characters in one box: what the checkpoint lab traces at most, with all its texts


class TextLimit(anywidget.AnyWidget):
    """Put one into a page; `most` is the number of characters (UTF-16 units) that a box of it takes."""

    _esm = (HERE / "text_limit.js").read_text(encoding="utf-8")
    _css = styles("text_limit")
    most = traitlets.Int(MOST, min=1).tag(sync=True)
