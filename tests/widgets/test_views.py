"""The views without a browser: what is sent, when, and that it decodes to what was shown."""

import gc
import gzip
import hashlib
import json
import time

import numpy as np
import plotly.graph_objects as go
import pytest
import torch
import traitlets
from ipywidgets.widgets.widget import _remove_buffers

from explorer.errors import BadValue
from widgets.figures import load_over_steps
from widgets.views import Chart, Courier, DecisionMap, OwnText, TokenStrip, bundle, framed
from widgets.views.token_strip import UNKNOWN


class Wire:
    """A comm that keeps what a widget sends."""

    kernel = True
    comm_id = "wire"

    def __init__(self, widget):
        self.sent = []
        self.widget = widget
        widget.comm = self
        self.sent.clear()

    def on_msg(self, callback):
        pass

    def send(self, data=None, buffers=None):
        self.sent.append((data, buffers or []))

    def close(self):
        pass

    def frames(self):
        return [data["state"]["frame"]["number"] for data, _ in self.sent if "frame" in data.get("state", {})]

    def answer(self, number, error=""):
        self.widget._heard(self.widget, {"kind": "drawn", "frames": {self.widget.ident: [number, error]}}, [])


@pytest.fixture
def clock(monkeypatch):
    """time.monotonic under our hands."""
    now = [100.0]
    monkeypatch.setattr(framed.time, "monotonic", lambda: now[0])
    return now


def decoded(value, arrays):
    if isinstance(value, dict) and "array" in value and "dtype" in value:
        return np.frombuffer(arrays[value["array"]], value["dtype"]).reshape(value["shape"])
    if isinstance(value, dict):
        return {key: decoded(inner, arrays) for key, inner in value.items()}
    return [decoded(inner, arrays) for inner in value] if isinstance(value, list) else value


def shown(chart):
    return decoded(chart.frame["figure"], chart.frame["arrays"])


# -- one frame in flight ---------------------------------------------------------------------------------------------


def test_one_frame_is_in_flight_and_the_newest_wins(clock):
    chart = Chart()
    wire = Wire(chart)
    for title in "abc":
        chart.show({"data": [], "layout": {"title": {"text": title}}})
    assert wire.frames() == [1] and not chart.ready
    wire.answer(1)
    assert wire.frames() == [1, 3] and not chart.ready
    assert wire.sent[-1][0]["state"]["frame"]["figure"]["layout"]["title"]["text"] == "c"
    wire.answer(3)
    assert wire.frames() == [1, 3] and chart.ready


def test_a_chart_that_nobody_looks_at_never_blocks(clock):
    chart = Chart()
    wire = Wire(chart)
    chart.show({"data": []})
    clock[0] += framed.PATIENCE - 0.1
    chart.show({"data": []})
    assert wire.frames() == [1] and not chart.ready
    clock[0] += 0.2
    assert chart.ready
    chart.show({"data": []})
    assert wire.frames() == [1, 3]


def test_a_page_opened_later_starts_with_the_newest_figure(clock):
    chart = Chart()
    Wire(chart)
    for title in ("sent", "waiting"):
        chart.show({"data": [], "layout": {"title": {"text": title}}})
    assert chart.get_state("frame")["frame"]["figure"]["layout"]["title"]["text"] == "waiting"


def test_a_new_page_that_draws_the_newest_frame_answers_for_all(clock):
    chart = Chart()
    wire = Wire(chart)
    chart.show({"data": []})
    chart.show({"data": []})
    wire.answer(2)
    assert chart.ready and wire.frames() == [1]


def test_answers_of_two_pages_count_once(clock):
    chart = Chart()
    wire = Wire(chart)
    chart.show({"data": []})
    chart.show({"data": []})
    wire.answer(1)
    wire.answer(1)
    assert wire.frames() == [1, 2] and not chart.ready


def test_the_view_reports_what_went_wrong(clock):
    chart = Chart()
    wire = Wire(chart)
    chart.show({"data": []})
    wire.answer(1, error="no canvas")
    assert chart.problem == "no canvas" and chart.last_acknowledged == clock[0]


STRANGE = [None, [], "drawn", {}, {"kind": 3}, *({"kind": "drawn", "frames": f} for f in (None, 1, [], {"": [1]}))]


@pytest.mark.parametrize("message", STRANGE)
def test_a_strange_message_is_ignored(message):
    for view in (Chart(), TokenStrip(), DecisionMap()):
        view._heard(view, message, [])
        assert view.ready


