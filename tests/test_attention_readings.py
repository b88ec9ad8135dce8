"""Readings of attention: each number by hand, from a map or a gate that is given."""

import math

import pytest
import torch

from explorer import edit
from explorer.experiment import Experiment
from explorer.readings import Run, reading
from explorer.tasks import UNSCORED, Batch


def backcopy(mechanism: str = "softmax-attention", **knobs) -> Experiment:
    return Experiment(mechanism, task="bigram-backcopy", layers=1, feed_forward="none", n_heads=2, watch=None, **knobs)


def heads(first: float, second: float):
    """An edit: what each head gives the first token; the query's own key gets the rest of a row that sums to one."""

    def given(A):
        share = torch.tensor([first, second]).view(1, 2, 1, 1)
        eye = torch.eye(A.shape[-1])
        return eye[0] * share + eye * (1 - share) + 0 * A

    return given


def read(experiment: Experiment, name: str, attention=None) -> float:
    if attention is None:
        return reading(name)(Run(experiment))
    with edit(experiment.model, "*/attention", attention):
        return reading(name)(Run(experiment))


def test_the_strongest_head_is_the_sinks():
    assert read(backcopy(), "sink_share", heads(0.25, 0.75)) == pytest.approx(0.75)
    assert read(backcopy(), "sink_share") < 0.1  # untrained: about even, 0.04


def test_a_proxy_divides_by_what_a_row_has():
    """A tenth of everything: the raw share is a tenth, the row's own share is what it was."""
    run = backcopy("sigmoid-attention")
    assert read(run, "sink_share", lambda A: 0.1 * heads(0.5, 0.2)(A)) == pytest.approx(0.05)
    assert read(run, "proxy_sink_share", lambda A: 0.1 * heads(0.5, 0.2)(A)) == pytest.approx(0.5)


def test_mass_on_nothing_is_what_the_weakest_head_lacks():
    scale = torch.tensor([0.25, 0.5]).view(1, 2, 1, 1)
    assert read(backcopy("sink-logit"), "mass_on_nothing", lambda A: scale * heads(0, 0)(A)) == pytest.approx(0.5)
    assert abs(read(backcopy(), "mass_on_nothing")) < 1e-6  # plain softmax


class Shown:
    """Stands for a Run whose layers tapped what is given, as B H S."""

    def __init__(self, tap: str, *layers) -> None:
        self.layers = {f"blocks.{i}.attention/{tap}": torch.tensor(layer) for i, layer in enumerate(layers)}

    def look(self):
        return 0.5, self

    def paths(self):
        return list(self.layers)

    def last(self, path):
        return self.layers[path]


def test_the_sink_rate_counts_heads_whose_first_token_receives_much():
    """Three of four heads, in two layers: 0.31, 0.9 and 1 are above 0.3; 0.3 is not."""
    run = Shown("received", [[[0.31, 0.1], [0.3, 0.9]]], [[[0.9, 0.0], [1.0, 0.0]]])
    assert reading("sink_rate")(run) == 0.75
    assert read(backcopy(), "sink_rate") == 0.0


def test_the_smallest_value_of_the_first_token():
    """Norms 1 and 3 of two sequences beside 4 and 4: a half; the other head, and the other layer, have more."""
    run = Shown("values", [[[1.0, 4.0], [2.0, 2.0]], [[3.0, 4.0], [2.0, 2.0]]], [[[6.0, 3.0], [5.0, 5.0]]] * 2)
    assert reading("first_value")(run) == 0.5


def test_the_value_of_the_first_token_against_the_others():
    experiment = backcopy()
    with torch.no_grad():
        experiment.model.embed.weight[1:] = experiment.model.embed.weight[0]  # all tokens alike
    assert read(experiment, "first_value") == pytest.approx(1.0, rel=1e-5)


def test_evicting_a_token_that_nobody_looks_at_costs_nothing():
    experiment = backcopy()
    ordinary = heads(0, 0)
    assert read(experiment, "eviction_cost", ordinary) == pytest.approx(0, abs=1e-6)
    assert abs(read(experiment, "eviction_cost")) < 0.05 and abs(read(experiment, "eviction_cost_of_another")) < 0.05


def test_eviction_leaves_the_weights_that_the_other_keys_would_have():
    """Half on the first token, half on itself: from the fourth query on all is on itself. From the tenth on it counts."""
    experiment = backcopy()
    inputs, targets, labels = experiment.data.held_out()
    counted = Batch(inputs, targets.index_fill(1, torch.arange(10), UNSCORED), labels)
    half, none = heads(0.5, 0.5), heads(0, 0)

    def loss(given) -> float:
        with edit(experiment.model, "*/attention", given):
            return experiment.examine(counted)[0]

    expected = loss(lambda A: torch.cat([half(A)[:, :, :3], none(A)[:, :, 3:]], 2)) - loss(half)
    assert read(experiment, "eviction_cost", half) == pytest.approx(expected, abs=1e-7)


def test_a_gate_that_opens_at_triggers_alone():
    experiment = backcopy("gated-attention", granularity="headwise")
    trigger_BT11 = experiment.data.held_out().labels[:, :, None, None].float()
    level_H1 = torch.tensor([[0.5], [0.9]])
    with edit(experiment.model, "*/gate", (0.1 * level_H1 + 0.8 * trigger_BT11 * level_H1).expand_as):
        assert reading("gate_when_idle")(Run(experiment)) == pytest.approx(0.09)  # the more open of .05 and .09
        assert reading("gate_when_needed")(Run(experiment)) == pytest.approx(0.45)  # the more shut of .45 and .81
        assert reading("gate_auc")(Run(experiment)) == 1.0


@pytest.mark.parametrize("name", ["gate_auc", "gate_when_idle", "gate_when_needed"])
def test_without_a_gate_there_is_nothing_to_read(name):
    assert math.isnan(read(backcopy(), name))
