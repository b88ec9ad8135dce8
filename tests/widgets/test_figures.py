import json

import numpy as np
import pytest
import torch

from explorer.balancing import MEASURES
from tests.widgets import attention_pictures, trace_pictures
from widgets import figures
from widgets.figures import (
    attack_accuracy,
    balance,
    balance_methods,
    bias_trajectory,
    by_layer,
    coactivation_map,
    drops,
    entropy,
    field_partition,
    gate_summary,
    head_share,
    load_map,
    load_over_steps,
    loss_curve,
    margin_histogram,
    measure_by_router,
    module_usage,
    quality_by_flops,
    recovered_families,
    router_cosine,
    router_plane,
    specialisation,
    summary_of,
    token_path,
    two_curves,
    two_losses,
    utilisation_difference,
    utilisation_percentiles,
)

STEPS = np.arange(5)
SHARE = np.array([[0.5, 0.25, 0.25]] * 4 + [[0.7, 0.2, 0.1]])  # 5 steps x 3 experts: not square
LAYERS = {"layer 0": STEPS / 10, "layer 1": STEPS / 5}
BALANCED = [
    {"method": "none", "router": "topk-softmax", "k": 2, "control": None, "seed": 0, **dict.fromkeys(MEASURES, 0.5),
     "batch_floor": 0.2, "held_out_floor": 0.1}
]  # fmt: skip