@pytest.mark.parametrize("answer", [None, "1", [], ["1"], {}, [1.5, ""]])
def test_a_strange_answer_counts_as_none(clock, answer):
    chart = Chart()
    wire = Wire(chart)
    chart.show({"data": []})
    chart._heard(chart, {"kind": "drawn", "frames": {chart.ident: answer}}, [])
    assert not chart.ready and wire.frames() == [1]


def test_one_message_answers_for_all_views_of_a_page(clock):
    charts = [Chart(), Chart(), Chart()]
    wires = [Wire(chart) for chart in charts]
    for chart in (*charts, charts[0]):
        chart.show({"data": []})
    answers = {charts[0].ident: [1, ""], charts[1].ident: [1, "late"]}
    charts[2]._heard(charts[2], {"kind": "drawn", "frames": answers}, [])
    assert [chart.ready for chart in charts] == [False, True, False]
    assert [wire.frames() for wire in wires] == [[1, 2], [1], [1]]
    assert charts[1].problem == "late"


def test_views_do_not_live_for_their_answers():
    chart = Chart()
    ident = chart.ident
    chart.close()
    del chart
    gc.collect()
    assert ident not in framed._VIEWS


def test_a_forged_answer_for_the_future_does_not_block(clock):
    chart = Chart()
    wire = Wire(chart)
    chart.show({"data": []})
    wire.answer(10**9)
    chart.show({"data": []})
    assert wire.frames() == [1, 2] and not chart.ready


def test_without_a_kernel_views_can_be_shown_things():
    Chart(go.Figure()).show({"data": []})


# -- charts ----------------------------------------------------------------------------------------------------------


def test_arrays_leave_as_bytes_and_come_back():
    x, z = np.arange(3, dtype=np.int64), np.arange(6, dtype=np.float32).reshape(2, 3)
    chart = Chart(go.Figure([go.Scatter(x=x, y=[0.5, np.nan, 2]), go.Heatmap(z=z)]))
    scatter, heat = shown(chart)["data"]
    np.testing.assert_array_equal(scatter["x"], [0, 1, 2])
    np.testing.assert_array_equal(heat["z"], z)
    assert heat["z"].shape == (2, 3) and heat["z"].dtype == np.float32
    state, _, buffers = _remove_buffers(chart.get_state("frame"))
    assert len(buffers) >= 2
    json.dumps(state, allow_nan=False)


def test_the_dict_and_the_figure_send_the_same_traces():
    arguments = np.arange(4), np.full((4, 3), 1 / 3)
    one, other = Chart(load_over_steps(*arguments)), Chart(load_over_steps.as_dict(*arguments))
    for a, b in zip(shown(one)["data"], shown(other)["data"], strict=True):
        assert a.keys() == b.keys()
        np.testing.assert_array_equal(a["y"], b["y"])
    assert one.frame["summary"] == other.frame["summary"] != ""


def test_an_array_of_several_traces_travels_once():
    x = np.arange(5)
    chart = Chart({"data": [{"x": x, "y": x + 0.5}, {"x": x, "y": x + 0.5}], "layout": {}})
    assert len(chart.frame["arrays"]) == 3


def test_a_frame_is_a_copy_of_what_was_shown():
    y = np.zeros(3)
    chart = Chart({"data": [{"y": y}]})
    y[:] = 9
    np.testing.assert_array_equal(shown(chart)["data"][0]["y"], [0, 0, 0])


@pytest.mark.parametrize(
    "values, dtype",
    [
        (np.array([1, 2], np.int64), "int32"),
        (np.array([2**40], np.int64), "float64"),
        (np.array([1, 2], np.uint64), "int32"),
        (np.array([True, False]), "uint8"),
        (np.array([1, 2], np.float16), "float32"),
        (np.array([1, 2], np.float64), "float64"),
        (np.array([1, 2], ">f4"), "float32"),
        (np.array([], np.int64), "int32"),
        (torch.tensor([1, 2]), "int32"),
        (np.asfortranarray(np.arange(6.0).reshape(2, 3)), "float64"),
        (np.arange(10)[::3], "int32"),
    ],
)
def test_every_kind_of_number_finds_a_typed_array(values, dtype):
    (trace,) = shown(Chart({"data": [{"y": values}]}))["data"]
    np.testing.assert_array_equal(trace["y"], np.asarray(values))
    assert trace["y"].dtype == dtype


