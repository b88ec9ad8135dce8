"""What every mechanism of the catalogue promises, whatever it computes. One test a promise, run for every name."""

import copy
import inspect
import math
import pickle
import re
import time

import pytest
import torch

import explorer
from explorer.errors import BadValue, ExplorerError, UnknownName
from explorer.taps import AXES, SCORES, Instrumented, Listener, attach, detach, full_name, instrumented

NAMES = explorer.names()
B, T, D = 2, 6, 24
# sizes that differ from each other and from B, T and D, so that a transposed tap shows; used where a mechanism has the knob
SIZES = {"n_experts": 5, "k": 3, "n_heads": 4}
LETTERS = {"B": B, "T": T, "N": B * T, "D": D, "H": SIZES["n_heads"], "S": T, "1": 1}


class Everything:
    """Wants every tap, declared or not."""

    def __contains__(self, name):
        return True


def build(name, seed=1, **knobs):
    sizes = {knob: size for knob, size in SIZES.items() if knob in explorer.spec(name).knobs}
    torch.manual_seed(seed)
    return explorer.build(name, d_model=D, **{**sizes, **knobs})


def tokens(d_model=D):
    return torch.randn(B, T, d_model, generator=torch.Generator().manual_seed(2))


def outputs(name, module, x):
    """The floating-point outputs of any slot: a router's weights, y of the others. Checks the signature on the way."""
    if explorer.spec(name).slot == "router":
        weights, index = module(x)
        assert weights.shape == index.shape and weights.shape[:2] == x.shape[:2]
        assert not index.is_floating_point()
        return weights, index
    y = module(x)
    assert y.shape == ((len(x), module.n_classes) if explorer.spec(name).slot == "readout" else x.shape)
    return (y,)


def forward_backward(name, module, seed=3, d_model=D):
    """(outputs and auxiliary loss, gradients of input and parameters) under one seed."""
    x = tokens(d_model).requires_grad_()
    torch.manual_seed(seed)
    result = outputs(name, module, x)
    loss = (result[0] * torch.randn(result[0].shape, generator=torch.Generator().manual_seed(4))).sum()
    auxiliary = module.auxiliary
    if auxiliary is not None:
        loss = loss + auxiliary
    module.zero_grad()
    if loss.requires_grad:  # nothing is learned by a fixed table of weight 1
        loss.backward()
    gradients = [x.grad, *(p.grad for p in module.parameters())]
    return [*result, torch.zeros(()) if auxiliary is None else auxiliary], gradients


def identical(these, those):
    return len(these) == len(those) and all(
        (a is None and b is None) or torch.equal(a, b) for a, b in zip(these, those, strict=True)
    )


def twins(name, **knobs):
    """Two modules that start from the same state: a forward pass in training may change the buffers of one."""
    module = build(name, **knobs)
    return module, copy.deepcopy(module)


def targets(module):
    """How many experts (or other targets) its indices may name."""
    return getattr(module, "n_experts", SIZES["n_experts"])


def all_taps(module):
    return [full_name(path, tap) for path, one in instrumented(module).items() for tap in one.taps]


def overheard(name, module):
    """What the module says when everything is wanted: path/tap -> tensor."""
    heard = []
    ears = {path: Listener(Everything(), heard) for path in instrumented(module)}
    for path, one in instrumented(module).items():
        attach(one, path, listener=ears[path])
    outputs(name, module, tokens())
    for path, one in instrumented(module).items():
        detach(one, listener=ears[path])
    names = [full_name(path, tap) for path, tap, _ in heard]
    assert len(names) == len(set(names)), "a tap spoke twice in one forward pass"
    return {full_name(path, tap): value for path, tap, value in heard}


@pytest.mark.parametrize("name", NAMES)
def test_declared_taps_are_the_ones_tapped(name):
    module = build(name)
    assert isinstance(module, Instrumented) and type(module).taps
    assert set(overheard(name, module)) == set(all_taps(module))


