"""What each picture of attention shows, with numbers one can check in the head."""

import numpy as np
import pytest
import torch

from tests.widgets.attention_pictures import FULL, LEARNT, MAP, NAN, ROWS, SHARE, STEPS, WORDS
from widgets.figures import (
    attention_map,
    block_masks,
    gate_by_kind,
    gate_histogram,
    head_shares,
    hopfield_energy,
    hopfield_regimes,
    joint_attention,
    locality,
    massive_activations,
    paper_beside,
    received_mass,
    sink_birth,
    summary_of,
    tasks_forgotten,
    value_norms,
    with_cursor,
)
from widgets.figures.tasks_forgotten import measures


def test_the_birth_of_a_sink_is_rows_of_heads_over_steps_with_lines_between_layers():
    plain = sink_birth.as_dict(*FULL["sink_birth"][1])
    (heat,) = plain["data"]
    assert heat["y"] == ROWS and heat["x"].tolist() == STEPS.tolist()
    np.testing.assert_allclose(heat["z"], SHARE.T, rtol=1e-6)
    assert (heat["zmin"], heat["zmax"]) == (0, 1) and "even 5.0%" in heat["colorbar"]["ticktext"]
    assert [shape["y0"] for shape in plain["layout"]["shapes"]] == [1.5]
    said = (
        "At step 40 head 0.0 spends most on the first token, 90% of its attention, against 5.0% at step 0; 2 of 3 heads"
    )
    assert summary_of(plain).startswith(said)
    assert len(with_cursor(plain, 20)["layout"]["shapes"]) == 3


def test_more_heads_than_rows_show_the_strongest_of_several_and_say_so():
    share = np.zeros((2, 400))
    share[1, 399] = 0.8
    plain = sink_birth.as_dict([0, 1], share)
    (heat,) = plain["data"]
    assert heat["z"].shape == (134, 2) and heat["z"][-1, 1] == np.float32(0.8)
    assert "strongest of 3 heads" in plain["layout"]["title"]["text"]


def test_a_causal_map_is_empty_where_nobody_may_look_and_nowhere_is_a_column_of_its_own():
    plain = attention_map.as_dict(*FULL["attention_map"][1])
    heat, nowhere = plain["data"]
    assert np.isnan(heat["z"][np.triu_indices(4, 1)]).all() and np.isfinite(heat["z"][np.tril_indices(4)]).all()
    assert heat["x"] == ["0 BOS", "1 ·it", "2 &lt;b&gt;", "3 é"] == heat["y"]
    assert nowhere["x"] == ["nowhere"] and nowhere["z"].tolist() == [[0.25]] * 4 and nowhere["xaxis"] == "x2"
    said = "Queries give 60% of their attention to the first token (“BOS”), on average; the largest weight beside it is 50%"
    assert summary_of(plain) == said + ", of position 1 “·it” on position 1 “·it”; 25% goes nowhere."


def test_a_map_that_looks_ahead_is_drawn_whole():
    heat = attention_map.as_dict(torch.full((3, 3), 1 / 3))["data"][0]
    assert np.isfinite(heat["z"]).all()


def test_queries_after_a_cache_are_the_last_positions():
    heat = attention_map.as_dict(MAP[2:], WORDS)["data"][0]
    assert heat["y"] == ["0 &lt;b&gt;", "1 é"] and np.isnan(heat["z"]).sum() == 1


def test_a_long_map_keeps_the_largest_weight_of_each_block():
    weights = np.tril(np.full((300, 300), 1e-3))
    weights[290, 7] = 0.9
    plain = attention_map.as_dict(weights)
    heat = plain["data"][0]
    assert np.nanmax(heat["z"]) == np.float32(0.9) and max(heat["z"].shape) <= 129
    row, column = np.unravel_index(np.nanargmax(heat["z"]), heat["z"].shape)
    assert (heat["y"][row], heat["x"][column]) == ("288–291", "4–7") and heat["x"][0] == "0"
    assert "4 × 4" in plain["layout"]["title"]["text"]


def test_grown_and_learned_sinks_stand_beside_each_other_and_are_never_added():
    plain = head_shares.as_dict(*FULL["head_shares"][1])
    grown, learned = plain["data"]
    assert grown["x"].tolist()[:2] == pytest.approx([0.6, 0.1]) and learned["x"].tolist() == pytest.approx(
        [0, 0.8, 0.3]
    )
    assert "barmode" not in plain["layout"]  # plotly's default puts bars side by side
    assert grown["marker"]["pattern"]["shape"] != learned["marker"]["pattern"]["shape"]
    assert plain["layout"]["shapes"][0]["x0"] == 0.05
    many = head_shares.as_dict([], np.arange(100) / 100)
    assert many["data"][0]["y"][0] == "head 60" and "the 40 of 100 heads" in many["layout"]["title"]["text"]


