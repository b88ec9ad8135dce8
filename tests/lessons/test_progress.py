"""Progress of a class: nothing acknowledged is lost, many may write, and a bad file is one sentence."""

import csv
import multiprocessing
import os
import signal
import sqlite3
import subprocess
import sys
import time
from pathlib import Path

import pytest

from explorer.errors import BadValue, UnknownName
from explorer.lessons import progress
from explorer.lessons.progress import Progress, ProgressError

ROOT = Path(__file__).resolve().parents[2]
KILLS, WRITERS, EACH = 8, 8, 25
WRITER = """
import sys
sys.path.insert(0, sys.argv[3])
from explorer.lessons.progress import Progress
kept, round = Progress(sys.argv[1]), sys.argv[2]
for number in range(100_000):
    kept.note("Ada", 2, "quiz", f"{round}.{number}", number, True)
    print(f"{round}.{number}", flush=True)
"""


@pytest.fixture(autouse=True)
def _nobody(monkeypatch):
    for name in ("GATING_EXPLORER_STUDENT", "JUPYTERHUB_USER", "GATING_EXPLORER_PROGRESS"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(progress, "_introduced", "")


@pytest.fixture
def kept(tmp_path):
    return Progress(tmp_path / "room" / "progress.sqlite")


def test_what_is_noted_comes_back_in_its_order(kept):
    kept.note("Ada", 2, "prediction", "2.load", 0.5)
    kept.note("Grace", 2, "exercise", "2.1", "the weights do not sum to one", False)
    kept.note("Ada", 3, "quiz", "1", ["a", "b"], True)
    found = kept.rows()
    assert [one[1:] for one in found] == [
        ("Ada", 2, "prediction", "2.load", 0.5, None),
        ("Grace", 2, "exercise", "2.1", "the weights do not sum to one", False),
        ("Ada", 3, "quiz", "1", ["a", "b"], True),
    ]
    assert [one.lesson for one in kept.rows(student="Ada")] == [2, 3]
    assert [one.student for one in kept.rows(lesson=2)] == ["Ada", "Grace"]
    assert all(one.at.endswith("+00:00") for one in found)


def test_without_a_file_there_are_no_rows_and_none_is_made(kept):
    assert kept.rows() == []
    assert not kept.path.exists()


def test_the_journal_is_written_ahead(kept):
    kept.note("Ada", 2, "quiz", "1", "a", True)
    assert sqlite3.connect(kept.path).execute("PRAGMA journal_mode").fetchone() == ("wal",)


def test_kill_9_in_the_middle_of_writing_loses_nothing_that_was_acknowledged(kept):
    acknowledged = []
    for attempt in range(KILLS):
        command = [sys.executable, "-c", WRITER, str(kept.path), str(attempt), str(ROOT)]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as writer:
            acknowledged.append(writer.stdout.readline().strip())
            time.sleep(0.013 * attempt)
            writer.send_signal(signal.SIGKILL)
            acknowledged += [line.strip() for line in writer.stdout if line.endswith("\n")]
    found = [one.item for one in kept.rows()]
    assert len(acknowledged) > KILLS
    assert set(acknowledged) <= set(found)
    assert len(found) <= len(acknowledged) + KILLS, "at most the row under way when it was killed"
    assert sqlite3.connect(kept.path).execute("PRAGMA integrity_check").fetchone() == ("ok",)


def _write(path, name, gate):
    gate.wait()
    for number in range(EACH):
        Progress(path).note(name, 1, "quiz", str(number), number, True)


def test_eight_processes_begin_a_file_and_write_it_at_once(kept):
    context = multiprocessing.get_context("fork")
    gate = context.Event()
    writers = [context.Process(target=_write, args=(kept.path, f"student {i}", gate)) for i in range(WRITERS)]
    for one in writers:
        one.start()
    gate.set()
    for one in writers:
        one.join(60)
    assert [one.exitcode for one in writers] == [0] * WRITERS
    for i in range(WRITERS):
        assert [one.value for one in kept.rows(student=f"student {i}")] == list(range(EACH))


def test_a_locked_file_is_one_sentence(kept, monkeypatch):
    kept.note("Ada", 2, "quiz", "1", "a", True)
    monkeypatch.setattr(progress, "PATIENCE", 0.1)
    other = sqlite3.connect(kept.path, isolation_level=None)
    other.execute("BEGIN EXCLUSIVE")
    with pytest.raises(ProgressError, match=r"^progress cannot be kept in '.*': another program has kept it locked"):
        kept.note("Ada", 2, "quiz", "2", "a", True)
    other.execute("ROLLBACK")
    assert len(kept.rows()) == 1


def _in_a_child(act):
    """What `act` raised, in a process of its own that may give up rights."""
    read, write = os.pipe()
    child = os.fork()
    if not child:
        try:
            act()
            said = "nothing"
        except BaseException as error:  # noqa: BLE001
            said = f"{type(error).__name__}: {error}"
        os.write(write, said.encode())
        os._exit(0)
    os.waitpid(child, 0)
    os.close(write)
    with os.fdopen(read) as answers:
        return answers.read()


def test_a_file_that_may_only_be_read_is_one_sentence(kept):
    kept.note("Ada", 2, "quiz", "1", "a", True)
    kept.path.chmod(0o444)
    kept.path.parent.chmod(0o555)
    for folder in kept.path.parents[1:4]:
        if folder.is_relative_to("/tmp") and folder != Path("/tmp"):
            folder.chmod(0o755)

    def act():
        if os.getuid() == 0:
            os.setuid(65534)
        kept.note("Ada", 2, "quiz", "2", "a", True)

    said = _in_a_child(act)
    kept.path.parent.chmod(0o755)
    assert said.startswith("ProgressError: progress cannot be kept in") and len(said.splitlines()) == 1


def test_a_folder_that_cannot_be_made_is_one_sentence(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(ProgressError, match=r"^progress cannot be kept in '.*'"):
        Progress(tmp_path / "file" / "progress.sqlite").note("Ada", 1, "quiz", "1", "a")


def test_a_full_disk_is_one_sentence_and_what_was_there_stays(kept):
    import resource

    kept.note("Ada", 2, "quiz", "1", "a", True)

    def act():
        resource.setrlimit(resource.RLIMIT_FSIZE, (40_000, 40_000))
        for number in range(200):
            kept.note("Ada", 2, "quiz", str(number), "x" * 2000, True)

    said = _in_a_child(act)
    assert said.startswith("ProgressError: progress cannot be kept in") and "disk is full" in said
    assert kept.rows()[0].value == "a"


@pytest.mark.parametrize(
    "content", [b"name,points\nAda,3\n" * 100, b"x", b"SQLite format 3\0" + bytes(range(256)) * 20]
)
def test_a_file_that_is_no_database_is_refused_and_not_overwritten(tmp_path, content):
    path = tmp_path / "grades.csv"
    path.write_bytes(content)
    for act in (lambda: Progress(path).note("Ada", 1, "quiz", "1", "a"), lambda: Progress(path).rows()):
        with pytest.raises(ProgressError, match="no SQLite database"):
            act()
    assert path.read_bytes() == content


def test_a_database_of_another_program_is_refused_and_not_overwritten(tmp_path):
    path = tmp_path / "other.sqlite"
    other = sqlite3.connect(path)
    other.execute("CREATE TABLE notes (text)")
    other.commit()
    other.close()
    before = path.read_bytes()
    with pytest.raises(ProgressError, match="a database of another program"):
        Progress(path).note("Ada", 1, "quiz", "1", "a")
    assert path.read_bytes() == before


def test_a_table_for_a_spreadsheet_holds_no_formulas(kept, tmp_path):
    kept.note("=cmd()", 1, "quiz", "+1", "@sum", False)
    kept.note('Zoë, "Z"', 1, "prediction", "1.load", -0.5)
    target = tmp_path / "class.csv"
    assert kept.csv(target) == 2
    with target.open(encoding="utf-8-sig", newline="") as file:
        table = list(csv.reader(file))
    assert table[0] == ["at", "student", "lesson", "kind", "item", "value", "correct"]
    assert table[1][1:] == ["'=cmd()", "1", "quiz", "'+1", "'@sum", "no"]
    assert table[2][1:] == ['Zoë, "Z"', "1", "prediction", "1.load", "-0.5", ""]
    assert sorted(one.name for one in tmp_path.iterdir() if one.is_file()) == ["class.csv"]
    with pytest.raises(ProgressError, match="cannot be written"):
        kept.csv(tmp_path / "nowhere" / "class.csv")


def test_values_are_bounded_and_names_are_cleaned(kept):
    kept.note("  Ada\n\0\x1b[31m  Lovelace " + "x" * 100, 1, "quiz", "1", "y" * 50_000)
    row = kept.rows()[0]
    assert row.student.startswith("Ada [31m Lovelace") and len(row.student) <= 60
    assert len(row.value) < 10_100
    kept.note("\ud800", 1, "quiz", "1", "\ud800") if "\ud800".isprintable() else None
    with pytest.raises(BadValue, match="a name is needed"):
        kept.note(" \n", 1, "quiz", "1", "a")
    with pytest.raises(UnknownName, match="did you mean 'quiz'"):
        kept.note("Ada", 1, "quizz", "1", "a")


def test_a_student_is_known_by_the_server_or_by_the_page(monkeypatch, tmp_path):
    monkeypatch.setenv("GATING_EXPLORER_PROGRESS", str(tmp_path / "class.sqlite"))
    assert progress.student() == ""
    assert progress.note_if_known(1, "quiz", "1", "a") is False
    assert progress.introduce(" Grace  Hopper ") == "Grace Hopper"
    assert progress.note_if_known(1, "quiz", "1", "a", True) is True
    monkeypatch.setenv("JUPYTERHUB_USER", "hub")
    assert progress.student() == "hub"
    monkeypatch.setenv("GATING_EXPLORER_STUDENT", "Ada")
    assert progress.student() == "Ada"
    assert [one.student for one in Progress().rows()] == ["Grace Hopper"]
    assert progress.introduce("") == ""
