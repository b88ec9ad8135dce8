"""What-if: edits act on the model's decisions as they say, and the run notices nothing."""

import pytest
import torch

import explorer
from explorer.errors import BadValue
from widgets.states import whatif
from widgets.states.routing_view import Probe
from widgets.states.whatif import WhatIf

LAYER = "blocks.0.ffn"


@pytest.fixture(scope="module")
def run():
    return explorer.Experiment("topk-softmax", layers=2, batch=2, expert_width=8).run(3)


@pytest.fixture(scope="module")
def batch(run):
    return Probe.of(run).batch


def test_a_forbidden_expert_gets_nothing_and_a_forced_one_every_token(run, batch):
    what = WhatIf(LAYER).with_expert(2, "forbid").with_expert(5, "force")
    with whatif.edited(run.model, what):
        _, seen = run.examine(batch, [f"{LAYER}/index"])
    index = seen.last(f"{LAYER}/index")
    assert not (index == 2).any()
    assert (index == 5).any(-1).all()


def test_the_run_itself_is_not_changed(run, batch):
    before = {name: value.clone() for name, value in run.model.state_dict().items()}
    steps = run.recording.step
    plain, changed = whatif.outcomes(run, batch, WhatIf(LAYER).with_expert(0, "bias", 3.0), (0, 4))
    assert changed is not None and changed.loss != plain.loss and 0 < changed.moved <= 1
    assert all(torch.equal(before[name], value) for name, value in run.model.state_dict().items())
    assert run.recording.step == steps
    again, nothing = whatif.outcomes(run, batch, WhatIf(LAYER), (0, 4))
    assert again.loss == plain.loss and nothing is None


def test_the_steps_of_a_token_are_those_of_the_equation(run, batch):
    plain, _ = whatif.outcomes(run, batch, WhatIf(LAYER), (1, 7))
    columns, rows = whatif.table(plain, None)
    assert columns == ["expert", "logits", "probs", "chosen", "weight"]
    logits = torch.tensor([row[1] for row in rows])
    probs, top = logits.softmax(0), logits.topk(2)
    assert torch.allclose(torch.tensor([row[2] for row in rows]), probs, atol=1e-5)
    chosen = {row[3]: row[0] for row in rows if row[3]}
    assert [chosen[1], chosen[2]] == top.indices.tolist()
    weight = top.values.softmax(0)
    assert [rows[e][4] for e in top.indices.tolist()] == pytest.approx(weight.tolist(), abs=1e-5)


def test_a_bias_shifts_the_score_by_itself_and_a_clamp_sets_every_open_gate(run, batch):
    what = WhatIf(LAYER, bias={3: 2.0}, clamp=0.5)
    plain, changed = whatif.outcomes(run, batch, what, (0, 0))
    assert changed is not None
    moved = changed.steps["logits"] - plain.steps["logits"]
    assert moved.tolist() == pytest.approx([0, 0, 0, 2.0, 0, 0, 0, 0], abs=1e-5)
    assert changed.steps["weights"].tolist() == [0.5, 0.5]


def test_the_newest_word_about_an_expert_counts():
    what = (
        WhatIf(LAYER).with_expert(1, "forbid").with_expert(1, "force").with_expert(2, "force").with_expert(1, "bias", 1)
    )
    assert (what.forbid, what.force, what.bias) == (frozenset(), 2, {1: 1})
    assert WhatIf(LAYER).empty and not what.empty
    assert what.words() == "expert 2 is forced; +1 is added to the score of expert 1"


def test_forbidding_every_expert_is_refused(run, batch):
    what = WhatIf(LAYER, forbid=frozenset(range(8)))
    with pytest.raises(BadValue, match="all 8 experts are forbidden"):
        whatif.outcomes(run, batch, what, (0, 0))


@pytest.mark.parametrize("name", explorer.names("routing"))
def test_every_router_shows_its_steps(name):
    run = explorer.Experiment(name, layers=1, batch=2, expert_width=8).run(1)
    batch = Probe.of(run).batch
    layer = run.recorder.routers()[0]
    if whatif.cannot(run, layer):
        assert "logits" not in run.recorder.modules[layer].taps
        return
    plain, changed = whatif.outcomes(run, batch, WhatIf(layer).with_expert(0, "forbid"), (0, 3))
    columns, rows = whatif.table(plain, changed)
    assert len(rows) == run.recording.experts(layer)
    assert all(len(row) == len(columns) for row in rows)
    assert all(row[columns.index("weight edited")] == 0 for row in rows[:1])