@pytest.mark.parametrize("name", NAMES)
def test_taps_have_the_declared_axes(name):
    module = build(name)
    modules = instrumented(module)
    axes = {full_name(path, tap): axes.split() for path in modules for tap, axes in modules[path].taps.items()}
    sizes = {path: {**LETTERS, "E": targets(one)} for path, one in modules.items()}  # each may have targets of its own
    for tap, value in overheard(name, module).items():
        assert set(axes[tap]) <= AXES.keys(), f"{tap} has an axis that taps.AXES does not explain"
        assert value.ndim == len(axes[tap]), f"{tap} is declared {axes[tap]} and has the shape {tuple(value.shape)}"
        for letter, size in zip(axes[tap], value.shape, strict=True):
            expected = sizes[tap.rpartition("/")[0]].setdefault(letter, size)
            assert size == expected, f"axis {letter} of {tap} is {size}, elsewhere {expected}"


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("name", NAMES)
def test_recording_changes_nothing(name, training):
    module, twin = (one.train(training) for one in twins(name))
    plain = forward_backward(name, twin)
    with explorer.record(module, ["*", *all_taps(module)]):
        watched = forward_backward(name, module)
    assert identical(plain[0], watched[0])
    assert identical(plain[1], watched[1])
    assert all(one._probe is None for one in instrumented(module).values())
    assert identical(list(module.state_dict().values()), list(twin.state_dict().values()))
    assert identical(forward_backward(name, twin)[1], forward_backward(name, module)[1])


@pytest.mark.parametrize("name", NAMES)
def test_evaluation_is_deterministic_and_changes_no_state(name):
    module = build(name).eval()
    before = copy.deepcopy(module.state_dict())
    one, other = (forward_backward(name, module, seed=seed)[0] for seed in (5, 6))
    assert identical(one, other)
    assert identical(list(before.values()), list(module.state_dict().values()))


@pytest.mark.parametrize("name", NAMES)
def test_a_forward_pass_moves_buffers_at_most_and_they_survive_saving(name):
    module = build(name).train()
    parameters = [p.detach().clone() for p in module.parameters()]
    for seed in range(3):
        forward_backward(name, module, seed=seed)
    assert identical(parameters, list(module.parameters()))
    assert not any(buffer.requires_grad for buffer in module.buffers())
    loaded = build(name, seed=99)
    loaded.load_state_dict(module.state_dict())
    assert identical(forward_backward(name, module.eval())[0], forward_backward(name, loaded.eval())[0])


@pytest.mark.parametrize("name", NAMES)
def test_the_same_seed_gives_the_same_numbers(name):
    one, other = (forward_backward(name, build(name, seed=7).train(), seed=8) for _ in range(2))
    assert identical(one[0], other[0]) and identical(one[1], other[1])


@pytest.mark.parametrize("name", NAMES)
def test_gradient_reaches_every_parameter(name):
    """Without the help of a loss of the mechanism's own; where it cannot, a pitfall has to name the parameter."""
    quiet = {knob: 0 for knob in explorer.spec(name).knobs if knob.endswith("_loss")}
    module = build(name, **quiet)
    _, gradients = forward_backward(name, module)
    paths = ["x", *(path for path, _ in module.named_parameters())]  # x: the input
    for path, gradient in zip(paths, gradients, strict=True):
        reached = gradient is not None and gradient.isfinite().all() and gradient.abs().sum() > 0
        named = re.compile(rf"(?<![\w.]){re.escape(path)}(?![\w])")
        excused = any(named.search(pitfall) and "gradient" in pitfall for pitfall in explorer.spec(name).pitfalls)
        assert reached or excused, f"{name}.{path} gets no gradient, and no pitfall says why"


@pytest.mark.parametrize("name", NAMES)
def test_an_empty_slot_weighs_nothing(name):
    module = build(name)
    heard = overheard(name, module)
    for tap, index in heard.items():
        if tap.endswith("/index"):
            weights = heard[tap.removesuffix("index") + "weights"]
            assert (weights[index < 0] == 0).all()
            assert index.min() >= -1 and index.max() < targets(instrumented(module)[tap.removesuffix("/index")])


@pytest.mark.parametrize("name", NAMES)
def test_scores_are_of_the_kind_that_is_declared(name):
    module = build(name)
    for path, one in instrumented(module).items():
        assert ("probs" in one.taps) == (one.scores is not None)
        if one.scores is None:
            continue
        assert one.scores in SCORES
        probs = overheard(name, module)[full_name(path, "probs")]
        if one.scores == "probabilities":
            assert (probs >= 0).all()
            torch.testing.assert_close(probs.sum(-1), torch.ones(probs.shape[:-1]))
        with explorer.record(module) as seen:
            outputs(name, module, tokens())
        assert seen.header["scores"][full_name(path, "probs")].startswith(one.scores)


