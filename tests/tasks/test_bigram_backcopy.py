"""Bigram-Backcopy: the rule at triggers, the statistics elsewhere, and the best possible loss."""

import math

import numpy as np
import pytest
import torch

from explorer.errors import BadValue
from explorer.tasks import UNSCORED, BigramBackcopy


def whole_sequences(batch, bos=True):
    """(B, T+1): the inputs and the last target."""
    return torch.cat([batch.inputs, batch.targets[:, -1:]], 1)


@pytest.mark.parametrize("config", [BigramBackcopy(), BigramBackcopy(bos=False), BigramBackcopy(vocab=6, triggers=4)])
def test_after_every_trigger_comes_the_token_before_it(config):
    data = config.build(0)
    for batch in (data.batch(0, 50), data.held_out()):
        tokens = whole_sequences(batch)
        rows, places = batch.labels.nonzero(as_tuple=True)
        assert len(rows) > 100
        assert places.min() >= (2 if config.bos else 1)
        assert torch.equal(tokens[rows, places + 1], tokens[rows, places - 1])


def test_labels_mark_the_triggers():
    data = BigramBackcopy().build(0)
    batch = data.batch(0, 20)
    assert data.label_names == ["ordinary", "trigger"]
    assert torch.equal(batch.labels, ((batch.inputs >= 1) & (batch.inputs <= 3)).long())


def test_sequences_begin_with_bos_which_comes_nowhere_else_and_is_not_scored():
    data = BigramBackcopy().build(0)
    batch = data.batch(0, 200)
    assert (batch.inputs[:, 0] == 0).all() and (batch.inputs[:, 1:] > 0).all()
    assert (batch.labels[:, 1] == 0).all()
    assert (batch.targets[:, 0] == UNSCORED).all() and (batch.targets[:, 1:] > 0).all()


def test_without_bos_sequences_begin_with_an_ordinary_token_and_all_is_scored():
    data = BigramBackcopy(bos=False).build(0)
    batch = data.batch(0, 200)
    assert (batch.inputs > 3)[:, 0].all() and (batch.inputs > 0).all() and (batch.targets > 0).all()
    assert data.vocab == 33


def test_the_share_of_triggers_is_that_of_the_calibration():
    data = BigramBackcopy().build(0)
    share = torch.cat([data.batch(step, 200).labels for step in range(5)]).float().mean()
    assert share.item() == pytest.approx(0.198, abs=0.006)


def test_without_trigger_share_there_are_no_triggers():
    data = BigramBackcopy(trigger_share=0).build(0)
    assert data.batch(0, 200).labels.sum() == 0


def test_rows_of_the_matrix_are_distributions_with_the_asked_share_on_triggers():
    matrix = BigramBackcopy(trigger_share=0.4).build(0).matrix
    np.testing.assert_allclose(matrix.sum(1), 1)
    np.testing.assert_allclose(matrix[4:, 1:4].sum(1), 0.4)
    assert (matrix[0, :4] == 0).all() and (matrix[:, 0] == 0).all()


def test_the_matrix_depends_on_the_seed():
    assert not np.allclose(BigramBackcopy().build(0).matrix, BigramBackcopy().build(1).matrix)


def test_successors_follow_the_matrix():
    data = BigramBackcopy(vocab=5, triggers=1).build(0)
    batch = data.batch(0, 4000)
    ordinary = (batch.labels == 0) & (batch.targets != UNSCORED)
    counts = torch.zeros(6, 6).index_put_(
        (batch.inputs[ordinary], batch.targets[ordinary]), torch.ones(int(ordinary.sum())), accumulate=True
    )
    measured = (counts / counts.sum(1, keepdim=True))[2:].double()
    assert (measured - torch.from_numpy(data.matrix[2:])).abs().max() < 0.01


@pytest.mark.parametrize("seed", range(4))
def test_the_bayes_loss_is_that_of_the_calibration(seed):
    data = BigramBackcopy().build(seed)
    assert 1.9 < data.bayes_loss(data.held_out()) < 2.1
    assert data.describe()["held_out_bayes_loss"] == data.bayes_loss(data.held_out())


def test_the_best_predictor_reaches_the_bayes_loss():
    data = BigramBackcopy().build(0)
    batch = data.batch(0, 2000)
    before = torch.cat([batch.inputs[:, :1], batch.inputs[:, :-1]], 1)
    copied = torch.nn.functional.one_hot(before, data.vocab).double()
    best = torch.where(batch.labels.bool().unsqueeze(-1), copied, torch.from_numpy(data.matrix)[batch.inputs])
    reached = data.loss(best.clamp(min=1e-12).log(), batch).item()
    assert reached == pytest.approx(data.bayes_loss(batch), abs=0.01)


def test_a_two_way_coin_after_every_token_costs_log_two():
    data = BigramBackcopy(vocab=3, triggers=1, trigger_share=0, bos=False).build(0)
    data._entropy = torch.tensor([0, 0, math.log(2), math.log(2)], dtype=torch.float64)
    assert data.bayes_loss(data.batch(0, 4)) == pytest.approx(math.log(2))


def test_tokens_have_names():
    data = BigramBackcopy(vocab=6, triggers=2).build(0)
    assert data.decode(torch.arange(7)) == ["BOS", "!1", "!2", "3", "4", "5", "6"]
    assert data.decode([-100, 7]) == ["\ufffd", "\ufffd"]


@pytest.mark.parametrize(
    "wrong, message",
    [
        ({"vocab": 2}, "vocab must be from 3 to 1,024, not 2"),
        ({"triggers": -1}, "triggers must be from 0 to 30, not -1"),
        ({"triggers": 31}, "triggers must be from 0 to 30, not 31"),
        ({"trigger_share": 1}, "trigger_share must be at least 0 and less than 1, not 1"),
        ({"trigger_share": -0.1}, "trigger_share must be at least 0 and less than 1, not -0.1"),
        ({"triggers": 0}, "trigger_share 0.25 needs triggers of at least 1, not 0"),
        ({"sequence": 1}, "sequence must be from 2 to 4,096, not 1"),
        ({"bos": 1}, "bos must be True or False, not 1"),
    ],
)
def test_bad_values_are_named(wrong, message):
    with pytest.raises(BadValue) as caught:
        BigramBackcopy(**wrong)
    assert str(caught.value) == message


def test_no_triggers_at_all_are_fine_where_none_are_wanted():
    assert BigramBackcopy(triggers=0, trigger_share=0).build(0).batch(0, 2).labels.sum() == 0