def test_the_histogram_of_a_gate_counts_every_value_once():
    plain = gate_histogram.as_dict([0.0, 0.05, 0.5, 1.0, NAN])
    (bars,) = plain["data"]
    assert bars["y"].sum() == pytest.approx(1) and plain["layout"]["xaxis"]["range"] == [0, 1]
    assert "50% are below 0.1" in plain["layout"]["title"]["text"]
    assert gate_histogram.as_dict([-0.3, 2.0])["layout"]["xaxis"]["range"] == pytest.approx([-0.3, 2.0])


def test_a_gate_that_detects_says_so_and_kinds_differ_by_their_signs():
    gate = torch.tensor([[0.1, 0.1, 0.1, 0.9, 0.9, 0.5], [0.5] * 6])
    plain = gate_by_kind.as_dict(gate, [0, 0, 0, 1, 1, -1], ["word", "trigger"], [1.0, 0.5])
    word, trigger = plain["data"]
    assert word["x"].tolist() == pytest.approx([0.1, 0.5]) and trigger["x"].tolist() == pytest.approx([0.9, 0.5])
    assert word["marker"]["symbol"] != trigger["marker"]["symbol"]
    assert "is the gate a detector? best AUC 1.00" in plain["layout"]["title"]["text"]
    assert plain["layout"]["yaxis"]["ticktext"][0] == "0: AUC 1.00"
    assert summary_of(plain).startswith(
        "The mean gate is 0.30 at word and 0.70 at trigger; head 0 is the best detector"
    )


def test_of_many_heads_the_best_detectors_are_drawn():
    plain = gate_by_kind.as_dict(torch.rand(64, 9), [0] * 9, ["word"], np.linspace(0.5, 1, 64))
    assert plain["layout"]["yaxis"]["ticktext"][0].startswith("40: AUC")
    assert "24 of 64 heads" in plain["layout"]["title"]["text"]


def test_massive_is_said_only_where_it_is_true_and_the_level_is_drawn_only_when_near():
    plain = massive_activations.as_dict([2, 3000.0], [1.0, 1.5])
    assert [one["name"] for one in plain["data"]] == ["largest |h|", "median |h|", "1000 × median"]
    np.testing.assert_allclose(plain["data"][0]["customdata"], [2, 2000])
    assert "2,000 times the median there; massive in 1 of 2 layers" in summary_of(plain)
    calm = massive_activations.as_dict([7, 14.0], [1, 1.5])
    assert len(calm["data"]) == 2 and "no layer has massive ones" in summary_of(calm)
    assert np.isnan(massive_activations.as_dict([0.0, 5], [1, 1])["data"][0]["y"][0])


def test_value_norms_are_relative_to_their_head():
    plain = value_norms.as_dict([[0, 1, 2, 5.0], [10, 10, 10, 10]])
    np.testing.assert_allclose(plain["data"][0]["z"], [[0, 0.5, 1, 2.5], [1, 1, 1, 1]])
    assert "first token" in plain["layout"]["annotations"][0]["text"]
    assert "0.00 to 1.00 times" in summary_of(plain) and "in 1 of 2 heads" in summary_of(plain)


def test_received_mass_finds_a_sink_wherever_it_stands():
    received = np.full((2, 1000), 0.001)
    received[1, 500] = 0.6
    plain = received_mass.as_dict(received, [f"w{i}" for i in range(1000)], ["0.0", "0.1"])
    assert plain["data"][0]["z"].max() == np.float32(0.6)
    assert summary_of(plain).startswith("Most goes to position 500 “w500” in 0.1, 60%")


def test_locality_has_two_panels_of_the_same_lines_over_the_steps():
    plain = locality.as_dict(*FULL["locality"][1])
    above, below = plain["data"][:3], plain["data"][3:]
    assert [one["name"] for one in above] == [one["name"] for one in below] == ROWS
    assert {one["yaxis"] for one in above} == {"y"} and {one["yaxis"] for one in below} == {"y2"}
    assert len({one["line"]["dash"] for one in above}) == 3 and not any(one["showlegend"] for one in below)
    assert "0.28 (0.0, the least local)" in summary_of(plain)
    assert len(with_cursor(plain, 20)["layout"]["shapes"]) == 3
    assert len(locality.as_dict(STEPS, SHARE)["data"]) == 3
    heats = locality.as_dict(STEPS, np.tile(SHARE, 4), (), np.tile(SHARE, 4))["data"]
    assert [one["type"] for one in heats] == ["heatmap"] * 2 and heats[0]["z"].shape == (12, 5)


