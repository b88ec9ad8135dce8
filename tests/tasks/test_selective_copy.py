"""Selective copying: where the data stand, what the markers ask for, and that the answer can be computed."""

import math

import pytest
import torch

from explorer.errors import BadValue
from explorer.tasks import UNSCORED, SelectiveCopy
from explorer.tasks.selective_copy import FIRST, MARKER, NOISE


@pytest.mark.parametrize(
    "config", [SelectiveCopy(), SelectiveCopy(vocab=4, data=1, sequence=2), SelectiveCopy(data=5, sequence=10)]
)
def test_the_markers_ask_for_the_data_tokens_in_order(config):
    data = config.build(0)
    for batch in (data.batch(0, 30), data.held_out()):
        for inputs, targets in zip(batch.inputs, batch.targets, strict=True):
            assert (inputs[-config.data :] == MARKER).all() and (inputs[: -config.data] != MARKER).all()
            copied = inputs[inputs >= FIRST]
            assert len(copied) == config.data
            assert torch.equal(targets[-config.data :], copied)
            assert (targets[: -config.data] == UNSCORED).all()


def test_labels_say_what_a_token_is():
    data = SelectiveCopy().build(1)
    batch = data.batch(0, 20)
    assert data.label_names == ["noise", "data", "marker"]
    assert torch.equal(batch.labels == 0, batch.inputs == NOISE)
    assert torch.equal(batch.labels == 1, batch.inputs >= FIRST)
    assert torch.equal(batch.labels == 2, batch.inputs == MARKER)
    assert (batch.labels == 1).sum(1).eq(8).all() and (batch.labels == 2).sum(1).eq(8).all()


def test_data_stand_everywhere_and_are_of_every_kind_equally_often():
    data = SelectiveCopy(vocab=6, data=4, sequence=20).build(0)
    batch = data.batch(0, 8000)
    share_T = (batch.labels == 1).float().mean(0)
    assert (share_T[:16] - 0.25).abs().max() < 0.03 and (share_T[16:] == 0).all()
    counts = batch.targets[batch.targets != UNSCORED].bincount(minlength=6).float()
    assert counts[:2].sum() == 0 and (counts[2:] / counts.sum() - 0.25).abs().max() < 0.02


def test_the_right_answer_costs_nothing_and_a_guess_the_logarithm_of_the_kinds():
    data = SelectiveCopy().build(0)
    batch = data.held_out()
    right = torch.nn.functional.one_hot(batch.targets.clamp(min=0), data.vocab).float() * 100
    assert data.loss(right, batch).item() == pytest.approx(0, abs=1e-6) and data.accuracy(right, batch) == 1
    guess = torch.zeros(*batch.inputs.shape, data.vocab)
    guess[..., :FIRST] = -1e4
    assert data.loss(guess, batch).item() == pytest.approx(math.log(14), rel=1e-5)


def test_tokens_have_names():
    assert SelectiveCopy(vocab=5).build(0).decode([0, 1, 2, 4, 9]) == [".", "?", "1", "3", "\N{REPLACEMENT CHARACTER}"]


@pytest.mark.parametrize(
    "settings, culprit",
    [({"vocab": 3}, "vocab"), ({"data": 0}, "data"), ({"data": 4, "sequence": 7}, "sequence"), ({"data": 2.5}, "data")],
)
def test_what_cannot_be_is_refused(settings, culprit):
    with pytest.raises(BadValue, match=rf"^{culprit} must be"):
        SelectiveCopy(**settings)
