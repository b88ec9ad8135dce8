"""The balance benchmark: what its numbers are, on counts and tables that can be checked by hand, and one tiny run."""

import math

import pandas as pd
import pytest
import torch

from explorer import balancing, spec
from explorer.balancing import MEASURES, METHODS, MIX, against_control, balance, overflow, skewed, table
from explorer.errors import ExplorerError
from explorer.experiment import Experiment
from explorer.metrics import max_violation
from explorer.tasks import Text

BOTH = ("none (topk-softmax)", "auxiliary loss")


def a_table() -> pd.DataFrame:
    """Two methods, two seeds, numbers to be checked in the head."""
    rows = [
        {"method": name, "router": "topk-softmax", "k": 2, "control": control, "seed": seed,
         **dict.fromkeys(MEASURES, value + seed / 10), "batch_floor": 0.2, "held_out_floor": 0.1}
        for name, control, value in ((BOTH[0], None, 2.0), (BOTH[1], BOTH[0], 1.5))
        for seed in (0, 1)
    ]  # fmt: skip
    return pd.DataFrame(rows)


# -- methods -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", METHODS)
def test_a_method_is_a_mechanism_with_knobs_that_it_has(name):
    method = METHODS[name]
    card = spec(method.mechanism)
    card.check(dict(method.knobs))
    assert method.does.endswith(".") and method.does.count(". ") == 0


@pytest.mark.parametrize("name", [name for name, method in METHODS.items() if method.control])
def test_a_control_is_a_row_of_its_own_with_as_many_experts_a_token_and_nothing_that_balances(name):
    method, control = METHODS[name], METHODS[METHODS[name].control]
    assert control.control is None and control.k == method.k
    if name != "expert choice":  # whose router has nothing to switch off: it is compared with the weights it shares
        assert control.mechanism == method.mechanism and dict(control.knobs) != dict(method.knobs)
    for knob in ("aux_loss", "z_loss", "entropy_loss", "bias_rate", "expert_dropout"):
        assert not control.knobs.get(knob)


def test_every_way_of_balancing_that_the_routers_offer_is_switched_off_in_the_controls():
    for method in METHODS.values():
        own = spec(method.mechanism).knobs
        left = {"aux_loss", "z_loss", "entropy_loss", "bias_rate", "expert_dropout", "balanced"} & set(own)
        assert left <= set(method.knobs)


# -- measures ------------------------------------------------------------------------------------------------------------


def test_what_a_full_expert_turns_away_is_counted_by_hand():
    counts = torch.tensor([[16, 0, 0, 0], [4, 4, 4, 4], [6, 6, 4, 0], [5, 5, 5, 1]])
    # room for ceil(1.25 * 4) = 5 each
    torch.testing.assert_close(overflow(counts, 1.25), torch.tensor([11, 0, 2, 0], dtype=torch.float64) / 16)
    torch.testing.assert_close(overflow(counts, 1.0)[0], torch.tensor(12 / 16, dtype=torch.float64))
    assert overflow(torch.zeros(4), 1.25).isnan()


def test_it_is_what_switch_drops():
    switch = Experiment("switch", seed=0, capacity_factor=1.25, aux_loss=0.0, jitter=0.0)
    seen = switch.examine()[1]
    for layer in seen.layers():
        choice, index = seen.last(f"{layer}/choice"), seen.last(f"{layer}/index")
        counts = torch.bincount(choice.flatten(), minlength=8)
        assert overflow(counts, 1.25).item() == pytest.approx((index < 0).double().mean().item())


def test_a_skewed_part_of_the_held_out_text_has_the_shares_of_the_mix():
    text = Text(bytes_per_domain=40_000, sequence=24, mix=MIX)
    batch = skewed(text.build(0).held_out(), text.mix)
    assert batch.labels[:, 0].bincount().tolist() == [20, 6, 2, 1]
    assert len(batch.inputs.unique(dim=0)) == 29 and batch.targets.shape == batch.inputs.shape


