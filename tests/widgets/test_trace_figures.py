"""The pictures of a trace: what they say of a few layers, and that sixty layers of 256 experts stay small and readable."""

import json
import re
import time

import numpy as np
import pytest

from tests.widgets import trace_pictures
from tests.widgets.test_figures_text import OURS, PAYLOADS, strings
from tests.widgets.trace_pictures import FULL, LAYERS, LOAD, NAN
from widgets.figures import (
    company_map,
    domain_loads,
    expert_load_map,
    load_difference,
    saturation_by_layer,
    side_by_side,
    sinks_by_layer,
    specialisation_by_layer,
    strongest_pairs,
    summary_of,
    sureness_by_layer,
    utilisation_spread,
)
from widgets.figures.layers import layer_labels
from widgets.figures.load_difference import in_numbers_of_a
from widgets.views import Chart

RNG = np.random.default_rng(0)
HOVER = re.compile(r"%\{(customdata|base|text)(:[^}]*)?\}")


# ---- layers --------------------------------------------------------------------------------------------------------
def test_layers_that_differ_by_a_number_are_numbered_by_it():
    assert layer_labels(["model.layers.3.mlp", "model.layers.10.mlp"]) == (["3", "10"], "layer")
    assert layer_labels(["h2.layers.0", "h2.layers.1"]) == (["0", "1"], "layer")


@pytest.mark.parametrize(
    "names",
    [
        ["model.layers.3.mlp"], ["a.0.b.1", "a.1.b.0"], ["layers.0.ffn", "layers.0.ffn"], ["encoder.0", "decoder.0"],
        ["first", "second"], [],
    ],
)  # fmt: skip
def test_other_layers_keep_their_names_and_stay_apart(names):
    labels, word = layer_labels(names)
    assert word == "" and len(set(labels)) == len(names)


# ---- the load map --------------------------------------------------------------------------------------------------
def test_the_map_is_pale_at_the_fair_share_and_crosses_the_dead():
    (heat,) = expert_load_map.as_dict(LOAD, LAYERS)["data"]
    assert heat["y"] == ["1", "2"] and heat["z"].shape == (2, 3)
    assert heat["zmin"] == 0 and heat["zmax"] / 2 == pytest.approx(1 / 3) and heat["colorscale"][2] == [0.5, "#F4F1EA"]
    assert "layer %{y}, expert %{x}" in heat["hovertemplate"] and "fair is 33.33%" in heat["hovertemplate"]
    assert heat["text"] == [["50%", "50%", "× 0%"], ["20%", "30%", "50%"]]
    plain = expert_load_map.as_dict(LOAD, LAYERS)
    assert "1 of 6 experts" in plain["layout"]["title"]["text"]
    assert summary_of(plain) == (
        "The busiest expert is 0 of layer 1 with 1.5 times the fair share; 1 expert is dead, in layer 1."
    )


def test_where_cells_are_too_small_for_numbers_a_cross_marks_the_dead():
    load = np.full((2, 20), 1 / 19)
    load[1, 7] = 0
    heat, crosses = expert_load_map.as_dict(load, LAYERS)["data"]
    assert (crosses["x"].tolist(), crosses["y"], crosses["marker"]["symbol"]) == ([7], ["2"], "x-thin")
    assert "text" not in heat and "texttemplate" not in heat


def test_layers_of_different_sizes_are_measured_by_their_own_fair_share():
    heat = expert_load_map.as_dict([[0.5, 0.5, NAN, NAN], [0.7, 0.1, 0.1, 0.1]])["data"][0]
    np.testing.assert_allclose(heat["z"], [[1, 1, NAN, NAN], [2.8, 0.4, 0.4, 0.4]], rtol=1e-6)
    assert heat["zmax"] == 2 and heat["hoverongaps"] is False and "of its fair share" in heat["hovertemplate"]


def test_where_nobody_is_dead_nothing_is_crossed():
    plain = expert_load_map.as_dict([[0.5, 0.5]])
    assert len(plain["data"]) == 1 and "no expert is dead" in summary_of(plain)
    assert "×" not in plain["layout"]["title"]["text"]


def test_a_collapsed_model_is_not_covered_with_crosses():
    load = np.zeros((60, 256))
    load[:, 0] = 1
    plain = expert_load_map.as_dict(load)
    assert len(plain["data"]) == 1 and "15300 experts are dead, in 60 layers" in summary_of(plain)
    assert "15300 of 15,360" in plain["layout"]["title"]["text"]


