"""gating-explorer inspect: what the files of a trained model say about how it routes, as a table, a file or a page."""

import json
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from explorer.cli.output import free_target, show_table

if TYPE_CHECKING:
    from explorer.checkpoints.checkpoint import Checkpoint

ROOT = Path(__file__).resolve().parents[2]
MOST_ROWS = 100  # of a table in a terminal; the files hold all


def inspect(
    path: Annotated[
        str,
        typer.Argument(
            metavar="PATH", help="A folder, a .safetensors file, a hub id or an address.", show_default=False
        ),
    ],
    html: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="A page with figures; replaced if it exists.", show_default=False),
    ] = None,
    as_json: Annotated[
        Path | None,
        typer.Option("--json", metavar="FILE", help="All numbers; replaced if it exists.", show_default=False),
    ] = None,
    layer: Annotated[
        str | None,
        typer.Option(help="The layer whose experts are compared; without it the middle one.", show_default=False),
    ] = None,
) -> None:
    """Show how a trained model routes, from its files alone.

    Example: gating-explorer inspect my-mixtral --html report.html

    Only headers and the tensors that are shown are read, however large the model. No code of it is run, no pickle opened.
    """
    targets = {
        suffix: _target(file, suffix) for suffix, file in ((".html", html), (".json", as_json)) if file is not None
    }
    from explorer.checkpoints.checkpoint import open_checkpoint

    seen = open_checkpoint(path)
    _show(seen)
    if targets or layer is not None:
        from explorer.checkpoints.report import report

        made = report(seen, int(layer) if layer is not None and layer.isdecimal() else layer)
        _show_pairs(made["pairs"])
        text = json.dumps(made, indent=1, ensure_ascii=False, allow_nan=False)
        for suffix, file in targets.items():
            _save(text if suffix == ".json" else _page(text), file)


def _target(path: Path, suffix: str) -> Path:
    from explorer.errors import BadValue

    if path.suffix != suffix:
        raise BadValue(f"cannot save the report as {str(path)!r}: its name must end in {suffix}")
    return free_target(path, force=True)


def _show(seen: "Checkpoint") -> None:
    weights = seen.weights
    print(f"{_line(seen.architecture)}: {len(weights.tensors):,} tensors, {_size(weights.bytes)}")
    if seen.experts is not None:
        print(f"{len(seen.layers)} routed layers, {seen.experts} experts each at most\nrule: {_line(seen.rule)}\n")
        rows = [_row(one) for one in seen.routers.to_dict("records")]
        show_table(
            ("layer", "path", "experts", "width", "row norms", "bias", "shared", "experts are"), rows[:MOST_ROWS]
        )
        if len(rows) > MOST_ROWS:
            print(f"... and {len(rows) - MOST_ROWS} more; --json writes all")
        print("row norms: the mean length of a router's rows, with the shortest and the longest")
    _show_small(seen)
    for sentence in (*seen.unknown, *seen.damaged):
        print(f"Note: {_line(sentence)}")


def _row(one: Mapping[Any, Any]) -> tuple[str, ...]:
    """A row of Checkpoint.routers as words."""
    shared = _line(one["shared"]) + (", gated" if one["shared_gate"] else "")
    norms = f"{one['norm_mean']:.3g} ({one['norm_min']:.3g}..{one['norm_max']:.3g})"
    number = "" if one["layer"] is None or one["layer"] != one["layer"] else str(one["layer"])
    bias = {"selection": "for the choice", "scores": "of the scores"}.get(one["bias"], "")
    return (
        number, _line(one["path"]), str(one["experts"]), str(one["width"]), norms, bias, shared, f"{one['experts_are']}",
    )  # fmt: skip


def _show_small(seen: "Checkpoint") -> None:
    """A line for each kind of small part that there is."""
    for what, table, column in (("biases", seen.biases, "bias"), ("learned sinks", seen.sinks, "logit")):
        if len(table):
            low, high = table[column].min(), table[column].max()
            print(f"{what}: {table['path'].nunique()} layers, {low:.3g} to {high:.3g}")
    if len(seen.shared_gates):
        norms = seen.shared_gates["norm"]
        print(f"gates of the shared expert: {len(norms)} layers, length {norms.min():.3g} to {norms.max():.3g}")
    gates = seen.output_gates
    for (where, function), rows in gates.groupby(["where", "function"], sort=False):
        numbers = " or ".join(map(str, sorted(rows["numbers"].unique())))
        print(f"output gates of attention: {len(rows)} layers, {where}, {function}, {numbers} numbers for a token")


def _show_pairs(pairs: dict[str, Any] | None) -> None:
    if pairs is None:
        return
    for what, map_ee in (("router rows", pairs["cosine"]), ("experts' matrices", pairs["similarity"])):
        known = [x for e, row in enumerate(map_ee or []) for f, x in enumerate(row) if e != f and x is not None]
        if known:
            mean = sum(known) / len(known)
            print(
                f"{what} of {_line(pairs['path'])}: cosine {mean:.3f} on average, {min(known):.3f} to {max(known):.3f}"
            )
    if pairs["sample"] or pairs["without"]:
        print(_line(pairs["sample"] or pairs["without"]))


def _line(text: str) -> str:
    """Names from a file: without the characters that could move a terminal's cursor."""
    return "".join(c if c.isprintable() else "\ufffd" for c in text)


def _size(size: int) -> str:
    for unit, bytes_of in (("TB", 1e12), ("GB", 1e9), ("MB", 1e6)):
        if size >= bytes_of:
            return f"{size / bytes_of:.3g} {unit}"
    return f"{size / 1e3:.3g} kB"


def _save(text: str, path: Path) -> None:
    from explorer.errors import ExplorerError
    from explorer.recording_file import reason, replacing

    try:
        with replacing(path) as temporary:
            temporary.write_text(text, encoding="utf-8", errors="replace")
    except OSError as error:
        raise ExplorerError(f"cannot save to {str(path)!r}: {reason(error)}; nothing was changed there") from error
    typer.echo(f"saved in {path}", err=True)


def _page(report: str) -> str:
    """Pages are drawn by `widgets`, which builds on this package and not the other way round: a program of its own."""
    from explorer.errors import ExplorerError

    command = [sys.executable, "-m", "widgets.export.checkpoint_page"]
    given = {"input": report, "encoding": "utf-8", "errors": "replace"}
    done = subprocess.run(command, capture_output=True, cwd=ROOT, check=False, **given)  # type: ignore[call-overload]
    if done.returncode:
        last = (done.stderr.strip().splitlines() or ["no message"])[-1]
        raise ExplorerError(f"the page could not be made: {last}")
    page: str = done.stdout
    return page
