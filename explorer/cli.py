"""The command line: gating-explorer serve | lab | list | train | verify | bench.

Nothing here imports torch before a command needs it, so that --help and a mistyped option answer at once. Results go to
stdout, progress to stderr, and what goes wrong is one sentence there.
"""

import io
import json
import math
import os
import signal
import subprocess
import sys
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from explorer.catalogue import Knob, Spec
    from explorer.claims import Verdict
    from explorer.experiment import Experiment, Step

ROOT = Path(__file__).resolve().parent.parent
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
) -> None:
    """Serve the pages to this machine's browser until Ctrl-C.

    Example: gating-explorer serve --port 8866

    A link opens a page in one state: http://localhost:8866/voila/render/labs/routing.ipynb?mechanism=switch&seed=5
    """
    from explorer import serving

    raise typer.Exit(serving.serve(port, browser, base_url, token, host))


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
        _show_table(
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
    _show_table(("--set", "of", "default", "range", "meaning"), rows)
    for pitfall in card.pitfalls:
        print(f"Note: {pitfall}")


def _range(knob: "Knob") -> str:
    return knob.range_in_words() if knob.choices is None else " or ".join(map(str, knob.choices))


# -- training ----------------------------------------------------------------------------------------------------------


@command("train")
def train(
    name: Annotated[
        str, typer.Argument(metavar="NAME", help="A mechanism of `gating-explorer list`.", show_default=False)
    ],
    output: Annotated[
        Path,
        typer.Option("--output", "-o", metavar="FILE", help="The recording, a .safetensors file.", show_default=False),
    ],
    task: Annotated[str, typer.Option(help="text, clusters or bigram-backcopy.")] = "text",
    steps: Annotated[int, typer.Option(min=1, max=100_000_000, help="Training steps.")] = 400,
    seed: Annotated[int, typer.Option(min=0, max=2**32 - 1, help="The same seed gives the same run.")] = 0,
    knobs: Annotated[
        list[str] | None,
        typer.Option(
            "--set", metavar="KNOB=VALUE", help="A knob of the mechanism or its host; repeatable.", show_default=False
        ),
    ] = None,
    text: Annotated[
        list[str] | None,
        typer.Option(
            metavar="PATH", help="Your own file or folder instead of the built-in text; repeatable.", show_default=False
        ),
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Replace FILE if it exists.")] = False,
) -> None:
    """Train a tiny model with one mechanism in it, and record every decision it makes.

    Example: gating-explorer train topk-softmax --task clusters --set k=1 --steps 400 -o run.safetensors

    Knobs and their ranges: gating-explorer list NAME. Ctrl-C stops after the step under way, saves what was recorded
    so far and ends with exit code 130; a second Ctrl-C stops at once and saves nothing.
    """
    target = _free_target(output, force)
    given = _assignments(knobs or [])
    from explorer.experiment import Experiment
    from explorer.training.threads import calibrate_threads

    calibrate_threads()
    card, data = _spec(name), _task(task, text or [])
    experiment = Experiment(name, task=data, seed=seed, **{knob: _typed(card, knob, value) for knob, value in given})
    with Patience() as patience:
        seconds = _advance(experiment, steps, patience)
        experiment.recording.save(target)
        experiment.close()
    saved = f"{target} ({_size(target)})"
    if patience.signal:
        where = f"stopped after {experiment.step} of {steps} steps"
        typer.echo(f"{where}; what was recorded so far is saved in {saved}", err=True)
        raise typer.Exit(128 + patience.signal)
    print(f"{name} on {task}, seed {seed}: {steps} steps in {seconds:.1f} s ({steps / seconds:.1f} steps/s)")
    for what, value in [*_summary(experiment), ("recording", saved)]:
        print(f"  {what:<14} {value}")


def _free_target(path: Path, force: bool) -> Path:
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


def _assignments(given: list[str]) -> list[tuple[str, str]]:
    pairs = [one.partition("=") for one in given]
    if wrong := [one for one, (name, equals, _) in zip(given, pairs, strict=True) if not (name.strip() and equals)]:
        raise typer.BadParameter(f"{wrong[0]!r} is not KNOB=VALUE, such as k=1", param_hint="--set")
    return [(name.strip(), value.strip()) for name, _, value in pairs]


def _typed(card: "Spec", name: str, text: str) -> Any:
    """The value of a knob as its choices or its default have it; what is of another type is refused later, by name."""
    from explorer.assembly import SETTINGS
    from explorer.errors import BadValue, unknown

    knob = card.knobs.get(name) or SETTINGS.get(name)
    if knob is None:
        raise unknown(f"knob of {card.name}", name, [*card.knobs, *SETTINGS])
    if knob.choices is not None:
        return {str(choice): choice for choice in knob.choices}.get(text, text)
    if isinstance(knob.default, bool):
        switch = {
            "true": True,
            "yes": True,
            "on": True,
            "1": True,
            "false": False,
            "no": False,
            "off": False,
            "0": False,
        }
        if text.lower() not in switch:
            raise BadValue(f"{name}={text!r}: it must be true or false")
        return switch[text.lower()]
    return text


def _spec(name: str) -> "Spec":
    from explorer import spec

    return spec(name)


def _task(name: str, paths: list[str]) -> Any:
    from explorer.errors import BadValue
    from explorer.tasks import Text, task

    if paths and name != "text":
        raise BadValue(f"--text gives files to the task 'text', not to {name!r}: leave --task out")
    return Text(paths) if paths else task(name)


class Patience:
    """While inside, Ctrl-C (or SIGTERM) is only noted, so that no step is cut in two; the second one interrupts."""

    signal = 0

    def __enter__(self) -> "Patience":
        # who ignores one of them, as a job in a shell's background does, goes on ignoring it
        numbers = [one for one in (signal.SIGINT, signal.SIGTERM) if signal.getsignal(one) != signal.SIG_IGN]
        self._before = {one: signal.signal(one, self._note) for one in numbers}
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _note(self, number: int, _frame: object) -> None:
        if self.signal:
            raise KeyboardInterrupt
        self.signal = number


def _advance(experiment: "Experiment", steps: int, patience: Patience) -> float:
    """Train, and return the seconds it took."""
    from explorer.errors import Diverged

    began = time.perf_counter()
    try:
        with _progress(steps) as show:
            for step in experiment.stream(steps):
                show(step)
                if patience.signal:
                    break
    except Diverged as error:
        raise Diverged(f"{error}; nothing was saved") from error
    return time.perf_counter() - began


@contextmanager
def _progress(steps: int) -> Iterator[Callable[["Step"], None]]:
    """A bar where somebody watches; elsewhere a plain line every tenth of the way."""
    from rich.console import Console

    console, began = Console(stderr=True), time.perf_counter()

    def pace(step: "Step") -> tuple[int, float, float]:
        done = step.step + 1
        rate = done / (time.perf_counter() - began)
        return done, rate, (steps - done) / rate

    if not console.is_terminal:
        _say(f"training for {steps} steps")
        yield lambda step: _line(step, steps, *pace(step))
        return
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

    columns = (TextColumn("step"), MofNCompleteColumn(), BarColumn(), TextColumn("{task.fields[state]}"))
    # each redraw takes the interpreter from the training for some milliseconds
    with Progress(*columns, console=console, refresh_per_second=4) as bar:
        task = bar.add_task("", total=steps, state="")

        def show(step: "Step") -> None:
            done, rate, left = pace(step)
            bar.update(task, completed=done, state=f"loss {step.loss:.3f}, {rate:.1f} steps/s, {_duration(left)} left")

        yield show


def _line(step: "Step", steps: int, done: int, rate: float, left: float) -> None:
    if done % math.ceil(steps / 10) and done != steps:
        return
    _say(f"step {done} of {steps}: loss {step.loss:.3f}, {rate:.1f} steps/s, {_duration(left)} left")


def _say(line: str) -> None:
    with suppress(OSError):  # a closed pipe must not end the training
        print(line, file=sys.stderr, flush=True)


def _duration(seconds: float) -> str:
    return (
        f"{seconds:.0f} s"
        if seconds < 100
        else f"{seconds / 60:.0f} min"
        if seconds < 6000
        else f"{seconds / 3600:.1f} h"
    )


def _summary(experiment: "Experiment") -> Iterator[tuple[str, str]]:
    """What a finished run comes to, as (what, value) lines."""
    losses, count, header = experiment.losses(), experiment.count(), experiment.recording.header
    last = losses[-math.ceil(len(losses) / 10) :]
    held_out, seen = experiment.examine()
    unit = "nats a token" if experiment.data.kind == "tokens" else "of the targets' variance"
    yield "loss", f"{last.mean():.4g} {unit} (mean of the last {len(last)} steps)"
    yield "held-out loss", f"{held_out:.4g} {unit}"
    yield from _balance(seen)
    size = f"{count.parameters:,} ({count.active:,.0f} active for a token)"
    yield "parameters", f"{size}, {count.flops:,.0f} FLOPs a token"
    kernel = ", ".join(header["kernel"]) or "no choice of kernel"
    yield (
        "computed on",
        f"{header['device']}, {kernel}, {header['threads']} thread{'s' if header['threads'] > 1 else ''}",
    )


def _balance(seen: Any) -> Iterator[tuple[str, str]]:
    """MaxVio of what the held-out tokens asked for, by layer, beside what chance alone makes of an even router."""
    from explorer import metrics
    from explorer.readings import asked

    for i, layer in enumerate(seen.layers()):
        index, E = asked(seen, layer), seen.experts(layer)
        counts, tokens = metrics.counts(index, E), index[..., 0].numel()
        k = min(E, max(1, round(counts.sum().item() / tokens)))
        floor = metrics.max_violation_floor(tokens, E, k)[1]
        scale = f"0 even, {E / k - 1:.3g} collapsed, up to {floor:.2f} by chance"
        yield "" if i else "balance", f"MaxVio {metrics.max_violation(counts):.2f} in {layer} ({scale})"


# -- claims ------------------------------------------------------------------------------------------------------------

SYMBOLS = {"holds": "✓ holds", "not seen": "✗ not seen", "reported": "· reported"}


@command("verify")
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
    chosen_seeds, target = _seeds(seeds), None if output is None else _table_target(output)
    import explorer
    from explorer import claims

    with _runs() as done:
        verdicts = claims.verify(names or explorer.names(family), chosen_seeds, jobs, done)
    if target is not None:
        _save_verdicts(verdicts, target)
    _show_verdicts(verdicts)
    if strict and any(verdict.holds is False for verdict in verdicts):
        raise typer.Exit(2)


def _seeds(text: str) -> tuple[int, ...]:
    parts = [part.strip() for part in text.split(",")]
    if not all(part.isdecimal() and int(part) < 2**32 for part in parts):
        raise typer.BadParameter(f"{text!r} is not a list of whole numbers such as 0,1,2", param_hint="--seeds")
    return tuple(int(part) for part in parts)


def _table_target(path: Path) -> Path:
    from explorer.errors import BadValue

    if path.suffix not in (".json", ".csv"):
        raise BadValue(f"cannot save the table as {str(path)!r}: its name must end in .json or .csv")
    return _free_target(path, force=True)


@contextmanager
def _runs() -> Iterator[Callable[[int, int], None]]:
    """A bar of finished runs where somebody watches, elsewhere a line each."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    console = Console(stderr=True)
    if not console.is_terminal:
        yield lambda done, of: _say(f"run {done} of {of}")
        return
    columns = (TextColumn("runs"), MofNCompleteColumn(), BarColumn(), TimeElapsedColumn())
    with Progress(*columns, console=console, refresh_per_second=4) as bar:
        task = bar.add_task("", total=None)
        yield lambda done, of: bar.update(task, completed=done, total=of)


def _show_verdicts(verdicts: Sequence["Verdict"]) -> None:
    from explorer.claims import table

    rows = [
        (SYMBOLS[row["verdict"]], f"{row['mechanism']}: {row['claim']}", row["paper"], row["effect"],
         f"{row['control']} ({row['control is']})", row["asked"])
        for row in table(verdicts).to_dict("records")
    ]  # fmt: skip
    _show_table(("verdict", "claim", "paper", "ours", "control", "asked"), rows)
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


# -- speed -------------------------------------------------------------------------------------------------------------


@command("bench")
def bench(
    only: Annotated[str | None, typer.Option(metavar="NAME", help="One benchmark.", show_default=False)] = None,
) -> None:
    """Measure speed and memory beside peers, in a clone of the repository.

    Example: gating-explorer bench --only import
    """
    from explorer.errors import ExplorerError

    if not (ROOT / "tests/benchmarks/__main__.py").is_file():
        raise ExplorerError(
            "the benchmarks are not part of an installed package: run this in a clone of the repository"
        )
    arguments = [] if only is None else ["--only", only]
    done = subprocess.run([sys.executable, "-m", "tests.benchmarks", *arguments], cwd=ROOT, check=False)
    raise typer.Exit(done.returncode if done.returncode >= 0 else 1)


# -- what commands share -----------------------------------------------------------------------------------------------


def _show_table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
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


def _size(file: Path) -> str:
    size = file.stat().st_size
    return f"{size / 1e6:.1f} MB" if size >= 1e6 else f"{size / 1e3:.1f} kB"
