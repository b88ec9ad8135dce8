"""The Python lines of a run make the very same run."""

import pytest

from explorer import Experiment
from explorer.tasks import Clusters, Text

SMALL = {"layers": 1, "batch": 2, "expert_width": 8, "d_model": 16}


def again(run, **names):
    scope = dict(names)
    exec(run.script(), scope)
    return scope["run"]


@pytest.mark.parametrize(
    "run",
    [
        Experiment("topk-softmax", seed=3, **SMALL),
        Experiment("switch", task=Text(domains=["english", "data"], sequence=32), **SMALL),
        Experiment("expert-choice", task=Clusters(dimensions=2), batch=2, seed=9),
        Experiment("gated-attention", task="bigram-backcopy", layers=1, d_model=16, batch=2),
        Experiment("switch", match="flops", **SMALL),
    ],
    ids=lambda run: f"{run.spec.name} on {type(run.task).__name__}",
)
def test_the_lines_make_the_same_run_to_the_last_bit(run):
    run.run(3)
    assert again(run).history.equals(run.history)


def test_what_was_changed_in_the_middle_of_the_run_is_in_the_lines():
    run = Experiment("topk-softmax", **SMALL).run(2)
    run.set(k=1)
    run.run(2)
    run.set(aux_loss=0.5, learning_rate=0.01)
    run.run(2)
    assert "run.set(k=1)" in run.script()
    assert again(run).history.equals(run.history)


def test_a_fork_has_the_lines_of_both_its_lives():
    run = Experiment("topk-softmax", **SMALL).run(2)
    twin = run.fork(k=1)
    run.run(1)
    twin.run(3)
    assert again(twin).history.equals(twin.history)
    assert "k=1" not in run.script()


def test_texts_of_ones_own_are_read_from_their_files(tmp_path, monkeypatch):
    text = "a gate decides what passes. " * 40
    (tmp_path / "notes.txt").write_text(text)
    monkeypatch.chdir(tmp_path)
    run = Experiment("topk-softmax", task=Text(texts={"notes.txt": text}, sequence=16), **SMALL).run(2)
    assert "Path('notes.txt').read_text" in run.script()
    assert again(run).history.equals(run.history)


def test_only_what_differs_from_the_defaults_is_written():
    lines = Experiment("topk-softmax", k=2, seed=1).script().splitlines()
    assert lines[:3] == ["import explorer", "", "run = explorer.Experiment('topk-softmax', task='text', seed=1)"]
