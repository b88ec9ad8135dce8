"""A page of its own: one HTML file with live pictures that needs no kernel, no network and no CDN.

The views are drawn by their own modules over a stand-in for the model that holds the newest frame, so hovering, zooming,
the choice of a layer and the Save menus work. The policy in its head forbids every request, and every script but the
two whose digests it names: nothing in a text or in raw HTML can run, or tell anyone that the page was opened.
"""

import base64
import gzip
import hashlib
import html
import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from explorer.errors import BadValue, ExplorerError
from widgets.export.frames import packed
from widgets.export.tables import CannotExport, one_line
from widgets.views import bundle
from widgets.views.chart import Chart
from widgets.views.framed import Framed

HERE = Path(__file__).parent
LARGEST = 6_000_000  # bytes of a page
_SHARED = ("label", "stamp", "scale", "frame")
_CONSTANT = ("templates", "inks", "bundle")  # the same for every view of a class
_END = re.compile(r"\n*export default \{ render \};\s*$")


@dataclass(frozen=True)
class Heading:
    """A heading of level 2 to 6; plain text."""

    text: str
    level: int = 2


@dataclass(frozen=True)
class Prose:
    """Plain text; an empty line begins a new paragraph. Everything in it is escaped."""

    text: str


@dataclass(frozen=True)
class RawHtml:
    """Trusted markup, put in as it is; its scripts do not run and its pictures have to be data: URLs."""

    html: str


Part = Heading | Prose | RawHtml | Framed


def standalone(title: str, parts: Sequence[Part], stamp: str = "", theme: str = "light") -> str:
    """The page as text (write it as UTF-8); theme: "light" or "dark", which its reader can switch.

    About 2 MB with a chart (the drawing library, packed), 60 KB without, plus the data.
    """
    if theme not in ("light", "dark"):
        raise BadValue(f"no theme {theme!r}; there are light and dark")
    views = [part for part in parts if isinstance(part, Framed)]
    numbers = iter(range(len(views)))
    body = "\n".join(_markup(part, numbers) for part in parts)
    boot, library = _boot(views), any(isinstance(view, Chart) for view in views)
    data = {"views": [_frame(view) for view in views], "constants": _constants(views)}
    page = _TEMPLATE.format(
        policy=_policy(boot, library),
        title=html.escape(title),
        style=_style(views),
        light=str(theme == "light").lower(),
        body=body,
        stamp=html.escape(one_line(stamp)),
        data=_packed(json.dumps(data, ensure_ascii=False, allow_nan=False).encode("utf-8", "replace")),
        library=base64.b64encode(bundle.compressed()).decode() if library else "",
        boot=boot,
    )
    if (size := len(page.encode("utf-8", "replace"))) > LARGEST:
        raise CannotExport(f"the page would have {size:,} bytes; at most {LARGEST:,} are allowed: leave out a picture")
    return page


def _markup(part: Part, numbers: Any) -> str:
    if isinstance(part, Framed):
        return f'<figure class="view" data-view="{next(numbers)}"></figure>'
    if isinstance(part, Heading):
        level = min(6, max(2, int(part.level)))
        return f"<h{level}>{html.escape(part.text)}</h{level}>"
    if isinstance(part, Prose):
        paragraphs = [one.strip() for one in re.split(r"\n\s*\n", part.text) if one.strip()]
        return "\n".join(f"<p>{html.escape(one)}</p>" for one in paragraphs)
    if isinstance(part, RawHtml):
        return part.html
    raise BadValue(f"a {type(part).__name__} cannot be part of a page: Heading, Prose, RawHtml or a view can")


def _frame(view: Framed) -> dict[str, Any]:
    """What a stand-in for the model holds; the table comes along, since there is no Python to ask."""
    try:
        table = base64.b64encode(gzip.compress(view.exported("csv"), mtime=0)).decode()
    except (ExplorerError, NotImplementedError):
        table = ""
    kept = {name: packed(getattr(view, name)) for name in (*_SHARED, *view.pictured)}
    saves = [kind for kind in view.saves if kind in ("png", "svg") or (kind == "csv" and table)]
    return {"class": type(view).__name__, "traits": {**kept, "saves": saves, "theme": "auto"}, "csv": table}


def _constants(views: Sequence[Framed]) -> dict[str, dict[str, Any]]:
    return {
        kind: {name: getattr(view, name) for name in _CONSTANT if view.has_trait(name)}
        for kind, view in _one_of_each(views).items()
    }


def _one_of_each(views: Sequence[Framed]) -> dict[str, Framed]:
    """One view of each class: anywidget keeps a module and a style sheet with the instance."""
    return {type(view).__name__: view for view in views}


def _boot(views: Sequence[Framed]) -> str:
    """The page's one script: the modules of the views, each in a scope of its own, and what starts them."""
    modules = []
    for name, view in _one_of_each(views).items():
        source, found = _END.subn("\nreturn { render };", str(view._esm))
        assert found == 1, f"the module of {name} should end with its export"
        modules.append(f"{name}: (() => {{\n{source}\n}})(),")
    start = (HERE / "standalone.js").read_text(encoding="utf-8")
    # the one sequence that would end the script element before its end
    return f"const MODULES = {{\n{chr(10).join(modules)}\n}};\n{start}".replace("</script", "<\\/script")


def _style(views: Sequence[Framed]) -> str:
    sheets = [str(getattr(view, "_css", "")) for view in _one_of_each(views).values()]
    return "".join(dict.fromkeys([(HERE / "standalone.css").read_text(encoding="utf-8"), *sheets]))


def _policy(boot: str, library: bool) -> str:
    scripts = [_digest(boot.encode())]
    if library:
        scripts.append(f"'sha256-{base64.b64encode(bytes.fromhex(bundle.identity()['sha256'])).decode()}'")
    rules = {
        "default-src": "'none'",
        "script-src": " ".join(scripts),
        # plotly places everything with style attributes
        "style-src": "'unsafe-inline'",
        "img-src": "data: blob:",
        "base-uri": "'none'",
        "form-action": "'none'",
    }
    return "; ".join(f"{name} {value}" for name, value in rules.items())


def _digest(content: bytes) -> str:
    return f"'sha256-{base64.b64encode(hashlib.sha256(content).digest()).decode()}'"


def _packed(content: bytes) -> str:
    return base64.b64encode(gzip.compress(content, mtime=0)).decode()


_TEMPLATE = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="{policy}">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="referrer" content="no-referrer">
<link rel="icon" href="data:,">
<title>{title}</title>
<style>{style}</style>
</head>
<body data-jp-theme-light="{light}">
<header><h1>{title}</h1><button type="button" id="theme">Dark</button></header>
<main class="ge-page">
<noscript><p>The pictures of this page are drawn by its script, which is switched off.</p></noscript>
{body}
</main>
<footer>{stamp}</footer>
<script type="application/octet-stream" id="data">{data}</script>
<script type="application/octet-stream" id="library">{library}</script>
<script>{boot}</script>
</body>
</html>
"""
