"""The catalogue finds mechanisms by name, checks knobs, and refuses cards that do not fit their class."""

import importlib
import math
import time

import pytest
import torch
from torch import nn

import explorer
from explorer import Knob, Paper
from explorer.catalogue import FAMILIES, SLOTS, mechanism
from explorer.errors import BadValue, ExplorerError, UnknownName, unknown

PAPER = Paper("On gates", "A. Uthor", 2024, "2401.00001")
CARD = {
    "title": "Nothing", "family": "routing", "slot": "router", "paper": PAPER, "lab": "here", "summary": "It is.",
    "equation": "y = x", "knobs": {}, "pitfalls": (), "reference": "torch",
}  # fmt: skip


@pytest.fixture
def shelf(monkeypatch):
    """A catalogue to scribble on."""
    module = importlib.import_module("explorer.catalogue")  # as an attribute of explorer it is the function
    monkeypatch.setattr(module, "_SPECS", dict(module._SPECS))


# -- finding -----------------------------------------------------------------------------------------------------------
def test_names_come_family_by_family_in_reading_order():
    names = explorer.names()
    assert names[:4] == ["topk-softmax", "topk-softmax-raw", "noisy-topk", "switch"]
    assert explorer.names("routing") == [name for name in names if explorer.spec(name).family == "routing"]
    assert sorted(name for family in FAMILIES for name in explorer.names(family)) == sorted(names)


@pytest.mark.parametrize(
    "ask, message",
    [
        (lambda: explorer.spec("topk_sofmax"), "no mechanism 'topk_sofmax'; did you mean 'topk-softmax'?"),
        (lambda: explorer.build("Switch"), "no mechanism 'Switch'; did you mean 'switch'?"),
        (lambda: explorer.names("routin"), "no family 'routin'; did you mean 'routing'?"),
        (lambda: explorer.build("switch", capacity=1), "no knob of switch 'capacity'; did you mean 'capacity_factor'?"),
    ],
)
def test_a_misspelt_name_is_one_sentence_with_a_suggestion(ask, message):
    with pytest.raises(UnknownName) as raised:
        ask()
    assert str(raised.value) == message


def test_a_name_like_no_other_lists_what_there_is():
    with pytest.raises(UnknownName, match=r"^no mechanism 'zzz'; there are: activation-dense-to-sparse, .*, \.\.\.$"):
        explorer.build("zzz")
    assert str(unknown("tap", "a", [])) == "no tap 'a'; there are: none"
    assert str(unknown("tap", "zz", [f"tap{i}" for i in range(99)])).endswith(", ...")
    assert isinstance(unknown("tap", "a", []), LookupError) and not isinstance(unknown("tap", "a", []), KeyError)


@pytest.mark.parametrize("width", [0, -1, 2.0, "64", True, None])
def test_a_width_that_is_none_is_refused(width):
    with pytest.raises(BadValue, match=r"^d_model=.*: it must be a whole number of at least 1$"):
        explorer.build("switch", d_model=width)


def test_the_table_has_a_row_for_each():
    table = explorer.catalogue()
    assert list(table.columns) == ["name", "family", "title", "year", "arxiv", "lab", "reference", "claims"]
    assert list(table.name) == explorer.names()
    row = table.set_index("name").loc["switch"]
    assert (row.family, row.year, row.arxiv, row.lab) == ("routing", 2021, "2101.03961", "Google")
    assert row.claims == len(explorer.spec("switch").claims)


def test_the_card_leads_to_the_source_and_the_page():
    card = explorer.spec("switch")
    assert card.source.startswith('"""Switch routing') and "class Switch(" in card.source
    assert "mechanism=switch" in card.page
    assert isinstance(explorer.build("switch", d_model=8), card.cls)
    with pytest.raises(AttributeError):
        card.title = "mine"


def test_build_completes_the_knobs_and_keeps_their_types():
    router = explorer.build("switch", d_model=8, capacity_factor=2, n_experts="16")
    assert router.capacity_factor == 2.0 and isinstance(router.capacity_factor, float)
    assert router.n_experts == 16 and router.aux_loss == 0.01
    assert explorer.spec("topk-softmax").check({}) == {"n_experts": 8, "k": 2, "aux_loss": 0.001}


def test_a_fresh_mechanism_each_time():
    one, other = explorer.build("switch"), explorer.build("switch")
    assert one is not other and not torch.equal(one.score.weight, other.score.weight)


# -- knobs -------------------------------------------------------------------------------------------------------------
WHOLE = Knob(2, "of them", low=1, high=8)
REAL = Knob(0.5, "so much", low=0, high=1)
ABOVE = Knob(1.0, "so much", low=0, above=True)
SWITCH = Knob(True, "or not")
WORD = Knob("batch", "which", choices=("batch", "sequence"))
TEXT = Knob("anything", "free")


