"""The command line: gating-explorer serve | lab | class | list | train | verify | balance | inspect | trace | bench.

Nothing here imports torch before a command needs it, so that --help and a mistyped option answer at once. Results go to
stdout, progress to stderr, and what goes wrong is one sentence there.
"""

import io
import json
import os
import subprocess
import sys
import traceback
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from explorer.cli import balance, classroom, inspect, trace, train, verify
from explorer.cli.output import show_table

if TYPE_CHECKING:
    from explorer.catalogue import Knob, Spec

ROOT = Path(__file__).resolve().parents[2]
INTERRUPTED = 130  # as a shell reports a program ended by Ctrl-C

app = typer.Typer(
    add_completion=False,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
    context_settings={"help_option_names": ["-h", "--help"]},
)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; the exit code is 0 (done), 1 (an error), 2 (wrong usage) or 130 (stopped by Ctrl-C)."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    debug = "--debug" in given
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")  # a terminal without a sign for "holds" still gets its table
    try:
        code = _run([one for one in given if one != "--debug"])
        sys.stdout.flush()
    except KeyboardInterrupt:
        code = INTERRUPTED
    except BrokenPipeError:  # whoever reads our output, `head` say, has seen enough
        code = 1
    except Exception as error:  # noqa: BLE001 (whatever it is: one sentence)
        code = 1
        if debug:
            traceback.print_exc()
        else:
            typer.echo(f"error: {_sentence(error)}", err=True)
    _forget_unwritable_output()
    return code


def _run(arguments: list[str]) -> int:
    try:
        app(arguments, prog_name="gating-explorer")
    except SystemExit as done:
        return done.code if isinstance(done.code, int) else int(done.code is not None)
    return 0


def _sentence(error: Exception) -> str:
    from explorer.errors import ExplorerError

    if isinstance(error, ExplorerError):
        return str(error)
    first_line = (str(error) or "no message").splitlines()[0]
    return f"{type(error).__name__}: {first_line}; run again with --debug to see where"


def _forget_unwritable_output() -> None:
    """Python flushes once more when it ends, and would complain a second time about a closed pipe or a full disk."""
    try:
        sys.stdout.flush()
    except (OSError, ValueError):
        with suppress(OSError, ValueError):
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def command(name: str) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """A command whose help is its docstring; a paragraph's lines are joined, so that a terminal breaks them anew."""

    def register(function: Callable[..., None]) -> Callable[..., None]:
        paragraphs = (function.__doc__ or "").split("\n\n")
        app.command(name, help="\n\n".join(" ".join(one.split()) for one in paragraphs))(function)
        return function

    return register


def _version(wanted: bool) -> None:
    if wanted:
        from importlib.metadata import version

        from explorer import __version__

        print(f"gating-explorer {__version__} (torch {version('torch')})")
        raise typer.Exit


@app.callback(
    help="See what decides in a neural network which expert, head or layer gets a token, while it decides.",
    epilog="Begin with: gating-explorer serve. Exit codes: 0 done, 1 an error, 2 wrong usage, 130 stopped by Ctrl-C.",
)
def options(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version and stop.")
    ] = False,
    debug: Annotated[
        bool, typer.Option("--debug", help="Show the traceback of an error; also after a command.")
    ] = False,
) -> None:
    """Holds the options that stand before a command; `main` takes --debug out wherever it stands."""


# -- pages -------------------------------------------------------------------------------------------------------------

Browser = Annotated[bool, typer.Option("--browser/--no-browser", help="Open the page where there is a browser.")]
Host = Annotated[str, typer.Option(help="0.0.0.0 lets other machines in.")]
BaseUrl = Annotated[str, typer.Option(help="The prefix of every address, behind a proxy.")]
Token = Annotated[
    str, typer.Option(envvar="GATING_EXPLORER_TOKEN", help="What a visitor must know.", show_default=False)
]


@command("serve")
def serve(
    port: Annotated[int, typer.Option(min=0, max=65535, help="0 takes a free one.")] = 8866,
    browser: Browser = True,
    host: Host = "127.0.0.1",
    base_url: BaseUrl = "/",
    token: Token = "",
    people: Annotated[
        int,
        typer.Option(
            "--class", metavar="N", min=0, max=500, help="A class of N people: warm pages, limits, a line when full."
        ),
    ] = 0,
    processes: Annotated[
        int,
        typer.Option(metavar="P", min=1, max=16, help="With --class: so many processes render its pages."),
    ] = 1,
) -> None:
    """Serve the pages to this machine's browser until Ctrl-C.

    Example: gating-explorer serve --port 8866

    Example: gating-explorer serve --class 30 --host 0.0.0.0 --token sesame

    A link opens a page in one state: http://localhost:8866/voila/render/labs/routing.ipynb?mechanism=switch&seed=5
    """
    from explorer import serving

    of_a_class: dict[str, Any] = {"people": people} if people else {}
    of_a_class |= {"processes": processes} if processes > 1 else {}
    raise typer.Exit(serving.serve(port, browser, base_url, token, host, **of_a_class))


