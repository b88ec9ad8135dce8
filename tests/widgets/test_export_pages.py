"""Recorded pictures and pages of their own: what goes in comes out, and what is damaged is refused."""

import base64
import gzip
import hashlib
import json
import re
import subprocess
import sys

import numpy as np
import pytest

from explorer.errors import BadValue, RecordingError
from widgets.export import frames
from widgets.export.standalone import LARGEST, Heading, Prose, RawHtml, standalone
from widgets.export.tables import CannotExport
from widgets.figures import load_map, load_over_steps
from widgets.views import Chart, DecisionMap, TokenStrip, bundle

STAMP = "switch · clusters · seed 7 · step 12"


def views():
    load = np.full((5, 4), 0.25, np.float32)
    chart = Chart(load_over_steps.as_dict(np.arange(5), load), label="Load", stamp=STAMP)
    strip = TokenStrip(stamp=STAMP)
    strip.show([["a", "</script>"]], [[[[1, 0], [-1, -1]]]], np.zeros((1, 1, 2, 2)), names=["first"], n_experts=4)
    strip.selected = {"layer": 0, "sequence": 0, "position": 1}
    plane = DecisionMap(stamp=STAMP)
    plane.show([[0, 1]], [[0.5, 1.0]], [[0.5, -0.5]], [0], (-2, 2, -1, 1), label_names=["one"])
    return {"load": chart, "strip": strip, "plane": plane}


def fresh():
    return {"load": Chart(), "strip": TokenStrip(), "plane": DecisionMap()}


# -- recorded pictures -----------------------------------------------------------------------------------------------


def test_a_page_is_restored_from_its_file(tmp_path):
    shown, again = views(), fresh()
    frames.save(tmp_path / "page", frames.dump(shown))
    frames.restore(again, frames.load(tmp_path / "page"))
    for name, view in shown.items():
        for trait in ("frame", "label", "stamp", *view.pictured):
            assert getattr(again[name], trait) == getattr(view, trait), (name, trait)


def test_a_restored_view_goes_on_with_new_frames():
    again = fresh()
    frames.restore(again, frames.dump(views()))
    number = again["load"].frame["number"]
    again["load"].show(load_map.as_dict([[1.0]]))
    assert again["load"].frame["number"] == number + 1


def test_the_same_page_makes_the_same_file(tmp_path):
    for name in "ab":
        frames.save(tmp_path / name, frames.dump(views()))
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


def test_names_of_one_side_only_are_left_alone():
    chart = Chart(label="mine")
    frames.restore({"new": chart}, frames.dump(views()))
    assert chart.label == "mine" and chart.frame["number"] == 0


def test_a_view_that_showed_nothing_restores_to_nothing():
    chart = Chart()
    frames.restore({"x": chart}, frames.dump({"x": Chart(label="empty")}))
    assert chart.frame == {"number": 0} and chart.label == "empty"


