"""Show the code: the mechanism's own file, which is written to be read."""

import ipywidgets as W

from explorer.catalogue import Spec
from widgets.labs.controls import Folded


def show_the_code(spec: Spec, theme: str = "light") -> W.Widget:
    """A folded box with the file; pygments escapes what it colours."""
    return Folded(f"Show the code: {spec.cls.__module__.replace('.', '/')}.py", listing(spec.source, theme))


def listing(code: str, theme: str = "light") -> W.HTML:
    """Python, coloured."""
    from pygments import highlight
    from pygments.formatters import HtmlFormatter
    from pygments.lexers import PythonLexer

    style = HtmlFormatter(style="github-dark" if theme == "dark" else "default", noclasses=True, nobackground=True)
    coloured = highlight(code, PythonLexer(), style).replace("$", "&#36;")
    # long lines are scrolled to: by the keyboard too
    return W.HTML(coloured.replace("<pre ", '<pre tabindex="0" ', 1)).add_class("ge-code")
