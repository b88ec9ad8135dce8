"""Taps: free when nobody listens, heard by whoever does, alive after compilation, and open to intervention."""

import copy
import threading
import time

import pytest
import torch
from torch import nn

import explorer
from explorer.errors import BadValue, UnknownName
from explorer.models import Experts, LanguageModel, MixtureOfExperts, VectorModel
from explorer.taps import Instrumented, full_name, instrumented, resolve

D = 16


class Doubler(Instrumented):
    """y = 2x, and says so."""

    taps = {"input": "B D", "gate": "B D", "attention": "B D"}

    def forward(self, x):
        x = self.tap("input", x)
        gate = self.tap("gate", 2 * torch.ones_like(x))
        if self.watched("attention"):
            self.tap("attention", x * 0)
        return x * gate


class Chain(nn.Module):
    def __init__(self, n=2):
        super().__init__()
        self.parts = nn.ModuleList(Doubler() for _ in range(n))

    def forward(self, x):
        for part in self.parts:
            x = part(x)
        return x


def language_model(layers=2, router="topk-softmax"):
    torch.manual_seed(1)
    blocks = []
    for _ in range(layers):
        ffn = MixtureOfExperts(explorer.build(router, d_model=D, n_experts=4), Experts(D, 4, 8))
        blocks.append((explorer.build("softmax-attention", d_model=D, n_heads=2), ffn))
    return LanguageModel(32, D, blocks)


def tokens(seed=0, b=2, t=5):
    return torch.randint(0, 32, (b, t), generator=torch.Generator().manual_seed(seed))


# -- free when off -----------------------------------------------------------------------------------------------------
def test_an_unwatched_tap_returns_the_very_tensor():
    x = torch.randn(2, 3)
    assert Doubler().tap("input", x) is x


def test_taps_add_no_module_parameter_or_key():
    model = Chain()
    before = [name for name, _ in model.named_modules()]
    with explorer.record(model), explorer.edit(model, "*/input", lambda x: x):
        assert [name for name, _ in model.named_modules()] == before
        assert not model.state_dict() and not list(model.buffers())


def test_an_unwatched_tap_costs_next_to_nothing():
    """A generous bound: an attribute look-up and a call, well under the microseconds of the smallest tensor operation."""
    part, x = Doubler(), torch.randn(2)
    began = time.process_time()
    for _ in range(100_000):
        part.tap("input", x)
    assert (time.process_time() - began) / 100_000 < 2e-6


def test_expensive_taps_are_computed_for_watchers_only():
    model = Chain(1)
    assert not model.parts[0].watched("attention")
    with explorer.record(model):
        assert model.parts[0].watched("gate") and not model.parts[0].watched("attention")
    with explorer.record(model, "*/attention"):
        assert model.parts[0].watched("attention") and not model.parts[0].watched("gate")
    with explorer.edit(model, "*/attention", lambda x: x):
        assert model.parts[0].watched("attention")
    assert not model.parts[0].watched("gate")


def test_nothing_is_left_behind_after_an_error():
    model = Chain()
    with pytest.raises(ZeroDivisionError), explorer.record(model), explorer.edit(model, "*", lambda x: x):
        raise ZeroDivisionError
    assert all(part._probe is None for part in model.parts)
    assert not model._forward_hooks


# -- names and patterns ------------------------------------------------------------------------------------------------
def test_paths_follow_the_model_and_a_router_stands_for_its_layer():
    assert list(instrumented(language_model())) == [
        "", "blocks.0.attention", "blocks.0.ffn", "blocks.1.attention", "blocks.1.ffn",
    ]  # fmt: skip
    assert list(instrumented(VectorModel(language_model().blocks[0].ffn))) == ["ffn"]
    assert full_name("", "tokens") == "/tokens"


@pytest.mark.parametrize(
    "pattern, chosen",
    [
        ("*", {"parts.0": ["input", "gate"], "parts.1": ["input", "gate"]}),
        ("*/gate", {"parts.0": ["gate"], "parts.1": ["gate"]}),
        ("parts.1/*", {"parts.1": ["input", "gate"]}),
        ("parts.?/inp*", {"parts.0": ["input"], "parts.1": ["input"]}),
        ("*/attention", {"parts.0": ["attention"], "parts.1": ["attention"]}),
        (["*/gate", "parts.0/gate", "parts.0/attention"], {"parts.0": ["gate", "attention"], "parts.1": ["gate"]}),
    ],
)
def test_patterns_are_resolved_on_entry(pattern, chosen):
    assert resolve(Chain(), pattern) == chosen