def test_block_masks_show_truth_prediction_and_choice():
    plain = block_masks.as_dict(*FULL["block_masks"][1])
    truth, score, kept = plain["data"]
    assert np.isnan(truth["z"][0, 1]) and truth["z"][2, 0] == np.float32(0.1)
    assert kept["customdata"][2].tolist() == ["left out", "kept", "kept"]
    assert [plain["layout"][f"xaxis{n}"]["title"]["text"].split("<br>")[0] for n in ("", 2, 3)] == [
        "true",
        "predicted",
        "kept",
    ]
    assert score["zmax"] == pytest.approx(0.8)
    assert "keeps 67% of the blocks and 86% of the attention lies in them (recall)" in summary_of(plain)
    half = np.tril(np.ones((192, 192)))
    half[:, 0::2] = 0
    pooled = block_masks.as_dict(np.tril(np.ones((192, 192))), half, half)["data"][2]
    assert pooled["z"].shape == (96, 96) and pooled["z"][50, 3] == 0.5


def test_a_trajectory_has_a_start_and_an_end_and_is_measured():
    plain = hopfield_energy.as_dict(*FULL["hopfield_energy"][1])
    assert [one["name"] for one in plain["data"]] == ["energy", "stored patterns", "way", "way", "start", "end"]
    start, end = plain["data"][-2:]
    assert (float(start["x"][0]), float(end["x"][0])) == (pytest.approx(0.9), 1.0)
    assert start["marker"]["symbol"] != end["marker"]["symbol"]
    assert "β = 8" in plain["layout"]["title"]["text"]
    assert summary_of(plain).endswith("after 1 updates the state is 0 from the nearest of them in this plane.")


def test_the_regimes_are_in_the_order_of_beta():
    states, size = hopfield_regimes.as_dict([64, 1, 8], [1, 29, 7], [32, 1, 4])["data"]
    assert (
        states["x"].tolist() == [1, 8, 64] and states["y"].tolist() == [1, 4, 32] and size["y"].tolist() == [29, 7, 1]
    )
    assert states["marker"]["symbol"] != size["marker"]["symbol"] and size["line"]["dash"] == "dash"


def test_forgetting_is_the_fall_from_the_best_of_all_tasks_but_the_newest():
    average, forgetting = measures(np.array(LEARNT))
    assert average == pytest.approx(2 / 3) and forgetting == pytest.approx((0.6 + 0.1) / 2)
    plain = tasks_forgotten.as_dict(*FULL["tasks_forgotten"][1])
    assert "average 67%, forgetting 35 points" in plain["layout"]["title"]["text"]
    assert plain["data"][0]["y"] == ["after 0 and 1", "after 2 and 3", "after 4 and 5"]
    assert "0 and 1 went from 90% to 30%" in summary_of(plain)
    assert np.isnan(measures(np.array([[0.9]]))[1])


def test_the_sum_of_both_attentions_has_the_scale_of_both():
    local, everywhere = torch.tensor([[1.0, 0], [0, 1]]), torch.tensor([[-0.5, 0.25], [0.25, 0.25]])
    one, two, both = joint_attention.as_dict(local, everywhere)["data"]
    np.testing.assert_allclose(both["z"], [[0.5, 0.25], [0.25, 1.25]])
    assert {(trace["zmin"], trace["zmax"]) for trace in (one, two, both)} == {(-1.25, 1.25)}
    assert [trace["showscale"] for trace in (one, two, both)] == [False, True, False]
    assert joint_attention.as_dict(local, local)["data"][0]["zmin"] == 0
    far = np.zeros((200, 200))
    far[0, 0], far[150, 151] = 0.2, -0.9
    assert joint_attention.as_dict(far, far)["data"][0]["z"].min() == np.float32(-0.9)


def test_the_paper_and_ours_differ_in_sign_and_a_missing_value_is_told():
    plain = paper_beside.as_dict(*FULL["paper_beside"][1])
    here, paper = plain["data"]
    assert here["x"].tolist() == pytest.approx([0.6, 0.1]) and np.isnan(paper["x"][1])
    np.testing.assert_allclose(here["error_x"]["arrayminus"], [0.1, 0.05], rtol=1e-5)
    np.testing.assert_allclose(here["error_x"]["array"], [0.3, 0.1], rtol=1e-5)
    assert here["marker"]["symbol"] != paper["marker"]["symbol"]
    assert "the paper gives no value for 1 of 2" in plain["layout"]["title"]["text"]
    assert "G1 not given in the paper, 0.1 here" in summary_of(plain)
