"""gating-explorer balance: the table, the files, and that a mistake costs nothing."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest

from explorer import balancing, cli
from explorer.balancing import MEASURES, METHODS

ROOT = Path(cli.__file__).resolve().parents[2]


@pytest.fixture
def run(capsys):
    """The command line, in this process: (exit code, stdout, stderr)."""

    def invoke(*arguments):
        code = cli.main(["balance", *map(str, arguments)])
        return code, *capsys.readouterr()

    return invoke


@pytest.fixture
def untrained(monkeypatch):
    """Every run answers at once, with numbers that say which it was."""

    def row(plan):
        method, number = METHODS[plan.name], list(METHODS).index(plan.name) + plan.seed / 4
        front = {"method": plan.name, "router": method.mechanism, "k": method.k, "control": method.control}
        floors = {"batch_floor": 0.2, "held_out_floor": 0.1}
        return {**front, "seed": plan.seed, **dict.fromkeys(MEASURES, number), **floors}

    monkeypatch.setattr(balancing, "_row", row)
    monkeypatch.setattr(balancing, "in_parallel", lambda work, plans, *_: [work(plan) for plan in plans])


def test_the_table_shows_every_method_with_its_spread_and_says_what_the_columns_mean(run, untrained):
    code, out, _ = run("--seeds", "0,1", "--steps", "1")
    assert code == 0
    assert all(name in out for name in METHODS)
    assert "1.12" in out and "1.00..1.25" in out  # the auxiliary loss is the second
    assert "+1.000" in out  # its control is the first
    assert all(f"{title}: " in out for title in balancing.COLUMNS)
    assert "english 70%" in out and "throws dice, k = 1" in out and "z-loss: A loss keeps" in out
    assert "expert choice is not causal" in out


@pytest.mark.parametrize("name", ["table.csv", "table.json", "page.html"])
def test_what_was_measured_is_saved(run, untrained, tmp_path, name):
    code, _, err = run("--seeds", "1", "-o", tmp_path / name)
    assert code == 0 and f"saved in {tmp_path / name}" in err
    text = (tmp_path / name).read_text(encoding="utf-8")
    if name == "page.html":
        assert text.startswith("<!doctype html>") and "http" not in text.split("<body")[0].replace("http-equiv", "")
        return
    frame = pd.read_csv(tmp_path / name) if name.endswith("csv") else pd.DataFrame(json.loads(text))
    assert list(frame["method"]) == list(METHODS) and list(frame["batch_violation"]) == [i + 0.25 for i in range(11)]
    assert list(tmp_path.iterdir()) == [tmp_path / name]


@pytest.mark.parametrize(
    "arguments, sentence",
    [
        (("-o", "table.txt"), "must end in .csv, .json or .html"),
        (("-o", "no/page.html"), "there is no folder"),
        (("--seeds", "0;1"), "not a list of whole numbers"),
        (("--steps", "0"), "--steps"),
    ],
)
def test_a_mistake_is_told_before_anything_is_trained(run, monkeypatch, arguments, sentence):
    monkeypatch.setattr(balancing, "balance", lambda *_, **__: pytest.fail("it trained"))
    code, out, err = run(*arguments)
    assert code in (1, 2) and sentence in err and not out


def test_a_page_that_cannot_be_made_is_one_sentence_and_the_table_is_printed_all_the_same(
    run, untrained, tmp_path, monkeypatch
):
    monkeypatch.setattr(sys, "executable", "/bin/false")
    code, out, err = run("--seeds", "0", "-o", tmp_path / "page.html")
    assert code == 1 and "the page could not be made" in err and "auxiliary loss" in out
    assert not list(tmp_path.iterdir())


def test_it_runs_as_a_program_and_tells_its_progress(tmp_path):
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-m", "explorer", "balance", "--seeds", "0", "--steps", "1", "--jobs", "1"]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "run 1 of 11" in done.stderr and "run 11 of 11" in done.stderr
    assert "loss-free bias" in done.stdout
