"""The teacher's table over all students of a hub, whose files are theirs to spoil."""

import csv
import io
import os
import runpy
from pathlib import Path
from types import SimpleNamespace

import pytest

from explorer.lessons.progress import Progress

ROOT = Path(__file__).resolve().parents[2]
collect = runpy.run_path(str(ROOT / "binder/collect_progress.py"))


def account(home: Path) -> SimpleNamespace:
    """A student whose account is this process's; that of another is the operating system's to keep apart."""
    home.mkdir()
    return SimpleNamespace(pw_name=f"jupyter-{home.name}", pw_dir=str(home), pw_uid=os.getuid(), pw_gid=os.getgid())


def progress(home: Path) -> Progress:
    return Progress(home / ".local/share/gating-explorer/progress.sqlite")


@pytest.fixture(autouse=True)
def _this_clone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", str(ROOT))


def test_the_name_is_that_of_the_account_and_no_cell_is_a_formula(tmp_path: Path) -> None:
    accounts = [account(tmp_path / name) for name in ("ada", "grace", "mallory")]
    progress(tmp_path / "ada").note("ada", 2, "exercise", "2.1", "passed", correct=True)
    progress(tmp_path / "ada").note("ada", 2, "prediction", "2.load", 30.5)
    progress(tmp_path / "mallory").note("ada", 2, "quiz", "2.q1", "=1+1", correct=False)
    out = io.StringIO()
    assert collect["main"](accounts, out) == 0
    rows = list(csv.DictReader(io.StringIO(out.getvalue())))
    assert [(row["student"], row["item"], row["value"], row["correct"]) for row in rows] == [
        ("ada", "2.1", "passed", "yes"),
        ("ada", "2.load", "30.5", ""),
        ("mallory", "2.q1", "'=1+1", "no"),
    ]


def test_a_spoilt_file_costs_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    accounts = [account(tmp_path / name) for name in ("mallory", "ada")]
    progress(tmp_path / "ada").note("ada", 1, "exercise", "1.1", "passed", correct=True)
    spoilt = progress(tmp_path / "mallory").path
    spoilt.parent.mkdir(parents=True)
    spoilt.write_text("no database, and more than its header")
    out = io.StringIO()
    assert collect["main"](accounts, out) == 1
    assert [row["student"] for row in csv.DictReader(io.StringIO(out.getvalue()))] == ["ada"]
    assert capsys.readouterr().err.startswith("mallory: the progress in ")