def test_a_pattern_that_matches_nothing_is_an_error_with_a_suggestion():
    model = Chain()
    with pytest.raises(UnknownName, match=r"no tap matching 'parts\.0/gates'; did you mean 'parts\.0/gate'\?"):
        explorer.record(model, "parts.0/gates").__enter__()
    with pytest.raises(UnknownName, match=r"no tap matching 'zebra'; there are: parts\.0/attention, "):
        explorer.record(model, ["*/gate", "zebra"]).__enter__()
    with pytest.raises(UnknownName, match="no tap matching"):
        explorer.edit(model, "*/probs", lambda x: x).__enter__()
    with pytest.raises(UnknownName, match=r"large ones are recorded only by their own name"):
        explorer.record(model, "*/att*").__enter__()
    with pytest.raises(UnknownName, match="Linear has no taps: nothing in it is an explorer mechanism"):
        explorer.record(nn.Linear(2, 2)).__enter__()
    assert all(part._probe is None for part in model.parts)


# -- edit --------------------------------------------------------------------------------------------------------------
def test_an_edit_changes_what_flows_and_the_recording_sees_it():
    model, x = Chain(1), torch.ones(1, 3)
    with explorer.record(model) as seen, explorer.edit(model, "*/gate", lambda gate: gate * 5):
        assert torch.equal(model(x), 10 * x)
    assert torch.equal(seen.last("parts.0/gate"), 10 * x)
    assert torch.equal(model(x), 2 * x)


def test_nested_edits_apply_from_the_outside_in_and_end_one_by_one():
    model, x = Chain(1), torch.ones(1, 1)
    with explorer.edit(model, "*/input", lambda v: v + 1):
        with explorer.edit(model, "*/input", lambda v: v * 10):
            assert model(x).item() == 40  # (1 + 1) * 10 * 2
        assert model(x).item() == 4
    assert model(x).item() == 2


def test_edits_may_end_in_any_order():
    model, x = Chain(1), torch.ones(1, 1)
    plus, times = explorer.edit(model, "*/input", lambda v: v + 1), explorer.edit(model, "*/input", lambda v: v * 10)
    plus.__enter__(), times.__enter__()
    plus.__exit__(None, None, None)
    assert model(x).item() == 20
    times.__exit__(None, None, None)
    assert model(x).item() == 2 and model.parts[0]._probe is None


def test_gradients_pass_through_an_edit():
    model, x = Chain(1), torch.ones(1, 2, requires_grad=True)
    with explorer.edit(model, "*/input", lambda v: 3 * v):
        model(x).sum().backward()
    assert torch.equal(x.grad, torch.full((1, 2), 6.0))


def test_a_forbidden_expert_gets_nothing():
    model = language_model()
    with (
        explorer.record(model) as seen,
        explorer.edit(model, "*/logits", lambda logits: logits.index_fill(-1, torch.tensor([3]), -torch.inf)),
    ):
        out = model(tokens())
    assert out.isfinite().all()
    loads = seen.loads()
    assert (loads[loads.expert == 3].load == 0).all() and (loads[loads.expert != 3].load > 0).any()


@pytest.mark.parametrize(
    "change, complaint",
    [
        (lambda gate: gate[:, :1], r"edit\('\*/gate'\) returned shape \(2, 1\) for a tap of \(2, 3\)"),
        (lambda gate: 0.5, r"edit\('\*/gate'\) returned 0\.5 for a tap: it must be a tensor of \(2, 3\)"),
        (lambda gate: None, r"returned None for a tap"),
    ],
)
def test_an_edit_of_the_wrong_shape_is_an_error(change, complaint):
    model = Chain(1)
    with explorer.edit(model, "*/gate", change), pytest.raises(BadValue, match=complaint):
        model(torch.ones(2, 3))
    model(torch.ones(2, 3))


# -- per model and thread ----------------------------------------------------------------------------------------------
def test_only_the_watched_model_is_recorded():
    watched, other = Chain(), Chain()
    with explorer.record(watched) as seen:
        watched(torch.ones(1, 2))
        other(torch.zeros(1, 2))
    assert seen.steps() == [0] and torch.equal(seen.last("parts.0/input"), torch.ones(1, 2))


