"""gating-explorer train: the experiment, its progress, Ctrl-C, and what a run comes to."""

import math
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from explorer.cli.output import duration, free_target, in_bytes, say

if TYPE_CHECKING:
    from explorer.catalogue import Spec
    from explorer.experiment import Experiment, Step


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
    export_hf: Annotated[
        Path | None,
        typer.Option(
            "--export-hf", metavar="DIR", help="Also write the model as transformers loads it.", show_default=False
        ),
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Replace FILE, and the export in DIR, if they exist.")] = False,
) -> None:
    """Train a tiny model with one mechanism in it, and record every decision it makes.

    Example: gating-explorer train topk-softmax --task clusters --set k=1 --steps 400 -o run.safetensors

    Example: gating-explorer train topk-softmax-raw --set qk_norm=full --export-hf tiny-olmoe -o run.safetensors

    Knobs and their ranges: gating-explorer list NAME. Ctrl-C stops after the step under way, saves what was recorded
    so far and ends with exit code 130; a second Ctrl-C stops at once and saves nothing.
    """
    target = free_target(output, force)
    folder = None if export_hf is None else _free_folder(export_hf, force)
    given = _assignments(knobs or [])
    from explorer.experiment import Experiment
    from explorer.training.threads import calibrate_threads

    calibrate_threads()
    card, data = _spec(name), _task(task, text or [])
    experiment = Experiment(name, task=data, seed=seed, **{knob: _typed(card, knob, value) for knob, value in given})
    if folder is not None:
        _exportable(experiment)
    with Patience() as patience:
        seconds = _advance(experiment, steps, patience)
        experiment.recording.save(target)
        experiment.close()
        exported = [] if folder is None else [("exported", _export(experiment, folder, force))]
    saved = f"{target} ({in_bytes(target.stat().st_size)})"
    if patience.signal:
        where = f"stopped after {experiment.step} of {steps} steps"
        also = "".join(f", the model as it is now in {made}" for _, made in exported)
        typer.echo(f"{where}; what was recorded so far is saved in {saved}{also}", err=True)
        raise typer.Exit(128 + patience.signal)
    print(f"{name} on {task}, seed {seed}: {steps} steps in {seconds:.1f} s ({steps / seconds:.1f} steps/s)")
    for what, value in [*_summary(experiment), ("recording", saved), *exported]:
        print(f"  {what:<14} {value}")


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


def _free_folder(path: Path, force: bool) -> Path:
    from explorer.checkpoints.export_hf import free_folder

    return free_folder(path, force)


def _exportable(experiment: "Experiment") -> None:
    """What cannot be exported is refused before an hour of training, not after it."""
    from explorer.checkpoints.export_hf import architecture

    architecture(experiment)


def _export(experiment: "Experiment", folder: Path, force: bool) -> str:
    """Write the folder; what was written, in words."""
    from explorer.checkpoints.export_hf import architecture, export_hf

    written = export_hf(experiment, folder, force=force)
    return f"{written} ({architecture(experiment)}, {in_bytes((written / 'model.safetensors').stat().st_size)})"


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
        say(f"training for {steps} steps")
        yield lambda step: _line(step, steps, *pace(step))
        return
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

    columns = (TextColumn("step"), MofNCompleteColumn(), BarColumn(), TextColumn("{task.fields[state]}"))
    # each redraw takes the interpreter from the training for some milliseconds
    with Progress(*columns, console=console, refresh_per_second=4) as bar:
        task = bar.add_task("", total=steps, state="")

        def show(step: "Step") -> None:
            done, rate, left = pace(step)
            bar.update(task, completed=done, state=f"loss {step.loss:.3f}, {rate:.1f} steps/s, {duration(left)} left")

        yield show


def _line(step: "Step", steps: int, done: int, rate: float, left: float) -> None:
    if done % math.ceil(steps / 10) and done != steps:
        return
    say(f"step {done} of {steps}: loss {step.loss:.3f}, {rate:.1f} steps/s, {duration(left)} left")


def _summary(experiment: "Experiment") -> Iterator[tuple[str, str]]:
    """What a finished run comes to, as (what, value) lines."""
    from explorer.tasks.data import unit

    losses, count, header = experiment.losses(), experiment.count(), experiment.recording.header
    last = losses[-math.ceil(len(losses) / 10) :]
    held_out, seen = experiment.examine()
    of = unit(experiment.data)
    yield "loss", f"{last.mean():.4g} {of} (mean of the last {len(last)} steps)"
    yield "held-out loss", f"{held_out:.4g} {of}"
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
