"""Readings: each number by hand, from what a run decided."""

import math

import pytest
import torch

from explorer import edit
from explorer.errors import BadValue, UnknownName
from explorer.experiment import Experiment
from explorer.readings import Run, reading
from explorer.recording import Recording


class Seen:
    """Stands for a Run: what it shows at each moment is given."""

    def __init__(self, **moments: Recording) -> None:
        self.moments = {float(name.removeprefix("at_").replace("_", ".")): one for name, one in moments.items()}

    def look(self, moment: float = 1.0):
        return 0.5, self.moments[moment]


def recording(experts: int = 2, labels=None, **layers) -> Recording:
    """layer=dict(tap=nested list) for each layer; weights are even where none are given."""
    made = Recording({"experts": dict.fromkeys(layers, experts)}, keep=1)
    heard = []
    for layer, taps in layers.items():
        tensors = {name: torch.tensor(value) for name, value in taps.items()}
        tensors.setdefault("weights", torch.ones_like(tensors["index"], dtype=torch.float32))
        for name, value in tensors.items():
            made.header["axes"][f"{layer}/{name}"] = "B T K"
            heard.append((layer, name, value))
    made.add(0, heard, tensors=True)
    if labels is not None:
        made.annotate("/labels", "B T", torch.tensor(labels), 0)
        made.annotate("/tokens", "B T", torch.tensor(labels), 0)
    return made


def test_balance_is_that_of_the_worst_layer_and_of_what_tokens_asked_for():
    even, tilted = [[[0], [1], [0], [1]]], [[[0], [0], [0], [1]]]
    run = Seen(at_1=recording(a={"index": even}, b={"index": tilted}))
    assert reading("max_violation")(run) == 0.5  # three of four: 3 / 2 - 1
    assert reading("dead_experts")(run) == 0.0
    assert reading("load_entropy")(run) == pytest.approx(-(0.75 * math.log2(0.75) + 0.25 * math.log2(0.25)))
    dropped = Seen(at_1=recording(a={"index": [[[0], [-1], [-1], [1]]], "choice": tilted}))
    assert reading("max_violation")(dropped) == 0.5


def test_nothing_that_routes_reads_as_nan():
    run = Seen(at_1=Recording(keep=1))
    for name in ("max_violation", "load_entropy", "dead_experts", "token_entropy", "nmi", "vocabulary_first_layer"):
        assert math.isnan(reading(name)(run)), name
    assert reading("held_out_loss")(run) == 0.5


def test_specialisation_looks_at_the_expert_with_the_largest_weight():
    index, weights = [[[0, 1], [0, 1], [0, 1], [-1, -1]]], [[[0.9, 0.1], [0.1, 0.9], [0.9, 0.1], [0.0, 0.0]]]
    run = Seen(at_1=recording(a={"index": index, "weights": weights}, labels=[[0, 1, 0, 1]]))
    assert reading("nmi")(run) == pytest.approx(1.0) == reading("vocabulary_first_layer")(run)


def test_saturation_is_of_the_least_settled_layer_and_chance_keeps_only_the_loads():
    early = recording(a={"index": [[[0], [1]]]}, b={"index": [[[0], [1]]]})
    final = recording(a={"index": [[[0], [1]]]}, b={"index": [[[1], [1]]]})
    run = Seen(at_0_4=early, at_0_01=early, at_1=final)
    assert reading("saturation")(run) == 0.5 == reading("saturation_last_layer")(run)
    assert reading("saturation_first_layer")(run) == 1.0 and reading("saturation_early")(run) == 0.75
    assert reading("saturation_by_chance")(run) == 0.5  # a: 1/2 1/2 + 1/2 1/2; b: 1/2 0 + 1/2 1


def test_looking_on_the_way_does_not_change_the_run():
    plain, watched = (Experiment("topk-softmax", task="clusters", batch=4, watch=None) for _ in range(2))
    run = Run.through(watched, 10, (0.0, 0.4, 1.0))
    assert watched.step == 10 and torch.equal(plain.run(10).losses(), watched.losses())
    assert run.look(0.4)[0] > run.look()[0] and run.look(0.0)[0] > run.look(0.4)[0]
    with pytest.raises(BadValue, match="nobody looked at this run after 20%"):
        run.look(0.2)
    with pytest.raises(UnknownName, match="did you mean 'saturation'"):
        reading("saturated")


def test_training_loss_is_the_mean_of_the_last_tenth():
    experiment = Experiment("topk-softmax", task="clusters", batch=4, watch=None).run(15)
    assert reading("training_loss")(Run(experiment)) == pytest.approx(experiment.losses()[-2:].mean().item())
    assert math.isnan(reading("training_loss")(Run(Experiment("topk-softmax", task="clusters", watch=None))))


def test_a_sink_takes_the_attention_of_the_queries_with_nothing_to_look_for():
    run = Run(backcopy("softmax-attention"))
    assert reading("sink_share")(run) < 0.1  # untrained: about even, 0.04

    def to_the_first_of_head_1(attention_BHTS: torch.Tensor) -> torch.Tensor:
        changed = attention_BHTS.clone()
        changed[:, 1] = torch.nn.functional.one_hot(torch.zeros(1, dtype=torch.long), attention_BHTS.shape[-1])
        return changed

    with edit(run.experiment.model, "*/attention", to_the_first_of_head_1):
        assert reading("sink_share")(run) == 1.0


def test_a_gate_that_is_open_at_triggers_alone_detects_them():
    experiment = backcopy("gated-attention", granularity="headwise")
    trigger_BT11 = experiment.data.held_out().labels[:, :, None, None].float()
    for gate, auc in ((trigger_BT11, 1.0), (1 - trigger_BT11, 0.0), (torch.ones_like(trigger_BT11), 0.5)):
        with edit(experiment.model, "*/gate", lambda g, gate=gate: gate.expand_as(g)):
            assert reading("gate_auc")(Run(experiment)) == auc
    assert math.isnan(reading("gate_auc")(Run(backcopy("softmax-attention"))))


def backcopy(mechanism: str, **knobs) -> Experiment:
    return Experiment(mechanism, task="bigram-backcopy", layers=1, feed_forward="none", n_heads=2, watch=None, **knobs)