# ---- the others, by hand -------------------------------------------------------------------------------------------
def test_the_spread_has_a_bar_for_the_middle_and_a_panel_for_the_dead():
    plain = utilisation_spread.as_dict(*FULL["utilisation_spread"][1])
    middle, busiest, median, idlest, dead = plain["data"]
    np.testing.assert_allclose(middle["base"] + middle["y"], [1.4, 1.3], rtol=1e-6)
    assert [one["name"] for one in (busiest, median, idlest)] == ["busiest", "median", "idlest"]
    assert len({one["line"]["dash"] for one in (busiest, median, idlest)}) == 3
    assert dead["yaxis"] == "y2" and dead["y"].tolist() == [1, 0]
    assert "widest spread is in layer 1, from 0.00 to 1.50" in summary_of(plain) and "1 expert is dead" in summary_of(
        plain
    )
    without = utilisation_spread.as_dict(*FULL["utilisation_spread"][1][:-1], [0, 0])
    assert len(without["data"]) == 4 and "yaxis2" not in without["layout"]


def test_the_pairs_are_named_by_layer_and_told_with_their_tokens():
    (bars,) = strongest_pairs.as_dict(*FULL["strongest_pairs"][1])["data"]
    assert bars["y"] == ["layer 2: 0 + 2", "layer 1: 1 + 2"] and bars["x"].tolist() == [2.5, 1.5]
    assert bars["customdata"].tolist() == [9, 12] and "tokens" in bars["hovertemplate"]
    many = strongest_pairs.as_dict(["l"] * 100, range(100), range(1, 101), [2.0] * 100)
    assert len(many["data"][0]["y"]) == 20


def test_company_is_pale_at_chance_whatever_its_range():
    for top in (1.5, 5.0, 20.0):
        heat = company_map.as_dict([[NAN, top], [top, NAN]])["data"][0]
        stops = dict(tuple(stop) for stop in heat["colorscale"])
        assert stops[1 / heat["zmax"]] == "#F4F1EA" and heat["zmax"] == max(2, min(top, 8))
        assert [stop for stop, _ in heat["colorscale"]] == sorted(stop for stop, _ in heat["colorscale"])
    assert "Experts 0 and 1 keep company most, 2.0 times" in summary_of(company_map.as_dict(trace_pictures.LIFT))


def test_experts_that_meet_nobody_are_said():
    assert "no token goes to two experts" in summary_of(company_map.as_dict(np.full((3, 3), NAN))).lower()


def test_a_domain_has_a_row():
    plain = domain_loads.as_dict([[0.5, 0.2], [0.5, 0.2], [0.0, 0.6]], ["prose", "code"], "layer 1")
    (heat,) = plain["data"]
    assert heat["y"] == ["prose", "code"] and heat["z"].shape == (2, 3)
    assert heat["zmax"] == pytest.approx(2 / 3)
    assert "prose to 0 (1.5 times the fair share) and code to 2 (1.8 times the fair share)" in summary_of(plain)


def test_each_measure_of_specialisation_has_its_floor_in_its_colour():
    lines = specialisation_by_layer.as_dict(*FULL["specialisation_by_layer"][1])["data"]
    assert [one["name"] for one in lines] == ["domain", "domain, by chance", "vocabulary", "vocabulary, by chance"]
    assert [one["meta"]["colour"] for one in lines] == [0, 0, 1, 1]
    assert [one["line"]["dash"] for one in lines] == ["solid", "dot"] * 2
    alone = specialisation_by_layer.as_dict(LAYERS, [NAN, NAN], [NAN, NAN], [0.5, 0.4], [0.2, 0.2])
    assert [one["name"] for one in alone["data"]] == ["vocabulary", "vocabulary, by chance"]
    assert summary_of(alone).startswith(
        "By vocabulary, specialisation is highest in layer 1, 0.50, where chance gives 0.20"
    )


def test_saturation_has_its_chance_and_other_tokens_have_none():
    plain = saturation_by_layer.as_dict(*FULL["saturation_by_layer"][1])
    assert [one["name"] for one in plain["data"]] == ["experts as numbered", "experts matched", "by chance"]
    assert "agree least in layer 1, on 50%" in summary_of(plain)
    other = saturation_by_layer.as_dict(LAYERS, [NAN, NAN], [NAN, NAN], [NAN, NAN])
    assert not other["data"] and "not given the same tokens" in summary_of(other)


