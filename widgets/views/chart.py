"""A live plotly chart: the thinnest anywidget over plotly.js.

Python sends the figure as JSON with its numeric arrays beside it as bytes; the page calls `Plotly.react`. Unlike
FigureWidget it carries no bundle of its own (5 MB a widget), keeps one frame in flight, and follows the page's theme.
"""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import traitlets

from widgets.figures.picture import summary_of
from widgets.figures.theme import TEMPLATES
from widgets.views import bundle
from widgets.views.framed import Framed, as_bytes, script, styles

if TYPE_CHECKING:
    import pandas as pd
    import plotly.graph_objects as go

# numpy kind and size -> the typed array of JavaScript that holds it; 64-bit integers have none that plotly.js draws
DTYPES = {"i1": "int8", "u1": "uint8", "i2": "int16", "u2": "uint16", "i4": "int32", "u4": "uint32", "f4": "float32"}


class Chart(Framed):
    """chart = Chart(label="Loss"); chart.show(figure) as often as you like, best only when `chart.ready`.

    frame = {"number", "figure", "arrays", "summary"}: in `figure` every numeric array stands as {"array": position in
    `arrays`, "dtype", "shape"}; an array that several traces share travels once.
    """

    _esm = script("save", "patch", "chart")
    _css = styles("save")
    templates = traitlets.Dict(TEMPLATES).tag(sync=True)
    bundle = traitlets.Dict(help="version and digest of plotly.js").tag(sync=True)
    bundle_url = traitlets.Unicode(help="where the server offers plotly.js; empty: ask over the comm").tag(sync=True)

    def __init__(self, figure: "go.Figure | Mapping[str, Any] | None" = None, label: str = "", **traits: Any) -> None:
        traits.setdefault("bundle_url", bundle.offered_url())
        traits.setdefault("saves", ["png", "svg", "csv", "parquet"])
        super().__init__(label=label, bundle=bundle.identity(), **traits)
        self.bundle_source = ""  # how the page got plotly.js: "server", "cache", "comm" or "page"
        if figure is not None:
            self.show(figure)

    def show(self, figure: "go.Figure | Mapping[str, Any]") -> None:
        """Replace the figure (a plotly Figure, or the plain dict {"data", "layout"} of a picture's `as_dict`)."""
        plain = figure if isinstance(figure, Mapping) else as_plain(figure)
        arrays: list[bytes] = []
        # the page lays its theme's template, and the summary travels by itself: it changes with every frame
        layout = {key: value for key, value in plain.get("layout", {}).items() if key not in ("template", "meta")}
        content = encode({"data": plain.get("data", []), "layout": layout}, arrays, {})
        self.offer(figure=content, arrays=arrays, summary=encode(summary_of(dict(plain)), [], {}))

    def download(self, name: str = "figure", kind: str = "png") -> None:
        """Let the browser save the chart as it looks now; kind: "png" or "svg"."""
        self.send({"kind": "download", "name": name, "format": kind})

    def table(self) -> "pd.DataFrame":
        """The newest figure's numbers, tidy."""
        from widgets.export.tables import table

        return table(self.figure)

    @property
    def figure(self) -> dict[str, Any]:
        """The newest figure as plain dicts, with its arrays as numpy arrays."""
        frame: dict[str, Any] = self.frame
        return dict(decode(frame.get("figure", {}), frame.get("arrays", [])))

    def heard(self, content: dict[str, Any], _buffers: list[Any]) -> None:
        """The page asks for plotly.js, or says where it got it."""
        if content.get("kind") == "want-bundle":
            self.send({"kind": "bundle", "version": self.bundle["version"]}, buffers=[bundle.compressed()])
        elif content.get("kind") == "have-bundle":
            self.bundle_source = str(content.get("source"))[:20]


def as_plain(figure: "go.Figure") -> dict[str, Any]:
    """A Figure as plain dicts with its arrays as numpy arrays (to_dict would make base64 text of them)."""
    traces = [trace.to_plotly_json() for trace in figure.data]
    return {"data": traces, "layout": figure.layout.to_plotly_json()}


def decode(value: Any, arrays: Sequence[bytes]) -> Any:
    """What `encode` made, with numpy arrays in the places that stand for them."""
    if isinstance(value, Mapping):
        if "array" in value and "dtype" in value:
            flat = np.frombuffer(arrays[value["array"]], np.dtype(value["dtype"]).newbyteorder("<"))
            return flat.reshape(value["shape"])
        return {key: decode(inner, arrays) for key, inner in value.items()}
    return [decode(inner, arrays) for inner in value] if isinstance(value, list) else value


def encode(value: Any, arrays: list[bytes], known: dict[int, dict[str, Any]]) -> Any:
    """`value` as JSON can hold it; numeric arrays go to `arrays`. `known` maps id(array) to what stands for it."""
    if isinstance(value, str):
        return value if value.isascii() else value.encode("utf-8", "replace").decode()
    if value is None or isinstance(value, bool | int):
        return value
    if isinstance(value, float):
        return value if np.isfinite(value) else None
    if isinstance(value, Mapping):
        return {str(key): encode(inner, arrays, known) for key, inner in value.items()}
    if isinstance(value, Sequence):
        return [encode(inner, arrays, known) for inner in value]
    if isinstance(value, np.generic):
        return encode(value.item(), arrays, known)
    array = np.asarray(value.detach().cpu() if hasattr(value, "detach") else value)
    return _encode_array(array, arrays, known, key=id(value))


def _encode_array(array: np.ndarray, arrays: list[bytes], known: dict[int, dict[str, Any]], key: int) -> Any:
    if array.ndim not in (1, 2) or array.dtype.kind not in "biuf":
        return encode(array.tolist(), arrays, known)
    if key not in known:
        dtype = _dtype(array)
        known[key] = {"array": len(arrays), "dtype": dtype, "shape": list(array.shape)}
        arrays.append(as_bytes(array, dtype))
    return known[key]


def _dtype(array: np.ndarray) -> str:
    """The narrowest type of DTYPES that keeps the values: float64 where 64-bit integers do not fit into 32."""
    kind = array.dtype.kind
    if kind == "b":
        return "uint8"
    if kind == "f":
        return "float32" if array.dtype.itemsize <= 4 else "float64"
    found = DTYPES.get(f"{kind}{array.dtype.itemsize}")
    limits = np.iinfo(np.int32)
    fits = not array.size or (array.min() >= limits.min and array.max() <= limits.max)
    return found or ("int32" if fits else "float64")