@command("lab")
def lab(
    port: Annotated[int, typer.Option(min=0, max=65535, help="0 takes a free one.")] = 8888,
    browser: Browser = True,
    host: Host = "127.0.0.1",
    base_url: BaseUrl = "/",
    token: Token = "",
) -> None:
    """Open the pages' notebooks in JupyterLab, to read and change them, until Ctrl-C.

    Example: gating-explorer lab
    """
    from explorer import serving

    raise typer.Exit(serving.lab(port, browser, base_url, token, host))


# -- catalogue ---------------------------------------------------------------------------------------------------------


@command("list")
def catalogue(
    name: Annotated[
        str | None, typer.Argument(metavar="NAME", help="One mechanism's card.", show_default=False)
    ] = None,
    family: Annotated[str | None, typer.Option(help="Only this family, such as routing.", show_default=False)] = None,
    as_json: Annotated[bool, typer.Option("--json", help="For programs: with knobs, equations and claims.")] = False,
) -> None:
    """List the mechanisms, or show one with its knobs and their ranges.

    Example: gating-explorer list --family routing

    Example: gating-explorer list switch
    """
    from explorer import names, spec

    cards = [spec(name)] if name is not None else [spec(one) for one in names(family)]
    if as_json:
        print(json.dumps([_card(card) for card in cards], indent=2))
    elif name is not None:
        _show_card(cards[0])
    else:
        show_table(
            ("name", "title", "year", "arXiv", "claims"),
            [(c.name, c.title, str(c.paper.year), c.paper.arxiv, str(len(c.claims))) for c in cards],
        )


def _card(card: "Spec") -> dict[str, Any]:
    facts = ("name", "title", "family", "slot", "lab", "summary", "equation", "reference", "page", "pitfalls")
    claims = ("name", "statement", "source", "reported", "threshold")
    return {
        **{name: getattr(card, name) for name in facts},
        "paper": asdict(card.paper),
        "knobs": {name: asdict(knob) for name, knob in card.knobs.items()},
        "claims": [{name: getattr(claim, name) for name in claims} for claim in card.claims],
    }


def _show_card(card: "Spec") -> None:
    from explorer.assembly import SETTINGS

    paper = card.paper
    print(f"{card.title}: {card.summary}\n{paper.authors}, {paper.title} ({paper.year}), arXiv {paper.arxiv}\n")
    own = [("", name, knob) for name, knob in card.knobs.items()]
    host = [("host", name, knob) for name, knob in SETTINGS.items() if name not in card.knobs]
    rows = [(name, of, str(knob.default), _range(knob), knob.meaning) for of, name, knob in own + host]
    show_table(("--set", "of", "default", "range", "meaning"), rows)
    for pitfall in card.pitfalls:
        print(f"Note: {pitfall}")


def _range(knob: "Knob") -> str:
    return knob.range_in_words() if knob.choices is None else " or ".join(map(str, knob.choices))


# -- long commands -----------------------------------------------------------------------------------------------------

command("train")(train.train)
command("verify")(verify.verify)
command("balance")(balance.balance)
command("inspect")(inspect.inspect)
command("trace")(trace.trace)
app.add_typer(classroom.app, name="class")


# -- speed -------------------------------------------------------------------------------------------------------------


@command("bench")
def bench(
    only: Annotated[str | None, typer.Option(metavar="NAME", help="One benchmark.", show_default=False)] = None,
) -> None:
    """Measure speed and memory beside peers, in a clone of the repository.

    Example: gating-explorer bench --only training
    """
    from explorer.errors import ExplorerError

    if not (ROOT / "tests/benchmarks/__main__.py").is_file():
        raise ExplorerError(
            "the benchmarks are not part of an installed package: run this in a clone of the repository"
        )
    arguments = [] if only is None else ["--only", only]
    done = subprocess.run([sys.executable, "-m", "tests.benchmarks", *arguments], cwd=ROOT, check=False)
    raise typer.Exit(done.returncode if done.returncode >= 0 else 1)