def test_what_is_no_number_stays_json():
    odd = {"x": np.array(["a", "b"]), "y": np.zeros((2, 2, 2)), "w": np.float32(1.5), "v": float("nan"), "t": "\ud800"}
    (trace,) = shown(Chart({"data": [odd]}))["data"]
    assert trace["x"] == ["a", "b"] and trace["w"] == 1.5 and trace["v"] is None and trace["t"] == "?"
    assert trace["y"] == np.zeros((2, 2, 2)).tolist()


def test_temporary_arrays_do_not_take_each_others_place():
    y = shown(Chart({"data": [{"y": torch.full((3,), float(i))} for i in range(20)]}))["data"]
    assert [trace["y"][0] for trace in y] == list(range(20))


def test_a_figure_brings_no_template_of_its_own():
    assert "template" not in Chart(go.Figure(layout={"template": "plotly_dark"})).frame["figure"]["layout"]


def test_plotly_is_sent_once_on_request_and_is_the_package_s():
    chart = Chart()
    wire = Wire(chart)
    chart._heard(chart, {"kind": "want-bundle"}, [])
    (data, (packed,)) = wire.sent[0]
    source = gzip.decompress(packed)
    assert data["content"] == {"kind": "bundle", "version": chart.bundle["version"]}
    assert source == bundle.path().read_bytes()
    assert hashlib.sha256(source).hexdigest() == chart.bundle["sha256"]
    assert chart.bundle["version"].encode() in source[:200]
    assert len(packed) < 2_000_000
    chart._heard(chart, {"kind": "have-bundle", "source": "comm"}, [])
    assert chart.bundle_source == "comm"


def test_the_server_says_where_plotly_is(monkeypatch):
    monkeypatch.delenv(bundle.URL_VARIABLE, raising=False)
    assert Chart().bundle_url == ""
    monkeypatch.setenv(bundle.URL_VARIABLE, "/x/voila/plotly/plotly.min.js?v=1")
    assert Chart().bundle_url == "/x/voila/plotly/plotly.min.js?v=1"


def test_a_chart_does_not_carry_plotly():
    state, _, buffers = _remove_buffers(Chart().get_state())
    assert len(json.dumps(state)) + sum(map(len, buffers)) < 40_000


def test_download_asks_the_page():
    chart = Chart()
    wire = Wire(chart)
    chart.download("loss", "svg")
    assert wire.sent[0][0]["content"] == {"kind": "download", "name": "loss", "format": "svg"}


# -- the token strip -------------------------------------------------------------------------------------------------

TOKENS = [["a", " ", "\n"], ["<b>", "\u202e", ""]]
EXPERTS = torch.arange(2 * 2 * 3 * 2).reshape(2, 2, 3, 2) % 5  # L B T K = 2 2 3 2
WEIGHTS = torch.rand(2, 2, 3, 2, generator=torch.Generator().manual_seed(0))
MARGINS = WEIGHTS[..., 0] - WEIGHTS[..., 1].clamp(max=0)


def a_strip(**more):
    strip = TokenStrip()
    strip.show(TOKENS, EXPERTS, WEIGHTS, MARGINS, **more)
    return strip


def test_a_strip_sends_what_it_was_shown():
    frame = a_strip().frame
    assert frame["shape"] == [2, 2, 3, 2]
    np.testing.assert_array_equal(np.frombuffer(frame["experts"], frame["dtype"]).reshape(2, 2, 3, 2), EXPERTS)
    weights = np.frombuffer(frame["weights"], "uint16").reshape(2, 2, 3, 2) * frame["weight_unit"]
    np.testing.assert_allclose(weights, WEIGHTS, atol=1e-5)
    margins = np.frombuffer(frame["margins"], "uint16").reshape(2, 2, 3) * frame["margin_unit"]
    np.testing.assert_allclose(margins, MARGINS, atol=1e-5)


def test_tokens_are_visible_text():
    assert a_strip().tokens == [["a", "·", "⏎"], ["<b>", "\ufffd", "∅"]]


def test_many_experts_need_wider_numbers():
    strip = TokenStrip()
    strip.show([["a"]], [[[[299, -1]]]], [[[[1.0, 0.0]]]])
    assert list(np.frombuffer(strip.frame["experts"], strip.frame["dtype"])) == [299, -1] and strip.n_experts == 300


