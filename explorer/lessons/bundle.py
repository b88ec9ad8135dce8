"""What `gating-explorer class build DIR` writes: a folder for the students, and one for whoever teaches.

Solutions, notes and misconceptions lie in the folder `instructor` of a clone and are no part of an installed package: there,
the students' folder is all that can be made, unless that folder is named.
"""

import hashlib
import json
import re
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import NamedTuple

from explorer.errors import BadValue, ExplorerError
from explorer.lessons import bundle_texts as texts
from explorer.lessons.graders import notebooks
from explorer.serving import ROOT, pages_folder

MARK = ".gating-explorer-class.json"  # in a folder of ours: what we wrote there
PAGES = "http://localhost:8866/"  # where `gating-explorer serve` has the pages
FROM_CLONE = ("notes", "solutions", "misconceptions.py", "screens")
LESSON = re.compile(r"(\d+)_\w+\.ipynb")
LINK = re.compile(r"\]\((\.\./)?((?:[\w-]+/)?[\w-]+\.ipynb(?:\?[^)\s]*)?)\)")


class CannotBuild(ExplorerError):
    """The bundle cannot be written."""


class Built(NamedTuple):
    """What was written. lessons: how many; instructor: whether the second folder is there too; screens: how many."""

    folder: Path
    lessons: int
    instructor: bool
    screens: int


def lessons() -> dict[int, Path]:
    """Number -> notebook, of every lesson there is."""
    found = {
        int(name[1]): path
        for path in (pages_folder() / "lessons").glob("*.ipynb")
        if (name := LESSON.fullmatch(path.name))
    }
    return dict(sorted(found.items()))


def solutions_folder(given: Path | None = None) -> Path | None:
    """The folder `instructor` that holds the solutions: the one that was named, or this clone's; None if there is none."""
    folder = given.expanduser() if given is not None else ROOT / "instructor"
    missing = [number for number in lessons() if not (folder / f"solutions/lesson{number}.py").is_file()]
    if given is not None and missing:
        raise BadValue(
            f"{str(given)!r} has no solutions/lesson{missing[0]}.py: --solutions wants the folder `instructor` of a clone"
        )
    return None if missing else folder


def build(target: Path, solutions: Path | None = None, pages: str = PAGES) -> Built:
    """Write the folder anew, whole or not at all.

    solutions: the folder `instructor`, where it is not that of a clone. pages: the address under which students find the
    pages of this class, for the links in what graders hand out.
    """
    folder, source = target.expanduser().resolve(), solutions_folder(solutions)
    _refuse_others(folder, target)
    try:
        with _replacing(folder) as new:
            _student(new / "student")
            screens = _instructor(new / "instructor", source, pages) if source else 0
            _mark(new)
    except OSError as error:
        raise CannotBuild(
            f"{str(target)!r} cannot be written: {error.strerror or error}; nothing was changed"
        ) from None
    return Built(folder, len(lessons()), source is not None, screens)


# -- the two folders ---------------------------------------------------------------------------------------------------
def _student(folder: Path) -> None:
    """All pages as they are, so that the links between them lead somewhere; lessons come without any solution."""
    pages = pages_folder()
    for path in sorted(pages.rglob("*.ipynb")):
        relative = path.relative_to(pages)
        if ".ipynb_checkpoints" not in relative.parts:
            _write(folder / relative, path.read_text(encoding="utf-8"))
    _write(folder / "README.md", texts.student([path.name for path in lessons().values()]))


def _instructor(folder: Path, source: Path, pages: str) -> int:
    """Notes, solutions and screens from the clone, and what the two graders begin with; returns how many screens."""
    for name in FROM_CLONE:
        if (source / name).is_dir():
            shutil.copytree(source / name, folder / name, ignore=shutil.ignore_patterns("__pycache__", ".*"))
        elif (source / name).is_file():
            folder.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(source / name, folder / name)
    for number, path in lessons().items():
        notebook = json.loads(_absolute(path.read_text(encoding="utf-8"), pages))
        solutions = (source / f"solutions/lesson{number}.py").read_text(encoding="utf-8")
        name = f"lesson{number}"
        for kind, where in (("nbgrader", f"nbgrader/source/{name}"), ("otter", f"otter/{name}")):
            made = getattr(notebooks, kind)(notebook, number, solutions)
            _write(folder / where / f"{name}.ipynb", json.dumps(made, indent=1, ensure_ascii=False) + "\n")
    screens = len(list((folder / "screens").glob("*.png")))
    _write(folder / "nbgrader/nbgrader_config.py", texts.NBGRADER)
    _write(folder / "otter/grade_all.py", texts.OTTER)
    _write(folder / "README.md", texts.instructor(list(lessons()), screens))
    return screens


def _absolute(notebook: str, pages: str) -> str:
    """A grader takes a notebook out of its folder: links to other pages lead to where the class finds them."""
    home = f"{pages.rstrip('/')}/voila/render"

    def link(found: re.Match[str]) -> str:
        return f"]({home}/{'' if found[1] else 'lessons/'}{found[2]})"

    return LINK.sub(link, notebook)


def _write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")


# -- whole or not at all, and nothing of anybody else's ----------------------------------------------------------------
def _mark(folder: Path) -> None:
    """Remember what we wrote: a gradebook or a changed notebook among it must survive the next time."""
    held = {str(path.relative_to(folder)): _digest(path) for path in sorted(folder.rglob("*")) if path.is_file()}
    _write(folder / MARK, json.dumps({"wrote": held}, indent=1) + "\n")


def _digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def _refuse_others(folder: Path, target: Path) -> None:
    """Only a folder that is not there, empty, or exactly as we left it is written."""
    if not folder.exists():
        return
    if not folder.is_dir():
        raise CannotBuild(f"{str(target)!r} is a file; name a folder to write to")
    files = sorted(path for path in folder.rglob("*") if not path.is_dir())
    if not files:
        return
    try:
        wrote = dict(json.loads((folder / MARK).read_text(encoding="utf-8"))["wrote"])
    except (OSError, ValueError, KeyError, TypeError):
        raise CannotBuild(f"{str(target)!r} is a folder of something else; name one that does not exist yet") from None
    for path in files:
        name = str(path.relative_to(folder))
        if name != MARK and wrote.get(name) != _digest(path):
            raise CannotBuild(
                f"{name!r} in {str(target)!r} is not as it was written, and would be lost: build into another folder"
            )


@contextmanager
def _replacing(folder: Path) -> Iterator[Path]:
    """A new folder beside it, which takes its place at the end, or vanishes on an error or Ctrl-C."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent, prefix=f".{folder.name}.") as temporary:
        new, old = Path(temporary) / "new", Path(temporary) / "old"
        new.mkdir()
        yield new
        if folder.exists():
            folder.rename(old)
        try:
            new.rename(folder)
        except BaseException:
            with suppress(OSError):
                old.rename(folder)
            raise