FULL = {
    "loss_curve": lambda: (loss_curve, (STEPS, [5.0, 4, 3, 2, 1], [0, 4], [5.5, 1.5])),
    "load_over_steps": lambda: (load_over_steps, (STEPS, SHARE)),
    "balance": lambda: (balance, (STEPS, LAYERS, (0.1, 0.2))),
    "entropy": lambda: (entropy, (STEPS, STEPS / 4, 1 - STEPS / 4)),
    "load_map": lambda: (load_map, ([[0, 1, 2.0], [1, 1, 1.0]], ["blocks.0", "blocks.1"])),
    "specialisation": lambda: (specialisation, ([[1, 0, 0.0], [0.2, 0.3, 0.5]], ["english", "python"], 3, 0.4)),
    "gate_summary": lambda: (gate_summary, (STEPS, LAYERS, LAYERS)),
    "head_share": lambda: (head_share, (STEPS, torch.rand(5, 2, 3))),
    "token_path": lambda: (token_path, ([[2, 0], [1, -1]], [[0.7, 0.3], [1.0, 0]], ["a", "b"], 3, " it", SHARE[:2])),
    "coactivation_map": lambda: (coactivation_map, ([[1, 0.5, 0], [1, 1, 0], [0, 0, 0.0]], "layer 0")),
    "router_cosine": lambda: (router_cosine, ([[1, 0.5, -0.2], [0.5, 1, 0], [-0.2, 0, 1]], "layer 0")),
    "router_plane": lambda: (router_plane, (SHARE[:3, :2], SHARE[:, 1:], [0, 1, 2, 1, -1], 0.8, "layer 0")),
    "margin_histogram": lambda: (margin_histogram, (STEPS / 10, "layer 0", 0.1)),
    "drops": lambda: (drops, (STEPS, LAYERS, 1.25)),
    "bias_trajectory": lambda: (bias_trajectory, (STEPS, SHARE - 0.3, "layer 0")),
    "utilisation_percentiles": lambda: (utilisation_percentiles, (3 * SHARE[-2:], ["blocks.0", "blocks.1"])),
    "two_losses": lambda: (two_losses, (STEPS, STEPS / 2, STEPS[:4], STEPS[:4] / 4, "top-1", "top-2", "nats", 2)),
    "two_curves": lambda: (two_curves, (STEPS, STEPS / 2, STEPS[:4], STEPS[:4] / 4)),
    "utilisation_difference": lambda: (
        utilisation_difference,
        (3 * SHARE[:2], 3 * SHARE[-2:], [[2, 1, 0], [0, 1, -1]], ["a", "b"], [0.9, 0.8]),
    ),
    "quality_by_flops": lambda: (quality_by_flops, (["a", "b"], [2.0, 1.0], [[3.0, 3.2], [3.1]])),
    "measure_by_router": lambda: (measure_by_router, (["a", "b"], [[0.1, 0.3], [0.5]])),
    "balance_methods": lambda: (balance_methods, (BALANCED,)),
    "module_usage": lambda: (module_usage, ([[0, 1, 2], [2, -1, 0]], list("abc"), ["step 0", "step 1"], 3)),
    "field_partition": lambda: (field_partition, (SHARE, SHARE + 0.1, [[0, 1, 2]] * 5)),
    "attack_accuracy": lambda: (attack_accuracy, (STEPS, *[STEPS / 5] * 5, 0.1)),
    "recovered_families": lambda: (
        recovered_families,
        (torch.rand(4, 6, 2), [0, 0, 1, 1], [2, 2, 0, 1], ["a", "b"], 0.5),
    ),
    "by_layer": lambda: (by_layer, ([[1, 2, 4.0], [3, 1, 2.0]], ["layer 0", "layer 1"], "Row lengths")),
    **{name: lambda one=one: one for name, one in (attention_pictures.FULL | trace_pictures.FULL).items()},
}
UNTRAINED = {  # of what nobody trains here
    "by_layer": "There are no such numbers in this checkpoint.",
    **trace_pictures.UNTRACED,
}
EMPTY = {
    "by_layer": (by_layer, ([], [], "Row lengths")),
    "loss_curve": (loss_curve, ([], [])),
    "load_over_steps": (load_over_steps, ([], np.zeros((0, 3)))),
    "balance": (balance, ([], {})),
    "entropy": (entropy, ([], [], [])),
    "entropy of no layer": (entropy, (STEPS, None, None)),
    "load_map": (load_map, (np.zeros((0, 3)),)),
    "specialisation": (specialisation, (np.zeros((0, 3)), [])),
    "gate_summary": (gate_summary, ([], {}, {})),
    "head_share": (head_share, ([], np.zeros((0, 2, 3)))),
    "token_path": (token_path, (np.zeros((0, 2)), np.zeros((0, 2)))),
    "coactivation_map": (coactivation_map, (np.zeros((0, 0)),)),
    "router_cosine": (router_cosine, (np.zeros((0, 0)),)),
    "router_plane": (router_plane, (np.zeros((0, 2)), np.zeros((0, 2)), [], np.nan)),
    "margin_histogram": (margin_histogram, ([],)),
    "drops": (drops, ([], {})),
    "bias_trajectory": (bias_trajectory, ([], np.zeros((0, 3)))),
    "utilisation_percentiles": (utilisation_percentiles, (np.zeros((0, 3)),)),
    "two_losses": (two_losses, ([], [], [], [])),
    "two_curves": (two_curves, ([], [], [], [])),
    "utilisation_difference": (utilisation_difference, (np.zeros((0, 3)), np.zeros((0, 3)))),
    "quality_by_flops": (quality_by_flops, ([], [], [])),
    "measure_by_router": (measure_by_router, ([], [])),
    "balance_methods": (balance_methods, ([],)),
    "module_usage": (module_usage, (np.zeros((0, 3)),)),
    "field_partition": (field_partition, ([], [], [])),
    "attack_accuracy": (attack_accuracy, (*[[]] * 6, 0.1)),
    "recovered_families": (recovered_families, (np.zeros((0, 6, 2)), [], [], [], 0.0)),
    **attention_pictures.EMPTY,
    **trace_pictures.EMPTY,
}


def y_of(trace):
    return np.asarray(trace.y, dtype=float)


@pytest.mark.parametrize("name", FULL)
def test_dict_and_figure_are_the_same_picture(name):
    picture, arguments = FULL[name]()
    figure, plain = picture(*arguments), picture.as_dict(*arguments)
    assert len(figure.data) == len(plain["data"]) > 0
    for trace, given in zip(figure.data, plain["data"], strict=True):
        assert trace.type == given["type"]
        for axis in {"x", "y", "z"} & given.keys():
            if isinstance(given[axis], np.ndarray):
                np.testing.assert_array_equal(np.asarray(trace[axis]), given[axis])
    assert figure.layout.title.text == plain["layout"]["title"]["text"]
    assert summary_of(figure) == summary_of(plain)


