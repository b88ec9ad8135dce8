"""The progress of all students of a TLJH as one table: sudo /opt/tljh/user/bin/python collect_progress.py > class.csv

Every file is read as the student whose it is, with no more rights, and not for long: a student can put anything there. The
name in the table is that of the account, whatever the file says.
"""

import csv
import json
import os
import pwd
import subprocess
import sys
from collections.abc import Iterable
from typing import Any

from explorer.lessons.progress import FORMULA, KINDS

ACCOUNTS = "jupyter-"  # how TLJH begins the names of its accounts
SECONDS = 20  # for one student
COLUMNS = ("student", "at", "lesson", "kind", "item", "value", "correct")
READ = "import json; from explorer.lessons.progress import Progress; print(json.dumps(Progress().rows()))"


def main(accounts: Iterable[Any], target: Any) -> int:
    """Write the table of these accounts (as the module pwd has them) to `target`; how many could not be read."""
    table, unread = csv.writer(target), 0
    table.writerow(COLUMNS)
    for account in accounts:
        name = account.pw_name.removeprefix(ACCOUNTS)
        try:
            rows = [(name, *_row(note)) for note in json.loads(_read(account))]
        except (OSError, ValueError, TypeError, subprocess.SubprocessError):
            sys.stderr.write(f"{name}: the progress in {account.pw_dir} cannot be read\n")
            unread += 1
        else:
            table.writerows([_cell(value) for value in row] for row in rows)
    return unread


def _read(account: Any) -> bytes:
    """What a process of that account says of its progress."""
    environment = {"HOME": account.pw_dir, "PYTHONPATH": os.environ.get("PYTHONPATH", "")}
    rights = {"user": account.pw_uid, "group": account.pw_gid, "extra_groups": []} if os.geteuid() == 0 else {}
    # -s: nothing that the student has installed takes part
    command = [sys.executable, "-s", "-P", "-c", READ]
    run = subprocess.run(command, env=environment, cwd="/", capture_output=True, timeout=SECONDS, check=True, **rights)
    return run.stdout


def _row(note: list[Any]) -> tuple[Any, ...]:
    at, _, lesson, kind, item, value, correct = note
    if kind not in KINDS:
        raise ValueError(kind)
    return at, lesson, kind, item, value, {True: "yes", False: "no"}.get(correct, "")


def _cell(value: Any) -> str:
    """As a spreadsheet may hold it: nothing that it would calculate."""
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    return f"'{text}" if text.startswith(FORMULA) and not isinstance(value, int | float) else text


if __name__ == "__main__":
    sys.exit(main([one for one in pwd.getpwall() if one.pw_name.startswith(ACCOUNTS)], sys.stdout) > 0)
