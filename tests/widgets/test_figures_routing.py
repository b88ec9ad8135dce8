"""The pictures of single tokens, of pairs of experts, of a router's geometry and of what balancing costs."""

import numpy as np
import pytest
import torch

from explorer import metrics
from widgets.figures import (
    bias_trajectory,
    coactivation_map,
    drops,
    margin_histogram,
    router_cosine,
    router_plane,
    summary_of,
    token_path,
    utilisation_percentiles,
)
from widgets.figures.pairs import strongest

STEPS = np.arange(6)


def trace_of(plain, name):
    (trace,) = (one for one in plain["data"] if one.get("name") == name)
    return trace


def note_of(figure):
    return figure.layout.annotations[0].text.replace("<br>", " ")


# ---- token_path ----------------------------------------------------------------------------------------------------


def test_a_path_goes_through_the_strongest_slot_of_each_layer():
    plain = token_path.as_dict([[4, 1], [2, 0]], [[0.3, 0.7], [0.9, 0.1]], ["layer 0", "layer 1"], 6, "it")
    best, rest = trace_of(plain, "strongest expert"), trace_of(plain, "other slots")
    assert best["y"].tolist() == [1, 2] and rest["y"].tolist() == [4, 0]
    assert best["text"] == ["1", "2"] and best["x"] == ["0", "1"]
    assert best["marker"]["size"][1] > best["marker"]["size"][0] > rest["marker"]["size"][1]
    assert plain["layout"]["xaxis"]["title"]["text"] == "layer"
    assert summary_of(plain) == (
        "The token “it” goes most strongly to expert 1 in layer 0 (weight 0.70) and expert 2 in layer 1 (weight 0.90)."
    )


def test_a_layer_that_drops_the_token_is_a_gap_with_a_word():
    plain = token_path.as_dict([[3], [-1], [2]], [[1.0], [0.0], [1.0]], ["a", "b", "c"], 4)
    assert np.isnan(trace_of(plain, "strongest expert")["y"]).tolist() == [False, True, False]
    lost = trace_of(plain, "no expert")
    assert lost["x"] == ["b"] and lost["text"] == ["dropped"]
    assert plain["layout"]["yaxis"]["ticktext"][0] == "none"
    assert summary_of(plain).endswith("; no expert takes it in b.")
    nowhere = token_path.as_dict([[-1]], [[0.0]], ["a"], 4)
    assert summary_of(nowhere) == "The token is dropped in every layer: no expert takes it."


def test_a_path_through_sixty_layers_is_told_in_a_sentence_and_sent_in_few_points():
    rng = np.random.default_rng(0)
    index = rng.random((60, 256)).argsort(1)[:, :8]
    plain = token_path.as_dict(index, rng.dirichlet(np.ones(8), 60), (), 256, "it", rng.random((60, 256)))
    assert len(summary_of(plain)) < 200
    assert [one["type"] for one in plain["data"]] == ["scatter", "scatter"]  # 15,360 probabilities are too many
    assert sum(len(one["y"]) for one in plain["data"]) == 480


def test_probabilities_lie_behind_the_path():
    plain = token_path.as_dict([[1], [0]], [[1.0], [1.0]], (), 2, "", [[0.2, 0.8], [0.6, 0.4]])
    assert plain["data"][0]["type"] == "heatmap"
    np.testing.assert_allclose(plain["data"][0]["z"], [[0.2, 0.6], [0.8, 0.4]], rtol=1e-6)


def test_too_few_names_are_completed():
    assert trace_of(token_path.as_dict([[0], [1]], [[1], [1]], ["a"], 2), "strongest expert")["x"] == ["a", "layer 1"]


# ---- pairs ---------------------------------------------------------------------------------------------------------


def test_co_activation_leaves_out_the_diagonal_and_the_unused():
    index = torch.tensor([[0, 1], [0, 1], [0, 2], [2, 1]])
    figure = coactivation_map(metrics.co_activation(index, 4), "layer 1")
    z = np.asarray(figure.data[0].z)
    assert np.isnan(np.diag(z)).all() and np.isnan(z[3]).all()
    assert z[0, 1] == pytest.approx(2 / 3) and z[2, 1] == 0.5
    assert figure.layout.title.text == "Co-activation of experts, layer 1"
    assert "Of the tokens of expert 0, 67% also go to expert 1" in summary_of(figure)
    assert "3 of 9 ordered pairs never meet" in summary_of(figure)


def test_one_expert_a_token_makes_no_pairs():
    figure = coactivation_map(metrics.co_activation(torch.tensor([[0], [1]]), 2))
    assert not figure.data and note_of(figure).startswith("No token goes to two experts")


def test_many_experts_are_drawn_in_blocks_that_keep_the_strongest_pair():
    share = np.full((130, 130), 0.01)
    share[np.diag_indices(130)] = 1
    share[129, 2] = 0.5
    z = coactivation_map.as_dict(share)["data"][0]["z"]
    assert z.shape == (33, 33) and z[32, 0] == 0.5 and np.isfinite(z).all()
    assert strongest(np.array([[np.nan, -3.0], [2, np.nan]], np.float32), 2).tolist() == [[-3]]


def test_the_cosine_map_is_pale_at_zero_and_names_both_ends():
    figure = router_cosine(metrics.cosine(torch.tensor([[1.0, 0], [1, 1], [-1, 0]])))
    heat = figure.data[0]
    assert heat.zmin == -heat.zmax == pytest.approx(-1) and dict(heat.colorscale)[0.5] == "#F4F1EA"
    assert "experts 0 and 1 are most alike (cosine 0.71), those of 0 and 2 least (-1.00)" in summary_of(figure)
    assert "no two experts" in note_of(router_cosine([[1.0]]))