@pytest.mark.parametrize("name", FULL)
def test_every_picture_tells_a_screen_reader_one_sentence(name):
    picture, arguments = FULL[name]()
    text = summary_of(picture(*arguments))
    assert text.endswith(".") and "nan" not in text and "array" not in text


@pytest.mark.parametrize("name", EMPTY)
def test_without_data_there_is_one_grey_sentence_and_no_axes(name):
    picture, arguments = EMPTY[name]
    figure = picture(*arguments)
    assert not figure.data
    sentence = UNTRAINED.get(name, "Nothing to show yet: press Train or Step.")
    assert [note.text for note in figure.layout.annotations] == [sentence]
    assert figure.layout.xaxis.visible is False and figure.layout.yaxis.visible is False
    assert sentence in summary_of(figure)


def test_all_pictures_are_tested():
    pictures = {name for name in figures.__all__ if isinstance(getattr(figures, name), figures.Picture)}
    assert pictures == set(FULL) and pictures <= set(EMPTY)


def test_a_load_line_is_one_expert_over_the_steps():
    figure = load_over_steps(STEPS, SHARE)
    assert [trace.name for trace in figure.data] == ["0", "1", "2"]
    np.testing.assert_allclose(y_of(figure.data[0]), [0.5, 0.5, 0.5, 0.5, 0.7], rtol=1e-6)
    assert figure.layout.shapes[0].y0 == pytest.approx(1 / 3)
    assert "expert 0 has the largest share, 70%" in summary_of(figure)


def test_a_curve_that_is_binned_already_says_so():
    mean, raw = loss_curve(np.arange(0, 320, 2), np.ones(160)).data
    assert (mean.name, raw.name) == ("mean of 16", "each 2 steps")


def test_the_axis_of_steps_keeps_its_end_for_many_frames():
    ends = [
        load_over_steps.as_dict(range(n), np.ones((n, 2)) / 2)["layout"]["xaxis"]["range"][1] for n in range(300, 400)
    ]
    assert ends[:2] == [300, 300] and set(ends) == {300, 400}


def test_rows_of_one_name_stay_two_rows():
    long = "a.very.long.path.of.modules."
    figure = load_map([[1.0, 1], [0, 2]], [long + "0", long + "1"])
    assert len(set(figure.data[0].y)) == 2


def test_many_experts_become_a_heat_map_with_a_row_each():
    figure = load_over_steps(STEPS, np.full((5, 11), 1 / 11))
    (heat,) = figure.data
    z = np.asarray(heat.z)
    assert heat.type == "heatmap" and z.shape == (11, 10)  # room up to step 10
    np.testing.assert_allclose(z[:, :5], 1 / 11, rtol=1e-6)
    assert np.isnan(z[:, 5:]).all()


def test_the_load_map_is_pale_at_fair_and_names_the_dead():
    figure = load_map([[0, 1, 2.0], [1, 1, 1.0]], ["blocks.0", "blocks.1"])
    (heat,) = figure.data
    assert np.asarray(heat.z).shape == (2, 3) and list(heat.y) == ["blocks.0", "blocks.1"]
    middle = dict(heat.colorscale)[0.5]
    assert (heat.zmin + heat.zmax) / 2 == 1 and middle == "#F4F1EA"
    assert "dead experts: 1 in blocks.0." in summary_of(figure)


def test_a_layer_with_fewer_experts_leaves_its_cells_empty():
    assert "from 0.50 to 1.50" in summary_of(load_map([[0.5, 1.5, np.nan]]))