def test_the_difference_follows_the_matching():
    partner = np.array([[1, 0, 2], [0, -1, 1]])
    plain = load_difference.as_dict(LOAD, LOAD[::-1], LAYERS, partner)
    (heat,) = plain["data"]
    np.testing.assert_allclose(heat["z"], [[-0.6, -0.9, 1.5], [0.9, NAN, 0]], atol=1e-3)
    assert heat["customdata"].tolist() == partner.tolist() and "its expert %{customdata}" in heat["hovertemplate"]
    assert "at expert 2 of layer 1, by 1.50 fair shares more" in summary_of(plain)


def test_without_a_matching_the_numbers_count_and_need_no_second_array():
    (heat,) = load_difference.as_dict(LOAD, LOAD, LAYERS)["data"]
    assert "customdata" not in heat and not heat["z"].any()
    (same,) = load_difference.as_dict(LOAD, LOAD, LAYERS, [[0, 1, 2]] * 2)["data"]
    assert "customdata" not in same
    assert summary_of(load_difference.as_dict(LOAD, LOAD)) == "Both use their experts alike."


@pytest.mark.parametrize("n_a, n_b", [(2, 4), (4, 2)])
def test_models_with_other_numbers_of_experts_leave_the_rest_empty(n_a, n_b):
    placed = in_numbers_of_a(np.ones((1, n_b)), None, n_a)
    assert placed.shape == (1, n_a) and np.isfinite(placed).sum() == min(n_a, n_b)
    nobody = load_difference.as_dict(np.full((1, n_a), 1 / n_a), np.full((1, n_b), 1 / n_b), (), [[-1] * n_a])
    assert "No expert of A has a counterpart" in summary_of(nobody)


def test_sinks_of_both_kinds_are_never_in_one_panel():
    plain = sinks_by_layer.as_dict(*FULL["sinks_by_layer"][1])
    emergent, learned = plain["data"]
    np.testing.assert_allclose(emergent["z"], [[0.5, 0.2], [0.1, 0.9]], rtol=1e-6)
    np.testing.assert_allclose(learned["z"], [[0, 0.1], [0.3, 0]], rtol=1e-6)
    assert (emergent["yaxis"], learned["yaxis"]) == ("y", "y2")
    upper, lower = plain["layout"]["yaxis"]["domain"], plain["layout"]["yaxis2"]["domain"]
    assert 0 == lower[0] < lower[1] < upper[0] < upper[1] < 1
    assert [note["text"] for note in plain["layout"]["annotations"]] == [
        "emergent: on the first token", "learned: on no token",
    ]  # fmt: skip
    assert "first token gets 43% on average and most from head 1 of layer 2, 90%" in summary_of(plain)


@pytest.mark.parametrize("learned, said", [([0, 0], "this model has none"), ([NAN, NAN], "not recorded")])
def test_a_model_without_learned_sinks_says_so(learned, said):
    plain = sinks_by_layer.as_dict(LAYERS, [0, 0], [0.5, 0.4], learned)
    assert said in plain["layout"]["annotations"][1]["text"] and "nan" not in summary_of(plain)


def test_models_side_by_side_have_a_pattern_each_and_no_row_of_nothing():
    plain = side_by_side.as_dict(["a", "b"], [0.9, 0.5], [NAN, NAN], [], [0.2, 0.3], [0.1, 0.1])
    a, b = plain["data"]
    assert a["y"] == b["y"] == ["effective experts", "domain NMI", "… by chance"]
    assert a["marker"]["pattern"]["shape"] != b["marker"]["pattern"]["shape"]
    assert summary_of(plain).startswith("Effective experts: a 0.90 and b 0.50;")


def test_sureness_has_a_panel_for_each_measure():
    entropy, margin = sureness_by_layer.as_dict(LAYERS, [0.9, 0.6], [0.1, 0.2])["data"]
    assert (entropy["yaxis"], margin["yaxis"]) == ("y", "y2") and entropy["line"]["dash"] != margin["line"]["dash"]
    (alone,) = sureness_by_layer.as_dict(LAYERS, [NAN, NAN], [0.1, 0.2])["data"]
    assert alone["name"] == "margin" and alone["yaxis"] == "y"


