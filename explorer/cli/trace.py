"""gating-explorer trace: where a trained model sends the tokens of one's own texts, as a recording and as a page."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from explorer.cli.output import (
    MOST_ROWS,
    duration,
    free_target,
    in_bytes,
    page_of,
    printable,
    replaced,
    save_text,
    say,
    show_table,
)
from explorer.cli.texts import texts_of, token_lists

if TYPE_CHECKING:
    from explorer.checkpoints.streaming.engine import Progress
    from explorer.recording import Recording


class Method(StrEnum):
    """How the forward pass is made."""

    auto = "auto"
    stream = "stream"
    transformers = "transformers"


def trace(
    path: Annotated[
        str,
        typer.Argument(
            metavar="PATH", help="A folder, a .safetensors file, a hub id or an address.", show_default=False
        ),
    ],
    output: Annotated[
        Path,
        typer.Option("--output", "-o", metavar="FILE", help="The recording, a .safetensors file.", show_default=False),
    ],
    text: Annotated[
        list[Path] | None,
        typer.Option(metavar="PATH", help="A text file, or a folder of them; repeatable.", show_default=False),
    ] = None,
    domain: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME",
            help="What the first --text is, the second, ...; without it the file's name.",
            show_default=False,
        ),
    ] = None,
    tokens: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Instead of texts: JSON, a list of lists of token ids.", show_default=False),
    ] = None,
    window: Annotated[
        int | None,
        typer.Option(help="Tokens of a piece that begins anew; without it 512 at most.", show_default=False),
    ] = None,
    attention: Annotated[bool, typer.Option("--attention", help="Also where attention goes: sinks.")] = False,
    scores: Annotated[
        bool | None,
        typer.Option(
            "--scores/--no-scores",
            help="Keep the scores of every expert; without it while they are small.",
            show_default=False,
        ),
    ] = None,
    method: Annotated[
        Method, typer.Option(help="stream reads the files layer by layer, transformers loads all of it.")
    ] = Method.auto,
    html: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="A page with figures; replaced if it exists.", show_default=False),
    ] = None,
    memory: Annotated[
        int | None, typer.Option(min=1, help="Bytes that the recording may take; 1 GiB.", show_default=False)
    ] = None,
    trust_remote_code: Annotated[
        bool, typer.Option("--trust-remote-code", help="Run code that the checkpoint brings along.")
    ] = False,
    force: Annotated[bool, typer.Option("--force", help="Replace FILE if it exists.")] = False,
) -> None:
    """Send texts through a trained model, and record where each token goes.

    Example: gating-explorer trace my-mixtral --text a.txt --text b.py -o t.safetensors --html t.html

    Known architectures are read layer by layer, so that a model may be larger than memory; others are run by transformers.
    Ctrl-C stops, saves the finished layers and ends with exit code 130; a second Ctrl-C saves nothing.
    """
    target, page = free_target(output, force), None if html is None else replaced(html, ".html")
    given = _given(text or [], domain or [], tokens)
    from explorer.checkpoints.checkpoint import open_checkpoint
    from explorer.checkpoints.files import CheckpointError
    from explorer.cli.train import Patience

    seen = open_checkpoint(path, trust_remote_code=trust_remote_code)
    with Patience() as patience:
        try:
            with _progress() as show:
                recording = seen.trace(
                    **given, window=window, attention=attention, scores=scores, method=method.value, progress=show,
                    stop=lambda: bool(patience.signal), memory=memory,
                )  # fmt: skip
        except CheckpointError as error:
            if not patience.signal:
                raise
            typer.echo(f"{error}; nothing was saved", err=True)
            raise typer.Exit(128 + patience.signal) from error
        recording.save(target)
    saved = f"{target} ({in_bytes(target.stat().st_size)})"
    if patience.signal:
        typer.echo(f"stopped: {_done(recording)}; they are saved in {saved}", err=True)
        raise typer.Exit(128 + patience.signal)
    _show(recording)
    typer.echo(f"the recording is saved in {saved}", err=True)
    if page is not None:
        save_text(page_of("widgets.export.trace_page", str(target.absolute())), page)


# -- what is given -----------------------------------------------------------------------------------------------------


def _given(paths: list[Path], names: list[str], tokens: Path | None) -> dict[str, Any]:
    """Arguments of Checkpoint.trace."""
    if bool(paths) == (tokens is not None):
        raise typer.BadParameter("give files with --text, or token ids with --tokens", param_hint="--text")
    if tokens is not None:
        return {"tokens": token_lists(tokens), "domains": names or None}
    if names and len(names) != len(paths):
        raise typer.BadParameter(f"{len(names)} names for {len(paths)} --text", param_hint="--domain")
    texts: list[str] = []
    domains: list[str] = []
    for path, name in zip(paths, names or _names(paths), strict=True):
        found = texts_of(path)
        texts += found
        domains += [name] * len(found)
    return {"texts": texts, "domains": domains}


def _names(paths: list[Path]) -> list[str]:
    """The stem of each, or the whole name where two have the same."""
    stems = [path.expanduser().absolute().stem for path in paths]
    return [stem if stems.count(stem) == 1 else path.name for stem, path in zip(stems, paths, strict=True)]


# -- what is shown -----------------------------------------------------------------------------------------------------


@contextmanager
def _progress() -> Iterator[Callable[["Progress"], None]]:
    """A bar where somebody watches; elsewhere a plain line every tenth of the way, and why it takes a longer one."""
    from rich.console import Console
    from rich.progress import BarColumn, TextColumn
    from rich.progress import Progress as Bar

    console = Console(stderr=True)
    if not console.is_terminal:
        yield _lines()
        return
    columns = (TextColumn("{task.fields[layer]}"), BarColumn(), TextColumn("{task.fields[state]}", markup=False))
    with Bar(*columns, console=console, refresh_per_second=4) as bar:
        task = bar.add_task("", total=None, layer="opening", state="")

        def show(now: "Progress") -> None:
            layer = f"layer {now.layer + 1} of {now.layers}" if now.layers else "loading"
            state = _state(now) if now.layers else printable(now.what)
            bar.update(task, completed=now.layer, total=now.layers or None, layer=layer, state=state)

        yield show


def _lines() -> Callable[["Progress"], None]:
    told = -1

    def show(now: "Progress") -> None:
        nonlocal told
        if not now.layers:
            say(printable(now.what))
        elif now.layer * 10 // now.layers > told:
            told = now.layer * 10 // now.layers
            say(f"layer {now.layer + 1} of {now.layers}: {_state(now)}")

    return show


def _state(now: "Progress") -> str:
    return f"{in_bytes(now.bytes_read)} read, about {in_bytes(now.bytes_left)} and {duration(now.seconds_left)} left"


def _done(recording: "Recording") -> str:
    about = recording.header["trace"]
    if about["done"] < about["layers"]:
        return f"{about['done']} of {about['layers']} layers are done"
    return f"{about['tokens']:,} tokens are done"


def _show(recording: "Recording") -> None:
    about = recording.header["trace"]
    texts, windows = len(set(about["text"])), len(about["domain"])
    names = ", ".join(map(printable, about["domains"]))
    print(
        f"{printable(about['architecture'])}: {about['tokens']:,} tokens of {texts} text{'s' if texts > 1 else ''} "
        f"in {windows} window{'s' if windows > 1 else ''} of at most {about['window']:,}{f' ({names})' if names else ''}"
    )
    why = f", as {printable(about['why'])}" if about["why"] else ""
    print(f"{about['method']} in {about['seconds']:.1f} s, {in_bytes(about['bytes_read'])} read{why}")
    if about["added"]:
        print(f"its tokenizer added {', '.join(map(printable, about['added']))} to every text")
    print()
    rows = list(_rows(recording))
    show_table(("layer", "experts", "effective", "busiest", "token entropy", "margin"), rows[:MOST_ROWS])
    if len(rows) > MOST_ROWS:
        print(f"... and {len(rows) - MOST_ROWS} more; the recording has all")
    print("effective: experts that would make the same load, evenly used; margin: of the last chosen over the next")


def _rows(recording: "Recording") -> Iterator[tuple[str, ...]]:
    from explorer import metrics

    routing = recording.routing().set_index("layer")
    for layer in recording.layers():
        counts = recording.counts(layer)[1][-1]
        share = metrics.load_fraction(counts)
        best, row = int(share.argmax()), routing.loc[layer]
        yield (
            printable(layer), str(len(share)), f"{float(metrics.effective_experts(counts)):.1f}",
            f"{best} ({float(share[best]):.1%})", f"{row['token_entropy']:.3f}", f"{row['margin']:.3g}",
        )  # fmt: skip
