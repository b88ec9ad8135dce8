"""gating-explorer inspect: what the files of a trained model say about how it routes, as a table, a file or a page."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from explorer.cli.output import MOST_ROWS, in_bytes, page_of, printable, replaced, save_text, show_table

if TYPE_CHECKING:
    from explorer.checkpoints.checkpoint import Checkpoint


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
        suffix: replaced(file, suffix) for suffix, file in ((".html", html), (".json", as_json)) if file is not None
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
            save_text(text if suffix == ".json" else page_of("widgets.export.checkpoint_page", given=text), file)


def _show(seen: "Checkpoint") -> None:
    weights = seen.weights
    print(f"{printable(seen.architecture)}: {len(weights.tensors):,} tensors, {in_bytes(weights.bytes)}")
    if seen.experts is not None:
        print(f"{len(seen.layers)} routed layers, {seen.experts} experts each at most\nrule: {printable(seen.rule)}\n")
        rows = [_row(one) for one in seen.routers.to_dict("records")]
        show_table(
            ("layer", "path", "experts", "width", "row norms", "bias", "shared", "experts are"), rows[:MOST_ROWS]
        )
        if len(rows) > MOST_ROWS:
            print(f"... and {len(rows) - MOST_ROWS} more; --json writes all")
        print("row norms: the mean length of a router's rows, with the shortest and the longest")
    _show_small(seen)
    for sentence in (*seen.unknown, *seen.damaged):
        print(f"Note: {printable(sentence)}")


def _row(one: Mapping[Any, Any]) -> tuple[str, ...]:
    """A row of Checkpoint.routers as words."""
    shared = printable(one["shared"]) + (", gated" if one["shared_gate"] else "")
    norms = f"{one['norm_mean']:.3g} ({one['norm_min']:.3g}..{one['norm_max']:.3g})"
    number = "" if one["layer"] is None or one["layer"] != one["layer"] else str(one["layer"])
    bias = {"selection": "for the choice", "scores": "of the scores"}.get(one["bias"], "")
    return (
        number, printable(one["path"]), str(one["experts"]), str(one["width"]), norms, bias, shared, f"{one['experts_are']}",
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
                f"{what} of {printable(pairs['path'])}: cosine {mean:.3f} on average, {min(known):.3f} to {max(known):.3f}"
            )
    if pairs["sample"] or pairs["without"]:
        print(printable(pairs["sample"] or pairs["without"]))