def test_an_empty_slot_stays_empty():
    experts = EXPERTS.clone()
    experts[0, 1, 2] = -1
    strip = TokenStrip()
    strip.show(TOKENS, experts, WEIGHTS)
    sent = np.frombuffer(strip.frame["experts"], "int8").reshape(2, 2, 3, 2)
    assert (sent[0, 1, 2] == -1).all() and (sent >= 0).sum() == sent.size - 2


def test_without_margins_the_strip_says_that_there_are_none():
    strip = TokenStrip()
    strip.show(TOKENS, EXPERTS, WEIGHTS)
    assert (np.frombuffer(strip.frame["margins"], "uint16") == UNKNOWN).all()
    strip.show(TOKENS, EXPERTS, WEIGHTS, torch.tensor(np.nan).expand(2, 2, 3))
    assert (np.frombuffer(strip.frame["margins"], "uint16") == UNKNOWN).all()


def test_texts_travel_only_when_they_change(clock):
    strip = a_strip(sequence_names=["one", "two"])
    wire = Wire(strip)
    wire.answer(1)
    for _ in range(3):
        strip.show([list(row) for row in TOKENS], EXPERTS, WEIGHTS, MARGINS, sequence_names=["one", "two"])
        wire.answer(strip.frame["number"])
    assert {key for data, _ in wire.sent for key in data["state"]} == {"frame"}
    strip.show([["x", "y", "z"], TOKENS[1]], EXPERTS, WEIGHTS, MARGINS)
    assert "tokens" in {key for data, _ in wire.sent for key in data["state"]}


def test_layers_get_names_and_experts_are_counted():
    strip = a_strip()
    assert strip.names == ["layer 0", "layer 1"] and strip.n_experts == 5
    assert a_strip(n_experts=8, names=["a", "b"]).n_experts == 8


@pytest.mark.parametrize(
    "tokens, experts, weights",
    [
        (TOKENS, EXPERTS[0], WEIGHTS[0]),
        (TOKENS, EXPERTS, WEIGHTS[:1]),
        (TOKENS[:1], EXPERTS, WEIGHTS),
        ([["a"], ["b", "c"]], EXPERTS, WEIGHTS),
    ],
)
def test_shapes_that_do_not_fit_are_named(tokens, experts, weights):
    with pytest.raises(BadValue, match=r"should both be|do not fit"):
        TokenStrip().show(tokens, experts, weights)


def test_the_page_may_select_a_token_and_nothing_else():
    strip = a_strip()
    strip.set_state({"selected": {"layer": 1, "sequence": 0, "position": 2, "more": "x" * 1000}})
    assert strip.selected == {"layer": 1, "sequence": 0, "position": 2}
    strip.set_state({"selected": {"layer": "1"}})
    assert strip.selected == {}


def test_a_full_strip_at_thirty_a_second_is_within_the_budget():
    L, B, T, K = 4, 8, 64, 2
    strip = TokenStrip()
    strip.show([["a"] * T] * B, np.zeros((L, B, T, K), int), np.zeros((L, B, T, K)), np.zeros((L, B, T)))
    _, _, buffers = _remove_buffers(strip.get_state("frame"))
    assert sum(map(len, buffers)) * 30 < 500_000


# -- the decision map ------------------------------------------------------------------------------------------------

GRID = np.array([[0, 1, 1], [0, -1, 1]])
BOUNDS = (-2.0, 2.0, -1.0, 1.0)


def a_map(**more):
    view = DecisionMap()
    view.show(GRID, np.array([[0.0, 0.5, 1], [1, 1, 2]]), [[0.5, -0.5]] * 4, [0, 1, 2, 0], BOUNDS, **more)
    return view


def test_a_map_sends_what_it_was_shown():
    view = a_map(points_expert=[0, 1, 1, -1])
    frame = view.frame
    assert frame["shape"] == [2, 3] and frame["bounds"] == list(BOUNDS)
    np.testing.assert_array_equal(np.frombuffer(frame["experts"], "uint8").reshape(2, 3), [[0, 1, 1], [0, 255, 1]])
    np.testing.assert_allclose(np.frombuffer(frame["margins"], "uint8") / 255 * 2, [0, 0.5, 1, 1, 1, 2], atol=0.005)
    np.testing.assert_array_equal(np.frombuffer(frame["takers"], "uint8"), [0, 1, 1, 255])
    np.testing.assert_array_equal(np.frombuffer(view.points["xy"], "float32").reshape(4, 2), [[0.5, -0.5]] * 4)


