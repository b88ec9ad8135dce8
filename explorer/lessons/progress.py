"""What the students of a class have done: predictions, exercises and quizzes in one SQLite file, without any account.

Every note is one committed transaction in a connection of its own, so that a killed process loses nothing that was
acknowledged, a forked one inherits no connection, and many processes may write at once. The journal is a write-ahead log
where the file system allows one, and SQLite's plain journal where it does not.
"""

import csv
import json
import os
import sqlite3
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple

from explorer.errors import BadValue, ExplorerError, unknown

OURS = 0x47455850  # "GEXP": what PRAGMA application_id says of a file of ours
KINDS = ("prediction", "exercise", "quiz")
PATIENCE = 5.0  # seconds that a writer waits for others
LONGEST_NAME, LONGEST_VALUE = 60, 10_000  # characters
HEADER = b"SQLite format 3\0"
TABLE = """CREATE TABLE IF NOT EXISTS notes (
    number INTEGER PRIMARY KEY AUTOINCREMENT, at TEXT NOT NULL, student TEXT NOT NULL, lesson INTEGER NOT NULL,
    kind TEXT NOT NULL, item TEXT NOT NULL, value TEXT NOT NULL, correct INTEGER)"""
FORMULA = ("=", "+", "-", "@", "\t", "\r")  # what a spreadsheet would take for a formula at the start of a cell

_introduced = ""


class ProgressError(ExplorerError):
    """The file of progress cannot be read or written."""


class Row(NamedTuple):
    """One note. at: UTC, ISO 8601. value: as it was noted. correct: None for what is neither right nor wrong."""

    at: str
    student: str
    lesson: int
    kind: str
    item: str
    value: Any
    correct: bool | None


class Progress:
    """progress = Progress(path); progress.note("Ada", 2, "exercise", "2.1", "passed", True); progress.rows().

    path: of the file; by default of $GATING_EXPLORER_PROGRESS, or ~/.local/share/gating-explorer/progress.sqlite. The file
    is made with the first note.
    """

    def __init__(self, path: str | Path | None = None) -> None:
        self.path = Path(path) if path is not None else default_path()

    def __repr__(self) -> str:
        return f"Progress({str(self.path)!r})"

    def note(self, student: str, lesson: int, kind: str, item: str, value: Any, correct: bool | None = None) -> None:
        """Add a row; when this returns, it is on the disk.

        kind: "prediction", "exercise" or "quiz". item: what of the lesson, such as "2.1". value: text, number, or a list.
        """
        if kind not in KINDS:
            raise unknown("kind of progress", str(kind), KINDS)
        at = datetime.now(UTC).isoformat(timespec="milliseconds")
        judged = None if correct is None else int(correct)
        row = (at, clean_name(student), int(lesson), kind, clean_name(item), _as_json(value), judged)
        with self._open(write=True) as database:
            database.execute("BEGIN IMMEDIATE")
            database.execute(
                "INSERT INTO notes (at, student, lesson, kind, item, value, correct) VALUES (?, ?, ?, ?, ?, ?, ?)", row
            )
            database.execute("COMMIT")

    def rows(self, student: str | None = None, lesson: int | None = None) -> list[Row]:
        """All notes in the order in which they were made; of one student or one lesson if asked for."""
        if not self.path.exists():
            return []
        with self._open(write=False) as database:
            found = database.execute(
                "SELECT at, student, lesson, kind, item, value, correct FROM notes"
                " WHERE (?1 IS NULL OR student = ?1) AND (?2 IS NULL OR lesson = ?2) ORDER BY number",
                (student, lesson),
            ).fetchall()
        return [
            Row._make([*one, json.loads(value), None if right is None else bool(right)]) for *one, value, right in found
        ]

    def csv(self, path: str | Path) -> int:
        """Write all notes as a table for a spreadsheet; the file is there whole or not at all. Returns how many rows."""
        rows, target = self.rows(), Path(path)
        try:
            with tempfile.NamedTemporaryFile(
                "w",
                encoding="utf-8-sig",
                errors="replace",
                newline="",
                dir=target.parent,
                prefix=f".{target.name}.",
                delete=False,
            ) as file:
                try:
                    table = csv.writer(file)
                    table.writerow(Row._fields)
                    table.writerows([_cell(one) for one in row] for row in rows)
                    file.close()
                    Path(file.name).chmod(0o644)
                    Path(file.name).replace(target)
                except BaseException:
                    Path(file.name).unlink(missing_ok=True)
                    raise
        except OSError as error:
            raise ProgressError(f"{str(target)!r} cannot be written: {error.strerror or error}") from None
        return len(rows)

    # -- the file ------------------------------------------------------------------------------------------------------
    @contextmanager
    def _open(self, write: bool) -> Iterator[sqlite3.Connection]:
        """A connection to the file, which is made ours if it is new; whatever SQLite raises becomes one sentence."""
        try:
            if write:
                self.path.parent.mkdir(parents=True, exist_ok=True)
            self._refuse_others()
            database = sqlite3.connect(self.path, timeout=PATIENCE, isolation_level=None)
        except (OSError, sqlite3.Error) as error:
            raise self._explained(error) from None
        try:
            database.execute("PRAGMA synchronous=FULL")
            self._claim(database)
            yield database
        except sqlite3.Error as error:
            raise self._explained(error) from None
        finally:
            with suppress(sqlite3.Error):
                database.close()

    def _refuse_others(self) -> None:
        """SQLite takes a file shorter than its header for an empty database, and would write over it."""
        if not self.path.exists():
            return
        with self.path.open("rb") as file:
            start = file.read(len(HEADER))
        if start and start != HEADER:
            raise ProgressError(f"{str(self.path)!r} is no SQLite database; it was left as it is")

    def _claim(self, database: sqlite3.Connection) -> None:
        """Make a new file ours; a database of another program is refused."""
        if _number(database, "PRAGMA application_id") == OURS:
            return
        until = time.monotonic() + PATIENCE
        while not self._is_set_up(database, last=time.monotonic() > until):
            time.sleep(0.02)  # SQLite does not wait for others by itself while a journal changes

    def _is_set_up(self, database: sqlite3.Connection, last: bool) -> bool:
        try:
            self._set_up(database)
        except sqlite3.OperationalError as error:
            if database.in_transaction:
                database.execute("ROLLBACK")
            if last or error.sqlite_errorcode & 0xFF not in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED):
                raise
            return False
        return True

    def _set_up(self, database: sqlite3.Connection) -> None:
        database.execute("BEGIN IMMEDIATE")
        if _number(database, "PRAGMA application_id") not in (0, OURS) or (
            _number(database, "PRAGMA application_id") == 0
            and _number(database, "SELECT count(*) FROM sqlite_master") > 0
        ):
            raise ProgressError(f"{str(self.path)!r} is a database of another program; it was left as it is")
        database.execute(TABLE)
        database.execute(f"PRAGMA application_id={OURS}")
        database.execute("COMMIT")
        database.execute("PRAGMA journal_mode=WAL")

    def _explained(self, error: Exception) -> ProgressError:
        name = getattr(error, "sqlite_errorname", None) or ""
        for start, said in PROBLEMS.items():
            if name.startswith(start):
                return ProgressError(f"progress cannot be kept in {str(self.path)!r}: {said}")
        reason = getattr(error, "strerror", None) or str(error)
        return ProgressError(f"progress cannot be kept in {str(self.path)!r}: {reason}")


