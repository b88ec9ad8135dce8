"""The numbers of a picture as a tidy table, and the table as the bytes of a file that says where it comes from.

Columns, by what is drawn:
    lines, points, bars      trace, x, y; and text, y_error where the figure has them
    heat maps                row, column, value (empty cells at the end of a run left out); and trace if there are several
    token strip              token, sequence, domain, position, layer, slot, expert, weight, margin; a slot that is empty has
                             expert -1; slot 0 is the strongest; the token is written as the page shows it (· is a blank)
    decision map             kind (place or point), x, y, expert, margin (0..1: share of the map's largest), cluster

A CSV file begins with one line `# <stamp>` (pandas: read_csv(..., skiprows=1)). Numbers are numbers. A *text* cell that a
spreadsheet could take for a formula (its first sign, after blanks and apostrophes, is one of = + - @, or it begins with a
tab or a line end) gets an apostrophe in front, as spreadsheets themselves write it; `unguarded` takes it off again. Parquet
keeps every text as it is, and the stamp under the key `stamp` of the schema's metadata.
"""

import html
import re
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from explorer.errors import ExplorerError
from widgets.figures.text import clean

if TYPE_CHECKING:
    import pandas as pd
    import plotly.graph_objects as go

_FORMULA = re.compile(r"[\s']*[=+\-@＝＋－＠]|[\s']*[\t\r\n]")
LONGEST_STAMP = 1000


class CannotExport(ExplorerError):
    """A table or page that cannot be written."""


def table(figure: "Mapping[str, Any] | go.Figure") -> "pd.DataFrame":
    """The data of a figure (a plotly Figure, or {"data", "layout"} with arrays), tidy; see the top of this file."""
    import pandas as pd

    traces = figure.get("data") or [] if isinstance(figure, Mapping) else [one.to_plotly_json() for one in figure.data]
    heats = [trace for trace in traces if trace.get("z") is not None]
    parts = [_heat(trace, number, len(heats) > 1) for number, trace in enumerate(heats)]
    parts += [_line(trace, number) for number, trace in enumerate(traces) if trace.get("z") is None]
    parts = [part for part in parts if part is not None]
    if not parts:
        return pd.DataFrame({"trace": pd.Series(dtype=str), "x": pd.Series(dtype=float), "y": pd.Series(dtype=float)})
    frames = [pd.DataFrame(part) for part in parts]
    return frames[0] if len(frames) == 1 else pd.concat(frames, ignore_index=True)


def routed_tokens(
    experts_LBTK: np.ndarray,
    weights_LBTK: np.ndarray,
    margins_LBT: np.ndarray,
    tokens: Sequence[Sequence[str]],
    names: Sequence[str],
    sequence_names: Sequence[str],
) -> "pd.DataFrame":
    """Which expert took which token with what weight: one row a slot."""
    import pandas as pd

    L, B, T, K = experts_LBTK.shape
    layer, sequence, position, slot = (axis.ravel() for axis in np.indices((L, B, T, K)))
    texts = np.array([list(one) for one in tokens], dtype=object).reshape(B, T)
    layers = [*names, *(f"layer {i}" for i in range(len(names), L))]
    domains = [*sequence_names, *[""] * max(0, B - len(sequence_names))]
    return pd.DataFrame(
        {
            "token": texts[sequence, position],
            "sequence": sequence,
            "domain": np.array([*domains, ""], dtype=object)[sequence],
            "position": position,
            "layer": np.array([*layers, ""], dtype=object)[layer],
            "slot": slot,
            "expert": experts_LBTK.ravel(),
            "weight": np.round(weights_LBTK.ravel(), 6),
            "margin": np.round(margins_LBT[layer, sequence, position], 6),
        }
    )


