"""Tables: what a picture's numbers look like in a file, and that no text in it becomes a formula."""

import builtins
import io

import numpy as np
import pandas as pd
import plotly.graph_objects as go
import pytest
from hypothesis import given
from hypothesis import strategies as st

from widgets.export import tables
from widgets.figures import balance, load_map, load_over_steps
from widgets.views import Chart, DecisionMap, TokenStrip

STAMP = "topk-softmax · text · seed 0 · step 320"
STEPS = np.arange(3)
LOAD = np.array([[0.25, 0.75], [0.5, 0.5], [1.0, 0.0]], np.float32)


def read(content: bytes, **options) -> pd.DataFrame:
    return pd.read_csv(io.BytesIO(content), skiprows=1, keep_default_na=False, **options)


def a_strip():
    strip = TokenStrip(stamp=STAMP)
    experts = np.array([[[[1, 0], [-1, -1]]], [[[0, 2], [2, -1]]]])  # L B T K = 2 1 2 2
    weights = np.where(experts >= 0, 0.5, 0.0)
    strip.show([["=a", "\n"]], experts, weights, [[[0.25, np.nan]], [[0.5, 0.75]]], sequence_names=["prose"])
    return strip


# -- what is in a table ----------------------------------------------------------------------------------------------


def test_lines_become_one_row_a_point():
    df = tables.table(load_over_steps.as_dict(STEPS, LOAD))
    assert list(df.columns) == ["trace", "x", "y"]
    assert list(df.trace) == ["0"] * 3 + ["1"] * 3
    assert list(df.x) == [0, 1, 2] * 2
    np.testing.assert_array_equal(df.y, LOAD.T.ravel())


def test_a_heat_map_becomes_one_row_a_cell():
    df = tables.table(load_map.as_dict([[0.5, 1.0, 1.5], [0, 1, 2]], ["layer 0", "layer <1>"]))
    assert list(df.columns) == ["row", "column", "value"]
    assert df[df.row == "layer <1>"][["column", "value"]].to_numpy().tolist() == [[0, 0.0], [1, 1.0], [2, 2.0]]


def test_steps_that_a_run_has_not_reached_are_no_rows():
    load = np.full((3, 16), 1 / 16, np.float32)
    df = tables.table(load_over_steps.as_dict(STEPS, load))
    assert len(df) == 3 * 16 and set(df.column) == {0, 1, 2} and df.value.notna().all()


def test_the_figure_and_the_dict_have_the_same_table():
    arguments = STEPS, {"a & b <c> $x$": [0.5, np.nan, 2.0], "-d": [1, 1, 1]}
    one, other = tables.table(balance(*arguments)), tables.table(balance.as_dict(*arguments))
    pd.testing.assert_frame_equal(one, other, check_dtype=False)
    assert set(one.trace) == {"a & b <c> $x$", "-d"} and one.y.isna().sum() == 1


def test_what_the_chart_sent_is_what_its_table_says():
    figure = load_over_steps.as_dict(STEPS, LOAD)
    pd.testing.assert_frame_equal(Chart(figure).table(), tables.table(figure), check_dtype=False)


@pytest.mark.parametrize(
    "trace, columns",
    [
        (go.Bar(x=["a", "b"], y=[1, 2]), ["trace", "x", "y"]),
        (
            go.Scatter(y=[1, 2], text=["<b>p</b>", "q"], error_y={"array": [0.1, 0.2]}),
            ["trace", "x", "y", "text", "y_error"],
        ),
        (go.Pie(labels=["a", "b"], values=[1, 2]), ["trace", "x", "y"]),
    ],
)
def test_other_traces_have_their_columns(trace, columns):
    df = tables.table(go.Figure([trace]))
    assert list(df.columns) == columns and len(df) == 2 and list(df.y) == [1, 2]
    assert "text" not in columns or list(df.text) == ["p", "q"]


def test_nothing_makes_an_empty_table():
    for figure in ({}, {"data": []}, {"data": [{"type": "scatter"}]}, {"data": [{"z": []}]}):
        df = tables.table(figure)
        assert list(df.columns) == ["trace", "x", "y"] and not len(df)
    assert tables.to_csv(tables.table({}), "s") == b"# s\ntrace,x,y\n"
    assert len(TokenStrip().table()) == len(DecisionMap().table()) == len(Chart().table()) == 0


