"""The pictures of attention: sinks, gates, locality, block masks, Hopfield energies, forgetting, paper beside measurement."""

import json
import re
import warnings

import numpy as np
import pytest
import torch

from tests.widgets.attention_pictures import BLOCKS, FULL, GRID, LEARNT, MAP, NAN, ROWS, SHARE, STEPS
from widgets.export.tables import table
from widgets.figures import (
    attention_map,
    block_masks,
    dress,
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
from widgets.figures.positions import percent, stretches, telling
from widgets.views.chart import encode

NANS = np.full((3, 3), NAN)
UNKNOWN = {
    "sink_birth": (sink_birth, ([0, 1, 2], NANS)),
    "attention_map": (attention_map, (NANS, (), "", [NAN] * 3)),
    "head_shares": (head_shares, (ROWS, [NAN] * 3, [NAN] * 3, NAN)),
    "gate_histogram": (gate_histogram, ([NAN],)),
    "gate_by_kind": (gate_by_kind, (NANS, [0, 1, -1], ["a", "b"], [NAN] * 3)),
    "massive_activations": (massive_activations, ([NAN], [NAN])),
    "value_norms": (value_norms, (NANS,)),
    "received_mass": (received_mass, (NANS,)),
    "locality": (locality, ([0, 1, 2], NANS, (), NANS)),
    "block_masks": (block_masks, (NANS, NANS, NANS)),
    "hopfield_energy": (hopfield_energy, (NANS, [0, 1, 2], [0, 1, 2], [[NAN, NAN]], [[NAN, NAN]])),
    "hopfield_regimes": (hopfield_regimes, ([NAN], [NAN], [NAN])),
    "tasks_forgotten": (tasks_forgotten, (NANS,)),
    "joint_attention": (joint_attention, (NANS, NANS)),
    "paper_beside": (paper_beside, (["a"], [NAN], [NAN])),
}


def large():
    """24 layers of 16 heads, 64 heads, 8192 tokens: name -> (picture, arguments)."""
    rng = np.random.default_rng(0)
    rows = [f"blocks.{i}.{h}" for i in range(24) for h in range(16)]
    long_SR, heads_HS = rng.random((2000, 384)), rng.random((384, 8192))
    tokens = [" a longer token"] * 8192
    blocks = np.tril(rng.random((512, 512)))
    return {
        "sink_birth": (sink_birth, (np.arange(2000), long_SR, rows)),
        "attention_map": (attention_map, (np.tril(rng.random((2048, 2048))), tokens, "", rng.random(2048))),
        "head_shares": (head_shares, (rows, rng.random(384), rng.random(384), 0.05)),
        "gate_histogram": (gate_histogram, (rng.random(8192 * 16),)),
        "gate_by_kind": (gate_by_kind, (rng.random((64, 8192)), rng.integers(-1, 9, 8192), list("abcdefghi"))),
        "massive_activations": (massive_activations, (np.geomspace(1, 1e5, 96), np.full(96, 0.5))),
        "value_norms": (value_norms, (heads_HS, tokens, rows)),
        "received_mass": (received_mass, (heads_HS, tokens, rows)),
        "locality": (locality, (np.arange(2000), long_SR, rows, long_SR)),
        "block_masks": (block_masks, (blocks, blocks, blocks > 0.5, 0.7, 0.5)),
        "hopfield_energy": (
            hopfield_energy,
            (rng.random((400, 400)), range(400), range(400), rng.random((5000, 2)), rng.random((5000, 2))),
        ),
        "hopfield_regimes": (hopfield_regimes, (np.geomspace(0.01, 1e4, 3000), np.full(3000, 2000), range(1, 3001))),
        "tasks_forgotten": (tasks_forgotten, (rng.random((20, 20)),)),
        "joint_attention": (joint_attention, (blocks, blocks, tokens)),
        "paper_beside": (paper_beside, ([f"method {i}" for i in range(99)], rng.random(99), rng.random(99))),
    }


SMALL = {
    "sink_birth": (sink_birth, ([7], [[0.4]])),
    "attention_map": (attention_map, ([[1.0]],)),
    "head_shares": (head_shares, ([], [0.4])),
    "gate_by_kind": (gate_by_kind, ([[0.4]], [0], ["word"])),
    "massive_activations": (massive_activations, ([2.0], [1.0])),
    "value_norms": (value_norms, ([[0.4]],)),
    "received_mass": (received_mass, ([[1.0]],)),
    "locality": (locality, ([7], [[0.7]], (), [[1.1]])),
    "block_masks": (block_masks, ([[1.0]], [[1.0]], [[True]])),
    "hopfield_regimes": (hopfield_regimes, ([1.0], [3.0], [1.0])),
    "tasks_forgotten": (tasks_forgotten, ([[0.9]],)),
    "joint_attention": (joint_attention, ([[0.5]], [[0.1]])),
    "paper_beside": (paper_beside, (["a"], [NAN], [0.5])),
}


def drawn(picture, arguments):
    """The plain picture, made without a warning; plotly takes it, the export makes a table of it, a cursor fits."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        plain = picture.as_dict(*arguments)
    dress(picture(*arguments), "dark")
    table(plain)
    json.dumps(plain["layout"])
    with_cursor(plain, 3.0)
    return plain


def bytes_of(plain):
    arrays = []
    return len(json.dumps(encode(plain["data"], arrays, {}))) + sum(map(len, arrays))


@pytest.mark.parametrize("name", FULL)
def test_a_picture_is_the_same_as_dict_and_figure_and_is_told_in_a_sentence(name):
    picture, arguments = FULL[name]
    plain, figure = drawn(picture, arguments), picture(*arguments)
    assert [one.type for one in figure.data] == [one["type"] for one in plain["data"]]
    assert summary_of(figure) == summary_of(plain)
    assert summary_of(plain).endswith(".") and "nan" not in summary_of(plain).lower()
    json.loads(figure.to_json())


@pytest.mark.parametrize("name", UNKNOWN)
def test_numbers_that_are_all_unknown_break_nothing(name):
    plain = drawn(*UNKNOWN[name])
    assert "nan" not in summary_of(plain).lower()
    assert plain["data"] == [] or name in ("sink_birth", "locality")


@pytest.mark.parametrize("name", SMALL)
def test_one_head_one_layer_and_one_token_are_drawn(name):
    plain = drawn(*SMALL[name])
    assert plain["data"] and "nan" not in summary_of(plain).lower()


def test_many_heads_and_long_texts_stay_light():
    for name, (picture, arguments) in large().items():
        plain = drawn(picture, arguments)
        assert bytes_of(plain) < 260_000, name
        assert plain["layout"]["height"] <= 1700, name
        assert len(summary_of(plain)) < 300, name
        for trace in plain["data"]:
            z = trace.get("z")
            assert z is None or max(np.shape(z)) <= 256, name


@pytest.mark.parametrize("name", FULL)
def test_axes_and_titles_have_words_and_hover_texts_are_sentences_not_bare_numbers(name):
    plain = FULL[name][0].as_dict(*FULL[name][1])
    assert plain["layout"]["title"]["text"]
    titles = [axis["title"]["text"] for key, axis in plain["layout"].items() if key[:5] in ("xaxis", "yaxis")]
    assert any(titles)
    for trace in plain["data"]:
        hover = trace.get("hovertemplate")
        assert trace.get("hoverinfo") == "skip" or re.search(
            r"[a-z]{3}", re.sub(r"%\{[^}]*\}|<extra></extra>", "", hover)
        )


@pytest.mark.parametrize(
    "payload", ["<img src=x onerror=alert(1)>", "%{text}", r"$\href{x}{y}$", "a\x00\u202eb", "&lt;i&gt;"]
)
def test_foreign_names_are_drawn_and_never_parsed(payload):
    names, tokens = [payload, "b", "c"], [payload, payload, "b", "c"]
    pictures = [
        sink_birth.as_dict(STEPS, SHARE, names, payload, title=payload),
        attention_map.as_dict(MAP, tokens, payload),
        head_shares.as_dict(names, SHARE[0], title=payload),
        gate_histogram.as_dict([0.5], payload),
        gate_by_kind.as_dict(torch.rand(1, 3), [0, 1, 2], names, title=payload),
        massive_activations.as_dict([1, 2, 3], [1, 1, 1], names),
        value_norms.as_dict(torch.rand(3, 4), tokens, names),
        received_mass.as_dict(torch.rand(3, 4), tokens, names),
        locality.as_dict(STEPS, SHARE, names, SHARE),
        locality.as_dict(STEPS, np.tile(SHARE, 4), names, np.tile(SHARE, 4)),
        block_masks.as_dict(BLOCKS, BLOCKS, BLOCKS, title=payload),
        hopfield_energy.as_dict(torch.rand(5, 5), GRID, GRID, [[0, 0]], title=payload),
        hopfield_regimes.as_dict([1.0], [1], [1], title=payload),
        tasks_forgotten.as_dict(LEARNT, names),
        joint_attention.as_dict(BLOCKS, BLOCKS, tokens),
        paper_beside.as_dict(names, [1, 2, 3], [1, 2, 3], what=payload),
    ]
    ours = re.compile(r'<br>|<span style="font-size:12px">|</span>|<extra></extra>|%\{(x|y|z|text|customdata)[^}]*\}')
    for picture in pictures:
        for where, text in strings(picture):
            rest = text if where == "name" else ours.sub("", text)
            assert not re.search(r"[<>$\x00\u202e]|%\{", rest), text
            assert "&amp;lt;" not in text or payload.startswith("&lt;"), text
            assert "&amp;amp;" not in text, text


def strings(value, where=""):
    if isinstance(value, str):
        yield where, value
    elif isinstance(value, dict):
        for key, inner in value.items():
            yield from strings(inner, key) if key != "summary" else ()  # it goes to aria-label, which parses nothing
    elif isinstance(value, list | tuple):
        for inner in value:
            yield from strings(inner, where)


# ---- positions -----------------------------------------------------------------------------------------------------


def test_a_long_text_is_cut_into_stretches_and_the_first_token_stays_by_itself():
    ten = stretches(10, most=4)
    assert (ten.every, ten.starts.tolist()) == (4, [0, 1, 4, 8])
    assert ten.names(["BOS"] + ["x"] * 9) == ["0 BOS", "1–3", "4–7", "8–9"]
    values = np.array([9, 1, 5, NAN, 2, 2, 3, 2, NAN, NAN], np.float32)
    np.testing.assert_array_equal(ten.peaks(values), np.array([9, 5, 3, NAN], np.float32))
    np.testing.assert_array_equal(ten.means(values), np.array([9, 3, 2.25, NAN], np.float32))
    assert stretches(128).every == 1 and len(stretches(8192).starts) == 129
    assert stretches(3).names(["a", "a"]) == ["0 a", "1 a", "2"]


def test_the_telling_heads_keep_their_order():
    assert telling(np.array([0.1, NAN, 0.9, 0.5]), 2).tolist() == [2, 3]
    assert telling(np.array([NAN, 0.2]), 5).tolist() == [0, 1]


def test_a_share_is_told_in_words():
    assert [percent(x) for x in (0, 0.004, 0.0996, 0.57, 1, NAN)] == [
        "0%",
        "0.4%",
        "10%",
        "57%",
        "100%",
        "an unknown share",
    ]
