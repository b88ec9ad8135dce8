"""The digits: scikit-learn's own file, read without the library."""

import subprocess
import sys

import pytest
import torch

from explorer.errors import BadValue, ExplorerError
from explorer.tasks import digits
from explorer.tasks.digits import HELD_OUT, Digits


def test_images_and_labels_are_those_that_scikit_learn_gives():
    datasets = pytest.importorskip("sklearn.datasets")
    theirs = datasets.load_digits()
    images, labels, sha256 = digits.read()
    assert torch.equal(images, torch.tensor(theirs.data).float() / 16)
    assert torch.equal(labels, torch.tensor(theirs.target)) and len(sha256) == 64


def test_nothing_held_out_is_ever_trained_on():
    data = Digits().build(0)
    held_out = {tuple(row) for row in data.held_out().inputs.tolist()}
    assert len(data.held_out().labels) == HELD_OUT
    seen = {tuple(row) for row in data.batch(0, 5000).inputs.tolist()}
    assert not held_out & seen and len(seen) > 1300
    assert torch.equal(data.held_out().inputs, Digits().build(7).held_out().inputs)


def test_a_batch_depends_on_seed_step_and_size_alone_and_targets_mark_the_class():
    data = Digits().build(1)
    one, two = data.batch(3, 50), Digits().build(1).batch(3, 50)
    assert all(torch.equal(a, b) for a, b in zip(one, two, strict=True))
    assert one.inputs.shape == one.targets.shape == (50, 64)
    assert torch.equal(one.targets.argmax(1), one.labels) and one.targets.sum(1).eq(1).all()
    assert one.inputs.min() >= 0 and one.inputs.max() <= 1


def test_the_loss_is_the_cross_entropy_of_all_outputs():
    data = Digits().build(0)
    batch = data.held_out()
    assert data.loss(torch.zeros(HELD_OUT, 64), batch).item() == pytest.approx(4.1589, abs=1e-4)  # ln 64
    assert data.loss(100 * batch.targets, batch) == 0


def test_noise_is_added_in_training_alone():
    clean, noisy = Digits().build(0), Digits(noise=0.3).build(0)
    assert (noisy.batch(0, 2000).inputs - clean.batch(0, 2000).inputs).std().item() == pytest.approx(0.3, rel=0.02)
    assert torch.equal(noisy.held_out().inputs, clean.held_out().inputs)
    with pytest.raises(BadValue, match="noise"):
        Digits(noise=-1)


def test_reading_the_digits_does_not_import_scikit_learn():
    code = "import sys; from explorer.tasks.digits import read; read(); print('sklearn' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout.strip() == "False"


def test_without_scikit_learn_one_sentence_says_what_to_do(monkeypatch):
    digits.read.cache_clear()
    monkeypatch.setattr(digits.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ExplorerError, match="pip install scikit-learn"):
        Digits().build(0)
    monkeypatch.undo()


@pytest.mark.parametrize(
    "content", [b"", b"not gzip", digits.gzip.compress(b"1,2\n3,4", mtime=0), digits.gzip.compress(b"a,b", mtime=0)]
)
def test_a_broken_file_is_named(tmp_path, monkeypatch, content):
    digits.read.cache_clear()
    (tmp_path / "datasets" / "data").mkdir(parents=True)
    (tmp_path / "datasets" / "data" / "digits.csv.gz").write_bytes(content)
    spec = type("Spec", (), {"origin": str(tmp_path / "__init__.py")})
    monkeypatch.setattr(digits.importlib.util, "find_spec", lambda name: spec)
    with pytest.raises(ExplorerError, match=r"digits\.csv\.gz"):
        Digits().build(0)
    monkeypatch.undo()
    digits.read.cache_clear()