@pytest.mark.parametrize("name", NAMES)
def test_large_taps_are_recorded_only_by_name(name):
    module = build(name)
    large = [full_name(p, t) for p, one in instrumented(module).items() for t in one.taps if t in one.only_by_name]
    assert all("attention" in one.only_by_name for one in instrumented(module).values() if "attention" in one.taps)
    with explorer.record(module) as seen:
        outputs(name, module, tokens())
    assert set(seen.paths()) == set(all_taps(module)) - set(large)
    for tap in large:
        with explorer.record(module, f"*/{tap.rsplit('/')[-1]}") as seen:
            outputs(name, module, tokens())
        assert tap in seen.paths() and seen.last(tap).ndim


def pickled(module):
    return pickle.loads(pickle.dumps(module))


@pytest.mark.parametrize("duplicate", [copy.deepcopy, pickled])
@pytest.mark.parametrize("name", NAMES)
def test_a_copy_of_a_watched_mechanism_is_not_watched(name, duplicate):
    module = build(name)
    with explorer.record(module) as seen:
        outputs(name, module, tokens())
        twin = duplicate(module)
        assert all(one._probe is None for one in instrumented(twin).values())
        assert twin.auxiliary is None
        copied = forward_backward(name, twin)
        assert seen.steps() == [0]
    own = forward_backward(name, module)
    assert identical(own[0], copied[0]) and identical(own[1], copied[1])


@pytest.mark.parametrize("name", NAMES)
def test_watching_adds_nothing_to_the_state(name):
    module = build(name)
    plain = list(module.state_dict())
    with explorer.record(module):
        outputs(name, module, tokens())
        assert list(module.state_dict()) == plain
        own = [*module.named_parameters(), *module.named_buffers()]
        assert set(plain) <= {path for path, _ in own}


@pytest.mark.parametrize("name", NAMES)
def test_compiled_in_one_graph_it_taps_the_same(name):
    module = build(name).eval()
    x = tokens()
    with explorer.record(module, ["*", *all_taps(module)]) as eager:
        expected = outputs(name, module, x)
    torch._dynamo.reset()
    compiled = torch.compile(module, fullgraph=True, backend="eager")
    assert identical(expected, outputs(name, compiled, x))
    for watched in (module, compiled):
        with explorer.record(watched, ["*", *all_taps(module)]) as seen:
            for _ in range(10):  # more often than the compiler would put up with a new graph each time
                result = outputs(name, compiled, x)
        assert identical(expected, result)
        assert seen.paths() == eager.paths() and seen.steps() == list(range(10))
        assert identical([eager.last(p) for p in eager.paths()], [seen.last(p) for p in eager.paths()])


@pytest.mark.parametrize("name", NAMES)
def test_it_is_quick(name):
    began = time.process_time()
    forward_backward(name, explorer.build(name, d_model=64), d_model=64)
    assert time.process_time() - began < 1


# -- the card ----------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("name", NAMES)
def test_the_card_is_complete(name):
    card = explorer.spec(name)
    assert re.fullmatch(r"[a-z0-9]+(-[a-z0-9]+)*", name)
    assert re.fullmatch(r"\d{4}\.\d{4,5}", card.paper.arxiv)
    assert 2000 + int(card.paper.arxiv[:2]) <= card.paper.year <= 2100
    for text in (card.title, card.paper.title, card.paper.authors, card.lab, card.summary, card.reference):
        assert text.strip() == text and len(text) > 2
    assert card.summary.endswith(".") and len(card.summary) < 140
    assert len(card.pitfalls) >= 2 and all(p.endswith(".") and p[0].isupper() for p in card.pitfalls)
    assert re.search(r"\b(transformers|torch|timm|none packaged)\b", card.reference)


