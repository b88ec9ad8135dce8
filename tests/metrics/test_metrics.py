"""What holds for all metrics: the list of names, and one sentence on each end of the range."""

import inspect

import pytest
import torch

from explorer import metrics

FUNCTIONS = [name for name in metrics.__all__ if not inspect.ismodule(getattr(metrics, name))]


def test_every_exported_name_exists_and_is_sorted():
    assert metrics.__all__ == sorted(set(metrics.__all__))
    assert all(hasattr(metrics, name) for name in metrics.__all__)


@pytest.mark.parametrize("module", ["balance", "entropy", "specialisation", "sinks", "gates"])
def test_submodules_are_reached_from_the_package(module):
    assert inspect.ismodule(getattr(metrics, module))


@pytest.mark.parametrize("name", sorted(set(FUNCTIONS) - {"counts", "contingency", "proxy_scores", "permuted_floor"}))
def test_every_metric_says_what_its_ends_mean(name):
    text = inspect.getdoc(getattr(metrics, name)) or ""
    assert "0" in text and any(word in text for word in ("NaN", "1", "large")), name


@pytest.mark.parametrize("name", FUNCTIONS)
def test_every_argument_is_typed(name):
    signature = inspect.signature(getattr(metrics, name))
    assert signature.return_annotation is not inspect.Signature.empty
    assert all(one.annotation is not inspect.Parameter.empty for one in signature.parameters.values())
    assert not any(one.kind is inspect.Parameter.VAR_KEYWORD for one in signature.parameters.values())


def test_metrics_leave_their_input_alone():
    probs, index = torch.rand(2, 5, 4).softmax(-1), torch.tensor([[[0, -1]] * 5] * 2)
    before = probs.clone(), index.clone()
    metrics.counts(index, 4), metrics.token_entropy(probs), metrics.co_activation(index, 4)
    metrics.saturation(index, index), metrics.load_balancing_loss(probs, index), metrics.gate_auc(probs, probs > 0.2)
    assert probs.equal(before[0]) and index.equal(before[1])


def somewhere(shape, dtype=torch.float32):
    """A tensor without data: whatever looks into it, as a device sync would, fails."""
    return torch.empty(shape, dtype=dtype, device="meta")


INDEX, TOP1 = somewhere((2, 5, 2), torch.int64), somewhere((2, 5), torch.int64)
SCORES, MAP, COUNTS = somewhere((2, 5, 4)), somewhere((2, 3, 5, 5)), somewhere((3, 4), torch.int64)
VALID = somewhere((2, 5), torch.bool)
WITHOUT_LOOKING = {
    "counts": (INDEX, 4),
    "load_fraction": (COUNTS,),
    "load_entropy": (COUNTS,),
    "cv_squared": (COUNTS,),
    "max_violation": (COUNTS,),
    "utilisation": (COUNTS,),
    "dead_experts": (COUNTS,),
    "gini": (COUNTS,),
    "drop_rate": (INDEX,),
    "token_drop_rate": (INDEX,),
    "load_balancing_loss": (SCORES, INDEX),
    "z_loss": (SCORES,),
    "token_entropy": (SCORES,),
    "margin": (SCORES, 2),
    "contingency": (TOP1, TOP1, 4, 3),
    "label_share": (INDEX, TOP1, 4, 3),
    "nmi": (TOP1, TOP1, "labels", 4, 3),
    "nmi_floor": (TOP1, TOP1, "min", 4, 3),
    "vocabulary_specialisation": (TOP1, TOP1, 4, 9),
    "vocabulary_top_share": (TOP1, TOP1, 10, 4, 9),
    "co_activation": (INDEX, 4),
    "saturation": (INDEX, INDEX),
    "flip_rate": (TOP1, TOP1),
    "co_activation_lift": (INDEX, 4),
    "cosine": (somewhere((4, 8)),),
    "effective_experts": (COUNTS,),
    "utilisation_percentiles": (COUNTS,),
    "proxy_scores": (MAP,),
    "received_mass": (MAP, VALID),
    "first_token_share": (MAP, 1, VALID),
    "row_entropy": (MAP, VALID),
    "sink_rate": (SCORES,),
    "gate_sparsity": (SCORES,),
    "gate_auc": (SCORES, SCORES),
    "effective_rank": (SCORES,),
    "forgetting": (somewhere((4, 4)),),
    "incremental_accuracy": (somewhere((4, 4)),),
    "learned_sink_mass": (MAP, VALID),
    "value_norm_ratio": (somewhere((2, 3, 5)),),
}


def test_the_list_of_metrics_that_never_wait_for_a_device_is_complete():
    looking = {"massive_activations", "match_experts", "max_violation_floor", "permuted_floor", "plane"}
    assert set(FUNCTIONS) - set(WITHOUT_LOOKING) == looking


@pytest.mark.parametrize("name", WITHOUT_LOOKING)
def test_metrics_stay_on_their_device_and_never_wait_for_it(name):
    assert getattr(metrics, name)(*WITHOUT_LOOKING[name]).device.type == "meta"
