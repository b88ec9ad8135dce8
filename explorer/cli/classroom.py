"""gating-explorer class build | check | progress: what a teacher hands out, gets back, and sees of a class."""

from collections import defaultdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from explorer.cli.output import free_target, printable, say, show_table

if TYPE_CHECKING:
    from explorer.lessons.progress import Row

app = typer.Typer(
    no_args_is_help=True,
    help="For a class: the lessons to hand out, what comes back, and how far everyone is.",
    context_settings={"help_option_names": ["-h", "--help"]},
)


@app.command("build")
def build(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="A new folder, or one that this command wrote.")],
    solutions: Annotated[
        Path | None,
        typer.Option(
            metavar="FOLDER", help="The folder `instructor` of a clone; a clone finds its own.", show_default=False
        ),
    ] = None,
    pages: Annotated[
        str, typer.Option(metavar="URL", help="Where students find the pages, for links in graded notebooks.")
    ] = "http://localhost:8866/",
) -> None:
    """Write the lessons for students, DIR/student, and notes, solutions and graders for you, DIR/instructor.

    Example: gating-explorer class build my-class
    """
    from explorer.lessons import bundle

    made = bundle.build(folder, solutions, pages)
    lessons = f"{made.lessons} lesson{'' if made.lessons == 1 else 's'}"
    print(f"wrote {lessons} for students to {folder / 'student'}", end="")
    if made.instructor:
        print(f", and notes, solutions, nbgrader's and otter's files to {folder / 'instructor'}")
    else:
        print(
            "; for the instructor's folder the solutions are needed: --solutions with the folder `instructor` of a clone"
        )


@app.command("check")
def check(
    files: Annotated[list[Path], typer.Argument(metavar="FILE...", help="Notebooks, or .py files with the functions.")],
) -> None:
    """Grade what was handed in: a line for each exercise; the exit code is 0 if all have passed.

    Example: gating-explorer class check handed-in/*.ipynb

    Each file runs in a process of its own, and what never ends is ended. The code runs with your rights: grade only
    files of people you know, or do it in a container.
    """
    from explorer.lessons.graders.room import grade_all

    every = True
    for graded in grade_all(files):
        name = printable(str(graded.path))
        for note in graded.notes:
            print(f"{name}: {printable(note)}")
        for number, (function, result) in graded.results.items():
            said = "passed" if result.passed else f"not yet: {result.hint}"
            print(f"{name}: {number} {function}: {printable(said)}", flush=True)
        every = every and graded.passed
    raise typer.Exit(0 if every else 1)


@app.command("progress")
def progress(
    csv: Annotated[
        Path | None,
        typer.Option("--csv", metavar="FILE", help="Every note as a table; replaced if it exists.", show_default=False),
    ] = None,
) -> None:
    """Show how far each student is; $GATING_EXPLORER_PROGRESS may name another file than the usual one.

    Example: gating-explorer class progress --csv class.csv
    """
    from explorer.lessons.progress import Progress

    target = free_target(csv, force=True) if csv is not None else None
    kept = Progress()
    rows = kept.rows()
    if rows:
        show_table(("student", "predictions", "exercises passed", "quiz right", "last seen (UTC)"), by_student(rows))
        print(f"kept in {printable(str(kept.path))}")
    else:
        print(f"nobody has done anything yet; it will be kept in {printable(str(kept.path))}")
    if target is not None:
        count = kept.csv(target)
        say(f"saved in {target}: {count} note{'' if count == 1 else 's'}")


def by_student(rows: "list[Row]") -> list[tuple[str, ...]]:
    """A row for each student, by name; what was tried often, or was right once, counts once."""
    held: dict[str, list[Row]] = defaultdict(list)
    for row in rows:
        held[row.student].append(row)
    return [_summary(name, held[name]) for name in sorted(held, key=lambda one: (one.casefold(), one))]


def _summary(name: str, rows: "list[Row]") -> tuple[str, ...]:
    predicted = {row.item for row in rows if row.kind == "prediction"}
    parts = [printable(name), str(len(predicted))]
    for kind in ("exercise", "quiz"):
        tried = {row.item for row in rows if row.kind == kind}
        right = {row.item for row in rows if row.kind == kind and row.correct}
        parts.append(f"{len(right)} of {len(tried)} tried" if tried else "none tried")
    return (*parts, max(row.at for row in rows)[:16].replace("T", " "))
