"""An invisible widget that names the main part of a page whose server does not: screen readers look for it."""

import anywidget


class MainPart(anywidget.AnyWidget):
    """Put one into a lesson; a page that has a main part already, such as JupyterLab's, is left as it is."""

    _esm = """
    function render({ el }) {
      el.style.display = "none";
      const start = setTimeout(() => {
        if (document.querySelector("main, [role=main]")) return;
        const cells = el.closest("body > *");
        cells?.setAttribute("role", "main");
      }, 300);
      return () => clearTimeout(start);
    }
    export default { render };
    """