def test_specialisation_tells_the_information_and_the_fair_share():
    figure = specialisation([[1, 0, 0.0], [0.2, 0.3, 0.5]], ["english", "python"], 3, 0.4, layer="blocks.0")
    assert figure.layout.title.text.startswith("Specialisation by domain, blocks.0<br>")
    assert "NMI 0.400" in figure.layout.title.text
    assert "fair 33%" in figure.data[0].colorbar.ticktext
    assert "english to expert 0 (100%) and python to expert 2 (50%)" in summary_of(figure)


def test_the_chance_band_spans_mean_to_quantile():
    figure = balance(STEPS, LAYERS, (0.1, 0.2))
    assert (figure.layout.shapes[0].y0, figure.layout.shapes[0].y1) == (0.1, 0.2)
    assert not balance(STEPS, LAYERS).layout.shapes


def test_a_gate_and_its_shut_share_have_one_colour():
    figure = gate_summary(STEPS, LAYERS, LAYERS)
    colours = figure.layout.template.layout.colorway
    assert [trace.line.color for trace in figure.data] == [None, None, colours[0], colours[1]]


def test_heads_are_lines_until_there_are_too_many():
    assert [t.name for t in head_share(STEPS, torch.rand(5, 1, 3)).data] == [f"layer 0 head {h}" for h in range(3)]
    (heat,) = head_share(STEPS, torch.rand(5, 4, 3)).data
    assert np.asarray(heat.z).shape == (12, 10)


def test_the_loss_shows_its_mean_and_the_held_out_loss():
    mean, held, raw = loss_curve(STEPS, [5.0, 4, 3, 2, 1], [0, 4], [5.5, 1.5]).data
    np.testing.assert_allclose(y_of(raw), [5, 4, 3, 2, 1])
    np.testing.assert_allclose(y_of(held), [5.5, 1.5])
    assert (mean.name, raw.name) == ("mean of 1", "each step") and summary_of(loss_curve([0], [np.nan])).startswith(
        "Training loss went"
    )


def test_a_long_run_is_thinned_to_means_and_old_points_stay():
    long, longer = (loss_curve.as_dict(range(n), np.arange(n, dtype=float))["data"][-1] for n in (1001, 1500))
    assert len(long["x"]) == 251 <= 400 and long["y"][0] == np.mean([0, 1, 2, 3]) and long["x"][0] == 3
    np.testing.assert_array_equal(long["y"][:250], longer["y"][:250])
    np.testing.assert_array_equal(long["x"][:250], longer["x"][:250])
    assert long["x"][-1] == 1000


def test_lines_of_one_picture_share_their_steps():
    traces = load_over_steps.as_dict(range(1000), np.full((1000, 3), 1 / 3))["data"]
    assert len({id(trace["x"]) for trace in traces}) == 1


def test_a_missing_value_is_a_gap_not_a_zero():
    y = loss_curve.as_dict(range(801), np.r_[np.full(4, np.nan), np.ones(797)])["data"][-1]["y"]
    assert np.isnan(y[0]) and np.isfinite(y[1:]).all()


def test_dressing_in_the_dark_changes_no_data():
    figure = load_over_steps(STEPS, SHARE)
    dark = figures.dress(load_over_steps(STEPS, SHARE), "dark", "#111111")
    assert dark.layout.paper_bgcolor == "#111111"
    assert dark.layout.template.layout.colorway != figure.layout.template.layout.colorway
    np.testing.assert_array_equal(y_of(dark.data[0]), y_of(figure.data[0]))


def test_arguments_are_left_as_they_were():
    share, names = SHARE.copy(), {"a": STEPS.astype(float)}
    load_over_steps(STEPS, share)
    balance(STEPS, names)
    np.testing.assert_array_equal(share, SHARE)
    np.testing.assert_array_equal(names["a"], STEPS)


def test_a_picture_keeps_the_signature_and_docstring_of_its_function():
    assert loss_curve.__name__ == "loss_curve" and "steps_S" in loss_curve.__doc__
    with pytest.raises(TypeError, match="colour"):
        loss_curve([], [], colour="red")


def test_figures_can_be_saved_as_json():
    for picture, arguments in (make() for make in FULL.values()):
        json.loads(picture(*arguments).to_json())
