"""The host of vectors in a row, and the residual stream that every host of blocks can show."""

from dataclasses import dataclass

import pytest
import torch
from torch import nn

import explorer
from explorer.errors import BadValue
from explorer.experiment import Experiment
from explorer.models import LanguageModel, SequenceModel
from explorer.tasks import Batch


class Uncausal(nn.Module):
    """Adds the mean of all positions: every position sees every other."""

    def forward(self, x_BTD):
        return x_BTD.mean(1, keepdim=True).expand_as(x_BTD)


class Readout(nn.Module):
    def forward(self, x_BTD):
        return x_BTD[:, 0, :3]


@pytest.mark.parametrize(("pooled", "shape"), [(True, (2, 4)), (False, (2, 5, 4))])
def test_it_answers_once_or_at_every_position(pooled, shape):
    model = SequenceModel(3, 5, 4, 8, [(Uncausal(), None)], pooled)
    assert model(torch.randn(2, 5, 3)).shape == shape


def test_a_readout_takes_the_place_of_mean_and_head():
    model = SequenceModel(3, 5, 4, 8, [(Uncausal(), None)], readout=Readout())
    assert model.head is None
    assert model(torch.randn(2, 5, 3)).shape == (2, 3)


def test_a_shorter_row_is_fine_and_a_longer_one_says_so():
    model = SequenceModel(3, 5, 4, 8, [(Uncausal(), None)])
    assert model(torch.randn(1, 1, 3)).shape == (1, 4)
    with pytest.raises(BadValue, match="a row of 6 is longer than the 5 positions"):
        model(torch.randn(1, 6, 3))
    with pytest.raises(BadValue, match="at least one layer"):
        SequenceModel(3, 5, 4, 8, [])


def test_a_position_means_something():
    model = SequenceModel(3, 5, 4, 8, [(Uncausal(), None)], pooled=False)
    same = torch.ones(1, 5, 3)
    assert not torch.allclose(model(same)[0, 0], model(same)[0, 1])


@pytest.mark.parametrize("host", ["sequences", "tokens"])
def test_the_residual_stream_is_shown_only_by_name(host):
    if host == "sequences":
        model, x = SequenceModel(3, 5, 4, 8, [(Uncausal(), None), (Uncausal(), None)]), torch.randn(2, 5, 3)
    else:
        model, x = LanguageModel(7, 8, [(Uncausal(), None), (Uncausal(), None)]), torch.randint(7, (2, 5))
    with explorer.record(model, "/residual") as seen:
        model(x)
    stream = seen.last("/residual")
    assert stream.shape == (3, 2, 5, 8)
    torch.testing.assert_close(stream[0], model.embed(x) + (model.positions if host == "sequences" else 0))
    normed = model.blocks[1].norm_attention(stream[1])
    torch.testing.assert_close(stream[2], stream[1] + normed.mean(1, keepdim=True))


@dataclass(frozen=True)
class Rows:
    def build(self, seed):
        return RowsData()


class RowsData:
    """Which of two halves of a row is brighter; the first three steps are one stage, the rest another."""

    kind, width, length, outputs, pooled, unit = "sequences", 2, 4, 2, True, "nats"
    label_names = ["left", "right"]

    def batch(self, step, size):
        x = torch.randn(size, 4, 2, generator=torch.Generator().manual_seed(step))
        labels = (x[:, :2].sum((1, 2)) < x[:, 2:].sum((1, 2))).long()
        return Batch(x, labels, labels)

    def held_out(self):
        return self.batch(10_000, 64)

    def loss(self, outputs, batch):
        return nn.functional.cross_entropy(outputs, batch.targets)

    def describe(self):
        return {"task": "rows"}

    def stage(self, step):
        return (0, step / 3) if step < 3 else (1, 0.0)


def test_an_experiment_on_rows_learns_and_looks_both_ways():
    run = Experiment("softmax-attention", task=Rows(), layers=1, d_model=16, batch=32, watch=None)
    before = run.examine()[0]
    assert run.run(60).examine()[0] < 0.8 * before
    if "causal" in run.spec.knobs:
        assert run.knobs["causal"] is False
        assert run.recipe()["causal"] is False


def test_modules_are_told_the_stage_and_a_new_one_begins_without_moments():
    run = Experiment("softmax-attention", task=Rows(), layers=1, d_model=16, watch=None)
    told = []
    run._instrumented[-1].enter = lambda task, progress: told.append((task, round(progress, 2)))
    run.run(3)
    first = run.optimizer.groups[0].first[0].abs().sum()
    assert first > 0
    assert run.optimizer.groups[0].taken[0] == 3
    run.advance()
    assert run.optimizer.groups[0].taken[0] == 1
    assert told == [(0, 0.0), (0, 0.33), (0, 0.67), (1, 0.0)]


def test_what_does_not_fit_rows_says_so():
    with pytest.raises(BadValue, match="whole model of tokens"):
        Experiment("mixture-of-modules", task=Rows())