def plane(frame: Mapping[str, Any], points: Mapping[str, Any], label_names: Sequence[str]) -> "pd.DataFrame":
    """A decision map's grid, top row first, and its points; -1: nobody, or not told."""
    import pandas as pd

    H, W = frame.get("shape", (0, 0))
    x0, x1, y0, y1 = frame.get("bounds", (0.0, 1.0, 0.0, 1.0))
    row, column = (axis.ravel() for axis in np.indices((H, W)))
    grid = {
        "kind": "place",
        "x": np.round(x0 + (column + 0.5) / max(W, 1) * (x1 - x0), 6),
        "y": np.round(y1 - (row + 0.5) / max(H, 1) * (y1 - y0), 6),
        "expert": _taken(frame.get("experts", b"")),
        "margin": np.round(np.frombuffer(frame.get("margins", b""), "uint8") / 255, 4),
        "cluster": "",
    }
    xy = np.frombuffer(points.get("xy", b""), "<f4").reshape(-1, 2)
    labels = np.frombuffer(points.get("labels", b""), "uint8")
    takers = _taken(frame.get("takers", b""))
    marks = {
        "kind": "point",
        "x": xy[:, 0],
        "y": xy[:, 1],
        "expert": takers if len(takers) == len(xy) else np.full(len(xy), -1),
        "margin": np.nan,
        "cluster": [label_names[c] if c < len(label_names) else f"cluster {c}" for c in labels],
    }
    parts = [pd.DataFrame(grid), pd.DataFrame(marks)]
    return pd.concat([part for part in parts if len(part)] or parts[:1], ignore_index=True)


def to_csv(df: "pd.DataFrame", stamp: str = "") -> bytes:
    """UTF-8, with the stamp as the first line behind `# `; text that looks like a formula is made harmless."""
    made = df.rename(columns=lambda name: guarded(str(name)))
    for name in made.columns[[not _is_number(dtype) for dtype in made.dtypes]]:
        made[name] = made[name].map(lambda cell: guarded(_lines(cell)) if isinstance(cell, str) else cell)
    text = made.to_csv(index=False, lineterminator="\n")
    line = one_line(stamp)
    return (f"# {line}\n{text}" if line else text).encode("utf-8", "replace")


def to_parquet(df: "pd.DataFrame", stamp: str = "") -> bytes:
    """The table as a Parquet file, with the stamp in the metadata of its schema."""
    import io

    try:
        import pyarrow as pa
        import pyarrow.parquet as pq
    except ImportError:
        raise CannotExport(
            "Parquet needs the package pyarrow: run `pip install pyarrow`, or save a CSV table."
        ) from None
    mixed = {name: df[name].map(str) for name in df if df[name].dtype == object and _is_mixed(df[name])}
    made = df.copy()
    for name, column in mixed.items():
        made[name] = column
    content = pa.Table.from_pandas(made, preserve_index=False)
    content = content.replace_schema_metadata({**(content.schema.metadata or {}), b"stamp": one_line(stamp).encode()})
    file = io.BytesIO()
    pq.write_table(content, file)
    return file.getvalue()


def one_line(stamp: str) -> str:
    """A stamp without line ends and controls."""
    return clean(stamp, LONGEST_STAMP)


def guarded(text: str) -> str:
    """`text` so that no spreadsheet reads it as a formula.

    >>> guarded("=1+1"), guarded("a=1"), guarded("'-")
    ("'=1+1", 'a=1', "''-")
    """
    return "'" + text if _FORMULA.match(text) else text


def unguarded(text: str) -> str:
    """What `guarded` was given."""
    return text[1:] if text.startswith("'") and _FORMULA.match(text, 1) else text


# -- one trace -------------------------------------------------------------------------------------------------------


