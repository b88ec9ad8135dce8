"""Claims are judged as promised: effects by hand, a control that has to fail, errors that name the claim."""

import dataclasses
import math
from collections.abc import Callable

import pytest
import torch

import explorer
from explorer import claims
from explorer.catalogue import _SPECS, Claim
from explorer.claims import judge, table, to_frame, verify, verify_all
from explorer.errors import BadValue, ExplorerError, UnknownName
from explorer.experiment import Experiment
from explorer.readings import READINGS

nan = math.nan


def claim(**changes) -> Claim:
    """A claim on clusters that takes milliseconds: five steps lower the loss."""
    card = {
        "name": "learns", "statement": "it learns", "source": "here", "reported": "", "metric": "held_out_loss",
        "threshold": 1.0, "effect": "ratio", "setup": {"task": "clusters", "steps": 5, "batch": 4}, "control": {"steps": 0},
    }  # fmt: skip
    return Claim(**{**card, **changes})


def measured(values: Callable[[int], tuple[float, float]], **changes) -> Claim:
    return claim(setup=None, control=None, measure=values, **changes)


@pytest.fixture
def claiming(monkeypatch):
    """claiming(claim, ...): verify a mechanism that claims these and nothing else, in this process."""

    def run(*of_it: Claim, mechanism: str = "topk-softmax", seeds=(0, 1), jobs: int = 1):
        monkeypatch.setitem(_SPECS, mechanism, dataclasses.replace(_SPECS[mechanism], claims=of_it))
        return verify(mechanism, seeds, jobs)

    return run


# -- judging, by hand ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "effect, relation, threshold, values, baselines, effects, holds",
    [
        ("value", "<=", 2.0, [1, 2, 3], [5, 6, 7], (1, 2, 3), True),
        ("value", "<=", 2.0, [1, 2, 4], [5, 6, 7], (1, 2, 4), False),  # the mean is 7/3
        ("value", "<=", 2.0, [1, 2, 3], [1, 2, 2], (1, 2, 3), False),  # the control passes as well
        ("value", ">=", 0.5, [0.4, 0.6], [0.1, 0.3], (0.4, 0.6), True),  # the mean decides, not every seed
        ("value", "==", 0.0, [0, 0], [0, 1], (0, 0), True),
        ("value", "==", 0.0, [0, 1], [1, 1], (0, 1), False),
        ("value", "<", 1.0, [1, 1], [2, 2], (1, 1), False),
        ("value", ">", 0.0, [1, 1], [0, 0], (1, 1), True),
        ("ratio", "<=", 1.25, [1, 4], [2, 2], (0.5, 2.0), True),  # the mean of the ratios, not the ratio of the means
        ("ratio", "<=", 1.24, [1, 4], [2, 2], (0.5, 2.0), False),
        ("difference", ">=", 0.0, [3, 1], [2, 4], (1, -3), False),
        ("difference", ">=", -1.0, [3, 1], [2, 4], (1, -3), True),
        ("difference", "<=", None, [3, 1], [2, 4], (1, -3), None),
    ],
)
def test_a_verdict_by_hand(effect, relation, threshold, values, baselines, effects, holds):
    one = claim(effect=effect, relation=relation, threshold=threshold)
    assert judge(one, values, baselines) == (effects, holds)


@pytest.mark.parametrize(
    "effect, values, baselines",
    [
        ("value", [nan, 0], [5, 5]),
        ("value", [0, 0], [nan, 5]),
        ("ratio", [0, 0], [0, 1]),
        ("difference", [1, nan], [2, 2]),
    ],
)
def test_what_is_not_a_number_never_holds(effect, values, baselines):
    assert judge(claim(effect=effect, threshold=2.0), values, baselines)[1] is False


# -- from a claim to a verdict -------------------------------------------------------------------------------------------


def test_a_true_claim_holds(claiming):
    [verdict] = claiming(claim())
    assert verdict.holds is True and verdict.word == "holds" and verdict.mechanism == "topk-softmax"
    assert verdict.value < verdict.baseline and verdict.effect == pytest.approx(sum(verdict.spread) / 2)
    assert verdict.seeds == (0, 1) and len(verdict.spread) == 2 and verdict.seconds > 0


def test_a_false_claim_stays_in_the_table_as_not_seen(claiming):
    [verdict] = claiming(claim(relation=">="))
    assert verdict.holds is False and verdict.word == "not seen" and verdict.effect < 1


def test_a_claim_whose_control_passes_too_does_not_hold(claiming):
    """A finite loss is no achievement of training: the untrained model has one."""
    [verdict] = claiming(claim(effect="value", threshold=1e6))
    assert verdict.value <= 1e6 and verdict.holds is False


def test_a_claim_without_a_threshold_is_reported_and_never_judged(claiming):
    alone, beside = claiming(claim(threshold=None, effect="value", control=None), claim(name="2", threshold=None))
    assert alone.holds is None and alone.word == "reported" and math.isnan(alone.baseline)
    assert beside.holds is None and beside.effect < 1


