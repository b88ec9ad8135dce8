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

INDEX = torch.tensor([[0, 1, 1, 3], [2, 2, -1, 2]])  # 2 steps x 4 tokens: not square
PARTS = np.repeat([[0, 0, 2], [0, 2, 2]], 2, axis=1)  # 2 x 6
RADIUS = [0.0, 0.05, 0.1]
ATTACK = (RADIUS, [0.9, 0.7, 0.5], [0.9, 0.8, 0.7], [0.9, 0.85, 0.6], [0.0, 0.1, 0.4])
FULL = {
    "module_usage": (module_usage, (INDEX, [" it", "<b>", "a"], ["attention 0", "ffn 0"], 4)),
    "field_partition": (field_partition, (np.random.default_rng(0).random((2, 6)), PARTS, (0, 6, 0, 2), 4)),
    "attack_accuracy": (attack_accuracy, ATTACK),
}
EMPTY = {
    "module_usage": (module_usage, (np.zeros((0, 3)),)),
    "field_partition": (field_partition, (np.zeros((0, 0)), np.zeros((0, 0)))),
    "attack_accuracy": (attack_accuracy, ([], [], [], [], [])),
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


def test_the_field_stands_upright_and_every_region_carries_its_number():
    picture, parts = (one := field_partition.as_dict(*FULL["field_partition"][1]))["data"]
    assert picture["y"].tolist() == [1.5, 0.5] and picture["x"].tolist() == [0.5, 1.5, 2.5, 3.5, 4.5, 5.5]
    np.testing.assert_array_equal(parts["z"], PARTS)
    marks = {note["text"]: (note["x"], note["y"]) for note in one["layout"]["annotations"]}
    assert set(marks) == {"0", "2"}
    for text, (x, y) in marks.items():
        assert PARTS[int(2 - y), int(x)] == int(text)
    assert summary_of(one) == "Of the plane expert 0 50% and expert 2 50%; 2 of 4 experts paint nothing."
    alone = field_partition.as_dict(np.zeros((2, 2)), np.full((2, 2), -1))
    assert "no expert any" in summary_of(alone)


def test_the_attack_is_told_at_its_largest_radius_and_lines_differ_by_more_than_colour():
    plain = attack_accuracy.as_dict(*ATTACK, of="trained in turns")
    assert "At radius 0.1, 50% of the images are still right; 70% if only the experts are fooled, 60%" in summary_of(
        plain
    )
    assert len({one["line"].get("dash", "solid") for one in plain["data"]}) == 4
    assert len({one["marker"]["symbol"] for one in plain["data"]}) == 4
    assert plain["layout"]["title"]["text"] == "Accuracy under attack, trained in turns"