@pytest.mark.parametrize("name", NAMES)
def test_the_equation_is_balanced_latex(name):
    equation = explorer.spec(name).formula()
    assert equation and "$" not in equation
    depth = 0
    for bracket in re.findall(r"(?<!\\)[{}]", equation):
        depth += 1 if bracket == "{" else -1
        assert depth >= 0
    assert depth == 0
    assert len(re.findall(r"\\left\b", equation)) == len(re.findall(r"\\right\b", equation))
    assert re.findall(r"\\begin\{(\w+)\}", equation) == re.findall(r"\\end\{(\w+)\}", equation)


LONGER = {
    "moeut": 170,  # a whole model: shared layers, experts in the attention too, and its own order of norms
    "class-attention-gate": 180,  # a block of attention and feed-forward, what protects it, and what makes up for drift
}


@pytest.mark.parametrize("name", NAMES)
def test_the_file_is_a_page(name):
    card = explorer.spec(name)
    lines = card.source.splitlines()
    assert 40 <= len(lines) <= LONGER.get(name, 150)
    assert lines[0].startswith('"""') and lines[0].rstrip('"').endswith(".")
    assert card.paper.arxiv in card.source.split('"""')[1], "the opening of the file names the paper"
    assert inspect.getsourcefile(card.cls).endswith(name.replace("-", "_") + ".py")
    assert card.cls.__doc__
    assert not re.search(r"(import|from) (transformers|ipywidgets|plotly|explorer\.(models|tasks))", card.source)


# -- the knobs ---------------------------------------------------------------------------------------------------------
def wrong_values(knob):
    """Values that a knob must refuse."""
    if knob.choices is not None:
        return ["nonsense", None]
    wrong = [None, "many", [1]]
    if isinstance(knob.default, (int, float)) and not isinstance(knob.default, bool):
        wrong += [math.nan, True]
        wrong += [] if knob.low is None else [knob.low - 1, -math.inf, *([knob.low] if knob.above else [])]
        wrong += [] if knob.high is None else [knob.high + 1, math.inf, 10**400]
    return wrong + ([2.5] if type(knob.default) is int else [])


@pytest.mark.parametrize("name", NAMES)
def test_knobs_are_the_arguments_of_the_constructor(name):
    card = explorer.spec(name)
    arguments = {p.name: p for p in inspect.signature(card.cls).parameters.values()}
    assert next(iter(arguments)) == "d_model"
    assert list(arguments)[1:] == list(card.knobs)
    assert all(p.kind is not p.VAR_KEYWORD for p in arguments.values())
    module = explorer.build(name)
    for knob, declared in card.knobs.items():
        assert arguments[knob].default == declared.default and type(arguments[knob].default) is type(declared.default)
        assert declared.meaning and declared.check(knob, declared.default) == declared.default
        assert getattr(module, knob) == declared.default, f"{name} does not keep {knob} under its own name"
        if type(declared.default) in (int, float):
            assert declared.low is not None and declared.high is not None, f"{knob} has no range for a slider"


@pytest.mark.parametrize("name", NAMES)
def test_a_knob_out_of_range_is_refused_by_name(name):
    for knob, declared in explorer.spec(name).knobs.items():
        for value in wrong_values(declared):
            with pytest.raises(BadValue) as refused:
                explorer.build(name, **{knob: value})
            assert str(refused.value).startswith(f"{knob}=") and "\n" not in str(refused.value)


@pytest.mark.parametrize("name", NAMES)
def test_a_misspelt_knob_is_refused_with_a_suggestion(name):
    for knob in explorer.spec(name).knobs:
        misspelt = knob + "s" if len(knob) > 1 else knob + knob
        if misspelt in explorer.spec(name).knobs:
            continue
        with pytest.raises(UnknownName, match=f"no knob of {name} '{misspelt}'") as refused:
            explorer.build(name, **{misspelt: 1})
        assert len(knob) == 1 or f"did you mean '{knob}'?" in str(refused.value)


def other_value(knob, now):
    """A value that the knob takes and does not have now."""
    numbers = [] if isinstance(now, (str, bool)) else [now * 0.5, now + 1, 1, 2]
    for value in [*(knob.choices or ()), *([not now] if isinstance(now, bool) else numbers)]:
        try:
            if value != now:
                return knob.check("knob", value)
        except BadValue:
            continue
    raise AssertionError(f"no second value for {knob}")


