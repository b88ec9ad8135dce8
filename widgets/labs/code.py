"""Show the code: the mechanism's own file, which is written to be read."""

import ipywidgets as W
from pygments import highlight
from pygments.formatters import HtmlFormatter
from pygments.lexers import PythonLexer

from explorer.catalogue import Spec


def show_the_code(spec: Spec, theme: str = "light") -> W.Widget:
    """A folded box with the file; pygments escapes what it colours."""
    style = HtmlFormatter(style="github-dark" if theme == "dark" else "default", noclasses=True, nobackground=True)
    code = W.HTML(highlight(spec.source, PythonLexer(), style).replace("$", "&#36;")).add_class("ge-code")
    box = W.Accordion([code], titles=[f"Show the code: {spec.cls.__module__.replace('.', '/')}.py"])
    box.selected_index = None
    return box
