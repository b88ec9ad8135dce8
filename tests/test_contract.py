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
from explorer.errors import BadValue, UnknownName
from explorer.taps import AXES, SCORES, Instrumented, Listener, attach, detach, full_name, instrumented

NAMES = explorer.names()
B, T, D = 2, 6, 24
# sizes that differ from each other and from B, T and D, so that a transposed tap shows; used where a mechanism has the knob
SIZES = {"n_experts": 5, "k": 3, "n_heads": 4}
LETTERS = {"B": B, "T": T, "N": B * T, "D": D, "E": SIZES["n_experts"], "H": SIZES["n_heads"], "S": T, "1": 1}


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
    assert y.shape == x.shape
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
    loss.backward()
    gradients = [x.grad, *(p.grad for p in module.parameters())]
    return [*result, torch.zeros(()) if auxiliary is None else auxiliary], gradients


def identical(these, those):
    return len(these) == len(those) and all(
        (a is None and b is None) or torch.equal(a, b) for a, b in zip(these, those, strict=True)
    )


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
    sizes = dict(LETTERS)
    for tap, value in overheard(name, module).items():
        assert set(axes[tap]) <= AXES.keys(), f"{tap} has an axis that taps.AXES does not explain"
        assert value.ndim == len(axes[tap]), f"{tap} is declared {axes[tap]} and has the shape {tuple(value.shape)}"
        for letter, size in zip(axes[tap], value.shape, strict=True):
            expected = sizes.setdefault(letter, size)
            assert size == expected, f"axis {letter} of {tap} is {size}, elsewhere {expected}"


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("name", NAMES)
def test_recording_changes_nothing(name, training):
    module = build(name).train(training)
    plain = forward_backward(name, module)
    with explorer.record(module, ["*", *all_taps(module)]):
        watched = forward_backward(name, module)
    assert identical(plain[0], watched[0])
    assert identical(plain[1], watched[1])
    assert all(one._probe is None for one in instrumented(module).values())
    assert identical(plain[1], forward_backward(name, module)[1])


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
    assert gradients[0] is not None and gradients[0].isfinite().all() and gradients[0].abs().sum() > 0
    for (path, _), gradient in zip(module.named_parameters(), gradients[1:], strict=True):
        reached = gradient is not None and gradient.isfinite().all() and gradient.abs().sum() > 0
        excused = any(path in pitfall and "gradient" in pitfall for pitfall in explorer.spec(name).pitfalls)
        assert reached or excused, f"{name}.{path} gets no gradient, and no pitfall says why"


@pytest.mark.parametrize("name", NAMES)
def test_an_empty_slot_weighs_nothing(name):
    heard = overheard(name, build(name))
    for tap, index in heard.items():
        if tap.endswith("/index"):
            weights = heard[tap.removesuffix("index") + "weights"]
            assert (weights[index < 0] == 0).all()
            assert index.min() >= -1 and index.max() < SIZES["n_experts"]


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
    before = forward_backward(name, module)
    with explorer.record(module) as seen:
        outputs(name, module, tokens())
        twin = duplicate(module)
        assert all(one._probe is None for one in instrumented(twin).values())
        assert twin.auxiliary is None
        after = forward_backward(name, twin)
        assert seen.steps() == [0]
    assert identical(before[0], after[0]) and identical(before[1], after[1])


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
    assert re.search(r"\b(transformers|torch|none packaged)\b", card.reference)


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


@pytest.mark.parametrize("name", NAMES)
def test_the_file_is_a_page(name):
    card = explorer.spec(name)
    lines = card.source.splitlines()
    assert 40 <= len(lines) <= 150
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
        built.load_state_dict(changed.state_dict())
        forward_backward(name, changed)
        setattr(changed, knob, value)
        now, then = forward_backward(name, changed), forward_backward(name, built)
        assert identical(now[0], then[0]) and identical(now[1], then[1])


@pytest.mark.parametrize("name", [name for name in NAMES if explorer.spec(name).slot == "router"])
def test_routers_say_how_many_experts_a_token_gets(name):
    router = build(name)
    assert isinstance(router.n_experts, int) and isinstance(float(router.slots), float)
    assert 0 < router.slots <= router.n_experts