def test_a_map_tells_its_shares():
    assert a_map().summary == (
        "Share of the plane taken: expert 1 50%, expert 0 33% and nobody 17%; 4 points are drawn on it."
    )


def test_points_travel_only_when_they_change(clock):
    view = a_map()
    wire = Wire(view)
    wire.answer(1)
    view.show(GRID, np.ones((2, 3)), [[0.5, -0.5]] * 4, [0, 1, 2, 0], BOUNDS)
    assert [set(data["state"]) for data, _ in wire.sent] == [{"frame"}]


def test_a_map_of_nothing_certain_is_drawn():
    view = DecisionMap()
    view.show(GRID, np.full((2, 3), np.nan), np.zeros((0, 2)), np.zeros(0), BOUNDS)
    assert set(np.frombuffer(view.frame["margins"], "uint8")) == {0}


def test_grids_and_points_that_do_not_fit_are_named():
    with pytest.raises(BadValue, match="should both be rows x columns"):
        DecisionMap().show(GRID, np.zeros((3, 2)), np.zeros((1, 2)), [0], BOUNDS)
    with pytest.raises(BadValue, match="N x 2"):
        DecisionMap().show(GRID, np.zeros((2, 3)), np.zeros((4, 2)), [0], BOUNDS)


# -- all views -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("view", [Chart, TokenStrip, DecisionMap])
def test_a_view_s_script_writes_text_never_markup(view):
    script = str(view._esm)
    assert "export default { render }" in script
    markup = ("innerHTML", "outerHTML", "insertAdjacentHTML", "document.write", "eval(")
    leaks = ("document.addEventListener", "window.addEventListener")
    assert not [word for word in markup + leaks if word in script]


def test_a_theme_that_does_not_exist_is_refused():
    with pytest.raises(traitlets.TraitError):
        Chart(theme="sepia")


def test_eight_updates_of_six_charts_cost_less_than_a_tenth_of_a_core(clock):
    load = np.full((150, 8), 1 / 8, np.float32)
    charts = [Chart() for _ in range(6)]
    began = time.process_time()
    for _ in range(8):
        clock[0] += 3  # nobody answers here
        for chart in charts:
            chart.show(load_over_steps.as_dict(np.arange(150), load))
    assert time.process_time() - began < 0.1


@pytest.mark.parametrize("view", [Courier, OwnText])
def test_the_other_scripts_write_text_never_markup(view):
    script = str(view._esm)
    assert "innerHTML" not in script and "eval(" not in script and "addEventListener(" + '"storage"' not in script


# -- saving ----------------------------------------------------------------------------------------------------------


def answers(wire):
    return [(data["content"], buffers) for data, buffers in wire.sent if data.get("method") == "custom"]


def test_the_page_asks_for_the_stamp_which_never_travels_alone():
    chart = Chart()
    wire = Wire(chart)
    chart.stamp = "step 1"
    chart.stamp = "step 2"
    assert wire.sent == []
    chart._heard(chart, {"kind": "want-stamp", "request": "7"}, [])
    assert answers(wire) == [({"kind": "stamp", "request": "7", "stamp": "step 2"}, [])]
    assert chart.get_state("stamp") == {"stamp": "step 2"}


def test_a_table_is_sent_when_the_page_asks():
    for view, first in ((a_strip(), b"token"), (a_map(), b"kind"), (Chart({"data": [{"y": [1]}]}), b"trace")):
        wire = Wire(view)
        view.stamp = "seed 3"
        view._heard(view, {"kind": "export", "format": "csv", "request": "1"}, [])
        ((content, (made,)),) = answers(wire)
        assert content == {"kind": "exported", "request": "1"} and made.startswith(b"# seed 3\n" + first)


@pytest.mark.parametrize("kind", ["exe", "", None, "csv\n"])
def test_a_strange_format_is_answered_with_a_sentence(kind):
    chart = Chart({"data": []})
    wire = Wire(chart)
    chart._heard(chart, {"kind": "export", "format": kind, "request": "1"}, [])
    ((content, buffers),) = answers(wire)
    assert "there are csv and parquet" in content["error"] and buffers == []


