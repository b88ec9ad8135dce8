"""gating-explorer balance: the balancing methods side by side, as a table, a file or a page with the figure."""

import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from explorer.cli.output import free_target, run_bar, seed_list, show_table

if TYPE_CHECKING:
    import pandas as pd

ROOT = Path(__file__).resolve().parents[2]
FORMATS = (".csv", ".json", ".html")


def balance(
    seeds: Annotated[str, typer.Option(help="Whole numbers from 0, with commas.")] = "0,1,2",
    steps: Annotated[int, typer.Option(min=1, max=1_000_000, help="Training steps of each run.")] = 300,
    jobs: Annotated[
        int | None, typer.Option(min=1, help="Runs at once; without it one a core.", show_default=False)
    ] = None,
    output: Annotated[
        Path | None,
        typer.Option(
            "--output",
            "-o",
            metavar="FILE",
            help="The numbers of every run as .csv or .json, or the figure as a page, .html; replaced if it exists.",
            show_default=False,
        ),
    ] = None,
) -> None:
    """Compare what keeps the experts evenly loaded where one domain of the text is common and another rare.

    Example: gating-explorer balance --seeds 0,1,2 --steps 300 -o balance.html

    Every method is trained beside its control, the same router with nothing that balances. A .json can become a page
    later: python -m widgets.export.balance_page < balance.json > balance.html
    """
    chosen_seeds, target = seed_list(seeds), None if output is None else _target(output)
    from explorer import balancing

    with run_bar() as done:
        frame = balancing.balance(chosen_seeds, steps, jobs=jobs, done=done)
    _show(frame)  # before the file: a full disk must not cost the result
    if target is not None:
        _save(frame, target)


def _target(path: Path) -> Path:
    from explorer.errors import BadValue

    if path.suffix not in FORMATS:
        raise BadValue(f"cannot save the benchmark as {str(path)!r}: its name must end in .csv, .json or .html")
    return free_target(path, force=True)


def _show(frame: "pd.DataFrame") -> None:
    from explorer.balancing import COLUMNS, MEASURES, METHODS, MIX, table

    words = table(frame)
    show_table(tuple(words.columns), [tuple(row) for row in words.itertuples(index=False)])
    shares = ", ".join(f"{name} {share:.0%}" for name, share in MIX.items())
    print(f"training text: {shares}; every number is the mean over the seeds, below it the lowest and the highest")
    for title, (column, _) in COLUMNS.items():
        print(f"{title}: {MEASURES[column]}")
    print("vs none: what the method adds to the loss of its control with the same seed and text (below 0: better)")
    for k, mine in frame.groupby("k"):
        floors = f"{mine['batch_floor'].iloc[0]:.2f} (batch) and {mine['held_out_floor'].iloc[0]:.2f} (new text)"
        print(
            f"a router that throws dice, k = {k}: MaxVio up to {floors}; on real text an even router shows about twice it"
        )
    for name, leak in frame.groupby("method", sort=False)["future_flips"].mean().items():
        if leak:
            print(
                f"{name} is not causal: {leak:.1%} of its predictions change with later text, so its loss flatters it"
            )
    for name in frame["method"].unique():
        if METHODS[name].control:
            print(f"{name}: {METHODS[name].does}")


def _save(frame: "pd.DataFrame", path: Path) -> None:
    from explorer.errors import ExplorerError
    from explorer.recording_file import reason, replacing

    if path.suffix == ".csv":
        text = frame.to_csv(index=False)
    else:
        text = frame.to_json(orient="records", indent=2, double_precision=15)
    if path.suffix == ".html":
        text = _page(text)
    try:
        with replacing(path) as temporary:
            temporary.write_text(text, encoding="utf-8")
    except OSError as error:
        raise ExplorerError(f"cannot save to {str(path)!r}: {reason(error)}; nothing was changed there") from error
    typer.echo(f"saved in {path}", err=True)


def _page(rows: str) -> str:
    """Pages are drawn by `widgets`, which builds on this package and not the other way round: a program of its own."""
    from explorer.errors import ExplorerError

    command = [sys.executable, "-m", "widgets.export.balance_page"]
    done = subprocess.run(command, input=rows, capture_output=True, cwd=ROOT, encoding="utf-8", check=False)
    if done.returncode:
        last = (done.stderr.strip().splitlines() or ["no message"])[-1]
        raise ExplorerError(f"the page could not be made: {last}")
    return done.stdout
