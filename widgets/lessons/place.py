"""An invisible widget of a lesson: it names the main part of the page, keeps its theme on links, and says when it is seen."""

from collections.abc import Callable
from typing import Any

import anywidget


class MainPart(anywidget.AnyWidget):
    """Put one into a lesson; a page that has a main part already, such as JupyterLab's, is left as it is.

    Links to other pages keep the theme of this one, which Voila reads from the address alone.
    """

    _esm = """
    const DARK = /[?&]theme=dark(&|$)/;
    function keepTheme(link) {
      const address = link.getAttribute("href");
      if (link.target || !/^[^:#]*\\.ipynb(\\?[^#]*)?$/.test(address) || DARK.test(address)) return;
      link.setAttribute("href", address + (address.includes("?") ? "&" : "?") + "theme=dark");
    }
    function render({ model, el }) {
      el.style.display = "none";
      const start = setTimeout(() => {
        model.send({ kind: "here" });
        if (DARK.test(location.search)) document.querySelectorAll("a[href]").forEach(keepTheme);
        if (document.querySelector("main, [role=main]")) return;
        const cells = el.closest("body > *");
        cells?.setAttribute("role", "main");
        cells?.classList.add("ge-lesson-page");
      }, 300);
      return () => clearTimeout(start);
    }
    export default { render };
    """

    def __init__(self, here: Callable[[], object]) -> None:
        super().__init__()
        self._here = here
        self.on_msg(self._heard)

    def _heard(self, _widget: Any, content: Any, _buffers: list[Any]) -> None:
        """The page has been drawn; anything else is ignored, since any client may send anything."""
        if isinstance(content, dict) and content.get("kind") == "here":
            self._here()