def test_a_model_that_trains_on_another_thread_is_not_recorded():
    models = [language_model() for _ in range(2)]
    counts, errors, stop = [0], [], threading.Event()

    def train():
        try:
            while not stop.is_set():
                models[1](tokens(counts[0])).sum().backward()
                counts[0] += 1
        except Exception as error:  # noqa: BLE001 (whatever it is, the test has to see it)
            errors.append(error)

    thread = threading.Thread(target=train)
    thread.start()
    try:
        with explorer.record(models[0]) as seen:
            begun = counts[0]
            for step in range(20):
                models[0](tokens(step)).sum().backward()
            while counts[0] < begun + 2 and thread.is_alive():
                time.sleep(0.001)
    finally:
        stop.set()
        thread.join()
    assert not errors
    assert seen.steps() == list(range(20))
    assert all(torch.equal(seen.at("/tokens", step), tokens(step)) for step in range(20))


def test_watching_may_begin_and_end_while_another_thread_runs_the_model():
    model, errors, stop = Chain(), [], threading.Event()

    def use():
        try:
            while not stop.is_set():
                assert model(torch.ones(1, 2)).sum() == 8
        except Exception as error:  # noqa: BLE001 (whatever it is, the test has to see it)
            errors.append(error)

    thread = threading.Thread(target=use)
    thread.start()
    for _ in range(200):
        with explorer.edit(model, "*/input", lambda x: x), explorer.edit(model, "*/gate", lambda x: x):
            pass
    stop.set()
    thread.join()
    assert not errors and model.parts[0]._probe is None


def test_two_recorders_on_one_model_both_hear():
    model = Chain()
    with explorer.record(model, "*/gate") as all_of_it:
        model(torch.ones(1, 2))
        with explorer.record(model, "parts.1/*") as second:
            model(torch.ones(1, 2))
        model(torch.ones(1, 2))
    assert all_of_it.steps() == [0, 1, 2] and second.steps() == [0]
    assert all_of_it.paths() == ["parts.0/gate", "parts.1/gate"]
    assert second.paths() == ["parts.1/input", "parts.1/gate"]
    assert torch.equal(second.last("parts.1/gate"), all_of_it.at("parts.1/gate", 1))


def test_a_copy_made_while_watching_is_not_recorded():
    model = Chain()
    with explorer.record(model) as seen:
        twin = copy.deepcopy(model)
        twin(torch.zeros(1, 2))
        model(torch.ones(1, 2))
    assert seen.steps() == [0] and torch.equal(seen.last("parts.0/input"), torch.ones(1, 2))
    with explorer.record(twin) as theirs:
        twin(torch.zeros(1, 2))
    assert theirs.steps() == [0]


def test_a_part_and_the_whole_are_watched_each_by_its_own_names():
    model = Chain()
    with explorer.record(model) as whole, explorer.record(model.parts[1], "/gate") as part:
        model(torch.ones(1, 2))
    assert part.paths() == ["/gate"] and torch.equal(part.last("/gate"), whole.last("parts.1/gate"))


# -- compiled ----------------------------------------------------------------------------------------------------------
def test_a_compiled_model_is_recorded_whichever_of_the_two_is_watched():
    model = language_model(1)
    with explorer.record(model) as eager, torch.no_grad():
        model(tokens(10))
    torch._dynamo.reset()
    compiled = torch.compile(model, backend="eager", fullgraph=True)
    for watched in (model, compiled):
        with explorer.record(watched, tensors_every=2, keep=3) as seen, torch.no_grad():
            for step in range(12):
                compiled(tokens(step))
        assert seen.steps() == [6, 8, 10]
        assert sorted(set(seen.loads().step)) == list(range(12))
        assert torch.equal(seen.last("/tokens"), tokens(10))
        for path in eager.paths():
            torch.testing.assert_close(seen.last(path), eager.last(path))


def test_an_edit_reaches_a_compiled_model():
    model, x = Chain(), torch.ones(1, 2)
    torch._dynamo.reset()
    compiled = torch.compile(model, backend="eager", fullgraph=True)
    assert compiled(x).sum() == 8
    with explorer.edit(compiled, "parts.0/gate", lambda gate: gate * 5), explorer.record(compiled) as seen:
        assert compiled(x).sum() == 40
    assert seen.last("parts.0/gate").sum() == 20
    assert compiled(x).sum() == 8


def test_a_part_that_is_compiled_by_itself_keeps_its_name():
    model = Chain()
    torch._dynamo.reset()
    model.parts[0] = torch.compile(model.parts[0], backend="eager")
    with explorer.record(model) as seen:
        model(torch.ones(1, 2))
        model(torch.ones(1, 2))
    assert seen.paths() == ["parts.0/input", "parts.0/gate", "parts.1/input", "parts.1/gate"]
    assert seen.steps() == [0, 1]