PROBLEMS = {
    "SQLITE_BUSY": f"another program has kept it locked for {PATIENCE:g} seconds",
    "SQLITE_LOCKED": "another program keeps it locked",
    "SQLITE_READONLY": "it may be read but not written",
    "SQLITE_CANTOPEN": "the file cannot be opened; does its folder exist, and may you write there?",
    "SQLITE_FULL": "the disk is full",
    "SQLITE_IOERR": "the disk is full, or it failed",
    "SQLITE_NOTADB": "the file is no SQLite database; it was left as it is",
    "SQLITE_CORRUPT": "the file is damaged; move it away, and a new one is made",
}


# -- who is here -------------------------------------------------------------------------------------------------------
def default_path() -> Path:
    """$GATING_EXPLORER_PROGRESS, or ~/.local/share/gating-explorer/progress.sqlite."""
    given = os.environ.get("GATING_EXPLORER_PROGRESS", "").strip()
    return Path(given).expanduser() if given else Path.home() / ".local/share/gating-explorer/progress.sqlite"


def student() -> str:
    """The name under which progress is kept: that of the class's server, or the one typed on the page; "" if none."""
    for name in ("GATING_EXPLORER_STUDENT", "JUPYTERHUB_USER"):
        with suppress(BadValue):
            return clean_name(os.environ.get(name, ""))
    return _introduced


def introduce(name: str) -> str:
    """Remember the name that was typed on the page, in this process; returns it as it is kept. "" forgets it."""
    global _introduced  # noqa: PLW0603  (one process is one student's)
    _introduced = clean_name(name) if name.strip() else ""
    return _introduced


def note_if_known(lesson: int, kind: str, item: str, value: Any, correct: bool | None = None) -> bool:
    """Note it for the student of this process, if one is known; whether it was."""
    name = student()
    if name:
        Progress().note(name, lesson, kind, item, value, correct)
    return bool(name)


def clean_name(name: str) -> str:
    """A student's name in one line of at most 60 printable characters; an error if nothing is left."""
    printable = "".join(one if one.isprintable() else " " for one in str(name))
    shown = " ".join(printable.split())[:LONGEST_NAME].strip()
    if not shown:
        raise BadValue("a name is needed, so that what is done can be kept under it")
    return shown


def _as_json(value: Any) -> str:
    text = json.dumps(value, default=str)
    return text if len(text) <= LONGEST_VALUE else json.dumps(text[: LONGEST_VALUE - 1] + "…")


def _cell(value: Any) -> Any:
    """A value as a spreadsheet may safely hold it."""
    if value is None:
        return ""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int | float):
        return value
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    return f"'{text}" if text.startswith(FORMULA) else text


def _number(database: sqlite3.Connection, query: str) -> int:
    return int(database.execute(query).fetchone()[0])