def test_the_strip_tells_every_slot():
    df = a_strip().table()
    assert list(df.columns) == [
        "token",
        "sequence",
        "domain",
        "position",
        "layer",
        "slot",
        "expert",
        "weight",
        "margin",
    ]
    assert len(df) == 2 * 1 * 2 * 2
    first = df.iloc[0].to_dict()
    assert first == {
        "token": "=a", "sequence": 0, "domain": "prose", "position": 0, "layer": "layer 0", "slot": 0, "expert": 1,
        "weight": 0.5, "margin": pytest.approx(0.25, abs=1e-4),
    }  # fmt: skip
    last = df.iloc[-1]
    assert (last.token, last.layer, last.slot, last.expert, last.weight) == ("⏎", "layer 1", 1, -1, 0)
    assert np.isnan(df[(df.layer == "layer 0") & (df.position == 1)].margin).all()


def test_the_map_tells_places_from_the_top_and_points():
    view = DecisionMap()
    view.show([[0, 1], [-1, 1]], [[0, 1], [2, 1]], [[0.5, -0.5]], [1], (-2, 2, -1, 1), [3], label_names=["a", "b"])
    df = view.table()
    assert df.kind.tolist() == ["place"] * 4 + ["point"]
    assert df[["x", "y", "expert"]].to_numpy().tolist() == [
        [-1, 0.5, 0], [1, 0.5, 1], [-1, -0.5, -1], [1, -0.5, 1], [0.5, -0.5, 3],
    ]  # fmt: skip
    assert df.cluster.iloc[4] == "b" and df.margin.iloc[2] == 1


# -- the files -------------------------------------------------------------------------------------------------------


def test_a_csv_begins_with_its_stamp_and_keeps_numbers():
    content = tables.to_csv(pd.DataFrame({"x": [-1.5, 2.0], "n": [-1, 3], "t": ["a", "-"]}), STAMP + "\n=evil")
    lines = content.decode().splitlines()
    assert lines[0] == f"# {STAMP} =evil" and lines[1:] == ["x,n,t", "-1.5,-1,a", "2.0,3,'-"]


def test_without_a_stamp_there_is_no_comment():
    assert tables.to_csv(pd.DataFrame({"x": [1]})) == b"x\n1\n"


FORMULAS = ["=1+1", "+1", "-1", "@SUM(A1)", " =1", "\t=1", "\rx", "\n=1", "'=1", "＝1", "=cmd|' /C calc'!A0"]


@pytest.mark.parametrize("text", FORMULAS)
def test_text_that_looks_like_a_formula_is_guarded(text):
    content = tables.to_csv(pd.DataFrame({"token": [text]}), STAMP)
    (cell,) = read(content, dtype=str).token
    assert cell.startswith("'") and tables.unguarded(cell).splitlines() == text.splitlines()


def test_a_name_of_a_trace_or_a_column_is_guarded_too():
    df = tables.table({"data": [{"name": "=HYPERLINK(1)", "x": [0], "y": [-1]}]}).rename(columns={"y": "=y"})
    assert tables.to_csv(df, "s").decode().splitlines()[1:] == ["trace,x,'=y", "'=HYPERLINK(1),0,-1"]


@given(st.text())
def test_guarding_loses_nothing_and_leaves_no_formula(text):
    guarded = tables.guarded(text)
    assert tables.unguarded(guarded) == text
    assert not guarded.lstrip().startswith(("=", "+", "-", "@"))


def test_a_lone_surrogate_does_not_stop_the_file():
    df = tables.table({"data": [{"name": "a\ud800", "x": ["\ud800"], "y": [1]}]})
    assert tables.to_csv(df, "\ud800").decode().splitlines()[1:] == ["trace,x,y", "a?,?,1"]


def test_parquet_keeps_values_and_stamp():
    pq = pytest.importorskip("pyarrow.parquet")
    df = a_strip().table()
    read_back = pq.read_table(io.BytesIO(tables.to_parquet(df, STAMP)))
    assert read_back.schema.metadata[b"stamp"].decode() == STAMP
    assert read_back.column("token").to_pylist() == list(df.token)  # as it is: Parquet knows no formulas
    assert read_back.column("expert").to_pylist() == list(df.expert)
    assert str(read_back.schema.field("weight").type) == "double"


def test_parquet_of_names_beside_numbers():
    pq = pytest.importorskip("pyarrow.parquet")
    df = tables.table({"data": [{"x": ["a"], "y": [1]}, {"x": [2], "y": [3]}]})
    assert pq.read_table(io.BytesIO(tables.to_parquet(df))).column("x").to_pylist() == ["a", "2"]


def test_without_pyarrow_one_sentence_says_what_to_install(monkeypatch):
    real = builtins.__import__

    def refuse(name, *rest, **more):
        if name.split(".")[0] == "pyarrow":
            raise ImportError(name)
        return real(name, *rest, **more)

    monkeypatch.setattr(builtins, "__import__", refuse)
    with pytest.raises(tables.CannotExport, match="pip install pyarrow"):
        tables.to_parquet(pd.DataFrame({"x": [1]}))