def test_a_table_that_fails_is_answered_too(monkeypatch):
    chart = Chart({"data": []})
    wire = Wire(chart)
    monkeypatch.setattr(Chart, "table", lambda self: 1 / 0)
    chart._heard(chart, {"kind": "export", "format": "csv", "request": "1"}, [])
    assert answers(wire)[0][0]["error"] == "Python failed with a ZeroDivisionError."


def test_each_view_offers_what_it_can_make():
    assert [view().saves for view in (Chart, TokenStrip, DecisionMap)] == [
        ["png", "svg", "csv", "parquet"],
        ["csv", "parquet"],
        ["png", "csv"],
    ]
    assert Chart(saves=[]).saves == []


# -- the courier -----------------------------------------------------------------------------------------------------


def test_a_file_leaves_with_its_name_and_kind():
    courier = Courier()
    wire = Wire(courier)
    courier.download("run.csv", b"a,b", "text/csv")
    assert answers(wire) == [({"kind": "download", "name": "run.csv", "media_type": "text/csv"}, [b"a,b"])]


def test_only_the_answer_to_the_newest_request_counts():
    courier = Courier()
    wire = Wire(courier)
    courier.copy_link("seed=1")
    courier.copy("text")
    assert [content.get("query", content.get("text")) for content, _ in answers(wire)] == ["seed=1", "text"]
    for strange in (None, [], {"kind": "copied"}, {"kind": "copied", "request": 1, "ok": True}):
        courier._heard(courier, strange, [])
    assert courier.copied == {}
    courier._heard(courier, {"kind": "copied", "request": 2, "ok": "yes", "link": "text"}, [])
    assert courier.copied == {"link": "text", "ok": False, "number": 2}


def test_a_text_that_is_too_long_to_copy_is_refused():
    with pytest.raises(BadValue, match="too long"):
        Courier().copy("x" * 1_000_001)


# -- own texts -------------------------------------------------------------------------------------------------------

LONG = b"the cat sat on the mat. " * 10


def given(names, contents, **limits):
    """What becomes of texts that a page sends: (the widget, its answer, what the callback got)."""
    own, got = OwnText(**limits), []
    own.on_texts(got.append)
    wire = Wire(own)
    own._heard(own, {"kind": "texts", "names": names}, [memoryview(one) for one in contents])
    return own, answers(wire)[0][0], got


def test_texts_arrive_with_clean_and_distinct_names():
    own, answer, (got,) = given(["a.txt", "a.txt", "<b>\u202e\n"], [LONG, b"\xef\xbb\xbf" + LONG, "ä".encode() * 99])
    assert got == own.texts == [("a.txt", LONG.decode()), ("a.txt (2)", LONG.decode()), ("<b>", "ä" * 99)]
    assert answer == {"kind": "answer", "error": "", "done": "In use: 3 texts, 681 bytes"}


@pytest.mark.parametrize(
    "names, contents, said",
    [
        (["a"], [b"x" * 129], "a has 129 bytes; a text needs at least 130."),
        (["a"], [b"x" * 400_001], "the texts have 400,001 bytes; at most 400,000 can be used."),
        (["a"], [LONG + b"\xff"], "a is not a text file: it is not UTF-8."),
        (["a"], [LONG + b"\0"], "a is not a text file: it holds NUL bytes."),
        (["a"] * 9, [LONG] * 9, "9 texts were sent; at most 8 can be used."),
        (["a", "b"], [LONG], "the page sent no texts, or not as many names as texts."),
        ([], [], "the page sent no texts, or not as many names as texts."),
        (None, [LONG], "the page sent no texts, or not as many names as texts."),
    ],
)
def test_texts_that_cannot_be_used_are_answered_with_a_sentence(names, contents, said):
    own, answer, got = given(names, contents)
    assert answer["error"] == said and answer["done"] == "" and got == [] and own.texts == []


@pytest.mark.parametrize(
    "error, said",
    [
        (BadValue("too few words"), "too few words."),
        (BadValue("half a pair: \ud800"), "half a pair: ?."),  # the whole could not be sent
        (KeyError("x"), "KeyError"),
    ],
)
def test_an_error_of_the_lab_comes_back_to_the_page(error, said):
    own = OwnText()

    def refuse(texts):
        raise error

    own.on_texts(refuse)
    wire = Wire(own)
    own._heard(own, {"kind": "texts", "names": ["a"]}, [LONG])
    assert said in answers(wire)[0][0]["error"] and own.texts == []