# ---- geometry ------------------------------------------------------------------------------------------------------


def test_tokens_have_the_colour_of_the_row_that_wins_them():
    rows, tokens = np.array([[0.1, 0.0], [0.0, 0.1]]), np.array([[2.0, 0], [0, 1], [3, 1], [0, 0]])
    plain = router_plane.as_dict(rows, tokens, [0, 1, 0, -1], 1.0)
    zero = [one for one in plain["data"] if one["name"] == "0"]
    assert len(zero) == 2 and all(one["meta"] == {"colour": 0} for one in zero)
    assert zero[0]["x"].tolist() == [2, 3]
    assert zero[1]["x"][0] == pytest.approx(np.hypot(3, 1))  # lengthened to reach as far as the tokens
    assert trace_of(plain, "no expert")["x"].tolist() == [0]
    assert "shows 100% of the variance of the 2 router rows" in summary_of(plain)
    assert "expert 0 (67%)" in summary_of(plain)


def test_of_many_experts_ten_have_colours_and_all_tokens_are_thinned():
    rng = np.random.default_rng(0)
    tokens, rows = rng.normal(size=(9000, 2)), rng.normal(size=(64, 2))
    plain = router_plane.as_dict(rows, tokens, rng.integers(0, 64, 9000), 0.3)
    assert len({one["name"] for one in plain["data"] if one["name"].isdigit()}) == 10
    assert "other experts" in {one["name"] for one in plain["data"]}
    assert sum(len(one["x"]) for one in plain["data"]) < 2000


def test_one_expert_or_no_token_still_has_a_plane():
    figure = router_plane([[0.0, 0]], np.ones((3, 2)), [0, 0, 0], np.nan)
    assert "cannot tell apart the 1 router rows" in summary_of(figure)
    assert "no token is won" in summary_of(router_plane([[1.0, 0], [0, 1]], np.zeros((0, 2)), [], 1.0))


# ---- margins -------------------------------------------------------------------------------------------------------


def test_the_margin_histogram_counts_who_is_near():
    plain = margin_histogram.as_dict([0.01, 0.02, 0.3, 0.9, np.nan], "layer 0")
    near, far = plain["data"]
    assert near["y"].sum() == 0.5 and far["y"].sum() == 0.5
    assert plain["layout"]["shapes"][0]["x0"] == 0.05
    assert summary_of(plain).startswith("50% of 4 tokens have a margin below 0.05")


def test_small_margins_get_a_small_axis():
    assert margin_histogram.as_dict([0.001, 0.004], threshold=0.002)["layout"]["xaxis"]["range"][1] == 0.005


def test_a_router_that_keeps_every_expert_cannot_switch():
    figure = margin_histogram(metrics.margin(torch.rand(5, 3), 3))
    assert not figure.data and note_of(figure) == "No token can switch: every expert is chosen."


# ---- balancing -----------------------------------------------------------------------------------------------------


def test_drops_tell_the_worst_layer_and_the_capacity():
    figure = drops(STEPS, {"a": STEPS / 10, "b": STEPS / 20}, 1.25)
    assert "50.0% of the tokens of a have no expert at a capacity of 1.25 times" in summary_of(figure)
    assert "capacity 1.25" in figure.layout.title.text


def test_a_router_without_capacity_says_that_none_can_be_dropped():
    figure = drops(STEPS, {}, possible=False)
    assert not figure.data and note_of(figure) == "None can be dropped by this router: it has no capacity limit."


def test_many_layers_of_drops_become_a_heat_map():
    (heat,) = drops.as_dict(np.arange(900), {f"layer {i}": np.full(900, i / 60) for i in range(60)})["data"]
    assert heat["type"] == "heatmap" and len(heat["z"]) == 60 and heat["z"].size < 5000
    assert heat["zmax"] == pytest.approx(59 / 60)


def test_a_bias_is_a_line_until_there_are_too_many():
    bias = np.outer(STEPS, [0.1, -0.2, 0.0])
    figure = bias_trajectory(STEPS, bias, "layer 0")
    assert [one.name for one in figure.data] == ["0", "1", "2"] and figure.layout.shapes[0].y0 == 0
    assert "lifts expert 0 most (+0.5) and expert 1 least (-1); they lie 1.5 apart" in summary_of(figure)
    (heat,) = bias_trajectory(STEPS, np.outer(STEPS, np.linspace(-1, 1, 64))).data
    assert heat.zmin == -heat.zmax == -5 and len(heat.z) == 64


def test_percentiles_are_those_of_the_metric_and_skip_what_is_missing():
    counts = torch.randint(0, 30, (3, 7), generator=torch.Generator().manual_seed(0))
    used = metrics.utilisation(counts)
    data = utilisation_percentiles.as_dict(used)["data"]
    np.testing.assert_allclose(data[2]["customdata"], metrics.utilisation_percentiles(counts), rtol=1e-5)
    np.testing.assert_allclose(data[1]["base"] + data[1]["y"], used.amax(1), rtol=1e-6)
    padded = torch.nn.functional.pad(used, (0, 4), value=torch.nan)
    np.testing.assert_array_equal(utilisation_percentiles.as_dict(padded)["data"][2]["y"], data[2]["y"])


def test_fair_is_marked_and_the_widest_layer_named():
    figure = utilisation_percentiles([[1.0, 1, 1, 1], [0, 0, 0, 4]], ["even", "collapsed"])
    assert figure.layout.shapes[0].y0 == 1
    assert summary_of(figure).startswith("The widest spread is in collapsed: from 0.00 to 4.00")