@pytest.mark.parametrize("name", NAMES)
def test_live_knobs_act_between_two_forward_passes(name):
    """A module whose knob was changed is the module that was built with it."""
    for knob, declared in explorer.spec(name).knobs.items():
        if not declared.live:
            continue
        changed = build(name).train()
        value = other_value(declared, getattr(changed, knob))
        built = build(name, **{knob: value}).train()
        forward_backward(name, changed)
        built.load_state_dict(changed.state_dict())
        setattr(changed, knob, value)
        now, then = forward_backward(name, changed), forward_backward(name, built)
        assert identical(now[0], then[0]) and identical(now[1], then[1])


CHOOSING = [name for name in NAMES if explorer.spec(name).slot == "router"]


@pytest.mark.parametrize("name", CHOOSING)
def test_routers_say_how_many_experts_a_token_gets(name):
    router = build(name)
    assert isinstance(router.n_experts, int) and isinstance(router.slots, float)
    assert 0 < router.slots <= router.n_experts


# -- bad input: a clear error or the right limit -------------------------------------------------------------------------
KINDS = pytest.mark.parametrize("training", [True, False])
HUGE = {"one way": lambda x: 1e4 * x, "the other": lambda x: -1e4 * x, "all alike": lambda x: 1e4 * torch.ones_like(x)}


def indices_in_range(name, module, x):
    """What the module makes of x, after a look at every index it names."""
    with explorer.record(module) as seen:
        result = outputs(name, module, x)
    modules = instrumented(module)
    for tap in seen.paths():
        if tap.endswith(("/index", "/choice")):
            index = seen.last(tap)
            assert index.min() >= -1 and index.max() < targets(modules[tap.rpartition("/")[0]])
    if explorer.spec(name).slot == "router":
        weights, index = result
        assert weights.dtype == x.dtype and index.dtype == torch.int64
        assert (weights[index < 0] == 0).all()
        chosen = index.sort(-1).values
        assert ((chosen[..., 1:] != chosen[..., :-1]) | (chosen[..., 1:] < 0)).all(), "an expert twice for one token"
    return result


def finite(name, module, x):
    """Outputs, loss and gradients for x, none of them infinite or NaN."""
    x = x.detach().requires_grad_()
    result = indices_in_range(name, module, x)
    loss = result[0].square().mean()
    loss = loss if module.auxiliary is None else loss + module.auxiliary
    module.zero_grad()
    if loss.requires_grad:
        loss.backward()
    gradients = [one.grad for one in (x, *module.parameters()) if one.grad is not None]
    assert all(one.isfinite().all() for one in (result[0], loss, *gradients, *module.buffers()))
    return result


@KINDS
@pytest.mark.parametrize("shape", [(1, 1), (1, 7), (7, 1)])
@pytest.mark.parametrize("name", NAMES)
def test_one_token_one_sequence_one_position(name, shape, training):
    finite(name, build(name).train(training), torch.randn(*shape, D))


@KINDS
@pytest.mark.parametrize("name", NAMES)
def test_tokens_that_are_all_equal_or_all_zero(name, training):
    for x in (torch.randn(1, 1, D).expand(3, 8, D), torch.zeros(3, 8, D)):
        finite(name, build(name).train(training), x)


@KINDS
@pytest.mark.parametrize("size", HUGE)
@pytest.mark.parametrize("name", NAMES)
def test_logits_of_ten_thousand(name, size, training):
    finite(name, build(name).train(training), HUGE[size](tokens()))


