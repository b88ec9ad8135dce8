"""The pictures of the mechanisms that are more than a router: ways through modules, a field's partition, an attack."""

import json

import numpy as np
import pytest
import torch

from widgets.figures import summary_of
from widgets.figures.attack_accuracy import attack_accuracy
from widgets.figures.field_partition import field_partition
from widgets.figures.module_usage import MOST_TOKENS, module_usage, steps_of_colour
from widgets.figures.palette import LIGHT
from widgets.figures.recovered_families import MOST_PIECES, recovered_families

INDEX = torch.tensor([[0, 1, 1, 3], [2, 2, -1, 2]])  # 2 steps x 4 tokens: not square
PARTS = np.repeat([[0, 0, 2], [0, 2, 2]], 2, axis=1)  # 2 x 6
PAINTED = np.random.default_rng(0).random((2, 6))
STEPS = [0, 5, 10]
ATTACK = (STEPS, [0.1, 0.8, 0.9], [0.1, 0.7, 0.5], [0.1, 0.8, 0.7], [0.1, 0.85, 0.6], [0.0, 0.1, 0.4], 0.1)
PIECES = torch.arange(6 * 3 * 2).view(6, 3, 2).float()  # 6 pieces of 3 states
MOTION = (PIECES, [0, 0, 1, 1, 1, 2], [0, 0, 12, 1, 12, -1], ["falling", "<i>swinging", "resting"], 0.7)
FULL = {
    "module_usage": (module_usage, (INDEX, [" it", "<b>", "a"], ["attention 0", "ffn 0"], 4)),
    "field_partition": (field_partition, (PAINTED, PAINTED, PARTS, (0, 6, 0, 2), 4)),
    "recovered_families": (recovered_families, MOTION),
    "attack_accuracy": (attack_accuracy, ATTACK),
}
EMPTY = {
    "module_usage": (module_usage, (np.zeros((0, 3)),)),
    "field_partition": (field_partition, (np.zeros((0, 0)),) * 3),
    "recovered_families": (recovered_families, (np.zeros((0, 3, 2)), [], [], ["a"], 0.0)),
    "attack_accuracy": (attack_accuracy, ([], [], [], [], [], [], 0.1)),
}


@pytest.mark.parametrize("name", FULL)
def test_dict_and_figure_are_the_same_picture_with_one_sentence_for_a_screen_reader(name):
    picture, arguments = FULL[name]
    figure, plain = picture(*arguments), picture.as_dict(*arguments)
    assert len(figure.data) == len(plain["data"]) > 0
    assert [one.type for one in figure.data] == [one["type"] for one in plain["data"]]
    assert summary_of(figure) == summary_of(plain)
    assert summary_of(plain).endswith(".") and "nan" not in summary_of(plain)
    json.loads(figure.to_json())


@pytest.mark.parametrize("name", EMPTY)
def test_without_data_there_is_one_grey_sentence(name):
    picture, arguments = EMPTY[name]
    figure = picture(*arguments)
    assert not figure.data and "Nothing to show yet" in summary_of(figure)


def test_a_cell_names_the_module_its_token_takes_and_foreign_words_are_escaped():
    plain = module_usage.as_dict(INDEX, [" it", "<b>", "a"], ["attention 0", "ffn 0"], 4)
    heat = plain["data"][0]
    assert heat["text"].tolist() == [["0", "1", "1", "3"], ["2", "2", "", "2"]]
    assert np.isnan(heat["z"][1, 2]) and heat["z"][0].tolist() == [0, 1, 1, 3]
    assert heat["y"] == ["attention 0", "ffn 0"] and "<b>" not in "".join(heat["x"]) and len(set(heat["x"])) == 4
    assert "The 4 tokens take 4 different ways through 2 steps" in summary_of(plain)
    assert "module 2 at ffn 0 (75%)" in summary_of(plain)


def test_modules_beyond_ten_repeat_colours_and_keep_their_numbers():
    heat = module_usage.as_dict(torch.tensor([[11, 1]]), n_experts=12)["data"][0]
    assert heat["z"].tolist() == [[1, 1]] and heat["text"].tolist() == [["11", "1"]]
    assert module_usage.as_dict(torch.zeros(3, 500, dtype=torch.long))["data"][0]["z"].shape == (3, MOST_TOKENS)
    scale = steps_of_colour(3)
    assert scale[0] == [0, LIGHT[0]] and scale[-1] == [1, LIGHT[2]] and len(scale) == 6


