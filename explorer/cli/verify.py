"""gating-explorer verify: the claims of the papers, their verdicts as a table and as a file."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from explorer.cli.output import free_target, run_bar, seed_list, show_table

if TYPE_CHECKING:
    from explorer.claims import Verdict

SYMBOLS = {"holds": "✓ holds", "not seen": "✗ not seen", "reported": "· reported"}


def verify(
    names: Annotated[
        list[str] | None,
        typer.Argument(metavar="NAME", help="Mechanisms of `gating-explorer list`.", show_default=False),
    ] = None,
    everything: Annotated[bool, typer.Option("--all", help="Every mechanism.")] = False,
    family: Annotated[str | None, typer.Option(help="Every mechanism of a family.", show_default=False)] = None,
    seeds: Annotated[str, typer.Option(help="Whole numbers from 0, with commas.")] = "0,1,2",
    jobs: Annotated[
        int | None, typer.Option(min=1, help="Runs at once; without it one a core.", show_default=False)
    ] = None,
    strict: Annotated[bool, typer.Option("--strict", help="Exit code 2 if a judged claim is not seen.")] = False,
    output: Annotated[
        Path | None,
        typer.Option(
            "--output",
            "-o",
            metavar="FILE",
            help="The table, as .json or .csv; replaced if it exists.",
            show_default=False,
        ),
    ] = None,
) -> None:
    """Try what the papers claim at tiny scale, each claim with a control that must fail.

    Example: gating-explorer verify switch expert-choice --seeds 0,1,2 -o table.csv

    The exit code is 0 when everything ran, whatever was found: a claim that a tiny model does not show is a result too.
    With --strict it is 2 if a judged claim is not seen.
    """
    if bool(names) + everything + (family is not None) != 1:
        raise typer.BadParameter("give names of mechanisms, or --family, or --all", param_hint="NAME")
    chosen_seeds, target = seed_list(seeds), None if output is None else _table_target(output)
    import explorer
    from explorer import claims

    with run_bar() as done:
        verdicts = claims.verify(names or explorer.names(family), chosen_seeds, jobs, done)
    if target is not None:
        _save_verdicts(verdicts, target)
    _show_verdicts(verdicts)
    if strict and any(verdict.holds is False for verdict in verdicts):
        raise typer.Exit(2)


def _table_target(path: Path) -> Path:
    from explorer.errors import BadValue

    if path.suffix not in (".json", ".csv"):
        raise BadValue(f"cannot save the table as {str(path)!r}: its name must end in .json or .csv")
    return free_target(path, force=True)


def _show_verdicts(verdicts: Sequence["Verdict"]) -> None:
    from explorer.claims import table

    rows = [
        (SYMBOLS[row["verdict"]], f"{row['mechanism']}: {row['claim']}", row["paper"], row["effect"],
         f"{row['control']} ({row['control is']})", row["asked"])
        for row in table(verdicts).to_dict("records")
    ]  # fmt: skip
    show_table(("verdict", "claim", "paper", "ours", "control", "asked"), rows)
    judged = [verdict.holds for verdict in verdicts if verdict.holds is not None]
    unjudged = len(verdicts) - len(judged)
    print("ours: the mean over the seeds, with the lowest and the highest where they differ")
    print(f"{sum(judged)} of {len(judged)} judged claims hold; {unjudged} reported without a judgement")


def _save_verdicts(verdicts: Sequence["Verdict"], path: Path) -> None:
    from explorer.claims import to_frame
    from explorer.errors import ExplorerError
    from explorer.recording_file import reason, replacing

    frame = to_frame(verdicts)
    as_json = path.suffix == ".json"
    text = frame.to_json(orient="records", indent=2, double_precision=15) if as_json else frame.to_csv(index=False)
    try:
        with replacing(path) as temporary:
            temporary.write_text(text, encoding="utf-8")
    except OSError as error:
        raise ExplorerError(
            f"cannot save the table to {str(path)!r}: {reason(error)}; nothing was changed there"
        ) from error
    typer.echo(f"the table is saved in {path}", err=True)