def test_a_measure_gives_value_and_baseline_itself_and_torch_has_its_seed(claiming):
    seen = []

    def measure(seed):
        seen.append((seed, torch.rand(()).item()))
        return float(seed), 2.0

    before = torch.get_rng_state()
    [verdict] = claiming(measured(measure, effect="difference", threshold=0.0), seeds=(0, 5))
    assert torch.equal(torch.get_rng_state(), before)
    assert (verdict.value, verdict.baseline, verdict.effect, verdict.spread) == (2.5, 2.0, 0.5, (-2.0, 3.0))
    assert verdict.holds is False
    for seed, drawn in seen:
        assert drawn == torch.rand((), generator=torch.Generator().manual_seed(seed)).item()


def test_equal_runs_are_trained_once(claiming, monkeypatch):
    trained = []
    perform = claims.perform
    monkeypatch.setattr(claims, "perform", lambda trial, looks: trained.append((trial, looks)) or perform(trial, looks))
    defaults = {"task": {"name": "clusters", "dimensions": 16}, "steps": 5, "batch": 4, "k": 2, "learning_rate": 3e-3}
    verdicts = claiming(claim(), claim(name="again", setup=defaults), claim(name="balanced", metric="max_violation"))
    assert len(trained) == 4  # two seeds, five steps and none
    assert all(len(looks) == 2 for _, looks in trained)
    assert verdicts[0].value == verdicts[1].value != verdicts[2].value


def test_a_control_may_be_another_mechanism_without_the_settings_it_lacks(claiming):
    control = {"mechanism": "expert-choice", "aux_loss": None}
    setup = {"task": "clusters", "steps": 0, "aux_loss": 0.0}
    [verdict] = claiming(
        claim(metric="max_violation", relation=">", effect="value", threshold=0.0, setup=setup, control=control)
    )
    assert verdict.baseline == 0.0 < verdict.value and verdict.holds is True


def test_after_changes_a_live_knob_of_the_trained_model_and_of_nothing_else(claiming):
    setup = {"task": "clusters", "steps": 2, "capacity_factor": 8.0}
    tight = claim(metric="empty_slots", effect="value", relation=">=", threshold=0.5, control={"after": None},
                  setup={**setup, "after": {"capacity_factor": 0.5}})  # fmt: skip
    [verdict] = claiming(tight, mechanism="switch")
    assert verdict.value >= 0.5 and verdict.baseline == 0.0 and verdict.holds is True


def test_a_control_may_be_another_reading_of_the_same_run(claiming):
    one = claim(
        control=None, metric="held_out_loss", control_metric="training_loss", effect="difference", threshold=None
    )
    [verdict] = claiming(one)
    assert verdict.effect == pytest.approx(verdict.value - verdict.baseline) != 0


def test_verify_all_takes_a_family_and_says_how_far_it_is(monkeypatch):
    for name in _SPECS:
        own = (measured(lambda seed: (seed, 1.0)),) if name == "switch" else ()
        monkeypatch.setitem(_SPECS, name, dataclasses.replace(_SPECS[name], claims=own))
    calls = []
    [verdict] = verify_all("routing", seeds=[3, 4], jobs=1, done=lambda *progress: calls.append(progress))
    assert verdict.mechanism == "switch" and calls == [(1, 2), (2, 2)]
    assert verify_all("attention", jobs=1) == [] == verify("glu")
    assert [one.mechanism for one in verify(["glu", "switch"], seeds=[0], jobs=1)] == ["switch"]


# -- what is wrong is said -----------------------------------------------------------------------------------------------


def test_an_error_names_the_claim_the_mechanism_and_the_seed(claiming):
    def breaks(seed):
        raise ZeroDivisionError("on purpose")

    with pytest.raises(
        ExplorerError, match=r"^topk-softmax: claim 'learns' with seed 0: ZeroDivisionError: on purpose$"
    ):
        claiming(measured(breaks))


def test_an_error_in_a_run_names_the_claim_and_the_seed(claiming):
    wild = {"task": "clusters", "steps": 200, "learning_rate": 10, "clip": 0, "warmup": 0, "batch": 4, "layers": 16}
    with pytest.raises(
        ExplorerError, match=r"^softmax-attention: claim 'learns', .* with seed 0: .*attends over positions"
    ):
        claiming(claim(setup=wild, control={"steps": 0}), mechanism="softmax-attention")