@KINDS
@pytest.mark.parametrize("poison", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("name", NAMES)
def test_a_number_that_is_none_comes_out_or_is_refused_and_spoils_no_state(name, poison, training):
    """In evaluation a router's other tokens are routed as if nothing had been; in training nothing stays behind."""
    module, x = build(name).train(training), tokens()
    x[0, 0, 3] = poison
    try:
        result = indices_in_range(name, module, x)
    except ExplorerError:
        return
    assert all(buffer.isfinite().all() for buffer in module.buffers())
    if math.isnan(poison):
        assert result[0][0, 0].isnan().any() or (len(result) == 2 and (result[1][0, 0] < 0).all())
        if len(result) == 2 and not training:
            assert result[0][1:].isfinite().all() and result[0][0, 1:].isfinite().all()
    finite(name, module, tokens())


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
@pytest.mark.parametrize("name", NAMES)
def test_other_precisions_keep_their_type(name, dtype):
    module = build(name).to(dtype)
    for _ in range(2):
        y = indices_in_range(name, module, tokens().to(dtype))[0]
    assert y.dtype == dtype and y.isfinite().all()


@pytest.mark.parametrize("name", CHOOSING)
def test_routers_score_in_float32_whatever_they_are_given(name):
    module = build(name).to(torch.bfloat16)
    with explorer.record(module) as seen:
        outputs(name, module, tokens().bfloat16())
    assert seen.last("/probs").dtype == torch.float32


@pytest.mark.parametrize("name", CHOOSING)
def test_any_split_into_sequences_has_the_same_scores(name):
    """Scores are a token's own; only the grouping rules may see the batch."""
    router, x = build(name).eval(), torch.randn(4, 3, D)
    with explorer.record(router) as seen:
        for shape in ((4, 3), (2, 6), (1, 12)):
            outputs(name, router, x.reshape(*shape, D))
    probs = [seen.at("/probs", step).reshape(12, -1) for step in range(3)]
    torch.testing.assert_close(probs[0], probs[1])
    torch.testing.assert_close(probs[0], probs[2])


@pytest.mark.parametrize("name", CHOOSING)
def test_the_table_of_loads_stands_a_batch_of_nan(name):
    router = build(name).eval()
    with explorer.record(router) as seen:
        outputs(name, router, torch.full((B, T, D), math.nan))
    loads = seen.loads().load
    assert loads.isna().all() or loads.sum() == pytest.approx(1)


def ends(knob):
    """The smallest and the largest value of a knob, or all its choices."""
    if knob.choices is not None:
        return knob.choices
    if isinstance(knob.default, bool):
        return (True, False)
    if type(knob.default) not in (int, float):
        return ()
    return (knob.low + (1e-3 if knob.above else 0), knob.high)


@pytest.mark.parametrize("name", NAMES)
def test_either_end_of_a_knob_works_or_is_refused_in_a_sentence(name):
    refusals = {}
    for knob, declared in explorer.spec(name).knobs.items():
        for value in ends(declared):
            try:
                finite(name, build(name, **{knob: value}), tokens())
            except BadValue as refused:
                refusals[knob, value] = str(refused)
    assert all(said.count("\n") == 0 and "must" in said for said in refusals.values()), refusals


def having(*knobs):
    return [name for name in NAMES if set(knobs) <= explorer.spec(name).knobs.keys()]


@pytest.mark.parametrize("name", having("n_experts"))
def test_without_experts_it_is_refused_and_a_single_one_takes_everything(name):
    low = explorer.spec(name).knobs["n_experts"].low
    with pytest.raises(BadValue, match=rf"^n_experts=0: it must be a whole number of at least {low:g}"):
        build(name, n_experts=0)
    if low == 1:
        ks = {"k": 1} if "k" in explorer.spec(name).knobs else {}
        result = finite(name, build(name, n_experts=1, **ks), tokens())
        assert len(result) == 1 or result[1].max() <= 0


@pytest.mark.parametrize("name", having("n_experts", "k"))
def test_more_slots_than_experts_are_refused_and_as_many_are_not(name):
    finite(name, build(name, n_experts=5, k=5), tokens())
    with pytest.raises(BadValue, match=r"^k=6.*at most the number of experts, n_experts=5"):
        build(name, n_experts=5, k=6)


@pytest.mark.parametrize("name", having("n_experts", "groups"))
def test_experts_that_do_not_fall_into_groups_are_refused(name):
    with pytest.raises(BadValue, match=r"^groups=2: it must divide the number of experts, n_experts=5"):
        build(name, n_experts=5, groups=2)
    with pytest.raises(BadValue, match=r"^groups="):
        build(name, n_experts=5, groups=10)


@pytest.mark.parametrize("name", NAMES)
def test_a_temperature_or_a_room_of_nothing_is_refused(name):
    for knob, declared in explorer.spec(name).knobs.items():
        if ("temperature" in knob or knob == "capacity_factor") and type(declared.default) is float:
            for value in (0, 0.0, -1.0, math.nan, math.inf):
                with pytest.raises(BadValue, match=f"^{knob}="):
                    build(name, **{knob: value})
