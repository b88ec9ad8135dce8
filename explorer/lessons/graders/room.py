"""Grade many submissions, each in a process of its own that is forked warm where that is possible.

`explorer.lessons.graders.warm` is what such a process has imported already.
"""

import contextlib
import multiprocessing
import os
import signal
import sys
import tempfile
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from explorer.lessons.checking import Result

SECONDS = 60.0  # for a submission with everything: its parts have shorter limits, this one is for what resists them


@dataclass
class Graded:
    """A submission. results: id of an exercise -> its function's name and the verdict; notes: sentences about what stopped."""

    path: Path
    results: dict[str, tuple[str, Result]] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)

    @property
    def passed(self) -> bool:
        """Whether all its exercises have."""
        return bool(self.results) and all(result.passed for _, result in self.results.values())


def grade_all(paths: Iterable[Path], seconds: float = SECONDS) -> Iterator[Graded]:
    """One after another, so that none takes another's seconds; whatever one does, the next is graded."""
    context: Any = multiprocessing.get_context("forkserver" if sys.platform == "linux" else "spawn")
    if sys.platform == "linux":
        context.set_forkserver_preload(["explorer.lessons.graders.warm"])
    for path in paths:
        yield _grade(context, path.resolve(), Graded(path), seconds)


def _grade(context: Any, path: Path, graded: Graded, seconds: float) -> Graded:
    ours, theirs = context.Pipe(duplex=False)
    process = context.Process(target=work, args=(str(path), theirs), daemon=False)
    process.start()
    theirs.close()
    ended = _listen(ours, graded, time.monotonic() + seconds)
    if not ended:
        graded.notes.append(f"it did not end within {seconds:g} seconds, and was ended")
    _end(process)
    return graded


def _listen(ours: Connection, graded: Graded, until: float) -> bool:
    """Hear what the process says until it has said all; whether it ended by itself."""
    with contextlib.closing(ours):
        while ours.poll(max(0.0, until - time.monotonic())):
            try:
                kind, said = ours.recv()
            except EOFError:
                graded.notes.append("its code ended the whole program")
                return True
            if kind == "done":
                return True
            if kind == "note":
                graded.notes.append(said)
            elif kind == "asked":
                graded.results = {one: (name, Result(one, False, "It was not judged.", 0.0)) for one, name in said}
            else:
                graded.results[said.id] = (graded.results[said.id][0], said)
    return False


def _end(process: Any) -> None:
    """Whatever is left of it, and of what it started."""
    with contextlib.suppress(ProcessLookupError, PermissionError, AttributeError):
        os.killpg(process.pid, signal.SIGKILL)
    process.join(1)
    if process.is_alive():
        process.kill()
        process.join()


def work(path: str, tell: Connection) -> None:
    """In the process of its own: nothing that the submission prints, and no file it writes, gets out."""
    from explorer.errors import BadValue
    from explorer.lessons.graders.judging import verdict
    from explorer.lessons.graders.submission import asked_in, read, run

    if hasattr(os, "setsid"):
        os.setsid()
    nothing = os.open(os.devnull, os.O_RDWR)
    for number in (0, 1, 2):
        os.dup2(nothing, number)
    try:
        pieces = read(Path(path))
        asked = asked_in(pieces)
        tell.send(("asked", [(one.id, one.name) for one in asked.values()]))
        with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
            os.chdir(folder)
            names = run(pieces, lambda said: tell.send(("note", said)))
            for one in asked.values():
                tell.send(("result", verdict(one, names)))
            os.chdir(Path(path).parent)
    except BadValue as error:
        tell.send(("note", str(error)))
    tell.send(("done", ""))