# -- the table -----------------------------------------------------------------------------------------------------------


def test_a_method_is_compared_with_its_control_of_the_same_seed():
    frame = a_table()
    frame.loc[frame["seed"] == 1, "rare_loss"] += [0, 0.25]
    difference = against_control(frame, "rare_loss")
    assert difference[:2].isna().all()
    assert difference[2:].tolist() == pytest.approx([-0.5, -0.25])
    assert against_control(frame[frame["method"] == BOTH[1]], "rare_loss").isna().all()


def test_the_table_for_reading_has_mean_lowest_and_highest():
    words = table(a_table())
    assert words["method"].tolist() == [f"{name}\ntopk-softmax, k = 2" for name in BOTH]
    assert words["MaxVio batch"].tolist() == ["2.05\n2.00..2.10", "1.55\n1.50..1.60"]
    assert words["loss vs none"].tolist() == ["", "-0.500"]
    single = table(a_table().query("seed == 0"))
    assert single["loss"].tolist() == ["2.000", "1.500"]


@pytest.fixture(scope="module")
def tiny() -> pd.DataFrame:
    """Two steps of a method of each kind: enough to read everything, too few to learn anything."""
    return balance([0], 2, ["auxiliary loss", "expert choice", "sinkhorn"], jobs=1)


def test_a_row_has_every_measure_as_a_number(tiny):
    assert list(tiny["method"]) == ["auxiliary loss", "expert choice", "sinkhorn"]
    assert list(tiny["k"]) == [2, 2, 1] and list(tiny["control"]) == [METHODS[one].control for one in tiny["method"]]
    assert all(math.isfinite(value) for name in MEASURES for value in tiny[name])
    assert (tiny["batch_floor"] > tiny["held_out_floor"]).all()  # more tokens, less chance
    assert tiny["drops"].between(0, 1).all() and tiny["dead_experts"].between(0, 1).all()


def test_expert_choice_is_even_and_leaves_tokens_out(tiny):
    row = tiny.set_index("method").loc["expert choice"]
    assert row["batch_violation"] == row["held_out_violation"] == row["dead_experts"] == 0
    assert row["drops"] > 0  # tokens that no expert took


def test_the_numbers_are_those_of_the_experiment_itself(tiny):
    method = METHODS["auxiliary loss"]
    run = Experiment(method.mechanism, task=Text(mix=MIX), horizon=2, k=2, n_experts=8, aux_loss=0.1).run(2)
    row = tiny.set_index("method").loc["auxiliary loss"]
    worst = max(max_violation(run.recording.counts(layer)[1][-1]).item() for layer in run.recording.layers())
    assert row["batch_violation"] == pytest.approx(worst)
    assert row["held_out_loss"] == pytest.approx(run.examine()[0])
    assert row["training_loss"] == pytest.approx(run.losses()[-1].item())
    logits = run.model.eval()(run.data.held_out().inputs)
    for column, domain in (("common_loss", 0), ("rare_loss", 3)):
        batch = run.data.held_out()
        mine = batch.labels == domain
        expected = torch.nn.functional.cross_entropy(logits[mine], batch.targets[mine]).item()
        assert row[column] == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize(
    "arguments, sentence",
    [
        (([], 2), "at least one method and one seed"),
        (([0], 0), "whole number of at least 1"),
        (([0], 2, ["bias"]), "no balancing method 'bias'"),
    ],
)
def test_a_wrong_request_is_one_sentence(arguments, sentence):
    with pytest.raises(ExplorerError, match=sentence):
        balance(*arguments)


def test_progress_is_told(monkeypatch):
    monkeypatch.setattr(balancing, "_row", lambda plan: {"method": plan.name})
    heard = []
    balance([0, 1], 1, BOTH, backend="sequential", done=lambda *now: heard.append(now))
    assert heard == [(1, 4), (2, 4), (3, 4), (4, 4)]
