"""The plotly.js bundle that the plotly package carries: 4.8 MB that should travel once, not once a chart.

A page gets it from the server where one offers it (`Chart.bundle_url`, by default the environment variable
GATING_EXPLORER_PLOTLY_URL, which `gating-explorer serve` sets), else over the comm, compressed, and then keeps it in
IndexedDB under its digest.
"""

import functools
import gzip
import hashlib
import importlib.util
import os
import re
from pathlib import Path

URL_VARIABLE = "GATING_EXPLORER_PLOTLY_URL"


def path() -> Path:
    """Where the bundle lies, found without importing plotly."""
    spec = importlib.util.find_spec("plotly")
    assert spec and spec.origin, "plotly is a dependency"
    return Path(spec.origin).parent / "package_data" / "plotly.min.js"


@functools.cache
def identity() -> dict[str, str]:
    """{"version": of plotly.js, "sha256": hexadecimal digest of the file}: what the page checks before it runs it."""
    source = path().read_bytes()
    found = re.search(rb"plotly\.js v([0-9][0-9A-Za-z.+-]*)", source[:400])
    return {"version": found[1].decode() if found else "unknown", "sha256": hashlib.sha256(source).hexdigest()}


@functools.cache
def compressed() -> bytes:
    """The file as gzip, about 1.5 MB; made when the first page asks for it over the comm."""
    return gzip.compress(path().read_bytes(), compresslevel=6, mtime=0)


def offered_url() -> str:
    """Where the server that started this kernel offers the bundle; "" if it does not."""
    return os.environ.get(URL_VARIABLE, "")