def test_colours_are_explained_where_they_do_not_repeat():
    assert "colorbar" in module_usage.as_dict(INDEX, n_experts=4)["data"][0]
    assert module_usage.as_dict(INDEX, n_experts=16)["data"][0]["showscale"] is False


def test_the_field_stands_upright_and_every_region_carries_its_number():
    target, painted, parts = (one := field_partition.as_dict(*FULL["field_partition"][1]))["data"]
    assert painted["y"].tolist() == [1.5, 0.5] and painted["x"].tolist() == [0.5, 1.5, 2.5, 3.5, 4.5, 5.5]
    assert (target["zmin"], target["zmax"]) == (painted["zmin"], painted["zmax"])
    np.testing.assert_array_equal(parts["z"], PARTS)
    marks = {note["text"]: (note["x"], note["y"]) for note in one["layout"]["annotations"]}
    assert set(marks) == {"0", "2"}
    for text, (x, y) in marks.items():
        assert PARTS[int(2 - y), int(x)] == int(text)
    said = "Of the plane expert 0 50% and expert 2 50%; 2 of 4 experts paint nothing; the error is 0% of the picture's "
    assert summary_of(one) == said + "variance."
    nothing = np.zeros((2, 2))
    alone = field_partition.as_dict(nothing, nothing, np.full((2, 2), -1))
    assert "no expert any" in summary_of(alone)


def test_a_regions_number_stands_where_it_is_thickest():
    parts = np.zeros((20, 20), dtype=int)
    parts[2:9, 2:9], parts[5, 9:20] = 1, 1  # a square with a long tail
    marks = field_partition.as_dict(parts, parts, parts, (0, 20, 0, 20))["layout"]["annotations"]
    assert next((note["x"], note["y"]) for note in marks if note["text"] == "1") == (5.5, 14.5)


def test_the_error_of_a_painting_is_that_of_the_field():
    target = np.array([[0.0, 2.0], [0.0, 2.0]])
    said = summary_of(field_partition.as_dict(target, np.ones((2, 2)), np.zeros((2, 2), dtype=int)))
    assert "the error is 100% of the picture's variance" in said


def test_the_attack_is_told_at_its_newest_step_and_lines_differ_by_more_than_colour():
    plain = attack_accuracy.as_dict(*ATTACK)
    assert "At step 10, 90% of the images are right and 50% under attack; 70% if only the experts are fooled, 60%" in (
        summary_of(plain)
    )
    assert len({(one["line"].get("dash", "solid"), one["line"]["width"]) for one in plain["data"]}) == 5
    assert len({one["marker"]["symbol"] for one in plain["data"]}) == 5
    assert "0.1 of the range" in plain["layout"]["title"]["text"]


def test_every_family_has_its_panel_and_every_expert_its_colour():
    plain = recovered_families.as_dict(*MOTION)
    assert [one["name"] for one in plain["data"]] == ["none", "0", "1", "12"]
    assert [one["xaxis"] for one in plain["data"]] == ["x3", "x", "x2", "x2"]
    assert [one.get("meta", {}).get("colour") for one in plain["data"]] == [None, 0, 1, 12]
    first, solid, dashed = plain["data"][1]["x"], plain["data"][2], plain["data"][3]
    np.testing.assert_array_equal(first, [0, 2, 4, np.nan, 6, 8, 10, np.nan])
    assert solid["line"]["dash"] != dashed["line"]["dash"]
    titles = [plain["layout"][f"xaxis{n}"]["title"]["text"] for n in ("", "2", "3")]
    assert titles[0] == "falling<br>expert 0: 100%" and titles[1].endswith("expert 12: 67%") and "<i>" not in titles[1]
    assert "falling to expert 0 (100%)" in summary_of(plain) and "0.70" in summary_of(plain)


def test_of_many_pieces_some_are_drawn_and_all_are_counted():
    many = torch.zeros(500, 3, 2)
    experts = torch.cat([torch.zeros(100), torch.ones(400)]).long()
    plain = recovered_families.as_dict(many, torch.zeros(500).long(), experts, ["one"], 0.0)
    assert sum(len(one["x"]) for one in plain["data"]) == 4 * MOST_PIECES
    assert "one to expert 1 (80%)" in summary_of(plain)