def _line(trace: Mapping[str, Any], number: int) -> dict[str, Any] | None:
    """trace, x, y of a trace with points; what one of both lacks is counted from 0."""
    x, y = (_values(trace.get(axis, trace.get(other))) for axis, other in (("x", "labels"), ("y", "values")))
    length = max((len(one) for one in (x, y) if one is not None), default=0)
    if not length:
        return None
    columns: dict[str, Any] = {
        "trace": [_name(trace, number)] * length,
        "x": _fit(_plain(x), length),
        "y": _fit(_plain(y), length),
    }
    text = _values(trace.get("text") if trace.get("text") is not None else trace.get("hovertext"))
    if text is not None and text.ndim == 1 and len(text) == length:
        columns["text"] = _plain(text)
    error = _values((trace.get("error_y") or {}).get("array"))
    if error is not None and len(error) == length:
        columns["y_error"] = error
    return columns


def _heat(trace: Mapping[str, Any], number: int, several: bool) -> dict[str, Any] | None:
    """row, column, value of a heat map; columns and rows without any value at its end are not data."""
    z = _values(trace["z"])
    if z is None or z.ndim != 2 or not z.size:
        return None
    z = z.astype(np.result_type(z.dtype, np.float32))
    known = np.isfinite(z)
    columns = int(known.any(0).nonzero()[0].max(initial=-1)) + 1
    names = [_fit(_plain(_values(trace.get(axis))), length) for axis, length in (("y", len(z)), ("x", z.shape[1]))]
    row, column = (axis.ravel() for axis in np.indices((len(z), columns)))
    table_ = {"trace": [_name(trace, number)] * len(row)} if several else {}
    return {**table_, "row": names[0][row], "column": names[1][column], "value": z[:, :columns].ravel()}


def _values(given: Any) -> np.ndarray | None:
    """A trace's attribute as an array; plotly may keep it as base64 text."""
    if given is None or isinstance(given, str):
        return None
    if isinstance(given, Mapping) and "bdata" in given:
        import base64

        flat = np.frombuffer(base64.b64decode(given["bdata"]), given["dtype"])
        return flat.reshape([int(n) for n in str(given["shape"]).split(",")]) if "shape" in given else flat
    if hasattr(given, "detach"):
        return np.asarray(given.detach().cpu())
    values = given if isinstance(given, np.ndarray) else list(given)
    try:
        array = np.asarray(values)
    except ValueError:  # rows of different lengths
        return None
    # None among numbers is a gap; text among numbers keeps every cell as it is
    if array.dtype.kind == "O" and all(one is None or isinstance(one, int | float) for one in array.ravel()):
        return array.astype(float)
    return np.asarray(values, dtype=object) if array.dtype.kind in "US" else array


def _plain(values: np.ndarray | None) -> np.ndarray | None:
    """Labels as a reader sees them, without plotly's markup."""
    if values is None or values.dtype.kind != "O":
        return values
    return np.array([_shown(one) if isinstance(one, str) else one for one in values], dtype=object)


def _fit(values: np.ndarray | None, length: int) -> np.ndarray:
    """The values, or 0, 1, 2 ... where there are none, or too few."""
    return values if values is not None and len(values) == length else np.arange(length)


def _name(trace: Mapping[str, Any], number: int) -> str:
    return _shown(trace.get("name") or f"trace {number}")


def _shown(text: object) -> str:
    """Plotly's markup as plain text: no tags, entities as the signs they stand for, no half of a sign."""
    whole = str(text).encode("utf-8", "replace").decode()
    return html.unescape(re.sub(r"<[^<>]*>", " ", whole).strip())


def _taken(content: bytes) -> np.ndarray:
    experts = np.frombuffer(content, "uint8").astype(int)
    return np.where(experts == 255, -1, experts)


def _lines(text: str) -> str:
    """One kind of line end: a lone carriage return in a cell is a new row to some readers."""
    return text.replace("\r\n", "\n").replace("\r", "\n")


def _is_mixed(column: "pd.Series[Any]") -> bool:
    """Whether texts and numbers meet in a column, which Parquet cannot hold."""
    return len({isinstance(cell, str) for cell in column}) > 1


def _is_number(dtype: Any) -> bool:
    return getattr(dtype, "kind", "O") in "biuf"
