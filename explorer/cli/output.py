"""What the commands share: a file to write, a line of progress, a table."""

import os
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
MOST_ROWS = 100  # of a table in a terminal; the files hold all


def free_target(path: Path, force: bool) -> Path:
    """The file to write at the end, checked at the beginning: an hour of training must not end with a wrong path."""
    from explorer.errors import BadValue

    path = path.expanduser()
    folder = os.path.dirname(os.path.realpath(path))
    if not os.path.isdir(folder):
        raise BadValue(f"cannot write {str(path)!r}: there is no folder {folder!r}")
    if not os.access(folder, os.W_OK | os.X_OK):
        raise BadValue(f"cannot write {str(path)!r}: the folder {folder!r} is not yours to write to")
    if path.exists() and not path.is_file():
        raise BadValue(f"cannot write {str(path)!r}: it is a {'folder' if path.is_dir() else 'device'}, not a file")
    if path.exists() and not force:
        raise BadValue(f"{str(path)!r} exists already; choose another name, or replace it with --force")
    return path


def replaced(path: Path, suffix: str) -> Path:
    """The same for a report, which may be there already: a file that ends in `suffix`."""
    from explorer.errors import BadValue

    if path.suffix != suffix:
        raise BadValue(f"cannot save the report as {str(path)!r}: its name must end in {suffix}")
    return free_target(path, force=True)


def save_text(text: str, path: Path) -> None:
    """Write a report, whole or not at all."""
    from explorer.errors import ExplorerError
    from explorer.recording_file import reason, replacing

    try:
        with replacing(path) as temporary:
            temporary.write_text(text, encoding="utf-8", errors="replace")
    except OSError as error:
        raise ExplorerError(f"cannot save to {str(path)!r}: {reason(error)}; nothing was changed there") from error
    say(f"saved in {path}")


def page_of(module: str, *arguments: str, given: str = "") -> str:
    """What a program of `widgets` prints, which builds on this package and not the other way round. given: its stdin."""
    from explorer.errors import ExplorerError

    done = subprocess.run(
        [sys.executable, "-m", module, *arguments], input=given, capture_output=True, cwd=ROOT, check=False,
        encoding="utf-8", errors="replace",
    )  # fmt: skip
    if done.returncode:
        last = (done.stderr.strip().splitlines() or ["no message"])[-1]
        raise ExplorerError(f"the page could not be made: {last}")
    return done.stdout


def printable(text: str) -> str:
    """Names from a file: without the characters that could move a terminal's cursor."""
    return "".join(c if c.isprintable() else "\ufffd" for c in text)


def in_bytes(size: int) -> str:
    """4.24 GB."""
    for unit, bytes_of in (("TB", 1e12), ("GB", 1e9), ("MB", 1e6)):
        if size >= bytes_of:
            return f"{size / bytes_of:.3g} {unit}"
    return f"{size / 1e3:.3g} kB"


def duration(seconds: float) -> str:
    """40 s, 12 min, 2.5 h."""
    if seconds < 100:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 6000 else f"{seconds / 3600:.1f} h"


def say(line: str) -> None:
    """A line of progress, at once, on stderr."""
    with suppress(OSError):  # a closed pipe must not end the training
        print(line, file=sys.stderr, flush=True)


def seed_list(text: str) -> tuple[int, ...]:
    """0,1,2 of the option --seeds."""
    import typer

    parts = [part.strip() for part in text.split(",")]
    if not all(part.isdecimal() and int(part) < 2**32 for part in parts):
        raise typer.BadParameter(f"{text!r} is not a list of whole numbers such as 0,1,2", param_hint="--seeds")
    return tuple(int(part) for part in parts)


@contextmanager
def run_bar() -> Iterator[Callable[[int, int], None]]:
    """A bar of finished runs where somebody watches, elsewhere a line each."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    console = Console(stderr=True)
    if not console.is_terminal:
        yield lambda done, of: say(f"run {done} of {of}")
        return
    columns = (TextColumn("runs"), MofNCompleteColumn(), BarColumn(), TimeElapsedColumn())
    with Progress(*columns, console=console, refresh_per_second=4) as bar:
        task = bar.add_task("", total=None)
        yield lambda done, of: bar.update(task, completed=done, total=of)


def show_table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """As wide as the terminal; into a file or a pipe as wide as it needs, so that no line is broken."""
    from rich.box import SIMPLE_HEAD
    from rich.console import Console
    from rich.table import Table

    console = Console(markup=False, highlight=False, emoji=False)
    if not console.is_terminal:
        console.width = 1000
    table = Table(box=SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0))
    least = [_least_width(cells) for cells in zip(columns, *rows, strict=True)]
    fits = sum(least) + 2 * len(least) <= console.width  # rich cuts off what does not, and half a number is a wrong one
    for column, width in zip(columns, least, strict=True):
        table.add_column(column, overflow="fold", min_width=width if fits else None)
    for row in rows:
        table.add_row(*row)
    console.print(table)


def _least_width(cells: Sequence[str]) -> int:
    """Of a column: short cells stay whole, long ones are broken between words."""
    longest = max(map(len, cells))
    return longest if longest <= 12 else min(12, max(len(word) for cell in cells for word in [*cell.split(), ""]))
