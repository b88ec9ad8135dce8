"""The text that every installation carries: where each of the four domains is found, in which order.

Only what the explorer itself depends on is read, by name, so that one more installed package changes nothing. Versions
of Python and of the packages do change the text: a recording keeps the sha256 of what was read.
"""

import gzip
import importlib
import importlib.util
import os
import re
import sysconfig
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from explorer.errors import BadValue


@dataclass(frozen=True)
class Place:
    """Files with these endings in a folder of a package; `home` "stdlib" and "data" are Python's own two folders."""

    home: str
    folder: str
    endings: tuple[str, ...]


MARKUP = (
    Place("stdlib", "idlelib", ("help.html",)),
    # simple_mmlctop.xsl is left out: it repeats mmlctop.xsl, and held-out text would be known text
    Place("sympy", "utilities/mathml/data", ("/mmlctop.xsl", "/mmltex.xsl")),
    Place("data", "share/jupyter/nbconvert/templates", (".html.j2",)),
    Place("data", "share/jupyter/voila/templates", (".html.j2", ".html")),
    Place("jupyter_server", "templates", (".html",)),
    Place("jupyterlab_server", "templates", (".html",)),
    Place("pandas", "io/formats/templates", (".tpl",)),
    Place("ipykernel", "resources", (".svg",)),
)
DATA = (
    Place("plotly", "package_data/datasets", (".csv.gz", ".geojson.gz")),
    Place("plotly", "package_data/templates", (".json",)),
    Place("jupyterlab", "schemas", (".json",)),
    Place("jupyter_lsp", "specs", (".json",)),
    Place("jsonschema_specifications", "schemas", (".json",)),
    Place("nbformat", "v4", ("/nbformat.v4.schema.json",)),
)
NOT_THE_LIBRARY = frozenset(
    {"site-packages", "dist-packages", "test", "tests", "idlelib", "lib2to3", "tkinter", "turtledemo", "ensurepip",
     "distutils", "pydoc_data", "__pycache__"}
)  # fmt: skip
"""Tests, and what some distributions ship apart from Python."""
DOCUMENTED = (
    "textwrap", "statistics", "calendar", "csv", "heapq", "string", "shlex", "queue", "uuid", "bdb", "cmd",
    "code", "argparse", "optparse", "tarfile", "zipfile", "typing",
)  # fmt: skip
"""Modules whose pydoc pages complete the markup where files are too few; these pages show no state of the process."""

_LARGEST = 8_000_000


def english(_wanted: int) -> Iterator[tuple[str, bytes]]:
    """Python's language reference as the help system prints it."""
    from pydoc_data.topics import topics

    for name in sorted(topics):
        yield name, topics[name].encode()


def python(wanted: int) -> Iterator[tuple[str, bytes]]:
    """Public modules of the standard library in alphabetical order, until there is twice what is wanted."""
    home, total = Path(sysconfig.get_path("stdlib")), 0
    for path in _modules(home):
        if total >= 2 * wanted:
            return
        text = path.read_bytes()
        total += min(len(text), wanted // 25)
        yield path.relative_to(home).as_posix(), text


def markup(wanted: int) -> Iterator[tuple[str, bytes]]:
    """XSLT, HTML templates and pages; pydoc's pages of the standard library where these are too few."""
    total = 0
    for name, text in _files(MARKUP):
        total += len(text)
        yield name, text
    for module in DOCUMENTED:
        if total >= wanted:
            return
        page = _pydoc_page(module)
        total += len(page)
        yield f"pydoc:{module}", page


def data(_wanted: int) -> Iterator[tuple[str, bytes]]:
    """JSON and CSV: plotly's data sets and templates, the schemas of Jupyter."""
    yield from _files(DATA)


DOMAINS = {"english": english, "python": python, "markup": markup, "data": data}


def read(domain: str, wanted: int) -> list[tuple[str, bytes]]:
    """(name, text) of every piece of a domain, in a fixed order."""
    try:
        return [(name, text) for name, text in DOMAINS[domain](wanted) if text]
    except (ImportError, OSError, EOFError, zlib.error) as error:
        raise BadValue(
            f"domain {domain!r} cannot be read from this installation ({error}); leave it out of domains"
        ) from error


def _files(places: tuple[Place, ...]) -> Iterator[tuple[str, bytes]]:
    for place in places:
        home = _home(place.home)
        if home is None:
            continue
        found = (
            Path(parent, name)
            for parent, _, names in os.walk(home / place.folder)
            for name in names
            if f"/{name}".endswith(place.endings)
        )
        for path in sorted(found, key=lambda path: path.relative_to(home).parts):
            yield f"{place.home}/{path.relative_to(home).as_posix()}", _content(path)


def _home(name: str) -> Path | None:
    if name in ("stdlib", "data"):
        return Path(sysconfig.get_path(name))
    package = importlib.util.find_spec(name)
    if package is None or not package.submodule_search_locations:
        return None
    return Path(next(iter(package.submodule_search_locations)))


def _modules(home: Path) -> Iterator[Path]:
    """The .py files of the standard library, a folder's own files before those of its folders."""
    for parent, folders, names in os.walk(home):
        folders[:] = sorted(
            name for name in folders if name not in NOT_THE_LIBRARY and not name.startswith(("_", "config-"))
        )
        yield from (Path(parent, name) for name in sorted(names) if name.endswith(".py") and not name.startswith("_"))


def _content(path: Path) -> bytes:
    if path.suffix != ".gz":
        with path.open("rb") as file:
            return file.read(_LARGEST)
    with gzip.open(path) as packed:
        return packed.read(_LARGEST)


def _pydoc_page(module: str) -> bytes:
    """The page without what differs between machines or runs: paths, addresses, sets in the order of a random hash."""
    import pydoc

    page = pydoc.HTMLDoc().document(importlib.import_module(module))
    page = re.sub(r'<a href="file:[^"]*">[^<]*</a>', "", page)
    return "\n".join(line for line in page.split("\n") if " at 0x" not in line and "frozenset(" not in line).encode()