def test_restoring_needs_no_torch(tmp_path):
    frames.save(tmp_path / "page", frames.dump(views()))
    program = (
        "import sys; from widgets.export import frames; from widgets.views import *\n"
        "v = {'load': Chart(), 'strip': TokenStrip(), 'plane': DecisionMap()}\n"
        f"frames.restore(v, frames.load({str(tmp_path / 'page')!r}))\n"
        "assert v['strip'].frame['number'] and not {'torch', 'pandas', 'pyarrow'} & set(sys.modules), 'imported'"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(
    "content, said",
    [
        (b"", "damaged"),
        (b"PK not gzip", "damaged"),
        (gzip.compress(b"{}", mtime=0)[:-9], "damaged"),
        (gzip.compress(b"nonsense", mtime=0), "damaged"),
        (gzip.compress(b"[" * 100_000, mtime=0), "damaged"),
        (gzip.compress(b"[1]", mtime=0), "should hold a version"),
        (gzip.compress(b'{"version": 1}', mtime=0), "should hold a version"),
        (gzip.compress(b'{"version": 2, "views": {}}', mtime=0), "version 2; this explorer reads version 1"),
        (gzip.compress(b" " * (frames.LARGEST + 1), mtime=0), "more than"),
    ],
)
def test_a_file_that_cannot_be_read_is_named(tmp_path, content, said):
    (tmp_path / "page.frames").write_bytes(content)
    with pytest.raises(RecordingError, match=said):
        frames.load(tmp_path / "page.frames")
    with pytest.raises(RecordingError, match="no file gone"):
        frames.load(tmp_path / "gone")


@pytest.mark.parametrize(
    "change",
    [
        lambda view: view.pop("traits"),
        lambda view: view["traits"].pop("names"),
        lambda view: view["traits"].update(frame=[]),
        lambda view: view["traits"].update(n_experts="many"),
        lambda view: view["traits"].update(names={"base64:": "not base64"}),
        lambda view: view.update({"class": "Chart"}),
    ],
)
def test_a_damaged_view_is_named(change):
    dumped = frames.dump(views())
    change(dumped["views"]["strip"])
    with pytest.raises(RecordingError, match="'strip'"):
        frames.restore(fresh(), dumped)


# -- pages of their own ----------------------------------------------------------------------------------------------


def a_page(**more):
    parts = [Heading("Load & <more>"), Prose("One <script>.\n\nTwo."), *views().values(), RawHtml("<hr>")]
    return standalone("Run <1>", parts, STAMP, **more)


def unpack(page, ident):
    return gzip.decompress(base64.b64decode(re.search(f'id="{ident}">([^<]*)<', page)[1]))


def test_a_page_holds_everything_and_stays_small():
    page = a_page()
    assert len(page.encode()) < 3_000_000 < LARGEST
    assert unpack(page, "library") == bundle.path().read_bytes()
    data = json.loads(unpack(page, "data"))
    assert [view["class"] for view in data["views"]] == ["Chart", "TokenStrip", "DecisionMap"]
    assert [view["traits"]["saves"] for view in data["views"]] == [["png", "svg", "csv"], ["csv"], ["png", "csv"]]
    table = gzip.decompress(base64.b64decode(data["views"][0]["csv"])).decode()
    assert table.startswith(f"# {STAMP}\ntrace,x,y\n")


def test_text_is_escaped_and_raw_html_is_not():
    page = a_page()
    assert "<title>Run &lt;1&gt;</title>" in page and "<h1>Run &lt;1&gt;</h1>" in page
    assert "<h2>Load &amp; &lt;more&gt;</h2>" in page and "<p>One &lt;script&gt;.</p>\n<p>Two.</p>" in page
    assert "<hr>" in page and f"<footer>{STAMP}</footer>" in page


def test_the_policy_names_the_page_s_own_scripts_and_nothing_else():
    page = a_page()
    policy = dict(one.strip().split(" ", 1) for one in re.search('Policy" content="([^"]*)"', page)[1].split(";"))
    boot = re.search(r"<script>(.*)</script>", page, re.DOTALL)[1]
    digests = [hashlib.sha256(source).digest() for source in (boot.encode(), bundle.path().read_bytes())]
    assert policy["default-src"] == "'none'" and "connect-src" not in policy
    assert policy["script-src"].split() == [f"'sha256-{base64.b64encode(digest).decode()}'" for digest in digests]
    assert policy["img-src"] == "data: blob:"


def test_without_a_chart_there_is_no_library():
    page = standalone("Words", [Prose("only"), views()["strip"]], STAMP, theme="dark")
    assert len(page) < 150_000 and 'data-jp-theme-light="false"' in page


def test_what_cannot_be_on_a_page_is_named(monkeypatch):
    with pytest.raises(BadValue, match="theme 'sepia'"):
        a_page(theme="sepia")
    with pytest.raises(BadValue, match="a int cannot be part"):
        standalone("x", [3])
    monkeypatch.setattr("widgets.export.standalone.LARGEST", 1000)
    with pytest.raises(CannotExport, match="leave out a picture"):
        a_page()