# ---- all of them ---------------------------------------------------------------------------------------------------
def everything(L, E, text="model.layers"):
    """Every picture of a trace of so many layers and experts, with `text` wherever one goes in."""
    names = [f"{text}.{i}.mlp" for i in range(L)]
    load_a, load_b = RNG.dirichlet(np.ones(E), L), RNG.dirichlet(np.ones(E), L)
    lift = RNG.random((E, E)) * 3
    one, H = RNG.random(L), 8
    heads = [layer for layer in names for _ in range(H)]
    partner = np.tile(RNG.permutation(E), (L, 1))
    title = {"title": text}
    return {
        "map": (expert_load_map, (load_a, names), title),
        "spread": (utilisation_spread, (names, one, one + 1, one + 2, one + 3, one + 4, one), title),
        "pairs": (strongest_pairs, (names, range(L), range(L), one), title),
        "company": (company_map, (lift, names[0]), title),
        "domains": (domain_loads, (RNG.dirichlet(np.ones(E), 4).T, [text] * 4, names[0]), title),
        "specialisation": (specialisation_by_layer, (names, one, one, one, one), title),
        "saturation": (saturation_by_layer, (names, one, one, one), title),
        "difference": (load_difference, (load_a, load_b, names, partner, text, text), title),
        "sinks": (sinks_by_layer, (heads, [*range(H)] * L, RNG.random(L * H), RNG.random(L * H)), title),
        "side": (side_by_side, (names[:4], *[one[:4]] * 6), title),
        "sureness": (sureness_by_layer, (names, one, one), title),
    }


@pytest.mark.parametrize("payload", PAYLOADS)
def test_no_picture_passes_markup_on(payload):
    for name, (picture, arguments, more) in everything(4, 4, payload).items():
        plain = picture.as_dict(*arguments, **more)
        for text in strings({"data": plain["data"], "layout": plain["layout"]}):
            assert not re.search(r"[<>$]|%\{", HOVER.sub("", OURS.sub("", text))), (name, text)
            text.encode()
        summary_of(plain).encode()
        assert len(summary_of(plain)) < 900
        json.dumps(plain["layout"])


def test_sixty_layers_of_256_experts_are_small_and_quick():
    for name, (picture, arguments, more) in everything(60, 256).items():
        seconds = []
        for _ in range(3):
            began = time.perf_counter()
            plain = picture.as_dict(*arguments, **more)
            seconds.append(time.perf_counter() - began)
        assert min(seconds) < 0.1, name
        frame = Chart(plain).frame
        arrays, text = sum(map(len, frame["arrays"])), len(json.dumps(frame["figure"]))
        # a map is four bytes a cell, and two more where the experts have partners
        assert arrays <= 60 * 256 * 6 and text < 30_000, (name, arrays, text)
        assert plain["layout"]["height"] <= 780, name


@pytest.mark.parametrize("layers, experts", [(1, 1), (1, 2), (3, 11), (130, 4)])
def test_any_size_makes_a_valid_figure(layers, experts):
    for name, (picture, arguments, more) in everything(layers, experts).items():
        figure = picture(*arguments, **more)
        assert summary_of(figure).endswith(".") and "nan" not in summary_of(figure), name


def test_missing_values_do_not_reach_the_sentences():
    gone, table = [NAN, NAN], np.full((2, 3), NAN)
    for plain in (
        expert_load_map.as_dict(table, LAYERS),
        expert_load_map.as_dict([LOAD[0], table[0]], LAYERS),
        utilisation_spread.as_dict(LAYERS, gone, gone, gone, gone, gone, gone),
        utilisation_spread.as_dict(LAYERS, *[[0.5, NAN]] * 6),
        strongest_pairs.as_dict(LAYERS, [0, 1], [1, 2], gone),
        domain_loads.as_dict(table.T, ["a", "b"]),
        domain_loads.as_dict([[0.5, NAN], [0.5, NAN]], ["a", "b"]),
        specialisation_by_layer.as_dict(LAYERS, *[[0.5, NAN]] * 4),
        specialisation_by_layer.as_dict(LAYERS, gone, gone, gone, gone),
        saturation_by_layer.as_dict(LAYERS, [0.5, NAN], gone, gone),
        load_difference.as_dict(table, table, LAYERS),
        load_difference.as_dict(LOAD, table, LAYERS),
        sinks_by_layer.as_dict(LAYERS, [0, 0], gone, gone),
        sinks_by_layer.as_dict(LAYERS, [0, 1], gone, [0.5, NAN]),
        side_by_side.as_dict(["a", "b"], gone, gone),
        side_by_side.as_dict(["a", "b"], [NAN, 0.5]),
        sureness_by_layer.as_dict(LAYERS, [NAN, 0.5], gone),
    ):
        assert "nan" not in summary_of(plain) and summary_of(plain).endswith("."), summary_of(plain)
