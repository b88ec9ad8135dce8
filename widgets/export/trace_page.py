"""What a trace found, as a page of its own: python -m widgets.export.trace_page RECORDING [--beside OTHER] > page.html."""

import argparse
import sys
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from explorer.errors import ExplorerError
from widgets.export import trace_sections as sections
from widgets.export import trace_tokens as tokens
from widgets.export.standalone import Heading, Part, Prose, standalone
from widgets.export.trace_beside import difference
from widgets.export.trace_words import facts, harmless, name_of

if TYPE_CHECKING:
    from explorer.recording import Recording

Section = tuple[str, Callable[[], Iterable[Part]]]


def page(rec: "Recording", beside: "Recording | None" = None, name: str = "", beside_name: str = "") -> str:
    """The page of a recording, and of what differs in another one; names for those that carry none of their own."""
    called = name_of(rec, name)
    other = "" if beside is None else name_of(beside, beside_name)
    if other == called:
        called, other = f"{called} (A)", f"{other} (B)"
    title = f"How {called} routes" + (f", beside {other}" if beside is not None else "")
    parts = [Prose("\n\n".join(facts(rec))), *_parts(_sections(rec, beside, called, other))]
    return standalone(title, parts, stamp=f"gating-explorer trace · {called}" + (f" · {other}" if other else ""))


def _sections(rec: "Recording", beside: "Recording | None", name: str, other: str) -> Iterator[Section]:
    seen = sections.Subject(rec)
    yield "Who gets the tokens", lambda: sections.loads(rec)
    yield "How sure the routers are", lambda: sections.sureness(rec, seen.layer)
    yield "What the experts specialise in", lambda: sections.specialisation(seen)
    yield "The tokens of the most specialised experts", lambda: tokens.vocabulary(rec, seen.layer)
    yield "Experts that work together", lambda: sections.company(rec, seen.layer)
    yield "A text, token by token", lambda: tokens.strip(rec)
    yield "Attention sinks", lambda: sections.sinks(rec)
    if beside is not None:
        yield f"Beside {other}", lambda: difference(rec, beside, name, other)


def _parts(wanted: Iterable[Section]) -> Iterator[Part]:
    """Each section, or at the end the sentence that says why it is not there."""
    missing: dict[str, list[str]] = {}  # titles by the reason
    for title, made in wanted:
        try:
            parts = list(made())
        except ExplorerError as error:
            missing.setdefault(str(error), []).append(title)
            continue
        except UnicodeEncodeError:  # half of a surrogate pair, which tables refuse
            missing.setdefault("a name or a token in the recording is no text", []).append(title)
            continue
        if parts:
            yield Heading(title)
            yield from parts
    if missing:
        yield Heading("What is not on this page")
        yield Prose("\n\n".join(f"{'; '.join(titles)}: {harmless(reason)}." for reason, titles in missing.items()))


def main(arguments: list[str] | None = None) -> int:
    """From one recording, or two, to a page on stdout; a mistake is one sentence on stderr."""
    parser = argparse.ArgumentParser(prog="python -m widgets.export.trace_page", description=__doc__)
    parser.add_argument("recording", type=Path, help="the file that a trace was saved in")
    parser.add_argument("--beside", type=Path, metavar="OTHER", help="another recording, to tell what differs in it")
    given = parser.parse_args(arguments)
    from explorer.recording import Recording

    try:
        rec = Recording.load(given.recording)
        other = None if given.beside is None else Recording.load(given.beside)
        made = page(rec, other, given.recording.stem, "" if given.beside is None else given.beside.stem)
    except ExplorerError as error:
        sys.stderr.write(f"{error}\n")
        return 1
    sys.stdout.reconfigure(encoding="utf-8", errors="replace")  # type: ignore[union-attr]
    sys.stdout.write(made)
    return 0


if __name__ == "__main__":
    sys.exit(main())