def test_a_misspelt_knob_reading_or_task_is_an_error_before_anything_runs(claiming):
    for wrong in (
        claim(setup={"task": "clusters", "steps": 1, "aux_los": 0.1}),
        claim(metric="held_out_los"),
        claim(setup={"task": "cluster", "steps": 1}),
    ):
        with pytest.raises(ExplorerError, match=r"claim 'learns' of topk-softmax: .*did you mean"):
            claiming(wrong)


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"relation": "=<"}, "relation '=<'"),
        ({"effect": "quotient"}, "effect 'quotient'"),
        ({"measure": lambda seed: (0.0, 0.0)}, "either a setup or a measure"),
        ({"setup": None}, "either a setup or a measure"),
        ({"setup": {"task": "clusters"}}, "how many steps"),
        ({"control": None}, "needs a control"),
    ],
)
def test_a_claim_that_cannot_be_tried_is_refused(changes, message):
    with pytest.raises(BadValue, match=message):
        claim(**changes)


def test_seeds_are_at_least_one_and_each_once(claiming):
    for seeds in ((), (1, 1)):
        with pytest.raises(BadValue, match="seeds"):
            claiming(claim(), seeds=seeds)
    with pytest.raises(BadValue, match="jobs=0"):
        claiming(claim(), jobs=0)
    with pytest.raises(UnknownName, match="did you mean 'switch'"):
        verify("swich")


# -- tables --------------------------------------------------------------------------------------------------------------


def test_the_table_shows_the_papers_figure_beside_ours(claiming):
    verdicts = claiming(
        measured(
            lambda seed: (1.0 + seed, 4.0),
            name="a",
            effect="ratio",
            threshold=0.5,
            reported="a sixth",
            control_is="none",
        ),
        measured(lambda _: (-0.5, 0.0), name="b", effect="difference", threshold=None),
        measured(lambda seed: (0.0, 1.0), name="c", effect="value", relation="==", threshold=0.0),
    )
    shown = table(verdicts).set_index("claim")
    assert list(shown["paper"]) == ["a sixth", "", ""] and list(shown["verdict"]) == ["holds", "reported", "holds"]
    assert list(shown["effect"]) == ["0.375x (0.25x to 0.5x)", "-0.5", "0"]
    assert list(shown["asked"]) == ["<= 0.5", "", "== 0"] and list(shown["ours"]) == ["1.5", "-0.5", "0"]
    whole = to_frame(verdicts)
    assert list(whole.columns) == [field.name for field in dataclasses.fields(claims.Verdict)]
    assert whole.spread[0] == (0.25, 0.5) and whole.holds[1] is None and whole.holds[0] is True
    assert len(to_frame([])) == 0 == len(table([]))
    assert '"holds":null' in whole.to_json(orient="records")


# -- the claims of the catalogue -----------------------------------------------------------------------------------------

EVERY = [
    pytest.param(explorer.spec(name), one, id=f"{name}: {one.name}")
    for name in explorer.names()
    for one in explorer.spec(name).claims
]


@pytest.mark.parametrize("card, one", EVERY)
def test_a_claim_of_the_catalogue_is_complete(card, one):
    assert [other.name for other in card.claims].count(one.name) == 1
    assert one.statement.endswith(".") and one.source and one.why
    assert one.control_is or one.threshold is None
    for trial, look in claims._arms(card, one, seed=0):
        assert look.metric in READINGS and trial.steps <= 1000
        experiment = Experiment(trial.mechanism, task=trial.task, seed=0, watch=None, **dict(trial.knobs))
        experiment.fork(**dict(look.after))


def test_every_mechanism_has_a_claim():
    assert [name for name in explorer.names() if not explorer.spec(name).claims] == []


def test_the_heads_of_the_sink_runs_begin_silent():
    """At the usual N(0, 1/d_model) the control without triggers grows a sink too."""
    trial = claims._arms(_SPECS["softmax-attention"], _SPECS["softmax-attention"].claims[0], seed=0)[0][0]
    model = Experiment(trial.mechanism, task=trial.task, watch=None, **dict(trial.knobs)).model
    assert model.blocks[0].attention.qkv.weight.std().item() == pytest.approx(0.02, rel=0.05)
    assert (model.blocks[0].norm_attention.weight == 1).all()


def verify_untrained(mechanism: str, *names: str):
    """Claims of the catalogue without their training: what is true by construction needs none."""
    card = _SPECS[mechanism]
    chosen = [one for one in card.claims if one.name in names]
    quick = [one if one.setup is None else dataclasses.replace(one, setup={**one.setup, "steps": 0}) for one in chosen]
    return claims._verdicts([(card, one) for one in quick], seeds=(0,), jobs=1)


def test_with_one_renormalised_expert_the_router_has_no_gradient():
    [verdict] = verify_untrained("topk-softmax", "no-gradient-at-k1")
    assert verdict.holds is True and verdict.baseline > 1e-3 and verdict.value < 1e-6


def test_expert_choice_is_even_before_any_training_and_token_choice_leaks_nothing():
    even, future = verify_untrained("expert-choice", "even-without-a-loss", "sees-the-future")
    assert even.value == 0.0 < even.baseline and even.holds is True
    assert future.baseline == 0.0
