"""The picture and the page of the balance benchmark."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd

from explorer.balancing import MEASURES
from widgets.export import balance_page
from widgets.figures import summary_of
from widgets.figures.balance_methods import PANELS, balance_methods, shown

ROOT = Path(balance_page.__file__).resolve().parents[2]
NONE, LOSS, CHOICE = "none (topk-softmax)", "auxiliary loss", "expert choice"


def rows(*given):
    """{method: (control, value)} as rows of two seeds."""
    return [
        {"method": name, "router": "topk-softmax", "k": 2, "control": control, "seed": seed,
         **dict.fromkeys(MEASURES, value + seed / 4), "batch_floor": 0.2, "held_out_floor": 0.1}
        for name, control, value in given
        for seed in (0, 1)
    ]  # fmt: skip


THREE = rows((NONE, None, 2.0), (LOSS, NONE, 0.5), (CHOICE, NONE, 0.0))


def test_dict_and_figure_are_the_same_picture_with_one_sentence_for_a_screen_reader():
    figure, plain = balance_methods(THREE), balance_methods.as_dict(THREE)
    assert len(figure.data) == len(plain["data"]) == 5 * len(PANELS)
    assert summary_of(figure) == summary_of(plain)
    assert summary_of(plain) == (
        "MaxVio of a training batch: auxiliary loss 0.62 instead of 2.12 (loss on the rarest domain -1.500) and "
        "expert choice 0.12 instead of 2.12 (loss on the rarest domain -2.000)."
    )
    json.loads(figure.to_json())


def test_without_data_there_is_one_grey_sentence():
    figure = balance_methods([])
    assert not figure.data and "Nothing to show yet" in summary_of(figure)


def test_a_control_stands_below_the_methods_that_it_controls():
    assert shown(THREE) == {LOSS: NONE, CHOICE: NONE}
    assert shown(THREE[2:]) == {LOSS: None, CHOICE: None}
    assert shown(THREE[:2]) == {NONE: None}
    without, without_mean, seeds, mean, _ = balance_methods.as_dict(THREE)["data"][:5]
    np.testing.assert_allclose(seeds["x"], [0.5, 0.75, 0, 0.25])
    np.testing.assert_allclose(mean["x"], [0.625, 0.125])
    np.testing.assert_allclose(without_mean["x"], [2.125, 2.125])
    assert (np.sort(without["y"]) > np.sort(seeds["y"])).all()  # the axis points down
    assert mean["marker"]["symbol"] != without["marker"]["symbol"]  # never colour alone


def test_every_panel_has_its_axes_and_the_names_stand_once_a_row():
    layout = balance_methods.as_dict(THREE)["layout"]
    axes = [layout[f"yaxis{i or ''}"] for i in (0, 2, 3, 4, 5, 6)]
    assert [axis["showticklabels"] for axis in axes] == [True, False] * 3
    assert axes[0]["ticktext"] == ["auxiliary<br>loss", "expert<br>choice"]
    assert axes[0]["domain"][0] > axes[2]["domain"][1] and axes[4]["domain"][0] == 0
    assert [note["text"] for note in layout["annotations"]] == [f"<b>{heading}</b>" for _, heading, *_ in PANELS]


def test_what_dice_reach_is_marked_where_it_means_something():
    data = balance_methods.as_dict(THREE)["data"]
    dice = [trace for trace in data if trace["name"] == "a random router stays left of it"]
    assert [trace["x"] for trace in dice] == [[0.2, 0.2], [0.1, 0.1], [], [], [], []]
    assert [trace["showlegend"] for trace in dice] == [True] + [False] * 5


def test_a_number_that_is_missing_is_left_out():
    broken = [{**row, "rare_loss": None if row["seed"] else float("nan")} for row in THREE]
    plain = balance_methods.as_dict(broken)
    assert all(not len(trace["x"]) for trace in plain["data"][-5:])
    assert summary_of(plain) == "No method has any number to show."


def test_foreign_names_are_escaped():
    hostile = rows(("<img src=x>", None, 1.0))
    figure = balance_methods(hostile)
    drawn = figure.update_layout(meta=None).to_json()  # the sentence for screen readers is no markup
    assert "<img" not in drawn and "&lt;img" in drawn
    page = balance_page.page(pd.DataFrame(hostile))
    assert "<img" not in page


def test_the_page_holds_the_numbers_and_what_the_methods_do():
    page = balance_page.page(pd.DataFrame(THREE))
    assert '<figure class="view"' in page and "0.62<br>0.50..0.75" in page
    assert "english 70%" in page and "auxiliary loss (topk-softmax): A loss grows" in page and "seeds 0, 1" in page
    assert "none (topk-softmax) (topk-softmax)" not in page


def test_a_table_becomes_a_page_by_one_command():
    command = [sys.executable, "-m", "widgets.export.balance_page"]
    text = pd.DataFrame(THREE).to_json(orient="records")
    done = subprocess.run(command, input=text, capture_output=True, encoding="utf-8", cwd=ROOT)
    assert done.returncode == 0, done.stderr
    assert done.stdout == balance_page.page(pd.DataFrame(THREE))