@pytest.mark.parametrize(
    "knob, given, right",
    [
        (WHOLE, 1, 1), (WHOLE, 8, 8), (WHOLE, "3", 3), (WHOLE, 4.0, 4), (WHOLE, torch.tensor(5).item(), 5),
        (REAL, 1, 1.0), (REAL, "0.25", 0.25), (REAL, "1e-3", 0.001), (ABOVE, 1e9, 1e9), (ABOVE, "7", 7.0),
        (SWITCH, False, False), (SWITCH, "false", False), (SWITCH, "True", True), (WORD, "sequence", "sequence"),
        (TEXT, "gated-attention", "gated-attention"),
    ],
)  # fmt: skip
def test_a_value_in_range_comes_out_in_the_type_of_the_default(knob, given, right):
    checked = knob.check("it", given)
    assert checked == right and type(checked) is type(knob.default)


@pytest.mark.parametrize(
    "knob, given, words",
    [
        (WHOLE, 0, "a whole number of at least 1 and at most 8"),
        (WHOLE, 9, "a whole number of at least 1 and at most 8"),
        *[(WHOLE, wrong, "a whole number") for wrong in (2.5, "2.5", "two", "", None, True, [2], math.nan, math.inf)],
        *[(REAL, wrong, "a number of at least 0 and at most 1") for wrong in (-0.1, 1.1, "x", math.nan, False, None)],
        *[(ABOVE, wrong, "a number above 0") for wrong in (0, -1, math.inf, "inf", "nan", 10**400)],
        *[(SWITCH, wrong, "True or False") for wrong in ("maybe", 2, 1, 0.0, None, "")],
        *[(WORD, wrong, "choose one of 'batch', 'sequence'") for wrong in ("Batch", "", None, 3)],
    ],
)
def test_any_other_value_is_refused_in_one_sentence(knob, given, words):
    with pytest.raises(BadValue) as raised:
        knob.check("it", given)
    assert str(raised.value).startswith("it=") and words in str(raised.value) and "\n" not in str(raised.value)


@pytest.mark.parametrize(
    "given",
    ["9" * 100_000, "x" * 100_000, 10**5000, -(10**5000), [10**5000], list(range(10_000))],
    ids=["digits", "text", "number", "negative", "number in a list", "list"],
)
@pytest.mark.parametrize("knob", [WHOLE, REAL, WORD, SWITCH])
def test_a_monstrous_value_makes_a_short_message_at_once(knob, given):
    began = time.process_time()
    with pytest.raises(BadValue) as raised:
        knob.check("it", given)
    assert len(str(raised.value)) < 200 and time.process_time() - began < 0.5


def test_k_may_not_exceed_the_number_of_experts():
    with pytest.raises(BadValue, match=r"^k=9: it must be at most the number of experts, n_experts=8$"):
        explorer.build("topk-softmax", k=9)
    with pytest.raises(BadValue, match=r"^k=2: it must be at most the number of experts, n_experts=1$"):
        explorer.build("topk-softmax", n_experts=1)


# -- entering ----------------------------------------------------------------------------------------------------------
def enter(name="nothing", **changes):
    class Nothing(nn.Module):
        def __init__(self, d_model, size=3):
            super().__init__()

    return mechanism(name, **{**CARD, "knobs": {"size": Knob(3, "how many")}, **changes})(Nothing)


def test_a_card_that_fits_enters(shelf):
    cls = enter()
    assert explorer.spec("nothing").cls is cls and explorer.names()[-1] == "nothing"
    assert explorer.spec("nothing").claims == ()


@pytest.mark.parametrize(
    "changes, complaint",
    [
        ({"name": "switch"}, "two mechanisms are called 'switch': Switch and Nothing"),
        ({"family": "router"}, "family 'router'"),
        ({"slot": "ffn"}, "slot 'ffn'"),
        ({"knobs": {"size": Knob(4, "how many")}}, "knob 'size' says 4, the constructor 3"),
        ({"knobs": {"size": Knob(3, "how many"), "colour": Knob("red", "of it")}}, "knob 'colour' says 'red'"),
        ({"knobs": {}}, "constructor arguments without a Knob: size"),
        ({"equation": r"y = \knob{size} x"}, "a \\\\knob that is not written"),
    ],
)
def test_a_card_that_does_not_fit_its_class_is_refused(shelf, changes, complaint):
    with pytest.raises(BadValue, match=complaint):
        enter(**changes)
    assert "nothing" not in explorer.names()


def test_an_unknown_field_of_a_card_is_refused(shelf):
    with pytest.raises(TypeError, match="colour"):
        enter(colour="red")


def test_slots_and_families_are_those_of_the_design():
    assert FAMILIES == ("routing", "attention", "mixing", "depth", "conversion", "adapters", "estimation", "serving")
    assert {explorer.spec(name).slot for name in explorer.names()} <= set(SLOTS)


def test_every_error_is_an_explorer_error():
    with pytest.raises(ExplorerError):
        explorer.build("switch", n_experts=0)
    with pytest.raises(ValueError, match="n_experts=0"):
        explorer.build("switch", n_experts=0)
